"""Photos of things and their surroundings, in the layout in which they are published."""

from pathlib import Path

from crispmask.data.class_names import published_names
from crispmask.data.folder import check_split, files_by_stem, names_in
from crispmask.data.pairs import PairDataset
from crispmask.shapes import IGNORE

SPLITS = ("train", "val")

VOC_CLASSES = published_names("voc-21")

CONTEXT_CLASSES = tuple(sorted(published_names("pascal-context-59")))
"""In the order of mmsegmentation's label files, which is that of the alphabet."""

STUFF_CLASSES = published_names("coco-stuff-171")

STUFF_GAPS = frozenset({11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90})
"""Values below 182 that COCO-Stuff has left without a class."""


def voc(root: Path, split: str) -> PairDataset:
    """PASCAL VOC 2012 (Everingham et al. 2015), 20 kinds of things and the background.

    FOLDER is ``VOCdevkit/VOC2012``: ``JPEGImages/*.jpg``, ``SegmentationClass/*.png`` and the lists
    ``ImageSets/Segmentation/{train,val}.txt``. The pale borders of things are `IGNORE`.

    Raises:
        InputError: if the split is neither train nor val, or the folder is laid out otherwise.
    """
    check_split(split, SPLITS, "PASCAL VOC")
    return _listed(
        root,
        split,
        lists="Segmentation",
        labels="SegmentationClass",
        class_names=VOC_CLASSES,
        classes={i: i for i in (*range(len(VOC_CLASSES)), IGNORE)},
    )


def voc20(root: Path, split: str) -> PairDataset:
    """As `voc`, but what is background there is unknown."""
    names = VOC_CLASSES[1:]
    check_split(split, SPLITS, "PASCAL VOC")
    return _listed(
        root,
        split,
        lists="Segmentation",
        labels="SegmentationClass",
        class_names=names,
        classes={0: IGNORE, IGNORE: IGNORE} | {i + 1: i for i in range(len(names))},
    )


def pascal_context(root: Path, split: str) -> PairDataset:
    """PASCAL Context (Mottaghi et al. 2014), its 59 commonest classes; all else is `IGNORE`.

    FOLDER is ``VOCdevkit/VOC2010`` as mmsegmentation prepares it: ``JPEGImages/*.jpg``,
    ``SegmentationClassContext/*.png`` with values 0 (other) to 59, and the lists
    ``ImageSets/SegmentationContext/{train,val}.txt``.

    Raises:
        InputError: if the split is neither train nor val, or the folder is laid out otherwise.
    """
    check_split(split, SPLITS, "PASCAL Context")
    return _listed(
        root,
        split,
        lists="SegmentationContext",
        labels="SegmentationClassContext",
        class_names=CONTEXT_CLASSES,
        classes={0: IGNORE} | {i + 1: i for i in range(len(CONTEXT_CLASSES))},
    )


def coco_stuff(root: Path, split: str) -> PairDataset:
    """COCO-Stuff 164k (Caesar et al. 2018): 80 kinds of things and 91 of stuff.

    ``images/{train,val}2017/*.jpg`` and the pixel maps ``annotations/{train,val}2017/*.png``, whose
    values are the published ids less one.

    Raises:
        InputError: if the split is neither train nor val, or the folder is laid out otherwise.
    """
    check_split(split, SPLITS, "COCO-Stuff")
    images, labels = (Path(root) / part / f"{split}2017" for part in ("images", "annotations"))
    pictures = files_by_stem(images, (".jpg",))
    values = [value for value in range(182) if value not in STUFF_GAPS]
    return PairDataset(
        {name: (path, labels / f"{name}.png") for name, path in pictures.items()},
        class_names=STUFF_CLASSES,
        classes={IGNORE: IGNORE} | {value: i for i, value in enumerate(values)},
    )


def _listed(
    root: Path,
    split: str,
    *,
    lists: str,
    labels: str,
    class_names: tuple[str, ...],
    classes: dict[int, int],
) -> PairDataset:
    """What PASCAL's folders hold of a split."""
    root = Path(root)
    pairs = {
        name: (root / "JPEGImages" / f"{name}.jpg", root / labels / f"{name}.png")
        for name in names_in(root / "ImageSets" / lists / f"{split}.txt")
    }
    return PairDataset(pairs, class_names=class_names, classes=classes)
