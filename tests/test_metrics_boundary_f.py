"""Boundary F agrees with a slow version, and says what it should of shifts and void."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crispmask.errors import InputError
from crispmask.metrics.boundary_f import BoundaryF, BoundaryFScores
from crispmask.shapes import IGNORE


def score(pred: torch.Tensor, target: torch.Tensor, k: int, tolerance: int) -> BoundaryFScores:
    metric = BoundaryF(k, tolerance=tolerance)
    metric.update(pred, target)
    scores: BoundaryFScores = metric.compute()
    return scores


def slow_outline(mask: torch.Tensor, label: int) -> list[tuple[int, int]]:
    h, w = mask.shape
    points = []
    for y in range(h):
        for x in range(w):
            around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            beside = {int(mask[i, j]) for i, j in around if 0 <= i < h and 0 <= j < w}
            if mask[y, x] == label and beside - {label, IGNORE}:
                points.append((y, x))
    return points


def slow_f(pred: torch.Tensor, target: torch.Tensor, label: int, tolerance: int) -> float:
    said = slow_outline(pred.where(target != IGNORE, IGNORE), label)
    true = slow_outline(target, label)

    def near(points: list[tuple[int, int]], others: list[tuple[int, int]]) -> int:
        return sum(
            any(max(abs(y - i), abs(x - j)) <= tolerance for i, j in others) for y, x in points
        )

    if not said and not true:
        return math.nan
    precision = near(said, true) / len(said) if said else 0
    recall = near(true, said) / len(true) if true else 0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@given(st.integers(0, 2**32), st.integers(0, 2))
@settings(max_examples=15)
def test_it_is_the_slow_version(seed: int, tolerance: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    target = torch.randint(3, (1, 4, 5), generator=rng)
    target = target.repeat_interleave(2, 1).repeat_interleave(2, 2)
    pred = target.where(torch.rand(target.shape, generator=rng) > 0.2, 1)
    target = target.where(torch.rand(target.shape, generator=rng) > 0.1, IGNORE)
    got = score(pred, target, 4, tolerance).f
    want = [slow_f(pred[0], target[0], k, tolerance) for k in range(4)]
    assert got == pytest.approx(want, nan_ok=True)


def test_a_shift_within_the_tolerance_costs_nothing_and_beyond_it_all() -> None:
    target = torch.zeros(1, 20, 20, dtype=torch.long)
    target[:, :, 8:] = 1
    for shift, f in ((0, 1.0), (2, 1.0), (4, 0.0)):
        pred = torch.zeros_like(target)
        pred[:, :, 8 + shift :] = 1
        assert score(pred, target, 2, 2).mean_f == f


def test_void_has_no_outline() -> None:
    target = torch.zeros(1, 10, 10, dtype=torch.long)
    target[:, :, 5:] = IGNORE
    pred = torch.zeros_like(target)
    pred[:, 3:6, 6:8] = 1
    assert math.isnan(score(pred, target, 2, 1).mean_f)


def test_a_tolerance_that_cannot_be() -> None:
    with pytest.raises(InputError, match="at least 0"):
        BoundaryF(2, tolerance=-1)
