"""Confusion matrix: against loops over pixels and against torchmetrics."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from crispmask.errors import InputError
from crispmask.metrics.confusion import ConfusionMatrix, check_masks
from crispmask.shapes import IGNORE


def random_pair(seed: int, *, classes: int, size: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pred = torch.randint(classes, size, generator=generator)
    target = torch.randint(classes, size, generator=generator)
    target[torch.rand(size, generator=generator) < 0.2] = IGNORE
    return pred, target


def slow_iou_and_dice(
    pred: Tensor, target: Tensor, classes: int
) -> tuple[list[Fraction | None], list[Fraction | None]]:
    pairs = [
        (p, t)
        for p, t in zip(pred.flatten().tolist(), target.flatten().tolist(), strict=True)
        if t != IGNORE
    ]
    iou: list[Fraction | None] = []
    dice: list[Fraction | None] = []
    for label in range(classes):
        both = sum(p == t == label for p, t in pairs)
        either = sum(label in pair for pair in pairs)
        iou.append(Fraction(both, either) if either else None)
        dice.append(Fraction(2 * both, either + both) if either else None)
    return iou, dice


def same(values: tuple[float, ...], expected: list[Fraction | None]) -> bool:
    return len(values) == len(expected) and all(
        math.isnan(value) if fraction is None else value == pytest.approx(float(fraction))
        for value, fraction in zip(values, expected, strict=True)
    )


@given(st.integers(0, 10_000), st.integers(1, 7), st.integers(1, 6), st.integers(1, 6))
def test_scores_equal_loops_over_pixels(seed: int, classes: int, height: int, width: int) -> None:
    pred, target = random_pair(seed, classes=classes, size=(2, height, width))
    target[0, 0, 0] = 0  # at least one known pixel
    metric = ConfusionMatrix(classes)
    metric.update(pred, target)
    scores = metric.compute()
    iou, dice = slow_iou_and_dice(pred, target, classes)
    assert same(scores.iou, iou)
    assert same(scores.dice, dice)
    present = [value for value in iou if value is not None]
    assert scores.miou == pytest.approx(float(sum(present) / len(present)))
    known = target != IGNORE
    assert scores.accuracy == pytest.approx((pred == target)[known].double().mean().item())
    weighted = sum(iou[label] or 0 for label in target[known].tolist())
    assert scores.fw_iou == pytest.approx(float(weighted / int(known.sum())))
    for label, recall in enumerate(scores.class_accuracy):
        expected = (pred == label)[target == label].double().mean().item()
        assert recall == pytest.approx(expected, nan_ok=True)


def test_counts_equal_torchmetrics() -> None:
    pred, target = random_pair(1, classes=5, size=(3, 17, 9))
    ours = ConfusionMatrix(5)
    theirs = MulticlassConfusionMatrix(5, ignore_index=IGNORE)
    for i in range(3):
        ours.update(pred[i : i + 1], target[i : i + 1])
    theirs.update(pred, target)
    assert torch.equal(ours.counts, theirs.compute())


def test_class_absent_from_truth_and_prediction_does_not_enter_the_mean() -> None:
    metric = ConfusionMatrix(3)
    metric.update(torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 1, 1, 1]]]))
    scores = metric.compute()
    assert scores.iou[:2] == (1 / 2, 2 / 3)
    assert math.isnan(scores.iou[2])
    assert math.isnan(scores.class_accuracy[2])
    assert scores.miou == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_class_that_is_only_predicted_scores_zero() -> None:
    metric = ConfusionMatrix(2)
    metric.update(torch.tensor([[[0, 1]]]), torch.tensor([[[0, 0]]]))
    scores = metric.compute()
    assert scores.miou == 1 / 4
    assert scores.iou == (1 / 2, 0.0)


def test_miou_comes_from_totals_not_from_the_mean_over_images() -> None:
    metric = ConfusionMatrix(2)
    metric.update(torch.zeros(1, 1, 1, dtype=torch.int64), torch.zeros(1, 1, 1, dtype=torch.int64))
    metric.update(torch.zeros(1, 1, 9, dtype=torch.int64), torch.ones(1, 1, 9, dtype=torch.int64))
    assert metric.compute().iou == (1 / 10, 0.0)  # images alone: 1 and NaN, 0 and 0


def test_ignored_pixels_do_not_count_whatever_is_predicted() -> None:
    pred, target = random_pair(2, classes=4, size=(1, 8, 8))
    other = torch.where(target == IGNORE, (pred + 1) % 4, pred)
    first, second = ConfusionMatrix(4), ConfusionMatrix(4)
    first.update(pred, target)
    second.update(other, target)
    assert torch.equal(first.counts, second.counts)
    assert first.counts.sum() == (target != IGNORE).sum()


def test_processes_add_up() -> None:
    pred, target = random_pair(3, classes=3, size=(4, 5, 6))
    whole, left, right = (ConfusionMatrix(3) for _ in range(3))
    whole.update(pred, target)
    left.update(pred[:1], target[:1])
    right.update(pred[1:], target[1:])
    left.merge_state(right)
    assert torch.equal(left.counts, whole.counts)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_reset_forgets_and_nothing_counted_is_nan() -> None:
    metric = ConfusionMatrix(2)
    metric.update(torch.tensor([[[0]]]), torch.tensor([[[0]]]))
    metric.reset()
    assert math.isnan(metric.compute().miou)
    metric.update(torch.tensor([[[0]]]), torch.tensor([[[IGNORE]]]))
    scores = metric.compute()
    assert math.isnan(scores.accuracy)
    assert math.isnan(scores.fw_iou)


def test_labels_outside_the_classes_are_refused() -> None:
    fine = torch.zeros(1, 2, 2, dtype=torch.int64)
    metric = ConfusionMatrix(3)
    with pytest.raises(InputError, match="prediction must lie in 0 to 2, got 0 to 3"):
        metric.update(torch.tensor([[[0, 3], [0, 0]]]), fine)
    with pytest.raises(InputError, match="target must lie in 0 to 2, got -1 to 0"):
        metric.update(fine, torch.tensor([[[0, -1], [0, 0]]]))
    assert metric.counts.sum() == 0


def test_other_sizes_and_types_are_refused() -> None:
    fine = torch.zeros(1, 2, 2, dtype=torch.int64)
    with pytest.raises(InputError, match=r"one shape .* got \(1, 2, 2\) and \(1, 2, 3\)"):
        check_masks(fine, torch.zeros(1, 2, 3, dtype=torch.int64), 3)
    with pytest.raises(InputError, match=r"prediction must be int64 .* got torch.uint8"):
        check_masks(fine.to(torch.uint8), fine, 3)
