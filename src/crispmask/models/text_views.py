"""What a `TextSegmenter` looks at: an image as a whole and, where it is large, in windows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from crispmask.data.transforms import pad_to_multiple, resize_labels, resize_short_side
from crispmask.errors import InputError
from crispmask.models.latents import VaeLatents
from crispmask.models.text_denoiser import TextDenoiser
from crispmask.models.windows import cosine_weights, windows
from crispmask.shapes import Image, Mask

Maps = Float[Tensor, "1 n map_h map_w"]
"""Logits of n queries."""


@dataclass(frozen=True, kw_only=True)
class View:
    """Pixels that the denoiser sees at once.

    Attributes:
        image: padded to the segmenter's stride.
        latents: of the image.
        labels: of the image's pixels, to begin with; None for none.
        top: place in the padded image of a window; 0 for the whole.
        left: likewise.
    """

    image: Image
    latents: VaeLatents
    labels: Mask | None = None
    top: int = 0
    left: int = 0


@dataclass(frozen=True, kw_only=True)
class Scene:
    """All views of an image, encoded once.

    Attributes:
        size: height and width of the image.
        inner: of the whole view, without its padding.
        padded: of the image at its own size with padding, which the windows cover.
        whole: the image as one, at the size that the network is made for.
        windows: parts of the image at its own size; none if it is not tiled.
        mirrored: whether left and right are swapped.
    """

    size: tuple[int, int]
    inner: tuple[int, int]
    padded: tuple[int, int]
    whole: View
    windows: tuple[View, ...]
    mirrored: bool

    @property
    def views(self) -> tuple[View, ...]:
        """The whole, then the windows."""
        return (self.whole, *self.windows)

    def starts(self, segmenter: TextDenoiser, *, seed: int) -> list[Tensor]:
        """State of the first call of each view; windows see parts of one noise."""
        rng = torch.Generator().manual_seed(seed)
        states = [segmenter.start(self.whole.latents, generator=rng)]
        if self.windows:
            f = segmenter.codec.stride
            h, w = (side // f for side in self.padded)
            like = self.whole.latents
            large = segmenter.start(like.new_empty(1, like.shape[1], h, w), generator=rng)
            for view in self.windows:
                wh, ww = view.latents.shape[-2:]
                top, left = view.top // f, view.left // f
                states.append(large[..., top : top + wh, left : left + ww])
        return states

    def enlarge(self, maps: Maps) -> Float[Tensor, "1 n h w"]:
        """What the whole view says, at the size of the image and bilinearly, not mirrored."""
        h, w = self.inner
        full = resized(resized(maps, self.whole.image.shape[-2:])[..., :h, :w], self.size)
        return full.flip(-1) if self.mirrored else full

    def merge(self, maps: Sequence[Tensor]) -> Float[Tensor, "1 n h w"]:
        """One answer of all views: the mean of what the whole says and the blended windows."""
        whole, *parts = maps
        full = self.enlarge(whole)
        if not parts:
            return full
        pairs = zip(self.windows, parts, strict=True)
        h, w = self.size
        canvas = blended([(v.top, v.left, part) for v, part in pairs], size=self.padded)
        tiled = canvas[..., :h, :w]
        return (full + (tiled.flip(-1) if self.mirrored else tiled)) / 2


def scene(
    segmenter: TextDenoiser,
    image: Image,
    *,
    tile: int,
    overlap: float,
    mirrored: bool,
    labels: Mask | None = None,
) -> Scene:
    """The views of one image.

    The whole view has the short side that the segmenter is made for, ``config.image_size``, or
    that of a tile; windows have the image's own pixels. An image that fits one window has none.

    Args:
        segmenter: encodes the views.
        image: 1 3 h w.
        tile: side of the windows in pixels; 0 for none.
        overlap: share of a window that it has in common with its neighbour, rounded down to the
            segmenter's stride.
        mirrored: whether to swap left and right.
        labels: of all pixels, to begin with; each view gets its part.

    Raises:
        InputError: if the image is smaller than one latent, or no window of this side is possible.
    """
    h, w = image.shape[-2:]
    cell, stride = segmenter.codec.stride, segmenter.stride
    if min(h, w) < cell:
        raise InputError(
            f"an image must have at least {cell}x{cell} pixels, one latent of this model, got "
            f"{h}x{w}; enlarge it."
        )
    if tile % stride:
        raise InputError(
            f"tile must be a multiple of {stride}, got {tile}; take {tile + -tile % stride}."
        )
    if mirrored:
        image, labels = image.flip(-1), None if labels is None else labels.flip(-1)
    tiled = 0 < tile < max(h, w)
    side = segmenter.config.image_size or (min(tile, h, w) if tiled else 0)
    small = resize_short_side(image, side)
    padded, inner = pad_to_multiple(small, stride)
    parts = []
    large, _ = pad_to_multiple(image, stride)
    seen = drawn = None  # labels of the whole view, and of the image that the windows cover
    if labels is not None:
        seen, _ = pad_to_multiple(resize_labels(labels, inner), stride)
        drawn, _ = pad_to_multiple(labels, stride)
    if tiled:
        shared = int(overlap * tile) // stride * stride
        for top, left in windows(*large.shape[-2:], window=tile, overlap=shared):
            here = (..., slice(top, top + tile), slice(left, left + tile))
            part = large[here]
            parts.append(
                View(
                    image=part,
                    latents=segmenter.look(part),
                    labels=None if drawn is None else drawn[here],
                    top=top,
                    left=left,
                )
            )
    return Scene(
        size=(h, w),
        inner=inner,
        padded=(large.shape[-2], large.shape[-1]),
        whole=View(image=padded, latents=segmenter.look(padded), labels=seen),
        windows=tuple(parts),
        mirrored=mirrored,
    )


def resized(maps: Maps, size: Sequence[int]) -> Float[Tensor, "1 n h w"]:
    """Maps at another size, bilinearly; as they are if they have it."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    out: Tensor = F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)
    return out


def blended(
    parts: Sequence[tuple[int, int, Maps]], *, size: tuple[int, int]
) -> Float[Tensor, "1 n h w"]:
    """Mean of windows, given as (top, left, maps), by `cosine_weights`: no seam where they end."""
    _, _, first = parts[0]
    total = first.new_zeros(1, first.shape[1], *size)
    weight = first.new_zeros(*size)
    for top, left, maps in parts:
        h, w = maps.shape[-2:]
        ramp = cosine_weights(h, w).to(maps)
        total[..., top : top + h, left : left + w] += ramp * maps
        weight[top : top + h, left : left + w] += ramp
    return total.div_(weight)
