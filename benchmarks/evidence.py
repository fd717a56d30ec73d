"""What do clicks change beyond their own pixels? mIoU against clicks.

    python benchmarks/evidence.py earth --runs runs
    python benchmarks/evidence.py earth --own
    CRISPMASK_DATA=FOLDER python benchmarks/evidence.py camvid --limit 34
    CRISPMASK_DATA=FOLDER python benchmarks/evidence.py camvid-half --train-only

A click tells the true labels of a disc of radius 3 in the middle of a wrong region, the largest
first. All rows get the same clicks, on what the control has wrong, and are scored where nobody
clicked. With --own each row is corrected as a person would correct it: every click falls on the
largest region that this row's answer still has wrong, and all pixels are scored.

The rows: the control's answer with the clicks pasted in; the same with each label spread to 12
pixels, as far as the answer was the same; a network of the same size with the clicks as further
input and no noisy mask; the refiner that was trained with clicks in its state, with one call and
more; and what there would be if each click mended its whole region. Expects the runs
DATA-control-SEED, DATA-evidence-SEED and DATA-evidence-control-SEED (the recipes of these names).
"camvid-half" is CamVid at half its size, as in the study; its runs are trained if they are missing,
and several shells share them.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from crispmask.atomic import write_atomic
from crispmask.data.sample import Sample
from crispmask.data.source import open_split
from crispmask.evaluate import Row, evaluate
from crispmask.evaluate.corrected import RULE
from crispmask.evaluate.corrections import Click, clicks_on, known_after, mended, spread, untouched
from crispmask.evaluate.images import LabelledImages, evenly_spread
from crispmask.evaluate.rows import Predictor
from crispmask.models.evidence import pasted
from crispmask.models.refiner import MaskRefiner
from crispmask.models.segmenters import BaseOutput, FPNSegmenter
from crispmask.report import svg
from crispmask.report.corrections import corrections_chart
from crispmask.report.report import Report
from crispmask.shapes import IGNORE, Image, Probs
from crispmask.train.evidence import EvidenceConfig
from earth_models import RESULTS, save
from first_light import seeds
from study_runs import Run, announce, default_refiner, finish, prepare_half

CONTROL, CHANNEL = "clicks pasted", "clicks as input"
SPREAD, CEILING = "clicks spread by a rule", "each click mends its region"
HALF_START, HALF_ON = 2000, 4000
"""Steps on CamVid at half its size: of the control to begin with, of all that goes on from it."""

PICTURES = Path(__file__).parents[1] / "docs" / "images" / "evidence"
KEYS = ("miou", "mbiou", "mbiou_2px", "accuracy", "ece", "seconds")

Answer = Callable[[Image, BaseOutput, str, list[Click]], Probs]
"""Probabilities for an image, its base output, its name and the clicks on it."""


def answers(
    models: Mapping[str, Sequence[MaskRefiner]], calls: Sequence[int]
) -> dict[str, list[Answer]]:
    """How each row answers clicks, a way per seed."""

    def paste(model: MaskRefiner) -> Answer:
        def answer(image: Image, base: BaseOutput, name: str, clicks: list[Click]) -> Probs:
            known = known_after(clicks, image.shape[-2:])[None]
            return pasted(model(image, base, names=[name]).probs, known)

        return answer

    def rule(model: MaskRefiner) -> Answer:
        def answer(image: Image, base: BaseOutput, name: str, clicks: list[Click]) -> Probs:
            labels = model(image, base, names=[name]).labels[0]
            return one_hot(spread(labels, clicks, radius=RULE), base)

        return answer

    def informed(model: MaskRefiner, number: int, seed: int) -> Answer:
        def answer(image: Image, base: BaseOutput, name: str, clicks: list[Click]) -> Probs:
            probs: Probs = model(
                image,
                base,
                known=known_after(clicks, image.shape[-2:]),
                num_inference_steps=number,
                seed=seed,
                names=[name],
            ).probs
            return probs

        return answer

    def ceiling(image: Image, base: BaseOutput, name: str, clicks: list[Click]) -> Probs:
        labels = models["control"][0](image, base, names=[name]).labels[0]
        return one_hot(mended(labels, clicks), base)

    def several(kind: str, number: int) -> list[Answer]:
        return [informed(model, number, seed) for seed, model in enumerate(models[kind])]

    return {
        CONTROL: [paste(model) for model in models["control"]],
        SPREAD: [rule(model) for model in models["control"]],
        CHANNEL: several("channel", 1),
        **{state_name(number): several("evidence", number) for number in calls},
        CEILING: [ceiling],
    }


def state_name(number: int) -> str:
    return f"clicks in the state, {number} call{'s' if number > 1 else ''}"


Clicked = Mapping[str, list[Click]]
"""The clicks on each image, by its name."""


@torch.inference_mode()
def same_clicks(
    samples: Iterable[Sample], base: FPNSegmenter, control: MaskRefiner, most: int
) -> dict[str, list[Click]]:
    """Clicks on what the control has wrong."""
    clicks = {}
    for sample in samples:
        image = sample.image[None]
        labels = control(image, base(image), names=[sample.name]).labels[0]
        clicks[sample.name] = clicks_on(sample.mask, labels, most)
    return clicks


@torch.inference_mode()
def click_on_own_errors(
    samples: Iterable[Sample],
    base: FPNSegmenter,
    answer: Answer,
    clicks: dict[str, list[Click]],
    count: int,
) -> None:
    """Add clicks until each image has so many, each on the largest error of the answer by then."""
    for sample in samples:
        image = sample.image[None]
        seen, found = base(image), clicks.setdefault(sample.name, [])
        while len(found) < count:
            labels = answer(image, seen, sample.name, found).argmax(1)[0]
            told = known_after(found, sample.mask.shape) != IGNORE
            more = clicks_on(sample.mask.masked_fill(told, IGNORE), labels, 1)
            if not more:
                break  # nothing is wrong any more
            found += more


def rows(
    ways: Mapping[str, Sequence[Answer]], clicks: Mapping[str, Sequence[Clicked]]
) -> list[Row]:
    """All rows for one number of clicks; the clicks of each row, per seed."""

    def predictor(answer: Answer, clicked: Clicked) -> Predictor:
        return lambda image, base, name: answer(image, base, name, clicked[name])

    def compared(name: str) -> dict[str, str]:
        if name.startswith("clicks in the state"):
            return {"pasted": CONTROL, "rule": SPREAD, "channel": CHANNEL}
        return {"pasted": CONTROL} if name == CHANNEL else {}

    return [
        Row(
            name=name,
            predictors=tuple(map(predictor, found, clicks[name])),
            compared=compared(name),
        )
        for name, found in ways.items()
    ]


def one_hot(labels: Int64[Tensor, "h w"], base: BaseOutput) -> Probs:
    """Labels as probabilities."""
    return BaseOutput.from_labels(labels[None], num_classes=base.probs.shape[1]).probs


def summary(report: Report) -> dict[str, Any]:
    """What is kept of a report."""
    return {
        row.name: {key: list(row.scores[key]) for key in KEYS}
        | {
            "gain": {
                part: [found.gain.mean, found.gain.low, found.gain.high]
                for part, found in row.gains.items()
            }
        }
        for row in report.rows
    }


def draw(curve: Mapping[str, Mapping[str, Any]], kind: str) -> None:
    """mIoU and mBIoU of all rows but the last, which would flatten the others, for the docs."""
    names = list(next(iter(curve.values())))[:-1]
    for key, score, suffix in (("miou", "mIoU", ""), ("mbiou", "mBIoU", "_borders")):
        rows = {
            name: [100 * statistics.fmean(found[name][key]) for found in curve.values()]
            for name in names
        }
        counts = [int(n) for n in curve]
        drawn = corrections_chart(counts, rows, base=names[0], ours=names[3], score=score)
        write_atomic(PICTURES / f"{kind}{suffix}.svg", svg.standalone(drawn))


Models = tuple[str, Path, dict[str, list[Path]]]
"""A data set, the folder of its base, and those of the refiners of each kind, seed by seed."""


def first_light_runs(data: str, runs: Path) -> Models:
    """Those that the recipes leave."""
    kinds = {"control": "control", "channel": "evidence-control", "evidence": "evidence"}
    found = {kind: seeds(runs, f"{data}-{name}") for kind, name in kinds.items()}
    return data, runs / f"{data}-base", found


def half(runs: Path, count: int) -> Models:
    """CamVid at half its size; what is missing is trained.

    All three kinds go on from a control, for as many steps each.
    """
    prepare_half(runs)
    default = default_refiner("camvid", runs)
    folder = runs / "evidence" / "camvid-half"

    def run(kind: str, seed: int, **changes: Any) -> Run:
        steps = HALF_START if kind == "start" else HALF_ON
        loop = replace(default.loop, steps=steps, eval_every=steps, seed=seed)
        return Run(folder=folder / f"{kind}-{seed}", config=replace(default, **changes, loop=loop))

    clicks = EvidenceConfig()
    changes: dict[str, dict[str, Any]] = {
        "control": {"state_input": False},
        "channel": {"state_input": False, "evidence": clicks},
        "evidence": {"process": "absorbing", "evidence": clicks},
    }
    starts = [run("start", seed, state_input=False) for seed in range(count)]
    wanted = {
        kind: [run(kind, i, init=str(start.folder), **changed) for i, start in enumerate(starts)]
        for kind, changed in changes.items()
    }
    every = [found[seed] for seed in range(count) for found in wanted.values()]
    announce(starts + every)
    finish(starts)
    finish(every)
    folders = {kind: [run.folder for run in found] for kind, found in wanted.items()}
    return default.data, Path(default.base), folders


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", choices=["earth", "camvid", "camvid-half"])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--seeds", type=int, default=3, help="of camvid-half")
    parser.add_argument("--train-only", action="store_true", help="camvid-half: train, then stop")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--limit", type=int, default=None, help="use only so many images")
    parser.add_argument("--own", action="store_true", help="click on each row's own errors")
    parser.add_argument("--clicks", type=int, nargs="+", default=[0, 1, 3, 5, 10, 20])
    parser.add_argument("--calls", type=int, nargs="+", default=[1, 5])
    args = parser.parse_args()
    source, base_folder, folders = (
        half(args.runs, args.seeds)
        if args.data == "camvid-half"
        else first_light_runs(args.data, args.runs)
    )
    if args.train_only:
        return
    data = open_split(source, "test" if args.data == "earth" else "val")
    base = FPNSegmenter.from_pretrained(base_folder)
    models = {
        kind: [MaskRefiner.from_pretrained(folder) for folder in found]
        for kind, found in folders.items()
    }
    samples = [data[i] for i in evenly_spread(len(data), args.limit)]
    ways = answers(models, args.calls)
    curve: dict[str, Any] = {}
    protocol: dict[str, str] = {}
    same = {} if args.own else same_clicks(samples, base, models["control"][0], max(args.clicks))
    own: dict[str, list[dict[str, list[Click]]]] = {
        name: [{} for _ in found] for name, found in ways.items()
    }
    for number in sorted(set(args.clicks)):  # clicks are only ever added
        scored: LabelledImages
        clicked: Mapping[str, Sequence[Clicked]]
        if args.own:
            for name, found in ways.items():
                for answer, clicks in zip(found, own[name], strict=True):
                    click_on_own_errors(samples, base, answer, clicks, number)
            scored, clicked = data, own
        else:
            told = {name: found[:number] for name, found in same.items()}
            known = {s.name: known_after(told[s.name], s.mask.shape) for s in samples}
            scored = untouched(data, known)
            clicked = {name: [told] * len(found) for name, found in ways.items()}
        title = f"{args.data}: {number} clicks" + (" on own errors" if args.own else "")
        report = evaluate(
            scored, base, rows(ways, clicked), title=title, limit=args.limit, pictures=0
        )
        print(f"\n{report.title}\n\n{report.markdown()}", flush=True)
        curve[str(number)] = summary(report)
        protocol = dict(report.protocol)
    kind = f"{args.data}_own" if args.own else args.data
    if args.output == RESULTS:
        draw(curve, kind)
    save(f"evidence_{kind}", {"protocol": protocol, "clicks": curve}, args.output)
    print(json.dumps({"written": str(args.output)}))


if __name__ == "__main__":
    main()
