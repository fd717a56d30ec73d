"""Connected regions of a mask, and what a map of numbers says of each of them."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy import ndimage
from torch import Tensor

from crispmask.shapes import IGNORE

Box = tuple[int, int, int, int]
"""Top, left, bottom and right in pixels; bottom and right are the first row and column outside."""


@dataclass(frozen=True)
class Regions:
    """The connected regions of one mask, numbered from 0 class by class.

    Attributes:
        index: number of each pixel's region, -1 where the label is `IGNORE`.
        labels: class of each region.
        areas: pixels of each region.
        boxes: the smallest box around each region.
    """

    index: Int64[Tensor, "h w"]
    labels: Int64[Tensor, "n"]
    areas: Int64[Tensor, "n"]
    boxes: tuple[Box, ...]

    def __len__(self) -> int:
        return len(self.boxes)

    def means(
        self, values: Float[Tensor, "c h w"], weights: Float[Tensor, "h w"] | None = None
    ) -> Float[Tensor, "n c"]:
        """Mean of each channel over the pixels of each region, all alike or by weight."""
        known = self.index >= 0
        numbers = self.index[known]
        weights = torch.ones(self.index.shape) if weights is None else weights
        each = weights[known].double()
        totals = torch.zeros(len(self), len(values), dtype=torch.float64)
        totals.index_add_(0, numbers, values.cpu()[:, known].T.double() * each[:, None])
        share = torch.zeros(len(self), dtype=torch.float64).index_add_(0, numbers, each)
        return (totals / share[:, None]).to(values.dtype)

    def depth(self) -> Float[Tensor, "h w"]:
        """Distance of each pixel from the next border between regions; 1 beside it."""
        index = self.index.numpy()
        border = np.zeros(index.shape, dtype=bool)
        for axis in (0, 1):
            changes = np.diff(index, axis=axis) != 0
            for side in (0, 1):  # both sides of a border belong to it
                width = [(0, 0), (0, 0)]
                width[axis] = (1 - side, side)
                border |= np.pad(changes, width)
        if not border.any():
            return torch.ones(index.shape)
        return torch.from_numpy(ndimage.distance_transform_edt(~border) + 1).float()

    def find(self, label: int, area: int, box: Box) -> int:
        """Number of the region with this label, area and box.

        Raises:
            ValueError: if there is none.
        """
        facts = zip(self.labels.tolist(), self.areas.tolist(), self.boxes, strict=True)
        return list(facts).index((label, area, box))


def regions_of(mask: Int64[Tensor, "h w"]) -> Regions:
    """Pixels of one class that touch along a side belong to one region."""
    labels = mask.cpu().numpy()
    index = np.full(labels.shape, -1, dtype=np.int64)
    owners: list[int] = []
    boxes: list[Box] = []
    for label in np.unique(labels):
        if label == IGNORE:
            continue
        numbered, count = ndimage.label(labels == label)
        index = np.where(numbered > 0, numbered + len(owners) - 1, index)
        owners += count * [int(label)]
        boxes += [
            (rows.start, columns.start, rows.stop, columns.stop)
            for rows, columns in ndimage.find_objects(numbered)
        ]
    areas = np.bincount(index[index >= 0], minlength=len(owners))
    return Regions(
        index=torch.from_numpy(index),
        labels=torch.tensor(owners, dtype=torch.long),
        areas=torch.from_numpy(areas.astype(np.int64)),
        boxes=tuple(boxes),
    )


def turns(
    mask: Int64[Tensor, "h w"], count: int, generator: torch.Generator
) -> Int64[Tensor, "h w"]:
    """One of ``count`` turns for each pixel, the same throughout a region, the regions shared out.

    Pixels without a label are in turn 0.
    """
    found = regions_of(mask)
    order = torch.randperm(max(len(found), 1), generator=generator) % count
    return order[found.index.clamp(min=0)].where(found.index >= 0, 0)
