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
from crispmask.data.strokes import JSON_SUFFIXES
from crispmask.data.transforms import GREY
from crispmask.errors import InputError
from crispmask.models.inputs import as_tensor
from crispmask.models.segmenters import BaseOutput
from crispmask.shapes import IGNORE, Image, Mask, Probs

REACH = 8.0
"""Pixels of the state over which the nearness of a known label falls to 1/e."""


def as_labels(known: Any, *, num_classes: int, what: str) -> Mask:
    """Class ids where a label is known and `IGNORE` elsewhere, as a batch.

    Args:
        known: path of a label picture, or an array or tensor of integers, h w or b h w.
        num_classes: that there are.
        what: they are, for messages.

    Raises:
        InputError: if it is none of these, or an id is neither a class nor `IGNORE`.
    """
    if isinstance(known, str | Path):
        if Path(known).suffix.lower() in JSON_SUFFIXES:
            raise InputError(f"{known} holds strokes; read them with crispmask.read_known first.")
        return read_mask(known, num_classes)[None]
    labels = as_tensor(known, what)
    number = not labels.is_floating_point() and labels.dtype != torch.bool
    if not number or labels.ndim not in (2, 3) or not labels.numel():
        raise InputError(
            f"{what} must be integers of shape (h, w) or (batch, h, w), with {IGNORE} where "
            f"unknown; got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    labels = labels.long().reshape(-1, *labels.shape[-2:])
    check_ids(labels, num_classes, source=what)
    return labels


def as_missing(missing: Any) -> Bool[Tensor, "b h w"]:
    """Which pixels are missing, as a batch.

    Args:
        missing: array or tensor, h w or b h w, of True and False, of 0 and 1 or of 0 and 255.

    Raises:
        InputError: if it is none of these.
    """
    if isinstance(missing, str | Path):
        raise InputError(
            f"missing pixels must be an array or tensor, got the path {missing}; read the picture "
            "first: numpy.asarray(PIL.Image.open(path)) > 0."
        )
    hidden = as_tensor(missing, "missing pixels")
    values = set(torch.unique(hidden).tolist())
    if hidden.ndim not in (2, 3) or not (values <= {0, 1} or values <= {0, 255}):
        raise InputError(
            "missing pixels must be True, 1 or 255 where something is missing and False or 0 "
            f"elsewhere, of shape (h, w) or (batch, h, w); got {hidden.dtype} of shape "
            f"{tuple(hidden.shape)} with values up to {max(values, default=0):g}."
        )
    return (hidden > 0).reshape(-1, *hidden.shape[-2:])


def check_labels_size(
    known: Int64[Tensor, "_ _ _"] | Bool[Tensor, "_ _ _"],
    images: Float[Tensor, "_ _ _ _"],
    *,
    what: str = "known labels",
) -> None:
    """Raise `InputError` unless labels and images agree in batch, height and width."""
    b, _, h, w = images.shape
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
    result = blocks[..., 0].clone()  # b h/s w/s
    some = (blocks != IGNORE).any(3)
    few = blocks[some]  # votes of all blocks would take k times the memory of the mask
    votes = F.one_hot(few.where(few != IGNORE, num_classes), num_classes + 1).sum(1)
    result[some] = votes[:, :num_classes].argmax(1)
    return result


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


def told(labels: Mask, known: Mask) -> Mask:
    """Labels, and in their place those that are known."""
    return known.where(known != IGNORE, labels)


def pasted(probs: Probs, known: Mask) -> Probs:
    """Probabilities with certainty where a label is known."""
    result, certain = probs.clone(), known != IGNORE
    one_hot = F.one_hot(known[certain], probs.shape[1])
    result.movedim(1, -1)[certain] = one_hot.to(probs.dtype)
    return result


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
