"""Land cover of the Earth: a picture and a class map that come with the package.

NASA's Blue Marble (2004) and MODIS land cover (MCD12C1 v006 of 2019), both in the public domain,
on one grid of 4 arc minutes. What a number on this data means: the ocean is painted, the picture
is fifteen years older than the labels, and a classifier made the labels, at 5.6 km.
`scripts/build_earth.py` builds the files.
"""

from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from crispmask.data.sample import Sample, read_mask
from crispmask.errors import InputError

ASSETS = Path(__file__).parent / "assets"

EARTH_CLASSES = (
    "water",
    "forest",
    "shrubland",
    "savanna",
    "grassland",
    "wetland",
    "cropland",
    "urban",
    "snow",
    "barren",
)

EARTH_PALETTE = (
    (40, 90, 170),
    (20, 95, 40),
    (165, 120, 60),
    (150, 170, 60),
    (190, 220, 110),
    (60, 170, 160),
    (240, 190, 60),
    (215, 40, 45),
    (240, 245, 250),
    (190, 175, 155),
)

TILE = 128
TOP = 225  # 75 N; the last row of tiles ends at 53 S, the last full one before 56 S
TILE_ROWS, TILE_COLUMNS = 15, 42
BLOCK = 3  # tiles along a side of a block

SPLIT_OF_BLOCK = (
    "tetvettvttttet",
    "..ttv.teteett.",
    "...et.tvttte..",
    "....te.tv...t.",
    "....t..ee..tv.",
)
"""Map of the blocks, west to east and north to south: t train, v val, e test, . no land enough.

Drawn once by `scripts/build_earth.py`, so that the splits are alike in regions and classes.
"""

_LETTER = {"train": "t", "val": "v", "test": "e"}


def tile_window(row: float, column: float) -> tuple[slice, slice]:
    """Pixels of a tile in picture and class map; half a row or column is half a tile."""
    y, x = TOP + int(row * TILE), int(column * TILE)
    return slice(y, y + TILE), slice(x, x + TILE)


def accepted(counts: npt.NDArray[np.int64]) -> bool:
    """Whether a tile of these class counts is used: 30 % land, and 3 classes above 2 %."""
    shares = counts / counts.sum()
    return bool(shares[1:].sum() >= 0.3 and (shares > 0.02).sum() >= 3)


@cache
def _picture() -> UInt8[Tensor, "3 2700 5400"]:
    # not through read_image: the whole Earth in floats takes 175 MB
    rgb = np.array(PIL.Image.open(ASSETS / "earth.jpg"))  # h w 3
    return torch.from_numpy(rgb).permute(2, 0, 1).contiguous()


@cache
def _classes() -> UInt8[Tensor, "2700 5400"]:
    return read_mask(ASSETS / "earth_classes.png", len(EARTH_CLASSES)).to(torch.uint8)


class EarthDataset(Dataset[Sample]):
    """Tiles of 128 x 128 with ten classes; see `earth`.

    Attributes:
        class_names: in the order of the ids.
        names: row and column of each tile, like ``r03c17``.
        blocks: the block of 3 x 3 tiles that each tile is in, like ``b1-05``; tiles of a block
            are alike, so a bootstrap should draw blocks.
    """

    def __init__(self, split: str) -> None:
        if split not in _LETTER:
            raise InputError(f"split must be one of {', '.join(_LETTER)}, got {split}.")
        self.class_names = EARTH_CLASSES
        self._windows: list[tuple[slice, slice]] = []
        self.names: list[str] = []
        self.blocks: list[str] = []
        for i, letters in enumerate(SPLIT_OF_BLOCK):
            for j, letter in enumerate(letters):
                if letter == _LETTER[split]:
                    self._add_block(i, j, step=0.5 if split == "train" else 1)

    def _add_block(self, i: int, j: int, *, step: float) -> None:
        """Accepted tiles inside a block, at every ``step`` tiles."""
        places = [k * step for k in range(int((BLOCK - 1) / step) + 1)]
        for row, column in product(places, places):
            row, column = i * BLOCK + row, j * BLOCK + column
            window = tile_window(row, column)
            tile = _classes()[window].flatten()
            if accepted(torch.bincount(tile, minlength=len(EARTH_CLASSES)).numpy()):
                self._windows.append(window)
                name = f"r{row:02g}c{column:02g}" if step == 1 else f"r{row:04.1f}c{column:04.1f}"
                self.names.append(name)
                self.blocks.append(f"b{i}-{j:02d}")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        rows, columns = self._windows[index]
        image = _picture()[:, rows, columns].float() / 255
        return Sample(image, _classes()[rows, columns].long(), self.names[index])


def earth(split: str) -> EarthDataset:
    """Tiles of the Earth between 75 N and 53 S, split by blocks of 3 x 3 tiles.

    A tile needs 30 % land and 3 classes above 2 % of its pixels. About 60, 15 and 25 % of the
    tiles are ``train``, ``val`` and ``test``.

    Raises:
        InputError: if `split` is none of these.
    """
    return EarthDataset(split)
