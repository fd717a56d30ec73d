"""Colin27 with AAL: merged regions, hemispheres, and files that do not fit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from crispmask.data.source import open_split
from crispmask.data.volumes import (
    BLOCK,
    COLIN27_CLASSES,
    STRUCTURES,
    SliceDataset,
    colin27,
    merge_table,
)
from crispmask.errors import InputError

nibabel = pytest.importorskip("nibabel")

REGIONS = {1: "Precentral_L 2001", 2: "Precentral_R 2002", 37: "Hippocampus_L 4101"}
REGIONS |= {38: "Hippocampus_R 4102", 109: "Vermis_1_2 9100"}
SHAPE = (19, 12, 96)  # to the right, the front, the top; the middle is voxel 9


def write(folder: Path, *, flip: bool = False) -> Path:
    """A head of 1 mm voxels, its left half filled with regions 1 and 37, its right with 2, 38.

    The volume is asymmetric in every direction. Flipped, the first axis runs to the left.
    """
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:9, 2:6, :], labels[10:17, 2:6, :] = 1, 2
    labels[6:9, 7:11, :], labels[10:13, 7:11, :] = 37, 38
    labels[9, 4:6, :] = 109
    labels[:, :, :4] = 0  # neck
    grey = np.where(labels > 0, 100 + labels.astype(float), 20.0)
    grey[0] = 250  # the left ear
    affine = np.diag([1.0, 1, 1, 1])
    affine[:3, 3] = -9, -5, -40
    if flip:
        labels, grey = labels[::-1], grey[::-1]
        affine[0] = -1, 0, 0, 9
    folder.mkdir(exist_ok=True)
    for name, values in (("ch2", grey.astype(np.uint8)), ("aal", labels)):
        nibabel.save(nibabel.Nifti1Image(values, affine), folder / f"{name}.nii.gz")
    lines = [f"{value} {name}" for value, name in REGIONS.items()]
    (folder / "aal.nii.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_every_structure_has_a_region_and_every_region_a_structure() -> None:
    assert set(STRUCTURES.values()) == set(COLIN27_CLASSES[1:])
    assert len(COLIN27_CLASSES) == 13
    table = merge_table(
        ["37 Hippocampus_L 4101", "39 ParaHippocampal_L 4111", "", "103 Cerebelum_9_L 9061"],
        source="here",
    )
    assert {v: COLIN27_CLASSES[i] for v, i in table.items()} == {
        0: "background", 37: "hippocampus", 39: "hippocampus", 103: "cerebellum",
    }  # fmt: skip
    for line in ("Hippocampus_L", "3 Elbow_L 1", "x Insula_L 3"):
        with pytest.raises(InputError, match="here needs a number and the name of an AAL region"):
            merge_table([line], source="here")


@pytest.mark.parametrize("flip", [False, True])
def test_slices_of_the_hemispheres(tmp_path: Path, flip: bool) -> None:
    folder = write(tmp_path / "head", flip=flip)
    train, val, test = (open_split(f"colin27:{folder}", s) for s in ("train", "val", "test"))
    assert isinstance(train, SliceDataset)
    assert train.class_names == COLIN27_CLASSES
    assert len(test) == len(train) + len(val) == SHAPE[2] - 4
    assert test.names[0] == "right-004"
    left, right = train[0], test[0]
    assert left.image.shape == (3, 12, 10)  # front to back, side to middle
    frontal, hippocampus = COLIN27_CLASSES.index("frontal lobe"), 7
    want = np.zeros((12, 10), np.int64)
    want[6:10, 2:9] = frontal  # rows count from the front
    want[1:5, 6:9] = hippocampus
    want[6:8, 9] = COLIN27_CLASSES.index("cerebellum")
    assert torch.equal(left.mask, torch.from_numpy(want))
    assert torch.equal(right.mask, left.mask)  # mirrored
    assert left.image[:, :, 0].min() == 1  # the ear
    assert right.image[:, :, 0].max() < 0.2
    assert ((left.image[0] > 0.3) == ((left.mask > 0) | (left.image[0] == 1))).all()


def test_validation_slices_are_blocks_apart_from_training(tmp_path: Path) -> None:
    folder = write(tmp_path / "head")
    train, val = (colin27(folder, split) for split in ("train", "val"))
    held_out = [z for start in range(8, 96, 20) for z in range(start, start + 4)]
    assert val.names == [f"left-{z:03d}" for z in held_out]
    assert not set(train.blocks) & set(val.blocks)
    assert val.blocks == [f"left-{int(name[-3:]) // BLOCK:02d}" for name in val.names]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "head")
    with pytest.raises(InputError, match="colin27 needs its folder"):
        open_split("colin27", "train")
    with pytest.raises(InputError, match="one of train, val, test, got all"):
        colin27(folder, "all")
    (folder / "aal.nii.txt").rename(folder / "names.txt")
    with pytest.raises(InputError, match=r"aal\.nii\.txt missing"):
        colin27(folder, "train")
    (folder / "aal.nii.txt").write_text("1 Precentral_L 2001\n")
    with pytest.raises(InputError, match=r"has values \[2, 37, 38, 109\] that"):
        colin27(folder, "train")
    nibabel.save(
        nibabel.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)), folder / "aal.nii.gz"
    )
    with pytest.raises(InputError, match="need one shape of three axes"):
        colin27(folder, "train")
    (folder / "aal.nii.gz").write_bytes(b"no volume")
    with pytest.raises(InputError, match=r"aal\.nii\.gz cannot be read as a NIfTI volume"):
        colin27(folder, "train")
