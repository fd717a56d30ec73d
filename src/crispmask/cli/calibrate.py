"""``crispmask calibrate``: honest probabilities and a gate against harm, from held-out images."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from crispmask.atomic import write_atomic
from crispmask.cli.device import on_device
from crispmask.cli.evaluate import open_known
from crispmask.errors import InputError
from crispmask.evaluate import Answers, Calibration, calibrate
from crispmask.evaluate.calibration import SCORES
from crispmask.models.bases import load_base
from crispmask.models.checkpoint import find_model
from crispmask.models.refiner import MaskRefiner
from crispmask.provenance import provenance

FITTED = ("temperature", "gate", "label_threshold")
"""Fields of the model's config that are written."""

LABELS = {
    "miou": "mIoU",
    "mbiou": "mBIoU 2 %",
    "mbiou_2px": "mBIoU 2 px",
    "accuracy": "accuracy",
    "ece": "ECE",
}


@dataclass(frozen=True, kw_only=True)
class CalibrateArguments:
    """Fit a refiner's temperature and gate to held-out images, so that it does no harm.

    The gate is the share of the base in the answer: of 0, 0.25, 0.5, 0.75 and 1 the least with
    which no score (mIoU, boundary IoU, accuracy, calibration error) falls by more than TOLERANCE
    against the base's on these images; 1 returns the base as it is. Writes both into
    MODEL/config.json and the scores to MODEL/calibration.json. Training fits the temperature to
    its validation images already, but no gate.

    Example: crispmask calibrate runs/refiner my-data/held-out --base runs/base

    Attributes:
        model: folder of the refiner, or of a bundle that holds one as refiner/.
        data: earth (its val blocks), fields, camvid:FOLDER/val and the like, or a folder with
            images/ and labels/; images like those to come, and new to base and refiner.
        base: bundled name, folder or hub id of the base that the refiner is to stand behind.
        tolerance: points, out of 100, that each score may lose.
        coverage: also fit label sets that hold the true label for this share of the pixels, such
            as 0.9, for `crispmask refine --label-sets`; without, those of before are removed, as
            the probabilities that they were fitted to change.
        device: where the networks run: cpu, cuda, cuda:1, mps.
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    base: str
    tolerance: float = 0.1
    coverage: float | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.tolerance >= 0:
            raise InputError(f"--tolerance must be at least 0, got {self.tolerance}.")
        if self.coverage is not None and not 0 < self.coverage < 1:
            raise InputError(f"--coverage must lie between 0 and 1, got {self.coverage}.")


def run_calibration(args: CalibrateArguments) -> int:
    """Calibrate the model in its folder and say what it costs."""
    if not args.model.is_dir():
        raise InputError(
            f"{args.model} is no folder, and calibrate writes into the folder of the model; save a "
            "bundled model to one first: MaskRefiner.from_pretrained(NAME).save_pretrained(DIR)."
        )
    folder = find_model(args.model.resolve(), part="refiner")  # never one that is bundled
    refiner = on_device(MaskRefiner.from_pretrained(folder), args.device)
    names = refiner.config.class_names
    base = on_device(load_base(args.base, class_names=names), args.device)
    data = open_known(args.data, names, split="val")
    answers = Answers(refiner=refiner, segmenter=base, dataset=data)
    found = calibrate(answers, tolerance=args.tolerance / 100, coverage=args.coverage)
    removed = refiner.config.label_threshold if found.label_threshold is None else None
    refiner.config = replace(
        refiner.config,
        temperature=found.temperature * refiner.config.temperature,
        gate=found.gate,
        label_threshold=found.label_threshold,
    )
    settings = {key: getattr(refiner.config, key) for key in FITTED}
    scores = {"base": found.base, "refined": found.refined, "gated": found.gated}
    record = {"settings": settings, "images": len(data), "scores": scores, **provenance()}
    refiner.save_config(folder)
    write_atomic(folder / "calibration.json", json.dumps(record, indent=2) + "\n")
    console = Console(soft_wrap=True, markup=False)
    console.print(_table(found))
    fitted = ", ".join(f"{key} {value:g}" for key, value in settings.items() if value is not None)
    if found.gate == 1:
        console.print("no gate below 1 keeps every score: the model now returns its base.")
    if found.label_threshold == 0:
        console.print("too few images for this coverage: the label sets hold all classes.")
    if removed is not None:
        console.print(
            f"label_threshold {removed:g} was fitted to the probabilities of before and is "
            "removed; run again with --coverage for label sets."
        )
    console.print(f"{fitted}, by {len(data)} images, in {folder / 'config.json'}")
    return 0


def _table(found: Calibration) -> Table:
    rows = {
        "base": found.base,
        "refined, no gate": found.refined,
        f"refined, gate {found.gate:g}": found.gated,
    }
    table = Table("", *(LABELS[key] for key in SCORES), box=None)
    for name, scores in rows.items():
        table.add_row(name, *(f"{100 * scores[key]:.2f}" for key in SCORES))
    return table
