"""Boundary IoU: bit-equal to eroding each class by itself, as scipy does it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion
from torch import Tensor

from crispmask.errors import InputError
from crispmask.metrics.boundary import BoundaryIoU, boundary_map, ratio_to_width
from crispmask.shapes import IGNORE


def blocky_mask(seed: int, *, classes: int, size: tuple[int, int, int], void: bool) -> Tensor:
    """Rectangles of labels and a few single pixels, so that some windows are constant."""
    rng = np.random.default_rng(seed)
    mask = np.full(size, rng.integers(classes))
    labels = [*range(classes), IGNORE] if void else [*range(classes)]
    for image in mask:
        for _ in range(rng.integers(6)):
            top, left = rng.integers(size[1]), rng.integers(size[2])
            height, width = rng.integers(1, 1 + max(size[1:]), 2)
            image[top : top + height, left : left + width] = rng.choice(labels)
        if rng.random() < 0.5:
            image[rng.integers(size[1]), rng.integers(size[2])] = rng.choice(labels)
    return torch.from_numpy(mask).long()


def slow_band(region: np.ndarray, width: int) -> np.ndarray:
    """A region (h w) minus its erosion by a 3x3 square, ``width`` times, zeros outside."""
    square = np.ones((3, 3), dtype=bool)
    eroded = binary_erosion(region, square, iterations=width, border_value=0)
    return np.asarray(region & ~eroded)


def slow_counts(
    pred: Tensor, target: Tensor, classes: int, width: int
) -> tuple[list[int], list[int]]:
    intersection, union = [0] * classes, [0] * classes
    for p, t in zip(pred.numpy(), target.numpy(), strict=True):
        known = t != IGNORE
        for label in range(classes):
            first, second = slow_band(p == label, width), slow_band(t == label, width)
            intersection[label] += int((first & second & known).sum())
            union[label] += int(((first | second) & known).sum())
    return intersection, union


sizes = st.tuples(st.just(2), st.integers(1, 24), st.integers(1, 24))


@given(st.integers(0, 10_000), st.integers(1, 4), sizes, st.integers(1, 8))
@example(0, 1, (1, 3, 3), 1)  # one pixel inside
@example(0, 1, (1, 2, 24), 1)  # no window fits
@example(5, 3, (2, 24, 17), 8)  # a window as long as the image
def test_map_is_every_class_minus_its_erosion(
    seed: int, classes: int, size: tuple[int, int, int], width: int
) -> None:
    mask = blocky_mask(seed, classes=classes, size=size, void=True)
    boundary = boundary_map(mask, width)
    for image, found in zip(mask.numpy(), boundary.numpy(), strict=True):
        for label in np.unique(image):
            np.testing.assert_array_equal(
                found & (image == label), slow_band(image == label, width)
            )


@given(st.integers(0, 10_000), st.integers(1, 5), sizes, st.integers(1, 6))
def test_scores_equal_erosion_of_every_class(
    seed: int, classes: int, size: tuple[int, int, int], width: int
) -> None:
    target = blocky_mask(seed, classes=classes, size=size, void=True)
    pred = blocky_mask(seed + 1, classes=classes, size=size, void=False)
    pred = torch.where((torch.arange(size[2]) % 7 < 5) & (target != IGNORE), target, pred)
    metric = BoundaryIoU(classes, width=width)
    metric.update(pred, target)
    intersection, union = slow_counts(pred, target, classes, width)
    assert metric.intersection.tolist() == intersection
    assert metric.union.tolist() == union
    with np.errstate(invalid="ignore"):
        biou = np.array(intersection) / np.array(union)
    scores = metric.compute()
    np.testing.assert_array_equal(scores.biou, biou)  # to the bit, NaN where absent
    if any(union):
        assert scores.mbiou == pytest.approx(float(np.nanmean(biou)))
    else:
        assert math.isnan(scores.mbiou)


def test_a_larger_pair_at_two_percent_of_the_diagonal() -> None:
    target = blocky_mask(7, classes=6, size=(1, 180, 240), void=True)
    pred = target.roll((2, 3), (1, 2))
    pred[pred == IGNORE] = 0
    metric = BoundaryIoU(6)
    metric.update(pred, target)
    intersection, union = slow_counts(pred, target, 6, width=6)  # 0.02 * 300
    assert (metric.intersection.tolist(), metric.union.tolist()) == (intersection, union)
    assert 0 < metric.compute().mbiou < 1


def test_band_of_a_square_by_hand() -> None:
    target = torch.zeros(1, 12, 12, dtype=torch.int64)
    target[:, 3:9, 3:9] = 1  # its band of width 1: 36 - 16 pixels
    pred = target.roll(1, 2)
    metric = BoundaryIoU(2, width=1)
    metric.update(pred, target)
    # Two rings of a 6x6 square, one column apart: 5 shared pixels in the top row, 5 in the bottom.
    assert metric.compute().biou[1] == 10 / 30


def test_equal_masks_score_one_and_ignored_ones_nothing() -> None:
    mask = blocky_mask(3, classes=4, size=(2, 20, 20), void=False)
    metric = BoundaryIoU(4, width=2)
    metric.update(mask, mask)
    assert metric.compute().mbiou == 1
    metric.reset()
    metric.update(mask, torch.full_like(mask, IGNORE))
    assert metric.union.sum() == 0
    assert math.isnan(metric.compute().mbiou)


def test_edge_of_the_image_is_a_boundary() -> None:
    mask = torch.zeros(1, 7, 9, dtype=torch.int64)
    boundary = boundary_map(mask, 2)
    assert not boundary[:, 2:-2, 2:-2].any()
    assert boundary.sum() == 7 * 9 - 3 * 5
    assert boundary_map(mask[:, :1, :1], 1).all()  # an image of one pixel


def test_images_of_different_size_add_up_each_with_its_own_width() -> None:
    metric = BoundaryIoU(3, ratio=0.1)
    intersection, union = np.zeros(3, int), np.zeros(3, int)
    for seed, size, width in [(0, (1, 30, 40), 5), (1, (1, 6, 8), 1), (2, (1, 18, 24), 3)]:
        target = blocky_mask(seed, classes=3, size=size, void=True)
        pred = blocky_mask(seed + 10, classes=3, size=size, void=False)
        metric.update(pred, target)
        more = slow_counts(pred, target, 3, width)
        intersection, union = intersection + more[0], union + more[1]
    assert metric.intersection.tolist() == intersection.tolist()
    assert metric.union.tolist() == union.tolist()


def test_processes_add_up() -> None:
    target = blocky_mask(4, classes=3, size=(4, 9, 11), void=True)
    pred = blocky_mask(5, classes=3, size=(4, 9, 11), void=False)
    whole, left, right = (BoundaryIoU(3, width=1) for _ in range(3))
    whole.update(pred, target)
    left.update(pred[:1], target[:1])
    right.update(pred[1:], target[1:])
    left.merge_state(right)
    assert left.intersection.tolist() == whole.intersection.tolist()
    assert left.union.tolist() == whole.union.tolist()


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(360, 480, 12), (512, 683, 17), (1024, 2048, 46), (1, 1, 1)]
)
def test_two_percent_of_the_diagonal(height: int, width: int, expected: int) -> None:
    assert ratio_to_width(0.02, height, width) == expected


def test_width_takes_the_place_of_the_ratio() -> None:
    mask = blocky_mask(8, classes=3, size=(1, 40, 40), void=False)
    pred = mask.roll(1, 1)
    with_both, with_width = BoundaryIoU(3, ratio=0.2, width=2), BoundaryIoU(3, ratio=None, width=2)
    for metric in (with_both, with_width):
        metric.update(pred, mask)
    assert with_both.union.tolist() == with_width.union.tolist()


def test_contradictory_settings_and_bad_labels_are_refused() -> None:
    with pytest.raises(InputError, match="needs a ratio above 0 or a width, got ratio=None"):
        BoundaryIoU(3, ratio=None)
    with pytest.raises(InputError, match="at least 1 pixel, got 0"):
        BoundaryIoU(3, width=0)
    mask = torch.full((1, 3, 3), 3)
    with pytest.raises(InputError, match="prediction must lie in 0 to 2"):
        BoundaryIoU(3).update(mask, torch.zeros_like(mask))
