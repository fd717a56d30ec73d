"""Cityscapes (Cordts et al. 2016), fine annotations: 19 classes, 2,975 and 500 images."""

from pathlib import Path

from crispmask.data.folder import check_split
from crispmask.data.pairs import PairDataset
from crispmask.errors import InputError
from crispmask.shapes import IGNORE

CITYSCAPES_CLASSES = (
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)

EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Values of the classes in ``*_labelIds.png``, in the order of the ids; others are not scored."""

LABEL_IDS = dict.fromkeys((*range(34), 255), IGNORE) | {v: i for i, v in enumerate(EVALUATED)}
TRAIN_IDS = {i: i for i in range(len(EVALUATED))} | {255: IGNORE}

KINDS = {"labelIds": LABEL_IDS, "labelTrainIds": TRAIN_IDS}
"""Label files that are read: those of the download, else those made by Cityscapes' own scripts."""

IMAGE_END = "_leftImg8bit.png"


def cityscapes(root: Path, split: str) -> PairDataset:
    """``leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`` with ``gtFine/SPLIT/CITY/*_gtFine_*.png``.

    Raises:
        InputError: if the split is neither train nor val, or the folder is laid out otherwise.
    """
    check_split(split, ("train", "val"), "Cityscapes")
    root = Path(root)
    images, labels = root / "leftImg8bit" / split, root / "gtFine" / split
    for folder in (images, labels):
        if not folder.is_dir():
            raise InputError(
                f"{root} is not laid out like Cityscapes: {folder.relative_to(root)} is missing; "
                "unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip there."
            )
    found = sorted(images.glob(f"*/*{IMAGE_END}"))
    if not found:
        raise InputError(f"{images} needs CITY/*{IMAGE_END}, it has none; unpack it again.")
    frames = {path.name.removesuffix(IMAGE_END): path for path in found}

    def label(name: str, kind: str) -> Path:
        return labels / frames[name].parent.name / f"{name}_gtFine_{kind}.png"

    first = next(iter(frames))
    kind = next((kind for kind in KINDS if label(first, kind).is_file()), "labelIds")
    pairs = {name: (path, label(name, kind)) for name, path in frames.items()}
    return PairDataset(pairs, class_names=CITYSCAPES_CLASSES, classes=KINDS[kind])
