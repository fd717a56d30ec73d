"""Shapes on a grid of pixels; pixel (x, y) is the square from there to (x + 1, y + 1)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

Points = Float64[np.ndarray, "n 2"]
"""x to the right and y down, in pixels; the centres of pixels lie at .5."""

Point = Float64[np.ndarray, "2"]

LARGEST_BOX = 64 * 1024
"""Pixels around a part of a line that are looked at in one go."""


class Patch(NamedTuple):
    """Pixels of a part of the image."""

    rows: slice
    columns: slice
    inside: Bool[np.ndarray, "h w"]


@dataclass(frozen=True)
class Drawing:
    """Pixels of one class.

    Attributes:
        label: id of the class.
        source: where the pixels were drawn, for messages.
        patches: the pixels; they may overlap.
    """

    label: int
    source: str
    patches: Sequence[Patch]


def polygon(rings: Sequence[Points], size: Sequence[int]) -> Patch:
    """Pixels whose centre is inside of an odd number of rings.

    A centre on the border belongs to one side only, so polygons that share an edge share no pixel.

    Args:
        rings: outline and holes; the last point of each is joined with its first.
        size: height and width of the image.
    """
    rows, columns = _box(np.concatenate(rings), 0, size)
    h, w = rows.stop - rows.start, columns.stop - columns.start
    crossed = np.zeros((h, w + 1), dtype=bool)  # an edge lies to the left of this centre
    for ring in rings:
        for edge in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            # upwards and downwards alike, so that neighbours round alike
            (x0, y0), (x1, y1) = sorted(edge, key=lambda point: float(point[1]))
            first, stop = (_first_centre(y, rows) for y in (y0, y1))
            if first == stop:
                continue
            y = np.arange(first, stop)
            x = x0 + (y + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
            column = np.ceil(x - 0.5).clip(columns.start, columns.stop).astype(int)
            crossed[y - rows.start, column - columns.start] ^= True
    inside: Bool[np.ndarray, "h w"] = np.logical_xor.accumulate(crossed, axis=1)[:, :w]
    return Patch(rows, columns, inside)


def stroke(points: Points, radius: float, size: Sequence[int]) -> Iterator[Patch]:
    """Pixels whose centre is at most ``radius`` from a line, segment by segment.

    Args:
        points: of the line; a single one gives a disc.
        radius: in pixels.
        size: height and width of the image.
    """
    ends = points[1:] if len(points) > 1 else points
    for whole in zip(points, ends, strict=False):
        for start, end, rows, columns in _parts(*whole, radius, size):
            x = np.arange(columns.start, columns.stop) + 0.5 - start[0]
            y = np.arange(rows.start, rows.stop)[:, None] + 0.5 - start[1]
            dx, dy = end - start
            share = ((x * dx + y * dy) / (dx * dx + dy * dy or 1.0)).clip(0, 1)  # of the part, h w
            distance = np.hypot(x - share * dx, y - share * dy)
            yield Patch(rows, columns, distance <= radius)


def runs(counts: Sequence[int], size: Sequence[int]) -> Patch:
    """Pixels of a run-length code: runs outside and inside in turn, column by column.

    Args:
        counts: length of each run; they sum to the number of pixels.
        size: height and width of the image.
    """
    h, w = size
    inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(w, h).T
    return Patch(slice(0, h), slice(0, w), inside)


def _parts(
    start: Point, end: Point, radius: float, size: Sequence[int]
) -> Iterator[tuple[Point, Point, slice, slice]]:
    """A segment in parts so short that the pixels around each are few, and these pixels."""
    rows, columns = _box(np.stack([start, end]), radius, size)
    around = (rows.stop - rows.start) * (columns.stop - columns.start)
    if around <= LARGEST_BOX or math.dist(start, end) <= 2 * radius:
        yield start, end, rows, columns
    else:
        middle = (start + end) / 2
        yield from _parts(start, middle, radius, size)
        yield from _parts(middle, end, radius, size)


def _box(points: Points, margin: float, size: Sequence[int]) -> tuple[slice, slice]:
    """Rows and columns of the pixels whose centres lie in the box around points."""
    low, high = points.min(0) - margin, points.max(0) + margin
    starts = [math.ceil(value - 0.5) for value in low]
    stops = [math.floor(value - 0.5) + 1 for value in high]
    columns, rows = (
        slice(min(max(start, 0), side), min(max(stop, 0), side))
        for start, stop, side in zip(starts, stops, (size[1], size[0]), strict=True)
    )
    return rows, columns


def _first_centre(y: float, rows: slice) -> int:
    """First of the rows whose centre is not above y."""
    return int(min(max(math.ceil(y - 0.5), rows.start), rows.stop))
