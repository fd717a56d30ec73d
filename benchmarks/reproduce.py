"""mIoU and mBIoU of a trained or converted DDPS model, single scale and in 12 views.

    python benchmarks/reproduce.py ade20k:ADEChallengeData2016 runs/paper-ade-b2
    python benchmarks/reproduce.py cityscapes:cityscapes ddps-b2 --steps 19 --output ddps-b2-scores

MODEL is the folder of a training run, whose base is found in its run.json, or one with base/ and
refiner/ as `crispmask convert ddps` writes it. The images of the validation split are resized as
DDPS resizes them (docs/reproduce.md), answers are compared at the original size. Writes
OUTPUT/report.html and report.json and prints the table.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from crispmask.data.source import open_split
from crispmask.data.transforms import resize_short_side
from crispmask.evaluate import Row, evaluate
from crispmask.evaluate.rows import Predictor
from crispmask.models.bases import Base, load_base
from crispmask.models.refiner import MaskRefiner
from crispmask.models.refiner_parts import RefinerOutput
from crispmask.models.segmenters import BaseOutput
from crispmask.predict import PAPER_SCALES, Refine, refine_views
from crispmask.shapes import Image, Probs

SHORT_SIDES = {"ade20k": 512}
"""Short side of the images that the networks see; other data sets are taken as they are."""


class Resized(nn.Module):
    """The base on resized images, its answer at their original size."""

    def __init__(self, base: Base, *, num_classes: int, side: int) -> None:
        super().__init__()
        self.base, self.num_classes, self.side = base, num_classes, side

    def forward(self, image: Image) -> BaseOutput:
        """Probabilities of the data's classes; uniform where the base cannot classify."""
        small = resize_short_side(image, self.side)
        probs = self.base(small).probs if can_classify(self.base) else uniform(image, self)
        return BaseOutput(probs=enlarged(probs, image))


def can_classify(base: Base) -> bool:
    return getattr(base, "classifier", base) is not None


def uniform(image: Image, model: Resized) -> Probs:
    return torch.full_like(image[:, :1], 1 / model.num_classes).repeat(1, model.num_classes, 1, 1)


def enlarged(probs: Probs, image: Image) -> Probs:
    size = image.shape[-2:]
    return F.interpolate(probs, size=size, mode="bilinear", align_corners=False)


def as_it_is(view: Image, output: BaseOutput) -> RefinerOutput:
    """The base's answer in place of a refined one."""
    return RefinerOutput(probs=output.probs, trace=(), num_calls=0)


def predictor(
    base: Base, refiner: MaskRefiner | None, *, steps: int, views: bool, side: int
) -> Predictor:
    """The whole way of one row; without a refiner that of the base alone."""

    def predict(image: Image, _: BaseOutput, name: str) -> Probs:
        refine: Refine = as_it_is
        if refiner is not None:
            refine = partial(refiner, num_inference_steps=steps, names=[name])
        small = resize_short_side(image, side)
        scales = PAPER_SCALES if views else (1.0,)
        probs = refine_views(base, refine, small, scales=scales, flip=views)
        void = None if refiner is None else refiner.config.void_class
        if void is not None:  # official models have it as a class, the data does not
            probs = torch.cat([probs[:, :void], probs[:, void + 1 :]], dim=1)
        return enlarged(probs, image)

    return predict


def rows_of(base: Base, refiner: MaskRefiner, *, steps: int, side: int) -> list[Row]:
    """Base and refiner, each at a single scale and in 12 views."""
    rows = []
    if can_classify(base):
        for views, name in ((False, "base"), (True, "base, 12 views")):
            alone = predictor(base, None, steps=0, views=views, side=side)
            rows.append(Row(name=name, predictors=(alone,), uses_base=False))
    for calls, views in dict.fromkeys(((1, False), (steps, False), (steps, True))):
        name = f"refined, {calls} call{'s' if calls > 1 else ''}{', 12 views' if views else ''}"
        whole = predictor(base, refiner, steps=calls, views=views, side=side)
        steps_of_row = None if views else calls
        rows.append(Row(name=name, predictors=(whole,), steps=steps_of_row, uses_base=False))
    return rows


def base_of(model: Path) -> str:
    """Where the base of a model lies."""
    record = model / "run.json"
    if record.exists():
        return str(json.loads(record.read_text())["settings"]["base"])
    return str(model)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", metavar="DATA", help="ade20k:FOLDER or cityscapes:FOLDER")
    parser.add_argument("model", metavar="MODEL", type=Path)
    parser.add_argument("--base", help="folder of the base, if it has moved")
    parser.add_argument("--steps", type=int, default=10, help="calls of the network")
    parser.add_argument("--limit", type=int, default=None, help="use only so many images")
    parser.add_argument("--output", type=Path, default=None, help="default: MODEL/scores")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)

    data = open_split(args.data, "val")
    side = SHORT_SIDES.get(args.data.partition(":")[0], 0)
    refiner = MaskRefiner.from_pretrained(args.model)
    class_names = refiner.config.class_names  # with void, if that is one of them
    base = load_base(args.base or base_of(args.model), class_names=class_names)
    base, refiner = base.to(args.device), refiner.to(args.device)
    report = evaluate(
        data,
        Resized(base, num_classes=len(data.class_names), side=side),
        rows_of(base, refiner, steps=args.steps, side=side),
        title=f"{args.model} on {args.data}",
        limit=args.limit,
        pictures=0,
    )
    report.write(args.output or args.model / "scores")
    print(report.markdown())


if __name__ == "__main__":
    main()
