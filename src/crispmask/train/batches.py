"""Crops for training, from a data set that is held in memory as bytes or read piece by piece."""

from collections.abc import Callable, Hashable, Iterable, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, TypeVar, cast

import torch
from accelerate import PartialState
from jaxtyping import Bool, Float, UInt8
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Subset

from crispmask.data.sample import Sample
from crispmask.data.transforms import AugmentConfig, augment, block_mean, pad_to_multiple
from crispmask.errors import InputError
from crispmask.metrics.confusion import ConfusionMatrix
from crispmask.models.bases import Base
from crispmask.models.segmenters import BaseOutput
from crispmask.shapes import Image, Mask

T = TypeVar("T")


class Images(Protocol):
    """A data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


@dataclass(frozen=True)
class Stored:
    """One image in memory: pixels and labels as bytes, maps of the base in half precision.

    Of one that is not ``labelled`` a refiner may see the mask alone.
    """

    image: UInt8[Tensor, "3 h w"]
    mask: UInt8[Tensor, "h w"]
    maps: Float[Tensor, "c h2 w2"] | None = None
    labelled: bool = True


@dataclass(frozen=True)
class Batch:
    """Crops. ``maps`` are the base's probabilities or features, smaller by a whole factor."""

    images: Image
    masks: Mask
    labelled: Bool[Tensor, "b"]
    maps: Float[Tensor, "b c map_h map_w"] | None = None

    def to(self, device: torch.device) -> Self:
        """The batch on this device."""
        maps = None if self.maps is None else self.maps.to(device)
        return replace(
            self,
            images=self.images.to(device),
            masks=self.masks.to(device),
            labelled=self.labelled.to(device),
            maps=maps,
        )


class StoredImages(Protocol):
    """Images as bytes, whether they are in memory or read when asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Stored: ...


class LazyImages:
    """A data set as bytes, each image read when it is asked for."""

    def __init__(self, data: Images) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Stored:
        sample = self.data[index]
        image = (sample.image * 255).round().to(torch.uint8)
        return Stored(image=image, mask=sample.mask.to(torch.uint8))


def store(data: Images) -> list[Stored]:
    """The whole data set in memory."""
    lazy = LazyImages(data)
    return [lazy[i] for i in progress_of(range(len(data)), "reading images")]


def some_of(data: Sized, count: int) -> Subset[Any]:
    """About ``count`` items, spread evenly over the data; all of them where that is 0."""
    every = max(1, len(data) // (count or len(data)))
    return Subset(cast(Any, data), range(0, len(data), every))


def progress_of(items: Sequence[T], description: str) -> Iterable[T]:
    """The items, with a bar of one process on stderr."""
    console = Console(stderr=True)
    shown = PartialState().is_main_process
    return track(items, description, transient=True, console=console, disable=not shown)


def with_base(
    data: Sequence[Stored], bases: Sequence[Base], *, conditioning: str, stride: int
) -> tuple[list[Stored], float]:
    """The data with what a frozen base says of each image, and the bases' mIoU on it.

    Kept are its probabilities at the stride of the state, or its features.

    Args:
        data: the training images.
        bases: the base for each image.
        conditioning: "probs" or "features".
        stride: of the state.
    """
    # each process counts all images
    score = ConfusionMatrix(len(bases[0].config.class_names), sync_on_compute=False)
    stored = []
    pairs = list(zip(data, bases, strict=True))
    for item, base in progress_of(pairs, "running the base"):
        output = base(item.image[None].float() / 255)
        score.update(output.labels, item.mask[None].long())
        maps = _maps(output, conditioning=conditioning, stride=stride)
        stored.append(Stored(item.image, item.mask, maps[0].half().contiguous()))
    return stored, score.compute().miou


def live_base(base: Base, *, conditioning: str, stride: int) -> Callable[[Batch], Batch]:
    """A function that shows the crops of a batch to a frozen base and adds what it says.

    What `with_base` keeps for whole images is made anew for each crop, on the base's device.
    """

    def complete(batch: Batch) -> Batch:
        maps = _maps(base(batch.images), conditioning=conditioning, stride=stride)
        return replace(batch, maps=maps.clone())  # a plain tensor: the base infers

    return complete


def _maps(output: BaseOutput, *, conditioning: str, stride: int) -> Tensor:
    maps = output.features if conditioning == "features" else _coarse(output.probs, stride)
    assert maps is not None
    return maps


def folds_of(data: Images, folds: int) -> list[int]:
    """The fold of each image: whole blocks of the data set, or runs of neighbours, in turn.

    A run has ten images, or as many fewer as it takes that each fold has some.

    Raises:
        InputError: if there are more folds than blocks or images.
    """
    count = len(data)
    run = max(1, min(10, count // folds))
    groups: Sequence[Hashable] = getattr(data, "blocks", None) or [i // run for i in range(count)]
    order = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    if len(order) < folds:
        raise InputError(
            f"{folds} folds need at least as many images, or blocks of them, got {len(order)}; "
            "take fewer folds."
        )
    return [order[group] % folds for group in groups]


def evenly(count: int, share: float) -> list[bool]:
    """Which of so many images belong to a share of them, spread evenly.

    Raises:
        InputError: if that is none.
    """
    if int(count * share) < 1:
        raise InputError(f"{share:g} of {count} images are none; take {1 / count:.2g} or more.")
    return [int((i + 1) * share) > int(i * share) for i in range(count)]


def draw(
    data: StoredImages, config: AugmentConfig, *, batch_size: int, generator: torch.Generator
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
    sizes = {(part.shape[-2], part.shape[-1]) for part in maps}
    if len(sizes) > 1:  # some had to be enlarged
        maps = [F.adaptive_avg_pool2d(part, min(sizes)) for part in maps]
    return Batch(
        images=torch.cat([p.images for p in parts]),
        masks=torch.cat([p.masks for p in parts]),
        labelled=torch.cat([p.labelled for p in parts]),
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
            maps = _enlarge(maps, images.shape[-2:])
    images, masks, maps = augment(images, masks, maps, config, generator=generator)
    labelled = torch.tensor([item.labelled for item in items])
    return Batch(images=images, masks=masks, labelled=labelled, maps=maps)


def _coarse(probs: Tensor, stride: int) -> Tensor:
    """Means of blocks; the last ones may reach over the edge, where pixels are repeated."""
    padded, _ = pad_to_multiple(probs, stride)
    return block_mean(padded, stride)


def _enlarge(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps at the size of images of which they are no whole fraction."""
    h, w = size
    factors = {-(-h // maps.shape[-2]), -(-w // maps.shape[-1])}
    if len(factors) == 1:  # blocks that reach over the edge
        up = F.interpolate(
            maps, scale_factor=float(factors.pop()), mode="bilinear", align_corners=False
        )
        return up[..., :h, :w]
    return F.interpolate(maps, size=(h, w), mode="bilinear", align_corners=False)
