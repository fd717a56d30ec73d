"""Drawn scenes of coloured shapes, named by both: a data set for words that were never shown.

Some pairs of a colour and a shape are in no training scene, though their colour and their shape
are. To find them a network must have learned what the two words mean, each for itself. Nothing
here is a photograph, and a number on this data is none about photographs.
"""

from itertools import product

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from crispmask.data.sample import Sample
from crispmask.errors import InputError

COLOURS = {
    "red": (0.85, 0.15, 0.15),
    "green": (0.15, 0.70, 0.20),
    "blue": (0.15, 0.25, 0.85),
    "yellow": (0.90, 0.85, 0.15),
    "purple": (0.60, 0.15, 0.75),
}

SHAPES = ("circle", "square", "triangle", "cross")

HELD_OUT = ("red cross", "green square", "blue circle", "yellow triangle")
"""Pairs of val and test that are in no training scene: each shape once, with another colour."""

SCENE_CLASSES = ("background", *(f"{c} {s}" for c, s in product(COLOURS, SHAPES)))

SIZE = 32
"""Height and width of a scene, in pixels."""

SCENES = {"train": range(800), "val": range(800, 880), "test": range(880, 1080)}

SEED = 20261123

FINE = 4
"""Points along each side of a pixel that decide how much of it a shape covers."""

Floats = npt.NDArray[np.float64]


def cover(shape: str, x: float, y: float, radius: float) -> Floats:
    """Share of each pixel that a shape covers, h w.

    Args:
        shape: one of `SHAPES`.
        x: of its centre, in pixels from the left edge.
        y: likewise from the top.
        radius: half the side of the box around it.
    """
    points = (np.arange(SIZE * FINE) + 0.5) / FINE
    u, v = (points - x)[None] / radius, (points - y)[:, None] / radius
    box = np.maximum(abs(u), abs(v)) <= 1
    match shape:
        case "circle":
            inside = u**2 + v**2 <= 1
        case "square":
            inside = np.maximum(abs(u), abs(v)) <= 0.87
        case "triangle":
            inside = box & (2 * abs(u) <= v + 1)
        case _:
            inside = box & (np.minimum(abs(u), abs(v)) <= 0.36)
    share: Floats = inside.reshape(SIZE, FINE, SIZE, FINE).mean((1, 3))
    return share


def choose_pairs(rng: np.random.Generator, *, held_out: bool) -> tuple[str, ...]:
    """Three of the four pairs of two colours and two shapes.

    So the fourth one is not in the scene although its colour and its shape are.

    Args:
        rng: draws them.
        held_out: whether pairs of `HELD_OUT` may be among the three.
    """
    while True:
        colours = rng.permutation(list(COLOURS))[:2]
        shapes = rng.permutation(SHAPES)[:2]
        pairs = [f"{c} {s}" for c, s in product(colours, shapes)]
        chosen = tuple(pairs[i] for i in rng.permutation(4)[:3])
        if held_out or not set(chosen) & set(HELD_OUT):
            return chosen


def place(rng: np.random.Generator, count: int) -> Floats:
    """Centre and radius of so many shapes whose boxes are apart and in the picture, n x 3."""
    while True:
        radii = rng.uniform(4.5, 6.5, count)
        centres = rng.uniform(radii[:, None] + 0.5, SIZE - radii[:, None] - 0.5, (count, 2))
        apart = abs(centres[:, None] - centres).max(2) - radii[:, None] - radii
        if (apart[np.triu_indices(count, 1)] > 1).all():
            found: Floats = np.concatenate([centres, radii[:, None]], 1)
            return found


def draw_scene(
    pairs: tuple[str, ...], rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """A picture of these pairs, h w 3 in [0, 1], and its classes, h w.

    A pixel is of a shape that covers half of it.
    """
    picture = np.full((SIZE, SIZE, 3), rng.uniform(0.2, 0.8))
    mask = np.zeros((SIZE, SIZE), np.int64)
    for pair, (x, y, radius) in zip(pairs, place(rng, len(pairs)), strict=True):
        colour, shape = pair.split()
        share = cover(shape, x, y, radius)
        tone = np.array(COLOURS[colour]) + rng.uniform(-0.08, 0.08, 3)
        picture += share[..., None] * (tone - picture)
        mask[share >= 0.5] = SCENE_CLASSES.index(pair)
    picture += 0.02 * rng.standard_normal(picture.shape)
    return picture.clip(0, 1).astype(np.float32), mask


class ScenesDataset(Dataset[Sample]):
    """Pictures of 32 x 32 with 21 classes; see `scenes`.

    Attributes:
        class_names: in the order of the ids, the background first.
        names: number of the scene, like ``s0012``.
    """

    def __init__(self, split: str) -> None:
        if split not in SCENES:
            raise InputError(f"split must be one of {', '.join(SCENES)}, got {split}.")
        self.class_names = SCENE_CLASSES
        self.names = [f"s{number:04d}" for number in SCENES[split]]
        self._numbers, self._held_out = SCENES[split], split != "train"

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((SEED, self._numbers[index]))
        pairs = choose_pairs(rng, held_out=self._held_out)
        picture, mask = draw_scene(pairs, rng)
        image = torch.from_numpy(picture).permute(2, 0, 1).contiguous()
        return Sample(image, torch.from_numpy(mask), self.names[index])


def scenes(split: str) -> ScenesDataset:
    """Drawn scenes: 800 to train, 80 and 200 that also show the pairs of `HELD_OUT`.

    A scene has three shapes, of two colours and two kinds, on plain ground. It depends on its
    number alone.

    Raises:
        InputError: if `split` is none of train, val and test.
    """
    return ScenesDataset(split)
