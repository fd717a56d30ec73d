"""Image files and label files that are more than maps of ids: colours, or grey to be cut."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Dataset

from crispmask.data.folder import check_one_size
from crispmask.data.sample import Sample, read_image
from crispmask.errors import InputError

Decode = Callable[[Path], Int64[Tensor, "h w"]]
"""Class ids of a label file."""


def read_colours(
    path: Path, colours: Mapping[tuple[int, int, int], int], *, tolerance: int = 0
) -> Int64[Tensor, "h w"]:
    """Class ids of a label picture in which each class has its RGB colour, 0 to 255.

    Args:
        path: the file.
        colours: id of each colour.
        tolerance: how far each channel may be off.

    Raises:
        InputError: if the file cannot be read or has another colour.
    """
    rgb = (read_image(path, upright=False) * 255).round_().to(torch.int16)  # 3 h w
    mask = torch.full(rgb.shape[1:], -1)
    for colour, label in colours.items():
        channels = zip(rgb, colour, strict=True)
        near = [(channel - value).abs() <= tolerance for channel, value in channels]
        mask[near[0] & near[1] & near[2]] = label
    if (mask < 0).any():
        first = rgb[:, mask < 0][:, 0].tolist()
        raise InputError(
            f"{path} has {int((mask < 0).sum())} pixels of a colour that no class has, the first "
            f"is {first}; use the label files as they were published, without loss."
        )
    return mask


def read_foreground(path: Path) -> Int64[Tensor, "h w"]:
    """1 where a grey label picture is at least half bright, as for masks stored as JPEG.

    Raises:
        InputError: if the file cannot be read.
    """
    return (read_image(path, upright=False).mean(0) >= 0.5).long()


class DecodedDataset(Dataset[Sample]):
    """Pairs of an image and a label file, read when they are asked for.

    Attributes:
        class_names: in the order of the ids.
        names: of the images.
        paths: the image files.

    Raises:
        InputError: if there is no pair, or a file is missing.
    """

    def __init__(
        self,
        pairs: Mapping[str, tuple[Path, Path]],
        *,
        class_names: Sequence[str],
        decode: Decode,
        source: Path,
    ) -> None:
        missing = [path for pair in pairs.values() for path in pair if not path.is_file()]
        if missing or not pairs:
            raise InputError(
                f"{source} needs images with a label each, got {len(pairs)} of which "
                f"{len(missing)} files are missing"
                + (f" (first: {missing[0]})" if missing else "")
                + "; unpack it completely, see docs/domains.md."
            )
        self.class_names = tuple(class_names)
        self.names = list(pairs)
        self.paths = [image for image, _ in pairs.values()]
        self._labels = [label for _, label in pairs.values()]
        self._decode = decode

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        image, label = read_image(self.paths[index]), self._labels[index]
        mask = self._decode(label)
        check_one_size(image, mask, self.paths[index], label)
        return Sample(image, mask, self.names[index])
