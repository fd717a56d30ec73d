"""Labels of 16 and 32 bits: 255 is a class, 65535 is unknown."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crispmask.data.wide_labels import (
    WideLabelDataset,
    ade20k_847,
    pascal_context_459,
    read_wide_mask,
)
from crispmask.errors import InputError
from crispmask.metrics.confusion import check_masks
from crispmask.shapes import VOID

IDS = np.array([[0, 254, 255, 256], [846, 65535, 3, 65535]])


def picture(path: Path, ids: np.ndarray, dtype: type) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids.astype(dtype)).save(path)
    return path


def names_file(path: Path, count: int) -> Path:
    path.write_text("\n".join(f"{i + 1}: thing {i}" for i in range(count)))
    return path


@pytest.mark.parametrize(
    ("suffix", "dtype"), [("tif", np.uint16), ("png", np.uint16), ("tif", np.int32)]
)
def test_ids_of_16_and_32_bits(tmp_path: Path, suffix: str, dtype: type) -> None:
    mask = read_wide_mask(picture(tmp_path / f"a.{suffix}", IDS, dtype), 847)
    assert mask.tolist() == [[0, 254, 255, 256], [846, VOID, 3, VOID]]


def test_ids_of_8_bits_with_an_unknown_of_their_own(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", np.array([[0, 58, 255]]), np.uint8)
    assert read_wide_mask(path, 59, void=255).tolist() == [[0, 58, VOID]]
    with pytest.raises(InputError, match="ids from 0 to 58, or 65535 for unknown, got 255 in 1"):
        read_wide_mask(path, 59)


def test_ids_above_the_classes_are_refused(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.tif", IDS, np.uint16)
    with pytest.raises(InputError, match=r"ids from 0 to 458, or 65535 .* got 846 in 1 pixels"):
        read_wide_mask(path, 459)


def test_code_for_few_classes_refuses_wide_masks(tmp_path: Path) -> None:
    mask = read_wide_mask(picture(tmp_path / "a.tif", IDS, np.uint16), 847)[None]
    with pytest.raises(InputError, match="target must lie in 0 to 846, got -1 to 846"):
        check_masks(torch.zeros_like(mask), mask, 847)


def test_ade20k_847_as_it_is_prepared(tmp_path: Path) -> None:
    for i in range(2):
        picture(tmp_path / f"annotations_detectron2/validation/ADE_val_{i}.tif", IDS, np.uint16)
        colours = np.zeros((2, 4, 3))
        picture(tmp_path / f"images_detectron2/validation/ADE_val_{i}.jpg", colours, np.uint8)
    names = names_file(tmp_path / "names.txt", 847)
    data = ade20k_847(tmp_path, "val", class_file=names)
    assert (len(data), len(data.class_names)) == (2, 847)
    assert data.class_names[255] == "thing 255"
    assert data[1].name == "ADE_val_1"
    assert torch.unique(data[1].mask).tolist() == [VOID, 0, 3, 254, 255, 256, 846]
    with pytest.raises(InputError, match="train and val alone, got 'test'"):
        ade20k_847(tmp_path, "test", class_file=names)
    with pytest.raises(InputError, match="needs 847 class names, one a line, got 3"):
        ade20k_847(tmp_path, "val", class_file=names_file(tmp_path / "few.txt", 3))


def test_pascal_context_459_leaves_out_images_of_other_splits(tmp_path: Path) -> None:
    ids = np.array([[458, 65535], [255, 0]])
    picture(tmp_path / "annotations_detectron2/pc459_val/2008_000002.tif", ids, np.uint16)
    for name in ("2008_000001", "2008_000002"):
        picture(tmp_path / f"JPEGImages/{name}.jpg", np.zeros((2, 2, 3)), np.uint8)
    data = pascal_context_459(tmp_path, class_file=names_file(tmp_path / "labels.txt", 459))
    assert data.names == ["2008_000002"]
    assert data[0].mask.tolist() == [[458, VOID], [255, 0]]


def test_labels_without_images_and_of_another_size(tmp_path: Path) -> None:
    picture(tmp_path / "labels/a.tif", IDS, np.uint16)
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match=r"1 labels .* lacks 1 .first: a"):
        WideLabelDataset(tmp_path / "images", tmp_path / "labels", class_names=["x"] * 847)
    picture(tmp_path / "images/a.jpg", np.zeros((4, 2, 3)), np.uint8)
    data = WideLabelDataset(tmp_path / "images", tmp_path / "labels", class_names=["x"] * 847)
    with pytest.raises(InputError, match=r"a\.jpg is 4x2 and .*a\.tif is 2x4"):
        data[0]
