"""Does `crispmask data suspects` find wrong labels? Errors are planted in CamVid and looked for.

    python benchmarks/suspects.py camvid --base runs/camvid-base-dice --prior runs/prior-camvid

Five per cent of the regions of the validation labels (connected, 100 pixels or more) are spoilt,
half of them relabelled to another class at random, half moved by up to 20 pixels each way. A
suspect is a hit if at least half of its region was relabelled or moved there by one error. What a
moved region left behind is no hit, nor is a second region of an error that was found already. An
error that merges into a larger region of its new class cannot be found at all; the share of those
that can is reported. CamVid has errors of its own; these count as false alarms here. Numbers go to
benchmarks/results/suspects_camvid.json.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from rich.progress import track
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from crispmask.data.regions import Regions, regions_of
from crispmask.data.sample import Sample
from crispmask.data.source import open_split
from crispmask.evaluate.suspects import (
    Judges,
    Opinions,
    evidence_of,
    fit_trust,
    ranked,
    suspects_of,
)
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


def error_of(suspect: Suspect, planted: Planted, found: Regions) -> int:
    """The error that makes up at least half of a region, or -1."""
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
    first = [hit >= 0 and hit not in hits[:i] for i, hit in enumerate(hits)]  # no error twice
    found = np.cumsum(first)
    ranks = np.arange(1, len(hits) + 1)
    seen = {hit for hit in hits[:total] if hit >= 0}
    return {
        "precision_at_planted": len(seen) / total,
        "recall_at_planted_by_kind": {
            kind: sum(kinds[hit] == kind for hit in seen) / kinds.count(kind)
            for kind in sorted(set(kinds))
        },
        "average_precision": float((found / ranks)[first].sum() / total),
        "curve": [
            {"rank": int(rank), "precision": round(n / rank, 4), "recall": round(n / total, 4)}
            for rank, n in list(zip(ranks, found, strict=True))[: 4 * total : max(1, total // 16)]
        ],
    }


def findable(spoilt: Sequence[Planted], kinds: Sequence[str], min_area: int) -> dict[str, float]:
    """Share of the errors of each kind that make up at least half of some large enough region."""
    found = set()
    for planted in spoilt:
        regions = regions_of(planted.mask)
        for number in range(int(planted.errors.max()) + 1):
            inside = planted.errors == number
            if inside.any():
                parts = torch.bincount(regions.index[inside].clamp(min=0), minlength=len(regions))
                if ((2 * parts >= regions.areas) & (regions.areas >= min_area)).any():
                    found.add(number)
    return {
        kind: sum(kinds[number] == kind for number in found) / kinds.count(kind)
        for kind in sorted(set(kinds))
    }


def halved(opinions: Opinions) -> Opinions:
    """In half precision, for keeping."""
    return {judge: bits.half() for judge, bits in opinions.items()}


def full(opinions: Opinions) -> Opinions:
    """In single precision, for use."""
    return {judge: bits.float() for judge, bits in opinions.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="camvid, or another data set with images and labels")
    parser.add_argument("--base", default="runs/camvid-base-dice")
    parser.add_argument("--prior", default="runs/prior-camvid")
    parser.add_argument("--seeds", type=int, default=3, help="plantings, each with its own errors")
    parser.add_argument("--limit", type=int, default=None, help="use only so many images")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    base, prior = FPNSegmenter.from_pretrained(args.base), MaskPrior.from_pretrained(args.prior)
    data = open_split(args.data, "val")
    samples = [data[i] for i in range(min(len(data), args.limit or len(data)))]
    methods = {"prior": ("prior",), "base": ("base",), "both": ("base", "prior")}
    seen = [halved(Judges(base=base).opinions(sample)) for sample in track(samples, "looking")]
    runs: list[dict[str, Any]] = []
    for seed in range(args.seeds):
        plan = Plan(seed=seed)
        spoilt, kinds = plant([sample.mask for sample in samples], plan)
        changed = [Sample(s.image, p.mask, s.name) for s, p in zip(samples, spoilt, strict=True)]
        where = {s.name: (p, regions_of(p.mask)) for s, p in zip(changed, spoilt, strict=True)}
        opinions = [
            {**known, **halved(Judges(prior=prior).opinions(sample))}
            for known, sample in track(list(zip(seen, changed, strict=True)), f"planting {seed}")
        ]
        scores = {}
        for method, names in methods.items():
            some = [{name: part[name] for name in names} for part in opinions]
            pairs = list(zip(changed, some, strict=True))
            trust = fit_trust(
                [evidence_of(s, full(said), min_area=plan.min_area) for s, said in pairs]
            )
            found = [suspects_of(s, full(said), trust, min_area=plan.min_area) for s, said in pairs]
            first = ranked(suspect for part in found for suspect in part)[: 4 * len(kinds)]
            scores[method] = score([error_of(s, *where[s.image]) for s in first], kinds)
        runs.append(
            {
                "plan": asdict(plan),
                "regions": sum(map(len, found)),
                "planted": len(kinds),
                "findable": findable(spoilt, kinds, plan.min_area),
            }
            | scores
        )
    summary = {
        method: {
            key: float(np.mean([run[method][key] for run in runs]))
            for key in ("precision_at_planted", "average_precision")
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
