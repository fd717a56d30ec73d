"""Calibration: against loops over pixels, torchmetrics and cases worked out by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.classification import MulticlassCalibrationError

from crispmask.errors import InputError
from crispmask.metrics.calibration import CalibrationError, check_probs
from crispmask.shapes import IGNORE


def random_pair(seed: int, *, classes: int, size: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    batch, height, width = size
    logits = 3 * torch.randn(batch, classes, height, width, generator=generator)
    target = torch.randint(classes, size, generator=generator)
    target = torch.where(torch.rand(size, generator=generator) < 0.4, logits.argmax(1), target)
    target[torch.rand(size, generator=generator) < 0.2] = IGNORE
    target[0, 0, 0] = 0  # at least one known pixel
    return logits.softmax(1), target


def two_classes(confidences: list[float]) -> Tensor:
    """Probabilities 1 2 1 w whose top label is class 0."""
    top = torch.tensor(confidences)
    return torch.stack([top, 1 - top])[None, :, None]


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 20))
def test_scores_equal_loops_over_pixels(seed: int, classes: int, bins: int) -> None:
    probs, target = random_pair(seed, classes=classes, size=(2, 5, 4))
    metric = CalibrationError(num_bins=bins)
    metric.update(probs, target)
    scores = metric.compute()

    members: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    brier = 0.0
    pixels = probs.movedim(1, -1).reshape(-1, classes).tolist()
    for row, label in zip(pixels, target.flatten().tolist(), strict=True):
        if label == IGNORE:
            continue
        top = max(row)
        (number,) = [m for m in range(bins) if m / bins < min(top, 1) <= (m + 1) / bins]
        members[number].append((top, row.index(top) == label))
        brier += sum((p - (k == label)) ** 2 for k, p in enumerate(row))
    total = sum(len(group) for group in members)
    ece = sum(abs(sum(p for p, _ in group) - sum(r for _, r in group)) for group in members)
    assert scores.counts == tuple(len(group) for group in members)
    assert scores.ece == pytest.approx(ece / total, abs=1e-6)
    assert scores.brier == pytest.approx(brier / total, rel=1e-5)
    for m, group in enumerate(members):
        confidence = sum(p for p, _ in group) / len(group) if group else math.nan
        accuracy = sum(r for _, r in group) / len(group) if group else math.nan
        assert scores.confidence[m] == pytest.approx(confidence, rel=1e-5, nan_ok=True)
        assert scores.accuracy[m] == pytest.approx(accuracy, nan_ok=True)


def test_agrees_with_torchmetrics_and_torch() -> None:
    probs, target = random_pair(1, classes=7, size=(3, 20, 30))
    ours = CalibrationError()
    ours.update(probs, target)
    scores = ours.compute()
    theirs = MulticlassCalibrationError(7, n_bins=15, norm="l1", ignore_index=IGNORE)
    assert scores.ece == pytest.approx(theirs(probs, target).item(), abs=1e-6)
    nll = F.nll_loss(probs.log(), target, ignore_index=IGNORE).item()
    assert scores.nll == pytest.approx(nll, rel=1e-5)
    assert len(scores.edges) == 16
    assert sum(scores.counts) == int((target != IGNORE).sum())


def test_right_three_times_out_of_four_at_three_quarters_is_calibrated() -> None:
    metric = CalibrationError()
    metric.update(two_classes([0.75] * 4), torch.tensor([[[0, 0, 0, 1]]]))
    scores = metric.compute()
    assert scores.ece == pytest.approx(0, abs=1e-7)
    assert scores.brier == pytest.approx((3 * 2 * 0.25**2 + 2 * 0.75**2) / 4)
    metric.reset()
    metric.update(two_classes([0.75] * 4), torch.tensor([[[0, 1, 1, 1]]]))
    assert metric.compute().ece == pytest.approx(0.5)


def test_gaps_of_two_bins_do_not_cancel() -> None:
    metric = CalibrationError(num_bins=10)
    metric.update(two_classes([0.65, 0.95]), torch.tensor([[[0, 1]]]))
    assert metric.compute().ece == pytest.approx((0.35 + 0.95) / 2)


def test_certain_and_wrong_is_one_and_its_likelihood_finite() -> None:
    metric = CalibrationError()
    metric.update(two_classes([1.0, 1.0]), torch.tensor([[[1, 1]]]))
    scores = metric.compute()
    assert (scores.ece, scores.brier) == (1, 2)
    assert scores.nll == pytest.approx(-math.log(1e-12), rel=1e-6)


def test_an_edge_belongs_to_the_bin_below_it() -> None:
    metric = CalibrationError(num_bins=4)
    metric.update(two_classes([0.5, 0.75, 1.0]), torch.tensor([[[0, 0, 0]]]))
    assert metric.compute().counts == (0, 1, 1, 1)


def test_a_tie_is_not_right_for_both_labels() -> None:
    metric = CalibrationError()
    metric.update(two_classes([0.5, 0.5]), torch.tensor([[[0, 1]]]))
    assert metric.compute().ece == 0  # confidence one half, right once out of two


def test_ignored_pixels_do_not_count_and_batches_add_up() -> None:
    probs, target = random_pair(2, classes=3, size=(4, 6, 5))
    other = torch.where((target == IGNORE)[:, None], probs.roll(1, 1), probs)
    whole, left, right = (CalibrationError() for _ in range(3))
    whole.update(probs, target)
    left.update(other[:1], target[:1])
    right.update(other[1:], target[1:])
    left.merge_state(right)
    assert left.counts.tolist() == whole.counts.tolist()
    for name in ("ece", "nll", "brier"):
        assert getattr(left.compute(), name) == pytest.approx(getattr(whole.compute(), name))


def test_half_precision_is_accepted() -> None:
    probs, target = random_pair(3, classes=5, size=(1, 16, 16))
    full, half = CalibrationError(), CalibrationError()
    full.update(probs, target)
    half.update(probs.bfloat16(), target)
    assert half.compute().ece == pytest.approx(full.compute().ece, abs=0.02)


def test_nothing_known_is_nan() -> None:
    metric = CalibrationError()
    metric.update(two_classes([0.9]), torch.tensor([[[IGNORE]]]))
    assert math.isnan(metric.compute().ece)


def test_what_are_not_probabilities_is_refused() -> None:
    target = torch.zeros(1, 1, 2, dtype=torch.int64)
    metric = CalibrationError()
    with pytest.raises(InputError, match=r"sum to one .* use logits.softmax"):
        metric.update(torch.ones(1, 2, 1, 2), target)
    with pytest.raises(InputError, match="sum to one"):
        metric.update(torch.full((1, 2, 1, 2), math.nan), target)
    with pytest.raises(InputError, match="target must lie in 0 to 1, got 0 to 2"):
        metric.update(two_classes([0.9, 0.9]), torch.tensor([[[0, 2]]]))
    with pytest.raises(InputError, match=r"one size, got \(1, 2, 1, 2\) and \(1, 1, 3\)"):
        check_probs(two_classes([0.9, 0.9]), torch.zeros(1, 1, 3, dtype=torch.int64))
    with pytest.raises(InputError, match="at least 1 bin, got 0"):
        CalibrationError(num_bins=0)
    assert metric.counts.sum() == 0
