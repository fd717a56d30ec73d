"""What is lost before any learning: true masks through a codec and a VAE, and back."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from crispmask.data.sample import Sample
from crispmask.data.transforms import pad_to_multiple
from crispmask.metrics.boundary_f import BoundaryF
from crispmask.metrics.confusion import ConfusionMatrix
from crispmask.models.latents import LatentCodec
from crispmask.models.mask_images import MaskImageCodec, QueryLogits, fill_unknown, masks_of
from crispmask.shapes import Image, Mask

COARSEST = 8
"""Masks are padded to multiples of this, for codecs that resize."""


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
        padded, size = pad_to_multiple(fill_unknown(mask), COARSEST)
        logits = _through(padded, pad_to_multiple(image, COARSEST)[0], num_classes, codec, latents)
        pred = logits[..., : size[0], : size[1]].argmax(1)
        overlap.update(pred, mask)
        outlines.update(pred, mask)
    scores = overlap.compute()
    return CodecCeiling(
        miou=scores.miou, boundary_f=outlines.compute().mean_f, iou=tuple(scores.iou)
    )


def _through(
    mask: Mask, image: Image, num_classes: int, codec: MaskImageCodec, latents: LatentCodec | None
) -> QueryLogits:
    pictures = codec.encode(masks_of(mask, num_classes), image)
    if latents is not None and codec.stride == 1:
        # all classes that are absent make one and the same picture: the VAE sees it once
        distinct, which = torch.unique(pictures[0], dim=0, return_inverse=True)
        decoded = latents.decode(latents.encode(distinct), (mask.shape[1], mask.shape[2]))
        pictures = decoded[which][None]
    return codec.decode_logits(pictures, image, num_classes)
