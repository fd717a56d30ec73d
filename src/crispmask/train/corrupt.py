"""Masks damaged as a half-denoised mask may be."""

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import functional as F


def corrupted(
    masks: Bool[Tensor, "n h w"], share: float, generator: torch.Generator
) -> Bool[Tensor, "n h w"]:
    """The masks, a share of them grown, shrunk, or with a disc added or taken away.

    What is noised in training would otherwise always be right, and a later step would trust the
    mask that an earlier one has drawn, errors and all (cf. Ji et al. 2023, DDP, "self-aligned
    denoising"). Sizes are up to an eighth of the shorter side.
    """
    damaged = masks.clone()
    h, w = masks.shape[1:]
    ys = torch.arange(h, device=masks.device)[:, None]
    xs = torch.arange(w, device=masks.device)
    for mask in damaged:
        chance, kind, y, x, size = torch.rand(5, generator=generator).tolist()
        if chance >= share:
            continue
        reach = 1 + int(size * min(h, w) / 8)
        if kind < 0.25:
            mask.copy_(_grown(mask, reach))
        elif kind < 0.5:
            mask.copy_(~_grown(~mask, reach))
        else:
            disc = (ys - y * h).square() + (xs - x * w).square() <= reach**2
            mask.masked_fill_(disc, kind < 0.75)
    return damaged


def _grown(mask: Bool[Tensor, "h w"], reach: int) -> Bool[Tensor, "h w"]:
    size, pooled = 2 * reach + 1, mask.float()[None, None]
    for window, padding in (((size, 1), (reach, 0)), ((1, size), (0, reach))):  # cheaper than both
        pooled = F.max_pool2d(pooled, window, stride=1, padding=padding)
    return pooled[0, 0] > 0
