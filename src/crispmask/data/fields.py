"""Drawn fields of crop, weed and soil, seen from above: a synthetic data set for agriculture.

Nothing here is a photograph. Rows of a crop, weeds between them and in them, soil, shadows, light
and blur are drawn from random numbers, so that the labels are exact and the package needs no
pictures of fields. What a number on this data means: the network can tell drawn plants by their
shape and by their place in a row. It says little about real plants.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch.utils.data import Dataset

from crispmask.data.sample import Sample
from crispmask.errors import InputError

FIELD_CLASSES = ("soil", "crop", "weed")

FIELD_PALETTE = ((120, 85, 60), (70, 170, 60), (215, 60, 50))

SIZE = 256
VIEWS = 4
"""Pictures of one field: the same plants, soil and light, at other places."""

FIELDS = {"train": range(100), "val": range(100, 115), "test": range(115, 145)}

SEED = 20261122

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Species:
    """How a plant looks. Lengths are in pixels of the picture.

    Attributes:
        leaves: fewest and most.
        length: of a leaf.
        width: of a leaf, as a share of its length.
        widest: where along the leaf it is widest, 0 to 1.
        stalk: bare part between the centre and the leaf, as a share of the leaf's length.
        leaflets: leaves at the end of each stalk, as clover has three.
        bend: how far a leaf turns along its length, in radians.
        teeth: number of teeth along an edge.
        depth: depth of the teeth, as a share of the width.
        colour: RGB, 0 to 1.
        along: distance of neighbours in a row; 0 for plants that are no crop.
        between: distance of rows.
    """

    leaves: tuple[int, int]
    length: float
    width: float
    widest: float
    colour: tuple[float, float, float]
    stalk: float = 0.0
    leaflets: int = 1
    bend: float = 0.3
    teeth: int = 0
    depth: float = 0.0
    along: float = 0.0
    between: float = 0.0


CROPS = (
    Species(  # beet
        leaves=(6, 10), length=20, width=0.5, widest=0.6, stalk=0.3, colour=(0.22, 0.46, 0.16),
        along=38, between=66,
    ),
    Species(  # maize
        leaves=(4, 7), length=34, width=0.17, widest=0.4, bend=0.9, colour=(0.30, 0.52, 0.18),
        along=30, between=80,
    ),
    Species(  # beans
        leaves=(4, 6), length=13, width=0.75, widest=0.45, stalk=0.4, leaflets=3,
        colour=(0.28, 0.55, 0.22), along=30, between=70,
    ),
    Species(  # wheat
        leaves=(3, 5), length=21, width=0.1, widest=0.3, bend=1.0, colour=(0.36, 0.56, 0.24),
        along=9, between=34,
    ),
)  # fmt: skip

WEEDS = (
    Species(leaves=(6, 12), length=7, width=0.65, widest=0.5, stalk=0.6, colour=(0.30, 0.50, 0.18)),
    Species(leaves=(5, 9), length=17, width=0.09, widest=0.3, bend=1.3, colour=(0.38, 0.54, 0.26)),
    Species(
        leaves=(6, 9), length=17, width=0.42, widest=0.6, teeth=5, depth=0.45,
        colour=(0.30, 0.42, 0.22),
    ),
    Species(
        leaves=(5, 8), length=6, width=0.9, widest=0.55, stalk=0.8, leaflets=3,
        colour=(0.20, 0.42, 0.20),
    ),
    Species(leaves=(4, 6), length=13, width=0.4, widest=0.35, colour=(0.42, 0.40, 0.24)),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Field:
    """What the pictures of one field have in common."""

    crop: Species
    weeds: tuple[Species, ...]
    weediness: float
    angle: float
    soil: Floats
    roughness: float
    sun: Floats
    light: Floats
    blur: float
    noise: float


def _varied(species: Species, rng: np.random.Generator, growth: float) -> Species:
    colour = np.array(species.colour) * rng.uniform(0.85, 1.15, 3)
    return replace(
        species,
        length=species.length * growth * rng.uniform(0.9, 1.1),
        width=species.width * rng.uniform(0.85, 1.15),
        colour=tuple(colour.tolist()),
    )


def draw_conditions(rng: np.random.Generator) -> Field:
    """A field: one crop, one to three weeds, a soil, a light."""
    growth = rng.uniform(0.7, 1.25)
    kinds = rng.permutation(len(WEEDS))[: rng.integers(1, 4)]
    dark = rng.uniform(0.45, 1.25)
    return Field(
        crop=_varied(CROPS[rng.integers(len(CROPS))], rng, growth),
        weeds=tuple(_varied(WEEDS[i], rng, rng.uniform(0.7, 1.2)) for i in kinds),
        weediness=rng.uniform(4, 24),
        angle=rng.uniform(0, np.pi),
        soil=np.array([0.46, 0.36, 0.27]) * dark * rng.uniform(0.9, 1.1, 3),
        roughness=rng.uniform(0.5, 1.5),
        sun=rng.uniform(-6, 6, 2),
        light=rng.uniform(0.75, 1.2) * rng.uniform(0.93, 1.07, 3),
        blur=rng.uniform(0.3, 1.1),
        noise=rng.uniform(0.008, 0.03),
    )


def _rows(field: Field, rng: np.random.Generator) -> Floats:
    """Centres of the crop's plants, n x 2: rows with gaps, not quite straight."""
    reach = SIZE * 0.75  # half the diagonal, and a little
    across = np.arange(-reach, reach, field.crop.between) + rng.uniform(0, field.crop.between)
    along = np.arange(-reach, reach, field.crop.along)
    v, u = (grid.ravel() for grid in np.meshgrid(across, along, indexing="ij"))
    u = u + rng.normal(0, 0.14 * field.crop.along, u.shape)
    v = v + rng.normal(0, 0.03 * field.crop.between, v.shape)
    v += 3 * np.sin(u / 60 + rng.uniform(0, 6))
    cos, sin = np.cos(field.angle), np.sin(field.angle)
    places = np.stack([cos * u - sin * v, sin * u + cos * v], 1) + SIZE / 2
    inside = (np.abs(places - SIZE / 2) < SIZE / 2 + field.crop.length).all(1)
    kept: Floats = places[inside & (rng.random(len(places)) > 0.07)]
    return kept


def _leaves(
    species: Species, places: Floats, rng: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """Outline and lit half (n x m x 2) and colour (n x 3) of every leaf of the plants."""
    low, high = species.leaves
    counts = rng.integers(low, high + 1, len(places))
    plant = np.repeat(np.arange(len(places)), counts)
    order = np.arange(len(plant)) - np.repeat(np.cumsum(counts) - counts, counts)
    turn = rng.uniform(0, 2 * np.pi, len(places))[plant]
    theta = turn + 2 * np.pi * order / counts[plant] + rng.normal(0, 0.25, len(plant))
    size = rng.uniform(0.65, 1.15, len(places))[plant] * rng.uniform(0.7, 1.1, len(plant))
    length = species.length * size
    heading = np.stack([np.cos(theta), np.sin(theta)], 1)
    base = places[plant] + heading * (species.stalk * length)[:, None]
    if species.leaflets > 1:
        spread = np.linspace(-1.15, 1.15, species.leaflets)
        theta = (theta[:, None] + spread).ravel()
        base, length = (np.repeat(a, species.leaflets, axis=0) for a in (base, length))
        plant = np.repeat(plant, species.leaflets)

    s = np.linspace(0, 1, 10 if species.teeth else 7)
    a = species.widest / (1 - species.widest)  # s^a (1 - s) has its maximum there
    profile = s**a * (1 - s)
    profile /= species.widest**a * (1 - species.widest)
    if species.teeth:
        profile = profile * (1 - species.depth * (np.arange(len(s)) % 2))
    bend = rng.normal(0, species.bend, len(theta))
    angle = theta[:, None] + bend[:, None] * s
    direction = np.stack([np.cos(angle), np.sin(angle)], 2)  # n m 2
    step = length[:, None, None] / (len(s) - 1)
    ribs = base[:, None] + step * (np.cumsum(direction, 1) - direction[:, :1])
    normal = np.stack([-direction[..., 1], direction[..., 0]], 2)
    half = (0.5 * species.width * length)[:, None, None] * profile[None, :, None]
    tone = rng.normal(1, 0.08, len(places))[plant] * rng.normal(1, 0.12, len(plant))
    colours = np.array(species.colour) * tone[:, None]
    left, right = ribs + half * normal, ribs - half * normal
    outline = np.concatenate([left, right[:, ::-1]], 1)
    return outline, np.concatenate([left, ribs[:, ::-1]], 1), colours


def _soil(field: Field, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Ground of several grain sizes, ridges along the rows, stones and straw; h w 3."""
    ground = np.zeros((SIZE, SIZE), np.float32)
    for cells, strength in ((5, 0.10), (20, 0.07), (70, 0.09), (SIZE, 0.07)):
        grid = rng.standard_normal((cells, cells)).astype(np.float32)
        layer = Image.fromarray(grid).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        ground += np.float32(field.roughness * strength) * np.asarray(layer)
    y, x = (
        np.float32(turn) * np.arange(SIZE, dtype=np.float32)
        for turn in (np.cos(field.angle), np.sin(field.angle))
    )
    ground += 0.06 * np.sin(np.float32(2 * np.pi / field.crop.between) * (y[:, None] - x))
    picture = np.exp(ground)[..., None] * (255 * field.soil).astype(np.float32)

    bits = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(bits)
    for _ in range(rng.poisson(25 * field.roughness)):  # stones
        cx, cy, r = *rng.uniform(0, SIZE, 2), rng.uniform(0.7, 3)
        tone = tuple((255 * field.soil * rng.uniform(0.7, 1.7)).clip(0, 255).astype(int).tolist())
        draw.ellipse((cx - r, cy - 0.7 * r, cx + r, cy + 0.7 * r), fill=tone)
    for _ in range(rng.poisson(6)):  # straw
        cx, cy, turn, reach = *rng.uniform(0, SIZE, 2), rng.uniform(0, np.pi), rng.uniform(4, 16)
        end = (cx + reach * np.cos(turn), cy + reach * np.sin(turn))
        draw.line(((cx, cy), end), fill=(196, 176, 128), width=1)
    return np.asarray(bits, np.float32) / np.float32(255)


def draw_view(
    field: Field, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """A picture of a field, h w 3 in [0, 1], and its classes, h w."""
    groups = [(1, *_leaves(field.crop, _rows(field, rng), rng))]
    for species in field.weeds:
        count = rng.poisson(field.weediness / len(field.weeds)) + 1
        patches = rng.uniform(0, SIZE, (3, 2))
        near = patches[rng.integers(3, size=count)] + rng.normal(0, 30, (count, 2))
        alone = rng.random((count, 1)) < 0.5
        places = np.where(alone, rng.uniform(0, SIZE, (count, 2)), near)
        groups.append((2, *_leaves(species, places, rng)))

    # plants on black at twice the size, so that edges are smooth
    plants = Image.new("RGB", (2 * SIZE, 2 * SIZE))
    labels = Image.new("L", plants.size)
    paint, mark = ImageDraw.Draw(plants), ImageDraw.Draw(labels)
    leaves: list[Any] = []
    for label, outlines, lit, colours in groups:
        shapes = [(2 * points).reshape(len(points), -1).tolist() for points in (outlines, lit)]
        tones = [(255 * tone * colours).clip(1, 255).astype(int).tolist() for tone in (0.8, 1)]
        leaves += zip([label] * len(colours), *shapes, *tones, strict=True)
    for i in rng.permutation(len(leaves)).tolist():
        label, outline, half, shaded, bright = leaves[i]
        paint.polygon(outline, fill=tuple(shaded))
        paint.polygon(half, fill=tuple(bright))
        mark.polygon(outline, fill=label)
    mask = np.asarray(labels)[1::2, 1::2]
    cover = labels.point([0] + [255] * 255).reduce(2)
    alpha = np.asarray(cover, np.float32)[..., None] / 255  # h w 1
    dx, dy = field.sun
    moved = cover.transform(cover.size, Image.Transform.AFFINE, (1, 0, -dx, 0, 1, -dy))
    shadow = np.asarray(moved.filter(ImageFilter.BoxBlur(1.5)), np.float32)[..., None] / 255

    picture = _soil(field, rng) * ((1 - 0.55 * shadow) * (1 - alpha))
    picture += np.asarray(plants.reduce(2), np.float32) / 255
    slope = rng.normal(0, 0.08, 2).astype(np.float32)
    ramp = np.linspace(-1, 1, SIZE, dtype=np.float32)
    light = 1 + slope[0] * ramp[:, None] + slope[1] * ramp
    picture *= light[..., None] * field.light.astype(np.float32)
    whole = Image.fromarray((255 * picture).clip(0, 255).astype(np.uint8))
    picture = np.asarray(whole.filter(ImageFilter.GaussianBlur(field.blur)), np.float32) / 255
    picture += np.float32(field.noise) * rng.standard_normal(picture.shape, np.float32)
    return picture.astype(np.float32, copy=False).clip(0, 1), mask


class FieldsDataset(Dataset[Sample]):
    """Pictures of 256 x 256 with three classes; see `fields`.

    Attributes:
        class_names: in the order of the ids.
        names: field and view, like ``f012-3``.
        blocks: the field of each picture, like ``f012``; its pictures are alike, so a bootstrap
            should draw blocks.
    """

    def __init__(self, split: str) -> None:
        if split not in FIELDS:
            raise InputError(f"split must be one of {', '.join(FIELDS)}, got {split}.")
        self.class_names = FIELD_CLASSES
        self._places = [(field, view) for field in FIELDS[split] for view in range(VIEWS)]
        self.names = [f"f{field:03d}-{view}" for field, view in self._places]
        self.blocks = [f"f{field:03d}" for field, _ in self._places]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        field, view = self._places[index]
        conditions = draw_conditions(np.random.default_rng((SEED, field)))
        picture, mask = draw_view(conditions, np.random.default_rng((SEED, field, view)))
        image = torch.from_numpy(picture).permute(2, 0, 1).contiguous()
        return Sample(image, torch.from_numpy(mask.astype(np.int64)), self.names[index])


def fields(split: str) -> FieldsDataset:
    """Drawn, synthetic fields: 400 pictures of 100 fields to train, 60 of 15, and 120 of 30.

    Each field has its own crop, weeds, soil and light, and is in one split only. A picture depends
    on its number alone; with another version of Pillow or NumPy single pixels may differ.

    Raises:
        InputError: if `split` is none of train, val and test.
    """
    return FieldsDataset(split)
