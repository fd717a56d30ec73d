"""Masks without images, held in memory, and random crops of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from rich.console import Console
from rich.progress import track
from torch import Tensor

from crispmask.data.masks import Masks, open_masks, shrink
from crispmask.data.transforms import AugmentConfig, augment_masks
from crispmask.errors import InputError
from crispmask.shapes import IGNORE, Mask


@dataclass(frozen=True)
class StoredMasks:
    """Masks in memory at the size that the network sees, and the ids they held before that."""

    masks: list[UInt8[Tensor, "_ _"]]
    ids: frozenset[int]


@dataclass(frozen=True, kw_only=True)
class MaskSet:
    """What a run on masks alone learns from and is measured on.

    Attributes:
        train: masks to learn from.
        val: held-out masks, spread over the split.
        class_names: in the order of the ids; the ids themselves where nothing names them.
    """

    train: list[UInt8[Tensor, "_ _"]]
    val: list[UInt8[Tensor, "_ _"]]
    class_names: tuple[str, ...]


def read_masks(data: str, *, pixels: int, eval_images: int) -> MaskSet:
    """The masks of a data set.

    Args:
        data: see `open_masks`.
        pixels: masks are resized to about so many; 0 keeps them as they are.
        eval_images: about how many held-out masks are kept; 0 keeps all.

    Raises:
        InputError: if the masks cannot be used or hold fewer than two classes.
    """
    splits = open_masks(data)
    known, held_out = (store_masks(part, pixels) for part in (splits.train, splits.val))
    ids = known.ids | held_out.ids
    if len(ids) < 2:
        raise InputError(
            f"the masks of {data} hold {len(ids)} class{'' if ids else 'es'} ("
            f"{', '.join(map(str, ids)) or 'all is unknown'}; {IGNORE} means unknown); at least "
            "two are needed: give background and foreground ids of their own."
        )
    every = max(1, len(held_out.masks) // (eval_images or len(held_out.masks)))
    return MaskSet(
        train=known.masks,
        val=held_out.masks[::every],
        class_names=splits.class_names or tuple(str(i) for i in range(max(ids) + 1)),
    )


def store_masks(masks: Masks, pixels: int) -> StoredMasks:
    """All masks at a size of about ``pixels``, or at their own if that is 0."""
    stored, ids = [], set[int]()
    for i in track(
        range(len(masks)), description="reading masks", transient=True, console=Console(stderr=True)
    ):
        mask = masks[i]
        ids.update(torch.unique(mask).tolist())
        small = shrink(mask[None], pixels)[0] if pixels else mask
        stored.append(small.to(torch.uint8))
    return StoredMasks(stored, frozenset(ids - {IGNORE}))


def draw_masks(
    masks: Sequence[UInt8[Tensor, "_ _"]],
    config: AugmentConfig,
    *,
    batch_size: int,
    generator: torch.Generator,
) -> Mask:
    """A batch of random crops of random masks; the generator decides everything."""
    chosen = torch.randint(len(masks), (batch_size,), generator=generator).tolist()
    crops = [augment_masks(masks[i][None].long(), config, generator=generator) for i in chosen]
    return torch.cat(crops)
