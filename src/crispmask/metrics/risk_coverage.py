"""Risk and coverage: how many errors are left if only the most certain pixels are kept."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torchmetrics import Metric

from crispmask.errors import InputError
from crispmask.metrics.confusion import check_masks
from crispmask.shapes import IGNORE, Mask

_FARTHEST = 17.0  # log-odds; those of the float32 next to 1 are 16.6


@dataclass(kw_only=True)  # not frozen: torchmetrics rebuilds what `compute` returns field by field
class RiskCoverageScores:
    """Error rates of the most certain pixels, all fractions; NaN where nothing was counted.

    Attributes:
        aurc: area under the curve: the error rate averaged over all shares of pixels kept. 0 is
            best; pixels in random order give the error rate of them all.
        coverage: shares of the pixels that are kept, evenly spaced up to 1.
        risk: error rate among the most certain pixels that make up each share.
    """

    aurc: float
    coverage: tuple[float, ...]
    risk: tuple[float, ...]


class RiskCoverage(Metric):
    """Risk-coverage curve of a confidence over all pixels of a data set, in constant memory.

    The risk at coverage c is the error rate of the share c of most confident pixels (El-Yaniv
    and Wiener 2010; Geifman and El-Yaniv 2017, "Selective classification for deep neural
    networks"); AURC is its mean over c. Pixels are sorted into bins of equal width in the
    log-odds of their confidence, which tell 0.999 from 0.9999; those of one bin count as in
    random order. Pixels whose target is `IGNORE` do not count.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    counts: Tensor  # m
    wrong: Tensor  # m

    def __init__(
        self,
        num_classes: int,
        *,
        num_bins: int = 1000,
        points: int = 40,
        **torchmetrics_options: Any,
    ) -> None:
        """Start with nothing counted.

        Args:
            num_classes: number of classes.
            num_bins: bins of confidence, from log-odds -17 to 17.
            points: points of the curve.
            torchmetrics_options: passed on to `torchmetrics.Metric`.
        """
        super().__init__(**torchmetrics_options)
        if min(num_bins, points) < 1:
            raise InputError(
                f"a curve needs at least 1 bin and 1 point, got {num_bins} and {points}."
            )
        self.num_classes = num_classes
        self.num_bins = num_bins
        self.points = points
        for name in ("counts", "wrong"):
            zeros = torch.zeros(num_bins, dtype=torch.int64)
            self.add_state(name, zeros, dist_reduce_fx="sum")

    def update(self, confidence: Float[Tensor, "_ _ _"], pred: Mask, target: Mask) -> None:
        """Add a batch of any size.

        Args:
            confidence: in [0, 1], usually the probability of the label.
            pred: the labels it is about.
            target: the true ones.

        Raises:
            InputError: if sizes differ, a label is not a class, or a confidence is outside [0, 1].
        """
        check_masks(pred, target, self.num_classes)
        if confidence.shape != target.shape:
            raise InputError(
                f"confidence and target (b, h, w) must have one size, got "
                f"{tuple(confidence.shape)} and {tuple(target.shape)}."
            )
        inside = (confidence >= 0) & (confidence <= 1 + 1e-4)  # false for NaN
        if not bool(inside.all()):
            raise InputError(
                f"confidences must lie in [0, 1], got {confidence.min().item():.3g} to "
                f"{confidence.max().item():.3g}; take the probability of the label."
            )
        log_odds = torch.logit(confidence.float().clamp(0, 1)).clamp(-_FARTHEST, _FARTHEST)
        share = (log_odds + _FARTHEST) / (2 * _FARTHEST)  # b h w, 0 to 1
        bins = (share * self.num_bins).long().clamp(max=self.num_bins - 1)
        known = target != IGNORE
        wrong = bins[known & (pred != target)]
        self.counts += torch.bincount(bins[known], minlength=self.num_bins)
        self.wrong += torch.bincount(wrong, minlength=self.num_bins)

    def compute(self) -> RiskCoverageScores:
        """The curve of everything added so far."""
        coverage = torch.arange(1, self.points + 1, dtype=torch.float64) / self.points
        kept, errors = self._totals()
        risk = _at(coverage, kept, errors) / coverage
        return RiskCoverageScores(
            aurc=_area(kept, errors), coverage=tuple(coverage.tolist()), risk=tuple(risk.tolist())
        )

    def _totals(self) -> tuple[Float64[Tensor, "m"], Float64[Tensor, "m"]]:
        """Shares of all pixels that are kept, and kept but wrong, after each bin from the top."""
        filled = self.counts > 0
        kept, errors = (
            x[filled].flip(0).cumsum(0).double().cpu() for x in (self.counts, self.wrong)
        )
        total = self.counts.sum().item()
        return kept / total, errors / total


def _at(
    coverage: Float64[Tensor, "n"], kept: Float64[Tensor, "m"], errors: Float64[Tensor, "m"]
) -> Float64[Tensor, "n"]:
    """Errors among the share `coverage` of pixels; inside a bin they grow in a straight line."""
    if not len(kept):
        return torch.full_like(coverage, torch.nan)
    end = torch.searchsorted(kept, coverage).clamp(max=len(kept) - 1)  # n: the bin that ends later
    start_kept, start_errors = (torch.cat([x.new_zeros(1), x])[end] for x in (kept, errors))
    part = (coverage - start_kept) / (kept[end] - start_kept)
    return torch.lerp(start_errors, errors[end], part.clamp(0, 1))


def _area(kept: Float64[Tensor, "m"], errors: Float64[Tensor, "m"]) -> float:
    """Integral of errors(c) / c over c from 0 to 1.

    In a bin from ``c_0`` to ``c_1``, where ``errors(c) = e_0 + r (c - c_0)``, it is
    ``r (c_1 - c_0) + (e_0 - r c_0) log(c_1 / c_0)``; the first bin has no logarithm.
    """
    if not len(kept):
        return float("nan")
    width, gained = (torch.diff(x, prepend=x.new_zeros(1)) for x in (kept, errors))
    rate = gained / width
    before = kept[:-1]
    offset = errors[:-1] - rate[1:] * before
    return float(gained.sum() + (offset * (kept[1:] / before).log()).sum())
