"""Data sets by the name a user gives: "earth", "camvid:FOLDER" and the like, or a folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

from crispmask.data.ade20k import ade20k
from crispmask.data.catalog import camvid, shared_data
from crispmask.data.cityscapes import cityscapes
from crispmask.data.decoded import DecodedDataset
from crispmask.data.domains import cwfid, isaid, isic2018, kvasir, loveda, phenobench, potsdam
from crispmask.data.earth import EarthDataset, earth
from crispmask.data.fields import FieldsDataset, fields
from crispmask.data.folder import FolderDataset, find_class_names, read_class_names
from crispmask.data.pairs import PairDataset
from crispmask.data.photos import coco_stuff, pascal_context, voc, voc20
from crispmask.data.scenes import ScenesDataset, scenes
from crispmask.data.volumes import SliceDataset, colin27
from crispmask.data.wide_labels import WideLabelDataset, ade20k_847, pascal_context_459
from crispmask.errors import InputError, warn

Split = Literal["train", "val", "test"]

INCLUDED: dict[str, Callable[[str], EarthDataset | FieldsDataset | ScenesDataset]] = {
    "earth": earth,
    "fields": fields,
    "scenes": scenes,
}
"""Data sets that come with the package or are drawn by it."""

PUBLISHED: dict[str, Callable[[Path, str], PairDataset | DecodedDataset | SliceDataset]] = {
    "ade20k": ade20k,
    "cityscapes": cityscapes,
    "coco-stuff": coco_stuff,
    "colin27": colin27,
    "cwfid": cwfid,
    "isaid": isaid,
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
    FolderDataset
    | EarthDataset
    | FieldsDataset
    | ScenesDataset
    | PairDataset
    | DecodedDataset
    | SliceDataset
)


def open_split(source: str, split: Split) -> AnyDataset:
    """One split of a data set.

    Args:
        source: "earth"; "fields"; "scenes"; "camvid:FOLDER" or "camvid" (then looked for in the
            shared data folder); "NAME:FOLDER" for the names in `PUBLISHED`, as these are unpacked;
            or a folder that holds ``classes.txt`` (a name a line) and train/, val/ and test/, each
            with images/ and labels/.
        split: which part.

    Raises:
        InputError: if there is no such data set or split.
    """
    if source in INCLUDED:
        if any((Path(source) / part).is_dir() for part in ("train", "images")):
            warn(
                f"{source} is the data set that comes with the package, not the folder here of "
                f"the same name; write ./{source} for that."
            )
        return INCLUDED[source](split)
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
            f"{source!r} is no data set: needed is 'earth', 'camvid:FOLDER', 'fields', 'scenes', "
            f"'NAME:FOLDER' with one of {', '.join(PUBLISHED)}, or a folder with classes.txt "
            "(a name a line) and train/, val/ with images/ and labels/."
        )
    classes = read_class_names(names)
    return FolderDataset(root / split / "images", root / split / "labels", class_names=classes)


def open_data(
    name: str, *, split: Split = "test", class_names: Sequence[str] | None = None
) -> AnyDataset | WideLabelDataset:
    """The data set that a command measures on.

    Args:
        name: "earth", "fields", "scenes" or "camvid", also with a split ("earth:val");
            "NAME:FOLDER/SPLIT" for "camvid" and the names in `PUBLISHED`;
            "ade20k-847:FOLDER/SPLIT" and "pascal-context-459:FOLDER"; or a folder with images/ and
            labels/.
        split: which part where the name says none.
        class_names: of a folder that has no classes.txt, there or above it.

    Raises:
        InputError: if there is no such data set, or nothing says what its classes are called.
    """
    kind, _, where = name.partition(":")
    if kind in INCLUDED:
        return open_split(kind, as_split(where or split))
    if name == "camvid":
        return open_split(name, split)
    root = Path(where)
    if kind == "ade20k-847":
        return ade20k_847(root.parent, root.name, class_file=root.parent / "classes.txt")
    if kind == "pascal-context-459":
        return pascal_context_459(root, class_file=root / "labels.txt")
    if where and (kind == "camvid" or kind in PUBLISHED):
        if root.name not in get_args(Split):
            raise InputError(
                f"{kind} needs its folder and which part of it, {kind}:FOLDER/val for instance, "
                f"got {name}; end it with /train, /val or /test."
            )
        return open_split(f"{kind}:{root.parent}", as_split(root.name))
    folder = Path(name)
    if not folder.is_dir():
        raise InputError(
            f"{name!r} is no data set: needed is 'earth', 'fields', 'scenes', 'camvid:FOLDER/val', "
            f"'NAME:FOLDER/val' with one of {', '.join(PUBLISHED)}, or a folder with images/ and "
            "labels/."
        )
    names = find_class_names(folder) or class_names
    if names is None:
        raise InputError(
            f"{folder} needs a file classes.txt with the name of a class a line, in the order of "
            "the ids; there is none in it or above it."
        )
    return FolderDataset(folder / "images", folder / "labels", class_names=names)


def as_split(name: str) -> Split:
    """The part of a data set that a user named.

    Raises:
        InputError: if there is none of this name.
    """
    match name:
        case "train" | "val" | "test":
            return name
    raise InputError(f"the parts of a data set are train, val and test, got {name!r}.")
