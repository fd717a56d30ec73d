"""One model and one configuration across domains, trained on all at once and on each alone.

    CRISPMASK_DATA=FOLDER python benchmarks/domains.py --backbone runs/latent-earth-pretrain \
        --colin27 FOLDER --steps 1500 --seeds 2

Streets (CamVid), land from above (Earth), a brain (Colin27) and drawn fields, which are synthetic.
Nothing but the words differs; the joint run takes as many steps as the single ones together. Runs
lie in runs/domains and are gone on with or reused. mIoU for all, beside it what is usual: Dice for
medicine, F1 for land from above. Numbers go to benchmarks/results/domains.json.
"""

import argparse
import dataclasses
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from crispmask.cli.asking import in_own_sentence
from crispmask.cli.evaluate_words import image_size
from crispmask.data.source import Split, open_split
from crispmask.data.transforms import AugmentConfig
from crispmask.evaluate.open_vocabulary import (
    WordsProtocol,
    WordsResult,
    cross_domain,
    evaluate_words,
)
from crispmask.evaluate.words import vocabulary_of
from crispmask.models.text_segmenter import TextSegmenter
from crispmask.text_recipes import earth_text
from crispmask.train import TextTrainConfig, train
from earth_models import RESULTS, save

SIDE = 128
"""Pixels of the short side at which every image is seen."""


def config(
    data: tuple[str, ...], *, backbone: str, steps: int, batch_size: int, seed: int
) -> TextTrainConfig:
    """The one configuration."""
    default = earth_text()
    return replace(
        default,
        data=data,
        backbone=backbone,
        loop=replace(
            default.loop,
            steps=steps,
            batch_size=batch_size,
            seed=seed,
            eval_every=steps,
            eval_images=10,
            save_every=250,
        ),
        augment=AugmentConfig(crop=(SIDE, SIDE), scale=(0.9, 1.5), short_side=SIDE),
    )


def trained(config: TextTrainConfig, folder: Path) -> TextSegmenter:
    """The model of a run, which is begun, gone on with or read."""
    if not (folder / "README.md").exists():  # the card is written last
        resume = (folder / "checkpoint").exists()
        if folder.exists() and not resume:
            shutil.rmtree(folder)  # stopped before its first checkpoint
        train(config, folder, resume=resume)
    return TextSegmenter.from_pretrained(folder)


def measured(model: TextSegmenter, data: str, *, limit: int | None) -> WordsResult:
    """Scores on held-out images of one domain, by its own words."""
    split: Split = "test" if data in ("earth", "fields") or data.startswith("colin27") else "val"
    dataset = open_split(data, split)
    vocabulary = replace(in_own_sentence(vocabulary_of(dataset.class_names), model), synonyms={})
    protocol = WordsProtocol(
        data=f"{data.partition(':')[0]} {split}",
        vocabulary=vocabulary,
        trained_on=model.config.class_names,
        image_size=image_size(model, tile=0),
    )
    return evaluate_words(dataset, model.bound(vocabulary), protocol, oracle=False, limit=limit)


def row(result: WordsResult) -> dict[str, Any]:
    """What is kept of a result."""
    scores = dataclasses.asdict(result.scores)
    kept = {key: value for key, value in scores.items() if isinstance(value, float)}
    if result.per_image is not None:
        kept |= {
            f"per image {key}": value
            for key, value in dataclasses.asdict(result.per_image).items()
            if isinstance(value, float)
        }
    gain = result.interval
    return kept | {"interval": [gain.low, gain.high], "images": result.images}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--colin27", default=None, help="folder with the volumes; left out without")
    parser.add_argument("--steps", type=int, default=1500, help="of each single run")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "domains")
    parser.add_argument("--limit", type=int, default=None, help="images of each domain at most")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    brain = [f"colin27:{args.colin27}"] if args.colin27 else []
    every = ("camvid", "earth", *brain, "fields")
    found: dict[str, Any] = {}
    for seed in range(args.seeds):
        for name, data, steps in (
            ("joint", every, args.steps * len(every)),
            *((one.partition(":")[0], (one,), args.steps) for one in every),
        ):
            settings = config(
                data,
                backbone=args.backbone,
                steps=steps,
                batch_size=args.batch_size,
                seed=seed,
            )
            model = trained(settings, args.runs / f"{name}-{seed}")
            results = [measured(model, one, limit=args.limit) for one in data]
            found[f"{name}, seed {seed}"] = {
                "steps": steps,
                "sets": {
                    one.partition(":")[0]: row(result)
                    for one, result in zip(data, results, strict=True)
                },
            }
            if name == "joint":
                found[f"{name}, seed {seed}"]["mean"] = dataclasses.asdict(cross_domain(results))
            print(name, seed, found[f"{name}, seed {seed}"], flush=True)
    save("domains", {"rows": found}, args.output)


if __name__ == "__main__":
    main()
