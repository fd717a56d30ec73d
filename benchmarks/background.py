"""Which pixels become background: those of a word that is asked, and those of one that is not.

    python benchmarks/background.py text-earth --split val    # to choose a threshold
    python benchmarks/background.py text-earth                # to report it

Each tile of Earth is asked for the names of all classes, and once more without that of its
commonest one. The rows have the share of all known pixels that become background although their
word is asked, and that of the pixels of the commonest class which do not when it is left out: for
several thresholds, over the model's fitted floor. Numbers go to
benchmarks/results/background_earth_SPLIT.json.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from crispmask.data.source import open_split
from crispmask.evaluate.images import evenly_spread
from crispmask.models.text_segmenter import TextSegmenter
from crispmask.models.vocabulary import Threshold, Vocabulary
from crispmask.shapes import IGNORE
from crispmask.train.queries import words_of
from earth_models import RESULTS, save

CHANCES = (0.3, 0.4, 0.5, 0.7)


def background(model: TextSegmenter, words: Vocabulary, image: torch.Tensor) -> torch.Tensor:
    """Where the answer is background, h w."""
    answer = model(image, words, top=None)
    is_background: torch.Tensor = answer.labels[0] == answer.label_names.index("background")
    return is_background


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="bundled name or folder of a text segmenter")
    parser.add_argument("--split", choices=["val", "test"], default="test")
    parser.add_argument("--limit", type=int, default=None, help="use only so many images")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    model = TextSegmenter.from_pretrained(args.model)
    split = open_split("earth", args.split)
    samples = [split[i] for i in evenly_spread(len(split), args.limit)]
    words = words_of("earth", split.class_names)
    rows: dict[str, dict[str, float]] = {}
    for chance in CHANCES:
        every = replace(words, background=Threshold(score=chance))
        lost = known = kept = missing = 0
        for sample in samples:
            there = sample.mask != IGNORE
            commonest = int(sample.mask[there].mode().values)
            left = tuple(n for i, n in enumerate(words.class_names) if i != commonest)
            fewer = replace(every, class_names=left, synonyms={})
            lost += int((background(model, every, sample.image) & there).sum())
            known += int(there.sum())
            hidden = sample.mask == commonest
            kept += int((~background(model, fewer, sample.image) & hidden).sum())
            missing += int(hidden.sum())
        rows[f"{chance}"] = {"lost though asked": lost / known, "kept though not": kept / missing}
        print(f"threshold {chance}:", {k: round(100 * v, 1) for k, v in rows[f"{chance}"].items()})
    record = {"floor": model.config.floor, "rows": rows}
    save(f"background_earth_{args.split}", record, args.output)


if __name__ == "__main__":
    main()
