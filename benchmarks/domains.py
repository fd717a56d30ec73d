"""One model and one configuration across domains, trained on all at once and on each alone.

    CRISPMASK_DATA=FOLDER python benchmarks/domains.py camvid earth colin27:FOLDER fields

Streets (CamVid), land from above (Earth), a brain (Colin27) and drawn fields, which are synthetic.
Nothing but the words differs; the joint run takes as many steps as the single ones together. "no
masks drawn" is the control: one look without a word, whose pixels are compared with the words.
mIoU for all; mean Dice and HD95 over structures and images for medicine, mean F1 for land from
above, as is usual there. With --adapters each domain also gets an adapter of the joint model of the
same seed, trained on that domain alone for as many steps as a single run takes, on top of the joint
ones. Several shells share the runs in runs/domains/; an interrupted one is resumed, a finished one
is not repeated. Numbers go to benchmarks/results/domains.json.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from crispmask.cli.asking import in_own_sentence
from crispmask.cli.evaluate_words import image_size
from crispmask.data.source import Split, open_split
from crispmask.data.transforms import AugmentConfig
from crispmask.evaluate.open_vocabulary import WordsProtocol, WordsResult, cross_domain
from crispmask.evaluate.words import vocabulary_of
from crispmask.models.text_segmenter import TextSegmenter
from crispmask.text_recipes import earth_text
from earth_models import RESULTS, save
from study_runs import Run, announce, finish
from words import Row, measure, without_masks

SIDE = 128
"""Pixels of the short side at which every image is seen."""

RANK = 8
"""Of the adapters' updates of the attention."""

ANSWERS = ("names", "no masks drawn")

USUAL = (
    ("earth mean F1", "earth", "mean_f1"),
    ("colin27 Dice", "colin27", "image_dice"),
    ("colin27 HD95", "colin27", "hd95"),
)
"""Columns beside mIoU: title, data set, score."""


def run_of(
    data: Sequence[str],
    folder: Path,
    *,
    backbone: Path,
    steps: int,
    batch_size: int,
    seed: int,
    lora_rank: int = 0,
) -> Run:
    """The one configuration, on the data sets given; with a rank an adapter of the backbone."""
    default = earth_text()
    loop = replace(
        default.loop,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        eval_every=steps,
        eval_images=10,
        save_every=200,
    )
    augment = AugmentConfig(crop=(SIDE, SIDE), scale=(0.9, 1.5), short_side=SIDE)
    config = replace(
        default,
        data=tuple(data),
        backbone=str(backbone),
        loop=loop,
        augment=augment,
        lora_rank=lora_rank,
        foreign=(),  # a word that is in no image of one set may be in another's
    )
    return Run(folder=folder, config=config)


def measured(model: TextSegmenter, data: str, *, limit: int | None) -> dict[str, WordsResult]:
    """Scores on held-out images of one domain, by its own words, of each of `ANSWERS`."""
    split: Split = "val" if data.startswith("camvid") else "test"
    dataset = open_split(data, split)
    vocabulary = replace(in_own_sentence(vocabulary_of(dataset.class_names), model), synonyms={})
    protocol = WordsProtocol(
        data=f"{kind(data)} {split}",
        vocabulary=vocabulary,
        trained_on=model.config.class_names,
        image_size=image_size(model, tile=0),
    )
    asks = (model.bound, without_masks(model))
    rows = [Row(ask=ask, rows={name: vocabulary}) for name, ask in zip(ANSWERS, asks, strict=True)]
    timed = measure(dataset, rows, protocol, limit=limit)
    return {name: row.result for name, row in timed.items()}


def kind(data: str) -> str:
    """The data set's name without its folder."""
    return data.partition(":")[0]


def kept(result: WordsResult) -> dict[str, Any]:
    """What is written of a result: its scores, and the means of those of each structure."""
    found = result.to_dict()
    structures = found["per_image"] or {}
    return {
        **{key: value for key, value in found["scores"].items() if isinstance(value, float)},
        **{key: mean_known(values) for key, values in structures.items()},
        "interval": [result.interval.low, result.interval.high],
        "presence_ap": (found["presence"] or {}).get("ap"),
        "images": result.images,
    }


def mean_known(values: Sequence[float | None]) -> float | None:
    """The mean of those that are known; those of the background are not."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def markdown(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Means and spread over seeds, in percent but for HD95, which is in pixels."""
    sets = list(next(iter(rows.values()))[0]["sets"])
    columns = [(f"{name} mIoU", name, "miou_truth") for name in sets]
    columns += [column for column in USUAL if column[1] in sets]
    lines = [
        f"| | {' | '.join(title for title, _, _ in columns)} | mean mIoU |",
        f"|---|{'---:|' * (len(columns) + 1)}",
    ]
    for name, seeds in rows.items():
        values = [[one["sets"][where][key] for one in seeds] for _, where, key in columns]
        cells = [
            spread(column, scale=1 if key == "hd95" else 100)
            for column, (_, _, key) in zip(values, columns, strict=True)
        ]
        cells.append(spread([one["mean"]["miou"] for one in seeds], scale=100))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: Sequence[float], *, scale: float) -> str:
    """Mean and standard deviation."""
    mean = f"{scale * statistics.fmean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ±{scale * statistics.stdev(values):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", nargs="+", help="data sets, such as earth or colin27:FOLDER")
    parser.add_argument("--steps", type=int, default=1500, help="of each single run")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--limit", type=int, default=None, help="images of each domain at most")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--adapters", action="store_true", help="of the joint models, too")
    parser.add_argument("--train-only", action="store_true")
    args = parser.parse_args()
    every: list[str] = args.data

    def run(name: str, data: Sequence[str], seed: int) -> Run:
        return run_of(
            data,
            args.runs / "domains" / f"{name}-{seed}",
            backbone=args.runs / "latent-earth-pretrain",
            steps=args.steps * len(data),
            batch_size=args.batch_size,
            seed=seed,
        )

    joint = [run("joint", every, seed) for seed in range(args.seeds)]
    alone = [[run(kind(data), [data], seed) for data in every] for seed in range(args.seeds)]
    adapted = [
        [
            run_of(
                [data],
                args.runs / "domains" / f"adapter-{kind(data)}-{seed}",
                backbone=whole.folder,
                steps=args.steps,
                batch_size=args.batch_size,
                seed=seed,
                lora_rank=RANK,
            )
            for data in every
        ]
        for seed, whole in enumerate(joint)
        if args.adapters
    ]
    wanted = [*joint, *(one for several in alone for one in several)]
    adapters = [one for several in adapted for one in several]
    announce([*wanted, *adapters])
    finish(wanted)
    finish(adapters)  # their bases are there now
    if args.train_only:
        return
    rows: dict[str, list[dict[str, Any]]] = {}
    arms = {"joint": [[whole] * len(every) for whole in joint], "alone": alone}
    if adapted:
        arms["joint + an adapter each"] = adapted
    for name, seeds in arms.items():
        for runs in seeds:
            found = {
                data: measured(TextSegmenter.from_pretrained(one.folder), data, limit=args.limit)
                for one, data in zip(runs, every, strict=True)
            }
            for answer in ANSWERS:
                sets = {kind(data): results[answer] for data, results in found.items()}
                row = {
                    "sets": {data: kept(result) for data, result in sets.items()},
                    "mean": asdict(cross_domain(list(sets.values()))),
                }
                rows.setdefault(f"{name}, {answer}", []).append(row)
    print(markdown(rows))
    save("domains", {"steps": args.steps, "rows": rows}, args.output)


if __name__ == "__main__":
    main()
