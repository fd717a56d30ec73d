"""Does refining still help on images worse than those of training: blurred, noisy, foggy, dark?

    python benchmarks/degraded.py earth --runs runs
    CRISPMASK_DATA=FOLDER python benchmarks/degraded.py camvid --limit 34

Base, base + flip, filter, control and refined see the degraded image; nothing is trained again.
Expects the runs of `benchmarks/train_first_light.sh`.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from kornia.filters import gaussian_blur2d

from crispmask.data.sample import Sample
from crispmask.data.source import Split, open_split
from crispmask.evaluate import LabelledImages, evaluate, refiner_rows
from crispmask.evaluate.changed import Changed
from crispmask.models.refiner import MaskRefiner
from crispmask.models.segmenters import FPNSegmenter
from crispmask.shapes import Image
from earth_models import RESULTS, save
from evidence import summary
from first_light import seeds


def blurred(image: Image, noise: Image) -> Image:
    """A Gaussian blur of 2 pixels."""
    result: Image = gaussian_blur2d(image, 13, (2.0, 2.0))
    return result


def noisy(image: Image, noise: Image) -> Image:
    """Normal noise of a tenth of the range."""
    return (image + 0.1 * noise).clamp(0, 1)


def foggy(image: Image, noise: Image) -> Image:
    """Half of the light comes from a bright, even veil."""
    return 0.5 * image + 0.5 * 0.85


def dark(image: Image, noise: Image) -> Image:
    """A quarter of the light, with the noise of a sensor."""
    return (0.25 * image + 0.02 * noise).clamp(0, 1)


KINDS: dict[str, Callable[[Image, Image], Image]] = {
    "as it is": lambda image, noise: image,
    "blurred": blurred,
    "noisy": noisy,
    "foggy": foggy,
    "dark": dark,
}


def degraded(dataset: LabelledImages, degrade: Callable[[Image, Image], Image]) -> Changed:
    """A data set seen through a worse camera; the noise of image i is always the same."""

    def seen(index: int, sample: Sample) -> Sample:
        generator = torch.Generator().manual_seed(index)
        image = sample.image[None]
        noise = torch.randn(image.shape, generator=generator)
        return replace(sample, image=degrade(image, noise)[0])

    return Changed(dataset, seen)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", choices=["earth", "camvid"])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--limit", type=int, default=None, help="use only so many images")
    args = parser.parse_args()
    split: Split = "test" if args.data == "earth" else "val"
    data = open_split(args.data, split)
    base = FPNSegmenter.from_pretrained(args.runs / f"{args.data}-base")
    refiners, controls = (
        [MaskRefiner.from_pretrained(p) for p in seeds(args.runs, f"{args.data}-{kind}")]
        for kind in ("refiner", "control")
    )
    rows = [
        replace(row, refiner=None, compared={"base": "base"} | dict(row.compared))
        for row in refiner_rows(
            refiners,
            controls,
            flip_segmenter=base,
            num_classes=len(data.class_names),
            steps=(1, 3),
        )
    ]
    rows[0] = replace(rows[0], compared={})
    results: dict[str, Any] = {}
    for name, degrade in KINDS.items():
        title = f"{args.data}, {name}"
        report = evaluate(
            degraded(data, degrade), base, rows, title=title, limit=args.limit, pictures=0
        )
        print(f"\n{title}\n\n{report.markdown()}", flush=True)
        results[name] = summary(report)
        protocol = dict(report.protocol)
    save(f"degraded_{args.data}", {"protocol": protocol, "images": results}, args.output)


if __name__ == "__main__":
    main()
