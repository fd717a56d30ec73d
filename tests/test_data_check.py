"""The check of a folder finds each kind of problem and counts the rest."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from crispmask.data.check import check_folder
from crispmask.errors import InputError
from crispmask.shapes import IGNORE


def put(path: Path, pixels: list[list[int]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    PIL.Image.fromarray(np.array(pixels, np.uint8)).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, label in (("a", [[0, 0, 1], [1, 1, IGNORE]]), ("b", [[0, 0, 0], [0, 1, IGNORE]])):
        put(tmp_path / "images" / f"{name}.png", [[9, 9, 9], [9, 9, 9]])
        put(tmp_path / "labels" / f"{name}.png", label)
    return tmp_path


def test_a_good_folder_is_counted(root: Path) -> None:
    report = check_folder(root / "images", root / "labels", ("sky", "sea", "ice"))
    assert report.problems == ()
    assert (report.num_images, report.num_labels, report.num_pairs) == (2, 2, 2)
    assert report.sizes == {(2, 3): 2}
    assert report.pixels == {0: 6, 1: 4}
    assert report.void == pytest.approx(2 / 12)
    assert report.shares == pytest.approx({"sky": 0.6, "sea": 0.4, "ice": 0.0})
    text = report.summary()
    assert "2 usable pairs" in text
    assert "sky: 60.00%" in text
    assert "no problems" in text


def test_without_names_shares_are_by_id(root: Path) -> None:
    assert check_folder(root / "images", root / "labels").shares == {"0": 0.6, "1": 0.4}


def test_every_problem_has_its_sentence(root: Path) -> None:
    images, labels = root / "images", root / "labels"
    put(images / "alone.png", [[1]])
    put(labels / "orphan.png", [[1]])
    put(images / "small.png", [[1]])
    put(labels / "small.png", [[1, 1]])
    put(images / "wild.png", [[1]])
    put(labels / "wild.png", [[7]])
    put(images / "cut.png", [[1]]).write_bytes(b"cut")
    put(labels / "cut.png", [[1]])
    report = check_folder(images, labels, ("sky", "sea"))
    expected = {
        "alone.png has no label of the same name",
        "orphan.png has no image of the same name",
        "small.png is 1x1 and",
        "wild.png needs ids from 0 to 1",
        "cut.png cannot be read as an image",
    }
    assert len(report.problems) == len(expected)
    for part in expected:
        assert sum(part in problem for problem in report.problems) == 1, part
    assert report.num_pairs == 2
    assert "5 problems" in report.summary()


def test_empty_and_unlabelled_folders_are_problems(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    report = check_folder(tmp_path / "images", tmp_path / "labels")
    assert "holds no image" in report.problems[0]
    assert report.shares == {}
    assert "none" in report.summary()
    put(tmp_path / "images" / "a.png", [[1]])
    put(tmp_path / "labels" / "a.png", [[IGNORE]])
    report = check_folder(tmp_path / "images", tmp_path / "labels")
    assert report.void == 1
    assert "nothing can be learned" in report.problems[0]


def test_a_missing_folder_is_an_error(root: Path) -> None:
    with pytest.raises(InputError, match="nowhere does not exist"):
        check_folder(root / "images", root / "nowhere")
