"""What do clicks change beyond their own pixels? mIoU against clicks, on what nobody touched.

    python benchmarks/evidence.py earth --runs runs
    CRISPMASK_DATA=FOLDER python benchmarks/evidence.py camvid --limit 34

A click tells the true labels of a disc of radius 3 in the middle of a wrong region of the control's
answer, the largest regions first; all rows get the same clicks. The rows: the control's answer with
the clicks pasted in; the same with each label spread to 12 pixels, as far as the answer was the
same; a network of the same size with the clicks as further input and no noisy mask; the refiner
that was trained with clicks in its state, with one call and more; and what there would be if each
click mended its whole region. Expects the runs DATA-control-SEED, DATA-evidence-SEED and
DATA-evidence-control-SEED (the recipes of these names).
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from crispmask.data.source import Split, open_split
from crispmask.evaluate import Row, evaluate
from crispmask.evaluate.corrections import Click, clicks_on, known_after, mended, spread, untouched
from crispmask.evaluate.rows import Predictor
from crispmask.models.evidence import pasted
from crispmask.models.refiner import MaskRefiner
from crispmask.models.segmenters import BaseOutput, FPNSegmenter
from crispmask.report import svg
from crispmask.report.corrections import corrections_chart
from crispmask.report.report import Report
from crispmask.shapes import Image, Mask, Probs
from earth_models import RESULTS, save
from first_light import seeds

CONTROL, CHANNEL = "clicks pasted", "clicks as input"
SPREAD = "clicks spread by a rule"
RULE = 12
"""Pixels to which the rule spreads a click."""

PICTURES = Path(__file__).parents[1] / "docs" / "images" / "evidence"
KEYS = ("miou", "mbiou", "mbiou_2px", "accuracy", "ece", "seconds")

Known = Mapping[str, Mask]


def rows(
    models: Mapping[str, Sequence[MaskRefiner]],
    clicks: Mapping[str, list[Click]],
    known: Known,
    *,
    calls: Sequence[int],
) -> list[Row]:
    """All rows for one number of clicks."""

    def paste(model: MaskRefiner) -> Predictor:
        def predict(image: Image, base: BaseOutput, name: str) -> Probs:
            return pasted(model(image, base, names=[name]).probs, known[name][None])

        return predict

    def informed(model: MaskRefiner, number: int, seed: int) -> Predictor:
        def predict(image: Image, base: BaseOutput, name: str) -> Probs:
            probs: Probs = model(
                image,
                base,
                known=known[name],
                num_inference_steps=number,
                seed=seed,
                names=[name],
            ).probs
            return probs

        return predict

    def ruled(model: MaskRefiner) -> Predictor:
        def predict(image: Image, base: BaseOutput, name: str) -> Probs:
            labels = model(image, base, names=[name]).labels[0]
            return one_hot(spread(labels, clicks[name], radius=RULE), base)

        return predict

    def ceiling(image: Image, base: BaseOutput, name: str) -> Probs:
        labels = models["control"][0](image, base, names=[name]).labels[0]
        return one_hot(mended(labels, clicks[name]), base)

    def several(kind: str, number: int) -> tuple[Predictor, ...]:
        return tuple(informed(model, number, seed) for seed, model in enumerate(models[kind]))

    compared = {"pasted": CONTROL, "rule": SPREAD, "channel": CHANNEL}
    return [
        Row(name=CONTROL, predictors=tuple(paste(model) for model in models["control"])),
        Row(name=SPREAD, predictors=tuple(ruled(model) for model in models["control"])),
        Row(name=CHANNEL, predictors=several("channel", 1), compared={"pasted": CONTROL}),
        *(
            Row(
                name=f"clicks in the state, {n} call{'s' if n > 1 else ''}",
                predictors=several("evidence", n),
                steps=n,
                compared=compared,
            )
            for n in calls
        ),
        Row(name="each click mends its region", predictors=(ceiling,)),
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


def drawn(curve: Mapping[str, Mapping[str, Any]]) -> str:
    """mIoU of all rows but the last, which would flatten the others."""
    names = list(next(iter(curve.values())))[:-1]
    rows = {
        name: [100 * statistics.fmean(found[name]["miou"]) for found in curve.values()]
        for name in names
    }
    return corrections_chart([int(n) for n in curve], rows, base=names[0], ours=names[3])


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", choices=["earth", "camvid"])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--limit", type=int, default=None, help="use only so many images")
    parser.add_argument("--clicks", type=int, nargs="+", default=[0, 1, 3, 5, 10, 20])
    parser.add_argument("--calls", type=int, nargs="+", default=[1, 5])
    args = parser.parse_args()
    split: Split = "test" if args.data == "earth" else "val"
    data = open_split(args.data, split)
    base = FPNSegmenter.from_pretrained(args.runs / f"{args.data}-base")
    kinds = {"control": "control", "channel": "evidence-control", "evidence": "evidence"}
    models = {
        kind: [MaskRefiner.from_pretrained(p) for p in seeds(args.runs, f"{args.data}-{name}")]
        for kind, name in kinds.items()
    }
    clicks = {}
    for sample in (data[i] for i in range(len(data))):
        image = sample.image[None]
        labels = models["control"][0](image, base(image), names=[sample.name]).labels[0]
        clicks[sample.name] = clicks_on(sample.mask, labels, max(args.clicks))
    curve: dict[str, Any] = {}
    protocol: dict[str, str] = {}
    for number in args.clicks:
        told = {name: found[:number] for name, found in clicks.items()}
        known = {name: known_after(told[name], data[i].mask.shape) for i, name in enumerate(told)}
        report = evaluate(
            untouched(data, known),
            base,
            rows(models, told, known, calls=args.calls),
            title=f"{args.data}: {number} clicks",
            limit=args.limit,
            pictures=0,
        )
        print(f"\n{report.title}\n\n{report.markdown()}", flush=True)
        curve[str(number)] = summary(report)
        protocol = dict(report.protocol)
    PICTURES.mkdir(parents=True, exist_ok=True)
    (PICTURES / f"{args.data}.svg").write_text(svg.standalone(drawn(curve)), encoding="utf-8")
    save(f"evidence_{args.data}", {"protocol": protocol, "clicks": curve}, args.output)
    print(json.dumps({"written": str(args.output)}))


if __name__ == "__main__":
    main()
