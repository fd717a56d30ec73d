"""Would a region of a label map fit better some pixels away?"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from crispmask.data.regions import Regions
from crispmask.shapes import IGNORE

GRID = 240
"""Cells along the longer side at which moves are tried; details below a cell are not seen."""

POWER = 0.25
"""Of the number of wrong pixels, by which evidence per pixel counts more.

Of n pixels whose errors are independent the evidence grows with n, of n pixels that are right or
wrong together not at all; neighbours are closer to the second.
"""

REACH = 10
"""Cells by which a region is moved at most, each way: a 24th of the longer side."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """The move of a region that explains most.

    Attributes:
        rows: pixels downward.
        columns: pixels to the right.
        pixels: pixels that it frees, which are as many as those that it takes.
        gain: bits that it gains per pixel, on the side where it gains less; 0 if there is no move
            that gains on both.
        labels: the label map after it, one pixel of each cell.
        side: where it gains less: the cells that it frees or those that it takes.
    """

    rows: int
    columns: int
    pixels: int
    gain: float
    labels: Int64[Tensor, "gh gw"]
    side: Bool[Tensor, "gh gw"]


def cell_size(height: int, width: int) -> int:
    """Side in pixels of a cell of the grid on which moves are tried."""
    return max(1, round(max(height, width) / GRID))


def best_moves(
    bits: Float[Tensor, "k h w"], mask: Int64[Tensor, "h w"], found: Regions, numbers: Sequence[int]
) -> Iterator[Move]:
    """The best move of each of these regions, one after the other.

    If a region R of label y belongs at R + d, then the labels of R + d without R are wrong, which
    should be y, and so are those of R without R + d, which should be whatever is likeliest there:

        taken = sum over (R + d) \\ R of z(y) - z(label)
        freed = sum over R \\ (R + d) of max over k of z(k) - z(y)

    The judges must agree with both: a segmenter that misses a part of a region, or sees more of its
    class beside it, agrees with one. So the move is sought that has the largest ``min(taken, freed)
    / n * n^POWER``, where n counts the pixels of R outside R + d. All three are correlations with
    R, which are found for all d at once.

    Args:
        bits: log2 of how likely each label is, up to a term that all share.
        mask: the labels.
        found: its regions.
        numbers: of the regions to be moved.
    """
    step = cell_size(*mask.shape)
    bits, mask, index = bits[:, ::step, ::step], mask[::step, ::step], found.index[::step, ::step]
    known = mask != IGNORE
    own = bits.gather(0, mask.where(known, 0)[None])[0]
    best_two = bits.topk(min(2, len(bits)), dim=0).indices
    first, second = best_two[0], best_two[-1]
    for number in numbers:
        label, inside = int(found.labels[number]), index == number
        top, left, bottom, right = found.boxes[number]
        window = (
            slice(max(0, top // step - REACH), bottom // step + 1 + REACH),
            slice(max(0, left // step - REACH), right // step + 1 + REACH),
        )
        region = inside[window]
        here = bits[(slice(None), *window)]
        outside = known[window] & (mask[window] != label)
        other = here.clone()
        other[label] = -math.inf
        win = (here[label] - own[window]).where(outside, 0)
        lose = (other.amax(0) - here[label]).where(region, 0)
        inner = region.float()
        taken = _correlations(win, inner)
        freed = lose.sum() - _correlations(lose, inner)
        cells = inner.sum() - _correlations(inner, inner)
        gains = (torch.minimum(taken, freed) / cells.clamp(min=1)).where(cells > 0.5, 0)
        place = int((gains * cells.clamp(min=0) ** POWER).argmax())
        best = gains.flatten()[place].item()
        dy, dx = place // (2 * REACH + 1) - REACH, place % (2 * REACH + 1) - REACH
        if not best > 0:  # not a number if there is a single class
            best, dy, dx = 0.0, 0, 0
        there = _shifted(inside, dy, dx)
        gets, loses = there & known & (mask != label), inside & ~there
        likeliest = first.where(first != label, second)
        yield Move(
            rows=dy * step,
            columns=dx * step,
            pixels=round(cells.flatten()[place].item()) * step**2,
            gain=best,
            labels=mask.where(~loses, likeliest).where(~gets, label),
            side=gets if taken.flatten()[place] < freed.flatten()[place] else loses,
        )


def share_of_gain(bits: Float[Tensor, "k h w"], mask: Int64[Tensor, "h w"], move: Move) -> float:
    """What one judge's bits give to `Move.gain`."""
    step = cell_size(*mask.shape)
    bits, before = bits[:, ::step, ::step][:, move.side], mask[::step, ::step][move.side]
    new, old = (bits.gather(0, x[None]).sum() for x in (move.labels[move.side], before))
    return float(new - old) * step**2 / max(1, move.pixels)


def _correlations(
    values: Float[Tensor, "h w"], region: Float[Tensor, "h w"]
) -> Float[Tensor, "n n"]:
    """Sum of the values over the region moved by -REACH to REACH rows and columns."""
    count = 2 * REACH + 1
    h, w = (max(side + REACH, count) for side in values.shape)  # so that nothing comes round
    size = (h, w)
    spectrum = torch.fft.rfft2(values, s=size) * torch.fft.rfft2(region, s=size).conj()
    sums: Tensor = torch.fft.irfft2(spectrum, s=size).roll((REACH, REACH), (0, 1))
    return sums[:count, :count]


def _shifted(inside: Bool[Tensor, "h w"], rows: int, columns: int) -> Bool[Tensor, "h w"]:
    """The set moved down and right; what leaves the picture is lost."""
    h, w = inside.shape
    y, x = inside.nonzero(as_tuple=True)
    y, x = y + rows, x + columns
    within = (y >= 0) & (y < h) & (x >= 0) & (x < w)
    out = torch.zeros_like(inside)
    out[y[within], x[within]] = True
    return out
