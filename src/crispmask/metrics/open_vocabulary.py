"""Mean IoU as open-vocabulary and cross-domain benchmarks count it, and whether a word is there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_average_precision

from crispmask.errors import InputError
from crispmask.metrics.confusion import pair_counts
from crispmask.shapes import IGNORE, Mask


@dataclass(kw_only=True)  # not frozen: torchmetrics rebuilds what `compute` returns field by field
class VocabularyScores:
    """Scores of hard labels as fractions in [0, 1]; means over no class are NaN.

    Attributes:
        miou_truth: mean IoU over the classes that occur in the truth (ADE20K, CAT-Seg, ODISE).
        miou_union: mean IoU over the classes that occur in the truth or in the prediction (MESS,
            mmsegmentation); never above the first.
        miou_seen: as ``miou_truth``, over the classes whose names were trained on.
        miou_unseen: as ``miou_truth``, over the others, the background left out.
        coi_miou: as ``miou_union``, over the classes of interest (MESS, Blumenstiel et al. 2023):
            all but the background, which a guess gets half right.
        mean_f1: mean F1 over the classes that occur in the truth.
        mean_accuracy: mean recall over the classes that occur in the truth.
        accuracy: share of the pixels that are right.
        fw_iou: IoU weighted by the classes' shares of the true pixels.
        iou: of each class, NaN for one that occurs in neither.
        f1: of each class, likewise.
    """

    miou_truth: float
    miou_union: float
    miou_seen: float
    miou_unseen: float
    coi_miou: float
    mean_f1: float
    mean_accuracy: float
    accuracy: float
    fw_iou: float
    iou: tuple[float, ...]
    f1: tuple[float, ...]


class VocabularyConfusion(Metric):
    """Pixels per (true label, predicted label), summed over a data set of any number of classes.

    As `ConfusionMatrix`, with an unknown label of one's choice, so that 255 may be a class, and
    with both denominators of mIoU that are in use.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    counts: Tensor  # k k: true label, predicted label

    def __init__(
        self,
        num_labels: int,
        *,
        seen: Sequence[bool] = (),
        background: int | None = None,
        ignore: int = IGNORE,
        **torchmetrics_options: Any,
    ) -> None:
        """Start with nothing counted.

        Args:
            num_labels: number of labels, the background included.
            seen: for each label, whether its name was trained on; without, none was.
            background: label of the background, if it is scored; neither seen nor unseen, and not
                of interest.
            ignore: label of pixels whose class is unknown; `VOID` where 255 is a class.
            torchmetrics_options: passed on to `torchmetrics.Metric`.

        Raises:
            InputError: if the unknown label is a class, or `seen` has another length.
        """
        super().__init__(**torchmetrics_options)
        if 0 <= ignore < num_labels:
            raise InputError(
                f"label {ignore} cannot be unknown where there are {num_labels} labels; read the "
                "labels as wide ones and ignore VOID."
            )
        if seen and len(seen) != num_labels:
            raise InputError(
                f"seen needs a value for each of {num_labels} labels, got {len(seen)}."
            )
        self.num_labels = num_labels
        self.ignore = ignore
        of_interest = torch.tensor([i != background for i in range(num_labels)])
        self.of_interest = of_interest
        self.seen = torch.tensor(list(seen) or [False] * num_labels) & of_interest
        zeros = torch.zeros(num_labels, num_labels, dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(self, pred: Mask, target: Mask) -> None:
        """Add a batch of any size.

        Raises:
            InputError: if the two do not have one size, or a label is out of range.
        """
        if pred.shape != target.shape:
            raise InputError(
                f"prediction and target must have one shape, got {tuple(pred.shape)} and "
                f"{tuple(target.shape)}; resize the scores to the target before argmax."
            )
        valid = target != self.ignore
        for name, labels in (("prediction", pred), ("target", target[valid])):
            if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_labels:
                raise InputError(
                    f"labels of the {name} must lie in 0 to {self.num_labels - 1}, got "
                    f"{int(labels.min())} to {int(labels.max())}; {self.ignore} is unknown here."
                )
        self.counts += pair_counts(pred, target, self.num_labels, valid=valid)

    def compute(self) -> VocabularyScores:
        """Scores of everything added so far; NaN where nothing was."""
        counts = self.counts.double().cpu()
        hit, true, predicted = counts.diag(), counts.sum(1), counts.sum(0)
        iou = hit / (true + predicted - hit)  # 0 / 0 is NaN: absent
        f1 = 2 * hit / (true + predicted)
        there = true > 0
        return VocabularyScores(
            miou_truth=iou[there].mean().item(),
            miou_union=iou.nanmean().item(),
            miou_seen=iou[there & self.seen].mean().item(),
            miou_unseen=iou[there & ~self.seen & self.of_interest].mean().item(),
            coi_miou=iou[self.of_interest].nanmean().item(),
            mean_f1=f1[there].mean().item(),
            mean_accuracy=(hit / true)[there].mean().item(),
            accuracy=(hit.sum() / true.sum()).item(),
            fw_iou=((true * iou).nansum() / true.sum()).item(),
            iou=tuple(iou.tolist()),
            f1=tuple(f1.tolist()),
        )


@dataclass(kw_only=True)  # not frozen: torchmetrics rebuilds what `compute` returns field by field
class PresenceScores:
    """How well presence tells words that are in an image from words that are not.

    Attributes:
        ap: average precision over all pairs of image and word; its chance level is ``share``.
        mean_ap: mean of the words' own average precision, over words that are in an image.
        share: share of the pairs in which the word is there.
    """

    ap: float
    mean_ap: float
    share: float


class PresenceAP(Metric):
    """Average precision of presence scores, over all pairs of an image and a word."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    scores: list[Tensor]  # each b k
    truths: list[Tensor]

    def __init__(self, **torchmetrics_options: Any) -> None:
        super().__init__(**torchmetrics_options)
        for name in ("scores", "truths"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, presence: Float[Tensor, "b k"], there: Bool[Tensor, "b k"]) -> None:
        """Add the scores of a batch of images, higher for a word that is there."""
        if not bool(torch.isfinite(presence).all()):
            raise InputError("presence scores must be finite, got NaN or infinite ones.")
        self.scores.append(presence.double())
        self.truths.append(there.long())

    def compute(self) -> PresenceScores:
        """Scores of everything added so far; NaN where no word was there."""
        scores, truths = (_joined(x) for x in (self.scores, self.truths))  # n k
        positive = truths.any(0)
        if not bool(positive.any()):
            return PresenceScores(ap=torch.nan, mean_ap=torch.nan, share=0.0)
        ranks = _ranks(scores)  # average precision depends on the order alone
        own = [
            binary_average_precision(ranks[:, k], truths[:, k]) for k in positive.nonzero()[:, 0]
        ]
        return PresenceScores(
            ap=binary_average_precision(ranks.flatten(), truths.flatten()).item(),
            mean_ap=torch.stack(own).mean().item(),
            share=truths.double().mean().item(),
        )


def _ranks(scores: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """Scores in [0, 1] of the same order and ties; torchmetrics would squash logits to ties."""
    distinct, index = torch.unique(scores, return_inverse=True)
    ranks: Tensor = index.double() / len(distinct)
    return ranks


def _joined(parts: list[Tensor] | Tensor) -> Tensor:
    """A list state as one tensor; after a merge of processes it already is."""
    if isinstance(parts, Tensor):
        return parts
    return torch.cat(parts) if parts else torch.zeros(0, 1)
