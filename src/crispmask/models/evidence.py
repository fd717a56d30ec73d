"""Labels that are known for certain: strokes, clicks, other sensors, neighbouring tiles."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from crispmask.data.sample import check_ids, read_mask
from crispmask.data.transforms import GREY
from crispmask.errors import InputError
from crispmask.models.inputs import as_tensor
from crispmask.models.segmenters import BaseOutput
from crispmask.shapes import IGNORE, Image, Mask, Probs

REACH = 8.0
"""Pixels of the state over which the nearness of a known label falls to 1/e."""


def as_labels(known: Any, *, num_classes: int, what: str, boolean: bool = False) -> Mask:
    """Class ids where a label is known and `IGNORE` elsewhere, as a batch.

    Args:
        known: path of a label picture, or an array or tensor of integers, h w or b h w.
        num_classes: that there are.
        what: they are, for messages.
        boolean: whether True and False may stand for 1 and 0.

    Raises:
        InputError: if it is none of these, or an id is neither a class nor `IGNORE`.
    """
    if isinstance(known, str | Path):
        return read_mask(known, num_classes)[None]
    labels = as_tensor(known, what)
    number = not labels.is_floating_point() and (boolean or labels.dtype != torch.bool)
    if not number or labels.ndim not in (2, 3) or not labels.numel():
        raise InputError(
            f"{what} must be integers of shape (h, w) or (batch, h, w), with {IGNORE} where "
            f"unknown; got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    labels = labels.long().reshape(-1, *labels.shape[-2:])
    check_ids(labels, num_classes, source=what)
    return labels


def check_labels_size(known: Mask, base: BaseOutput, *, what: str) -> None:
    """Raise `InputError` unless labels and base output agree in batch, height and width."""
    b, _, h, w = base.probs.shape
    if known.shape != (b, h, w):
        raise InputError(
            f"{what} must have the size of the images, {b} of {h}x{w}, got {known.shape[0]} of "
            f"{known.shape[1]}x{known.shape[2]}; draw them on the image itself."
        )


def commonest(known: Mask, stride: int, *, num_classes: int) -> Int64[Tensor, "b s_h s_w"]:
    """The commonest known label of each block; `IGNORE` where none is known, the least of equals.

    Args:
        known: class ids or `IGNORE`; sides are multiples of ``stride``.
        stride: side of a block.
        num_classes: that there are.
    """
    b, h, w = known.shape
    blocks = known.view(b, h // stride, stride, w // stride, stride).transpose(2, 3).flatten(3)
    votes = F.one_hot(blocks.where(blocks != IGNORE, num_classes), num_classes + 1).sum(3)
    count, label = votes[..., :num_classes].max(-1)  # b h/s w/s
    return label.where(count > 0, IGNORE)


def reach(known: Mask, num_classes: int) -> Float[Tensor, "b k h w"]:
    """How near the next pixel of each known class is: 1 on it, falling as ``exp(-distance / 8)``.

    0 for a class of which nothing is known. It tells a network at once what it would otherwise
    have to carry from a few pixels to all that lie around them.
    """
    near = torch.zeros(len(known), num_classes, *known.shape[1:])
    for image, labels in zip(near, known.cpu(), strict=True):
        for label in labels[labels != IGNORE].unique().tolist():
            distance = ndimage.distance_transform_edt((labels != label).numpy())
            image[label] = torch.from_numpy(np.exp(-distance / REACH))
    return near.to(known.device)


def pasted(probs: Probs, known: Mask) -> Probs:
    """Probabilities with certainty where a label is known."""
    one_hot = BaseOutput.from_labels(known, num_classes=probs.shape[1]).probs
    return torch.where((known != IGNORE)[:, None], one_hot.to(probs.dtype), probs)


def without(
    image: Image, base: BaseOutput, missing: Bool[Tensor, "b h w"]
) -> tuple[Image, BaseOutput]:
    """Image and base output that say nothing of their own where ``missing``.

    The image is grey there, and the base says what it says of the nearest pixel that is not
    missing; all classes alike if every pixel is.
    """
    hidden = missing[:, None]
    probs = base.probs.clone()
    for filled, holes in zip(probs, missing.cpu(), strict=True):
        if holes.all():
            filled.fill_(1 / len(filled))
        elif holes.any():
            rows, columns = ndimage.distance_transform_edt(
                holes.numpy(), return_distances=False, return_indices=True
            )
            filled.copy_(filled[:, torch.from_numpy(rows).long(), torch.from_numpy(columns).long()])
    return image.masked_fill(hidden, GREY), BaseOutput(probs=probs, features=base.features)
