"""Does a gate between base and refined labels help? Earth, tuned on val, measured on test.

    python benchmarks/do_no_harm.py                 (the bundled models)
    python benchmarks/do_no_harm.py --runs runs     (all seeds of a folder of runs)

A gate keeps the base's label unless a criterion of the pixel (or tile) exceeds a threshold: of a
grid, the one with the best mIoU on the val tiles whose mIoU and mBIoU 2 px are not below the
base's there. A mixture is ``g refined + (1 - g) base``, one g for all pixels. Both behind the base
and behind the base averaged with its mirrored answer. The gate that ships, which came of this, is
measured by gate.py.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crispmask.data.earth import EARTH_CLASSES, earth
from crispmask.metrics.boundary import BoundaryIoU
from crispmask.metrics.calibration import CalibrationError
from crispmask.metrics.confusion import ConfusionMatrix
from crispmask.shapes import Mask, Probs
from earth_models import Answers, answers, load, options, save

GRID = 16
ALWAYS = float("-inf")
Criterion = Float[Tensor, "b h w"]


def scores(pred: Mask, truth: Mask) -> dict[str, float]:
    """mIoU and mBIoU 2 px in percent."""
    regions, boundary = (
        ConfusionMatrix(len(EARTH_CLASSES)),
        BoundaryIoU(len(EARTH_CLASSES), width=2),
    )
    regions.update(pred, truth)
    boundary.update(pred, truth)
    return {
        "miou": 100 * regions.compute().miou,
        "mbiou_2px": 100 * boundary.compute().mbiou,
    }


def criteria(base: Probs, refined: Probs) -> dict[str, Criterion]:
    """What might tell a change for the better from one for the worse; large is for the change."""
    old, new = base.argmax(1), refined.argmax(1)

    def at(probs: Probs, labels: Mask) -> Criterion:
        return probs.gather(1, labels[:, None])[:, 0]

    changed = (old != new).float().mean((1, 2), keepdim=True)
    return {
        "refined confidence": at(refined, new),
        "refined margin over the base's label": at(refined, new) - at(refined, old),
        "refined minus base confidence": at(refined, new) - at(base, old),
        "doubt of the base": 1 - at(base, old),
        "both margins": at(refined, new) - at(refined, old) - at(base, old) + at(base, new),
        "few changes in the tile": (-changed).expand(old.shape),
    }


def gated(data: Answers, refined: Probs, criterion: Criterion, threshold: float) -> Mask:
    """The refined label above the threshold, the base's elsewhere."""
    return torch.where(criterion > threshold, refined.argmax(1), data.base.argmax(1))


def tune(data: Answers, refined: Probs, criterion: Criterion) -> float:
    """The best threshold that does no harm on these tiles; infinity keeps the base."""
    changed = data.base.argmax(1) != refined.argmax(1)
    grid = torch.quantile(criterion[changed], torch.linspace(0, 0.95, GRID)[1:]).tolist()
    floor = scores(data.base.argmax(1), data.truth)
    best = (floor["miou"], float("inf"))
    for threshold in (ALWAYS, *grid):
        found = scores(gated(data, refined, criterion, threshold), data.truth)
        if all(found[key] >= floor[key] for key in floor) and found["miou"] > best[0]:
            best = (found["miou"], threshold)
    return best[1]


def harmed(pred: Mask, data: Answers) -> float:
    """Percent of the tiles that lose over a point of accuracy against the base."""
    before, after = (
        (labels == data.truth).float().mean((1, 2)) for labels in (data.base.argmax(1), pred)
    )
    return 100 * (after < before - 0.01).float().mean().item()


def calibration(probs: Probs, truth: Mask) -> dict[str, float]:
    """ECE in percent, Brier score and NLL."""
    metric = CalibrationError()
    metric.update(probs, truth)
    found = metric.compute()
    return {"ece": 100 * found.ece, "brier": found.brier, "nll": found.nll}


def fifths(data: Answers, refined: Probs, criterion: Criterion) -> list[dict[str, float]]:
    """Changed pixels by fifths of a criterion: percent made right and percent made wrong."""
    old, new = data.base.argmax(1), refined.argmax(1)
    changed: Bool[Tensor, "b h w"] = old != new
    order = criterion[changed].argsort()
    fixed, broken = ((labels == data.truth)[changed][order].float() for labels in (new, old))
    return [
        {"fixed": 100 * f.mean().item(), "broken": 100 * b.mean().item()}
        for f, b in zip(fixed.chunk(5), broken.chunk(5), strict=True)
    ]


def compare(val: Answers, test: Answers, seed: int) -> dict[str, Any]:
    """Base, refined, every gate and every mixture of one seed."""
    low, high = val.refined[seed], test.refined[seed]
    rows: dict[str, Any] = {}
    for name, v, t in (("base", val.base, test.base), ("refined", low, high)):
        rows[name] = {
            "val": scores(v.argmax(1), val.truth),
            "test": scores(t.argmax(1), test.truth) | calibration(t, test.truth),
            "tiles_harmed": harmed(t.argmax(1), test),
        }
    tuned, applied = criteria(val.base, low), criteria(test.base, high)
    for name, criterion in tuned.items():
        threshold = tune(val, low, criterion)
        pred = gated(test, high, applied[name], threshold)
        rows[f"gate: {name}"] = {
            "threshold": "always refined" if threshold == ALWAYS else threshold,
            "test": scores(pred, test.truth),
            "tiles_harmed": harmed(pred, test),
        }
    for g in (0.25, 0.5, 0.75):
        mixed_val, mixed = torch.lerp(val.base, low, g), torch.lerp(test.base, high, g)
        rows[f"mixture: {g}"] = {
            "val": scores(mixed_val.argmax(1), val.truth) | calibration(mixed_val, val.truth),
            "test": scores(mixed.argmax(1), test.truth) | calibration(mixed, test.truth),
            "tiles_harmed": harmed(mixed.argmax(1), test),
        }
    margin = "refined margin over the base's label"
    rows["changes by fifths of the margin, smallest first"] = fifths(test, high, applied[margin])
    return rows


def main() -> None:
    args = options(__doc__).parse_args()
    models = load(args.runs)
    results: dict[str, Any] = {}
    for name, flip in (("behind base", False), ("behind base + flip", True)):
        val, test = (answers(models, earth(split), flip=flip) for split in ("val", "test"))
        for seed in range(len(models.refiners)):
            results[f"{name}, seed {seed}"] = compare(val, test, seed)
    save("do_no_harm", results, args.output)


if __name__ == "__main__":
    main()
