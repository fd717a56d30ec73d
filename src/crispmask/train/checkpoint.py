"""The state of a run on disk: its log; model, average and optimizer, swapped in as a whole."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from crispmask.atomic import write_atomic
from crispmask.errors import InputError


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, average: nn.Module, optimizer: Any
) -> None:
    """Write everything a run needs to go on, as tensors, and swap it in.

    Raises:
        InputError: if it cannot be written; the checkpoint before it is left as it was.
    """
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for index, entries in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in entries.items()}
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    temporary = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        save_file(tensors, temporary / "state.safetensors")
        (temporary / "step.json").write_text(json.dumps({"step": step}))
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise InputError(
            f"the checkpoint of step {step} cannot be written to {folder} ({error}); make room, "
            "then resume: what was kept before is still there."
        ) from error
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    temporary.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path, model: nn.Module, average: nn.Module, optimizer: Any) -> int:
    """Restore what `save_checkpoint` wrote; returns the number of steps done.

    A run that was stopped before its first checkpoint has done none.

    Raises:
        InputError: if the checkpoint is damaged or of a model of another size.
    """
    if not folder.exists():
        return 0
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


def finish_swap(folder: Path) -> None:
    """Put the last checkpoint in its place if a save was stopped between its two moves."""
    old = folder.with_name(f".{folder.name}.old")
    if not folder.exists() and old.exists():
        old.replace(folder)


def keep_steps(log: Path, steps: int) -> None:
    """Forget what the log says of steps after the checkpoint, and a last line half written.

    Raises:
        InputError: if another line is no record of a step.
    """
    lines = log.read_bytes().splitlines() if log.exists() else []
    kept = []
    for number, line in enumerate(lines, 1):
        try:
            step = int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):  # the run was killed while it wrote
                break
            raise InputError(
                f"cannot resume: line {number} of {log} is damaged ({error}); restore the file, or "
                "remove the line if its record may be lost."
            ) from error
        if step < steps:
            kept.append(line)
    write_atomic(log, b"".join(line + b"\n" for line in kept))


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
