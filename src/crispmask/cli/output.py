"""Where results go: files appear complete or not at all, their folders made on the way."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import PIL.Image
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from crispmask.atomic import unfinished
from crispmask.data.sample import write_mask
from crispmask.errors import InputError


def check_output(folder: Path) -> None:
    """Raise `InputError` if ``folder`` is a file or cannot be written, before any work is done."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output must be a folder, {folder} is a file; give another name.")
    above = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise InputError(
            f"--output {folder} cannot be written: {above} is no folder that files may be made "
            "in; give another name."
        )


def check_kept(read: Iterable[Path], written: Iterable[Path]) -> None:
    """Raise `InputError` if one of the files that are read would also be written."""
    if taken := {path.resolve() for path in read} & {path.resolve() for path in written}:
        raise InputError(f"{min(taken)} would be overwritten; choose another --output.")


def write_labels(mask: Int64[Tensor, "h w"], path: Path) -> None:
    """Write class ids as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mask(mask, path)


def write_picture(pixels: UInt8[np.ndarray, "..."], path: Path) -> None:
    """Write grey (h w) or RGB (h w 3) values as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with unfinished(path) as temporary:
        PIL.Image.fromarray(pixels).save(temporary, format="PNG")


def write_share(values: Float[Tensor, "h w"], path: Path) -> None:
    """Write values in [0, 1] as a grey picture."""
    write_picture((255 * values).round().byte().cpu().numpy(), path)
