"""Boundary F: which share of the outlines is where it should be."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from crispmask.errors import InputError
from crispmask.metrics.confusion import check_masks
from crispmask.shapes import IGNORE, Mask


@dataclass(kw_only=True)  # not frozen: torchmetrics rebuilds what `compute` returns field by field
class BoundaryFScores:
    """Boundary F as fractions in [0, 1].

    Attributes:
        mean_f: mean of ``f`` over the classes that have an outline in truth or prediction.
        f: harmonic mean of precision and recall per class, NaN for a class without any outline.
    """

    mean_f: float
    f: tuple[float, ...]


class BoundaryF(Metric):
    """F measure of the outlines of each class within a tolerance, summed over a data set.

    The outline of a class is its pixels with a neighbour (above, below, left or right) of another
    label inside the image. Precision is the share of the predicted outline within ``tolerance``
    pixels (Chebyshev distance) of the true one, recall the reverse (Martin et al. 2004; per class
    as in Csurka et al. 2013, but with the pixels of all images counted together). Pixels whose
    target is `IGNORE` count in neither, and next to them there is no outline.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    counts: Tensor  # 4 k: predicted, predicted near true, true, true near predicted

    def __init__(
        self, num_classes: int, *, tolerance: int = 2, **torchmetrics_options: Any
    ) -> None:
        """Start with nothing counted.

        Args:
            num_classes: number of classes.
            tolerance: how far an outline may be off, in pixels.
            torchmetrics_options: passed on to `torchmetrics.Metric`.
        """
        super().__init__(**torchmetrics_options)
        if tolerance < 0:
            raise InputError(f"the tolerance must be at least 0 pixels, got {tolerance}.")
        self.num_classes = num_classes
        self.tolerance = tolerance
        zeros = torch.zeros(4, num_classes, dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(self, pred: Mask, target: Mask) -> None:
        """Add a batch of any size.

        Raises:
            InputError: if the two do not have one size, or a label is not a class.
        """
        check_masks(pred, target, self.num_classes)
        pred = pred.where(target != IGNORE, IGNORE)
        classes = torch.unique(torch.cat([pred, target]))
        for k in classes[classes != IGNORE].tolist():
            said, true = outline(pred, k), outline(target, k)
            pairs = (said, said & self._near(true), true, true & self._near(said))
            self.counts[:, k] += torch.stack([flags.sum() for flags in pairs])

    def compute(self) -> BoundaryFScores:
        """Scores of everything added so far; NaN where nothing was."""
        said, said_hit, true, true_hit = self.counts.double()
        # 2 p r / (p + r) with p = said_hit / said and r = true_hit / true, without 0 / 0
        f = 2 * said_hit * true_hit / (said_hit * true + true_hit * said)
        missed = (said + true > 0) & (said_hit + true_hit == 0)
        f = torch.where(missed, 0.0, f)
        return BoundaryFScores(mean_f=f.nanmean().item(), f=tuple(f.tolist()))

    def _near(self, flags: Bool[Tensor, "b h w"]) -> Bool[Tensor, "b h w"]:
        side = 2 * self.tolerance + 1
        wide = F.max_pool2d(flags[:, None].float(), side, stride=1, padding=self.tolerance)
        return wide[:, 0] > 0


def outline(mask: Int[Tensor, "b h w"], label: int) -> Bool[Tensor, "b h w"]:
    """Pixels of a label beside another known label; the image's edge is no outline."""
    inside, other = mask == label, (mask != label) & (mask != IGNORE)
    beside = torch.zeros_like(inside)
    beside[:, 1:] |= other[:, :-1]
    beside[:, :-1] |= other[:, 1:]
    beside[:, :, 1:] |= other[:, :, :-1]
    beside[:, :, :-1] |= other[:, :, 1:]
    return inside & beside
