"""What can be evaluated on."""

from collections.abc import Sequence
from typing import Protocol

from crispmask.data.sample import Sample
from crispmask.errors import InputError


class LabelledImages(Protocol):
    """A data set; one with `blocks`, a name per image, has its intervals drawn by these."""

    @property
    def class_names(self) -> Sequence[str]:
        """In the order of the ids."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


def evenly_spread(size: int, limit: int | None) -> list[int]:
    """At most ``limit`` indices, spread evenly over a data set of this size.

    Raises:
        InputError: if there is none.
    """
    count = size if limit is None else min(limit, size)
    if count < 1:
        most = "" if limit is None else f" with a limit of {limit}"
        raise InputError(f"evaluation needs at least one image, got a data set of {size}{most}.")
    return [i * size // count for i in range(count)]
