"""The one training loop: Accelerate, exact resume, an average of the weights."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Task as RichTask
from rich.text import Text
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from crispmask.errors import InputError
from crispmask.models.checkpoint import write_atomic
from crispmask.train.batches import Batch
from crispmask.train.configs import LoopConfig


@dataclass(frozen=True)
class Task:
    """What is trained.

    Attributes:
        objective: module with a part ``model``; called with (batch, progress, generator) it gives
            the loss.
        draw: makes the batch of a step from a generator: crops, or masks alone.
        evaluate: scores of a model on the validation split.
    """

    objective: nn.Module
    draw: Callable[[torch.Generator], Batch | Tensor]
    evaluate: Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True)
class Fitted:
    """The averaged model and what `Task.evaluate` says of it."""

    model: nn.Module
    scores: dict[str, float]


def fit(task: Task, config: LoopConfig, output: Path, *, resume: bool) -> Fitted:
    """Train; what comes back is the average of the weights.

    Every random number of step i comes from (seed, i), so a run that is stopped and resumed takes
    exactly the steps of one that was not. ``output`` gets ``log.jsonl`` (loss and scores) and
    ``checkpoint/``, which is replaced as a whole.

    Raises:
        InputError: if ``resume`` finds no checkpoint, or one of another model.
    """
    if config.track and find_spec("tensorboard") is None:
        raise InputError("loop.track needs TensorBoard: pip install 'crispmask[tensorboard]'.")
    accelerator = Accelerator(
        log_with="tensorboard" if config.track else None,
        project_dir=str(output),
        mixed_precision="bf16" if _bf16() else "no",
    )
    model = cast(nn.Module, task.objective.model)
    optimizer = torch.optim.AdamW(_groups(model, config.weight_decay), betas=config.betas)
    ema = get_ema_multi_avg_fn(config.ema_decay)  # type: ignore[no-untyped-call]
    average = AveragedModel(model, multi_avg_fn=ema)
    average.to(accelerator.device)
    objective, optimizer = accelerator.prepare(task.objective, optimizer)
    if config.track:
        accelerator.init_trackers("log")
    start = 0
    scores: dict[str, float] = {}
    log = output / "log.jsonl"
    if resume:
        start = load_checkpoint(output / "checkpoint", model, average, optimizer)
        _keep_steps(log, start)
    elif accelerator.is_main_process:
        log.unlink(missing_ok=True)

    with _progress() as bar:
        row = bar.add_task("training", total=config.steps, completed=start, loss=math.nan)
        objective.train()
        for step in range(start, config.steps):
            seed = (config.seed * 1_000_003 + step) * 65_537 + accelerator.process_index
            generator = torch.Generator().manual_seed(seed)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step)
            batch = task.draw(generator).to(accelerator.device)
            with torch.random.fork_rng():  # dropout draws from the global generator
                torch.manual_seed(seed)
                loss = objective(batch, step / config.steps, generator)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(objective.parameters(), config.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            average.update_parameters(model)
            value, done = loss.item(), step + 1
            if not math.isfinite(value):
                raise InputError(
                    f"the loss is {value} at step {step}; start again in a new folder with a "
                    f"learning rate below {config.learning_rate}."
                )
            record = {"step": step, "loss": value}
            if done % config.eval_every == 0 or done == config.steps:
                scores = task.evaluate(average.module)
                record |= scores
                objective.train()
            if accelerator.is_main_process:
                with log.open("a") as stream:
                    stream.write(json.dumps(record) + "\n")
                if config.track:
                    accelerator.log({k: v for k, v in record.items() if k != "step"}, step=step)
                if done % config.save_every == 0 or done == config.steps:
                    save_checkpoint(output / "checkpoint", done, model, average, optimizer)
            bar.update(row, completed=done, loss=value)
    if config.track:
        accelerator.end_training()
    if start == config.steps:  # resumed at its end
        scores = task.evaluate(average.module)
    return Fitted(average.module, scores)


def learning_rate(config: LoopConfig, step: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, average: nn.Module, optimizer: Any
) -> None:
    """Write everything a run needs to go on, as tensors, and swap it in."""
    temporary = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for index, entries in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in entries.items()}
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    save_file(tensors, temporary / "state.safetensors")
    (temporary / "step.json").write_text(json.dumps({"step": step}))
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    temporary.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path, model: nn.Module, average: nn.Module, optimizer: Any) -> int:
    """Restore what `save_checkpoint` wrote; returns the number of steps done."""
    old = folder.with_name(f".{folder.name}.old")
    if not folder.exists() and old.exists():  # stopped between the two moves of a swap
        old.replace(folder)
    try:
        step = int(json.loads((folder / "step.json").read_text())["step"])
        tensors = load_file(folder / "state.safetensors")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(
            f"cannot resume: {folder} holds no readable checkpoint ({error}); start again in a new "
            "folder."
        ) from error
    try:
        model.load_state_dict(_part(tensors, "model."))
        average.load_state_dict(_part(tensors, "average."))
    except RuntimeError as error:
        raise InputError(
            f"cannot resume: {folder} is of a model of another size; start again in a new folder."
        ) from error
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _part(tensors, "optimizer.").items():
        index, _, entry = key.partition(".")
        state.setdefault(int(index), {})[entry] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return step


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with weight decay (matrices, filters) and without (gains, biases)."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _bf16() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def _keep_steps(log: Path, steps: int) -> None:
    """Forget what the log says of steps after the checkpoint."""
    lines = log.read_text().splitlines() if log.exists() else []
    kept = [line for line in lines if json.loads(line)["step"] < steps]
    write_atomic(log, "".join(f"{line}\n" for line in kept))


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        _Speed(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


class _Speed(ProgressColumn):
    """Steps per second, once known."""

    def render(self, task: RichTask) -> Text:
        return Text(f"{task.speed:.2f} steps/s" if task.speed else "- steps/s")
