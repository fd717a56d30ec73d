"""Conformal label sets on Earth: calibrated on the val tiles, measured on the test tiles.

    python benchmarks/conformal.py                  (the bundled models)
    python benchmarks/conformal.py --runs runs      (all seeds of a folder of runs)

The test blocks are other regions, so the tiles are not exchangeable and nothing is promised. The
last lines split val and test tiles anew at random, blocks apart or tiles apart, which says how much
of what is missing is due to regions.
"""

import statistics
from typing import Any

import torch

from crispmask.data.earth import earth
from crispmask.metrics.conformal import ConformalThreshold, LabelSetCoverage, label_sets
from crispmask.shapes import Mask, Probs
from earth_models import answers, load, options, save

ALPHAS = (0.1, 0.2, 0.3)
SPLITS = 40


def measure(
    alpha: float, calibration: tuple[Probs, Mask], check: tuple[Probs, Mask]
) -> dict[str, float]:
    """Threshold of the first tiles, coverage and size on the others."""
    metric, coverage = ConformalThreshold(alpha), LabelSetCoverage()
    metric.update(*calibration)
    threshold = metric.compute()
    probs, truth = check
    coverage.update(label_sets(probs, threshold), truth)
    scores = coverage.compute()
    return {
        "threshold": threshold,
        "coverage": scores.coverage,
        "set_size": scores.size,
        "single": scores.single,
    }


def resplit(
    alpha: float, probs: Probs, truth: Mask, groups: list[str], count: int
) -> dict[str, float]:
    """Mean over random splits of the groups, about `count` images to calibrate on."""
    rng = torch.Generator().manual_seed(0)
    names = sorted(set(groups))
    found = []
    for _ in range(SPLITS):
        order = [names[i] for i in torch.randperm(len(names), generator=rng).tolist()]
        first: set[str] = set()
        while sum(g in first for g in groups) < count:
            first.add(order.pop())
        inside = torch.tensor([g in first for g in groups])
        pairs = ((probs[inside], truth[inside]), (probs[~inside], truth[~inside]))
        found.append(measure(alpha, *pairs))
    coverage = [f["coverage"] for f in found]
    return {
        "coverage": statistics.fmean(coverage),
        "coverage_std_over_splits": statistics.stdev(coverage),
        "set_size": statistics.fmean(f["set_size"] for f in found),
    }


def main() -> None:
    args = options(__doc__).parse_args()
    models = load(args.runs)
    val, test = earth("val"), earth("test")
    before, after = (answers(models, data, flip=False) for data in (val, test))
    rows: dict[str, Any] = {}
    for alpha in ALPHAS:
        row = {"base": measure(alpha, (before.base, before.truth), (after.base, after.truth))}
        for seed, (low, high) in enumerate(zip(before.refined, after.refined, strict=True)):
            pairs = ((low, before.truth), (high, after.truth))
            row[f"refined, seed {seed}"] = measure(alpha, *pairs)
        both = torch.cat([before.refined[0], after.refined[0]])
        truth = torch.cat([before.truth, after.truth])
        tiles = [f"{i}" for i in range(len(truth))]
        blocks = [*val.blocks, *test.blocks]
        row["refined, seed 0, tiles split at random"] = resplit(alpha, both, truth, tiles, len(val))
        row["refined, seed 0, blocks split at random"] = resplit(
            alpha, both, truth, blocks, len(val)
        )
        rows[f"asked for {1 - alpha:g}"] = row
    save("conformal", rows, args.output)


if __name__ == "__main__":
    main()
