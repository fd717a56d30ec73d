"""The Earth data set: the rules of its tiles and of its split hold."""

import numpy as np
import PIL.Image
import pytest
import torch

from crispmask.data.earth import (
    ASSETS,
    BLOCK,
    EARTH_CLASSES,
    SPLIT_OF_BLOCK,
    TILE_COLUMNS,
    TILE_ROWS,
    earth,
    tile_window,
)
from crispmask.data.sample import read_mask
from crispmask.errors import InputError

DATASETS = {split: earth(split) for split in ("train", "val", "test")}


@pytest.mark.parametrize("split", DATASETS)
def test_tiles_have_land_and_three_classes(split: str) -> None:
    dataset = DATASETS[split]
    for i in range(len(dataset)):
        sample = dataset[i]
        assert sample.image.shape == (3, 128, 128)
        assert sample.mask.shape == (128, 128)
        shares = torch.bincount(sample.mask.flatten(), minlength=len(EARTH_CLASSES)) / 128**2
        assert shares[1:].sum() >= 0.3
        assert (shares > 0.02).sum() >= 3


def test_no_block_is_in_two_splits_and_shares_are_as_said() -> None:
    blocks = {split: set(dataset.blocks) for split, dataset in DATASETS.items()}
    assert sum(map(len, blocks.values())) == len(set.union(*blocks.values()))
    whole = {split: [n for n in data.names if ".5" not in n] for split, data in DATASETS.items()}
    total = sum(map(len, whole.values()))
    for split, share in (("train", 0.60), ("val", 0.15), ("test", 0.25)):
        assert len(whole[split]) / total == pytest.approx(share, abs=0.05)


def row_and_column(name: str) -> tuple[float, float]:
    row, column = name.removeprefix("r").split("c")
    return float(row), float(column)


def test_only_training_tiles_overlap_and_stay_inside_their_block() -> None:
    assert any(".5" in name for name in DATASETS["train"].names)
    assert not any(".5" in name for split in ("val", "test") for name in DATASETS[split].names)
    for name in DATASETS["train"].names:
        assert all(place % BLOCK <= BLOCK - 1 for place in row_and_column(name))


def test_blocks_are_three_by_three_tiles() -> None:
    for dataset in DATASETS.values():
        for name, block in zip(dataset.names, dataset.blocks, strict=True):
            row, column = row_and_column(name)
            assert block == f"b{int(row // BLOCK)}-{int(column // BLOCK):02d}"
    assert len(SPLIT_OF_BLOCK) * BLOCK == TILE_ROWS
    assert {len(row) * BLOCK for row in SPLIT_OF_BLOCK} == {TILE_COLUMNS}


@pytest.mark.parametrize("split", DATASETS)
def test_every_class_and_both_hemispheres_occur(split: str) -> None:
    dataset = DATASETS[split]
    ids = torch.cat([dataset[i].mask.flatten() for i in range(len(dataset))])
    assert (torch.bincount(ids, minlength=len(EARTH_CLASSES)) > 500).all()
    columns = np.array([row_and_column(name)[1] for name in dataset.names])
    assert (columns < TILE_COLUMNS // 2).any()
    assert (columns >= TILE_COLUMNS // 2).any()


def test_rows_lie_between_75_north_and_56_south() -> None:
    top, bottom = tile_window(0, 0)[0].start, tile_window(TILE_ROWS - 1, 0)[0].stop
    assert 90 - top / 15 == 75
    assert 90 - bottom / 15 >= -56
    assert tile_window(0, TILE_COLUMNS - 1)[1].stop <= 5400


def test_picture_and_class_map_are_registered() -> None:
    """Painted water agrees best with the class water where neither is moved."""
    height, width = 512, 768  # Europe
    whole = PIL.Image.open(ASSETS / "earth.jpg")
    red, green, blue = np.moveaxis(np.array(whole)[450:1000, 2500:3300].astype(float), 2, 0)
    water = read_mask(ASSETS / "earth_classes.png")[450 : 450 + height, 2500 : 2500 + width] == 0
    painted = torch.from_numpy((blue > 1.5 * red) & (blue > 1.05 * green))

    def agreement(dy: int, dx: int) -> float:
        y, x = 3 + dy, 3 + dx
        moved = painted[y : y + height - 6, x : x + width - 6]
        return (moved == water[3 : height - 3, 3 : width - 3]).float().mean().item()

    scores = {(dy, dx): agreement(dy, dx) for dy in range(-3, 4) for dx in range(-3, 4)}
    assert max(scores, key=scores.__getitem__) == (0, 0)
    assert scores[0, 0] > 0.95


def test_a_place_has_its_class() -> None:
    """Longitude and latitude of six places."""
    classes = read_mask(ASSETS / "earth_classes.png")
    for name, longitude, latitude in (
        ("forest", -62, -4),  # Amazon
        ("barren", 10, 24),  # Sahara
        ("water", -30, 0),
        ("snow", -40, 72),  # Greenland
        ("cropland", -94, 42),  # Iowa
        ("urban", 139.6, 35.7),  # Tokyo
    ):
        found = classes[int((90 - latitude) * 15), int((longitude + 180) * 15)]
        assert EARTH_CLASSES[int(found)] == name


def test_assets_stay_small() -> None:
    assert sum(path.stat().st_size for path in ASSETS.iterdir()) < 3.5e6


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(InputError, match="train, val, test, got all"):
        earth("all")
