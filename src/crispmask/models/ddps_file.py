"""Reading the file of an official DDPS checkpoint: tensors only, no code is run."""

import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from crispmask.errors import InputError

State = dict[str, Tensor]

Weights = Literal["ema", "model"]
"""The copies under ``ema_...`` where there are any, or the tensors under the parts' own names."""


def read_checkpoint(path: Path, *, weights: Weights) -> tuple[State, dict[str, str]]:
    """The tensors of an official checkpoint, and what else is in it with the reason to leave it.

    A ``state_dict`` around the tensors and a ``module.`` before each name are taken off. With
    "ema" copies called ``ema_...`` take the place of the tensors that they are copies of.

    Raises:
        InputError: if there is no such file, it holds anything but numbers, it is damaged, or its
            averaged copies are of an unknown layout.
    """
    content = _load(path)
    state, other = content, {}
    if "state_dict" in content:
        state = content["state_dict"]
        other = {str(k): "not weights" for k in content if k != "state_dict"}
    averaged = [k for k in other if "ema" in k.lower()]
    if averaged:
        raise InputError(
            f"{path} has an unknown EMA layout: averaged copies are read from ema_... inside "
            f"state_dict, this file has {averaged[0]!r} beside it; move the wanted tensors there."
        )
    if not isinstance(state, Mapping) or not state or not _all_tensors(state):
        raise InputError(
            f"{path} must hold a dictionary of tensors, or one under 'state_dict', as mmcv saves "
            "it; give the .pth file of an official DDPS model."
        )
    if all(k.startswith("module.") for k in state):
        state = {k.removeprefix("module."): v for k, v in state.items()}
    return _choose(dict(state), weights, other, str(path))


def _load(path: Path) -> Mapping[Any, Any]:
    try:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            with torch.serialization.safe_globals(_numpy_numbers()):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # a damaged pickle fails in many ways
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code is None or not isinstance(error, pickle.UnpicklingError):
            raise InputError(
                f"{path} is not a PyTorch checkpoint or is damaged; download it again."
            ) from error
        raise InputError(
            f"{path} asks to run Python code ({code[1]}), which is refused; save its tensors "
            "alone with torch.save and convert that file."
        ) from error
    return content if isinstance(content, Mapping) else {"state_dict": content}


def _numpy_numbers() -> list[Any]:
    """What a pickled NumPy number needs: mmcv's notes hold the best score as one."""
    scalar = np.float64(0).__reduce__()[0]
    named = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [np.dtype, *(type(np.dtype(kind)) for kind in ("f8", "f4", "i8")), *named]


def _all_tensors(state: Mapping[Any, Any]) -> bool:
    return all(
        isinstance(k, str) and isinstance(v, Tensor) and v.layout == torch.strided
        for k, v in state.items()
    )


def _choose(
    state: State, weights: Weights, other: dict[str, str], source: str
) -> tuple[State, dict[str, str]]:
    """Takes the tensors or their copies; the reason why the others stay goes to ``other``."""
    plain = {k: v for k, v in state.items() if not k.startswith("ema_")}
    copies = {f"ema_{k.replace('.', '_')}": k for k in plain}
    averaged = [k for k in state if k.startswith("ema_")]
    unknown = [k for k in averaged if k not in copies]
    buffers = re.compile(r"\.(running_(mean|var)|num_batches_tracked|log_\w+)$")
    without = [k for name, k in copies.items() if name not in state and not buffers.search(k)]
    if unknown or (averaged and without):
        raise InputError(
            f"{source} has an unknown EMA layout: each tensor needs a copy called ema_ and its "
            f"name with _ for each dot, {len(unknown)} copies belong to no tensor "
            f"({listed(unknown)}) and {len(without)} tensors have none ({listed(without)})."
        )
    if weights == "model":
        return plain, other | dict.fromkeys(averaged, "the copies are not asked for (--weights)")
    taken = {k: state.get(name, plain[k]) for name, k in copies.items()}
    return taken, other | {name: f"taken in place of {copies[name]}" for name in averaged}


def listed(names: Iterable[str], *, most: int = 10) -> str:
    """Names for a message; a long list ends in its length."""
    found = list(names)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more if found else "none"
