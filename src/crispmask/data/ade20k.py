"""ADE20K scene parsing (Zhou et al. 2017): 150 classes, 20,210 images to train, 2,000 to validate.

The names are the short ones in common use, in the order of the benchmark's ``objectInfo150.txt``.
"""

from pathlib import Path

from crispmask.data.folder import IMAGE_SUFFIXES, check_split, files_by_stem
from crispmask.data.pairs import PairDataset
from crispmask.errors import InputError
from crispmask.shapes import IGNORE

ADE20K_CLASSES = tuple(
    name.strip()
    for name in """
    wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk,
    person, earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa,
    shelf, house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp,
    bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter, sand,
    sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table,
    pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower,
    book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar,
    arcade machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight,
    booth, television receiver, airplane, dirt track, apparel, pole, land, bannister, escalator,
    ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer,
    plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven,
    ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen,
    blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen,
    plate, monitor, bulletin board, shower, radiator, glass, clock, flag
    """.replace("\n", " ").split(",")
)

FOLDERS = {"train": "training", "val": "validation"}

VALUES = {0: IGNORE} | {value: value - 1 for value in range(1, 151)}
"""Class of each value in the annotations; 0 is everything that has no class."""


def ade20k(root: Path, split: str) -> PairDataset:
    """``root/{images,annotations}/{training,validation}/ADE_*``, as ADEChallengeData2016 unpacks.

    Raises:
        InputError: if the split is neither train nor val, or the folder is laid out otherwise.
    """
    check_split(split, FOLDERS, "ADE20K")
    root = Path(root)
    images, labels = (root / part / FOLDERS[split] for part in ("images", "annotations"))
    for folder in (images, labels):
        if not folder.is_dir():
            inner = root / "ADEChallengeData2016"
            raise InputError(
                f"{root} is not laid out like ADEChallengeData2016: {folder.relative_to(root)} is "
                f"missing; give {inner if inner.is_dir() else 'the folder that holds images/'}."
            )
    pictures = files_by_stem(images, IMAGE_SUFFIXES)
    if not pictures:
        raise InputError(f"{images} holds no image; unpack the archive again.")
    pairs = {name: (path, labels / f"{name}.png") for name, path in pictures.items()}
    return PairDataset(pairs, class_names=ADE20K_CLASSES, classes=VALUES)
