"""Questions of the segmenter of words, each with several seeds and one equal budget.

    python benchmarks/words_study.py earth --base runs/earth-base --refiner runs/earth-refiner-0
    python benchmarks/words_study.py earth --train-only    # also in a second shell: they share

Does generative pretraining help, with 100, 25 and 5 % of the labelled images? Many steps or one,
with and without the pathway of the words, colours instead of black and white, other words in
training, words held out of it? Every arm takes the recipe of the data set with one thing changed
and `STEPS` steps. All are scored by the names of the classes; some arms also by what `EXTRA` says.
Runs lie in runs/words/DATA/; an interrupted one is resumed, a finished one is not repeated. Expects
the pretrained U-Net of the recipe. Numbers go to benchmarks/results/words_study_DATA.json.
"""

import argparse
import re
import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from crispmask.cli.asking import in_own_sentence
from crispmask.cli.evaluate_words import image_size
from crispmask.data.source import open_split
from crispmask.evaluate.open_vocabulary import WordsProtocol
from crispmask.evaluate.words import vocabulary_of
from crispmask.models.bases import load_base
from crispmask.models.refiner import MaskRefiner
from crispmask.models.segmenters import Segmenter
from crispmask.models.text_segmenter import TextSegmenter
from crispmask.recipes import RECIPES
from crispmask.train import TextTrainConfig
from earth_models import RESULTS, save
from study_runs import Run, announce, finish
from words import ABSENT, Timed, measure, plan

STEPS = 1000

HELD_OUT = {"earth": ("wetland", "urban"), "camvid": ("pavement", "bicyclist")}
"""Words that one arm is never asked for in training."""

Changes = Mapping[str, Any]


def arms(data: str) -> dict[str, Changes]:
    """What each arm changes of the recipe."""
    found: dict[str, Changes] = {"pretrained": {}, "from scratch": {"from_scratch": True}}
    for share in (0.25, 0.05):
        for name in ("pretrained", "from scratch"):
            found[f"{name}, {share:.0%} of the labels"] = {**found[name], "fraction": share}
    return found | {
        "without pathway": {"pathway": False},
        "many steps": {"steps": "many"},
        "palette": {"mask_code": "palette"},
        "synonyms in training": {"synonyms": True},
        "words held out": {"held_out": HELD_OUT[data]},
    }


EXTRA = {
    "pretrained": ("synonyms", "names and", "absent", "names, "),
    "synonyms in training": ("synonyms", "names and", "absent"),
    "many steps": ("names, ",),
    "without pathway": ("absent",),
}
"""Beginnings of the further rows of an arm, beside its names."""


def run_of(data: str, arm: str, *, seed: int, steps: int, runs: Path) -> Run:
    """The run of an arm."""
    recipe = RECIPES[f"text-{data}"]()
    assert isinstance(recipe, TextTrainConfig)
    loop = replace(
        recipe.loop, steps=steps, seed=seed, eval_every=steps, eval_images=20, save_every=200
    )
    backbone = str(runs / Path(recipe.backbone).name)
    slug = re.sub("[^a-z0-9]+", "-", arm)
    return Run(
        folder=runs / "words" / data / f"{slug}-{seed}",
        config=replace(recipe, backbone=backbone, loop=loop, **arms(data)[arm]),
    )


def measured(
    folder: Path,
    data: str,
    arm: str,
    *,
    base: Segmenter | None,
    refiner: MaskRefiner | None,
    limit: int | None,
) -> dict[str, Timed]:
    """The rows of one trained arm."""
    split = open_split(data, "test" if data == "earth" else "val")
    model = TextSegmenter.from_pretrained(folder)
    vocabulary = in_own_sentence(vocabulary_of(split.class_names), model)
    whole = arm == "pretrained"
    rows = plan(
        model,
        vocabulary,
        absent=ABSENT[data],
        steps=(1, 2, 4, 10),
        base=base if whole else None,
        refiner=refiner if whole else None,
    )
    wanted = ("base", *EXTRA.get(arm, ()))
    chosen = [
        replace(
            row,
            rows={
                n: words
                for n, words in row.rows.items()
                if n == "names" or n.startswith(wanted) or "no masks" in n
            },
        )
        for row in rows
    ]
    protocol = WordsProtocol(
        data=data,
        vocabulary=vocabulary,
        trained_on=model.config.class_names,
        image_size=image_size(model, tile=0),
    )
    return measure(split, chosen, protocol, limit=limit)


def kept(timed: Timed) -> dict[str, Any]:
    """What is written of a row; None is a mean over nothing."""
    found = timed.result.to_dict()
    return {
        "miou": found["scores"]["miou_truth"],
        "seen": found["scores"]["miou_seen"],
        "unseen": found["scores"]["miou_unseen"],
        "presence_ap": (found["presence"] or {}).get("ap"),
        "absent_area": found["absent_area"],
        "interval": [timed.result.interval.low, timed.result.interval.high],
        "seconds": timed.seconds,
    }


def markdown(found: Mapping[str, list[dict[str, Any]]]) -> str:
    """Means and spread over seeds, in percent."""

    def cell(seeds: list[dict[str, Any]], key: str) -> str:
        values = [100 * one[key] for one in seeds if one[key] is not None]
        if not values:
            return ""
        spread = f" ±{statistics.stdev(values):.1f}" if len(values) > 1 else ""
        return f"{statistics.fmean(values):.1f}{spread}"

    keys = ("miou", "seen", "unseen", "presence_ap", "absent_area")
    lines = [
        "| | mIoU | seen | unseen | presence AP | absent area | s/image |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, seeds in found.items():
        seconds = statistics.fmean(one["seconds"] for one in seeds)
        cells = [name, *(cell(seeds, key) for key in keys), f"{seconds:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", choices=["earth", "camvid"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--arms", nargs="+", default=None, help="names of arms; all by default")
    parser.add_argument("--base", default=None, help="supervised segmenter of the same classes")
    parser.add_argument("--refiner", default=None, help="refiner of the same classes")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--limit", type=int, default=None, help="use only so many images")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--train-only", action="store_true")
    args = parser.parse_args()
    every = arms(args.data)
    if unknown := set(args.arms or ()) - set(every):
        parser.error(f"no arm {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    chosen = [name for name in every if args.arms is None or name in args.arms]
    runs = {
        name: [
            run_of(args.data, name, seed=seed, steps=args.steps, runs=args.runs)
            for seed in args.seeds
        ]
        for name in chosen
    }
    wanted = [several[i] for i in range(len(args.seeds)) for several in runs.values()]
    announce(wanted)
    finish(wanted)
    if args.train_only:
        return
    names = open_split(args.data, "train").class_names
    base = None if args.base is None else load_base(args.base, class_names=names)
    refiner = None if args.refiner is None else MaskRefiner.from_pretrained(args.refiner)
    found: dict[str, list[dict[str, Any]]] = {}
    for arm, several in runs.items():
        for run in several:
            timed = measured(
                run.folder, args.data, arm, base=base, refiner=refiner, limit=args.limit
            )
            for row, one in timed.items():
                name = row if row == "base" else arm + row.removeprefix("names")
                name = name if row.startswith("names") or row == "base" else f"{arm}, {row}"
                found.setdefault(name, []).append(kept(one))
    print(markdown(found))
    save(f"words_study_{args.data}", {"steps": args.steps, "rows": found}, args.output)


if __name__ == "__main__":
    main()
