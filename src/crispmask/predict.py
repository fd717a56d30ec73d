"""Images of any size and in several views: windows around one mask, flips and scales."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from crispmask.data.transforms import resize_labels
from crispmask.diffusion.categorical import image_generators
from crispmask.errors import InputError
from crispmask.models.evidence import as_labels, check_labels_size, pasted
from crispmask.models.refiner import MaskRefiner
from crispmask.models.refiner_config import Sampling
from crispmask.models.refiner_parts import RefinerOutput
from crispmask.models.segmenters import BaseOutput, Segmenter
from crispmask.models.windows import windows
from crispmask.shapes import Image, Logits, Mask, Probs, Time

PAPER_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""With flips, the 12 views of DDPS's multi-scale protocol."""


@torch.inference_mode()
def refine_windows(
    refiner: MaskRefiner,
    image: Image,
    base: BaseOutput,
    *,
    window: int = 1024,
    overlap: int = 128,
    sampling: Sampling | None = None,
    known: Any = None,
    missing: Any = None,
    name: str = "0",
) -> RefinerOutput:
    """Refined mask of one large image: one noisy mask, denoised window by window.

    At every call each window reads its part of the one mask, and their logits are blended before
    the next state is drawn, so that neighbours cannot drift apart. Neighbouring windows share
    ``overlap`` pixels, over which the weight of each falls linearly to its edge. An image that
    fits one window is refined as it is. ``num_calls`` counts the calls of all windows.

    Args:
        refiner: with conditioning other than "features", which belong to the whole image.
        image: 1 3 h w in [0, 1].
        base: output for this image.
        window: side in pixels, a multiple of the refiner's.
        overlap: pixels that neighbours share, a multiple of the refiner's, less than the window.
        sampling: options of the chain; one call by default.
        known: labels that are certain, as `MaskRefiner` takes them.
        missing: where neither image nor base is to be believed, likewise.
        name: of the image; its noise depends on it.

    Raises:
        InputError: if the batch is not 1, window or overlap do not fit, or the base gives features
            to a refiner that reads them.
    """
    sampling = sampling or Sampling()
    if image.ndim != 4 or image.shape[0] != 1:
        raise InputError(
            f"windows are for one image at a time, of shape (1, 3, h, w), got {tuple(image.shape)}."
        )
    stride = refiner.config.stride
    multiple = stride * refiner.network.config.stride
    if not 0 <= overlap < window or window % multiple or overlap % multiple:
        raise InputError(
            f"window and overlap must be multiples of {multiple}, the overlap the smaller one, got "
            f"{window} and {overlap}."
        )
    pixels, given = refiner.inputs(image, base, missing=missing)
    certain = refiner.known(known, given, names=[name])
    pixels, padded = refiner.pad(pixels, refiner.visible(given))
    state = None if certain is None else refiner.known_state(certain)
    side = window // stride
    h, w = pixels.shape[-2:]
    whole = h <= window and w <= window
    if not whole and refiner.config.conditioning == "features":
        raise InputError(
            'windows need a refiner with conditioning="probs": features belong to a whole image; '
            "refine the image as one, or train such a refiner."
        )
    with refiner.inferring():
        parts = []
        for top, left in windows(h, w, window=window, overlap=overlap):
            rows, columns = slice(top, top + window), slice(left, left + window)
            seen = padded if whole else BaseOutput(probs=padded.probs[..., rows, columns])
            y, x = top // stride, left // stride
            part = refiner.bind(
                pixels[..., rows, columns],
                seen,
                guidance_scale=sampling.guidance_scale,
                known=None if state is None else state[:, y : y + side, x : x + side],
            )
            parts.append((y, x, part))
        log_base = blend(
            [(top, left, part.log_base) for top, left, part in parts],
            size=(h // stride, w // stride),
            overlap=overlap // stride,
        )

        def denoise(x_t: Mask, t: Time) -> Logits:
            logits = []
            for top, left, part in parts:
                mask = x_t[:, top : top + side, left : left + side]
                logits.append((top, left, part.denoise(mask, t)))
            return blend(logits, size=x_t.shape[-2:], overlap=overlap // stride)

        generators = image_generators(sampling.seed, [name])
        x_start = refiner.start(padded, log_base, sampling, generators)
        chosen = parts[0][2].denoise if whole else denoise
        result = refiner.sample(chosen, x_start, sampling, generators)
    probs = refiner.answer(result.logits, log_base, given, gate=sampling.gate, known=certain)
    return RefinerOutput(probs=probs, trace=(), num_calls=result.num_calls * len(parts))


def blend(
    parts: Sequence[tuple[int, int, Float[Tensor, "1 k _ _"]]],
    *,
    size: Sequence[int],
    overlap: int,
) -> Float[Tensor, "1 k h w"]:
    """Weighted mean of windows, given as (top, left, values), where they overlap."""
    if len(parts) == 1:
        return parts[0][2]
    first = parts[0][2]
    total = first.new_zeros(1, first.shape[1], *size)
    weight = first.new_zeros(*size)
    for top, left, values in parts:
        h, w = values.shape[-2:]
        ramp = taper(h, w, overlap=overlap).to(first)
        total[..., top : top + h, left : left + w] += ramp * values
        weight[top : top + h, left : left + w] += ramp
    return total.div_(weight)


def taper(h: int, w: int, *, overlap: int) -> Float[Tensor, "h w"]:
    """Weights of a window: 1 inside, falling linearly over ``overlap`` pixels to its edges."""

    def side(size: int) -> Tensor:
        steps = torch.arange(1, size + 1, dtype=torch.float32)
        edge = torch.minimum(steps, steps.flip(0)) / (overlap + 1)
        return edge.clamp(max=1.0)

    return side(h)[:, None] * side(w)[None]


Refine = Callable[..., RefinerOutput]
"""A refiner with its options bound, for instance by functools.partial: of image, base, ``known``.

Options of the size of the image cannot be bound: every view has a size of its own.
"""


def refine_views(
    segmenter: Segmenter,
    refine: Refine,
    image: Image,
    *,
    scales: Sequence[float] = PAPER_SCALES,
    flip: bool = True,
    known: Any = None,
) -> Probs:
    """Mean probabilities over scales and mirror images, each segmented and refined, b k h w.

    With the default scales, the 12-view protocol of DDPS (Lai et al. 2023).

    Args:
        segmenter: the base; it sees each view.
        refine: the refiner, likewise.
        image: b 3 h w in [0, 1].
        scales: of the views, over the size of the image.
        flip: whether each view is also seen in a mirror.
        known: labels that are certain, as `MaskRefiner` takes them, of the size of the image. Each
            view is told them, and they stand in the answer.

    Raises:
        InputError: if there is no scale, or one is not positive, or the labels cannot be used.
    """
    if not scales or min(scales) <= 0:
        raise InputError(f"scales must be positive numbers, at least one, got {tuple(scales)}.")
    h, w = image.shape[-2:]
    total: Tensor | None = None
    certain: Mask | None = None
    for scale in scales:
        size = (max(1, round(h * scale)), max(1, round(w * scale)))
        resized = F.interpolate(
            image, size, mode="bilinear", align_corners=False, antialias=scale < 1
        )
        for mirrored in (False, True) if flip else (False,):
            view = resized.flip(-1) if mirrored else resized
            base = segmenter(view)
            options = {}
            if known is not None:
                if certain is None:
                    certain = as_labels(known, num_classes=base.probs.shape[1], what="known labels")
                    check_labels_size(certain, image)
                seen = resize_labels(certain, size)
                options["known"] = seen.flip(-1) if mirrored else seen
            probs = refine(view, base, **options).probs
            probs = probs.flip(-1) if mirrored else probs
            if size != (h, w):
                probs = F.interpolate(probs, (h, w), mode="bilinear", align_corners=False)
            total = probs if total is None else total + probs
    assert total is not None
    mean = total / (len(scales) * (2 if flip else 1))
    return mean if certain is None else pasted(mean, certain.to(mean.device))
