"""From a config to a model folder."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState
from rich.console import Console
from torch import nn

from crispmask.data.source import open_split
from crispmask.diffusion.losses import cross_entropy
from crispmask.errors import InputError
from crispmask.metrics.confusion import ConfusionMatrix
from crispmask.models.checkpoint import write_atomic
from crispmask.models.prior import MaskPrior
from crispmask.models.refiner import MaskRefiner
from crispmask.models.refiner_config import RefinerConfig, condition_channels, num_states
from crispmask.models.segmenters import BaseOutput, FPNSegmenter, SegmenterConfig
from crispmask.nn.efficientnet import imagenet_weights, load_imagenet
from crispmask.nn.fpn import FPNConfig
from crispmask.nn.unet import MaskUNetConfig
from crispmask.provenance import provenance
from crispmask.train.batches import Stored, draw, folds_of, store, with_base
from crispmask.train.configs import (
    PriorTrainConfig,
    RefinerTrainConfig,
    SegmenterTrainConfig,
    TrainConfig,
)
from crispmask.train.loop import Task, fit
from crispmask.train.objectives import RefinerObjective, SegmenterObjective
from crispmask.train.prior import prior_task

LARGEST_GAP = 0.05
"""mIoU by which a base may be better on its training images before folds are needed."""

TEMPERATURES = tuple(1.12**i for i in range(-6, 11))
"""Tried on the validation images; 0.5 to 3.1."""


def train(config: TrainConfig, output: Path, *, resume: bool = False) -> Path:
    """Train a model and save it to ``output``.

    The folder gets ``config.json``, ``model.safetensors`` and a card, ``run.json`` with the
    resolved settings and scores, ``log.jsonl`` and ``checkpoint/``.

    Raises:
        InputError: if ``output`` holds another run and ``resume`` is False, or the data or the
            base cannot be used.
    """
    settings = {"kind": type(config).__name__, **dataclasses.asdict(config)}
    _check_output(output, settings, resume=resume)
    start = time.monotonic()
    with torch.random.fork_rng():
        torch.manual_seed(config.loop.seed)  # initial weights
        if isinstance(config, PriorTrainConfig):
            task, facts = prior_task(config)
        else:
            task, facts = _image_task(config)
    output.mkdir(parents=True, exist_ok=True)
    write_atomic(output / "run.json", json.dumps({"settings": settings}, indent=2))
    fitted = fit(task, config.loop, output, resume=resume)
    model, scores = cast(FPNSegmenter | MaskRefiner | MaskPrior, fitted.model), fitted.scores
    if isinstance(model, MaskRefiner):
        model.config = dataclasses.replace(model.config, temperature=scores["temperature"])
    if not PartialState().is_main_process:
        return output
    facts |= scores | {"seconds": round(time.monotonic() - start, 1)}
    facts |= provenance()
    model.save_pretrained(output)
    write_atomic(output / "README.md", _card(config, model, facts))
    write_atomic(output / "run.json", json.dumps({"settings": settings, **facts}, indent=2))
    return output


def _image_task(config: SegmenterTrainConfig | RefinerTrainConfig) -> tuple[Task, dict[str, Any]]:
    train_set, val_set = open_split(config.data, "train"), open_split(config.data, "val")
    stored, few = store(train_set), store(val_set)
    if isinstance(config, SegmenterTrainConfig) and config.folds:
        folds = folds_of(train_set, config.folds)
        stored = [item for item, fold in zip(stored, folds, strict=True) if fold != config.fold]
    if config.loop.eval_images:  # spread over the split
        few = few[:: max(1, len(few) // config.loop.eval_images)]
    facts: dict[str, Any] = {"train_images": len(stored), "val_images": len(few)}
    if isinstance(config, SegmenterTrainConfig):
        task, more = _segmenter_task(config, stored, few, train_set.class_names)
    else:
        folds = folds_of(train_set, max(len(config.fold_bases), 1))
        task, more = _refiner_task(config, stored, folds, few, train_set.class_names)
    return task, facts | more


def _segmenter_task(
    config: SegmenterTrainConfig, stored: list[Stored], few: list[Stored], names: tuple[str, ...]
) -> tuple[Task, dict[str, Any]]:
    if config.init:
        model = FPNSegmenter.from_pretrained(config.init)
        _check_classes(model, names, config.init)
    else:
        network = FPNConfig(num_classes=len(names), channels=config.channels)
        model = FPNSegmenter(
            SegmenterConfig(class_names=names, network=network, scale=config.scale)
        )
        if config.imagenet:
            load_imagenet(model.network.encoder, imagenet_weights())

    def evaluate(candidate: nn.Module) -> dict[str, float]:
        segmenter = cast(FPNSegmenter, candidate)
        score = ConfusionMatrix(len(names))
        for item in few:
            output = segmenter(item.image[None].float() / 255)
            score.update(output.labels.cpu(), item.mask[None].long())
        return {"val_miou": score.compute().miou}

    batch_size = config.loop.batch_size
    return (
        Task(
            objective=SegmenterObjective(model, dice_weight=config.dice_weight),
            draw=lambda g: draw(stored, config.augment, batch_size=batch_size, generator=g),
            evaluate=evaluate,
        ),
        {},
    )


def _refiner_task(
    config: RefinerTrainConfig,
    stored: list[Stored],
    folds: list[int],
    few: list[Stored],
    names: tuple[str, ...],
) -> tuple[Task, dict[str, Any]]:
    base = FPNSegmenter.from_pretrained(config.base)
    _check_classes(base, names, config.base)
    parts = [FPNSegmenter.from_pretrained(folder) for folder in config.fold_bases] or [base]
    for i, folder in enumerate(config.fold_bases):
        _check_classes(parts[i], names, folder)
        _check_fold(Path(folder), i, len(config.fold_bases))
    seen, train_miou = with_base(
        stored,
        [parts[fold] for fold in folds],
        conditioning=config.conditioning,
        stride=config.stride,
    )
    features = base.config.network.channels if config.conditioning == "features" else 0
    k = len(names)
    cond = condition_channels(
        config.conditioning, k, stride=config.stride, feature_channels=features
    )
    network = MaskUNetConfig(
        num_classes=k,
        cond_channels=cond,
        num_states=num_states(k, config.process),
        widths=config.widths,
        depth=config.depth,
        patch_size=config.patch_size,
        state_input=config.state_input,
        embed_trained=config.embed_trained,
    )
    model = MaskRefiner(
        RefinerConfig(
            class_names=names,
            network=network,
            conditioning=config.conditioning,
            stride=config.stride,
            process=config.process,
            schedule=config.schedule,
            residual=config.conditioning in ("probs", "logits", "mask"),
            feature_channels=features,
            condition_dropout=config.condition_dropout,
        )
    )
    multiple = config.stride * network.stride
    if any(side % multiple for side in config.augment.crop):
        h, w = config.augment.crop
        raise InputError(f"sides of augment.crop must be multiples of {multiple}, got {h}x{w}.")
    outputs = [base(item.image[None].float() / 255) for item in few]
    score = ConfusionMatrix(k)
    for item, output in zip(few, outputs, strict=True):
        score.update(output.labels, item.mask[None].long())
    val_miou = score.compute().miou
    outputs = [BaseOutput(probs=o.probs.half(), features=o.features) for o in outputs]

    def evaluate(candidate: nn.Module) -> dict[str, float]:
        refiner = cast(MaskRefiner, candidate).eval()
        score = ConfusionMatrix(k)
        losses = torch.zeros(len(TEMPERATURES))
        for i, (item, output) in enumerate(zip(few, outputs, strict=True)):
            image, target = item.image[None].float() / 255, item.mask[None].long()
            given = BaseOutput(probs=output.probs.float(), features=output.features)
            refined = refiner(image, given, names=[str(i)])
            score.update(refined.labels.cpu(), target)
            thin = (..., slice(None, None, 4), slice(None, None, 4))  # enough pixels for a number
            logits = refined.probs[thin].cpu().clamp(min=1e-12).log()
            losses += torch.stack([cross_entropy(logits / t, target[thin]) for t in TEMPERATURES])
        best = TEMPERATURES[int(losses.argmin())] * refiner.config.temperature
        return {"val_miou": score.compute().miou, "temperature": best}

    batch_size = config.loop.batch_size
    task = Task(
        objective=RefinerObjective(model, config),
        draw=lambda g: draw(seen, config.augment, batch_size=batch_size, generator=g),
        evaluate=evaluate,
    )
    gap = train_miou - val_miou
    console = Console(stderr=True, soft_wrap=True)
    console.print(
        f"base: mIoU {train_miou:.3f} on the training images, {val_miou:.3f} on validation"
    )
    if gap > LARGEST_GAP:
        console.print(
            f"warning: a gap of {gap:.3f}; the refiner will see better base outputs than it will "
            "meet later. Train bases on folds (--folds 5 --fold i) and name them in --fold-bases."
        )
    return task, {"base_train_miou": train_miou, "base_val_miou": val_miou, "base_gap": gap}


def _check_classes(segmenter: FPNSegmenter, names: tuple[str, ...], source: str) -> None:
    if segmenter.config.class_names != tuple(names):
        raise InputError(
            f"the segmenter {source} knows the classes {', '.join(segmenter.config.class_names)}, "
            f"the data {', '.join(names)}; train a segmenter on this data first."
        )


def _check_fold(folder: Path, fold: int, folds: int) -> None:
    """A base that says it left out another part of the data would be asked about what it knows."""
    record = folder / "run.json"
    if not record.exists():
        return
    settings = json.loads(record.read_text())["settings"]
    if (settings.get("folds"), settings.get("fold")) != (folds, fold):
        raise InputError(
            f"fold_bases must be trained without fold 0, 1, ... of {folds}, in this order; "
            f"{folder} stands in place {fold} and was trained with --folds {settings.get('folds')} "
            f"--fold {settings.get('fold')}."
        )


def _check_output(output: Path, settings: dict[str, Any], *, resume: bool) -> None:
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
    now = json.loads(json.dumps(settings))
    changed = [k for k in now if k in before and before[k] != now[k]]  # a newer version adds some
    if changed:
        raise InputError(
            f"{output} was started with other settings ({', '.join(changed)} differ); "
            "resume with the same ones or give a new folder."
        )


def _card(
    config: TrainConfig, model: FPNSegmenter | MaskRefiner | MaskPrior, facts: dict[str, Any]
) -> str:
    """The model card: what it is, how it was made, what it scored."""
    parameters = sum(p.numel() for p in model.parameters())
    lines = [
        "---",
        "library_name: crispmask",
        "license: apache-2.0",
        "pipeline_tag: image-segmentation",
        "---",
        "",
        f"# {type(model).__name__} for {config.data}",
        "",
        f"Classes: {', '.join(model.config.class_names)}. {parameters:,} parameters.",
        f"Trained for {config.loop.steps} steps of {config.loop.batch_size} crops, seed "
        f"{config.loop.seed}; settings in run.json.",
        "",
        "| fact | value |",
        "|---|---|",
        *(
            f"| {k} | {v:.4f} |" if isinstance(v, float) else f"| {k} | {v} |"
            for k, v in facts.items()
        ),
        "",
    ]
    return "\n".join(lines)
