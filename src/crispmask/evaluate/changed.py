"""A data set with its samples changed as they are read."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from crispmask.data.sample import Sample
from crispmask.evaluate.images import LabelledImages


@dataclass(frozen=True)
class Changed:
    """A data set of the same classes and blocks.

    Attributes:
        dataset: the images.
        change: makes the new sample of number i and the old one.
    """

    dataset: LabelledImages
    change: Callable[[int, Sample], Sample]

    @property
    def class_names(self) -> Sequence[str]:
        """In the order of the ids."""
        return self.dataset.class_names

    @property
    def blocks(self) -> Sequence[Hashable] | None:
        """Of the data set, if it has any."""
        return getattr(self.dataset, "blocks", None)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        return self.change(index, self.dataset[index])
