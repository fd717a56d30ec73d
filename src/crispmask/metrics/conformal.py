"""Label sets that hold the true label as often as asked for: conformal risk control."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from torchmetrics import Metric

from crispmask.errors import InputError
from crispmask.metrics.calibration import check_probs
from crispmask.shapes import IGNORE, Mask, Probs

LabelSets = Bool[Tensor, "b k h w"]
"""For each pixel, which classes are in its set."""


def label_sets(probs: Probs, threshold: float) -> LabelSets:
    """The classes of each pixel whose probability reaches the threshold, and its likeliest one."""
    top = probs.argmax(1, keepdim=True)
    return (probs.float() >= threshold).scatter(1, top, True)


class ConformalThreshold(Metric):
    """Largest threshold for `label_sets` that misses a share alpha of an image's pixels at most.

    Conformal risk control (Angelopoulos et al. 2022, "Conformal risk control", theorem 1): the loss
    of an image is the share of its labelled pixels whose true label is not in their set; with
    n calibration images of mean loss R(threshold), the threshold is the largest with
    ``(n R + 1) / (n + 1) <= alpha``. The expected loss of one more image is then at most alpha
    if that image is exchangeable with the calibration images; nothing is assumed of the pixels
    of an image. It does not hold for images of another kind, and it is a statement about the
    mean over images, not about each.

    Images without a labelled pixel do not count; those of one batch count one by one.
    """

    is_differentiable = False
    full_state_update = False

    missed: Tensor  # m: summed over images, the loss at each threshold of the grid
    images: Tensor  # how many

    def __init__(
        self, alpha: float, *, num_thresholds: int = 10_000, **torchmetrics_options: Any
    ) -> None:
        """Start without images.

        Args:
            alpha: share of an image's pixels that may be missed on average, between 0 and 1.
            num_thresholds: how finely [0, 1] is searched.
            torchmetrics_options: passed on to `torchmetrics.Metric`.
        """
        super().__init__(**torchmetrics_options)
        if not 0 < alpha < 1:
            raise InputError(f"alpha must lie between 0 and 1, got {alpha}.")
        self.alpha = alpha
        self.num_thresholds = num_thresholds
        zeros = torch.zeros(num_thresholds + 1, dtype=torch.float64)
        self.add_state("missed", zeros, dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, probs: Probs, target: Mask) -> None:
        """Add a batch of calibration images.

        Raises:
            InputError: if the sizes differ, the probabilities do not sum to one, or a label of
                the target is not a class.
        """
        check_probs(probs, target)
        grid = self._grid().to(probs.device)
        for image, truth in zip(probs, target, strict=True):  # k h w, h w
            known = truth != IGNORE
            if not known.any():
                continue
            labels = truth[known]
            scores = image[:, known].float()  # k n
            true = scores.gather(0, labels[None])[0]
            right = scores.argmax(0) == labels
            # a pixel is missed by the thresholds above its true label's probability
            first = torch.bucketize(true, grid, right=True)  # n: how many do not miss it
            first = torch.where(right, len(grid), first)
            starts = torch.bincount(first, minlength=len(grid) + 1)[: len(grid)]
            self.missed += starts.cumsum(0).double() / len(labels)
            self.images += 1

    def compute(self) -> float:
        """The threshold; 0, which takes all classes, where no other is known to be safe."""
        bound = (self.missed + 1) / (self.images + 1)
        safe = int((bound <= self.alpha).sum())  # the loss grows with the threshold
        return float(self._grid()[max(safe - 1, 0)])

    def _grid(self) -> Tensor:
        return torch.arange(self.num_thresholds + 1, dtype=torch.float32) / self.num_thresholds


@dataclass(kw_only=True)  # not frozen: torchmetrics rebuilds what `compute` returns field by field
class LabelSetScores:
    """How good label sets are; NaN where nothing was counted.

    Attributes:
        coverage: share of an image's labelled pixels whose set has the true label, averaged over
            images.
        size: mean number of labels in the set of a labelled pixel.
        single: share of the labelled pixels whose set has one label.
    """

    coverage: float
    size: float
    single: float


class LabelSetCoverage(Metric):
    """How often label sets hold the truth, and how large they have to be for it."""

    is_differentiable = False
    full_state_update = False

    coverage: Tensor  # summed over images
    images: Tensor
    pixels: Tensor
    labels: Tensor
    singles: Tensor

    def __init__(self, **torchmetrics_options: Any) -> None:
        super().__init__(**torchmetrics_options)
        self.add_state("coverage", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("images", "pixels", "labels", "singles"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, sets: LabelSets, target: Mask) -> None:
        """Add a batch; pixels whose target is `IGNORE` do not count."""
        known = target != IGNORE  # b h w
        hit = sets.gather(1, torch.where(known, target, 0)[:, None])[:, 0] & known
        count = known.sum((1, 2))  # b
        labelled = count > 0
        self.coverage += (hit.sum((1, 2)).double() / count)[labelled].sum()
        self.images += labelled.sum()
        size = sets.sum(1)[known]
        self.pixels += len(size)
        self.labels += size.sum()
        self.singles += (size == 1).sum()

    def compute(self) -> LabelSetScores:
        """Scores of everything added so far."""
        return LabelSetScores(
            coverage=(self.coverage / self.images).item(),
            size=(self.labels / self.pixels).item(),
            single=(self.singles / self.pixels).item(),
        )
