"""Files and folders appear whole or not at all."""

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from crispmask.atomic import beside, unfinished, write_atomic
from crispmask.data.sample import write_mask


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, "first")
    reader = path.open()
    write_atomic(path, b"second")
    assert reader.read() == "first"  # whoever had it open is not disturbed
    assert path.read_text() == "second"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failing", ["write_bytes", "replace"])
def test_a_file_that_cannot_be_written_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    write = Path.write_bytes

    def fail(path: Path, data: Any) -> None:
        if failing == "write_bytes":
            write(path, data[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "file"
    path.write_text("first")
    monkeypatch.setattr(Path, failing, fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, "second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    place = tmp_path / "folder"

    def write(*, until: int) -> None:
        with unfinished(place) as folder:
            folder.mkdir()
            for i in range(2):
                (folder / str(i)).write_text("text")
                if i == until:
                    raise ValueError("halfway")

    with pytest.raises(ValueError, match="halfway"):
        write(until=0)
    assert not list(tmp_path.iterdir())
    write(until=2)
    assert sorted(path.name for path in place.iterdir()) == ["0", "1"]
    with pytest.raises(OSError, match="not empty"):  # a folder replaces none
        write(until=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder"]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with unfinished(path) as first, unfinished(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # which ended last
    with beside(path) as third:
        third.write_text("third")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_mask_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mask.png"
    write_mask(torch.zeros(2, 2, dtype=torch.long), path)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_mask(torch.ones(2, 2, dtype=torch.long), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
