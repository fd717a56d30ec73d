"""What users give, as tensors: images and the outputs of any segmenter."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image as PILImage
from torch import Tensor

from crispmask.data.class_names import comparable
from crispmask.data.sample import read_image, read_mask, turned
from crispmask.errors import InputError
from crispmask.models.segmenters import BaseOutput, check_finite, finite_range


def as_base_output(base: Any, *, num_classes: int) -> BaseOutput:
    """Whatever a segmenter gave, as a `BaseOutput`.

    Integers are labels (h w or b h w). Floats (k h w or b k h w) are probabilities if they lie in
    [0, 1] and sum to one, logits if any is outside [0, 1]. A path is a label PNG, a ``.npy`` or
    the first array of an ``.npz``. An object with ``logits`` or ``probs`` is a model output.

    Raises:
        InputError: if the values or their shape fit none of these.
    """
    if isinstance(base, BaseOutput):
        classes = base.probs.shape[1]
        if classes != num_classes:
            raise InputError(f"the model has {num_classes} classes, the base gives {classes}.")
        check_finite(base.probs, "probabilities")
        return base
    if isinstance(base, str | Path):
        return as_base_output(_read(Path(base), num_classes), num_classes=num_classes)
    if hasattr(base, "logits"):
        return as_base_output(base.logits, num_classes=num_classes)
    if hasattr(base, "probs"):
        return as_base_output(base.probs, num_classes=num_classes)
    values = as_tensor(base, "a base output")
    if values.numel() == 0:
        raise InputError(f"the base output is empty, its shape is {tuple(values.shape)}.")
    if not values.is_floating_point():
        if values.ndim not in (2, 3):
            raise InputError(
                f"labels must have shape (h, w) or (batch, h, w), got {tuple(values.shape)}."
            )
        labels = values.long().reshape(-1, *values.shape[-2:])
        return BaseOutput.from_labels(labels, num_classes=num_classes)
    if values.ndim not in (3, 4) or values.shape[-3] != num_classes:
        raise InputError(
            f"probabilities or logits must have shape ({num_classes}, h, w) or (batch, "
            f"{num_classes}, h, w) for this model's {num_classes} classes, got "
            f"{tuple(values.shape)}."
        )
    values = values.float().reshape(-1, *values.shape[-3:])
    check_finite(values, "probabilities or logits")
    if values.min() < 0 or values.max() > 1 + 1e-3:
        return BaseOutput.from_logits(values)
    return BaseOutput.from_probs(values)


def as_tensor(base: Any, what: str) -> Tensor:
    """An array or tensor of real numbers as a tensor.

    Args:
        base: the numbers.
        what: they are, for the message.

    Raises:
        InputError: if it is something else.
    """
    if isinstance(base, Tensor):
        values = base
    else:
        try:
            array = np.asarray(base)
        except ValueError as error:  # lists of different lengths
            raise InputError(f"{what} must have rows of one length ({error}).") from error
        if array.dtype.kind not in "biuf":
            raise InputError(
                f"{what} must be an array or tensor of numbers, or the path of one; got "
                f"{type(base).__name__} of {array.dtype}."
            )
        values = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
    if values.is_complex():
        raise InputError(f"{what} must be real numbers, got {values.dtype}.")
    return values


def _read(path: Path, num_classes: int) -> Tensor | np.ndarray[Any, Any]:
    if path.suffix.lower() not in (".npy", ".npz"):
        return read_mask(path, num_classes)
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return np.asarray(loaded[loaded.files[0]])
    except _UNREADABLE as error:
        raise InputError(
            f"{path} cannot be read as a NumPy array of numbers ({error}); it is missing, damaged "
            "or empty: write it again with numpy.save."
        ) from error


_UNREADABLE = (OSError, ValueError, IndexError, EOFError, zipfile.BadZipFile, zlib.error)
"""What NumPy raises for files that it cannot read."""


def in_order_of(base: Any, class_names: Sequence[str]) -> Any:
    """A base that says which class each map is (``label_names``), in this order; others as is.

    Raises:
        InputError: if it names other classes.
    """
    names = getattr(base, "label_names", None)
    if names is None:
        return base
    given, wanted = comparable(names), comparable(class_names)
    if sorted(given) != sorted(wanted):
        raise InputError(
            f"the base answers in {', '.join(names)}; the model's classes are "
            f"{', '.join(class_names)}. Ask the base for these, each name once."
        )
    return base.probs[:, [given.index(name) for name in wanted]]


def check_same_size(image: Tensor, base: BaseOutput) -> None:
    """Raise `InputError` unless image and base output agree in batch, height and width.

    The image of a path is turned by its orientation tag (EXIF); so must the base's have been.
    """
    want, got = image.shape, base.probs.shape
    if want[-2:] != got[-2:] or want[0] != got[0]:
        raise InputError(
            f"image and base output must agree in batch and size, got {want[0]} of "
            f"{want[-2]}x{want[-1]} and {got[0]} of {got[-2]}x{got[-1]}; "
            "resize the base output (labels by nearest, scores bilinearly)"
            f"{turned(want[-2:], got[-2:])}."
        )


def as_image(image: Any) -> Float[Tensor, "b 3 h w"]:
    """A path, PIL image, h w 3 array (uint8 or [0, 1]) or tensor as a batch of RGB in [0, 1].

    The photo of a path is turned by its orientation tag (EXIF), as `read_image` does; the pixels of
    all else are taken as they are, so that an answer fits what was given.

    Raises:
        InputError: if it is none of these.
    """
    if isinstance(image, str | Path):
        return read_image(Path(image))[None]
    if isinstance(image, PILImage.Image):
        if image.mode == "F" or image.mode.startswith("I"):
            raise InputError(
                f"a PIL image must have 8 bits per channel, got mode {image.mode}; give its path, "
                "or an array of floats in [0, 1]."
            )
        image = np.asarray(image.convert("RGB"))
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3:
            raise InputError(f"an image array must have shape (h, w, 3), got {image.shape}.")
        image = torch.from_numpy(np.array(image)).movedim(-1, 0)
    if not isinstance(image, Tensor):
        raise InputError(
            "an image must be a path, a PIL image, an array or a tensor, got "
            f"{type(image).__name__}."
        )
    values = image if image.ndim == 4 else image[None]
    if values.ndim != 4 or values.shape[1] != 3 or 0 in values.shape:
        raise InputError(
            f"an image tensor must have shape (3, h, w) or (batch, 3, h, w), got "
            f"{tuple(image.shape)}."
        )
    scale = 1 if values.is_floating_point() else 255
    values = values.float() / scale
    bounds = finite_range(values)
    if bounds is None or bounds[0] < -1e-3 or bounds[1] > 1 + 1e-3:
        raise InputError(
            "image values must lie in [0, 1], or 0 to 255 if they are integers, got "
            f"{scale * values.min().item():.3g} to {scale * values.max().item():.3g}; "
            "divide by the largest value there can be."
        )
    return values
