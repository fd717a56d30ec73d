"""Known data sets: where they lie, what their classes are called and how they are coloured."""

import colorsys
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from crispmask.data.earth import EARTH_CLASSES, EARTH_PALETTE
from crispmask.data.fields import FIELD_CLASSES, FIELD_PALETTE
from crispmask.data.folder import FolderDataset
from crispmask.errors import InputError

CAMVID_CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)

CAMVID_PALETTE = (
    (128, 178, 230),
    (140, 90, 80),
    (200, 200, 190),
    (128, 72, 140),
    (224, 120, 190),
    (100, 150, 40),
    (240, 210, 40),
    (180, 130, 90),
    (30, 60, 190),
    (220, 40, 50),
    (0, 180, 170),
)


def shared_data() -> Path | None:
    """Folder of the benchmark data, or None where there is none.

    ``$CRISPMASK_DATA`` if set, else ``../shared/data`` beside a checkout of the repository.

    Raises:
        InputError: if ``$CRISPMASK_DATA`` names no folder.
    """
    chosen = os.environ.get("CRISPMASK_DATA")
    if chosen:
        if not Path(chosen).is_dir():
            raise InputError(
                f"CRISPMASK_DATA must name a folder, got {chosen}; correct it or unset it."
            )
        return Path(chosen)
    checkout = Path(__file__).resolve().parents[3]
    beside = checkout.parent / "shared" / "data"
    return beside if (checkout / "pyproject.toml").is_file() and beside.is_dir() else None


def camvid(root: Path, split: Literal["train", "val", "test"]) -> FolderDataset:
    """CamVid (Brostow et al. 2009), 11 classes: ``root/{train,val,test}/{images,labels}``."""
    folder = Path(root) / split
    return FolderDataset(folder / "images", folder / "labels", class_names=CAMVID_CLASSES)


def palette_for(class_names: Sequence[str]) -> tuple[tuple[int, int, int], ...]:
    """A colour for each class: those of a known data set, else hues far apart."""
    known = {
        EARTH_CLASSES: EARTH_PALETTE,
        CAMVID_CLASSES: CAMVID_PALETTE,
        FIELD_CLASSES: FIELD_PALETTE,
    }
    if tuple(class_names) in known:
        return known[tuple(class_names)]
    colours = []
    for i in range(len(class_names)):
        hue = i * 0.61803398875 % 1.0  # golden ratio: neighbours in id differ most
        value = (0.9, 0.65, 0.8)[i % 3]
        red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, value)
        colours.append((round(red * 255), round(green * 255), round(blue * 255)))
    return tuple(colours)
