"""Masks damaged as a segmenter errs, in segments, patches and borders; holes in images."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from crispmask.data.regions import regions_of
from crispmask.shapes import IGNORE, Mask, Probs

SHIFT = 6.0
"""Pixels by which a border is moved at most, in standard deviations of one."""

CELL = 16
"""Pixels over which shifts and patches vary."""

SEGMENTS = 0.3
"""Largest share of the regions that take another label."""

PATCHES = 0.2
"""Largest share of the pixels that lie in wrong patches."""


def damaged(masks: Mask, probs: Probs, generator: torch.Generator) -> Mask:
    """The masks with errors of a random strength from none to full, each its own.

    Borders are shifted by a smooth field; some regions take a label that the base confuses them
    with; patches of a smooth noise show another place of the same mask. What is unknown stays so.

    Args:
        masks: true labels, b h w.
        probs: of the base, by which regions are confused.
        generator: decides everything.
    """
    results = []
    for mask, guess in zip(masks.cpu(), probs.cpu(), strict=True):
        strength = torch.rand(3, generator=generator).tolist()
        wrong = _confused(mask, guess, SEGMENTS * strength[0], generator)
        wrong = _patched(wrong, PATCHES * strength[1], generator)
        wrong = _shifted(wrong, SHIFT * strength[2], generator)
        results.append(wrong.where(mask != IGNORE, IGNORE))
    return torch.stack(results).to(masks.device)


def holes(
    count: int,
    size: tuple[int, int],
    share: float,
    generator: torch.Generator,
    *,
    clouds: float = 0.5,
) -> Bool[Tensor, "count h w"]:
    """A hole in a share of the images: a rectangle, or clouds.

    Sides of rectangles are an eighth to a half of the image's. Clouds, one or several, cover as
    much: a 64th to a quarter of the image.

    Args:
        count: of images.
        size: height and width.
        share: of the images that have one.
        generator: decides everything.
        clouds: share of the holes that are clouds.
    """
    hidden = torch.zeros(count, *size, dtype=torch.bool)
    for image in hidden:
        chance, kind, *places = torch.rand(6, generator=generator).tolist()
        if chance >= share:
            continue
        spans = [(1 + 3 * length) / 8 for length in places[2:]]
        if kind < clouds:
            image |= _highest(_smooth(1, *size, generator)[0], spans[0] * spans[1])
            continue
        inside = []
        for side, start, span in zip(size, places[:2], spans, strict=True):
            long = round(side * span)
            first = round(start * (side - long))
            inside.append(slice(first, first + long))
        image[inside[0], inside[1]] = True
    return hidden


def _highest(field: Float[Tensor, "h w"], share: float) -> Bool[Tensor, "h w"]:
    """Where a field is above all but this share of itself."""
    return field > field.flatten().kthvalue(max(1, round((1 - share) * field.numel()))).values


def _confused(
    mask: Int64[Tensor, "h w"],
    probs: Float[Tensor, "k h w"],
    share: float,
    generator: torch.Generator,
) -> Int64[Tensor, "h w"]:
    """Some regions with a label drawn from what the base says of them."""
    found = regions_of(mask)
    if not len(found):
        return mask
    weights = found.means(probs).clamp(min=1e-6)  # n k
    drawn = torch.multinomial(weights, 1, generator=generator)[:, 0]
    chosen = torch.rand(len(found), generator=generator) < share
    labels = torch.where(chosen, drawn, found.labels)
    return labels[found.index.clamp(min=0)].where(found.index >= 0, IGNORE)


def _patched(
    mask: Int64[Tensor, "h w"], share: float, generator: torch.Generator
) -> Int64[Tensor, "h w"]:
    """A share of the pixels, in patches, with the labels of another place."""
    h, w = mask.shape
    wrong = _highest(_smooth(1, h, w, generator)[0], share)
    rows, columns = (int(torch.randint(side, (), generator=generator)) for side in (h, w))
    return mask.roll((rows, columns), (0, 1)).where(wrong, mask)


def _shifted(
    mask: Int64[Tensor, "h w"], pixels: float, generator: torch.Generator
) -> Int64[Tensor, "h w"]:
    """Each label taken from a place nearby, the way there a smooth field."""
    h, w = mask.shape
    dy, dx = pixels * _smooth(2, h, w, generator)
    rows = (torch.arange(h)[:, None] + dy).round().long().clamp(0, h - 1)
    columns = (torch.arange(w) + dx).round().long().clamp(0, w - 1)
    return mask[rows, columns]


def _smooth(
    channels: int, h: int, w: int, generator: torch.Generator
) -> Float[Tensor, "channels h w"]:
    """Normal noise that varies over `CELL` pixels."""
    coarse = torch.randn(1, channels, h // CELL + 2, w // CELL + 2, generator=generator)
    fine = F.interpolate(coarse, size=(h, w), mode="bicubic", align_corners=True)
    return fine[0]
