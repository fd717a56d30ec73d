"""What becomes of labels that a segmenter of words begins with in place of noise?

    python benchmarks/words_start.py runs/words/earth/many-steps-1 --base runs/earth-base

Test tiles of Earth. The start is what the base answers, or the truth, as if a person had drawn it
(unknown pixels from the nearest known one). Beside it the plain answer of as many calls, and the
start itself. "vae" draws with the VAE instead of the light decoder, which learned from times above
one half alone; "masks alone" leaves out of the score what compares pixels with words. "kept" is the
share of pixels that are as in the start. A model of one step refuses a start; here it is made to
take one, to see why. Numbers go to benchmarks/results/words_start_MODEL_SEED.json, with
the ways in the name if they are not all.
"""

import argparse
import copy
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from crispmask.cli.asking import in_own_sentence
from crispmask.data.source import open_split
from crispmask.evaluate.images import LabelledImages, evenly_spread
from crispmask.evaluate.words import vocabulary_of
from crispmask.metrics.confusion import ConfusionMatrix
from crispmask.models.mask_images import fill_unknown
from crispmask.models.segmenters import FPNSegmenter
from crispmask.models.text_segmenter import TextSegmenter
from crispmask.shapes import Image, Mask
from earth_models import RESULTS, save

STRENGTHS = (0.25, 0.5, 0.75)

WAYS = ("1 call", "1 call, masks alone", "1 call, vae", "4 calls")

Answer = Callable[[Image, Mapping[str, Mask]], Mask]
"""Labels of an image, given the labels that one may begin with, by name."""


@dataclass
class Counted:
    """A row while it is measured: its pixels, and how many were left as the start has them."""

    answer: Answer
    matrix: ConfusionMatrix
    start: str | None = None
    same: list[float] = field(default_factory=list)

    def result(self) -> dict[str, float | None]:
        scores = self.matrix.compute()
        truth = self.matrix.counts.sum(1) > 0
        iou = torch.tensor(scores.iou, dtype=torch.float64)[truth]
        return {
            "miou": iou.mean().item(),
            "accuracy": scores.accuracy,
            "kept": statistics.fmean(self.same) if self.same else None,
        }


def rows_of(
    model: TextSegmenter, class_names: tuple[str, ...], *, seed: int, wanted: Sequence[str]
) -> dict[str, Counted]:
    """Plain answers and answers from a start, in each way to draw and to score."""
    nothing = partial(ConfusionMatrix, len(class_names))
    names = replace(vocabulary_of(class_names), synonyms={})
    words = in_own_sentence(names, model)
    alone = copy.copy(model)
    alone.config = replace(model.config, align_weight=0.0, presence_weight=0.0)
    both, one = ("base", "truth"), ("base",)
    ways: dict[str, tuple[TextSegmenter, tuple[str, ...], dict[str, Any]]] = {
        "1 call": (model, both, {}),
        "1 call, masks alone": (alone, both, {}),
        "1 call, vae": (model, one, {"decode": "vae"}),
        "4 calls": (model, one, {"num_inference_steps": 4}),
    }
    rows: dict[str, Counted] = {}
    for way in wanted:
        network, starts, options = ways[way]
        rows[f"plain, {way}"] = Counted(
            plain(network.bound(words, seed=seed, **options)), nothing()
        )
        for start in starts:
            for strength in STRENGTHS:
                ask = network.bound(words, seed=seed, strength=strength, **options)
                rows[f"from the {start} at {strength}, {way}"] = Counted(
                    begun(ask, start), nothing(), start
                )
    return rows


def plain(ask: Callable[..., Any]) -> Answer:
    return lambda image, starts: ask(image).labels


def begun(ask: Callable[..., Any], start: str) -> Answer:
    return lambda image, starts: ask(image, start=starts[start]).labels


@torch.inference_mode()
def measure(
    data: LabelledImages, rows: Mapping[str, Counted], base: FPNSegmenter, *, limit: int | None
) -> dict[str, dict[str, float | None]]:
    """Scores of all rows and of the base, by name."""
    matrix = ConfusionMatrix(len(data.class_names))
    itself = Counted(lambda image, starts: starts["base"], matrix, "base")
    everything = {"base": itself, **rows}
    for index in track(evenly_spread(len(data), limit), "tiles", console=Console(stderr=True)):
        sample = data[index]
        image, truth = sample.image[None], sample.mask[None]
        starts = {"base": base(image).probs.argmax(1), "truth": fill_unknown(truth)}
        for row in everything.values():
            labels = row.answer(image, starts)
            row.matrix.update(labels, truth)
            if row.start is not None:
                row.same.append((labels == starts[row.start]).float().mean().item())
    return {name: row.result() for name, row in everything.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path, help="folder of a text segmenter")
    parser.add_argument("--base", type=Path, required=True, help="supervised segmenter of Earth")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="rows to measure")
    parser.add_argument("--limit", type=int, default=None, help="tiles at most")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    data = open_split("earth", "test")
    model = TextSegmenter.from_pretrained(args.model)
    trained = "one step" if model.config.start == "zeros" else "many steps"
    model.config = replace(model.config, start="noise")
    rows = rows_of(model, tuple(data.class_names), seed=args.seed, wanted=args.ways)
    base = FPNSegmenter.from_pretrained(args.base)
    found = measure(data, rows, base, limit=args.limit)
    about = {"trained": trained, "seed": args.seed, "tiles": args.limit or len(data)}
    part = "" if tuple(args.ways) == WAYS else "_" + re.sub("[^a-z0-9]+", "-", "-".join(args.ways))
    name = f"words_start_{args.model.name}_{args.seed}{part}"
    save(name, {**about, "rows": found}, args.output)


if __name__ == "__main__":
    main()
