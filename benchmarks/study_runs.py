"""Trainings of the study: where each run lies, which are missing, several shells at once."""

import json
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from crispmask.cli.calibrate import CalibrateArguments, run_calibration
from crispmask.data.source import open_split
from crispmask.models.bases import load_base
from crispmask.models.checkpoint import write_atomic
from crispmask.recipes import (
    RECIPES,
    camvid_base_dice,
    camvid_codec,
    camvid_segformer,
    earth_base,
    earth_codec,
    earth_segformer,
)
from crispmask.train import RefinerTrainConfig, SegmenterTrainConfig, TrainConfig, train
from crispmask.train.batches import LazyImages
from crispmask.train.run import LARGEST_GAP
from crispmask.train.validation import segmenter_scores

FOLDS = 5
"""Bases that stand in for one that knows its training images too well."""

WAIT = 20.0
"""Seconds between two looks at runs that other shells train."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A model of the study: where it lies, how it is trained."""

    folder: Path
    config: TrainConfig

    @property
    def calibrates(self) -> bool:
        """Whether the temperature is fitted afterwards, as `train_first_light.sh` does.

        Not on CamVid, whose validation images are the ones that are measured.
        """
        return isinstance(self.config, RefinerTrainConfig) and self.config.data == "earth"

    @property
    def trained(self) -> bool:
        return (self.folder / "model.safetensors").exists()

    @property
    def finished(self) -> bool:
        calibrated = (self.folder / "calibration.json").exists()
        return self.trained and (calibrated or not self.calibrates)


@dataclass(frozen=True, kw_only=True)
class OtherBase:
    """A base that is not the default one, by the name of its rows."""

    name: str
    run: Run


def smaller(config: RefinerTrainConfig) -> RefinerTrainConfig:
    """A smaller network and a seventh of the steps, on smaller crops.

    Eighty trainings of CamVid's default recipe would take two cores twenty hours.
    """
    loop = replace(config.loop, steps=400, eval_every=400, eval_images=20, save_every=200)
    augment = replace(config.augment, crop=(192, 256))
    return replace(config, loop=loop, augment=augment, widths=(32, 64, 96))


def default_refiner(data: str, runs: Path) -> RefinerTrainConfig:
    """The recipe that every arm changes in one thing; its bases in this folder."""
    config = RECIPES[f"{data}-refiner"]()
    assert isinstance(config, RefinerTrainConfig)
    if data == "camvid":
        config = smaller(config)
    base, *folds = (str(runs / Path(name).name) for name in (config.base, *config.fold_bases))
    return replace(config, base=base, fold_bases=tuple(folds))


def other_bases(data: str, runs: Path) -> list[OtherBase]:
    """Bases that the default refiner never saw: weaker or stronger, and a transformer."""
    study = runs / "study" / data
    if data == "camvid":
        fpn = OtherBase(
            name="stronger FPN",
            run=Run(folder=runs / "camvid-base-dice", config=camvid_base_dice()),
        )
        transformer = camvid_segformer()
    else:
        short = earth_base()
        loop = replace(short.loop, steps=60, eval_every=60, save_every=60)
        fpn = OtherBase(
            name="weak FPN",
            run=Run(folder=study / "weak-fpn", config=replace(short, loop=loop)),
        )
        transformer = earth_segformer()
    return [
        fpn,
        OtherBase(name="SegFormer", run=Run(folder=study / "segformer", config=transformer)),
    ]


def codec_run(data: str, runs: Path) -> Run:
    """The learned codec of one table."""
    config = camvid_codec() if data == "camvid" else earth_codec()
    return Run(folder=runs / "study" / data / "codec", config=config)


def fold_runs(base: Run, study: Path) -> list[Run]:
    """The base again, without each fold of the training images in turn."""
    assert isinstance(base.config, SegmenterTrainConfig)
    return [
        Run(
            folder=study / f"{base.folder.name}-fold-{fold}",
            config=replace(base.config, folds=FOLDS, fold=fold),
        )
        for fold in range(FOLDS)
    ]


def knows_its_images(base: Run, study: Path) -> bool:
    """Whether a trained base is so much better on its training images that folds are needed.

    Measured once, kept beside the runs, printed.
    """
    record = study / f"{base.folder.name}-gap.json"
    assert isinstance(base.config, SegmenterTrainConfig)
    if not record.exists():
        splits = {part: open_split(base.config.data, part) for part in ("train", "val")}
        model = load_base(base.folder, class_names=splits["train"].class_names)
        scores = {
            part: segmenter_scores(model, LazyImages(images))["val_miou"]
            for part, images in splits.items()
        }
        study.mkdir(parents=True, exist_ok=True)
        write_atomic(record, json.dumps(scores))
    scores = json.loads(record.read_text())
    gap = scores["train"] - scores["val"]
    what = "learn from folds" if gap > LARGEST_GAP else "learn from its outputs there"
    print(
        f"{base.folder.name}: mIoU {scores['train']:.3f} on its training images, "
        f"{scores['val']:.3f} on validation, a gap of {gap:.3f}: its refiners {what}"
    )
    return bool(gap > LARGEST_GAP)


def refiner_run(
    default: RefinerTrainConfig, changes: dict[str, Any], *, seed: int, runs: Path, data: str
) -> Run:
    """The run of the default recipe with these changes.

    On Earth none, or the control's, is not new: `train_first_light.sh` has trained it.
    """
    config = replace(default, **changes, loop=replace(default.loop, seed=seed))
    name = slug(changes)
    known = {"default": "refiner", "stateinput=False": "control"} if data == "earth" else {}
    if name in known:
        return Run(folder=runs / f"{data}-{known[name]}-{seed}", config=config)
    return Run(folder=runs / "study" / data / f"{name}-{seed}", config=config)


def slug(changes: dict[str, Any]) -> str:
    """Name of the run with these changes; bases on folds go with their base."""
    parts = (
        f"{key}={Path(str(value)).name}".replace("_", "")
        for key, value in sorted(changes.items())
        if key != "fold_bases"
    )
    return "-".join(parts) or "default"


def announce(runs: Iterable[Run]) -> None:
    """Say what will be trained."""
    every = list(runs)
    missing = [run.folder.name for run in every if not run.finished]
    names = f": {', '.join(missing)}" if missing else ""
    print(f"{len(missing)} of {len(every)} runs are missing{names}", flush=True)


def finish(runs: Sequence[Run]) -> None:
    """Train what is missing and return when all is there.

    Shells that are given the same runs share them: each takes one that no other has taken.
    """
    while missing := [run for run in runs if not run.finished]:
        if not any(_train(run) for run in missing):
            time.sleep(WAIT)


def _train(run: Run) -> bool:
    """Train the run unless another shell does so; an interrupted one is resumed."""
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{run.folder}.lock", timeout=0):  # let go even by a killed process
            if run.finished:
                return False
            if not run.trained:
                resume = (run.folder / "checkpoint").exists()
                if not resume and run.folder.exists():
                    shutil.rmtree(run.folder)  # stopped before its first checkpoint
                train(run.config, run.folder, resume=resume)
            if run.calibrates:
                assert isinstance(run.config, RefinerTrainConfig)
                run_calibration(
                    CalibrateArguments(model=run.folder, data="earth:val", base=run.config.base)
                )
    except Timeout:
        return False
    return True
