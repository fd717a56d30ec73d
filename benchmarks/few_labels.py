"""Few labelled images, many masks: do masks without their images help a refiner?

    python benchmarks/few_labels.py --train-only    # also in a second shell: they share
    python benchmarks/few_labels.py

On Earth, with 5, 10 and 25 % of the training images labelled. Everything learns from these alone -
the base, bases on folds that stand in for it in training, the control, and a refiner - but for one
further refiner, which also sees the masks of all other images, without image or base. Both
refiners learn by noise on the truth, the only way in which a mask alone teaches anything. The table
is that of every report: base, its cheap tricks, control, both refiners with one call and with ten.
Runs lie in runs/few-labels/; an interrupted one is resumed, a finished one is not repeated. Numbers
go to benchmarks/results/few_labels_earth.json.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crispmask.data.source import open_split
from crispmask.evaluate import evaluate, refiner_rows
from crispmask.models.bases import load_base
from crispmask.models.refiner import MaskRefiner
from crispmask.recipes import earth_base, earth_refiner
from crispmask.report import Report
from earth_models import RESULTS, save
from evidence import summary
from study_runs import FOLDS, Run, announce, finish, shorter

SHARES = (0.05, 0.1, 0.25)
"""Of the training images, that are labelled."""

STEPS = 150
"""Of a base: half of the recipe's, for at most a quarter of its images."""

CALLS = (1, 10)

NOISE: dict[str, Any] = {
    "process": "absorbing",
    "noise_target": "truth",
    "condition_dropout": 0.1,
}
"""What both refiners have in place of the recipe's noise on their first prediction."""


@dataclass(frozen=True, kw_only=True)
class Arms:
    """The runs of one share.

    Attributes:
        base: trained on the labelled images.
        folds: likewise, each without one part of them.
        control: of each seed, without the mask input.
        own: refiners of each seed that see the labelled images alone.
        more: refiners of each seed that see the masks of the others as well.
    """

    base: Run
    folds: list[Run]
    control: list[Run]
    own: list[Run]
    more: list[Run]

    @property
    def bases(self) -> list[Run]:
        return [self.base, *self.folds]

    @property
    def refiners(self) -> list[Run]:
        return [run for seed in zip(self.control, self.own, self.more, strict=True) for run in seed]


def arms(share: float, *, seeds: int, runs: Path) -> Arms:
    """The runs of one share of the labels."""
    place = runs / "few-labels" / f"{share:g}"
    start = earth_base()
    loop = replace(start.loop, steps=STEPS, eval_every=STEPS, save_every=STEPS)
    config = replace(start, labelled=share, loop=loop)
    base = Run(folder=place / "base", config=config)
    folds = [
        Run(folder=place / f"base-fold-{i}", config=replace(config, folds=FOLDS, fold=i))
        for i in range(FOLDS)
    ]
    own = replace(
        shorter(earth_refiner()),
        base=str(base.folder),
        fold_bases=tuple(str(run.folder) for run in folds),
        labelled=share,
        other_masks=False,
    )

    def several(name: str, **changes: Any) -> list[Run]:
        return [
            Run(
                folder=place / f"{name}-{seed}",
                config=replace(own, loop=replace(own.loop, seed=seed), **changes),
            )
            for seed in range(seeds)
        ]

    return Arms(
        base=base,
        folds=folds,
        control=several("control", state_input=False),
        own=several("own", **NOISE),
        more=several("more", other_masks=True, **NOISE),
    )


def measured(found: Arms, *, share: float, limit: int | None) -> Report:
    """The table of one share."""
    data = open_split("earth", "test")
    base = load_base(found.base.folder, class_names=data.class_names)
    own, more, control = (
        [MaskRefiner.from_pretrained(run.folder) for run in several]
        for several in (found.own, found.more, found.control)
    )
    for refiner in (*own, *more, *control):
        refiner.config = replace(refiner.config, gate=0.0)  # the network itself, however it does
    classes = len(data.class_names)
    rows = refiner_rows(own, control, flip_segmenter=base, num_classes=classes, steps=CALLS)
    others = refiner_rows(more, control, flip_segmenter=base, num_classes=classes, steps=CALLS)
    rows += [
        replace(row, name=f"{row.name}, all masks", compared={**row.compared, "own": row.name})
        for row in others
        if row.refiner is not None
    ]
    title = f"{share:.0%} of the labels"
    return evaluate(data, base, rows, title=title, limit=limit, pictures=0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--limit", type=int, default=None, help="use only so many images")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--train-only", action="store_true")
    args = parser.parse_args()
    every = {share: arms(share, seeds=args.seeds, runs=args.runs) for share in args.shares}
    wanted = [run for found in every.values() for run in (*found.bases, *found.refiners)]
    announce(wanted)
    for found in every.values():
        finish(found.bases)  # the refiners need them
        finish(found.refiners)
    if args.train_only:
        return
    rows: dict[str, Any] = {}
    for share, found in every.items():
        report = measured(found, share=share, limit=args.limit)
        print(f"\n{report.title}\n\n{report.markdown()}", flush=True)
        rows[f"{share:g}"] = summary(report)
    save("few_labels_earth", {"shares": rows}, args.output)


if __name__ == "__main__":
    main()
