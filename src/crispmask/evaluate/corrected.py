"""What a refiner makes of simulated corrections."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from crispmask.data.sample import Sample
from crispmask.evaluate.corrections import clicks_on, known_after, spread
from crispmask.metrics.confusion import ConfusionMatrix
from crispmask.models.evidence import pasted
from crispmask.models.refiner import MaskRefiner
from crispmask.models.segmenters import Segmenter
from crispmask.report.results import CorrectedExample, Corrections
from crispmask.shapes import IGNORE

COUNTS = (0, 1, 2, 3, 5, 10)
SHOWN = 5
"""Clicks on the image that is shown."""

RULE = 12
"""Pixels to which the rule spreads a click."""

PASTED, RULED, TOLD = "clicks pasted", "clicks spread by a rule", "clicks told to the refiner"
CONTROL = "clicks told to the control"

Labels = Int64[Tensor, "h w"]


@dataclass(frozen=True)
class _Corrected:
    """One image, and the share of its pixels that clicks elsewhere mended."""

    gain: float
    example: CorrectedExample


@torch.inference_mode()
def probe_corrections(
    refiner: MaskRefiner,
    samples: Iterable[Sample],
    segmenter: Segmenter,
    *,
    control: MaskRefiner | None = None,
) -> Corrections:
    """mIoU after clicks on the largest regions that the plain answer has wrong.

    Only pixels that no click told are scored. The clicks are pasted into the plain answer; spread
    by a rule (`spread`); told to the control; or told to the refiner, which answers in one call.

    Args:
        refiner: that was trained with known labels.
        samples: images with their true masks.
        segmenter: the base.
        control: a network of the same size without the mask input that was trained with them, too.
    """
    classes = refiner.config.network.num_classes
    rows = (PASTED, RULED, TOLD) if control is None else (PASTED, RULED, CONTROL, TOLD)
    scores = {name: [ConfusionMatrix(classes) for _ in COUNTS] for name in rows}
    device = next(refiner.parameters()).device
    found: list[_Corrected] = []
    images = 0
    for sample in samples:
        image, names = sample.image[None].to(device), [sample.name]
        base = segmenter(image)
        plain = refiner(image, base, names=names)
        before = plain.labels[0].cpu()
        clicks = clicks_on(sample.mask, before, COUNTS[-1])
        for place, count in enumerate(COUNTS):
            some = clicks[:count]
            known = known_after(some, before.shape)
            told = before
            if some:
                told = refiner(image, base, known=known, names=names).labels[0].cpu()
            answers = {
                PASTED: pasted(plain.probs.cpu(), known[None]).argmax(1)[0],
                RULED: spread(before, some, radius=RULE),
                TOLD: told,
            }
            if control is not None:
                informed = control(image, base, known=known, names=names)
                answers[CONTROL] = informed.labels[0].cpu()
            truth = sample.mask.masked_fill(known != IGNORE, IGNORE)
            for name, answer in answers.items():
                scores[name][place].update(answer[None], truth[None])
            if count == SHOWN == len(some):
                gain = _right(told, truth) - _right(before, truth)
                labels = base.probs.argmax(1)[0].cpu()
                found.append(_Corrected(gain, _drawn(sample, labels, known, before, told)))
        images += 1
    found.sort(key=lambda one: one.gain)
    return Corrections(
        counts=COUNTS,
        rows={
            name: tuple(float(count.compute().miou) for count in counts)
            for name, counts in scores.items()
        },
        images=images,
        example=found[len(found) // 2].example if found else None,
    )


def _right(labels: Labels, truth: Labels) -> float:
    """Share of the pixels that are labelled and right."""
    return float((labels == truth).float().mean())  # IGNORE is no answer


def _drawn(
    sample: Sample, base: Labels, known: Labels, before: Labels, after: Labels
) -> CorrectedExample:
    image = (255 * sample.image.movedim(0, -1)).round().clamp(0, 255)
    truth = sample.mask
    pictures = (x.to(torch.uint8).cpu().numpy() for x in (image, truth, base, known, before, after))
    seen, true, base_labels, told, plain, corrected = pictures
    return CorrectedExample(
        name=sample.name,
        clicks=SHOWN,
        image=seen,
        truth=true,
        base=base_labels,
        known=told,
        before=plain,
        after=corrected,
    )
