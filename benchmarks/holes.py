"""What stands under a cloud? Holes in image and base filled, scored inside them alone.

    python benchmarks/holes.py earth --runs runs
    CRISPMASK_DATA=FOLDER python benchmarks/holes.py camvid --limit 34

A hole in each image, a rectangle or clouds, is made grey before base and refiner see it. The rows:
the base, which guesses from around it; the nearest label of the base outside; the control and the
refiner that were trained with holes, with one call and with more; the control's answer without its
small regions, which more calls take away as well; and eight drawn masks, of which the mean of their
accuracy and the best of each image stand in the JSON. "joined" is how many connected regions a
filled hole has for each that the truth has there, and "border" how long its borders are against the
truth's: 1 is as in the truth. Expects the runs DATA-holes-SEED and DATA-holes-control-SEED:
`crispmask train DATA-refiner --holes 0.75 --process absorbing --noise-target truth`, the second
also with `--no-state-input`.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from jaxtyping import Bool, Int64
from scipy import ndimage
from torch import Tensor

from crispmask.data.catalog import palette_for
from crispmask.data.regions import regions_of
from crispmask.data.sample import Sample, overlay
from crispmask.data.source import Split, open_split
from crispmask.data.transforms import GREY
from crispmask.data.votes import majority_filter
from crispmask.evaluate import LabelledImages, Row, evaluate
from crispmask.evaluate.changed import Changed
from crispmask.evaluate.images import evenly_spread
from crispmask.evaluate.rows import Predictor
from crispmask.models.refiner import MaskRefiner
from crispmask.models.segmenters import BaseOutput, FPNSegmenter, flip_average
from crispmask.shapes import IGNORE, Image, Probs
from crispmask.train.damage import holes
from earth_models import RESULTS, save
from evidence import one_hot, summary
from first_light import seeds

FILTERS = (5, 21, 41)
"""Sides of the windows in which the control's answer is put to the vote."""

PICTURES = 5
"""Rows of the picture."""

GAP = 4
"""Pixels between its parts."""

DRAWN = 8
"""Masks drawn for one hole."""

CALLS = 10
"""Of the masks that are drawn, and of the chain that settles what is surest first."""

Hole = Bool[Tensor, "h w"]


def inside_of(dataset: LabelledImages, missing: Mapping[str, Hole]) -> Changed:
    """A data set with grey holes, whose truth is known in the holes alone."""

    def with_hole(index: int, sample: Sample) -> Sample:
        hole = missing[sample.name]
        image = sample.image.masked_fill(hole, GREY)
        return replace(sample, image=image, mask=sample.mask.where(hole, IGNORE))

    return Changed(dataset, with_hole)


@dataclass
class Shape:
    """Borders and regions of filled holes against those of the truth."""

    border: list[float] = field(default_factory=list)
    regions: list[float] = field(default_factory=list)

    def add(self, labels: Int64[Tensor, "h w"], truth: Int64[Tensor, "h w"], hole: Hole) -> None:
        """Count one hole; one without a border in the truth says nothing."""
        counts = []
        for mask in (labels.where(truth != IGNORE, IGNORE), truth):
            across = (mask[:, 1:] != mask[:, :-1]) & hole[:, 1:] & hole[:, :-1]
            down = (mask[1:] != mask[:-1]) & hole[1:] & hole[:-1]
            regions = len(regions_of(mask.where(hole, IGNORE)))
            counts.append((int(across.sum() + down.sum()), regions))
        (border, regions), (true_border, true_regions) = counts
        if true_border:
            self.border.append(border / true_border)
            self.regions.append(regions / true_regions)


def nearest(labels: Int64[Tensor, "h w"], hole: Hole) -> Int64[Tensor, "h w"]:
    """The hole filled with the label that is nearest around it."""
    rows, columns = ndimage.distance_transform_edt(
        hole.numpy(), return_distances=False, return_indices=True
    )
    return labels[torch.from_numpy(rows).long(), torch.from_numpy(columns).long()]


def picture(
    samples: Sequence[Sample],
    missing: Mapping[str, Hole],
    base: FPNSegmenter,
    *,
    control: MaskRefiner,
    refiner: MaskRefiner,
) -> PIL.Image.Image:
    """A row for each sample: image, hole, nearest label, control, 1 and 30 calls, truth."""
    palette = palette_for(base.config.class_names)
    rows = []
    for sample in samples:
        hole = missing[sample.name]
        image = sample.image.masked_fill(hole, GREY)
        output = base(image[None])
        fill = {"missing": hole, "names": [sample.name]}
        masks = [
            nearest(output.labels[0], hole),
            control(image, output, **fill).labels[0],
            *(refiner(image, output, num_inference_steps=n, **fill).labels[0] for n in (1, 30)),
            sample.mask,
        ]
        pictures = [
            overlay(one, torch.full_like(hole, IGNORE, dtype=torch.int64), palette)
            for one in (sample.image, image)
        ]
        pictures += [overlay(image, mask, palette, opacity=1.0) for mask in masks]
        rows.append(
            np.concatenate(
                [np.pad(p, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for p in pictures],
                axis=1,
            )
        )
    return PIL.Image.fromarray(np.concatenate(rows)[:-GAP, :-GAP])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", choices=["earth", "camvid"])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--limit", type=int, default=None, help="use only so many images")
    parser.add_argument("--shape", choices=["rectangle", "clouds"], default="rectangle")
    parser.add_argument("--picture", type=Path, help="draw some answers there and measure nothing")
    args = parser.parse_args()
    split: Split = "test" if args.data == "earth" else "val"
    data = open_split(args.data, split)
    generator = torch.Generator().manual_seed(0)
    samples = [data[i] for i in range(len(data))]
    missing = {
        sample.name: holes(
            1,
            (sample.mask.shape[0], sample.mask.shape[1]),
            1.0,
            generator,
            clouds=float(args.shape == "clouds"),
        )[0]
        for sample in samples
    }
    truth, names = {sample.name: sample.mask for sample in samples}, data.class_names
    base = FPNSegmenter.from_pretrained(args.runs / f"{args.data}-base")
    models = {
        kind: [MaskRefiner.from_pretrained(p) for p in seeds(args.runs, f"{args.data}-{kind}")]
        for kind in ("holes-control", "holes")
    }
    if args.picture is not None:
        chosen = [samples[i] for i in evenly_spread(len(samples), PICTURES)]
        control, refiner = models["holes-control"][0], models["holes"][0]
        picture(chosen, missing, base, control=control, refiner=refiner).save(args.picture)
        return
    shapes: dict[str, Shape] = {}

    def watched(name: str, predict: Predictor) -> Predictor:
        shape = shapes.setdefault(name, Shape())

        def predict_and_count(image: Image, output: BaseOutput, sample: str) -> Probs:
            probs = predict(image, output, sample)
            shape.add(probs.argmax(1)[0], truth[sample], missing[sample])
            return probs

        return predict_and_count

    def flipped(image: Image, output: BaseOutput, name: str) -> Probs:
        probs: Probs = flip_average(base, image).probs
        return probs

    def copied(image: Image, output: BaseOutput, name: str) -> Probs:
        labels = nearest(output.labels[0], missing[name])
        return one_hot(labels, output)

    def filled(model: MaskRefiner, **options: Any) -> Predictor:
        def predict(image: Image, output: BaseOutput, name: str) -> Probs:
            probs: Probs = model(
                image, output, missing=missing[name], names=[name], **options
            ).probs
            return probs

        return predict

    def smoothed(model: MaskRefiner, size: int) -> Predictor:
        """The control's answer with small regions taken away, as calls do."""

        def predict(image: Image, output: BaseOutput, name: str) -> Probs:
            labels = filled(model)(image, output, name).argmax(1)
            return one_hot(majority_filter(labels, size, num_classes=len(names))[0], output)

        return predict

    arms: list[tuple[str, str, dict[str, Any]]] = [
        ("control, trained with holes", "holes-control", {}),
        ("refined, 1 call", "holes", {}),
        *(
            (f"refined, {calls} calls", "holes", {"num_inference_steps": calls})
            for calls in (3, CALLS, 30)
        ),
        (
            f"refined, {CALLS} calls, surest first",
            "holes",
            {"num_inference_steps": CALLS, "order": "confident"},
        ),
    ]
    drawn = {"num_inference_steps": CALLS, "estimate": "sample", "eta": 1.0}
    rows = [
        Row(name="base", predictors=(watched("base", lambda image, output, name: output.probs),)),
        Row(name="base + flip", predictors=(watched("base + flip", flipped),)),
        Row(name="nearest label", predictors=(watched("nearest label", copied),)),
    ]
    votes = {f"control, {size}x{size} majority filter": size for size in FILTERS}
    rows += [
        Row(
            name=name,
            predictors=tuple(
                watched(name, smoothed(model, size)) for model in models["holes-control"]
            ),
        )
        for name, size in votes.items()
    ]
    rows += [
        Row(
            name=name,
            predictors=tuple(watched(name, filled(model, **options)) for model in models[kind]),
            compared={"nearest": "nearest label"}
            | ({"control": arms[0][0]} if name != arms[0][0] else {}),
        )
        for name, kind, options in arms
    ]
    title = f"{args.data}: holes, {args.shape}"
    inside = inside_of(data, missing)
    report = evaluate(inside, base, rows, title=title, limit=args.limit, pictures=0)
    print(f"\n{title}\n\n{report.markdown()}", flush=True)
    several = {"mean": Shape(), "best": Shape()}
    scores: dict[str, list[float]] = {"mean": [], "best": []}
    for sample in (inside[i] for i in range(args.limit or len(inside))):
        name, image, hole = sample.name, sample.image[None], missing[sample.name]
        known = sample.mask != IGNORE
        if not known.any():
            continue
        output = base(image)
        masks = [
            models["holes"][0](
                image, output, missing=hole, names=[name], seed=seed, **drawn
            ).labels[0]
            for seed in range(DRAWN)
        ]
        right = [float((mask == sample.mask)[known].float().mean()) for mask in masks]
        scores["mean"].append(statistics.fmean(right))
        scores["best"].append(max(right))
        several["mean"].add(masks[0], truth[name], hole)
        several["best"].add(masks[right.index(max(right))], truth[name], hole)
    shapes |= {f"drawn, {kind} of {DRAWN}": shape for kind, shape in several.items()}
    save(
        f"holes_{args.data}" + ("_clouds" if args.shape == "clouds" else ""),
        {
            "protocol": dict(report.protocol),
            "rows": summary(report),
            "accuracy of drawn": {kind: statistics.fmean(v) for kind, v in scores.items()},
            "shape": {
                name: {
                    "border": statistics.fmean(shape.border),
                    "joined": statistics.fmean(shape.regions),
                }
                for name, shape in shapes.items()
            },
        },
        args.output,
    )


if __name__ == "__main__":
    main()
