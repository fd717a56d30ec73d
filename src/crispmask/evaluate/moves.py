"""Would a region of a label map fit better some pixels away?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from crispmask.data.regions import Regions
from crispmask.shapes import IGNORE

GRID = 240
"""Cells along the longer side at which moves are tried; details below a cell are not seen."""

REACH = 10
"""Cells by which a region is moved at most, each way: a 24th of the longer side."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """The move of a region that explains most.

    Attributes:
        rows: pixels downward.
        columns: pixels to the right.
        pixels: number of pixels that lie in only one of the two places.
        score: bits that it gains, over the root of ``pixels``; 0 and no move if nothing gains.
        labels: the label map after it, one pixel of each cell.
    """

    rows: int
    columns: int
    pixels: int
    score: float
    labels: Int64[Tensor, "gh gw"]


def cell_size(height: int, width: int) -> int:
    """Side in pixels of a cell of the grid on which moves are tried."""
    return max(1, round(max(height, width) / GRID))


def best_moves(
    bits: Float[Tensor, "k h w"], mask: Int64[Tensor, "h w"], found: Regions, numbers: Sequence[int]
) -> list[Move]:
    """The best move of each of these regions.

    If a region R of label y belongs at R + d, then the labels of R + d without R are wrong, which
    should be y, and so are those of R without R + d, which should be whatever is likeliest there.
    That gains ``sum over R + d of (z(y) - z(label)) + sum over R \\ (R + d) of (max over k of z(k)
    - z(y))`` bits. Both sums are correlations with R, which are found for all d at once. Pixels of
    R + d that have label y already gain nothing but count in `Move.pixels`: a move onto them would
    only be another name for giving R other labels.

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
    moves = []
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
        gains = _correlations(win - lose, inner) + lose.sum()
        pixels = 2 * (inner.sum() - _correlations(inner, inner))
        scores = (gains / pixels.clamp(min=1).sqrt()).where(pixels > 0.5, 0) * step
        place = int(scores.argmax())
        score = scores.flatten()[place].item()
        dy, dx = place // (2 * REACH + 1) - REACH, place % (2 * REACH + 1) - REACH
        if not score > 0:  # not a number if there is a single class
            score, dy, dx = 0.0, 0, 0
        there = _shifted(inside, dy, dx)
        others = bits.clone()
        others[label] = -math.inf
        after = mask.where(~inside | there, others.argmax(0)).where(~there | ~known, label)
        count = round(pixels.flatten()[place].item()) * step**2
        moves.append(
            Move(rows=dy * step, columns=dx * step, pixels=count, score=score, labels=after)
        )
    return moves


def gain(bits: Float[Tensor, "k h w"], mask: Int64[Tensor, "h w"], move: Move) -> float:
    """What a move gains in bits, over the root of the number of pixels."""
    step = cell_size(*mask.shape)
    bits, before = bits[:, ::step, ::step], mask[::step, ::step]
    changed = move.labels != before
    new, old = (bits[:, changed].gather(0, x[changed][None]).sum() for x in (move.labels, before))
    return float(new - old) * step**2 / math.sqrt(max(1, move.pixels))


def _correlations(
    values: Float[Tensor, "h w"], region: Float[Tensor, "h w"]
) -> Float[Tensor, "n n"]:
    """Sum of the values over the region moved by -REACH to REACH rows and columns."""
    count = 2 * REACH + 1
    h, w = (max(side + REACH, count) for side in values.shape)  # so that nothing comes round
    size = (h, w)
    spectrum = torch.fft.rfft2(values, s=size) * torch.fft.rfft2(region, s=size).conj()
    sums = torch.fft.irfft2(spectrum, s=size).roll((REACH, REACH), (0, 1))
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
