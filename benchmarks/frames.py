"""Does the mask of the frame before help the next one, as it is or moved by optical flow?

    CRISPMASK_DATA=FOLDER python benchmarks/frames.py --runs runs

CamVid's val split is one drive, every second frame of a film at 30 Hz. The refiner answers frame
after frame: each for itself, or with the mask of the frame before in its state - noised, to start
from, or as known labels where it was sure. Beside the scores stands how much a mask agrees with the
one before after it is moved along (mIoU between the two; that of the true masks is the measure).
Needs opencv-python-headless. Expects the runs camvid-base, camvid-control-SEED, camvid-refiner-SEED
and, for known labels, camvid-evidence-SEED.
"""

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from crispmask.data.sample import Sample
from crispmask.data.source import open_split
from crispmask.evaluate import Row, evaluate
from crispmask.metrics.confusion import ConfusionMatrix
from crispmask.models.refiner import MaskRefiner
from crispmask.models.segmenters import BaseOutput, FPNSegmenter
from crispmask.shapes import IGNORE, Image, Probs
from earth_models import RESULTS, save
from evidence import summary
from first_light import seeds

SURE = 0.95
"""Probability from which a label of the frame before is handed on as known."""

Flow = Float[Tensor, "h w 2"]


def flow_back(image: Image, before: Image) -> Flow:
    """Where each pixel was in the frame before: offsets in x and y (DIS, Kroeger et al. 2016)."""
    greys = [
        cv2.cvtColor((255 * frame[0]).byte().movedim(0, -1).numpy(), cv2.COLOR_RGB2GRAY)
        for frame in (image, before)
    ]
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    still = np.zeros((*greys[0].shape, 2), dtype=np.float32)
    return torch.from_numpy(np.asarray(method.calc(greys[0], greys[1], still)))


def moved(labels: Int64[Tensor, "h w"], flow: Flow) -> Int64[Tensor, "h w"]:
    """Labels of the frame before at their place now; `IGNORE` where they come from outside."""
    h, w = labels.shape
    rows = (torch.arange(h)[:, None] + flow[..., 1]).round().long()
    columns = (torch.arange(w) + flow[..., 0]).round().long()
    inside = (rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)
    found = labels[rows.clamp(0, h - 1), columns.clamp(0, w - 1)]
    return found.where(inside, IGNORE)


@dataclass
class Film:
    """Frames in order: the answer of one row to the last, and how its answers agree.

    Attributes:
        classes: that there are.
        use: what of the frame before is used: "none", "start", "warped start" or "known".
        calls: of the network.
    """

    model: MaskRefiner | None
    classes: int
    use: str
    calls: int
    before: Image | None = None
    probs: Probs | None = None
    agreement: ConfusionMatrix = field(init=False)

    def __post_init__(self) -> None:
        self.agreement = ConfusionMatrix(self.classes)

    def __call__(self, image: Image, base: BaseOutput, name: str) -> Probs:
        labels, warped, sure = None, None, None
        if self.before is not None and self.probs is not None:
            confidence, labels = self.probs[0].max(0)
            flow = flow_back(image, self.before)
            warped = moved(labels, flow)
            sure = moved(labels.where(confidence > SURE, IGNORE), flow)
        if self.model is None:
            probs = base.probs
        else:
            options: dict[str, Any] = {"num_inference_steps": self.calls, "names": [name]}
            if self.use == "start" and labels is not None:
                options["start"] = labels
            elif self.use == "warped start" and warped is not None:
                options["start"] = warped
            elif self.use == "known" and sure is not None:
                options["known"] = sure
            probs = self.model(image, base, **options).probs
        if warped is not None:
            self.agreement.update(probs.argmax(1), warped[None])
        self.before, self.probs = image, probs
        return probs


@dataclass(frozen=True)
class Frames:
    """The first frames of a data set."""

    subset: Any
    class_names: Sequence[str]

    def __len__(self) -> int:
        return len(self.subset)

    def __getitem__(self, index: int) -> Sample:
        sample: Sample = self.subset[index]
        return sample


def true_agreement(frames: Frames) -> float:
    """How much the true masks agree, as `Film` counts it."""
    agreement = ConfusionMatrix(len(frames.class_names))
    for earlier, now in itertools.pairwise(frames[i] for i in range(len(frames))):
        warped = moved(earlier.mask, flow_back(now.image[None], earlier.image[None]))
        known = now.mask != IGNORE
        agreement.update(now.mask.where(known, 0)[None], warped.where(known, IGNORE)[None])
    return float(agreement.compute().miou)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--limit", type=int, default=None, help="the first so many frames")
    args = parser.parse_args()
    data = open_split("camvid", "val")
    frames = torch.utils.data.Subset(data, range(args.limit or len(data)))  # in their order
    classes = len(data.class_names)
    base = FPNSegmenter.from_pretrained(args.runs / "camvid-base")
    models = {
        kind: [MaskRefiner.from_pretrained(p) for p in seeds(args.runs, f"camvid-{kind}")]
        for kind in ("control", "refiner", "evidence")
    }
    film = partial(Film, classes=classes)
    films: dict[str, list[Film]] = {"base": [film(None, use="none", calls=1)]}
    arms: Sequence[tuple[str, str, str, int]] = (
        ("control", "control", "none", 1),
        ("refined, 1 call", "refiner", "none", 1),
        ("refined, 3 calls", "refiner", "none", 3),
        ("refined, 3 calls from the frame before", "refiner", "start", 3),
        ("refined, 3 calls from the frame before, moved", "refiner", "warped start", 3),
        ("evidence, 1 call", "evidence", "none", 1),
        ("evidence, 1 call, what was sure before is known", "evidence", "known", 1),
    )
    for name, kind, use, calls in arms:
        films[name] = [film(model, use=use, calls=calls) for model in models[kind]]
    rows = [
        Row(
            name=name,
            predictors=tuple(several),
            compared={"control": "control"} if name not in ("base", "control") else {},
        )
        for name, several in films.items()
        if several
    ]
    named = Frames(frames, data.class_names)
    report = evaluate(named, base, rows, title="CamVid, frame after frame", pictures=0)
    agreement = {
        name: [one.agreement.compute().miou for one in several] for name, several in films.items()
    } | {"true masks": [true_agreement(named)]}
    print(report.markdown())
    save(
        "frames_camvid",
        {"protocol": dict(report.protocol), "rows": summary(report), "agreement": agreement},
        args.output,
    )


if __name__ == "__main__":
    main()
