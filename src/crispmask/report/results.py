"""The parts of a report: columns, rows, single images, pictures."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
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


CONFIDENCE_COLUMNS = (
    Column(key="ece", label="ECE", best="low", digits=2),
    Column(key="brier", label="Brier", best="low", factor=1.0, digits=4),
    Column(key="nll", label="NLL", best="low", factor=1.0, digits=3),
    Column(key="aurc", label="AURC", best="low", digits=2),
)
"""What the page shows about the probabilities of every row."""


HARDLY = 0.01
"""A gain in mIoU from the truth as state below which the state is as good as ignored."""

MOSTLY = 0.8
"""Share of the way to the truth from which a refiner that is handed the truth copies it."""


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Accuracy against confidence, in equal bins of confidence; NaN in an empty bin."""

    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    share: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class RiskCurve:
    """Error rate among the most certain pixels, for shares of all pixels up to 1; and its area."""

    coverage: tuple[float, ...]
    risk: tuple[float, ...]
    area: float


@dataclass(frozen=True, kw_only=True)
class Gain:
    """A difference in mIoU, a fraction, with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a row gains over the row of this name."""

    over: str
    gain: Gain


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """One row of the table. All values are fractions, or seconds.

    Attributes:
        name: of the method.
        steps: network calls of a refined row, None for the others.
        scores: a value per seed for each key of `COLUMNS` and `CONFIDENCE_COLUMNS`.
        iou: per seed and class; NaN for a class in neither truth nor prediction.
        biou: boundary IoU at 2 % of the diagonal, likewise.
        reliability: of the first seed.
        risk_curve: of the first seed.
        gains: over the rows that this one is compared with, by their part in the comparison.
    """

    name: str
    steps: int | None
    scores: Mapping[str, tuple[float, ...]]
    iou: tuple[tuple[float, ...], ...]
    biou: tuple[tuple[float, ...], ...]
    reliability: Reliability
    risk_curve: RiskCurve
    gains: Mapping[str, Comparison] = field(default_factory=dict)

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
class StateUse:
    """mIoU of a refiner's answer in one call, by what it was handed as its state.

    Attributes:
        times: of the calls, from noise towards clean.
        truth: for each time, with the true mask as state.
        base: likewise with the base's mask.
        noise: likewise with uniformly random labels.
        base_alone: of the base's mask itself.
        images: how many were used.
    """

    times: tuple[float, ...]
    truth: tuple[float, ...]
    base: tuple[float, ...]
    noise: tuple[float, ...]
    base_alone: float
    images: int

    @property
    def reading(self) -> str:
        """What the numbers say, in a sentence; NaN where no pixel had a label says so."""
        gains = [true - noise for true, noise in zip(self.truth, self.noise, strict=True)]
        if any(math.isnan(gain) for gain in gains):
            return "No pixel of these images has a label, so this cannot be told."
        best = max(range(len(gains)), key=gains.__getitem__)
        truth, noise = self.truth[best], self.noise[best]
        found = (
            f"Handed the true mask as its state at t = {self.times[best]:g}, the refiner answers "
            f"with {100 * truth:.1f} mIoU, handed random labels with {100 * noise:.1f}: "
        )
        if gains[best] < HARDLY:
            return found + "it hardly looks at its state, so further calls cannot help."
        if gains[best] > MOSTLY * (1 - noise):
            return found + (
                "it copies its state, so in further calls it would also copy its own errors."
            )
        return found + (
            "it reads its state without copying it, so further calls can help as far as the mask "
            "of one call is better than what the next would say without it."
        )


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


@dataclass(frozen=True, kw_only=True)
class CorrectedExample:
    """Pictures of one image: before and after some clicks, which `known` holds."""

    name: str
    clicks: int
    image: UInt8[np.ndarray, "h w 3"]
    truth: UInt8[np.ndarray, "h w"]
    base: UInt8[np.ndarray, "h w"]
    known: UInt8[np.ndarray, "h w"]
    before: UInt8[np.ndarray, "h w"]
    after: UInt8[np.ndarray, "h w"]


@dataclass(frozen=True, kw_only=True)
class Corrections:
    """What simulated clicks on wrong regions change, scored where nobody clicked.

    Attributes:
        counts: of clicks on an image, rising.
        rows: mIoU for each count, by what is done with the clicks; the first row pastes them into
            the answer, the last one tells the refiner.
        images: how many were used.
        example: one of them, typical in what it gains; None if there is nothing to correct.
    """

    counts: tuple[int, ...]
    rows: Mapping[str, tuple[float, ...]]
    images: int
    example: CorrectedExample | None

    @property
    def reading(self) -> str:
        """What the numbers say, in a sentence; NaN where no pixel had a label says so."""
        pasted, *_, told = self.rows.values()
        if any(math.isnan(value) for value in (*pasted, *told)):
            return "No pixel of these images has a label left, so this cannot be told."
        return (
            f"With {self.counts[-1]} clicks on an image, pixels that nobody clicked go from "
            f"{100 * told[0]:.1f} to {100 * told[-1]:.1f} mIoU; if the clicks are only pasted into "
            f"the answer, to {100 * pasted[-1]:.1f}."
        )
