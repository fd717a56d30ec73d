"""Does the calibrated gate keep its promise on images that it was not calibrated on?

    python benchmarks/gate.py earth --runs runs     # calibrated on val, measured on test
    python benchmarks/gate.py camvid --runs runs    # on one half of val, measured on the other

The halves of CamVid's val split are its even and its odd runs of ten neighbouring frames, each used
for both. What the models say is kept in CACHE, in half precision, one file per image, so that a
second run costs little; delete it when a model has changed.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crispmask.data.source import Split, open_split
from crispmask.evaluate import Calibration, LabelledImages, calibrate
from crispmask.evaluate.calibration import SCORES, Answer, worst_fall
from crispmask.evaluate.meter import Meter
from crispmask.metrics.calibration import tempered
from crispmask.models.probabilities import gated
from crispmask.models.refiner import MaskRefiner
from crispmask.models.segmenters import BaseOutput, FPNSegmenter
from crispmask.shapes import Image, Probs
from earth_models import RESULTS, save

NEIGHBOURS = 10
"""Frames of a run."""


@dataclass(frozen=True)
class Cached:
    """Answers of some images, from the disk."""

    folders: tuple[Path, Path]
    dataset: LabelledImages
    indices: Sequence[int]

    def __iter__(self) -> Iterator[Answer]:
        for i in self.indices:
            sample = self.dataset[i]
            base, refined = (_load(folder / f"{sample.name}.pt") for folder in self.folders)
            yield Answer(base, refined, sample.mask[None])


def _load(path: Path) -> Probs:
    probs: Tensor = torch.load(path).float()
    return probs / probs.sum(1, keepdim=True)


@torch.inference_mode()
def answered(runs: Path, data: str, split: Split, seed: int, cache: Path) -> Cached:
    """What the base and the refiner of this seed say of a split, computed where it is missing."""
    dataset = open_split(data, split)
    folders = tuple(cache / f"{data}-{split}" / part for part in ("base", f"refiner-{seed}"))
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    segmenter = FPNSegmenter.from_pretrained(runs / f"{data}-base")
    refiner = MaskRefiner.from_pretrained(runs / f"{data}-refiner-{seed}")
    for i in range(len(dataset)):
        sample = dataset[i]
        base_file, refined_file = (folder / f"{sample.name}.pt" for folder in folders)
        if refined_file.exists():
            continue
        image: Image = sample.image[None]
        if not base_file.exists():
            torch.save(segmenter(image).probs.half(), base_file)
        base = BaseOutput(probs=_load(base_file))
        probs = refiner(image, base, gate=0.0, seed=seed, names=[sample.name]).probs
        torch.save(probs.half(), refined_file)
    return Cached((folders[0], folders[1]), dataset, range(len(dataset)))


def halves(whole: Cached) -> tuple[Cached, Cached]:
    """Even and odd runs of neighbours."""
    parts: tuple[list[int], list[int]] = ([], [])
    for i in whole.indices:
        parts[i // NEIGHBOURS % 2].append(i)
    first, second = (Cached(whole.folders, whole.dataset, part) for part in parts)
    return first, second


def measure(found: Calibration, answers: Cached) -> dict[str, Any]:
    """Base, refined as trained, refined with the new temperature and the gate; in percent."""
    rows = ("base", "refined", "calibrated")
    meters = {row: Meter(len(answers.dataset.class_names), torch.device("cpu")) for row in rows}
    for answer in answers:
        warm = tempered(answer.refined, found.temperature)
        probs = (answer.base, answer.refined, gated(warm, answer.base, found.gate))
        for meter, p in zip(meters.values(), probs, strict=True):
            meter.update(p, answer.truth, 0.0)
    scores = {row: {key: meter.scores()[key] for key in SCORES} for row, meter in meters.items()}
    falls = {row: worst_fall(scores["base"], scores[row]) for row in rows}
    return {
        row: {key: 100 * value for key, value in scores[row].items()}
        | {"worst fall": 100 * falls[row]}
        for row in rows
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", choices=["earth", "camvid"])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path("runs/answers"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    results: dict[str, Any] = {}
    for seed in range(args.seeds):
        val = answered(args.runs, args.data, "val", seed, args.cache)
        if args.data == "earth":
            folds = [("val to test", val, answered(args.runs, "earth", "test", seed, args.cache))]
        else:
            even, odd = halves(val)
            folds = [("even to odd", even, odd), ("odd to even", odd, even)]
        for name, held_out, new in folds:
            found = calibrate(held_out)
            row = {"fitted": asdict(found), "new": measure(found, new)}
            results[f"seed {seed}, {name}"] = row
            print(seed, name, found.temperature, found.gate, row["new"], flush=True)
    save(f"gate_{args.data}", results, args.output)


if __name__ == "__main__":
    main()
