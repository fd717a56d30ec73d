"""Joint augmentation of images, masks and maps, and the resizing rules for labels."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_saturation_with_gray_subtraction,
)
from kornia.geometry.transform import warp_affine
from torch import Tensor

from crispmask.errors import InputError
from crispmask.shapes import IGNORE, Image, Mask

GREY = 0.5
"""Value of image pixels outside the picture."""

PLACES = 10
"""Places tried for a crop that no class dominates."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What `augment` may do.

    Attributes:
        crop: height and width of the result.
        scale: range of the zoom, drawn log-uniformly.
        short_side: the zoom is relative to a short side of so many pixels; 0 for that of the image.
        dominance: up to ten places are tried for a crop until no class covers this share of its
            known pixels; 1 takes the first.
        flip: probability of a left-right flip.
        brightness: factors are drawn from 1 - brightness to 1 + brightness; contrast and
            saturation alike.
        contrast: see brightness.
        saturation: see brightness.
        hue: largest turn of the hue, in full turns.
    """

    crop: tuple[int, int]
    scale: tuple[float, float] = (0.5, 2.0)
    short_side: int = 0
    dominance: float = 1.0
    flip: float = 0.5
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.02

    def __post_init__(self) -> None:
        if min(self.crop) < 1:
            raise InputError(f"crop must be at least 1x1, got {self.crop[0]}x{self.crop[1]}.")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise InputError(f"scale must be a range 0 < low <= high, got {self.scale}.")
        if self.short_side < 0 or not 0 < self.dominance <= 1:
            raise InputError(
                "short_side must be at least 0 and dominance in (0, 1], got "
                f"{self.short_side} and {self.dominance}."
            )
        if not 0 <= self.flip <= 1:
            raise InputError(f"flip must be a probability in [0, 1], got {self.flip}.")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} must be in [0, 1), got {getattr(self, name)}.")
        if not 0 <= self.hue <= 0.5:
            raise InputError(f"hue must be in [0, 0.5], got {self.hue}.")


def augment(
    images: Image,
    mask: Mask,
    maps: Float[Tensor, "b c map_h map_w"] | None,
    config: AugmentConfig,
    *,
    generator: torch.Generator,
) -> tuple[
    Float[Tensor, "b 3 new_h new_w"],
    Int64[Tensor, "b new_h new_w"],
    Float[Tensor, "b c new_map_h new_map_w"] | None,
]:
    """One random zoom, flip and crop of each sample, then random colour of the images.

    Image and maps are resampled bilinearly, the mask by nearest neighbour, once each. Outside the
    picture the mask is `IGNORE`, the image grey and the maps zero. All draws are from `generator`
    (on the CPU), the same number for each sample. Maps may be smaller than the images by a whole
    factor that also divides the crop; their crops then are, too.

    Raises:
        InputError: if the size of the maps is no such fraction of the images'.
    """
    factor = 1 if maps is None else map_factor(images, maps, config)
    draws = torch.rand(len(images), 8, generator=generator)
    if config.dominance < 1:
        _place(draws, mask, config, generator)
    matrix = _affine(draws[:, :4], (images.shape[2], images.shape[3]), config).to(images.device)
    cropped = _warp(images - GREY, matrix, "bilinear", config.crop) + GREY
    labels = _warp_labels(mask, matrix, config.crop)
    warped_maps = None
    if maps is not None:
        h, w = (side // factor for side in config.crop)
        warped_maps = _warp(maps, _coarse(matrix, factor), "bilinear", (h, w))
    coloured = _recolour(cropped, draws[:, 4:].to(images.device), config)
    return coloured, labels, warped_maps


def augment_masks(
    mask: Mask, config: AugmentConfig, *, generator: torch.Generator
) -> Int64[Tensor, "b new_h new_w"]:
    """`augment` for masks without images: one random zoom, flip and crop of each."""
    draws = torch.rand(len(mask), 4, generator=generator)
    matrix = _affine(draws, (mask.shape[1], mask.shape[2]), config).to(mask.device)
    return _warp_labels(mask, matrix, config.crop)


def _warp(
    x: Tensor, matrix: Float[Tensor, "b 2 3"], mode: str, size: tuple[int, int]
) -> Float[Tensor, "b c new_h new_w"]:
    # the matrix is in pixel indices; align_corners=True takes them as they are
    out: Tensor = warp_affine(x, matrix, size, mode, "zeros", align_corners=True)
    return out


def _warp_labels(
    mask: Mask, matrix: Float[Tensor, "b 2 3"], size: tuple[int, int]
) -> Int64[Tensor, "b new_h new_w"]:
    labels = _warp((mask - IGNORE).to(matrix.dtype)[:, None], matrix, "nearest", size)[:, 0]
    return labels.round().long() + IGNORE


def _place(
    draws: Float[Tensor, "b 8"], mask: Mask, config: AugmentConfig, generator: torch.Generator
) -> None:
    """Draw the places of dominated crops again, in ``draws``."""
    for places in torch.rand(PLACES - 1, len(draws), 2, generator=generator):
        matrix = _affine(draws[:, :4], (mask.shape[1], mask.shape[2]), config)
        labels = _warp_labels(mask, matrix.to(mask.device), config.crop)
        dominated = torch.tensor([dominant_share(crop) >= config.dominance for crop in labels])
        if not dominated.any():
            return
        draws[:, 2:4] = torch.where(dominated[:, None], places, draws[:, 2:4])


def dominant_share(mask: Int64[Tensor, "h w"]) -> float:
    """Share of the known pixels that the most frequent class has; 1 if none is known."""
    counts = torch.bincount(mask.flatten(), minlength=IGNORE + 1)[:IGNORE]
    total = int(counts.sum())
    return int(counts.max()) / total if total else 1.0


def _affine(
    draws: Float[Tensor, "b 4"], size: tuple[int, int], config: AugmentConfig
) -> Float[Tensor, "b 2 3"]:
    """Pixel indices of the picture to those of the crop.

    With pixel centres at half integers, ``u = s (x + 1/2) - 1/2 - offset``. The offset is whole,
    so that at scale 1 pixels are copied.
    """
    low, high = (math.log(s) for s in config.scale)
    scale = torch.exp(low + (high - low) * draws[:, 0])
    if config.short_side:
        scale = scale * (config.short_side / min(size))
    flip = draws[:, 1] < config.flip
    matrix = torch.zeros(len(draws), 2, 3)
    for row, axis in ((0, 1), (1, 0)):  # x from the width, y from the height
        room = scale * size[axis] - config.crop[axis]  # negative where the picture is smaller
        offset = (room * draws[:, 2 + axis]).round()
        matrix[:, row, row] = scale
        matrix[:, row, 2] = 0.5 * scale - 0.5 - offset
    matrix[:, 0, 2] += torch.where(flip, scale * (size[1] - 1), 0.0)
    matrix[:, 0, 0] *= torch.where(flip, -1.0, 1.0)
    return matrix


def map_factor(images: Tensor, maps: Tensor, config: AugmentConfig) -> int:
    """How much smaller the maps are than the images, along each side.

    Raises:
        InputError: if that is not one whole number that also divides the crop.
    """
    factor = images.shape[-1] // maps.shape[-1]
    sides = (maps.shape[-2] * factor, maps.shape[-1] * factor)
    if sides != tuple(images.shape[-2:]) or any(side % factor for side in config.crop):
        raise InputError(
            f"maps must be smaller than images and crop by one whole factor, got maps of "
            f"{tuple(maps.shape[-2:])}, images of {tuple(images.shape[-2:])}, crop {config.crop}."
        )
    return factor


def _coarse(matrix: Float[Tensor, "b 2 3"], factor: int) -> Float[Tensor, "b 2 3"]:
    """The same map between pixels that are ``factor`` times as large, centres at half integers."""
    centre = torch.full((2,), 0.5, device=matrix.device)
    turned = matrix[:, :, :2] @ centre
    coarse = matrix.clone()
    coarse[:, :, 2] = turned - centre + (matrix[:, :, 2] + centre - turned) / factor
    return coarse


def _recolour(images: Image, draws: Float[Tensor, "b 4"], config: AugmentConfig) -> Image:
    signed = 2 * draws - 1  # b 4
    steps = (
        (adjust_brightness_accumulative, config.brightness, 1.0),
        (adjust_contrast_with_mean_subtraction, config.contrast, 1.0),
        (adjust_saturation_with_gray_subtraction, config.saturation, 1.0),
        (_turn_hue, 2 * math.pi * config.hue, 0.0),
    )
    for i, (adjust, strength, neutral) in enumerate(steps):
        if strength:
            images = adjust(images, neutral + strength * signed[:, i])
    return images


def _turn_hue(images: Image, angle: Float[Tensor, "b"]) -> Image:
    """Colours turned about the grey axis (Rodrigues' formula); far cheaper than through HSV."""
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=images.device)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]  # b 1 1
    turn = cos * torch.eye(3, device=images.device) + (1 - cos) / 3 + sin / math.sqrt(3) * cross
    return (turn @ images.flatten(2)).view_as(images).clamp(0, 1)


def resize_labels(mask: Mask, size: tuple[int, int]) -> Int64[Tensor, "b new_h new_w"]:
    """Labels at another height and width: the nearest pixel centre, no new ids."""
    return F.interpolate(mask[:, None].double(), size, mode="nearest-exact")[:, 0].long()


def resize_short_side(image: Image, side: int) -> Float[Tensor, "b 3 new_h new_w"]:
    """The image with a short side of so many pixels, bilinearly; as it is where ``side`` is 0."""
    h, w = image.shape[-2:]
    if side in (0, min(h, w)):
        return image
    size = (round(h * side / min(h, w)), round(w * side / min(h, w)))
    smaller = side < min(h, w)
    return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=smaller)


def pad_to_multiple(x: Tensor, multiple: int) -> tuple[Tensor, tuple[int, int]]:
    """`x` with its last two sides padded to multiples, and their sizes before.

    The last row and column are repeated at the bottom and at the right; ``[..., :h, :w]`` undoes
    it.
    """
    h, w = x.shape[-2:]
    below, right = -h % multiple, -w % multiple
    if below:
        x = torch.cat([x, x[..., -1:, :].expand(*x.shape[:-2], below, w)], dim=-2)
    if right:
        x = torch.cat([x, x[..., -1:].expand(*x.shape[:-1], right)], dim=-1)
    return x, (h, w)


def block_mean(x: Float[Tensor, "b c h w"], size: int) -> Float[Tensor, "b c h2 w2"]:
    """Means of blocks of ``size x size`` pixels: average pooling, several times as fast on CPUs.

    Height and width must be multiples of ``size``.
    """
    total = x[..., ::size, :]
    for i in range(1, size):
        total = total + x[..., i::size, :]
    rows, total = total, total[..., ::size]
    for i in range(1, size):
        total = total + rows[..., i::size]
    return total / size**2
