"""CamVid at half its size, and base segmenters that read it as they read the whole."""

import json
import shutil
from pathlib import Path

import PIL.Image
from filelock import FileLock

from crispmask.atomic import unfinished
from crispmask.data.catalog import CAMVID_CLASSES
from crispmask.data.source import Split, open_split
from crispmask.errors import InputError


def half_camvid(target: Path) -> None:
    """Write train and val, 240 x 180 pixels: images averaged, labels by nearest neighbour.

    An existing folder is kept; several shells may ask at once.
    """
    with FileLock(f"{target}.lock"):
        if target.exists():
            return
        with unfinished(target) as folder:
            for split in ("train", "val"):
                _write_half(split, folder / split)


def half_base(source: Path, target: Path) -> None:
    """Copy a base that halves its images, so that it takes those of `half_camvid` as they are.

    Raises:
        InputError: if the base does not halve them, or has other classes.
    """
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    if config["scale"] != 0.5 or tuple(config["class_names"]) != CAMVID_CLASSES:
        raise InputError(
            f"{source} must be a base of CamVid with scale 0.5, got scale {config['scale']}."
        )
    with FileLock(f"{target}.lock"):
        if target.exists():
            return
        with unfinished(target) as folder:
            folder.mkdir(parents=True)
            shutil.copy(source / "model.safetensors", folder)
            (folder / "config.json").write_text(json.dumps(config | {"scale": 1.0}), "utf-8")


def _write_half(split: Split, folder: Path) -> None:
    whole = open_split("camvid", split)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for i in range(len(whole)):
        sample = whole[i]
        pixels = (255 * sample.image).round().byte().movedim(0, -1).numpy()
        image = PIL.Image.fromarray(pixels)
        half = (image.width // 2, image.height // 2)
        image.resize(half, PIL.Image.Resampling.BOX).save(folder / "images" / f"{sample.name}.png")
        labels = PIL.Image.fromarray(sample.mask.byte().numpy())
        labels.resize(half, PIL.Image.Resampling.NEAREST).save(
            folder / "labels" / f"{sample.name}.png"
        )
