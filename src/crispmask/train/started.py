"""What a run began with: it goes on with the same settings, data and models, or not at all."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crispmask.data.masks import open_masks
from crispmask.data.source import open_split
from crispmask.errors import InputError
from crispmask.models.checkpoint import find_model
from crispmask.models.text_adapter import fingerprint
from crispmask.models.text_folder import find_segmenter, is_segmenter
from crispmask.train.configs import RefinerTrainConfig, SegmenterTrainConfig, TrainConfig
from crispmask.train.masks_config import CodecTrainConfig, PriorTrainConfig
from crispmask.train.text_config import TextTrainConfig


def settings_of(config: Any) -> dict[str, Any]:
    """The settings of a run as ``run.json`` holds them."""
    return {"kind": type(config).__name__, **dataclasses.asdict(config)}


def check_folder_of_run(output: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
    """Refuse to write over anything, or to resume what was started with other settings.

    Raises:
        InputError: if ``output`` is not empty and not the run to resume.
    """
    run = output / "run.json"
    if not run.exists():
        if output.exists() and any(output.iterdir()):
            raise InputError(f"{output} is not empty and holds no run; give a new folder.")
        if resume:
            raise InputError(f"{output} holds no run to resume; start without resume.")
        return
    if not resume:
        raise InputError(f"{output} already holds a run; resume it or give a new folder.")
    try:
        before = dict(json.loads(run.read_text())["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{run} cannot be read ({error}); start again in a new folder.") from error
    changed = _changes(before, json.loads(json.dumps(settings)))
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise InputError(
            f"{output} was started with other settings ({', '.join(changed[:3])}{more}); resume "
            "with the same ones or give a new folder."
        )


def began_with(config: TrainConfig) -> dict[str, Any]:
    """What a run learns from, for its record: "data" and "models".

    The first is the sha256, in hex, of the names of all classes and images, or masks; the second
    has that of the weights of each base, codec and model to go on from.

    Raises:
        InputError: if data or models cannot be found.
    """
    names: list[Any] = []
    if isinstance(config, PriorTrainConfig | CodecTrainConfig):
        masks = open_masks(config.data)
        names = [masks.class_names, masks.train.names, masks.val.names]
    else:
        for data in [config.data] if isinstance(config.data, str) else config.data:
            train_set, val_set = open_split(data, "train"), open_split(data, "val")
            names += [train_set.class_names, train_set.names, val_set.names]
    models: dict[str, str] = {}
    if isinstance(config, TextTrainConfig) and is_segmenter(config.backbone):
        models[config.backbone] = fingerprint(find_segmenter(config.backbone))
    if isinstance(config, SegmenterTrainConfig) and config.init:
        models[config.init] = _digest(config.init, "base")
    if isinstance(config, RefinerTrainConfig):
        models = {name: _digest(name, "base") for name in (config.base, *config.fold_bases)}
        if config.codec:
            models[config.codec] = _digest(config.codec, "codec")
        if config.init:
            models[config.init] = _digest(config.init, "refiner")
    return {"data": hashlib.sha256(json.dumps(names).encode()).hexdigest(), "models": models}


def _digest(model: str, part: str) -> str:
    """sha256, in hex, of the weights of a model."""
    digest = hashlib.sha256()
    for path in sorted(find_model(model, part=part).glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def check_same(output: Path, found: Mapping[str, Any]) -> None:
    """Refuse to go on with other data or models than those that the run began with.

    Args:
        output: folder of the run, whose settings `check_folder_of_run` has read.
        found: as `began_with` gives it now.

    Raises:
        InputError: if one is not as ``run.json`` says.
    """
    before = json.loads((output / "run.json").read_text()).get("began_with", {})
    if before.get("data", found["data"]) != found["data"]:
        raise InputError(
            f"cannot resume: since {output} began, images of its data or their classes were added, "
            "removed or renamed; bring back what was there or start again in a new folder."
        )
    models = before.get("models", {})
    for name, digest in found["models"].items():
        if models.get(name, digest) != digest:
            raise InputError(
                f"cannot resume: {output} began with another model than the one that is now in "
                f"{name}; bring that back or start again in a new folder."
            )


def check_fold(folder: Path, fold: int, folds: int) -> None:
    """Refuse a base that says it left out another part of the data: it would know what it is asked.

    Raises:
        InputError: if so, or if its record cannot be read.
    """
    record = folder / "run.json"
    if not record.exists():
        return
    try:
        settings = dict(json.loads(record.read_text())["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{record} must say which fold its base left out, but cannot be read ({error}); train "
            "this base again."
        ) from error
    if (settings.get("folds"), settings.get("fold")) != (folds, fold):
        raise InputError(
            f"fold_bases must be trained without fold 0, 1, ... of {folds}, in this order; "
            f"{folder} stands in place {fold} and was trained with --folds {settings.get('folds')} "
            f"--fold {settings.get('fold')}."
        )


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Settings that differ, by names as on the command line; a newer version may have more."""
    changed = []
    for name in [name for name in now if name in before]:
        was, value = before[name], now[name]
        if isinstance(was, dict) and isinstance(value, dict):
            changed += [f"{name}.{inner}" for inner in _changes(was, value)]
        elif was != value:
            shown = ("set" if isinstance(setting, dict) else setting for setting in (was, value))
            changed.append("{} was {}, now {}".format(name, *shown))
    return changed
