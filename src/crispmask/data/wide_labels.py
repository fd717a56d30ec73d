"""Label files of 16 and 32 bits, for data sets with more than 255 classes.

Elsewhere 255 means unknown, which is a class here. Unknown pixels of these masks are `VOID`.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Dataset

from crispmask.data.class_names import read_names
from crispmask.data.folder import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    check_one_size,
    check_split,
    files_by_stem,
)
from crispmask.data.sample import Sample, read_image, read_mask
from crispmask.errors import InputError
from crispmask.shapes import VOID

FILE_VOID = 65535
"""Unknown pixels in the files of ADE20K-847 and Pascal Context 459, as they are usually made."""


def read_wide_mask(
    path: Path | str, num_classes: int, *, void: int = FILE_VOID
) -> Int64[Tensor, "h w"]:
    """Class ids of an 8-, 16- or 32-bit grey picture; `VOID` where the file says ``void``.

    Raises:
        InputError: if the file is missing, damaged or in colour, or an id is neither below
            ``num_classes`` nor ``void``.
    """
    ids = read_mask(path)
    known = ids != void
    wrong = ids[known & ((ids < 0) | (ids >= num_classes))]
    if wrong.numel():
        found = ", ".join(map(str, torch.unique(wrong)[:5].tolist()))
        raise InputError(
            f"{path} needs ids from 0 to {num_classes - 1}, or {void} for unknown, got {found} in "
            f"{wrong.numel()} pixels; give the full list of classes or convert the labels again."
        )
    return ids.where(known, VOID)


class WideLabelDataset(Dataset[Sample]):
    """Images with the label files of the same names; images without a label are left out.

    As `FolderDataset`, but unknown pixels are `VOID`, and the labels say what belongs to the
    split, because Pascal Context keeps all images of all years in one folder.

    Attributes:
        class_names: in the order of the ids.
        names: file names without suffix.
        paths: the image files.
        ignore: label of unknown pixels.

    Raises:
        InputError: if there is no label, or a label without an image.
    """

    ignore = VOID

    def __init__(
        self, images: Path, labels: Path, *, class_names: Sequence[str], void: int = FILE_VOID
    ) -> None:
        masks = files_by_stem(Path(labels), LABEL_SUFFIXES)
        pictures = files_by_stem(Path(images), IMAGE_SUFFIXES)
        missing = [name for name in masks if name not in pictures]
        if missing or not masks:
            raise InputError(
                f"each of the {len(masks)} labels in {labels} needs an image of the same name in "
                f"{images}, which lacks {len(missing)} (first: {', '.join(missing[:3])}); "
                f"expected labels ending in {', '.join(LABEL_SUFFIXES)}."
            )
        self.class_names = tuple(class_names)
        self.void = void
        self.names = list(masks)
        self.paths = [pictures[name] for name in masks]
        self._labels = list(masks.values())

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        """One image and its mask.

        Raises:
            InputError: if a file cannot be read, the sizes differ, or an id is no class.
        """
        image, label = read_image(self.paths[index]), self._labels[index]
        mask = read_wide_mask(label, len(self.class_names), void=self.void)
        check_one_size(image, mask, self.paths[index], label)
        return Sample(image, mask, self.names[index])


def ade20k_847(root: Path, split: str, *, class_file: Path) -> WideLabelDataset:
    """``root/{images_detectron2,annotations_detectron2}/{training,validation}``, labels as TIFF.

    This is ADE20K_2021_17_01 as MaskFormer's script prepares it, with 16-bit ids and 65535 for
    unknown.

    Args:
        root: folder ADE20K_2021_17_01.
        split: train or val.
        class_file: the 847 names, in the order of the ids; see `read_names`.

    Raises:
        InputError: if the split or the layout is another, or the file has other than 847 names.
    """
    folders = {"train": "training", "val": "validation"}
    check_split(split, folders, "ADE20K-847")
    images, labels = (
        Path(root) / f"{part}_detectron2" / folders[split] for part in ("images", "annotations")
    )
    return WideLabelDataset(images, labels, class_names=_names(class_file, 847))


def pascal_context_459(root: Path, *, class_file: Path) -> WideLabelDataset:
    """``root/JPEGImages`` with ``root/annotations_detectron2/pc459_val``: 5,104 or so to validate.

    Args:
        root: folder VOCdevkit/VOC2010.
        class_file: the 459 names, in the order of the ids; its labels.txt will do.

    Raises:
        InputError: if the layout is another, or the file has other than 459 names.
    """
    labels = Path(root) / "annotations_detectron2" / "pc459_val"
    return WideLabelDataset(Path(root) / "JPEGImages", labels, class_names=_names(class_file, 459))


def _names(path: Path, count: int) -> tuple[str, ...]:
    names = tuple(read_names(path))
    if len(names) != count:
        raise InputError(f"{path} needs {count} class names, one a line, got {len(names)}.")
    return names
