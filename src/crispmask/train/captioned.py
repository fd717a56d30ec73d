"""Crops as latents with captions made from their masks, drawn before the first step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crispmask.data.captions import caption
from crispmask.data.transforms import AugmentConfig, augment
from crispmask.models.latents import Picture, VaeLatents
from crispmask.models.text_states import QueryEncoder, TextStates
from crispmask.train.batches import StoredImages, progress_of


@dataclass(frozen=True)
class CaptionedCrops:
    """Latents of crops and a caption for each."""

    latents: Float[Tensor, "n c latent_h latent_w"]
    captions: tuple[str, ...]


@dataclass(frozen=True)
class CaptionBatch:
    """Latents of crops with the states of their captions."""

    latents: Float[Tensor, "b c latent_h latent_w"]
    states: TextStates

    def to(self, device: torch.device) -> Self:
        """The batch on this device."""
        return replace(self, latents=self.latents.to(device), states=self.states.to(device))


@torch.no_grad()
def captioned_crops(
    data: StoredImages,
    augmentation: AugmentConfig,
    encode: Callable[[Picture], VaeLatents],
    class_names: Sequence[str],
    *,
    kinds: Sequence[str],
    crops: int,
    seed: int,
) -> CaptionedCrops:
    """Random crops of each image through the VAE, each with a caption of what it shows.

    Those of an image depend on the seed and its place alone, so a cache knows them again.
    """
    latents, captions = [], []
    for i in progress_of(range(len(data)), "encoding crops"):
        item, rng = data[i], np.random.default_rng([seed, i])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        images, masks, _ = augment(
            item.image[None].expand(crops, -1, -1, -1).float() / 255,
            item.mask[None].expand(crops, -1, -1).long(),
            None,
            augmentation,
            generator=generator,
        )
        latents.append(encode(2 * images - 1).cpu())
        captions += [caption(mask, class_names, kinds=kinds, rng=rng) for mask in masks]
    return CaptionedCrops(torch.cat(latents), tuple(captions))


def draw_captioned(
    crops: CaptionedCrops,
    words: QueryEncoder,
    *,
    batch_size: int,
    drop: float,
    generator: torch.Generator,
) -> CaptionBatch:
    """Random crops with the states of their captions, a share ``drop`` of them empty."""
    chosen = torch.randint(len(crops.captions), (batch_size,), generator=generator)
    dropped = torch.rand(batch_size, generator=generator) < drop
    pairs = zip(chosen.tolist(), dropped.tolist(), strict=True)
    captions = ["" if empty else crops.captions[i] for i, empty in pairs]
    return CaptionBatch(crops.latents[chosen], words.encode(captions))
