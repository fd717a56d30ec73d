"""Scores on the validation split while training.

The images are shared among the processes; metrics and losses add up what all of them counted.
"""

from collections.abc import Callable

from torch.nn import functional as F

from crispmask.data.transforms import resize_short_side
from crispmask.metrics.calibration import TemperatureFit
from crispmask.metrics.confusion import ConfusionMatrix
from crispmask.models.bases import Base
from crispmask.models.refiner import MaskRefiner
from crispmask.models.segmenters import BaseOutput
from crispmask.shapes import Image
from crispmask.train.batches import StoredImages
from crispmask.train.processes import own_share


def segmenter_scores(segmenter: Base, items: StoredImages) -> dict[str, float]:
    """mIoU over the items."""
    device = next(segmenter.parameters()).device
    score = ConfusionMatrix(len(segmenter.config.class_names)).to(device)
    for i in own_share(len(items)):
        item = items[i]
        output = segmenter(item.image[None].float() / 255)
        score.update(output.labels, item.mask[None].long().to(device))
    return {"val_miou": score.compute().miou}


def refiner_scores(
    refiner: MaskRefiner,
    items: StoredImages,
    answer: Callable[[int, Image], BaseOutput],
    *,
    short_side: int = 0,
) -> dict[str, float]:
    """mIoU with one call, and the temperature that fits best.

    Args:
        refiner: in evaluation mode.
        items: the validation images.
        answer: output of the base for an image, given its number and its pixels.
        short_side: of the images that base and refiner see; 0 leaves them as they are.
    """
    device = next(refiner.parameters()).device
    score = ConfusionMatrix(len(refiner.config.class_names)).to(device)
    temperature = TemperatureFit(device)
    for i in own_share(len(items)):
        item = items[i]
        target = item.mask[None].long().to(device)
        image = resize_short_side(item.image[None].float() / 255, short_side)
        probs = refiner(image, answer(i, image), names=[str(i)]).probs
        if probs.shape[-2:] != target.shape[-2:]:
            size = target.shape[-2:]
            probs = F.interpolate(probs, size=size, mode="bilinear", align_corners=False)
        score.update(probs.argmax(1), target)
        temperature.update(probs, target)
    fitted = temperature.compute("nll") * refiner.config.temperature
    return {"val_miou": score.compute().miou, "temperature": fitted}
