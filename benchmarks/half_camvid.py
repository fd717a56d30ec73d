"""CamVid at half its size, and base segmenters that read it as they read the whole."""

import json
import shutil
from pathlib import Path

import PIL.Image
from filelock import FileLock

from crispmask.data.catalog import CAMVID_CLASSES
from crispmask.data.source import open_split
from crispmask.errors import InputError


def half_camvid(target: Path) -> None:
    """Write train and val, 240 x 180 pixels: images averaged, labels by nearest neighbour.

    An existing folder is kept; several shells may ask at once.
    """
    with FileLock(f"{target}.lock"):
        if target.exists():
            return
        unfinished = target.with_name(f".{target.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        for split in ("train", "val"):
            whole = open_split("camvid", split)
            for part in ("images", "labels"):
                (unfinished / split / part).mkdir(parents=True)
            for i in range(len(whole)):
                sample = whole[i]
                pixels = (255 * sample.image).round().byte().movedim(0, -1).numpy()
                image = PIL.Image.fromarray(pixels)
                half = (image.width // 2, image.height // 2)
                image.resize(half, PIL.Image.Resampling.BOX).save(
                    unfinished / split / "images" / f"{sample.name}.png"
                )
                labels = PIL.Image.fromarray(sample.mask.byte().numpy())
                labels.resize(half, PIL.Image.Resampling.NEAREST).save(
                    unfinished / split / "labels" / f"{sample.name}.png"
                )
        unfinished.rename(target)


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
        unfinished = target.with_name(f".{target.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        shutil.copy(source / "model.safetensors", unfinished)
        (unfinished / "config.json").write_text(json.dumps(config | {"scale": 1.0}), "utf-8")
        unfinished.rename(target)
