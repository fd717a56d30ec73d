"""Temperature and gate of a refiner, fitted on held-out images so that it does no harm."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import track

from crispmask.errors import InputError
from crispmask.evaluate.images import LabelledImages
from crispmask.evaluate.meter import Meter
from crispmask.metrics.calibration import TemperatureFit, tempered
from crispmask.metrics.conformal import ConformalThreshold
from crispmask.models.probabilities import gated
from crispmask.models.refiner import MaskRefiner
from crispmask.models.segmenters import Segmenter
from crispmask.shapes import Mask, Probs

GATES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Tried in this order; the last keeps the base as it is."""

TOLERANCE = 0.001
"""What a score may lose against the base, as a fraction: 0.1 points."""

SCORES = {"miou": 1, "mbiou": 1, "mbiou_2px": 1, "accuracy": 1, "ece": -1}
"""What must not fall: keys of `Meter.scores`, 1 where larger is better."""

Scores = dict[str, float]
"""Fractions by the keys of `SCORES`."""


@dataclass(frozen=True)
class Answer:
    """One image as base and refiner see it, and its true mask; all of batch size 1."""

    base: Probs
    refined: Probs
    truth: Mask


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a base and the refiner behind it say of a data set, without any gate.

    Nothing is kept: both run anew each time that this is gone through, with a bar on stderr.
    """

    refiner: MaskRefiner
    segmenter: Segmenter
    dataset: LabelledImages

    def __len__(self) -> int:
        return len(self.dataset)

    @torch.inference_mode()
    def __iter__(self) -> Iterator[Answer]:
        device = next(self.refiner.parameters()).device
        console = Console(stderr=True)
        for i in track(
            range(len(self.dataset)),
            "calibrating",
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ):
            sample = self.dataset[i]
            image = sample.image[None].to(device)
            base = self.segmenter(image)
            refined = self.refiner(image, base, gate=0.0, names=[sample.name]).probs
            yield Answer(base.probs, refined, sample.mask[None].to(device))


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was fitted, and what it costs or gains on the images that it was fitted on.

    Attributes:
        temperature: of the probabilities that came in: multiplies the model's own.
        gate: the least of `GATES` with which no score falls by more than was allowed.
        label_threshold: of `crispmask.metrics.conformal.label_sets`, if a coverage was asked for.
        base: scores of the base.
        refined: scores at this temperature without a gate.
        gated: scores at this temperature behind the gate.
    """

    temperature: float
    gate: float
    label_threshold: float | None
    base: Scores
    refined: Scores
    gated: Scores


def calibrate(
    answers: Iterable[Answer], *, tolerance: float = TOLERANCE, coverage: float | None = None
) -> Calibration:
    """Fit temperature and gate; the images are gone through twice, a third time for a coverage.

    The temperature is the one of the least ECE without a gate. The gate is then the least with
    which none of mIoU, boundary IoU (at 2 % and 2 pixels), accuracy and ECE is worse than the
    base's by more than ``tolerance``. Where none does that, it is 1, which is the base itself.
    The images should be new to base and refiner, and like those to come: harm on images of
    another kind is not seen here.

    Args:
        answers: what base and refiner say of each image, the refiner without a gate.
        tolerance: what each score may lose, as a fraction.
        coverage: share of an image's pixels whose label set is to hold the true label, on average
            over images (see `ConformalThreshold`); None fits no sets.

    Raises:
        InputError: if there is no image or no labelled pixel, the tolerance is negative or the
            coverage is not between 0 and 1.
    """
    if not tolerance >= 0:
        raise InputError(f"the tolerance must be at least 0, got {tolerance}.")
    sets = None if coverage is None else ConformalThreshold(1 - coverage)
    fit, classes = None, 0
    for answer in answers:
        device, classes = answer.refined.device, answer.refined.shape[1]
        fit = fit or TemperatureFit(device)
        fit.update(answer.refined, answer.truth)
    if fit is None:
        raise InputError("calibration needs at least one image, got none.")
    temperature = fit.compute("ece")
    meters = [Meter(classes, device) for _ in GATES]
    for answer in answers:
        refined = tempered(answer.refined, temperature)
        for gate, meter in zip(GATES, meters, strict=True):
            meter.update(gated(refined, answer.base, gate), answer.truth, 0.0)
    scores = [_scores(meter) for meter in meters]
    base = scores[-1]  # the last gate keeps it
    if math.isnan(base["accuracy"]):
        raise InputError("calibration needs images with labelled pixels, got none such.")
    chosen = next(i for i, ours in enumerate(scores) if worst_fall(base, ours) <= tolerance)
    if sets is not None:
        for answer in answers:
            probs = gated(tempered(answer.refined, temperature), answer.base, GATES[chosen])
            sets.to(device).update(probs, answer.truth)
    return Calibration(
        temperature=temperature,
        gate=GATES[chosen],
        label_threshold=None if sets is None else sets.compute(),
        base=base,
        refined=scores[0],
        gated=scores[chosen],
    )


def _scores(meter: Meter) -> Scores:
    scores = meter.scores()
    return {key: scores[key] for key in SCORES}


def worst_fall(base: Scores, ours: Scores) -> float:
    """By how much the worst of `SCORES` is worse than the base's; negative if none is."""
    falls = [sign * (base[key] - ours[key]) for key, sign in SCORES.items()]
    return max((fall for fall in falls if not math.isnan(fall)), default=0.0)
