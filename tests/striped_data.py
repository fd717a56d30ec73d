"""A folder of small images for the tests of words."""

from pathlib import Path

import numpy as np
from PIL import Image


def dataset(folder: Path, *, names: str, images: int = 3, seed: int = 0) -> Path:
    """Small images of noise with labels in stripes."""
    rng = np.random.default_rng(seed)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for i in range(images):
        pixels = rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        stripes = (np.arange(16) * (i % 3 + 1) // 16 + np.zeros((12, 1))).astype(np.uint8)
        stripes[0] = 255
        Image.fromarray(stripes).save(folder / "labels" / f"{i}.png")
    (folder / "classes.txt").write_text(names)
    return folder
