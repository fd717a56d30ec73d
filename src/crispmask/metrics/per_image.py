"""Dice, IoU and Hausdorff distance of single images, as medical benchmarks report them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from scipy.ndimage import binary_erosion, distance_transform_edt
from torch import Tensor
from torchmetrics import Metric

from crispmask.errors import InputError
from crispmask.metrics.confusion import check_masks
from crispmask.shapes import IGNORE, Mask


@dataclass(kw_only=True)  # not frozen: torchmetrics rebuilds what `compute` returns field by field
class PerImageScores:
    """One value per class, the background left out.

    Attributes:
        image_dice: mean over images of their Dice; an image where truth and prediction are both
            empty counts 1.
        image_iou: mean over images of their IoU, with the same rule.
        dice: from the pixels of the whole data set; NaN where the class is in neither.
        hd95: mean over images of the 95 % Hausdorff distance in pixels; 0 where both are empty,
            the image's diagonal where one is.
        sensitivity: share of the class's pixels that are found, over the data set.
        specificity: share of the other pixels that are left alone, over the data set.
    """

    image_dice: tuple[float, ...]
    image_iou: tuple[float, ...]
    dice: tuple[float, ...]
    hd95: tuple[float, ...]
    sensitivity: tuple[float, ...]
    specificity: tuple[float, ...]


class PerImage(Metric):
    """Scores of each image, averaged over images, with those of the data set beside them.

    Pixels whose target is `IGNORE` are of no class in both masks.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    sums: Tensor  # 3 k: Dice, IoU and HD95
    counts: Tensor  # 4 k: true positives, false positives, false negatives, true negatives
    images: Tensor

    def __init__(
        self, num_labels: int, *, background: int | None = 0, **torchmetrics_options: Any
    ) -> None:
        """Start with nothing counted.

        Args:
            num_labels: number of labels, the background included.
            background: label that is not scored; None scores all.
            torchmetrics_options: passed on to `torchmetrics.Metric`.
        """
        super().__init__(**torchmetrics_options)
        self.num_labels = num_labels
        self.classes = [i for i in range(num_labels) if i != background]
        if not self.classes:
            raise InputError(f"a class beside the background is needed, got {num_labels} label.")
        k = len(self.classes)
        self.add_state("sums", torch.zeros(3, k, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(4, k, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, pred: Mask, target: Mask) -> None:
        """Add a batch of any size.

        Raises:
            InputError: if the two do not have one size, or a label is not a class.
        """
        check_masks(pred, target, self.num_labels)
        for found, truth in zip(pred.cpu(), target.cpu(), strict=True):
            known = truth != IGNORE
            for place, label in enumerate(self.classes):
                ours, theirs = (found == label) & known, (truth == label) & known
                self._add(place, ours, theirs, known)
            self.images += 1

    def _add(
        self,
        place: int,
        ours: Bool[Tensor, "h w"],
        theirs: Bool[Tensor, "h w"],
        known: Bool[Tensor, "h w"],
    ) -> None:
        both, either = int((ours & theirs).sum()), int((ours | theirs).sum())
        iou = both / either if either else 1.0
        dice = 2 * both / (both + either) if either else 1.0
        distance = hausdorff95(ours.numpy(), theirs.numpy())
        self.sums[:, place] += self.sums.new_tensor([dice, iou, distance])
        wrong, missed = int(ours.sum()) - both, int(theirs.sum()) - both
        rest = int(known.sum()) - either
        self.counts[:, place] += self.counts.new_tensor([both, wrong, missed, rest])

    def compute(self) -> PerImageScores:
        """Scores of everything added so far; NaN where nothing was."""
        dice, iou, hd95 = (tuple(row.tolist()) for row in self.sums / self.images)
        tp, fp, fn, tn = self.counts.double()
        return PerImageScores(
            image_dice=dice,
            image_iou=iou,
            dice=tuple((2 * tp / (2 * tp + fp + fn)).tolist()),
            hd95=hd95,
            sensitivity=tuple((tp / (tp + fn)).tolist()),
            specificity=tuple((tn / (tn + fp)).tolist()),
        )


def hausdorff95(pred: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"]) -> float:
    """95 % Hausdorff distance of the outlines, in pixels.

    The larger of the two 95th percentiles, of the distances from each outline to the other, as in
    MONAI. An outline is what an erosion by a cross takes away; outside the image is background.
    0 if both are empty, the image's diagonal if one is.
    """
    if not pred.any() or not truth.any():
        return 0.0 if pred.any() == truth.any() else float(np.hypot(*pred.shape))
    ours, theirs = (_outline(mask) for mask in (pred, truth))
    to_theirs = distance_transform_edt(~theirs)[ours]
    to_ours = distance_transform_edt(~ours)[theirs]
    return float(max(np.percentile(to_theirs, 95), np.percentile(to_ours, 95)))


def _outline(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    inner: np.ndarray = binary_erosion(mask)
    outline: np.ndarray = mask & ~inner
    return outline
