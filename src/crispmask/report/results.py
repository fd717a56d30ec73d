"""The parts of a report: columns, rows, single images, pictures."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import UInt8


@dataclass(frozen=True, kw_only=True)
class Column:
    """A number that the table shows for every row.

    Attributes:
        key: its name in `RowResult.scores` and in the JSON.
        label: its heading.
        best: which end is better, None where the best is not marked.
        factor: what a value is multiplied with for people.
        digits: decimals shown.
    """

    key: str
    label: str
    best: Literal["high", "low"] | None = "high"
    factor: float = 100.0
    digits: int = 1

    def text(self, value: float) -> str:
        """The value as shown."""
        return "n/a" if math.isnan(value) else f"{value * self.factor:.{self.digits}f}"


COLUMNS = (
    Column(key="miou", label="mIoU"),
    Column(key="mbiou", label="mBIoU 2 %"),
    Column(key="mbiou_2px", label="mBIoU 2 px"),
    Column(key="accuracy", label="accuracy"),
    Column(key="ece", label="ECE", best="low", digits=2),
    Column(key="seconds", label="s/image", best=None, factor=1.0, digits=3),
)


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Accuracy against confidence, in equal bins of confidence; NaN in an empty bin."""

    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    share: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """One row of the table. All values are fractions, or seconds.

    Attributes:
        name: of the method.
        steps: network calls of a refined row, None for the others.
        scores: a value per seed for each key of `COLUMNS`, and for `nll`.
        iou: per seed and class; NaN for a class in neither truth nor prediction.
        biou: boundary IoU at 2 % of the diagonal, likewise.
        reliability: of the first seed.
    """

    name: str
    steps: int | None
    scores: Mapping[str, tuple[float, ...]]
    iou: tuple[tuple[float, ...], ...]
    biou: tuple[tuple[float, ...], ...]
    reliability: Reliability

    @property
    def seeds(self) -> int:
        """How many predictors the row averages."""
        return len(self.scores["miou"])

    def mean(self, key: str) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.scores[key])

    def spread(self, key: str) -> float | None:
        """Sample standard deviation over seeds, None for a single one."""
        return statistics.stdev(self.scores[key]) if self.seeds > 1 else None


@dataclass(frozen=True, kw_only=True)
class Gain:
    """A difference in mIoU, a fraction, with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class ImageResult:
    """mIoU of one image over the classes it shows, under the base and the highlighted row."""

    name: str
    base: float
    ours: float


@dataclass(frozen=True, kw_only=True)
class Example:
    """Pictures of one image; `uncertainty` is the normalised entropy of `ours` times 255."""

    result: ImageResult
    group: Literal["best", "typical", "worst"]
    image: UInt8[np.ndarray, "h w 3"]
    truth: UInt8[np.ndarray, "h w"]
    base: UInt8[np.ndarray, "h w"]
    ours: UInt8[np.ndarray, "h w"]
    uncertainty: UInt8[np.ndarray, "h w"]
