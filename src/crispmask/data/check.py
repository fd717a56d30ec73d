"""What is in a folder of images and labels, and what is wrong with it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from crispmask.data.folder import IMAGE_SUFFIXES, LABEL_SUFFIXES, check_one_size, files_by_stem
from crispmask.data.sample import read_image, read_mask
from crispmask.errors import InputError
from crispmask.shapes import IGNORE


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """Counts over the pairs that can be read, and every problem as a sentence.

    Attributes:
        num_images: image files found.
        num_labels: label files found.
        num_pairs: images with a label of the same name and size.
        sizes: number of pairs of each (height, width), most frequent first.
        pixels: number of pixels of each id, void left out, in the order of the ids.
        void: share of pixels that are `IGNORE`.
        class_names: as given, or None.
        problems: empty if the folder can be used as it is.
    """

    num_images: int
    num_labels: int
    num_pairs: int
    sizes: dict[tuple[int, int], int]
    pixels: dict[int, int]
    void: float
    class_names: tuple[str, ...] | None
    problems: tuple[str, ...]

    @property
    def shares(self) -> dict[str, float]:
        """Share of the known pixels of each class, by name where names are given, else by id.

        Named classes without a pixel are in it with 0.
        """
        total = max(sum(self.pixels.values()), 1)
        names = dict(enumerate(self.class_names or ()))
        ids = sorted(set(names) | set(self.pixels))
        return {names.get(i, str(i)): self.pixels.get(i, 0) / total for i in ids}

    def summary(self) -> str:
        """The report as lines of text."""
        sizes = ", ".join(f"{h}x{w} ({n})" for (h, w), n in list(self.sizes.items())[:5])
        more = f" and {len(self.sizes) - 5} more sizes" if len(self.sizes) > 5 else ""
        lines = [
            f"{self.num_images} images, {self.num_labels} labels, {self.num_pairs} usable pairs",
            f"height x width: {sizes or 'none'}{more}",
            f"void: {self.void:.2%} of the pixels",
            *(f"  {name}: {share:.2%}" for name, share in self.shares.items()),
            f"{len(self.problems)} problems" if self.problems else "no problems",
            *(f"- {problem}" for problem in self.problems),
        ]
        return "\n".join(lines)


def check_folder(
    images: Path, labels: Path, class_names: Sequence[str] | None = None
) -> CheckReport:
    """Read every image and label and report what `FolderDataset` would stumble over, and more.

    Without `class_names` any id is accepted.

    Raises:
        InputError: if a folder is missing, or two of its files differ in their suffix only.
    """
    pictures = files_by_stem(Path(images), IMAGE_SUFFIXES)
    masks = files_by_stem(Path(labels), LABEL_SUFFIXES)
    problems = []
    if not pictures:
        problems.append(f"{images} holds no image ({', '.join(IMAGE_SUFFIXES)}).")
    problems += _unpaired("image", "label", pictures, masks)
    problems += _unpaired("label", "image", masks, pictures)
    sizes: Counter[tuple[int, int]] = Counter()
    pixels: Counter[int] = Counter()
    for name in pictures:
        image = None
        try:
            image = read_image(pictures[name])
        except InputError as error:
            problems.append(str(error))
        if name not in masks:
            continue
        try:
            mask = read_mask(masks[name], None if class_names is None else len(class_names))
            if image is not None:
                check_one_size(image, mask, pictures[name], masks[name])
        except InputError as error:
            problems.append(str(error))
            continue
        if image is None:
            continue
        h, w = mask.shape
        sizes[h, w] += 1
        ids, counts = torch.unique(mask, return_counts=True)
        pixels.update(dict(zip(ids.tolist(), counts.tolist(), strict=True)))
    total, void = sum(pixels.values()), pixels.pop(IGNORE, 0)
    if total and void == total:
        problems.append(f"every pixel of every label is {IGNORE}, unknown; nothing can be learned.")
    return CheckReport(
        num_images=len(pictures),
        num_labels=len(masks),
        num_pairs=sum(sizes.values()),
        sizes=dict(sizes.most_common()),
        pixels=dict(sorted(pixels.items())),
        void=void / max(total, 1),
        class_names=None if class_names is None else tuple(class_names),
        problems=tuple(problems),
    )


def _unpaired(
    kind: str, partner: str, files: dict[str, Path], others: dict[str, Path]
) -> list[str]:
    alone = [path for name, path in files.items() if name not in others]
    return [
        f"{path} has no {partner} of the same name; add it or remove the {kind}." for path in alone
    ]
