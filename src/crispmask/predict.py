"""Images of any size: overlapping windows whose probabilities are blended."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from crispmask.errors import InputError
from crispmask.models.refiner import MaskRefiner, RefinerOutput
from crispmask.models.segmenters import BaseOutput
from crispmask.shapes import Image


def refine_windows(
    refiner: MaskRefiner,
    image: Image,
    base: BaseOutput,
    *,
    window: int = 1024,
    overlap: int = 128,
    num_inference_steps: int = 1,
    guidance_scale: float = 1.0,
    eta: float = 0.0,
    seed: int = 0,
    name: str = "0",
) -> RefinerOutput:
    """Refined mask of one large image, window by window, in the memory of a few windows.

    Neighbouring windows share ``overlap`` pixels, over which the weight of each falls linearly
    to its edge, so that no seam remains. An image that fits one window is refined as it is.

    Raises:
        InputError: if the batch is not 1, the overlap does not fit the window, or the base gives
            features, which belong to the whole image.
    """
    if image.shape[0] != 1:
        raise InputError(f"windows are for one image at a time, got a batch of {image.shape[0]}.")
    if not 0 <= overlap < window:
        raise InputError(f"overlap must lie in [0, {window}), got {overlap}.")
    h, w = image.shape[-2:]

    def refine(pixels: Image, output: BaseOutput, part: str) -> RefinerOutput:
        result: RefinerOutput = refiner(
            pixels,
            output,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            eta=eta,
            seed=seed,
            names=[part],
        )
        return result

    if h <= window and w <= window:
        return refine(image, base, name)
    if base.features is not None and refiner.config.conditioning == "features":
        raise InputError(
            'windows need a refiner with conditioning="probs": features belong to a whole image; '
            "refine the image as one, or train such a refiner."
        )
    total = torch.zeros_like(base.probs)
    weight = torch.zeros_like(base.probs[:, :1])
    calls = 0
    for top, left in windows(h, w, window=window, overlap=overlap):
        rows, columns = slice(top, top + window), slice(left, left + window)
        output = BaseOutput(probs=base.probs[..., rows, columns])
        part = refine(image[..., rows, columns], output, f"{name}/{top},{left}")
        ramp = taper(*part.probs.shape[-2:], overlap=overlap).to(part.probs.device)
        total[..., rows, columns] += ramp * part.probs
        weight[..., rows, columns] += ramp
        calls += part.num_calls
    probs = total / weight
    return RefinerOutput(probs=probs, trace=(), num_calls=calls)


def windows(h: int, w: int, *, window: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Top-left corners of windows that cover h x w; the last ones end at the border."""

    def starts(size: int) -> list[int]:
        last = max(size - window, 0)
        return [*range(0, last, window - overlap), last]

    for top in starts(h):
        for left in starts(w):
            yield top, left


def taper(h: int, w: int, *, overlap: int) -> Float[Tensor, "h w"]:
    """Weights of a window: 1 inside, falling linearly over ``overlap`` pixels to its edges."""

    def side(size: int) -> Tensor:
        steps = torch.arange(1, size + 1, dtype=torch.float32)
        edge = torch.minimum(steps, steps.flip(0)) / (overlap + 1)
        return edge.clamp(max=1.0)

    return side(h)[:, None] * side(w)[None]
