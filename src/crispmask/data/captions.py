"""Captions of images, made from the classes that their masks show."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64
from torch import Tensor, bincount

from crispmask.shapes import IGNORE

KINDS = {
    "earth": ("satellite picture", "satellite image", "picture from space", "view from above"),
    "fields": ("picture of a field", "field from above", "plants in a field"),
    "camvid": ("street scene", "picture from a car", "view of a street"),
    "colin27": ("brain scan", "slice of a brain", "MRI of a brain"),
}
"""What the images of a data set are called."""

OTHER_KINDS = ("picture", "photo", "image")
"""What all other images are called."""

LEAST = 0.02
"""Smallest share of the known pixels that is worth a word."""

AMOUNTS: tuple[tuple[float, tuple[str, ...]], ...] = (
    (0.5, ("mostly", "a lot of", "")),
    (0.15, ("", "some")),
    (0.05, ("some", "a little")),
    (LEAST, ("a little", "a bit of", "a trace of")),
)
"""Words for a share of at least so much, one of which is drawn."""


def kinds_of(data: str) -> tuple[str, ...]:
    """What the images of a data set are called, by its name as `open_split` takes it."""
    return KINDS.get(data.partition(":")[0], OTHER_KINDS)


def caption(
    mask: Int64[Tensor, "h w"],
    class_names: Sequence[str],
    *,
    kinds: Sequence[str],
    rng: np.random.Generator,
) -> str:
    """Such as "satellite picture of forest, some water and a little cropland".

    Classes stand in the order of their shares. At random, a caption is only the kind of picture
    (5 %) or only lists the names (35 %), and a class but the largest is left out (10 % each).

    Args:
        mask: class ids; `IGNORE` does not count.
        class_names: in the order of the ids.
        kinds: words for the picture, one of which is drawn; see `KINDS`.
        rng: all of the chance.
    """
    kind = kinds[int(rng.integers(len(kinds)))]
    known = mask[mask != IGNORE]
    counts = bincount(known.flatten(), minlength=len(class_names)).numpy()
    shares = counts / max(len(known), 1)
    ids = [i for i in np.argsort(-shares, kind="stable").tolist() if shares[i] >= LEAST]
    ids = [i for n, i in enumerate(ids) if n == 0 or rng.random() >= 0.1]
    style = rng.random()
    if not ids or style < 0.05:
        return kind
    parts = [class_names[i] for i in ids]
    if style >= 0.4:
        parts = [f"{_amount(float(shares[i]), rng)} {class_names[i]}".strip() for i in ids]
    joined = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"{kind}{' with ' if ' of ' in kind else ' of '}{joined}"


def _amount(share: float, rng: np.random.Generator) -> str:
    words: tuple[str, ...] = next(words for least, words in AMOUNTS if share >= least)
    return words[int(rng.integers(len(words)))]
