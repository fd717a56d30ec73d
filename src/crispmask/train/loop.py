"""The one training loop: Accelerate, exact resume, an average of the weights."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast

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
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from crispmask.errors import InputError
from crispmask.train.ahead import draw_ahead
from crispmask.train.checkpoint import finish_swap, keep_steps, load_checkpoint, save_checkpoint
from crispmask.train.loop_config import LoopConfig

LOWEST_RATE = 1e-6
"""Learning rate below which halving stops, as in DDPS."""


class Drawn(Protocol):
    """A batch, or masks alone."""

    def to(self, device: torch.device, /) -> Any:
        """The same on this device."""
        ...


@dataclass(frozen=True)
class Task:
    """What is trained.

    Attributes:
        objective: module with a part ``model``; called with (batch, progress, generator) it gives
            the loss.
        draw: makes the batch of a step from a generator: crops, masks alone, or latents.
        evaluate: scores of a model on the validation split; every process calls it and gets the
            same.
        complete: what is added to a batch once it is on the device, by default nothing.
        save: writes the model into the folder of the run, by default as it saves itself.
        parts: what the last loss is made of, for the log, as the main process sees it.
        watch: sees each record once it is in the log; an error that it raises ends the run.
        rate_factors: learning rate over that of the config, by how a parameter's name begins.
    """

    objective: nn.Module
    draw: Callable[[torch.Generator], Drawn]
    evaluate: Callable[[nn.Module], dict[str, float]]
    complete: Callable[[Any], Any] = field(default=lambda batch: batch)
    save: Callable[[Any, Path], None] = field(
        default=lambda model, folder: model.save_pretrained(folder)
    )
    parts: Callable[[], Mapping[str, Tensor]] = dict
    watch: Callable[[Mapping[str, float]], None] = field(default=lambda record: None)
    rate_factors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Fitted:
    """The averaged model and what `Task.evaluate` says of it."""

    model: nn.Module
    scores: dict[str, float]


def fit(task: Task, config: LoopConfig, output: Path, *, resume: bool) -> Fitted:
    """Train; what comes back is the average of the weights.

    Every random number of step i comes from (seed, i), and from the number of the process where
    there are several, so a run that is stopped and resumed takes exactly the steps of one that was
    not. Each process draws its own crops; gradients and losses are means over all. ``output`` gets
    ``log.jsonl`` (loss and scores) and ``checkpoint/``, which is replaced as a whole, from the
    main process alone.

    Raises:
        InputError: if ``resume`` finds a checkpoint that is damaged or of another model, or a
            damaged log.
    """
    if config.track and find_spec("tensorboard") is None:
        raise InputError("loop.track needs TensorBoard: pip install 'crispmask[tensorboard]'.")
    accelerator = Accelerator(
        log_with="tensorboard" if config.track else None,
        project_dir=str(output),
        mixed_precision="bf16" if _bf16() else "no",
    )
    model = cast(nn.Module, task.objective.model)
    optimizer = torch.optim.AdamW(_groups(model, config, task.rate_factors), betas=config.betas)
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
        if accelerator.is_main_process:
            finish_swap(output / "checkpoint")
        accelerator.wait_for_everyone()
        start = load_checkpoint(output / "checkpoint", model, average, optimizer)
    if accelerator.is_main_process:
        keep_steps(log, start)
    seeds = [
        (config.seed * 1_000_003 + step) * 65_537 + accelerator.process_index
        for step in range(start, config.steps)
    ]
    drawn = draw_ahead(task.draw, seeds, workers=config.workers)

    with _progress(shown=accelerator.is_main_process) as bar, closing(drawn):
        row = bar.add_task("training", total=config.steps, completed=start, loss=math.nan)
        objective.train()
        for step, (crops, generator) in enumerate(drawn, start):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step) * group["rate_factor"]
            batch = task.complete(crops.to(accelerator.device))
            with seeded(seeds[step - start], accelerator.device):  # for dropout
                loss = objective(batch, step / config.steps, generator)
            accelerator.backward(loss)
            if config.clip_norm:
                accelerator.clip_grad_norm_(objective.parameters(), config.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done = step + 1
            last = done == config.steps and not average.n_averaged
            if done % config.ema_every == 0 or last:
                average.update_parameters(model)
            value = accelerator.reduce(loss.detach(), "mean").item()
            if not math.isfinite(value):
                raise InputError(
                    f"the loss is {value} at step {step}; start again in a new folder with a "
                    f"learning rate below {config.learning_rate}."
                )
            record = {"step": step, "loss": value}
            record |= {name: part.item() for name, part in task.parts().items()}
            if done % config.eval_every == 0 or done == config.steps:
                scores = task.evaluate(average.module)
                record |= scores
                objective.train()
            if accelerator.is_main_process:
                with log.open("a") as stream:
                    stream.write(json.dumps(record) + "\n")
                if config.track:
                    accelerator.log({k: v for k, v in record.items() if k != "step"}, step=step)
            task.watch(record)
            if accelerator.is_main_process and (
                done % config.save_every == 0 or done == config.steps
            ):
                save_checkpoint(output / "checkpoint", done, model, average, optimizer)
            bar.update(row, completed=done, loss=value)
    if config.track:
        accelerator.end_training()
    if start == config.steps:  # resumed at its end
        scores = task.evaluate(average.module)
    return Fitted(average.module, scores)


def learning_rate(config: LoopConfig, step: int) -> float:
    """Linear warm-up and half a cosine down to zero, or steps of one half; once or twice."""
    restart = round(config.restart * config.steps)
    first, length = (0, restart) if step < restart else (restart, config.steps - restart)
    since = step - first
    peak = config.learning_rate * min(1.0, (since + 1) / max(config.warmup_steps, 1))
    if config.halvings:
        return max(peak * 0.5 ** (since * config.halvings // length), min(peak, LOWEST_RATE))
    return peak * 0.5 * (1 + math.cos(math.pi * since / length))


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """The global generators of CPU and device seeded; afterwards they are as they were before."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _groups(
    model: nn.Module, config: LoopConfig, factors: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Matrices and filters, and gains and biases, with their weight decay, for each rate."""
    by_rate: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found = [f for start, f in (factors or {}).items() if name.startswith(start)]
            by_rate.setdefault(found[0] if found else 1.0, []).append(parameter)
    decay = config.weight_decay
    return [
        {"params": params, "weight_decay": weight_decay, "rate_factor": factor}
        for factor, trained in by_rate.items()
        for params, weight_decay in (
            ([p for p in trained if p.ndim > 1], decay),
            ([p for p in trained if p.ndim <= 1], decay if config.decay_all else 0.0),
        )
    ]


def _bf16() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def _progress(*, shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        _Speed(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown,
    )


class _Speed(ProgressColumn):
    """Steps per second, once known."""

    def render(self, task: RichTask) -> Text:
        return Text(f"{task.speed:.2f} steps/s" if task.speed else "- steps/s")
