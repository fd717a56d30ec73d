"""What a conversion did with every entry of an official checkpoint."""

import re
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class ConvertedKey:
    """What became of one entry of the checkpoint.

    Attributes:
        name: official name.
        shape: of the tensor; empty for a number and for what is no tensor.
        targets: our tensors that it went to, after "base: " or "refiner: ".
        ignored: why it went nowhere; empty if it went somewhere.
    """

    name: str
    shape: tuple[int, ...] = ()
    targets: tuple[str, ...] = ()
    ignored: str = ""


@dataclass(frozen=True, kw_only=True)
class ConversionReport:
    """What a checkpoint held and where each part of it went.

    Attributes:
        checkpoint: the file.
        output: the folder.
        backbone: "mit-b0" to "mit-b5", or widths and depths if it is none of these.
        num_classes: K, void included.
        num_steps: T, the number of official time steps.
        widths: channels of the U-Net per level, on the way down and on the way up.
        keys: every entry of the file, once.
    """

    checkpoint: str
    output: str
    backbone: str
    num_classes: int
    num_steps: int
    widths: tuple[tuple[int, ...], tuple[int, ...]]
    keys: tuple[ConvertedKey, ...]

    def __str__(self) -> str:
        """A line for each entry of the file."""
        return "\n".join(
            f"{key.name} {list(key.shape)} -> {', '.join(key.targets) or f'({key.ignored})'}"
            for key in self.keys
        )

    def table(self) -> Table:
        """Entries by part of the official model, and where they went, for a terminal."""
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("official", no_wrap=True)
        table.add_column("entries", justify="right")
        table.add_column("went to")
        for (part, goal), count in Counter(map(_parts, self.keys)).items():
            table.add_row(part, str(count), goal)
        return table

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain JSON values."""
        return asdict(self)


def _parts(key: ConvertedKey) -> tuple[str, str]:
    """Which parts of the two models an entry came from and went to."""
    words = key.name.split(".")
    come = ".".join(words[: 3 if "unet" in words else 2])
    come = re.sub(r"^(ema|decode_head\.log)_.*", r"\1_...", come)
    if key.ignored:
        return come, f"nowhere: {key.ignored}"
    return come, ", ".join(dict.fromkeys(".".join(t.split(".")[:2]) for t in key.targets))
