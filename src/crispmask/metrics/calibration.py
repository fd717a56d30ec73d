"""Calibration: whether a probability of 0.8 is right four times out of five."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from crispmask.errors import InputError
from crispmask.shapes import IGNORE, Mask, Probs

TEMPERATURES = tuple(1.12**i for i in range(-6, 11))
"""Tried on held-out images; 0.5 to 3.1."""

_SMALLEST = 1e-12  # probabilities are not taken for less, so that the likelihood stays finite


@dataclass(kw_only=True)  # not frozen: torchmetrics rebuilds what `compute` returns field by field
class CalibrationScores:
    """Scores of probabilities; tuples hold one value per bin and draw a reliability diagram.

    Attributes:
        ece: expected calibration error of the top label, a fraction in [0, 1].
        nll: mean negative log-likelihood of the true label, in nats.
        brier: mean over pixels of ``sum_k (p_k - [k is true])**2``, in [0, 2] (Brier 1950,
            "Verification of forecasts expressed in terms of probability").
        edges: edges of the bins of confidence, one more than there are bins.
        counts: pixels per bin.
        confidence: mean probability of the top label per bin, NaN for an empty bin.
        accuracy: share of the pixels of a bin that are right, NaN for an empty bin.
    """

    ece: float
    nll: float
    brier: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]


class CalibrationError(Metric):
    """Expected calibration error of the top label over all pixels of a data set.

    ``ECE = sum_m |B_m| / n  |accuracy(B_m) - confidence(B_m)|`` over equal bins
    ``((m - 1) / M, m / M]`` of the confidence (Guo et al. 2017, "On calibration of modern neural
    networks", eq. 3). Pixels whose target is `IGNORE` do not count.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    counts: Tensor  # m
    right: Tensor  # m
    confidence: Tensor  # m, summed
    nll: Tensor  # summed
    brier: Tensor  # summed

    def __init__(self, num_bins: int = 15, **torchmetrics_options: Any) -> None:
        super().__init__(**torchmetrics_options)
        if num_bins < 1:
            raise InputError(f"calibration needs at least 1 bin, got {num_bins}.")
        self.num_bins = num_bins
        for name in ("counts", "right"):
            zeros = torch.zeros(num_bins, dtype=torch.int64)
            self.add_state(name, zeros, dist_reduce_fx="sum")
        for name, shape in (("confidence", (num_bins,)), ("nll", ()), ("brier", ())):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, probs: Probs, target: Mask) -> None:
        """Add a batch of any size.

        Raises:
            InputError: if the sizes differ, the probabilities do not sum to one, or a label of
                the target is not a class.
        """
        check_probs(probs, target)
        probs = probs.float()
        valid = target != IGNORE
        confidence, label = probs.max(1)  # b h w
        true = probs.gather(1, torch.where(valid, target, 0)[:, None]).squeeze(1)  # b h w
        nll = -true.clamp(min=_SMALLEST).log()  # b h w
        brier = probs.square().sum(1) - 2 * true + 1  # b h w
        self.nll += torch.where(valid, nll, 0).sum(dtype=torch.float64)
        self.brier += torch.where(valid, brier, 0).sum(dtype=torch.float64)

        rest = self.num_bins  # one more bin for what does not count
        inner_edges = torch.linspace(0, 1, rest + 1, device=probs.device)[1:-1]
        bins = torch.where(valid, torch.bucketize(confidence, inner_edges), rest)  # b h w
        right = torch.where(label == target, bins, rest)  # b h w
        self.counts += torch.bincount(bins.flatten(), minlength=rest + 1)[:rest]
        self.right += torch.bincount(right.flatten(), minlength=rest + 1)[:rest]
        sums = self.confidence.new_zeros(rest + 1)
        sums.index_add_(0, bins.flatten(), confidence.flatten().double())
        self.confidence += sums[:rest]

    def compute(self) -> CalibrationScores:
        """Scores of everything added so far; NaN where nothing was."""
        total = self.counts.sum()
        gap = (self.right - self.confidence).abs().sum()
        return CalibrationScores(
            ece=(gap / total).item(),
            nll=(self.nll / total).item(),
            brier=(self.brier / total).item(),
            edges=tuple(m / self.num_bins for m in range(self.num_bins + 1)),
            counts=tuple(self.counts.tolist()),
            confidence=tuple((self.confidence / self.counts).tolist()),
            accuracy=tuple((self.right.double() / self.counts).tolist()),
        )


class TemperatureFit:
    """Calibration at each of `TEMPERATURES`, by which the logits are divided (Guo et al. 2017).

    Every fourth row and column is counted, which is enough for one number.
    """

    def __init__(self, device: torch.device) -> None:
        self.trials = [CalibrationError().to(device) for _ in TEMPERATURES]

    def update(self, probs: Probs, target: Mask) -> None:
        """Add a batch of any size.

        Raises:
            InputError: as `CalibrationError.update` does.
        """
        check_probs(probs, target)
        thin, target = probs[..., ::4, ::4], target[:, ::4, ::4]
        for temperature, trial in zip(TEMPERATURES, self.trials, strict=True):
            trial.update(tempered(thin, temperature), target)

    def compute(self, score: Literal["nll", "ece"]) -> float:
        """The temperature of the least score; 1 if no pixel was counted."""
        scores = [getattr(trial.compute(), score) for trial in self.trials]
        return 1.0 if math.isnan(scores[0]) else TEMPERATURES[scores.index(min(scores))]


def tempered(probs: Probs, temperature: float) -> Probs:
    """The softmax of the logits of these probabilities over the temperature."""
    if temperature == 1:
        return probs
    powers: Probs = probs.pow(1 / temperature)
    return powers / powers.sum(1, keepdim=True)


def check_probs(probs: Tensor, target: Tensor) -> None:
    """Check that probabilities (b k h w) can be held against a target (b h w).

    Raises:
        InputError: if the sizes differ, the probabilities do not sum to one, or a label of the
            target is not a class.
    """
    if probs.ndim != 4 or target.shape != (probs.shape[0], *probs.shape[2:]):
        raise InputError(
            f"probabilities (b, k, h, w) and target (b, h, w) must have one size, got "
            f"{tuple(probs.shape)} and {tuple(target.shape)}; resize the probabilities."
        )
    off = (probs.sum(1) - 1).abs()
    if not bool((off < 1e-2).all()):  # also false for NaN
        raise InputError(
            f"probabilities must sum to one over the classes, one sum is off by "
            f"{off.max().item():.3g}; use logits.softmax(1)."
        )
    num_classes = probs.shape[1]
    known = torch.where(target == IGNORE, 0, target)
    if known.numel() and not 0 <= int(known.min()) <= int(known.max()) < num_classes:
        raise InputError(
            f"labels of the target must lie in 0 to {num_classes - 1}, got {int(known.min())} to "
            f"{int(known.max())}; mark unknown pixels with {IGNORE}."
        )
