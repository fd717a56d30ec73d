"""Rows of the table, and the standard ones that show where a gain comes from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from crispmask.data.votes import vote_share
from crispmask.errors import InputError
from crispmask.models.refiner import MaskRefiner
from crispmask.models.segmenters import BaseOutput, Segmenter
from crispmask.shapes import Image, Probs

Predictor = Callable[[Image, BaseOutput, str], Probs]
"""From one image, what the base says of it and its name to probabilities, all of batch size 1."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table.

    Attributes:
        name: of the method.
        predictors: one per seed.
        steps: network calls, for a row of the step-versus-quality curve.
        uses_base: whether the base's time is part of the row's time.
        refiner: behind the first predictor, if one is; its use of the state is looked into.
        control: of that refiner; it is told the same corrections, if it was trained with any.
        compared: names of the rows over which the gain of this one is measured, by their part in
            the comparison: ``{"control": "control"}``.
    """

    name: str
    predictors: tuple[Predictor, ...]
    steps: int | None = None
    uses_base: bool = True
    refiner: MaskRefiner | None = None
    control: MaskRefiner | None = None
    compared: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.predictors:
            raise InputError(f'row "{self.name}" needs at least one predictor, got none.')


def refiner_rows(
    refiners: Sequence[MaskRefiner],
    controls: Sequence[MaskRefiner],
    *,
    flip_segmenter: Segmenter,
    num_classes: int,
    steps: Sequence[int] = (1, 3, 10),
) -> list[Row]:
    """The rows that stand beside every refined result.

    The base; the base averaged with its answer to the mirrored image; its labels after a 5x5
    majority vote; the control, which is the refiner's network without the mask input; the refiner
    with each number of network calls. The first two comparisons cost next to nothing, so a
    refiner that loses to them is not worth its weights; the control tells what the diffusion adds
    to a network of the same size.

    Args:
        refiners: trained alike from different seeds.
        controls: likewise; may be empty, which leaves the control out.
        flip_segmenter: the base, to be called on mirrored images.
        num_classes: of the data set.
        steps: numbers of network calls.
    """

    def flipped(image: Image, base: BaseOutput, name: str) -> Probs:
        return (base.probs + flip_segmenter(image.flip(-1)).probs.flip(-1)) / 2

    def majority(image: Image, base: BaseOutput, name: str) -> Probs:
        return vote_share(base.probs.argmax(1), num_classes=num_classes)

    rows = [
        Row(name="base", predictors=(lambda image, base, name: base.probs,)),
        Row(name="base + flip", predictors=(flipped,)),
        Row(name="5x5 majority filter", predictors=(majority,)),
    ]
    if controls:
        rows.append(Row(name="control", predictors=_predictors(controls, calls=1)))
    for calls in steps:
        name = f"refined, {calls} call{'s' if calls > 1 else ''}"
        rows.append(
            Row(
                name=name,
                predictors=_predictors(refiners, calls=calls),
                steps=calls,
                refiner=refiners[0],
                control=controls[0] if controls else None,
                compared={"control": "control"} if controls else {},
            )
        )
    return rows


def _predictors(refiners: Sequence[MaskRefiner], *, calls: int) -> tuple[Predictor, ...]:
    def predictor(refiner: MaskRefiner, seed: int) -> Predictor:
        def predict(image: Image, base: BaseOutput, name: str) -> Probs:
            out = refiner(image, base, num_inference_steps=calls, seed=seed, names=[name])
            probs: Probs = out.probs
            return probs

        return predict

    return tuple(predictor(refiner, seed) for seed, refiner in enumerate(refiners))
