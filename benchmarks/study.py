"""Does the diffusion help? Every design axis of the refiner against the same control.

    python benchmarks/study.py earth calls                 # one table: trains what is missing
    python benchmarks/study.py camvid noise transition --seeds 3
    python benchmarks/study.py earth all --train-only      # the same in a second shell: they share

Expects the runs of `benchmarks/train_first_light.sh`. All arms of a table take one recipe with one
thing changed and the same number of steps: on Earth that of `earth-refiner` with 500 steps
(`shorter`) and a temperature fitted to the validation tiles; on CamVid a smaller one (`smaller`) at
half the size of the images (`half_camvid.py`), where the bases see what they see otherwise. Trained
arms lie in runs/study/DATA/; an interrupted run is resumed, a finished one is not repeated, one
that another shell trains is left to it. Each table is written to
benchmarks/results/study_DATA_TABLE/report.json, with what every row gains over the control of one
call and over the default refiner, and intervals from a paired bootstrap over blocks of images.
`benchmarks/study_page.py` makes docs/study.md of these.
"""

import argparse
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from crispmask.data.source import open_split
from crispmask.evaluate import Row, evaluate, refiner_rows
from crispmask.evaluate.rows import Predictor
from crispmask.models.bases import load_base
from crispmask.models.refiner import MaskRefiner
from crispmask.models.segmenters import BaseOutput, Segmenter, flip_average
from crispmask.report.report import Report
from crispmask.shapes import Image, Probs
from crispmask.train import RefinerTrainConfig
from study_runs import (
    OtherBase,
    Run,
    announce,
    codec_run,
    default_refiner,
    finish,
    fold_runs,
    knows_its_images,
    other_bases,
    prepare,
    refiner_run,
)
from study_tables import BASE, CONTROL, DEFAULT, Arm, chain, once, tables


def default_rows(
    segmenter: Segmenter, folders: Mapping[str, Sequence[Path]], *, num_classes: int, table: str
) -> list[Row]:
    """Base, base + flip, filter, control and default refiner, and what each is compared with."""
    refiners, controls = (
        [MaskRefiner.from_pretrained(folder) for folder in folders[kind]]
        for kind in (DEFAULT, CONTROL)
    )
    rows = refiner_rows(
        refiners, controls, flip_segmenter=segmenter, num_classes=num_classes, steps=(1,)
    )
    parts = {"base": BASE} if table == "bases" else {"default": DEFAULT}
    parts |= {"control": CONTROL}
    return [
        replace(row, compared={part: over for part, over in parts.items() if over != row.name})
        for row in rows
    ]


def base_rows(base: OtherBase, segmenter: Segmenter) -> list[Row]:
    """Another base by itself and with a flip."""

    def alone(image: Image, output: BaseOutput, name: str) -> Probs:
        return segmenter(image).probs

    def flipped(image: Image, output: BaseOutput, name: str) -> Probs:
        return flip_average(segmenter, image).probs

    control = f"{base.name} + control" + ("" if base.learned else ", unseen")
    return [
        Row(name=base.name, predictors=(alone,), uses_base=False, compared={"control": control}),
        Row(
            name=f"{base.name} + flip",
            predictors=(flipped,),
            uses_base=False,
            compared={"base": base.name, "control": control},
        ),
    ]


def arm_row(arm: Arm, folders: Sequence[Path], segmenter: Segmenter) -> Row:
    """A row of the table, one predictor per seed; `segmenter` is the base that it refines."""

    def predictor(folder: Path, seed: int) -> Predictor:
        refiner = MaskRefiner.from_pretrained(folder)
        refiner.config = replace(refiner.config, gate=0.0)  # the arm itself, however it does
        answer = arm.answer or once
        sampling = replace(arm.sampling, seed=seed)

        def predict(image: Image, base: BaseOutput, name: str) -> Probs:
            seen = base if arm.behind is None else segmenter(image)
            return answer(refiner, segmenter, image, seen, name, sampling)

        return predict

    number = arm.sampling.num_inference_steps
    plain = not arm.changes and arm.behind is None and arm.answer is None
    return Row(
        name=arm.name,
        predictors=tuple(predictor(folder, seed) for seed, folder in enumerate(folders)),
        steps=number if plain and arm.sampling == chain(number) else None,
        uses_base=arm.behind is None,
        compared=arm.compared,
    )


def train_arms(
    default: RefinerTrainConfig,
    chosen: Mapping[str, Sequence[Arm]],
    *,
    seeds: Sequence[int],
    runs: Path,
    data: str,
) -> None:
    """Train what the tables lack, each run once: bases, folds, a codec, then seed by seed."""
    study = runs / "study" / data
    arms = [
        Arm(name=DEFAULT),
        Arm(name=CONTROL, changes={"state_input": False}),
        *(arm for table in chosen.values() for arm in table),
    ]
    behind = {arm.behind.run.folder: arm.behind for arm in arms if arm.behind}
    bases = [base.run for base in behind.values() if base.learned]
    codecs = [codec_run(data, runs)] if any("codec" in arm.changes for arm in arms) else []
    needed = [*bases, *codecs]

    def ours(wanted: Iterable[Run]) -> list[Run]:
        """Without the runs of `train_first_light.sh`."""
        return list({run.folder: run for run in wanted if study in run.folder.parents}.values())

    def trained(folds: Mapping[str, tuple[str, ...]]) -> list[Run]:
        runs_of_arms = []
        for seed, arm in itertools.product(seeds, arms):
            changes = arm.changes
            if base := changes.get("base"):
                changes = {**changes, "fold_bases": folds.get(base, ())}
            runs_of_arms.append(refiner_run(default, changes, seed=seed, runs=runs, data=data))
        return ours(runs_of_arms)

    announce([*ours(needed), *trained({})])
    finish(ours(needed))
    folds: dict[str, tuple[str, ...]] = {}
    for base in bases:
        if knows_its_images(base, study):
            parts = fold_runs(base, study)
            announce(parts)
            finish(parts)
            folds[str(base.folder)] = tuple(str(part.folder) for part in parts)
    finish(trained(folds))


def measure(
    default: RefinerTrainConfig,
    table: str,
    arms: Sequence[Arm],
    *,
    seeds: int,
    runs: Path,
    name: str,
    limit: int | None = None,
) -> Report:
    """All rows of a table."""
    data = open_split(default.data, "test" if name == "earth" else "val")
    segmenter = load_base(default.base, class_names=data.class_names)

    def trained(changes: dict[str, Any]) -> list[Path]:
        wanted = [
            refiner_run(default, changes, seed=seed, runs=runs, data=name) for seed in range(seeds)
        ]
        return [run.folder for run in wanted]

    known = {DEFAULT: trained({}), CONTROL: trained({"state_input": False})}
    rows = default_rows(segmenter, known, num_classes=len(data.class_names), table=table)
    others: dict[str, Segmenter] = {}
    for arm in arms:
        seen: Segmenter = segmenter
        if arm.behind:
            if arm.behind.name not in others:
                others[arm.behind.name] = load_base(
                    arm.behind.run.folder, class_names=data.class_names
                )
                rows += base_rows(arm.behind, others[arm.behind.name])
            seen = others[arm.behind.name]
        rows.append(arm_row(arm, trained(arm.changes), seen))
    title = f"{name}: {table}"
    return evaluate(data, segmenter, rows, title=title, limit=limit, pictures=0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", choices=["earth", "camvid"])
    parser.add_argument("tables", nargs="+", metavar="table", help="names of tables, or all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only-seed", type=int, help="train the runs of this seed, then stop")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--limit", type=int, default=None, help="use only so many images")
    parser.add_argument("--train-only", action="store_true")
    args = parser.parse_args()
    default = default_refiner(args.data, args.runs)
    every = tables(default, other_bases(args.data, args.runs), codec_run(args.data, args.runs))
    if unknown := set(args.tables) - {"all", *every}:
        parser.error(f"no table {', '.join(sorted(unknown))}; there are {', '.join(every)} and all")
    chosen = {name: every[name] for name in every if {name, "all"} & set(args.tables)}
    prepare(args.data, args.runs)
    seeds = range(args.seeds) if args.only_seed is None else [args.only_seed]
    train_arms(default, chosen, seeds=seeds, runs=args.runs, data=args.data)
    if args.train_only or args.only_seed is not None:
        return
    for table, arms in chosen.items():
        report = measure(
            default, table, arms, seeds=args.seeds, runs=args.runs, name=args.data, limit=args.limit
        )
        report.write(args.output / f"study_{args.data}_{table}")
        print(f"\n{report.title}\n\n{report.markdown()}")


if __name__ == "__main__":
    main()
