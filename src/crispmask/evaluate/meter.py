"""All that is counted for one predictor while the images go by."""

import statistics
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from crispmask.evaluate.bootstrap import ClassCounts
from crispmask.evaluate.rows import Row
from crispmask.metrics.boundary import BoundaryIoU
from crispmask.metrics.calibration import CalibrationError
from crispmask.metrics.confusion import ConfusionMatrix, pair_counts
from crispmask.metrics.risk_coverage import RiskCoverage
from crispmask.report.results import Comparison, Reliability, RiskCurve, RowResult
from crispmask.shapes import IGNORE, Mask, Probs


class Meter:
    """Metrics, seconds and per-image class counts of one predictor; keeps no pixels."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.num_classes = num_classes
        self.confusion = ConfusionMatrix(num_classes).to(device)
        self.boundary = BoundaryIoU(num_classes, ratio=0.02).to(device)
        self.thin_boundary = BoundaryIoU(num_classes, width=2).to(device)
        self.calibration = CalibrationError().to(device)
        self.selection = RiskCoverage(num_classes).to(device)
        self.seconds: list[float] = []
        self.image_miou: list[float] = []
        self.hits: list[Tensor] = []
        self.unions: list[Tensor] = []

    def update(self, probs: Probs, target: Mask, seconds: float) -> None:
        """Add one image."""
        confidence, pred = probs.max(1)  # b h w
        self.confusion.update(pred, target)
        self.boundary.update(pred, target)
        self.thin_boundary.update(pred, target)
        self.calibration.update(probs, target)
        self.selection.update(confidence, pred, target)
        self.seconds.append(seconds)
        counts = pair_counts(pred, target, self.num_classes, valid=target != IGNORE).cpu()
        hit = counts.diag()
        union = counts.sum(0) + counts.sum(1) - hit
        self.hits.append(hit)
        self.unions.append(union)
        self.image_miou.append((hit.double() / union).nanmean().item())

    @property
    def miou(self) -> float:
        """mIoU so far."""
        return float(self.confusion.compute().miou)

    def scores(self) -> Mapping[str, float]:
        """Fractions, nats and seconds, by the keys of the report's columns."""
        regions, calibration = self.confusion.compute(), self.calibration.compute()
        return {
            "miou": regions.miou,
            "mbiou": self.boundary.compute().mbiou,
            "mbiou_2px": self.thin_boundary.compute().mbiou,
            "accuracy": regions.accuracy,
            "ece": calibration.ece,
            "nll": calibration.nll,
            "brier": calibration.brier,
            "aurc": self.selection.compute().aurc,
            "seconds": statistics.median(self.seconds),  # the first image warms up
        }

    def true_shares(self) -> tuple[float, ...]:
        """Each class's share of the labelled pixels."""
        true = self.confusion.counts.sum(1)
        return tuple((true / true.sum().clamp(min=1)).tolist())


def row_result(row: Row, meters: Sequence[Meter], gains: Mapping[str, Comparison]) -> RowResult:
    """What the meters of a row, one per seed, have counted, beside its gains over others."""
    scores = [meter.scores() for meter in meters]
    bins, curve = meters[0].calibration.compute(), meters[0].selection.compute()
    total = max(sum(bins.counts), 1)
    return RowResult(
        name=row.name,
        steps=row.steps,
        scores={key: tuple(seed[key] for seed in scores) for key in scores[0]},
        iou=tuple(tuple(meter.confusion.compute().iou) for meter in meters),
        biou=tuple(tuple(meter.boundary.compute().biou) for meter in meters),
        reliability=Reliability(
            confidence=bins.confidence,
            accuracy=bins.accuracy,
            share=tuple(count / total for count in bins.counts),
        ),
        risk_curve=RiskCurve(coverage=curve.coverage, risk=curve.risk, area=curve.aurc),
        gains=gains,
    )


def class_counts(meters: Sequence[Meter]) -> ClassCounts:
    """Counts of several seeds over the same images, for the bootstrap."""
    hits = torch.stack([torch.stack(meter.hits) for meter in meters])  # seeds images k
    unions = torch.stack([torch.stack(meter.unions) for meter in meters])
    return ClassCounts(hits=hits.double().numpy(), unions=unions.double().numpy())
