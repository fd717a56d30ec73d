"""ADE20K and Cityscapes, read as they are unpacked."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crispmask.data.ade20k import ADE20K_CLASSES
from crispmask.data.cityscapes import CITYSCAPES_CLASSES
from crispmask.data.pairs import PairDataset
from crispmask.data.source import open_split
from crispmask.errors import InputError
from crispmask.shapes import IGNORE
from published_layouts import ade20k_folder, cityscapes_folder


def values(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).long()


def test_the_class_names() -> None:
    assert len(set(ADE20K_CLASSES)) == len(ADE20K_CLASSES) == 150
    known = {0: "wall", 12: "person", 44: "chest of drawers", 100: "poster", 149: "flag"}
    assert all(ADE20K_CLASSES[i] == name for i, name in known.items())
    assert len(set(CITYSCAPES_CLASSES)) == len(CITYSCAPES_CLASSES) == 19


def test_ade20k(tmp_path: Path) -> None:
    folder = ade20k_folder(tmp_path)
    train, val = (open_split(f"ade20k:{folder}", split) for split in ("train", "val"))
    assert isinstance(train, PairDataset)
    assert (len(train), len(val)) == (3, 2)
    assert train.class_names == ADE20K_CLASSES
    assert train.names[0] == "ADE_train_00000001"
    for i, sample in enumerate((train[0], train[1])):
        stored = values(folder / "annotations" / "training" / f"{train.names[i]}.png")
        assert sample.image.shape == (3, *stored.shape)
        assert torch.equal(sample.mask, torch.where(stored == 0, IGNORE, stored - 1))
    assert {0, 56, 149, IGNORE} <= set(
        torch.cat([train[i].mask.flatten() for i in range(3)]).tolist()
    )


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_cityscapes(tmp_path: Path, kind: str) -> None:
    data = open_split(f"cityscapes:{cityscapes_folder(tmp_path, kind=kind)}", "train")
    assert isinstance(data, PairDataset)
    assert data.class_names == CITYSCAPES_CLASSES
    assert data.names == [f"{c}_{i:06d}_000019" for c in ("aachen", "ulm") for i in range(2)]
    label = (
        tmp_path
        / "cityscapes"
        / "gtFine"
        / "train"
        / "ulm"
        / f"ulm_000001_000019_gtFine_{kind}.png"
    )
    stored, mask = values(label), data[3].mask
    meaning = {0: 255, 3: 255, 7: 0, 11: 2, 33: 18}
    if kind == "labelTrainIds":
        meaning = {i: i for i in (255, 0, 2, 18)}
    for value, label_id in meaning.items():
        assert (stored == value).any()
        assert (mask[stored == value] == label_id).all()
    assert open_split(f"cityscapes:{tmp_path / 'cityscapes'}", "val").names[0].startswith("lindau")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("ade20k", "ade20k needs its folder: give ade20k:FOLDER"),
        ("cityscapes:", "cityscapes needs its folder: give cityscapes:FOLDER"),
        ("ade20k:{root}", r"images/training is missing; give .*ADEChallengeData2016"),
        ("cityscapes:{root}", r"leftImg8bit/train is missing; unpack leftImg8bit_trainvaltest"),
    ],
)
def test_wrong_folders(tmp_path: Path, source: str, message: str) -> None:
    ade20k_folder(tmp_path)
    with pytest.raises(InputError, match=message):
        open_split(source.format(root=tmp_path), "train")


def test_no_labels_for_test(tmp_path: Path) -> None:
    for source in (
        f"ade20k:{ade20k_folder(tmp_path)}",
        f"cityscapes:{cityscapes_folder(tmp_path)}",
    ):
        with pytest.raises(InputError, match="labels for train and val alone, got 'test'"):
            open_split(source, "test")


def test_files_that_are_missing(tmp_path: Path) -> None:
    ade, city = ade20k_folder(tmp_path), cityscapes_folder(tmp_path)
    (ade / "annotations" / "training" / "ADE_train_00000002.png").unlink()
    with pytest.raises(InputError, match=r"3 images needs a label, 1 have none .*00000002\.png"):
        open_split(f"ade20k:{ade}", "train")
    for path in (city / "gtFine" / "train" / "ulm").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="4 images needs a label, 2 have none"):
        open_split(f"cityscapes:{city}", "train")
    for path in (city / "leftImg8bit" / "val" / "lindau").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"needs CITY/\*_leftImg8bit\.png, it has none"):
        open_split(f"cityscapes:{city}", "val")
    for path in (ade / "images" / "validation").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="validation holds no image"):
        open_split(f"ade20k:{ade}", "val")


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    folder = ade20k_folder(tmp_path)
    label = folder / "annotations" / "training" / "ADE_train_00000001.png"
    data = open_split(f"ade20k:{folder}", "train")
    Image.fromarray(np.full((48, 64), 151, np.uint8)).save(label)
    with pytest.raises(InputError, match=r"values between 0 and 150 .* got \[151\]"):
        data[0]
    Image.fromarray(np.full((48, 64), 3000, np.uint16)).save(label)
    with pytest.raises(InputError, match=r"got \[3000\]"):
        data[0]
    Image.fromarray(np.zeros((64, 48), np.uint8)).save(label)
    with pytest.raises(InputError, match=r"is 48x64 and .* is 64x48"):
        data[0]
