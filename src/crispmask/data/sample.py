"""One image with its mask, and the files that hold them."""

import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from crispmask.atomic import unfinished
from crispmask.errors import InputError
from crispmask.shapes import IGNORE

Palette = Sequence[tuple[int, int, int]]
"""RGB colour (0 to 255) of each class, in the order of the ids."""

_INTEGER_GREY = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_UNREADABLE = (
    OSError,
    SyntaxError,  # Pillow's answer to a damaged PNG
    ValueError,
    EOFError,
    struct.error,
    PIL.Image.DecompressionBombError,
)


@dataclass(frozen=True)
class Sample:
    """An RGB image in [0, 1] and its mask, `IGNORE` where the class is unknown."""

    image: Float[Tensor, "3 h w"]
    mask: Int64[Tensor, "h w"]
    name: str


def _read(path: Path | str) -> PIL.Image.Image:
    path = Path(path)
    if not path.is_file():
        raise InputError(f"an image file is needed, but {path} does not exist or is not a file.")
    try:
        picture = PIL.Image.open(path)
        picture.load()
    except _UNREADABLE as error:
        raise InputError(
            f"{path} cannot be read as an image ({error}); "
            "it may be damaged, cut short or of another format: replace it."
        ) from error
    return picture


def read_image(path: Path | str, *, upright: bool = True) -> Float[Tensor, "3 h w"]:
    """RGB in [0, 1] of a picture of any usual kind, turned as viewers show it.

    Grey and palette pictures become RGB, an alpha channel is dropped, 16-bit grey is divided by
    65535, and float pictures must already lie in [0, 1].

    Args:
        path: of the file.
        upright: whether the orientation tag of cameras (EXIF) is followed; one that cannot be read
            counts as none. Labels never are turned: they are drawn on the photo as it is shown.

    Raises:
        InputError: if the file is missing, damaged, or its values have no fixed range.
    """
    picture = _read(Path(path))
    if upright:
        with suppress(*_UNREADABLE):
            PIL.ImageOps.exif_transpose(picture, in_place=True)
    if picture.mode in _INTEGER_GREY:
        values = np.asarray(picture).astype(np.float32)
        if values.min() < 0 or values.max() > 65535:
            raise InputError(
                f"{path} needs grey values of 8 or 16 bits, got {values.min():.0f} to "
                f"{values.max():.0f}; scale it to 0..65535 first."
            )
        return torch.from_numpy(values / 65535).expand(3, -1, -1).contiguous()
    if picture.mode == "F":
        values = np.array(picture, dtype=np.float32)
        if not (values.min() >= 0 and values.max() <= 1):  # also true for NaN
            raise InputError(
                f"{path} holds floats from {values.min():g} to {values.max():g}, "
                "but they must lie in [0, 1]; scale it first."
            )
        return torch.from_numpy(values).expand(3, -1, -1).contiguous()
    rgb = np.array(picture.convert("RGB"))  # h w 3
    return torch.from_numpy(rgb).permute(2, 0, 1).float().div_(255).contiguous()


def read_mask(path: Path | str, num_classes: int | None = None) -> Int64[Tensor, "h w"]:
    """Class ids of an 8- or 16-bit grey or a palette picture (its indices, not its colours).

    Pixels are taken as they are stored, whatever orientation tag the file may carry.

    Raises:
        InputError: if the file is missing, damaged or in colour, or if an id is neither below
            `num_classes` nor `IGNORE`.
    """
    picture = _read(Path(path))
    if picture.mode not in ("1", "L", "P", *_INTEGER_GREY):
        raise InputError(
            f"{path} needs one class id per pixel (8- or 16-bit grey, or palette), got a picture "
            f"of mode {picture.mode}; map its colours to ids first."
        )
    mask = torch.from_numpy(np.array(picture).astype(np.int64))
    if num_classes is not None:
        check_ids(mask, num_classes, source=str(path))
    return mask


def turned(wanted: Sequence[int], got: Sequence[int]) -> str:
    """What a message on two sizes (h w) adds if one is the other turned by a quarter; else ""."""
    if tuple(wanted) == tuple(got) or tuple(wanted) != tuple(got)[::-1]:
        return ""
    return (
        "; or, as height and width are exchanged, make it from the photo as viewers show it, for "
        "photos are turned by their orientation tag (EXIF)"
    )


def check_ids(mask: Int64[Tensor, "..."], num_classes: int, *, source: str) -> None:
    """Check that each id is a class or `IGNORE`.

    Raises:
        InputError: otherwise, with the ids that are not.
    """
    wrong = mask[((mask < 0) | (mask >= num_classes)) & (mask != IGNORE)]
    if wrong.numel():
        found = torch.unique(wrong).tolist()
        shown = ", ".join(map(str, found[:5])) + (", ..." if len(found) > 5 else "")
        raise InputError(
            f"{source} needs ids from 0 to {num_classes - 1}, or {IGNORE} for unknown, got "
            f"{shown} in {wrong.numel()} pixels; remap them or name more classes."
        )


def write_mask(mask: Int64[Tensor, "h w"], path: Path | str) -> None:
    """Write class ids as a grey PNG, of 16 bits if an id exceeds 255.

    The file appears complete or not at all.
    """
    low, high = int(mask.min()), int(mask.max())
    if low < 0 or high > 65535:
        raise InputError(f"a PNG holds ids from 0 to 65535, got {low} to {high}.")
    ids = mask.cpu().numpy().astype(np.uint8 if high < 256 else np.uint16)
    with unfinished(Path(path)) as temporary:
        PIL.Image.fromarray(ids).save(temporary, format="PNG")


def colorize(mask: Int64[Tensor, "h w"], palette: Palette) -> UInt8[np.ndarray, "h w 3"]:
    """Picture of a mask: each class in its colour, unknown pixels black."""
    check_ids(mask, len(palette), source="the mask to colour")
    table = np.zeros((max(len(palette), IGNORE + 1), 3), dtype=np.uint8)
    table[: len(palette)] = np.asarray(palette, dtype=np.uint8)
    table[IGNORE] = 0
    coloured: np.ndarray = table[mask.cpu().numpy()]
    return coloured


def overlay(
    image: Float[Tensor, "3 h w"],
    mask: Int64[Tensor, "h w"],
    palette: Palette,
    *,
    opacity: float = 0.5,
) -> UInt8[np.ndarray, "h w 3"]:
    """The image with the mask's colours laid over it; unknown pixels show the image alone."""
    picture = image.detach().cpu().permute(1, 2, 0).float().numpy() * 255  # h w 3
    share = (mask.cpu() != IGNORE).numpy()[..., None] * opacity  # h w 1
    mixed = picture * (1 - share) + colorize(mask, palette) * share
    return mixed.round().clip(0, 255).astype(np.uint8)
