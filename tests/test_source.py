"""Data sets by name."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crispmask.data.catalog import CAMVID_CLASSES, shared_data
from crispmask.data.earth import EARTH_CLASSES, EarthDataset
from crispmask.data.folder import FolderDataset
from crispmask.data.source import Split, open_data, open_split
from crispmask.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images to train, one each to validate and test."""
    (tmp_path / "classes.txt").write_text("land\n\n deep water \n", encoding="utf-8")
    for split, count in (("train", 2), ("val", 1), ("test", 1)):
        for part, mode in (("images", "RGB"), ("labels", "L")):
            (tmp_path / split / part).mkdir(parents=True)
            for i in range(count):
                Image.new(mode, (8, 6)).save(tmp_path / split / part / f"{split}{i}.png")
    return tmp_path


def test_a_folder(folder: Path) -> None:
    splits: tuple[Split, ...] = ("train", "val", "test")
    opened = [open_split(str(folder), split) for split in splits]
    assert [len(data) for data in opened] == [2, 1, 1]
    assert opened[0].class_names == ("land", "deep water")
    assert opened[1][0].name == "val0"
    assert opened[1][0].mask.shape == (6, 8)


def test_a_folder_without_the_split(folder: Path) -> None:
    for path in (folder / "test" / "images").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="holds no image"):
        open_split(str(folder), "test")
    (folder / "test" / "images").rmdir()
    with pytest.raises(InputError, match="does not exist"):
        open_split(str(folder), "test")


@pytest.mark.parametrize("source", ["nowhere", "earth:north", "Earth", "", "camvid2"])
def test_no_such_data_set(source: str) -> None:
    with pytest.raises(InputError, match="is no data set: needed is 'earth', 'camvid:FOLDER'"):
        open_split(source, "train")


@pytest.mark.parametrize("text", ["", "land\n", "land\nland\n"])
def test_too_few_classes(folder: Path, text: str) -> None:
    (folder / "classes.txt").write_text(text)
    with pytest.raises(InputError, match="at least two different class names"):
        open_split(str(folder), "train")


def test_classes_that_are_no_text(folder: Path) -> None:
    (folder / "classes.txt").write_bytes(np.full(100, 255, np.uint8).tobytes())
    with pytest.raises(InputError, match=r"classes\.txt cannot be read as text"):
        open_split(str(folder), "train")


def test_earth() -> None:
    data = open_split("earth", "val")
    assert isinstance(data, EarthDataset)
    assert data.class_names == EARTH_CLASSES


def test_camvid_in_a_folder(folder: Path) -> None:
    data = open_split(f"camvid:{folder}", "val")
    assert isinstance(data, FolderDataset)
    assert data.class_names == CAMVID_CLASSES
    assert data.names == ["val0"]


def test_camvid_without_the_split(folder: Path) -> None:
    (folder / "test").rename(folder / "elsewhere")
    with pytest.raises(InputError, match="has no folder test; camvid needs test/images"):
        open_split(f"camvid:{folder}", "test")


def test_camvid_of_the_shared_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "camvid").mkdir()
    (folder / "val").rename(folder / "camvid" / "val")
    monkeypatch.setenv("CRISPMASK_DATA", str(folder))
    assert open_split("camvid", "val").names == ["val0"]


def test_camvid_without_shared_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crispmask.data.source.shared_data", lambda: None)
    with pytest.raises(InputError, match="camvid needs its folder: give camvid:FOLDER"):
        open_split("camvid", "train")


# what the commands that measure take


def test_data_by_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_data("earth", split="val").blocks == open_data("earth:val").blocks  # type: ignore[union-attr]
    assert len(open_data("fields")) > len(open_data("fields:val"))
    assert open_data(f"camvid:{folder}/val").class_names == CAMVID_CLASSES
    monkeypatch.setattr("crispmask.data.source.shared_data", lambda: folder.parent)
    folder.rename(folder.parent / "camvid")
    assert open_data("camvid", split="val")[0].name == "val0"


def test_data_in_a_folder_brings_its_names(folder: Path) -> None:
    others = ("a", "b")
    assert open_data(f"{folder}/val", class_names=others).class_names == ("land", "deep water")
    (folder / "classes.txt").unlink()
    assert open_data(f"{folder}/val", class_names=others).class_names == others
    with pytest.raises(InputError, match=r"needs a file classes\.txt"):
        open_data(f"{folder}/val")


@pytest.mark.parametrize("kind", ["camvid", "ade20k"])
def test_data_without_its_part(folder: Path, kind: str) -> None:
    with pytest.raises(InputError, match=f"{kind}:FOLDER/val for instance, got .*; end it with"):
        open_data(f"{kind}:{folder}")
    with pytest.raises(InputError, match="'mapillary:x/val' is no data set: needed is 'earth'"):
        open_data("mapillary:x/val")


@pytest.mark.skipif(
    shared_data() is None or not (shared_data() / "camvid").is_dir(),  # type: ignore[operator]
    reason="CamVid is not in the shared data",
)
def test_the_real_camvid() -> None:
    assert len(open_split("camvid", "train")) == 367


def test_a_folder_of_the_name_of_an_included_data_set_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "earth" / "train").mkdir(parents=True)
    with pytest.warns(UserWarning, match=r"not the folder here .* write \./earth"):
        assert len(open_split("earth", "test")) == 50
    with pytest.raises(InputError, match="no data set"):
        open_split("./earth", "test")
