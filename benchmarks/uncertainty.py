"""Which map finds the errors of a refiner, and does the refiner look at its state? Earth, test.

    python benchmarks/uncertainty.py                (the bundled models)
    python benchmarks/uncertainty.py --runs runs    (all seeds of a folder of runs)

AURC is the error rate averaged over all shares of most certain pixels; each map is judged on the
labels that it comes with.
"""

from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F

from crispmask.data.earth import EARTH_CLASSES, EarthDataset, earth
from crispmask.evaluate.probe import probe_state
from crispmask.metrics.risk_coverage import RiskCoverage
from crispmask.models.ensemble import refine_ensemble, step_disagreement
from crispmask.models.refiner import MaskRefiner
from earth_models import Models, load, options, save

SEEDS, CALLS = 8, 10


@torch.inference_mode()
def areas(models: Models, refiner: MaskRefiner, data: EarthDataset) -> dict[str, float]:
    """AURC in percent for each map of certainty."""
    metrics: dict[str, RiskCoverage] = {}
    for sample in (data[i] for i in range(len(data))):
        image, truth, names = sample.image[None], sample.mask[None], [sample.name]
        base = models.base(image)
        one = refiner(image, base, names=names)
        many = refiner(image, base, num_inference_steps=CALLS, names=names, keep_trace=True)
        seeds = refine_ensemble(refiner, image, base, ensemble_size=SEEDS, names=names)
        chain = refine_ensemble(
            refiner, image, base, ensemble_size=SEEDS, num_inference_steps=3, names=names
        )
        moved = step_disagreement(many.trace)[:, None]
        moved = F.interpolate(moved, truth.shape[1:], mode="nearest-exact")[:, 0]
        maps = {
            "base, probability": (base.probs.max(1).values, base.labels),
            "one call, probability": (one.probs.max(1).values, one.labels),
            "one call, entropy": (1 - one.uncertainty, one.labels),
            f"mean of {SEEDS} seeds, probability": (seeds.probs.max(1).values, seeds.labels),
            f"{SEEDS} seeds, disagreement": (1 - seeds.disagreement, seeds.labels),
            f"{SEEDS} seeds of 3 calls, disagreement": (1 - chain.disagreement, chain.labels),
            f"{CALLS} calls, probability": (many.probs.max(1).values, many.labels),
            f"{CALLS} calls, step disagreement": (1 - moved, many.labels),
        }
        for name, (confidence, labels) in maps.items():
            metric = metrics.setdefault(name, RiskCoverage(len(EARTH_CLASSES)))
            metric.update(confidence, labels, truth)
    return {name: 100 * metric.compute().aurc for name, metric in metrics.items()}


def main() -> None:
    args = options(__doc__).parse_args()
    models = load(args.runs)
    data = earth("test")
    results: dict[str, Any] = {}
    for seed, refiner in enumerate(models.refiners):
        use = probe_state(refiner, (data[i] for i in range(len(data))), models.base)
        results[f"seed {seed}"] = {
            "aurc": areas(models, refiner, data),
            "state_use": asdict(use) | {"reading": use.reading},
        }
    save("uncertainty", results, args.output)


if __name__ == "__main__":
    main()
