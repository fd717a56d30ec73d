"""What a refiner makes of its state: the truth, the base's mask or noise, handed to it."""

from collections.abc import Iterable

import torch
from jaxtyping import Int64
from torch import Tensor

from crispmask.data.sample import Sample
from crispmask.diffusion.categorical import UniformDiffusion, image_generators
from crispmask.metrics.confusion import ConfusionMatrix
from crispmask.models.refiner import MaskRefiner
from crispmask.models.refiner_parts import State
from crispmask.models.segmenters import BaseOutput, Segmenter
from crispmask.report.results import StateUse
from crispmask.shapes import IGNORE, Generators, Image, Mask

TIMES = (1.0, 0.5, 0.1)
"""Times of the calls: the first, a middle one and the last of ten."""

STATES = ("truth", "base", "noise")


@torch.inference_mode()
def probe_state(
    refiner: MaskRefiner, samples: Iterable[Sample], segmenter: Segmenter, *, seed: int = 0
) -> StateUse:
    """mIoU of single calls whose state is made from the truth, the base's mask or random labels.

    A refiner that answers the same whatever it is handed gains nothing from iterating; one that
    returns the truth when handed the truth returns its own errors, too. At t = 1 the state is
    handed over as it is, for noising would leave nothing of it; at other times it is noised as
    the process does. Unknown pixels of the truth become random labels. All is measured at the
    size of the state, with labels resized at pixel centres; codes of a codec are decoded, and
    measured at the size of the image.

    Args:
        refiner: the model to look into.
        samples: images with their true masks.
        segmenter: the base.
        seed: of the noise, together with the image's name.
    """
    codec = refiner.codec
    classes = (refiner.config.network if codec is None else codec.config).num_classes
    counts = {(name, t): ConfusionMatrix(classes) for name in STATES for t in TIMES}
    alone = ConfusionMatrix(classes)
    device = next(refiner.parameters()).device
    images = 0
    for sample in samples:
        image = sample.image[None].to(device)
        base = segmenter(image)
        base = refiner.visible(base)
        masks = _padded_masks(refiner, image, base, sample.mask[None].to(device))
        states = {name: refiner.state(mask) for name, mask in masks.items()}
        measured = states if codec is None else masks
        generator = image_generators(seed, [f"{sample.name}/state"])
        answers = _answers(refiner, image, base, states, generator)
        for key, answer in answers.items():
            counts[key].update(answer.cpu(), measured["truth"].cpu())
        alone.update(measured["base"].cpu(), measured["truth"].cpu())
        images += 1
    scores = {name: tuple(float(counts[name, t].compute().miou) for t in TIMES) for name in STATES}
    return StateUse(times=TIMES, base_alone=alone.compute().miou, images=images, **scores)


def _padded_masks(
    refiner: MaskRefiner, image: Image, base: BaseOutput, truth: Mask
) -> dict[str, Int64[Tensor, "b p_h p_w"]]:
    """Truth and base with the sides that `condition` takes; around the image truth is unknown."""
    _, padded_base = refiner.pad(image, base)
    target = torch.full(padded_base.labels.shape, IGNORE, device=truth.device)
    target[:, : truth.shape[-2], : truth.shape[-1]] = truth
    return {"truth": target, "base": padded_base.labels}


def _answers(
    refiner: MaskRefiner,
    image: Image,
    base: BaseOutput,
    masks: dict[str, State],
    generator: Generators,
) -> dict[tuple[str, float], Int64[Tensor, "b _ _"]]:
    """Labels after one call for each state and time; at the size of the image with a codec."""
    process = refiner.process
    random = torch.full_like(masks["truth"], IGNORE)
    answers = {}
    with refiner.inferring():
        condition = refiner.condition(*refiner.pad(image, base))
        for name, mask in (masks | {"noise": random}).items():
            labels = _fill(mask, refiner.config.network.num_classes, generator)
            for t in TIMES:
                time = torch.full((1,), t, device=image.device)
                state = labels if t == 1 else process.forward(labels, time, generator=generator)
                logits = refiner.state_logits(state, condition, time)
                if refiner.codec is not None:
                    logits = refiner.codec.decode(logits.softmax(1))
                answers[name, t] = logits.argmax(1)
    return answers


def _fill(mask: Mask, num_classes: int, generator: Generators) -> Mask:
    """The mask with random labels for its unknown pixels."""
    b, h, w = mask.shape
    random = UniformDiffusion(num_classes).prior((b, h, w), generator=generator, device=mask.device)
    return torch.where(mask == IGNORE, random, mask)
