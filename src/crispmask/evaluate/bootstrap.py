"""How sure a difference in mIoU is: a paired bootstrap over blocks of images."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from crispmask.evaluate.images import LabelledImages
from crispmask.report.results import Gain


@dataclass(frozen=True, kw_only=True)
class ClassCounts:
    """Pixels in the intersection and the union of prediction and truth, per image and class."""

    hits: Float[np.ndarray, "seeds images k"]
    unions: Float[np.ndarray, "seeds images k"]


def blocks_of(dataset: LabelledImages, indices: Sequence[int]) -> tuple[list[Hashable], str]:
    """The block of each image, and what the blocks are in words.

    It is the data set's own, or a run of up to 10 neighbours in the order of the data set.
    """
    named: Sequence[Hashable] | None = getattr(dataset, "blocks", None)
    if named is not None:
        blocks = [named[i] for i in indices]
        return blocks, f"{len(set(blocks))} blocks of images"
    length = max(1, min(10, len(indices) // 10))
    blocks = [i // length for i in range(len(indices))]
    runs = f" in runs of {length} neighbours" if length > 1 else ""
    return blocks, f"{len(blocks)} images{runs}"


def gain(
    ours: ClassCounts,
    theirs: ClassCounts,
    blocks: Sequence[Hashable],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> Gain:
    """mIoU of `ours` minus that of `theirs`, seeds averaged, interval by percentiles.

    Whole blocks are drawn with replacement, the same ones for both sides, and mIoU is read once
    from the totals of each draw (Efron and Tibshirani 1993, ch. 13). Images of one block resemble
    each other, so drawing single images would make the interval too narrow. The interval is about
    the choice of images; the spread over seeds is another number.

    Args:
        ours: counts of one row, any number of seeds.
        theirs: counts of the other row over the same images.
        blocks: the block that each image belongs to.
        draws: bootstrap samples.
        seed: of the draws.
    """
    order = {block: row for row, block in enumerate(dict.fromkeys(blocks))}
    member = np.zeros((len(order), len(blocks)))
    for image, block in enumerate(blocks):
        member[order[block], image] = 1
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(order), np.full(len(order), 1 / len(order)), size=draws)
    drawn = weights @ member  # draws images
    everything = np.ones((1, len(blocks)))
    difference = _miou(ours, drawn) - _miou(theirs, drawn)
    low, high = np.percentile(difference, (2.5, 97.5))
    mean = _miou(ours, everything) - _miou(theirs, everything)
    return Gain(mean=float(mean[0]), low=float(low), high=float(high))


def _miou(
    counts: ClassCounts, weights: Float[np.ndarray, "draws images"]
) -> Float[np.ndarray, "draws"]:
    hits, unions = weights @ counts.hits, weights @ counts.unions  # seeds draws k
    iou = np.divide(hits, unions, out=np.zeros_like(hits), where=unions > 0)
    present = (unions > 0).sum(-1)  # seeds draws
    per_seed = np.divide(iou.sum(-1), present, out=np.zeros(present.shape), where=present > 0)
    return np.asarray(per_seed.mean(0))
