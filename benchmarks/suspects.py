"""Does `crispmask data suspects` find wrong labels? Errors are planted in CamVid and looked for.

    python benchmarks/suspects.py camvid --base runs/camvid-base --prior runs/prior-camvid

Five per cent of the regions of the validation labels (connected, 100 pixels or more) are spoilt,
half of them relabelled to another class at random, half moved by up to 20 pixels each way. A region
of the spoilt map that is planted by at least half counts as found. CamVid has errors of its own;
these count as false alarms here. Numbers go to benchmarks/results/suspects_camvid.json.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from rich.progress import track
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from crispmask.data.regions import regions_of
from crispmask.data.sample import Sample
from crispmask.data.source import open_split
from crispmask.evaluate.suspects import Judges, evidence_of, fit_trust, rank_suspects
from crispmask.models.prior import MaskPrior
from crispmask.models.segmenters import FPNSegmenter
from crispmask.provenance import provenance
from crispmask.report.suspects import Suspect
from crispmask.shapes import IGNORE


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is planted: the share of the regions, the smallest of them, how far they move."""

    share: float = 0.05
    min_area: int = 100
    shift: int = 20
    seed: int = 0


@dataclass(frozen=True)
class Planted:
    """A spoilt label map.

    Attributes:
        mask: the labels, errors included.
        errors: number of the error that a pixel belongs to, -1 for none.
    """

    mask: Int64[Tensor, "h w"]
    errors: Int64[Tensor, "h w"]


def plant(masks: Sequence[Int64[Tensor, "h w"]], plan: Plan) -> tuple[list[Planted], list[str]]:
    """Spoil a share of all regions; every second one is relabelled, the others are moved.

    Returns:
        The spoilt maps, and the kind of each error: "relabelled" or "moved".
    """
    rng = np.random.default_rng(plan.seed)
    found = [regions_of(mask) for mask in masks]
    places = [
        (image, region)
        for image, regions in enumerate(found)
        for region in range(len(regions))
        if regions.areas[region] >= plan.min_area
    ]
    classes = sorted({int(label) for regions in found for label in regions.labels})
    count = round(plan.share * len(places))
    chosen = [places[i] for i in rng.choice(len(places), count, replace=False)]
    spoilt = [Planted(mask.clone(), torch.full_like(mask, -1)) for mask in masks]
    kinds = []
    for number, (image, region) in enumerate(chosen):
        label = int(found[image].labels[region])
        inside = found[image].index == region
        if number % 2 == 0:
            label = int(rng.choice([k for k in classes if k != label]))
        else:
            fill_hole(spoilt[image].mask, inside)
            inside = moved(inside, rng, plan.shift)
        spoilt[image].mask[inside] = label
        spoilt[image].errors[inside] = number
        kinds.append("moved" if number % 2 else "relabelled")
    return spoilt, kinds


def fill_hole(mask: Int64[Tensor, "h w"], hole: Tensor) -> None:
    """Give the pixels of a hole the label of the nearest known pixel around it, in place."""
    away = (hole | (mask == IGNORE)).numpy()
    rows, columns = distance_transform_edt(away, return_distances=False, return_indices=True)
    nearest = mask[torch.from_numpy(rows), torch.from_numpy(columns)]
    mask[hole] = nearest[hole]


def moved(inside: Tensor, rng: np.random.Generator, shift: int) -> Tensor:
    """The region somewhere else, by up to ``shift`` pixels each way; cut at the edge."""
    dy = dx = 0
    while dy == dx == 0:
        dy, dx = (int(d) for d in rng.integers(-shift, shift + 1, 2))
    rows, columns = (
        axis + d for axis, d in zip(inside.nonzero(as_tuple=True), (dy, dx), strict=True)
    )
    h, w = inside.shape
    within = (rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)
    out = torch.zeros_like(inside)
    out[rows[within], columns[within]] = True
    return out


def error_of(suspect: Suspect, planted: Planted) -> int:
    """The error that makes up at least half of a region, or -1."""
    found = regions_of(planted.mask)
    errors = planted.errors[found.index == found.find(suspect.label, suspect.area, suspect.box)]
    number = int(errors[errors >= 0].mode().values) if (errors >= 0).any() else -1
    return number if 2 * int((errors == number).sum()) >= suspect.area else -1


def score(hits: Sequence[int], kinds: Sequence[str]) -> dict[str, Any]:
    """Precision at the number of errors, recall there by kind, and a thinned curve.

    Args:
        hits: the error that each suspect is, -1 for none, the most doubtful first.
        kinds: of all errors.
    """
    total = len(kinds)
    curve, right, seen = [], 0, set[int]()
    for rank, hit in enumerate(hits, 1):
        right += hit >= 0
        seen |= {hit} - {-1}
        curve.append((rank, right / rank, len(seen) / total))
    first = {hit for hit in hits[:total] if hit >= 0}
    return {
        "precision_at_planted": curve[total - 1][1],
        "recall_at_planted": len(first) / total,
        "recall_at_planted_by_kind": {
            kind: sum(kinds[hit] == kind for hit in first) / kinds.count(kind)
            for kind in sorted(set(kinds))
        },
        "average_precision": sum(curve[i][1] for i, hit in enumerate(hits) if hit >= 0) / total,
        "curve": [
            {"rank": rank, "precision": round(p, 4), "recall": round(r, 4)}
            for rank, p, r in curve[: 4 * total : max(1, total // 16)]
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="camvid, or another data set with images and labels")
    parser.add_argument("--base", default="runs/camvid-base")
    parser.add_argument("--prior", default="runs/prior-camvid")
    parser.add_argument("--seeds", type=int, default=3, help="plantings, each with its own errors")
    parser.add_argument("--limit", type=int, default=None, help="use only so many images")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    judges = Judges(
        base=FPNSegmenter.from_pretrained(args.base), prior=MaskPrior.from_pretrained(args.prior)
    )
    data = open_split(args.data, "val")
    samples = [data[i] for i in range(min(len(data), args.limit or len(data)))]
    methods = {"prior": ("prior",), "base": ("base",), "both": ("base", "prior")}
    runs: list[dict[str, Any]] = []
    for seed in range(args.seeds):
        plan = Plan(seed=seed)
        spoilt, kinds = plant([sample.mask for sample in samples], plan)
        where = {sample.name: planted for sample, planted in zip(samples, spoilt, strict=True)}
        evidence = []
        for sample in track(samples, f"planting {seed}"):
            changed = Sample(sample.image, where[sample.name].mask, sample.name)
            opinions = judges.opinions(changed)
            evidence.append(evidence_of(changed, opinions, min_area=plan.min_area))
        scores = {}
        for method, names in methods.items():
            some = [replace(e, means={name: e.means[name] for name in names}) for e in evidence]
            first = rank_suspects(some, fit_trust(some))[: 4 * len(kinds)]
            scores[method] = score([error_of(s, where[s.image]) for s in first], kinds)
        regions = sum(len(e.boxes) for e in evidence)
        runs.append({"plan": asdict(plan), "regions": regions, "planted": len(kinds)} | scores)
    summary = {
        method: {
            key: float(np.mean([run[method][key] for run in runs]))
            for key in ("precision_at_planted", "recall_at_planted", "average_precision")
        }
        for method in methods
    }
    result = {"data": f"{args.data} val, {len(samples)} images", "mean": summary, "runs": runs}
    path = args.output / f"suspects_{args.data.partition(':')[0]}.json"
    args.output.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result | {"provenance": provenance()}, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
