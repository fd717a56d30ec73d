"""Image files and label files whose values are translated to classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch.utils.data import Dataset

from crispmask.data.folder import check_one_size
from crispmask.data.sample import Sample, read_image, read_mask
from crispmask.errors import InputError
from crispmask.shapes import IGNORE


class PairDataset(Dataset[Sample]):
    """Pairs of an image and a label file, read when they are asked for.

    Attributes:
        class_names: in the order of the ids.
        names: of the images, in the order of ``pairs``.
        paths: the image files.
    """

    def __init__(
        self,
        pairs: Mapping[str, tuple[Path, Path]],
        *,
        class_names: Sequence[str],
        classes: Mapping[int, int],
    ) -> None:
        """Nothing is read yet.

        Args:
            pairs: image and label file of each name.
            class_names: in the order of the ids.
            classes: id of each value in the label files, 0 to 255; `IGNORE` for unknown.

        Raises:
            InputError: if a label file is missing.
        """
        self.class_names = tuple(class_names)
        self.names = list(pairs)
        self.paths = [image for image, _ in pairs.values()]
        self._labels = [label for _, label in pairs.values()]
        self._classes = torch.full((257,), -1)  # the last is for all values above 255
        for value, label_id in classes.items():
            self._classes[value] = label_id
        missing = [label for label in self._labels if not label.is_file()]
        if missing:
            raise InputError(
                f"each of the {len(pairs)} images needs a label, {len(missing)} have none "
                f"(first: {missing[0]}); unpack the annotations completely."
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        """One image and its mask.

        Raises:
            InputError: if a file cannot be read, the sizes differ, or a value is no class's.
        """
        image, label = read_image(self.paths[index]), self._labels[index]
        values = read_mask(label)
        check_one_size(image, values, self.paths[index], label)
        mask = self._classes[values.clamp(max=256)]
        if (mask < 0).any():
            wrong = torch.unique(values[mask < 0]).tolist()
            known = torch.nonzero(self._classes >= 0).flatten().tolist()
            raise InputError(
                f"{label} needs values between {known[0]} and {known[-1]} that stand for one of "
                f"{len(self.class_names)} classes or for unknown ({IGNORE} once read), got "
                f"{wrong[:5]}; use the label files of the data set as they were published."
            )
        return Sample(image, mask, self.names[index])
