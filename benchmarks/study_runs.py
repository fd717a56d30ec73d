"""Trainings of the study: where each run lies, which are missing, several shells at once."""

import json
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from crispmask.atomic import write_atomic
from crispmask.cli.calibrate import CalibrateArguments, run_calibration
from crispmask.data.source import open_split
from crispmask.models.bases import load_base
from crispmask.recipes import (
    RECIPES,
    camvid_base_start,
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
from half_camvid import half_base, half_camvid

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
        return (self.folder / "README.md").exists()  # the card is written last

    @property
    def finished(self) -> bool:
        calibrated = (self.folder / "calibration.json").exists()
        return self.trained and (calibrated or not self.calibrates)


@dataclass(frozen=True, kw_only=True)
class OtherBase:
    """A base that is not the default one.

    Attributes:
        name: of its rows.
        run: where it lies.
        learned: whether refiners are also trained behind it, not only put there.
    """

    name: str
    run: Run
    learned: bool = True


def smaller(config: RefinerTrainConfig) -> RefinerTrainConfig:
    """For images of half the size: a smaller network, a tenth of the steps, half the crop.

    Eighty trainings of CamVid's default recipe would take two cores twenty hours.
    """
    loop = replace(config.loop, steps=300, ema_decay=0.99, eval_every=300, eval_images=20)
    augment = replace(config.augment, crop=(128, 160))
    return replace(config, loop=loop, augment=augment, widths=(32, 48, 64), patch_size=2)


def shorter(config: RefinerTrainConfig) -> RefinerTrainConfig:
    """For Earth: a sixth of the steps, so that all tables take two cores a night."""
    return replace(config, loop=replace(config.loop, steps=500, eval_every=250, save_every=250))


def prepare(data: str, runs: Path) -> None:
    """CamVid at half its size and its bases, if they are not there yet."""
    if data == "camvid":
        prepare_half(runs)
        half_base(runs / "camvid-base-dice", runs / "study" / data / "stronger-fpn")


def prepare_half(runs: Path) -> None:
    """CamVid at half its size and its default base, if they are not there yet."""
    study = runs / "study" / "camvid"
    study.mkdir(parents=True, exist_ok=True)
    half_camvid(study / "data")
    half_base(runs / "camvid-base-start", study / "base")


def source(data: str, runs: Path) -> str:
    """The data set that is trained on and measured."""
    return f"camvid:{runs / 'study' / 'camvid' / 'data'}" if data == "camvid" else data


def default_refiner(data: str, runs: Path) -> RefinerTrainConfig:
    """The recipe that every arm changes in one thing; its bases in this folder."""
    config = RECIPES[f"{data}-refiner"]()
    assert isinstance(config, RefinerTrainConfig)
    if data == "camvid":
        base = str(runs / "study" / data / "base")
        return replace(smaller(config), data=source(data, runs), base=base)
    base, *folds = (str(runs / Path(name).name) for name in (config.base, *config.fold_bases))
    return replace(shorter(config), base=base, fold_bases=tuple(folds))


def other_bases(data: str, runs: Path) -> list[OtherBase]:
    """Bases that the default refiner never saw: weaker or stronger, and a transformer."""
    study = runs / "study" / data
    others = []
    if data == "camvid":
        start, transformer = camvid_base_start(), camvid_segformer()
        where = source(data, runs)
        # `prepare` copies it; it is never trained here
        strong = Run(folder=study / "stronger-fpn", config=replace(start, data=where, scale=1.0))
        others.append(OtherBase(name="stronger FPN", run=strong, learned=False))
        loop = replace(start.loop, steps=100, eval_every=100, save_every=100)
        augment = replace(start.augment, crop=(160, 224))
        weak = replace(start, data=where, scale=1.0, loop=loop, augment=augment)
        augment = replace(transformer.augment, crop=(128, 160))
        transformer = replace(transformer, data=where, augment=augment)
    else:
        start, transformer = earth_base(), earth_segformer()
        loop = replace(start.loop, steps=60, eval_every=60, save_every=60)
        weak = replace(start, loop=loop)
    learned = {"weak FPN": ("weak-fpn", weak), "SegFormer": ("segformer", transformer)}
    for name, (folder, config) in learned.items():
        others.append(OtherBase(name=name, run=Run(folder=study / folder, config=config)))
    return others


def codec_run(data: str, runs: Path) -> Run:
    """The learned codec of one table."""
    config = camvid_codec() if data == "camvid" else earth_codec()
    config = replace(config, data=source(data, runs))
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
    """The run of the default recipe with these changes."""
    config = replace(default, **changes, loop=replace(default.loop, seed=seed))
    return Run(folder=runs / "study" / data / f"{slug(changes)}-{seed}", config=config)


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
