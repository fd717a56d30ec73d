"""Does the diffusion help? Every design axis of the refiner against the same control.

    python benchmarks/study.py earth calls                 # one table: trains what is missing
    python benchmarks/study.py camvid transition --seeds 3
    python benchmarks/study.py earth all --train-only

Expects the runs of `benchmarks/train_first_light.sh`. All arms of a table take the recipe of the
default refiner with one thing changed and the same number of steps. Trained arms lie in
runs/study/DATA/, and so does the codec that one of them needs, codec/; an interrupted run is
resumed, a finished one is not repeated. Each table is written to
benchmarks/results/study_DATA_TABLE/report.json, with the gain of the default refiner over every
other row and its interval from a paired bootstrap over blocks of images.
"""

import argparse
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from crispmask.data.source import open_split
from crispmask.evaluate import Row, evaluate, refiner_rows
from crispmask.evaluate.rows import Predictor
from crispmask.models.refiner import MaskRefiner
from crispmask.models.refiner_config import Sampling
from crispmask.models.segmenters import BaseOutput, FPNSegmenter
from crispmask.predict import refine_views
from crispmask.recipes import RECIPES
from crispmask.shapes import Image, Probs
from crispmask.train import RefinerTrainConfig, TrainConfig, train

DEFAULT = "refined, 1 call"
"""Row that all others are compared with."""

LEARNED = "learned"
"""Stands for runs/study/DATA/codec in the changes of an arm, so that its name holds no path."""

Answer = Callable[[MaskRefiner, FPNSegmenter, Image, BaseOutput, str, Sampling], Probs]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One row: what is changed in training, how the chain is run, how an answer is made of it."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    sampling: Sampling = field(default_factory=Sampling)
    answer: Answer | None = None


def chain(steps: int, **options: Any) -> Sampling:
    return Sampling(num_inference_steps=steps, **options)


def once(
    refiner: MaskRefiner,
    segmenter: FPNSegmenter,
    image: Image,
    base: BaseOutput,
    name: str,
    sampling: Sampling,
) -> Probs:
    """The answer of one chain."""
    probs: Probs = refiner(
        image,
        base,
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale,
        eta=sampling.eta,
        start=sampling.start,
        average_last=sampling.average_last,
        seed=sampling.seed,
        names=[name],
    ).probs
    return probs


def eight_seeds(
    refiner: MaskRefiner,
    segmenter: FPNSegmenter,
    image: Image,
    base: BaseOutput,
    name: str,
    sampling: Sampling,
) -> Probs:
    """Mean probabilities of eight chains."""
    chains = [once(refiner, segmenter, image, base, f"{name}/{i}", sampling) for i in range(8)]
    return torch.stack(chains).mean(0)


def views(scales: Sequence[float]) -> Answer:
    """Mean over these scales and mirror images; base and refiner see each."""

    def answer(
        refiner: MaskRefiner,
        segmenter: FPNSegmenter,
        image: Image,
        base: BaseOutput,
        name: str,
        sampling: Sampling,
    ) -> Probs:
        refine = partial(
            refiner,
            num_inference_steps=sampling.num_inference_steps,
            seed=sampling.seed,
            names=[name],
        )
        return refine_views(segmenter, refine, image, scales=scales)

    return answer


def tables(default: RefinerTrainConfig) -> dict[str, list[Arm]]:
    """Arms of each table; every table also has base, base + flip, filter, control, default."""
    patch = default.patch_size * default.stride  # the network sees the same positions

    def trained(name: str, *steps: int, **changes: Any) -> list[Arm]:
        return [
            Arm(name=f"{name}, {n} call{'s' if n > 1 else ''}", changes=changes, sampling=chain(n))
            for n in steps
        ]

    def beside(name: str, **changes: Any) -> list[Arm]:
        """With its own control: another condition or codec changes the head, too."""
        return [
            *trained(name, 1, 3, **changes),
            Arm(name=f"{name}, control", changes={**changes, "state_input": False}),
        ]

    return {
        "calls": [Arm(name=f"refined, {n} calls", sampling=chain(n)) for n in (2, 3, 5, 10, 20)],
        "noise": [
            *trained("noise on the truth", 1, 3, 10, noise_target="truth"),
            *trained("noise on the base", 1, 3, 10, noise_target="base"),
            *trained("noise on the truth + bound", 1, 10, noise_target="truth", vlb_weight=0.1),
        ],
        "transition": [
            *trained("absorbing", 1, 10, process="absorbing"),
            *trained("mixed", 1, 10, process="mixed"),
            *trained("cosine schedule", 1, 10, schedule="cosine"),
        ],
        "reverse": [
            Arm(
                name=f"{what}, eta {eta:g}, 10 calls",
                changes=changes,
                sampling=chain(10, eta=eta),
            )
            for what, changes in (
                ("noise on first prediction", {}),
                ("noise on the truth", {"noise_target": "truth"}),
            )
            for eta in (0.0, 0.5, 1.0)
        ],
        "guidance": [
            Arm(
                name=f"trained with dropout, guidance {s:g}, 3 calls",
                changes={"condition_dropout": 0.1},
                sampling=chain(3, guidance_scale=s),
            )
            for s in (1.0, 1.4, 2.0, 4.0)
        ],
        "start": [
            Arm(name=f"from the base, {n} calls", sampling=chain(n, start="base"))
            for n in (1, 2, 3, 10)
        ],
        "condition": [
            *beside("features", conditioning="features"),
            *beside("log-probabilities", conditioning="logits"),
            *beside("mask", conditioning="mask"),
        ],
        "codec": [
            *beside("stride 1", stride=1, patch_size=patch),
            *beside("stride 4", stride=4, patch_size=patch // 4),
            *beside("learned codec", codec=LEARNED, stride=4, patch_size=patch // 4),
        ],
        "stages": [
            *trained("one stage", 1, 10, first_stage=0.0),
            *trained("first stage only", 1, 10, first_stage=1.0),
        ],
        "averaging": [
            Arm(name="10 calls, last 3 averaged", sampling=chain(10, average_last=3)),
            Arm(name="10 calls, all averaged", sampling=chain(10, average_last=10)),
            Arm(name="3 calls, 8 seeds averaged", sampling=chain(3), answer=eight_seeds),
            Arm(name="1 call, flip", answer=views((1.0,))),
            Arm(name="1 call, 12 views", answer=views((0.5, 0.75, 1.0, 1.25, 1.5, 1.75))),
        ],
    }


def slug(changes: dict[str, Any]) -> str:
    """Name of the run with these changes."""
    return "-".join(f"{k}={v}".replace("_", "") for k, v in sorted(changes.items()))


def trained_runs(
    config: RefinerTrainConfig, data: str, arm: Arm, seeds: int, runs: Path
) -> list[Path]:
    """The arm's runs, trained where they are missing."""
    if not arm.changes:
        return [runs / f"{data}-refiner-{seed}" for seed in range(seeds)]
    folders = []
    for seed in range(seeds):
        folder = runs / "study" / data / f"{slug(arm.changes)}-{seed}"
        folders.append(folder)
        changed = replace(config, **arm.changes, loop=replace(config.loop, seed=seed))
        if changed.codec == LEARNED and not finished(folder):
            codec = runs / "study" / data / "codec"
            train_missing(RECIPES[f"{data}-codec"](), codec)
            changed = replace(changed, codec=str(codec))
        train_missing(changed, folder)
    return folders


def finished(folder: Path) -> bool:
    return (folder / "model.safetensors").exists()


def train_missing(config: TrainConfig, folder: Path) -> None:
    """Train what is not there yet, or go on where it was interrupted."""
    if finished(folder):
        return
    resume = (folder / "checkpoint").exists()
    if not resume and folder.exists():
        shutil.rmtree(folder)  # stopped before its first checkpoint
    train(config, folder, resume=resume)


def arm_row(arm: Arm, folders: Sequence[Path], segmenter: FPNSegmenter) -> Row:
    """A row of the table, one predictor per seed."""

    def predictor(folder: Path, seed: int) -> Predictor:
        refiner = MaskRefiner.from_pretrained(folder)
        answer = arm.answer or once
        sampling = replace(arm.sampling, seed=seed)

        def predict(image: Image, base: BaseOutput, name: str) -> Probs:
            return answer(refiner, segmenter, image, base, name, sampling)

        return predict

    predictors = tuple(predictor(folder, seed) for seed, folder in enumerate(folders))
    return Row(name=arm.name, predictors=predictors)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", choices=["earth", "camvid"])
    parser.add_argument("table", help="name of a table, or all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--limit", type=int, default=None, help="use only so many images")
    parser.add_argument("--train-only", action="store_true")
    args = parser.parse_args()
    config = RECIPES[f"{args.data}-refiner"]()
    assert isinstance(config, RefinerTrainConfig)
    every = tables(config)
    if args.table != "all" and args.table not in every:
        parser.error(f"table must be all or one of {', '.join(every)}")
    for table in every if args.table == "all" else [args.table]:
        runs = {
            arm.name: trained_runs(config, args.data, arm, args.seeds, args.runs)
            for arm in every[table]
        }
        if args.train_only:
            continue
        segmenter = FPNSegmenter.from_pretrained(args.runs / f"{args.data}-base")
        data = open_split(args.data, "test" if args.data == "earth" else "val")
        refiners, controls = (
            [
                MaskRefiner.from_pretrained(args.runs / f"{args.data}-{kind}-{seed}")
                for seed in range(args.seeds)
            ]
            for kind in ("refiner", "control")
        )
        rows = refiner_rows(
            refiners,
            controls,
            flip_segmenter=segmenter,
            num_classes=len(data.class_names),
            steps=(1,),
        )
        rows += [arm_row(arm, runs[arm.name], segmenter) for arm in every[table]]
        title = f"{args.data}: {table}"
        report = evaluate(data, segmenter, rows, title=title, limit=args.limit, pictures=0)
        report.write(args.output / f"study_{args.data}_{table}")
        print(f"\n{title}\n\n{report.markdown()}")


if __name__ == "__main__":
    main()
