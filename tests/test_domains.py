"""Published data sets of other domains, in tiny folders of their true layout."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crispmask.data.decoded import read_colours
from crispmask.data.domains import ISAID_COLOURS, POTSDAM_COLOURS, POTSDAM_TEST
from crispmask.data.source import Split, open_split
from crispmask.errors import InputError
from crispmask.shapes import IGNORE

ISAID_USED = ("background", "ship", "Helicopter", "Harbor")

RNG = np.random.default_rng(0)


def picture(path: Path, values: np.ndarray | None = None) -> None:
    """A file of these values, or a picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = RNG.integers(0, 256, (16, 24, 3))
    Image.fromarray((noise if values is None else values).astype(np.uint8)).save(path)


def stripes(*values: int) -> np.ndarray:
    """16 x 24 pixels with the values in columns of equal width."""
    return np.tile(np.repeat(values, 24 // len(values)), (16, 1))


def in_colours(*colours: tuple[int, int, int]) -> np.ndarray:
    return np.tile(np.repeat(colours, 24 // len(colours), axis=0), (16, 1, 1))


def loveda(root: Path) -> None:
    for split in ("Train", "Val"):
        for area, numbers in (("Urban", (1366, 1367)), ("Rural", (0,))):
            for n in numbers:
                picture(root / split / area / "images_png" / f"{n}.png")
                label = root / split / area / "masks_png" / f"{n}.png"
                picture(label, stripes(*range(8)))


def potsdam(root: Path) -> None:
    for tile in ("2_10", "7_12", "2_13"):
        picture(root / "2_Ortho_RGB" / f"top_potsdam_{tile}_RGB.tif")
        (root / "2_Ortho_RGB" / f"top_potsdam_{tile}_RGB.tfw").write_text("0.05\n")
        label = root / "5_Labels_all" / f"top_potsdam_{tile}_label.tif"
        picture(label, in_colours(*POTSDAM_COLOURS.values()) // 255 * 252)


def isaid(root: Path) -> None:
    colours = in_colours(*(ISAID_COLOURS[name] for name in ISAID_USED))
    for split, numbers in (("train", (2, 10)), ("val", (3,))):
        for n in numbers:
            picture(root / split / "images" / f"P{n:04d}.png")
            picture(root / split / "images" / f"P{n:04d}_instance_color_RGB.png", colours)
            picture(root / split / "images" / f"P{n:04d}_instance_id_RGB.png")


def kvasir(root: Path) -> None:
    for name in ("cju0qkwl35piu0993l0dewei2", "cju0qoxqj9q6s0835b43399p4", "cju0rx1idathl08"):
        picture(root / "images" / f"{name}.jpg")
        picture(root / "masks" / f"{name}.jpg", stripes(0, 255)[..., None].repeat(3, 2))
    (root / "train.txt").write_text("cju0qkwl35piu0993l0dewei2\ncju0qoxqj9q6s0835b43399p4\n")
    (root / "val.txt").write_text("cju0rx1idathl08\n")


def isic2018(root: Path) -> None:
    for part, numbers in (("Training", (0, 1)), ("Validation", (12255,)), ("Test", (12169,))):
        for n in numbers:
            picture(root / f"ISIC2018_Task1-2_{part}_Input" / f"ISIC_{n:07d}.jpg")
            labels = root / f"ISIC2018_Task1_{part}_GroundTruth"
            picture(labels / f"ISIC_{n:07d}_segmentation.png", stripes(0, 255))
        (root / f"ISIC2018_Task1-2_{part}_Input" / "LICENSE.txt").write_text("CC-0\n")


def phenobench(root: Path) -> None:
    for split, number in (("train", 2), ("val", 1)):
        for n in range(number):
            name = f"05-15_00028_P0030{n}.png"
            picture(root / split / "images" / name)
            picture(root / split / "semantics" / name, stripes(0, 1, 2, 3, 4, 0))
            picture(root / split / "leaf_instances" / name, stripes(0))


def cwfid(root: Path) -> None:
    for n in range(1, 5):
        picture(root / "images" / f"{n:03d}_image.png")
        picture(root / "masks" / f"{n:03d}_mask.png", stripes(0, 255))
        colours = ((0, 0, 0), (0, 255, 0), (255, 0, 0))
        picture(root / "annotations" / f"{n:03d}_annotation.png", in_colours(*colours))
    (root / "train_test_split.yaml").write_text("train: [2, 3, 4]\ntest: [1, 4]\n")


def pascal(root: Path, lists: str, labels: str, values: np.ndarray) -> None:
    """Two pictures to learn from and one to test, labels with a palette."""
    splits = {"train": ("2007_000032", "2007_000039"), "val": ("2007_000033",)}
    for split, names in splits.items():
        path = root / "ImageSets" / lists / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}\n" for name in names))
        for name in names:
            picture(root / "JPEGImages" / f"{name}.jpg")
            label = Image.fromarray(values.astype(np.uint8))
            label.putpalette(RNG.integers(0, 256, 768).astype(np.uint8).tobytes())
            (root / labels).mkdir(parents=True, exist_ok=True)
            label.save(root / labels / f"{name}.png")


def voc(root: Path) -> None:
    pascal(root, "Segmentation", "SegmentationClass", stripes(0, 1, 20, IGNORE))


def pascal_context(root: Path) -> None:
    pascal(root, "SegmentationContext", "SegmentationClassContext", stripes(0, 1, 2, 59))


def coco_stuff(root: Path) -> None:
    for split, count in (("train", 2), ("val", 1)):
        for n in range(count):
            picture(root / "images" / f"{split}2017" / f"{n:012d}.jpg")
            label = root / "annotations" / f"{split}2017" / f"{n:012d}.png"
            picture(label, stripes(0, 12, 89, 91, 181, IGNORE))


LAYOUTS: dict[str, tuple[Callable[[Path], None], dict[Split, int], list[int]]] = {
    "loveda": (loveda, {"train": 3, "val": 3}, [IGNORE, *range(7)]),
    "potsdam": (potsdam, {"train": 2, "test": 1}, list(range(6))),
    "isaid": (isaid, {"train": 2, "val": 1}, [0, 1, 10, 15]),
    "kvasir": (kvasir, {"train": 2, "val": 1}, [0, 1]),
    "isic2018": (isic2018, {"train": 2, "val": 1, "test": 1}, [0, 1]),
    "phenobench": (phenobench, {"train": 2, "val": 1}, [0, 1, 2, 1, 2, 0]),
    "cwfid": (cwfid, {"train": 2, "test": 2}, [0, 1, 2]),
    "voc": (voc, {"train": 2, "val": 1}, [0, 1, 20, IGNORE]),
    "voc20": (voc, {"train": 2, "val": 1}, [IGNORE, 0, 19, IGNORE]),
    "pascal-context": (pascal_context, {"train": 2, "val": 1}, [IGNORE, 0, 1, 58]),
    "coco-stuff": (coco_stuff, {"train": 2, "val": 1}, [0, 11, 79, 80, 170, IGNORE]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_published_layout(name: str, tmp_path: Path) -> None:
    build, sizes, ids = LAYOUTS[name]
    build(tmp_path)
    for split, size in sizes.items():
        data = open_split(f"{name}:{tmp_path}", split)
        assert len(data) == size
        assert len(set(data.class_names)) == len(data.class_names) > max(set(ids) - {IGNORE})
        for i in range(size):
            sample = data[i]
            assert sample.image.shape == (3, 16, 24)
            assert torch.equal(sample.mask, torch.from_numpy(stripes(*ids)))
    splits: tuple[Split, ...] = ("train", "val", "test")
    for missing in set(splits) - set(sizes):
        with pytest.raises(InputError, match=f"alone, got '{missing}'"):
            open_split(f"{name}:{tmp_path}", missing)


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_empty_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=str(tmp_path)):
        open_split(f"{name}:{tmp_path}", "train")
    with pytest.raises(InputError, match=f"{name} needs its folder"):
        open_split(name, "train")


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_missing_label_is_named(name: str, tmp_path: Path) -> None:
    LAYOUTS[name][0](tmp_path)
    folders = ("masks_png", "5_Labels_all", "masks", "semantics", "annotations")
    kinds = ("GroundTruth", "SegmentationClass", "annotations", "_instance_color_")
    for path in tmp_path.rglob("*.*"):
        if path.parent.name in folders or any(kind in str(path) for kind in kinds):
            path.unlink()
    with pytest.raises(InputError, match=r"missing \(first|have none \(first"):
        open_split(f"{name}:{tmp_path}", "train")


def test_names_tell_areas_and_tiles_apart(tmp_path: Path) -> None:
    loveda(tmp_path)
    assert open_split(f"loveda:{tmp_path}", "val").names == ["urban-1366", "urban-1367", "rural-0"]
    potsdam(tmp_path)
    assert open_split(f"potsdam:{tmp_path}", "test").names == ["2_13"]
    assert len(set(POTSDAM_TEST)) == 14
    cwfid(tmp_path)  # number 4 is in both lists
    assert open_split(f"cwfid:{tmp_path}", "train").names == ["002", "003"]


def test_a_colour_of_no_class_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "label.png"
    picture(path, in_colours((0, 0, 0), (0, 250, 3), (9, 9, 9)))
    colours = {(0, 0, 0): 0, (0, 255, 0): 4}
    with pytest.raises(InputError, match=r"256 pixels of a colour .* the first is \[0, 250, 3\]"):
        read_colours(path, colours)
    assert set(read_colours(path, colours, tolerance=9).flatten().tolist()) == {0, 4}


def test_ids_of_photos_are_those_of_the_lists(tmp_path: Path) -> None:
    coco_stuff(tmp_path)
    names = open_split(f"coco-stuff:{tmp_path}", "val").class_names
    assert [names[i] for i in (0, 11, 79, 80)] == ["person", "stop sign", "toothbrush", "banner"]
    pascal_context(tmp_path)
    names = open_split(f"pascal-context:{tmp_path}", "val").class_names
    assert (names[0], names[1]) == ("aeroplane", "bag")
