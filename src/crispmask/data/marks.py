"""Where a person would click."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64
from scipy import ndimage
from torch import Tensor, arange

Place = Bool[Tensor, "h w"]
"""Pixels of an image."""


def innermost(inside: Place) -> tuple[int, int]:
    """Row and column of the pixel of a region that is farthest from its border."""
    padded = np.pad(inside.numpy(), 1)  # the edge of the image is a border
    depth = ndimage.distance_transform_edt(padded)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(y), int(x)


def disc(shape: Sequence[int], y: int, x: int, radius: int) -> Place:
    """Pixels at most so far from one."""
    return squared_distance(shape, y, x) <= radius**2


def squared_distance(shape: Sequence[int], y: int, x: int) -> Int64[Tensor, "h w"]:
    """Squared distance of each pixel from one."""
    rows, columns = arange(shape[0])[:, None], arange(shape[1])
    return (rows - y).square() + (columns - x).square()
