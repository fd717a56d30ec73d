"""Data sets by the name a user gives: "earth", "camvid:FOLDER" and the like, or a folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from crispmask.data.ade20k import ade20k
from crispmask.data.catalog import camvid, shared_data
from crispmask.data.cityscapes import cityscapes
from crispmask.data.decoded import DecodedDataset
from crispmask.data.domains import cwfid, isic2018, kvasir, loveda, phenobench, potsdam
from crispmask.data.earth import EarthDataset, earth
from crispmask.data.fields import FieldsDataset, fields
from crispmask.data.folder import FolderDataset, read_class_names
from crispmask.data.pairs import PairDataset
from crispmask.data.photos import coco_stuff, pascal_context, voc, voc20
from crispmask.data.volumes import SliceDataset, colin27
from crispmask.errors import InputError

Split = Literal["train", "val", "test"]


PUBLISHED: dict[str, Callable[[Path, str], PairDataset | DecodedDataset | SliceDataset]] = {
    "ade20k": ade20k,
    "cityscapes": cityscapes,
    "coco-stuff": coco_stuff,
    "colin27": colin27,
    "cwfid": cwfid,
    "isic2018": isic2018,
    "kvasir": kvasir,
    "loveda": loveda,
    "pascal-context": pascal_context,
    "phenobench": phenobench,
    "potsdam": potsdam,
    "voc": voc,
    "voc20": voc20,
}
"""Readers of data sets in the layout in which they are published; each needs their folder."""

AnyDataset = (
    FolderDataset | EarthDataset | FieldsDataset | PairDataset | DecodedDataset | SliceDataset
)


def open_split(source: str, split: Split) -> AnyDataset:
    """One split of a data set.

    Args:
        source: "earth"; "fields"; "camvid:FOLDER" or "camvid" (then looked for in the shared data
            folder); "NAME:FOLDER" for the names in `PUBLISHED`, as these are unpacked; or a folder
            that holds ``classes.txt`` (a name a line) and train/, val/ and test/, each with
            images/ and labels/.
        split: which part.

    Raises:
        InputError: if there is no such data set or split.
    """
    if source == "earth":
        return earth(split)
    if source == "fields":
        return fields(split)
    name, _, where = source.partition(":")
    if name == "camvid":
        shared = shared_data()
        if not where and shared is None:
            raise InputError("camvid needs its folder: give camvid:FOLDER.")
        root = Path(where) if where else (shared or Path()) / "camvid"
        if not (root / split).is_dir():
            raise InputError(
                f"{root} has no folder {split}; camvid needs {split}/images and {split}/labels."
            )
        return camvid(root, split)
    if name in PUBLISHED:
        if not where:
            raise InputError(f"{name} needs its folder: give {name}:FOLDER.")
        return PUBLISHED[name](Path(where), split)
    root = Path(source)
    names = root / "classes.txt"
    if not names.exists():
        raise InputError(
            f"{source!r} is no data set: needed is 'earth', 'camvid:FOLDER', 'fields', "
            f"'NAME:FOLDER' with one of {', '.join(PUBLISHED)}, or a folder with classes.txt "
            "(a name a line) and train/, val/ with images/ and labels/."
        )
    classes = read_class_names(names)
    return FolderDataset(root / split / "images", root / split / "labels", class_names=classes)
