"""A folder of images and a folder of their masks as a data set."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.data import Dataset

from crispmask.data.sample import Sample, read_image, read_mask, turned
from crispmask.errors import InputError
from crispmask.shapes import IGNORE

LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
"""Lossless formats: JPEG would change the ids."""

IMAGE_SUFFIXES = (*LABEL_SUFFIXES, ".jpg", ".jpeg", ".webp")


def files_by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Files of the given formats by name without suffix, sorted; hidden files are left out.

    Raises:
        InputError: if there is no such folder, two files differ in their suffix only, or the name
            of one is not UTF-8.
    """
    if not folder.is_dir():
        raise InputError(f"a folder is needed, but {folder} does not exist or is not a folder.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if path.name.encode(errors="ignore").decode() != path.name:  # no report could write it
            raise InputError(f"{folder} holds {path.name!a}, no name in UTF-8; rename it.")
        if path.stem in found:
            raise InputError(
                f"{folder} holds both {found[path.stem].name} and {path.name}; images and labels "
                "are matched by name without suffix, so keep one of them."
            )
        found[path.stem] = path
    return dict(sorted(found.items()))


def names_in(path: Path) -> list[str]:
    """The names of a list, one a line.

    Raises:
        InputError: if there is no such file.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; it lists the images of the split, a name a line.")
    return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]


def check_split(split: str, known: Iterable[str], name: str) -> None:
    """Raise `InputError` unless the data set of this name has labels for the split."""
    if split not in known:
        raise InputError(f"{name} has labels for {' and '.join(known)} alone, got {split!r}.")


def check_one_size(
    image: Float[Tensor, "3 h w"], mask: Int64[Tensor, "mask_h mask_w"], path: Path, label: Path
) -> None:
    """Check that an image and its mask can be laid over each other.

    Sizes are those of the photo as it is shown, turned by its orientation tag, on which annotation
    tools draw. A label for the pixels as they are stored is refused if it lies on its side, and
    cannot be told from a right one if it stands on its head.

    Raises:
        InputError: if not, with the sizes and the files.
    """
    if mask.shape != image.shape[1:]:
        (h, w), (mh, mw) = image.shape[1:], mask.shape
        raise InputError(
            f"image and label need one size, but {path} is {h}x{w} and {label} is {mh}x{mw} "
            "(height x width); resize the label by nearest neighbour"
            f"{turned((h, w), (mh, mw))}."
        )


def read_class_names(path: Path) -> tuple[str, ...]:
    """Names of the classes from a text file, one a line, in the order of the ids.

    Raises:
        InputError: if it cannot be read or has fewer than two different names.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as text ({error}).") from error
    classes = tuple(line.strip() for line in lines if line.strip())
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise InputError(
            f"{path} needs at least two different class names, one a line, got {list(classes)}."
        )
    return classes


def find_class_names(folder: Path) -> tuple[str, ...] | None:
    """Names from the classes.txt of a folder or of the one above; None if neither has one.

    Raises:
        InputError: if there is one that cannot be used.
    """
    candidates = [place / "classes.txt" for place in (folder, folder.absolute().parent)]
    found = next((path for path in candidates if path.is_file()), None)
    return None if found is None else read_class_names(found)


class FolderDataset(Dataset[Sample]):
    """Pairs ``images/NAME.*`` with ``labels/NAME.png``, sorted by name.

    Without a folder of labels each mask is `IGNORE` throughout. Sizes and ids are checked when a
    sample is read.

    Attributes:
        class_names: in the order of the ids.
        names: file names without suffix.
        paths: the image files.

    Raises:
        InputError: if there is no image, or an image without a label.
    """

    def __init__(self, images: Path, labels: Path | None, *, class_names: Sequence[str]) -> None:
        found = files_by_stem(Path(images), IMAGE_SUFFIXES)
        if not found:
            raise InputError(
                f"{images} holds no image; expected files ending in {', '.join(IMAGE_SUFFIXES)}."
            )
        self.class_names = tuple(class_names)
        self.names = list(found)
        self.paths = list(found.values())
        self._labels: list[Path] | None = None
        if labels is not None:
            masks = files_by_stem(Path(labels), LABEL_SUFFIXES)
            missing = [name for name in self.names if name not in masks]
            if missing:
                raise InputError(
                    f"each of the {len(found)} images in {images} needs a label of the same name "
                    f"in {labels}, which lacks {len(missing)} (first: {', '.join(missing[:3])}); "
                    f"expected NAME followed by {', '.join(LABEL_SUFFIXES)}."
                )
            self._labels = [masks[name] for name in self.names]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        image = read_image(self.paths[index])
        if self._labels is None:
            mask = torch.full(image.shape[1:], IGNORE)
        else:
            mask = read_mask(self._labels[index], len(self.class_names))
            check_one_size(image, mask, self.paths[index], self._labels[index])
        return Sample(image, mask, self.names[index])
