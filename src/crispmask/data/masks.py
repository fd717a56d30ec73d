"""Masks without images: where they lie, how they are split, and at what size a prior sees them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jaxtyping import Int64
from torch import Tensor

from crispmask.data.folder import LABEL_SUFFIXES, files_by_stem, find_class_names
from crispmask.data.sample import read_mask
from crispmask.data.source import INCLUDED, PUBLISHED, AnyDataset, open_split
from crispmask.data.transforms import resize_labels
from crispmask.errors import InputError
from crispmask.shapes import IGNORE, Mask

HELD_OUT = 10
"""One mask of so many is held out where a folder has no split of its own."""


class Masks(Protocol):
    """Masks by number, each of its own size."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Int64[Tensor, "h w"]: ...


class MaskFiles:
    """Label files as masks, read when they are asked for.

    Attributes:
        paths: the files.
        num_classes: each id must lie below it or be `IGNORE`; checked when a mask is read.
    """

    def __init__(self, paths: Sequence[Path], num_classes: int = IGNORE) -> None:
        self.paths = tuple(paths)
        self.num_classes = num_classes

    @property
    def names(self) -> list[str]:
        """Names of the files, without ending."""
        return [path.stem for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Int64[Tensor, "h w"]:
        return read_mask(self.paths[index], self.num_classes)


class SampleMasks:
    """The masks of a data set that has images, too."""

    def __init__(self, data: AnyDataset) -> None:
        self.data = data

    @property
    def names(self) -> list[str]:
        """Names of the images."""
        return list(self.data.names)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Int64[Tensor, "h w"]:
        return self.data[index].mask


@dataclass(frozen=True, kw_only=True)
class MaskSplits:
    """Masks to learn from and masks to be measured on.

    Attributes:
        train: what is learned from.
        val: what is held out.
        class_names: in the order of the ids; None where nothing names them.
    """

    train: MaskFiles | SampleMasks
    val: MaskFiles | SampleMasks
    class_names: tuple[str, ...] | None


def open_masks(source: str) -> MaskSplits:
    """The masks of a data set; images, where there are any, are not needed.

    Args:
        source: a name that `open_split` knows; or a folder. It holds label files, or labels/ with
            label files, or train/ and val/ with either. Without train/ the last tenth of the files
            by name is held out: neighbours in name are often alike. Classes are named by a
            classes.txt in the folder or the one above, if there is one.

    Raises:
        InputError: if there is no such folder, or a part of it has too few label files.
    """
    if source.partition(":")[0] in (*INCLUDED, "camvid", *PUBLISHED):
        data = open_split(source, "train"), open_split(source, "val")
        train, val = map(SampleMasks, data)
        return MaskSplits(train=train, val=val, class_names=data[0].class_names)
    root = Path(source)
    names = find_class_names(root)
    if (root / "train").is_dir():
        known, held_out = _label_files(root / "train"), _label_files(root / "val")
    else:
        paths = _label_files(root)
        if len(paths) < 2:
            raise InputError(
                f"{root} holds one label file, {paths[0].name}; at least two are needed, one to "
                "learn from and one to be measured on."
            )
        held = max(1, len(paths) // HELD_OUT)
        known, held_out = paths[:-held], paths[-held:]
    count = IGNORE if names is None else len(names)
    return MaskSplits(
        train=MaskFiles(known, count), val=MaskFiles(held_out, count), class_names=names
    )


def _label_files(folder: Path) -> list[Path]:
    inner = folder / "labels"
    paths = list(files_by_stem(inner if inner.is_dir() else folder, LABEL_SUFFIXES).values())
    if not paths:
        raise InputError(
            f"{folder} holds no label file; expected files ending in {', '.join(LABEL_SUFFIXES)}, "
            "in it or in its labels/."
        )
    return paths


def shrink(mask: Mask, pixels: int) -> Int64[Tensor, "b small_h small_w"]:
    """Masks at a size of about this many pixels, in their own proportions.

    Labels are those at the pixel centres; masks that are smaller are enlarged.
    """
    h, w = mask.shape[1:]
    scale = math.sqrt(pixels / (h * w))
    return resize_labels(mask, (max(1, round(h * scale)), max(1, round(w * scale))))
