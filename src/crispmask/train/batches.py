"""Crops for training, from a data set that is held in memory as bytes."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from jaxtyping import Float, UInt8
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from crispmask.data.sample import Sample
from crispmask.data.transforms import AugmentConfig, augment, block_mean
from crispmask.metrics.confusion import ConfusionMatrix
from crispmask.models.segmenters import FPNSegmenter
from crispmask.shapes import Image, Mask


class Images(Protocol):
    """A data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


@dataclass(frozen=True)
class Stored:
    """One image in memory: pixels and labels as bytes, maps of the base in half precision."""

    image: UInt8[Tensor, "3 h w"]
    mask: UInt8[Tensor, "h w"]
    maps: Float[Tensor, "c h2 w2"] | None = None


@dataclass(frozen=True)
class Batch:
    """Crops. ``maps`` are the base's probabilities or features, smaller by a whole factor."""

    images: Image
    masks: Mask
    maps: Float[Tensor, "b c map_h map_w"] | None = None

    def to(self, device: torch.device) -> Self:
        """The batch on this device."""
        maps = None if self.maps is None else self.maps.to(device)
        return replace(self, images=self.images.to(device), masks=self.masks.to(device), maps=maps)


def store(data: Images) -> list[Stored]:
    """The whole data set in memory."""
    stored = []
    for i in track(
        range(len(data)), description="reading images", transient=True, console=Console(stderr=True)
    ):
        sample = data[i]
        image = (sample.image * 255).round().to(torch.uint8)
        stored.append(Stored(image=image, mask=sample.mask.to(torch.uint8)))
    return stored


def with_base(
    data: Sequence[Stored], bases: Sequence[FPNSegmenter], *, conditioning: str, stride: int
) -> tuple[list[Stored], float]:
    """The data with what a frozen base says of each image, and the bases' mIoU on it.

    Kept are its probabilities at the stride of the state, or its features.

    Args:
        data: the training images.
        bases: the base for each image.
        conditioning: "probs" or "features".
        stride: of the state.
    """
    score = ConfusionMatrix(bases[0].config.network.num_classes)
    stored = []
    pairs = list(zip(data, bases, strict=True))
    for item, base in track(
        pairs, description="running the base", transient=True, console=Console(stderr=True)
    ):
        output = base(item.image[None].float() / 255)
        score.update(output.labels, item.mask[None].long())
        maps = output.features if conditioning == "features" else block_mean(output.probs, stride)
        assert maps is not None
        stored.append(Stored(item.image, item.mask, maps[0].half().contiguous()))
    return stored, score.compute().miou


def folds_of(data: Images, folds: int) -> list[int]:
    """The fold of each image: whole blocks of the data set, or runs of ten neighbours, in turn."""
    count = len(data)
    groups: Sequence[Hashable] = getattr(data, "blocks", None) or [i // 10 for i in range(count)]
    order = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    return [order[group] % folds for group in groups]


def draw(
    data: Sequence[Stored], config: AugmentConfig, *, batch_size: int, generator: torch.Generator
) -> Batch:
    """A batch of random crops of random images; the generator decides everything."""
    chosen = torch.randint(len(data), (batch_size,), generator=generator).tolist()
    items = [data[i] for i in chosen]
    if len({item.image.shape for item in items}) == 1:
        groups = [items]
    else:
        groups = [[item] for item in items]
    parts = [_crop(group, config, generator) for group in groups]
    maps = [p.maps for p in parts if p.maps is not None]
    return Batch(
        images=torch.cat([p.images for p in parts]),
        masks=torch.cat([p.masks for p in parts]),
        maps=torch.cat(maps) if maps else None,
    )


def _crop(items: Sequence[Stored], config: AugmentConfig, generator: torch.Generator) -> Batch:
    images = torch.stack([item.image for item in items]).float() / 255
    masks = torch.stack([item.mask for item in items]).long()
    maps = None
    if items[0].maps is not None:
        maps = torch.stack([item.maps for item in items if item.maps is not None]).float()
        if any(
            side % small for side, small in zip(images.shape[-2:], maps.shape[-2:], strict=True)
        ):
            maps = F.interpolate(maps, size=images.shape[-2:], mode="bilinear", align_corners=False)
    images, masks, maps = augment(images, masks, maps, config, generator=generator)
    return Batch(images=images, masks=masks, maps=maps)
