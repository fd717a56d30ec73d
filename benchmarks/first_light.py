"""The table of the README: base, cheap tricks, control and refined, over seeds.

Control and refined stand twice, behind the base and behind base + flip.

    python benchmarks/first_light.py earth --runs runs --output benchmarks/results
    python benchmarks/first_light.py camvid:FOLDER --runs runs --output benchmarks/results

Expects the runs that `benchmarks/train_first_light.sh` leaves: NAME-base, NAME-base-longer,
NAME-refiner-SEED and NAME-control-SEED.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from crispmask.data.source import Split, open_split
from crispmask.evaluate import Row, evaluate, refiner_rows
from crispmask.evaluate.rows import Predictor
from crispmask.models.refiner import MaskRefiner
from crispmask.models.segmenters import BaseOutput, FPNSegmenter, flip_average
from crispmask.shapes import Image, Probs


def longer_row(folder: Path) -> Row:
    """The base after as many more steps as the refiner took."""
    model = FPNSegmenter.from_pretrained(folder)

    def predict(image: Image, base: BaseOutput, name: str) -> Probs:
        probs: Probs = model(image).probs
        return probs

    return Row(name="base trained longer", predictors=(predict,), uses_base=False)


def full_size_row(base: FPNSegmenter) -> Row:
    """The base's weights applied to the image at full size instead of half."""

    def predict(image: Image, output: BaseOutput, name: str) -> Probs:
        config = base.config
        base.config = replace(config, scale=1.0)
        probs: Probs = base(image).probs
        base.config = config
        return probs

    return Row(name="base at full image size", predictors=(predict,), uses_base=False)


def behind_flip_rows(
    models: dict[str, list[MaskRefiner]], base: FPNSegmenter, steps: list[int]
) -> list[Row]:
    """Control and refiners behind the base averaged with its answer to the mirrored image."""

    def predictor(model: MaskRefiner, seed: int, calls: int) -> Predictor:
        def predict(image: Image, output: BaseOutput, name: str) -> Probs:
            both = BaseOutput(probs=flip_average(base, image).probs)
            probs: Probs = model(
                image, both, num_inference_steps=calls, seed=seed, names=[name]
            ).probs
            return probs

        return predict

    def row(kind: str, calls: int, name: str) -> Row:
        every = enumerate(models[kind])
        predictors = tuple(predictor(model, seed, calls) for seed, model in every)
        control = {"control": "base + flip, control"} if models["control"] else {}
        return Row(
            name=f"base + flip, {name}",
            predictors=predictors,
            uses_base=False,
            compared={"base + flip": "base + flip", **(control if kind == "refiner" else {})},
        )

    rows = [row("control", 1, "control")] if models["control"] else []
    for calls in steps:
        rows.append(row("refiner", calls, f"refined, {calls} call{'s' if calls > 1 else ''}"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="earth or camvid:FOLDER")
    parser.add_argument("--base", default="", help="run of another base, never seen in training")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--limit", type=int, default=None, help="use only so many images")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 3, 10])
    args = parser.parse_args()
    name = args.data.partition(":")[0]
    split: Split = "test" if name == "earth" else "val"
    data = open_split(args.data, split)
    base = FPNSegmenter.from_pretrained(args.runs / (args.base or f"{name}-base"))
    refiners = [MaskRefiner.from_pretrained(p) for p in seeds(args.runs, f"{name}-refiner")]
    controls = [MaskRefiner.from_pretrained(p) for p in seeds(args.runs, f"{name}-control")]
    rows = refiner_rows(
        refiners,
        controls,
        flip_segmenter=base,
        num_classes=len(data.class_names),
        steps=args.steps,
    )
    if not args.base and (args.runs / f"{name}-base-longer").exists():
        rows.insert(3, longer_row(args.runs / f"{name}-base-longer"))
    if base.config.scale != 1:
        rows.insert(3, full_size_row(base))
    rows += behind_flip_rows({"refiner": refiners, "control": controls}, base, args.steps)
    report = evaluate(data, base, rows, title=f"{name} {split}", limit=args.limit)
    behind = f"_behind_{args.base}" if args.base else ""
    folder = args.output / f"first_light_{name}_{split}{behind}"
    report.write(folder)
    print(report.markdown())
    print(json.dumps({"written": str(folder)}))


def seeds(runs: Path, stem: str) -> list[Path]:
    """Folders ``stem-0``, ``stem-1``, ... that hold a finished model."""
    return sorted(p for p in runs.glob(f"{stem}-[0-9]") if (p / "model.safetensors").exists())


if __name__ == "__main__":
    main()
