"""Published data sets beyond streets and rooms, read as they are unpacked.

Remote sensing: LoveDA, Potsdam, iSAID. Medicine: Kvasir-SEG, ISIC 2018. Agriculture: PhenoBench,
CWFID.
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from crispmask.data.class_names import published_names
from crispmask.data.decoded import DecodedDataset, read_colours, read_foreground
from crispmask.data.folder import IMAGE_SUFFIXES, check_split, files_by_stem, names_in
from crispmask.data.pairs import PairDataset
from crispmask.errors import InputError
from crispmask.shapes import IGNORE

LOVEDA_CLASSES = published_names("loveda-7")

POTSDAM_COLOURS = dict(
    zip(
        published_names("potsdam-6"),
        (
            *((255, 255, 255), (0, 0, 255), (0, 255, 255)),
            *((0, 255, 0), (255, 255, 0), (255, 0, 0)),
        ),
        strict=True,
    )
)

POTSDAM_TEST = (
    *("2_13", "2_14", "3_13", "3_14", "4_13", "4_14", "4_15"),
    *("5_13", "5_14", "5_15", "6_13", "6_14", "6_15", "7_13"),
)
"""Tiles whose labels the benchmark held back at first; the other 24 are for training."""

ISAID_COLOURS = dict(
    zip(
        published_names("isaid-16"),
        (
            *((0, 0, 0), (0, 0, 63), (0, 63, 63), (0, 63, 0), (0, 63, 127), (0, 63, 191)),
            *((0, 63, 255), (0, 127, 63), (0, 127, 127), (0, 0, 127), (0, 0, 191), (0, 0, 255)),
            *((0, 191, 127), (0, 127, 191), (0, 127, 255), (0, 100, 155)),
        ),
        strict=True,
    )
)

KVASIR_CLASSES = published_names("kvasir-2")

ISIC_CLASSES = published_names("isic-2")

CROP_CLASSES = published_names("phenobench-3")

CWFID_COLOURS = dict(
    zip(published_names("cwfid-3"), ((0, 0, 0), (0, 255, 0), (255, 0, 0)), strict=True)
)


def loveda(root: Path, split: str) -> PairDataset:
    """LoveDA (Wang et al. 2021): ``{Train,Val}/{Urban,Rural}/{images_png,masks_png}/*.png``.

    Seven classes at 0.3 m; pixels without data are `IGNORE`.

    Raises:
        InputError: if the split is neither train nor val, or the folder is laid out otherwise.
    """
    check_split(split, ("train", "val"), "LoveDA")
    pairs = {}
    for area in ("Urban", "Rural"):
        folder = Path(root) / split.capitalize() / area
        for stem, path in files_by_stem(folder / "images_png", (".png",)).items():
            pairs[f"{area.lower()}-{stem}"] = (path, folder / "masks_png" / f"{stem}.png")
    values = {0: IGNORE} | {i + 1: i for i in range(len(LOVEDA_CLASSES))}
    return PairDataset(pairs, class_names=LOVEDA_CLASSES, classes=values)


def potsdam(root: Path, split: str) -> DecodedDataset:
    """ISPRS Potsdam: ``2_Ortho_RGB/top_potsdam_*_RGB.tif``, ``5_Labels_all/*_label.tif``.

    Six classes in the colours of the benchmark, tiles of 6000 x 6000 pixels at 5 cm. A sample is a
    whole tile, 430 MB as floats. Each colour is a corner of the RGB cube, so channels are rounded.

    Raises:
        InputError: if the split is neither train nor test, or the folder is laid out otherwise.
    """
    check_split(split, ("train", "test"), "Potsdam")
    root = Path(root)
    pairs = {}
    for stem, path in files_by_stem(root / "2_Ortho_RGB", (".tif",)).items():
        tile = stem.removeprefix("top_potsdam_").removesuffix("_RGB")
        if (tile in POTSDAM_TEST) == (split == "test"):
            pairs[tile] = (path, root / "5_Labels_all" / f"top_potsdam_{tile}_label.tif")
    return DecodedDataset(
        pairs,
        class_names=tuple(POTSDAM_COLOURS),
        decode=partial(read_colours, colours=_ids(POTSDAM_COLOURS), tolerance=127),
        source=root,
    )


def isaid(root: Path, split: str) -> DecodedDataset:
    """iSAID (Waqas Zamir et al. 2019): ``{train,val}/images/P0002.png``, and beside each image
    ``P0002_instance_color_RGB.png``, as its development kit wants them.

    Background and 15 kinds of things in pictures of DOTA, of up to 13,000 pixels a side; a sample
    is a whole picture.

    Raises:
        InputError: if the split is neither train nor val, or the folder is laid out otherwise.
    """
    check_split(split, ("train", "val"), "iSAID")
    folder = Path(root) / split / "images"
    pairs = {
        name: (path, folder / f"{name}_instance_color_RGB.png")
        for name, path in files_by_stem(folder, (".png",)).items()
        if "_instance_" not in name
    }
    return DecodedDataset(
        pairs,
        class_names=tuple(ISAID_COLOURS),
        decode=partial(read_colours, colours=_ids(ISAID_COLOURS)),
        source=Path(root),
    )


def kvasir(root: Path, split: str) -> DecodedDataset:
    """Kvasir-SEG (Jha et al. 2020): ``{images,masks}/*.jpg`` and ``{train,val}.txt``.

    Polyps in 1,000 pictures. The archive itself has no split: the two lists, a name without suffix
    a line, are published beside it and have to be put there.

    Raises:
        InputError: if the split is neither train nor val, or the folder is laid out otherwise.
    """
    check_split(split, ("train", "val"), "Kvasir-SEG")
    root = Path(root)
    stems = names_in(root / f"{split}.txt")
    pairs = {n: (root / "images" / f"{n}.jpg", root / "masks" / f"{n}.jpg") for n in stems}
    return DecodedDataset(pairs, class_names=KVASIR_CLASSES, decode=read_foreground, source=root)


def isic2018(root: Path, split: str) -> DecodedDataset:
    """ISIC 2018, task 1 (Codella et al. 2019): the folders of the six archives side by side.

    ``ISIC2018_Task1-2_Training_Input/ISIC_*.jpg`` with
    ``ISIC2018_Task1_Training_GroundTruth/ISIC_*_segmentation.png``; ``Validation`` and ``Test``
    alike.

    Raises:
        InputError: if there is no such split, or the folder is laid out otherwise.
    """
    parts = {"train": "Training", "val": "Validation", "test": "Test"}
    check_split(split, tuple(parts), "ISIC 2018")
    root = Path(root)
    images = root / f"ISIC2018_Task1-2_{parts[split]}_Input"
    labels = root / f"ISIC2018_Task1_{parts[split]}_GroundTruth"
    pictures = files_by_stem(images, (".jpg",))
    pairs = {n: (path, labels / f"{n}_segmentation.png") for n, path in pictures.items()}
    return DecodedDataset(pairs, class_names=ISIC_CLASSES, decode=read_foreground, source=root)


def phenobench(root: Path, split: str) -> PairDataset:
    """PhenoBench (Weyler et al. 2024): ``{train,val}/{images,semantics}/*.png``.

    Plants cut off at the picture's edge, which have values of their own, count as crop and weed.

    Raises:
        InputError: if the split is neither train nor val, or the folder is laid out otherwise.
    """
    check_split(split, ("train", "val"), "PhenoBench")
    folder = Path(root) / split
    pictures = files_by_stem(folder / "images", IMAGE_SUFFIXES)
    pairs = {name: (path, folder / "semantics" / path.name) for name, path in pictures.items()}
    values = {0: 0, 1: 1, 2: 2, 3: 1, 4: 2}
    return PairDataset(pairs, class_names=CROP_CLASSES, classes=values)


def cwfid(root: Path, split: str) -> DecodedDataset:
    """CWFID (Haug and Ostermann 2015): ``images/*_image.png``, ``annotations/*_annotation.png``.

    60 pictures of carrots and weeds, split by ``train_test_split.yaml``. That file has number 28
    in both lists; here it is a test picture only.

    Raises:
        InputError: if the split is neither train nor test, or the folder is laid out otherwise.
    """
    check_split(split, ("train", "test"), "CWFID")
    root = Path(root)
    lists = root / "train_test_split.yaml"
    text = lists.read_text("utf-8") if lists.is_file() else ""
    found = {key: re.search(rf"^{key}:\s*\[([\d,\s]*)\]", text, re.M) for key in ("train", "test")}
    numbers = {key: {int(n) for n in re.findall(r"\d+", m[1])} for key, m in found.items() if m}
    if len(numbers) < 2:
        raise InputError(f"{lists} needs the lists train and test; unpack the data set again.")
    chosen = numbers["test"] if split == "test" else numbers["train"] - numbers["test"]
    pairs = {
        f"{n:03d}": (
            root / "images" / f"{n:03d}_image.png",
            root / "annotations" / f"{n:03d}_annotation.png",
        )
        for n in sorted(chosen)
    }
    return DecodedDataset(
        pairs,
        class_names=CROP_CLASSES,
        decode=partial(read_colours, colours=_ids(CWFID_COLOURS)),
        source=root,
    )


def _ids(colours: Mapping[str, tuple[int, int, int]]) -> dict[tuple[int, int, int], int]:
    """The id of each class's colour."""
    return {colour: i for i, colour in enumerate(colours.values())}
