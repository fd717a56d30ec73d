"""Risk and coverage: against sorting all pixels, and cases worked out by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from crispmask.errors import InputError
from crispmask.metrics.risk_coverage import RiskCoverage, RiskCoverageScores
from crispmask.shapes import IGNORE


def scores(confidence: list[float], right: list[bool], *, points: int = 40) -> RiskCoverageScores:
    """Of pixels in one line, all predicted as class 0."""
    target = torch.tensor([[[0 if r else 1 for r in right]]])
    metric = RiskCoverage(2, points=points)
    metric.update(torch.tensor([[confidence]]), torch.zeros_like(target), target)
    result = metric.compute()
    assert isinstance(result, RiskCoverageScores)
    return result


def sorted_risks(confidence: list[float], right: list[bool]) -> list[float]:
    """Error rate of the n most certain pixels for each n, ties averaged over their orders."""
    groups: dict[float, list[bool]] = {}
    for c, r in zip(confidence, right, strict=True):
        groups.setdefault(c, []).append(not r)
    risks: list[float] = []
    errors, kept = 0.0, 0
    for c in sorted(groups, reverse=True):
        rate = sum(groups[c]) / len(groups[c])
        risks += [(errors + rate * i) / (kept + i) for i in range(1, len(groups[c]) + 1)]
        errors, kept = errors + sum(groups[c]), kept + len(groups[c])
    return risks


LEVELS = [0.0, 0.3, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0]  # far enough apart for a bin each


@given(st.lists(st.tuples(st.sampled_from(LEVELS), st.booleans()), min_size=1, max_size=40))
def test_the_curve_is_the_one_of_sorted_pixels(pixels: list[tuple[float, bool]]) -> None:
    confidence, right = [c for c, _ in pixels], [r for _, r in pixels]
    got = scores(confidence, right, points=len(pixels))
    want = sorted_risks(confidence, right)
    assert got.risk == pytest.approx(want, abs=1e-12)
    assert got.coverage[-1] == 1


@given(st.lists(st.tuples(st.sampled_from(LEVELS), st.booleans()), min_size=1, max_size=40))
def test_the_area_is_that_under_the_curve(pixels: list[tuple[float, bool]]) -> None:
    confidence, right = [c for c, _ in pixels], [r for _, r in pixels]
    fine = scores(confidence, right, points=2000)
    assert fine.aurc == pytest.approx(np.mean(fine.risk), abs=2e-3)


def test_many_pixels_of_any_confidence_agree_with_sorting_them() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.beta(5, 1, 20_000).astype(np.float32)
    right = rng.random(20_000) < confidence
    got = scores(confidence.tolist(), right.tolist())
    order = np.argsort(-confidence, kind="stable")
    risk = (~right[order]).cumsum() / np.arange(1, 20_001)
    assert got.aurc == pytest.approx(risk.mean(), abs=1e-3)
    np.testing.assert_allclose(got.risk, risk[499::500], atol=2e-3)


def test_by_hand() -> None:
    best = scores([0.9, 0.8, 0.7, 0.6], [True, True, False, False], points=4)
    assert best.risk == pytest.approx((0, 0, 1 / 3, 1 / 2))
    # the errors grow as c - 1/2: integral of 1 - 1 / (2 c) from 1/2 to 1
    assert best.aurc == pytest.approx(1 / 2 - math.log(2) / 2)
    worst = scores([0.6, 0.7, 0.8, 0.9], [True, True, False, False], points=4)
    assert worst.aurc > best.aurc
    assert scores([0.7] * 4, [True, False, True, False]).aurc == pytest.approx(0.5)


def test_bins_tell_large_confidences_apart() -> None:
    assert scores([0.99999, 0.9999], [True, False], points=2).risk == (0, 0.5)


def random_batch(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    confidence = torch.rand(3, 6, 7, generator=rng)
    pred, target = (torch.randint(4, (3, 6, 7), generator=rng) for _ in range(2))
    target[torch.rand(3, 6, 7, generator=rng) < 0.3] = IGNORE
    return confidence, pred, target


def test_ignored_pixels_do_not_count_and_batches_add_up() -> None:
    confidence, pred, target = random_batch(0)
    changed = torch.where(target == IGNORE, 1 - confidence, confidence)
    whole, left, right = (RiskCoverage(4) for _ in range(3))
    whole.update(confidence, pred, target)
    left.update(changed[:1], pred[:1], target[:1])
    right.update(changed[1:], pred[1:], target[1:])
    left.merge_state(right)
    assert left.counts.tolist() == whole.counts.tolist()
    assert int(whole.counts.sum()) == int((target != IGNORE).sum())
    assert left.compute() == whole.compute()
    known = target != IGNORE
    risk = (pred != target)[known].double().mean().item()
    assert whole.compute().risk[-1] == pytest.approx(risk)


def test_nothing_known_is_nan() -> None:
    metric = RiskCoverage(2, points=3)
    blank = torch.full((1, 2, 2), IGNORE)
    metric.update(torch.ones(1, 2, 2), torch.zeros_like(blank), blank)
    result = metric.compute()
    assert math.isnan(result.aurc)
    assert all(math.isnan(risk) for risk in result.risk)


def test_what_is_no_confidence_is_refused() -> None:
    confidence, pred, target = random_batch(1)
    metric = RiskCoverage(4)
    with pytest.raises(InputError, match=r"must lie in \[0, 1\], got -1 to 0"):
        metric.update(torch.zeros_like(confidence) - (pred > 1).float(), pred, target)
    with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
        metric.update(confidence * math.nan, pred, target)
    with pytest.raises(InputError, match=r"one size, got \(2, 6, 7\) and \(3, 6, 7\)"):
        metric.update(confidence[:2], pred, target)
    with pytest.raises(InputError, match="at least 1 bin and 1 point, got 0 and 40"):
        RiskCoverage(4, num_bins=0)
    assert metric.counts.sum() == 0
