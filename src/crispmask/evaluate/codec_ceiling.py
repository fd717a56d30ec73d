"""What is lost before any learning: true masks through a codec and a VAE, and back."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from crispmask.data.sample import Sample
from crispmask.metrics.boundary_f import BoundaryF
from crispmask.metrics.confusion import ConfusionMatrix
from crispmask.models.latents import LatentCodec, through_codec
from crispmask.models.mask_images import MaskImageCodec


@dataclass(frozen=True, kw_only=True)
class CodecCeiling:
    """Best scores that a network behind a codec can reach, as fractions in [0, 1].

    Attributes:
        miou: from one confusion matrix over all images.
        boundary_f: mean over the classes, outlines within 2 pixels.
        iou: per class, NaN for a class that occurs nowhere.
    """

    miou: float
    boundary_f: float
    iou: tuple[float, ...]


@torch.no_grad()
def codec_ceiling(
    samples: Iterable[Sample],
    num_classes: int,
    codec: MaskImageCodec,
    *,
    latents: LatentCodec | None = None,
) -> CodecCeiling:
    """Scores of true masks that were encoded and decoded: by the codec, and the VAE if given.

    Each class is a query; unknown pixels are filled before and do not count after. A pixel gets
    the class of the highest logit.

    Args:
        samples: images with their masks.
        num_classes: number of classes of the masks.
        codec: masks to pictures.
        latents: pictures to latents; unused by codecs whose pictures are latents already.
    """
    overlap, outlines = ConfusionMatrix(num_classes), BoundaryF(num_classes)
    for sample in samples:
        mask, image = sample.mask[None], sample.image[None]
        pred = through_codec(mask, image, num_classes, codec, latents).argmax(1)
        overlap.update(pred, mask)
        outlines.update(pred, mask)
    scores = overlap.compute()
    return CodecCeiling(
        miou=scores.miou, boundary_f=outlines.compute().mean_f, iou=tuple(scores.iou)
    )
