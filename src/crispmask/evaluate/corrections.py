"""What a few corrections change: clicks on the largest errors, scored where nobody clicked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from crispmask.data.marks import disc, innermost, squared_distance
from crispmask.data.regions import regions_of
from crispmask.data.sample import Sample
from crispmask.evaluate.changed import Changed
from crispmask.evaluate.images import LabelledImages
from crispmask.shapes import IGNORE

RADIUS = 3
"""Pixels around a click whose label it tells."""


@dataclass(frozen=True)
class Click:
    """A correction of one wrong region.

    Attributes:
        label: its true class.
        place: row and column of its middle.
        pixels: that the click tells, all of the region.
        region: the whole of it.
    """

    label: int
    place: tuple[int, int]
    pixels: Bool[Tensor, "h w"]
    region: Bool[Tensor, "h w"]


def clicks_on(truth: Int64[Tensor, "h w"], labels: Int64[Tensor, "h w"], count: int) -> list[Click]:
    """Clicks in the middle of the largest wrong regions, the largest first.

    A wrong region is connected and has one true class.

    Args:
        truth: class ids, `IGNORE` where unknown.
        labels: the answer that is corrected.
        count: clicks at most; there are fewer if less is wrong.
    """
    wrong = regions_of(truth.where(truth != labels, IGNORE))
    clicks = []
    for number in wrong.areas.argsort(descending=True, stable=True)[:count].tolist():
        region = wrong.index == number
        place = innermost(region)
        pixels = disc(region.shape, *place, RADIUS) & region
        clicks.append(Click(int(wrong.labels[number]), place, pixels, region))
    return clicks


def known_after(clicks: Sequence[Click], size: Sequence[int]) -> Int64[Tensor, "h w"]:
    """What the clicks tell, `IGNORE` elsewhere."""
    known = torch.full(tuple(size), IGNORE)
    for click in clicks:
        known[click.pixels] = click.label
    return known


def spread(
    labels: Int64[Tensor, "h w"], clicks: Sequence[Click], *, radius: int
) -> Int64[Tensor, "h w"]:
    """The answer with each click's label given to all that lies near and was answered alike.

    What a rule without any learning makes of clicks: a wider disc, as far as it lies in the region
    of the answer in which the click lies. Of several clicks the nearest counts, and what a click
    told stands.
    """
    regions, result = regions_of(labels), labels.clone()
    nearest = torch.full(labels.shape, radius**2 + 1)
    for click in clicks:
        distance = squared_distance(labels.shape, *click.place)
        near = (distance < nearest) & (regions.index == regions.index[click.place])
        result[near], nearest[near] = click.label, distance[near]
    known = known_after(clicks, labels.shape)
    return known.where(known != IGNORE, result)


def mended(labels: Int64[Tensor, "h w"], clicks: Sequence[Click]) -> Int64[Tensor, "h w"]:
    """The answer if each click mended its whole region: what is to be had at most."""
    result = labels.clone()
    for click in clicks:
        result[click.region] = click.label
    return result


def untouched(dataset: LabelledImages, known: Mapping[str, Int64[Tensor, "h w"]]) -> Changed:
    """A data set whose truth is unknown where somebody clicked, so that only the rest counts.

    Args:
        dataset: the images.
        known: what was told of each image, by its name.
    """

    def without_told(index: int, sample: Sample) -> Sample:
        told = known[sample.name] != IGNORE
        return replace(sample, mask=sample.mask.masked_fill(told, IGNORE))

    return Changed(dataset, without_told)
