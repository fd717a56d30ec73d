"""From a config to a model folder."""

import dataclasses
import itertools
import json
import time
from pathlib import Path
from typing import Any, cast

from accelerate import PartialState
from rich.console import Console
from torch import nn

from crispmask.atomic import write_atomic
from crispmask.data.source import open_split
from crispmask.errors import InputError
from crispmask.metrics.confusion import ConfusionMatrix
from crispmask.models.bases import Base, load_base
from crispmask.models.refiner import MaskRefiner
from crispmask.models.segmenters import BaseOutput
from crispmask.provenance import provenance
from crispmask.shapes import IGNORE, Image
from crispmask.train.batches import (
    Images,
    LazyImages,
    Stored,
    StoredImages,
    draw,
    evenly,
    folds_of,
    live_base,
    some_of,
    store,
    with_base,
)
from crispmask.train.card import card
from crispmask.train.codec import codec_task
from crispmask.train.configs import RefinerTrainConfig, SegmenterTrainConfig, TrainConfig
from crispmask.train.generator import generator_task
from crispmask.train.latent_config import GeneratorConfig, LatentVaeConfig
from crispmask.train.latents import latent_vae_task
from crispmask.train.loop import Task, fit, seeded
from crispmask.train.masks_config import CodecTrainConfig, PriorTrainConfig
from crispmask.train.objectives import RefinerObjective, SegmenterObjective
from crispmask.train.prior import prior_task
from crispmask.train.processes import this_process
from crispmask.train.started import (
    began_with,
    check_fold,
    check_folder_of_run,
    check_same,
    settings_of,
)
from crispmask.train.text import text_task
from crispmask.train.text_config import TextTrainConfig
from crispmask.train.untrained import new_refiner, new_segmenter
from crispmask.train.validation import refiner_scores, segmenter_scores

LARGEST_GAP = 0.05
"""mIoU by which a base may be better on its training images before folds are needed."""


def train(config: TrainConfig, output: Path, *, resume: bool = False) -> Path:
    """Train a model and save it to ``output``.

    The folder gets the model (``config.json`` and ``model.safetensors``, or folders as diffusers
    lays them out) and a card, ``run.json`` with the resolved settings, what the run began with and
    its scores, ``log.jsonl`` and ``checkpoint/``. Under ``accelerate launch`` every process calls
    this; the main process alone writes.

    A run is resumed with the settings, images, classes and models that it began with. One that was
    stopped before its first checkpoint begins again; one that is finished is left as it is.

    Raises:
        InputError: if ``output`` holds another run and ``resume`` is False, what it began with has
            changed, or the data or the base cannot be used.
    """
    state = this_process()
    settings = settings_of(config)
    check_folder_of_run(output, settings, resume=resume)
    if resume and (output / "README.md").exists():  # written last: nothing is left to do
        return output
    start = time.monotonic()
    with seeded(config.loop.seed, state.device):  # initial weights
        if isinstance(config, PriorTrainConfig):
            task, facts = prior_task(config)
        elif isinstance(config, CodecTrainConfig):
            task, facts = codec_task(config)
        elif isinstance(config, LatentVaeConfig):
            task, facts = latent_vae_task(config)
        elif isinstance(config, GeneratorConfig):
            task, facts = generator_task(config)
        elif isinstance(config, TextTrainConfig):
            task, facts = text_task(config)
        else:
            task, facts = _image_task(config)
    facts["processes"] = state.num_processes
    began = began_with(config)
    if resume:
        check_same(output, began)
    record = {"settings": settings, "began_with": began}
    state.wait_for_everyone()  # all have looked at the folder
    if state.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        write_atomic(output / "run.json", json.dumps(record | facts, indent=2))
    fitted = fit(task, config.loop, output, resume=resume)
    model, scores = fitted.model, fitted.scores
    if isinstance(model, MaskRefiner):
        model.config = dataclasses.replace(model.config, temperature=scores["temperature"])
    if not state.is_main_process:
        return output
    facts |= scores | {"seconds": round(time.monotonic() - start, 1)}
    facts |= provenance()
    task.save(model, output)
    write_atomic(output / "run.json", json.dumps(record | facts, indent=2))
    write_atomic(output / "README.md", card(config, model, facts))
    return output


def _image_task(config: SegmenterTrainConfig | RefinerTrainConfig) -> tuple[Task, dict[str, Any]]:
    train_set, val_set = open_split(config.data, "train"), open_split(config.data, "val")
    names = train_set.class_names
    few_set = some_of(val_set, config.loop.eval_images)
    facts: dict[str, Any] = {"train_images": len(train_set), "val_images": len(few_set)}
    more: dict[str, Any] = {}
    if isinstance(config, SegmenterTrainConfig):
        wanted = evenly(len(train_set), config.labelled)
        if config.folds:
            folds = folds_of(train_set, config.folds)
            wanted = [w and fold != config.fold for w, fold in zip(wanted, folds, strict=True)]
        stored = list(itertools.compress(_labelled(train_set, config.data), wanted))
        facts["train_images"] = len(stored)
        task = _segmenter_task(config, stored, store(few_set), names)
    elif config.in_memory:
        folds = folds_of(train_set, max(len(config.fold_bases), 1))
        stored = _labelled(train_set, config.data)
        task, more = _refiner_task(config, stored, folds, store(few_set), names)
    else:
        lazy, few = LazyImages(train_set), LazyImages(few_set)
        task = _live_refiner_task(config, lazy, few, names)
    return task, facts | more


def _labelled(data: Images, name: str) -> list[Stored]:
    """A data set in memory, which must have some label."""
    stored = store(data)
    if all((item.mask == IGNORE).all() for item in stored):
        raise InputError(
            f"every pixel of every training label of {name} is {IGNORE}, unknown; there is nothing "
            "to learn from."
        )
    return stored


def _segmenter_task(
    config: SegmenterTrainConfig, stored: list[Stored], few: list[Stored], names: tuple[str, ...]
) -> Task:
    model, batch_size = new_segmenter(config, names), config.loop.batch_size
    return Task(
        objective=SegmenterObjective(model, dice_weight=config.dice_weight),
        draw=lambda g: draw(stored, config.augment, batch_size=batch_size, generator=g),
        evaluate=lambda candidate: segmenter_scores(cast(Base, candidate), few),
    )


def _refiner_task(
    config: RefinerTrainConfig,
    stored: list[Stored],
    folds: list[int],
    few: list[Stored],
    names: tuple[str, ...],
) -> tuple[Task, dict[str, Any]]:
    base = load_base(config.base, class_names=names)
    parts = [load_base(folder, class_names=names) for folder in config.fold_bases] or [base]
    for i, folder in enumerate(config.fold_bases):
        check_fold(Path(folder), i, len(config.fold_bases))
    model = new_refiner(config, names, feature_channels=base.feature_channels)
    seen, train_miou = with_base(
        stored,
        [parts[fold] for fold in folds],
        conditioning=config.conditioning,
        stride=config.stride,
    )
    seen = partly_labelled(seen, config)
    outputs = [base(item.image[None].float() / 255) for item in few]
    score = ConfusionMatrix(len(names), sync_on_compute=False)  # each process counts all images
    for item, output in zip(few, outputs, strict=True):
        score.update(output.labels, item.mask[None].long())
    val_miou = score.compute().miou
    outputs = [BaseOutput(probs=o.probs.half(), features=o.features) for o in outputs]

    def answer(i: int, image: Image) -> BaseOutput:
        return BaseOutput(probs=outputs[i].probs.float(), features=outputs[i].features)

    def evaluate(candidate: nn.Module) -> dict[str, float]:
        return refiner_scores(cast(MaskRefiner, candidate).eval(), few, answer)

    batch_size = config.loop.batch_size
    task = Task(
        objective=RefinerObjective(model, config),
        draw=lambda g: draw(seen, config.augment, batch_size=batch_size, generator=g),
        evaluate=evaluate,
    )
    gap = train_miou - val_miou
    console = Console(
        stderr=True, soft_wrap=True, quiet=not PartialState().is_main_process, markup=False
    )
    console.print(
        f"base: mIoU {train_miou:.3f} on the training images, {val_miou:.3f} on validation"
    )
    if gap > LARGEST_GAP and not config.fold_bases:
        console.print(
            f"warning: a gap of {gap:.3f}; the refiner will see better base outputs than it will "
            "meet later. Train bases on folds (--folds 5 --fold i) and name them in --fold-bases."
        )
    return task, {"base_train_miou": train_miou, "base_val_miou": val_miou, "base_gap": gap}


def partly_labelled(seen: list[Stored], config: RefinerTrainConfig) -> list[Stored]:
    """The labelled images and, as often in all, the masks of the others."""
    chosen = evenly(len(seen), config.labelled)
    labelled = list(itertools.compress(seen, chosen))
    others = [
        dataclasses.replace(item, labelled=False)
        for item, wanted in zip(seen, chosen, strict=True)
        if not wanted
    ]
    if not others or not config.other_masks:
        return labelled
    return labelled * max(1, round(len(others) / len(labelled))) + others


def _live_refiner_task(
    config: RefinerTrainConfig, data: StoredImages, few: StoredImages, names: tuple[str, ...]
) -> Task:
    """Nothing is kept: images are read for each crop, and the frozen base sees the crops."""
    base = load_base(config.base, class_names=names).to(PartialState().device)
    model = new_refiner(config, names, feature_channels=base.feature_channels)
    side, batch_size = config.augment.short_side, config.loop.batch_size

    def evaluate(candidate: nn.Module) -> dict[str, float]:
        refiner = cast(MaskRefiner, candidate).eval()
        return refiner_scores(refiner, few, lambda _, image: base(image), short_side=side)

    return Task(
        objective=RefinerObjective(model, config),
        draw=lambda g: draw(data, config.augment, batch_size=batch_size, generator=g),
        evaluate=evaluate,
        complete=live_base(base, conditioning=config.conditioning, stride=config.stride),
    )
