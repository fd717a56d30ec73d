"""Where a command computes."""

from typing import TypeVar

import torch
from torch import nn

from crispmask.errors import InputError

Model = TypeVar("Model", bound=nn.Module)


def on_device(model: Model, name: str) -> Model:
    """The model on a device of torch: "cpu", "cuda", "cuda:1", "mps".

    Raises:
        InputError: if there is no such device here.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).strip().splitlines()[0]
        raise InputError(
            f"--device {name} cannot be used here ({why}); use cpu, or install torch for it."
        ) from error
    return model.to(device)
