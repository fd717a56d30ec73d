"""Folders of images and labels, and the catalogue of known data sets."""

import os
from pathlib import Path

import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest
import torch

from crispmask.data.catalog import (
    CAMVID_CLASSES,
    CAMVID_PALETTE,
    camvid,
    palette_for,
    shared_data,
)
from crispmask.data.check import check_folder
from crispmask.data.earth import EARTH_CLASSES, EARTH_PALETTE
from crispmask.data.folder import FolderDataset, files_by_stem, read_class_names
from crispmask.errors import InputError
from crispmask.models.inputs import as_base_output, check_same_size
from crispmask.shapes import IGNORE


def grey(path: Path, value: int = 0, size: tuple[int, int] = (4, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.full(size, value, np.uint8)).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i, name in enumerate(("b", "a", "c")):
        grey(tmp_path / "images" / f"{name}.{'jpg' if i else 'png'}", 51 * i)
        grey(tmp_path / "labels" / f"{name}.png", i)
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    return tmp_path


def folder(root: Path) -> FolderDataset:
    return FolderDataset(root / "images", root / "labels", class_names=("x", "y", "z"))


def test_pairs_are_matched_by_name_whatever_the_suffix(root: Path) -> None:
    dataset = folder(root)
    assert dataset.names == ["a", "b", "c"]
    assert [path.name for path in dataset.paths] == ["a.jpg", "b.png", "c.jpg"]
    assert dataset.class_names == ("x", "y", "z")
    samples = [dataset[i] for i in range(len(dataset))]
    assert [sample.name for sample in samples] == dataset.names
    assert [int(sample.mask[0, 0]) for sample in samples] == [1, 0, 2]


def test_without_labels_everything_is_unknown(root: Path) -> None:
    sample = FolderDataset(root / "images", None, class_names=("x", "y"))[0]
    assert sample.mask.shape == (4, 6)
    assert (sample.mask == IGNORE).all()


def test_construction_names_what_is_missing(root: Path, tmp_path: Path) -> None:
    (root / "labels" / "c.png").unlink()
    with pytest.raises(InputError, match=r"each of the 3 images.*lacks 1 \(first: c\)"):
        folder(root)
    with pytest.raises(InputError, match="nowhere does not exist"):
        FolderDataset(tmp_path / "nowhere", None, class_names=("x",))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no image; expected files ending in"):
        FolderDataset(tmp_path / "empty", None, class_names=("x",))


def test_two_files_of_one_name_are_ambiguous(root: Path) -> None:
    grey(root / "images" / "a.png")
    with pytest.raises(InputError, match=r"both a\.jpg and a\.png"):
        folder(root)


def test_sizes_and_ids_are_checked_when_read(root: Path) -> None:
    grey(root / "labels" / "a.png", size=(4, 5))
    grey(root / "labels" / "b.png", value=3)
    dataset = folder(root)
    with pytest.raises(InputError, match=r"a\.jpg is 4x6 and .*a\.png is 4x5"):
        dataset[0]
    with pytest.raises(InputError, match=r"b\.png needs ids from 0 to 2.*got 3 in 24 pixels"):
        dataset[1]


def test_labels_are_those_of_the_photo_as_it_is_shown(root: Path) -> None:
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 6
    photo = PIL.Image.fromarray(np.zeros((6, 4), np.uint8))  # shown: 4x6, as its label
    photo.save(root / "images" / "a.jpg", exif=exif)
    assert folder(root)[0].image.shape == (3, 4, 6)
    grey(root / "labels" / "a.png", size=(6, 4))
    with pytest.raises(InputError, match=r"4x6 and .* is 6x4 .*as viewers show it.*EXIF"):
        folder(root)[0]
    (problem,) = check_folder(root / "images", root / "labels").problems
    assert "as viewers show it" in problem
    with pytest.raises(InputError, match=r"4x6 and 1 of 6x4.*as viewers show it"):
        check_same_size(
            torch.rand(1, 3, 4, 6), as_base_output(np.zeros((6, 4), int), num_classes=2)
        )


def test_shared_data_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRISPMASK_DATA", str(tmp_path))
    assert shared_data() == tmp_path
    monkeypatch.setenv("CRISPMASK_DATA", str(tmp_path / "gone"))
    with pytest.raises(InputError, match="CRISPMASK_DATA must name a folder"):
        shared_data()


def test_camvid_is_read() -> None:
    data = shared_data()
    if data is None or not (data / "camvid").is_dir():
        pytest.skip("CamVid is not here: set CRISPMASK_DATA to the folder that holds camvid/")
    train, val = camvid(data / "camvid", "train"), camvid(data / "camvid", "val")
    assert (len(train), len(val)) == (367, 101)
    assert not set(train.names) & set(val.names)
    sample = val[0]
    assert sample.image.shape == (3, 360, 480)
    ahead = sample.mask[240:300].flatten()  # below the middle of a picture from a car
    assert CAMVID_CLASSES[int(torch.bincount(ahead)[:11].argmax())] == "road"


@pytest.mark.parametrize("count", [1, 11, 40])
def test_every_class_has_a_colour_of_its_own(count: int) -> None:
    colours = palette_for([f"class {i}" for i in range(count)])
    assert len(set(colours)) == count
    assert torch.tensor(colours).amax() <= 255


def test_known_classes_have_known_colours() -> None:
    assert palette_for(list(CAMVID_CLASSES)) == CAMVID_PALETTE
    assert palette_for(EARTH_CLASSES) == EARTH_PALETTE
    for names, palette in ((CAMVID_CLASSES, CAMVID_PALETTE), (EARTH_CLASSES, EARTH_PALETTE)):
        assert len(set(palette)) == len(palette) == len(names)


def test_a_list_of_classes_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfsky\r\nground\r\n")
    assert read_class_names(tmp_path / "classes.txt") == ("sky", "ground")


def test_a_file_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"Stra\xdfe.png")).write_bytes(b"")
    with pytest.raises(InputError, match=r"udcdfe\.png', no name in UTF-8; rename it"):
        files_by_stem(tmp_path, (".png",))
