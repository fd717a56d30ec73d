"""Simulated corrections: clicks and strokes of a person who sees what an answer has wrong."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image as PILImage
from PIL import ImageDraw
from torch import Tensor

from crispmask.data.marks import Place, disc, innermost
from crispmask.data.regions import regions_of
from crispmask.shapes import IGNORE, Mask

SMALLEST = 16
"""Pixels from which a wrong region is worth a mark."""

WIDEST = 4
"""Largest radius of a mark, in pixels of the image."""


@dataclass(frozen=True, kw_only=True)
class EvidenceConfig:
    """Marks that training shows.

    Attributes:
        most: marks on one crop; their number is drawn log-uniformly from 1 up to this.
        wrong: share of the marks that lie on regions which the network's own answer without marks
            has wrong, the larger the likelier; the others lie on any region.
        strokes: share of the marks that are strokes; the others are clicks.
        errors: share of the marks that carry another label than the true one.
        region_weight: weight of an extra cross-entropy over the regions that were marked.
    """

    most: int = 20
    wrong: float = 0.8
    strokes: float = 0.3
    errors: float = 0.02
    region_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("wrong", "strokes", "errors"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"evidence {name} must lie in [0, 1], got {getattr(self, name)}.")
        if self.most < 1 or not self.region_weight >= 0:
            raise ValueError(
                "evidence needs most of at least 1 and region_weight of at least 0, got "
                f"{self.most} and {self.region_weight}."
            )


@dataclass(frozen=True)
class Evidence:
    """What is known of each crop.

    Attributes:
        known: labels, `IGNORE` where unknown, b h w.
        regions: true labels of the regions that were marked, `IGNORE` elsewhere, b h w.
    """

    known: Mask
    regions: Mask


def simulate(
    masks: Mask,
    answer: Mask,
    config: EvidenceConfig,
    *,
    num_classes: int,
    generator: torch.Generator,
) -> Evidence:
    """Marks on crops.

    Args:
        masks: true labels.
        answer: labels that are corrected.
        config: what marks there are.
        num_classes: that a mistaken mark may carry, at least 2.
        generator: decides everything.
    """
    known, regions = torch.full_like(masks, IGNORE), torch.full_like(masks, IGNORE)
    for i, (truth, guess) in enumerate(zip(masks.cpu(), answer.cpu(), strict=True)):
        (amount,) = torch.rand(1, generator=generator).tolist()
        marks = _marks(truth, guess, int((config.most + 1) ** amount), config, generator)
        for inside, mark, label in marks:
            (mistaken,) = torch.rand(1, generator=generator).tolist()
            if mistaken < config.errors:
                other = 1 + int(torch.randint(num_classes - 1, (), generator=generator))
                label = (label + other) % num_classes
            else:
                regions[i].masked_fill_(inside.to(masks.device), label)
            known[i].masked_fill_(mark.to(masks.device), label)
    return Evidence(known=known, regions=regions)


def _marks(
    truth: Int64[Tensor, "h w"],
    guess: Int64[Tensor, "h w"],
    count: int,
    config: EvidenceConfig,
    generator: torch.Generator,
) -> Iterator[tuple[Place, Place, int]]:
    """Region, mark and true label of each correction of one crop."""
    wrong, every = regions_of(truth.where(truth != guess, IGNORE)), regions_of(truth)
    left, all_areas = (
        found.areas.float().where(found.areas >= SMALLEST, 0) for found in (wrong, every)
    )
    for _ in range(count):
        where, how, size = torch.rand(3, generator=generator).tolist()
        found, weights = (wrong, left) if where < config.wrong else (every, all_areas)
        if not weights.any():
            continue
        number = int(torch.multinomial(weights, 1, generator=generator))
        if found is wrong:
            left[number] = 0  # one mark says what is wrong there
        inside = found.index == number
        draw = stroke if how < config.strokes else click
        mark = draw(inside, 1 + int(size * WIDEST), generator)
        yield inside, mark, int(found.labels[number])


def click(inside: Place, radius: int, generator: torch.Generator) -> Place:
    """A disc in the region, around its innermost pixel or, as often, any pixel."""
    if torch.rand((), generator=generator) < 0.5:
        y, x = _pixels(inside, 1, generator)[0]
    else:
        y, x = innermost(inside)
    return disc(inside.shape, y, x, radius) & inside


def stroke(inside: Place, radius: int, generator: torch.Generator) -> Place:
    """What a straight line between two pixels of the region covers of it."""
    h, w = inside.shape
    canvas = PILImage.new("1", (w, h))
    ends = [(x, y) for y, x in _pixels(inside, 2, generator)]
    ImageDraw.Draw(canvas).line(ends, fill=1, width=2 * radius - 1)
    return torch.from_numpy(np.array(canvas)) & inside


def _pixels(inside: Place, count: int, generator: torch.Generator) -> list[tuple[int, int]]:
    places = inside.nonzero()
    chosen = places[torch.randint(len(places), (count,), generator=generator)]
    return [(int(y), int(x)) for y, x in chosen]
