"""Boundary IoU: how well the outlines fit, whatever the size of the objects."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torchmetrics import Metric

from crispmask.errors import InputError
from crispmask.metrics.confusion import check_masks, pair_counts
from crispmask.shapes import IGNORE, Mask


@dataclass(kw_only=True)  # not frozen: torchmetrics rebuilds what `compute` returns field by field
class BoundaryScores:
    """Boundary IoU as fractions in [0, 1].

    Attributes:
        mbiou: mean of ``biou`` over the classes that have a boundary in truth or prediction.
        biou: boundary IoU per class, NaN for a class without any boundary pixel.
    """

    mbiou: float
    biou: tuple[float, ...]


class BoundaryIoU(Metric):
    """IoU of the inner boundary bands of each class, summed over a data set.

    A class's band is its region minus the region eroded ``d`` times by a 3x3 square, with zeros
    outside the image: its pixels within ``d`` of another label or of the image's edge (Cheng et
    al. 2021, "Boundary IoU", eq. 1, with the square in place of the disc, as its code has it).
    Intersections and unions of the bands are summed over the data set, then divided.

    Pixels whose target is `IGNORE` count in no band. They do have borders: true labels next to
    unknown pixels are in a band, as in the code of DDPS (Lai et al. 2023), which differs in one
    point: there, predicted bands inside the unknown region add to the union.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    intersection: Tensor  # k
    union: Tensor  # k

    def __init__(
        self,
        num_classes: int,
        *,
        ratio: float | None = 0.02,
        width: int | None = None,
        **torchmetrics_options: Any,
    ) -> None:
        """Start with nothing counted.

        Args:
            num_classes: number of classes.
            ratio: width of a band as a share of each image's diagonal, at least one pixel.
            width: width of a band in pixels; takes the place of ``ratio``.
            torchmetrics_options: passed on to `torchmetrics.Metric`.
        """
        super().__init__(**torchmetrics_options)
        if width is None and (ratio is None or ratio <= 0):
            raise InputError(f"a boundary needs a ratio above 0 or a width, got ratio={ratio}.")
        if width is not None and width < 1:
            raise InputError(f"the width of a boundary must be at least 1 pixel, got {width}.")
        self.num_classes = num_classes
        self.ratio = ratio
        self.width = width
        for name in ("intersection", "union"):
            zeros = torch.zeros(num_classes, dtype=torch.int64)
            self.add_state(name, zeros, dist_reduce_fx="sum")

    def update(self, pred: Mask, target: Mask) -> None:
        """Add a batch of any size.

        Raises:
            InputError: if the two do not have one size, or a label is not a class.
        """
        check_masks(pred, target, self.num_classes)
        width = self.width or ratio_to_width(self.ratio or 0, *target.shape[1:])
        pred, target = pred.int(), target.int()  # half the memory to walk through
        # A confusion matrix of the bands, with "not in a band" as one more class.
        rest = self.num_classes
        counts = pair_counts(
            torch.where(boundary_map(pred, width), pred, rest),
            torch.where(boundary_map(target, width), target, rest),
            self.num_classes + 1,
            valid=target != IGNORE,
        )
        hit = counts.diag()
        self.intersection += hit[:rest]
        self.union += (counts.sum(0) + counts.sum(1) - hit)[:rest]

    def compute(self) -> BoundaryScores:
        """Scores of everything added so far; NaN where nothing was."""
        biou = self.intersection.double() / self.union  # 0 / 0 is NaN: absent
        return BoundaryScores(mbiou=biou.nanmean().item(), biou=tuple(biou.tolist()))


def ratio_to_width(ratio: float, height: int, width: int) -> int:
    """Width in pixels of a band that takes up ``ratio`` of the image's diagonal, at least 1."""
    return max(1, round(ratio * math.hypot(height, width)))


def boundary_map(mask: Int[Tensor, "b h w"], width: int) -> Bool[Tensor, "b h w"]:
    """Pixels within ``width`` (Chebyshev distance) of another label or of the image's edge.

    One map holds the boundaries of all classes: a pixel survives ``width`` erosions of its class
    exactly if the window of side ``2 width + 1`` around it lies in the image and has one label.
    Such a window has one label exactly if each of its 2x2 blocks has, so it is enough to look
    for a mixed block, first along columns, then along rows. And a block has one label if its
    upper row and its two columns have.
    """
    height, length = mask.shape[1:]
    boundary = torch.ones_like(mask, dtype=torch.bool)
    if min(height, length) > 2 * width:
        down = mask[:, 1:] != mask[:, :-1]  # b h-1 w
        right = mask[:, :-1, 1:] != mask[:, :-1, :-1]  # b h-1 w-1
        mixed = right | down[:, :, :-1] | down[:, :, 1:]  # b h-1 w-1
        mixed = _any_of_next(_any_of_next(mixed, 2 * width, 1), 2 * width, 2)
        boundary[:, width : height - width, width : length - width] = mixed
    return boundary


def _any_of_next(flags: Bool[Tensor, "b h w"], count: int, dim: int) -> Bool[Tensor, "b _ _"]:
    """Whether any of ``count`` neighbours from here on is set, in ``log2(count)`` passes."""
    seen = 1
    while seen < count:
        step = min(seen, count - seen)
        size = flags.shape[dim] - step
        flags = flags.narrow(dim, 0, size) | flags.narrow(dim, step, size)
        seen += step
    return flags
