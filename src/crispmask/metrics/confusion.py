"""Mean IoU, accuracy and Dice, read once from the pixel counts of a whole data set."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor
from torchmetrics import Metric

from crispmask.errors import InputError
from crispmask.shapes import IGNORE, Mask


@dataclass(kw_only=True)  # not frozen: torchmetrics rebuilds what `compute` returns field by field
class Scores:
    """Scores of hard labels as fractions in [0, 1]; tuples hold one value per class.

    Attributes:
        miou: mean of ``iou`` over the classes that occur in the truth or in the prediction.
        iou: intersection over union, NaN for a class that occurs in neither.
        accuracy: share of the pixels that are right.
        class_accuracy: share of a class's true pixels that are right (recall), NaN without any.
        mean_dice: mean of ``dice`` over the same classes as ``miou``.
        dice: ``2 |truth & prediction| / (|truth| + |prediction|)``, NaN as for ``iou``.
        fw_iou: ``iou`` weighted by the classes' shares of the true pixels.
    """

    miou: float
    iou: tuple[float, ...]
    accuracy: float
    class_accuracy: tuple[float, ...]
    mean_dice: float
    dice: tuple[float, ...]
    fw_iou: float


class ConfusionMatrix(Metric):
    """Pixels per (true class, predicted class), summed over a data set.

    mIoU comes once from the totals, as the ADE20K and Cityscapes benchmarks define it; the mean
    of the IoU of single images is another number. Pixels whose target is `IGNORE` do not count.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    counts: Tensor  # k k: true class, predicted class

    def __init__(self, num_classes: int, **torchmetrics_options: Any) -> None:
        super().__init__(**torchmetrics_options)
        self.num_classes = num_classes
        zeros = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(self, pred: Mask, target: Mask) -> None:
        """Add a batch of any size.

        Raises:
            InputError: if the two do not have one size, or a label is not a class.
        """
        check_masks(pred, target, self.num_classes)
        pred, target = pred.int(), target.int()  # half the memory to walk through
        self.counts += pair_counts(pred, target, self.num_classes, valid=target != IGNORE)

    def compute(self) -> Scores:
        """Scores of everything added so far; NaN where nothing was."""
        counts = self.counts.double()
        hit, true, predicted = counts.diag(), counts.sum(1), counts.sum(0)
        iou = hit / (true + predicted - hit)  # 0 / 0 is NaN: absent
        dice = 2 * hit / (true + predicted)
        return Scores(
            miou=iou.nanmean().item(),
            iou=tuple(iou.tolist()),
            accuracy=(hit.sum() / true.sum()).item(),
            class_accuracy=tuple((hit / true).tolist()),
            mean_dice=dice.nanmean().item(),
            dice=tuple(dice.tolist()),
            fw_iou=((true * iou).nansum() / true.sum()).item(),
        )


def pair_counts(
    pred: Int[Tensor, "b h w"],
    target: Int[Tensor, "b h w"],
    num_classes: int,
    *,
    valid: Bool[Tensor, "b h w"],
) -> Int64[Tensor, "k k"]:
    """Number of ``valid`` pixels per (true class, predicted class)."""
    dump = num_classes**2  # one more bin for the rest: faster than selecting pixels
    pairs = torch.where(valid, target * num_classes + pred, dump)
    counts = torch.bincount(pairs.flatten(), minlength=dump + 1)
    return counts[:dump].view(num_classes, num_classes)


def check_masks(pred: Tensor, target: Tensor, num_classes: int) -> None:
    """Check that two masks (b h w) can be compared.

    Raises:
        InputError: if they are not int64, do not have one size, or a label is not a class.
    """
    if pred.shape != target.shape or pred.ndim != 3:
        raise InputError(
            f"prediction and target must have one shape (b, h, w), got {tuple(pred.shape)} and "
            f"{tuple(target.shape)}; resize the prediction to the target, not the target."
        )
    known = torch.where(target == IGNORE, 0, target)
    for name, mask in (("prediction", pred), ("target", known)):
        if mask.dtype != torch.int64:
            raise InputError(f"the {name} must be int64 labels, got {mask.dtype}; use mask.long().")
        if mask.numel() == 0:
            continue
        low, high = (int(label) for label in mask.aminmax())
        if low < 0 or high >= num_classes:
            raise InputError(
                f"labels of the {name} must lie in 0 to {num_classes - 1}, got {low} to {high}; "
                f"mark unknown pixels of a target with {IGNORE}."
            )
