"""Small functions of class probabilities."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from crispmask.errors import InputError
from crispmask.shapes import Logits, Probs

SMOOTHING = 0.01
"""Share of uniform probability mixed into a base output, so that its logarithm is finite."""


def smooth(probs: Probs) -> Probs:
    """The probabilities with `SMOOTHING` of the uniform distribution mixed in."""
    return (1 - SMOOTHING) * probs + SMOOTHING / probs.shape[1]


def log_smoothed(probs: Probs) -> Logits:
    """Logarithm of the smoothed probabilities; finite where a class has probability 0."""
    return smooth(probs).log()


def entropy(probs: Probs) -> Float[Tensor, "b h w"]:
    """Entropy per pixel over its maximum log(k): 0 is certain, 1 is a guess."""
    nats: Tensor = torch.special.entr(probs).sum(1)
    return (nats / math.log(probs.shape[1])).clamp(0, 1)


def gated(refined: Probs, base: Probs, gate: float) -> Probs:
    """The mixture ``(1 - gate) refined + gate base``: 0 leaves the refined, 1 keeps the base.

    The linear pool of two opinions (Stone 1961, "The opinion pool"). In its labels it is a gate:
    the base's label a gives way to c only where the refiner is surer of the change than the base
    is of a, ``(1 - gate) (refined_c - refined_a) > gate (base_a - base_c)``.
    """
    return refined if gate == 0 else torch.lerp(refined, base, gate)


def check_gate(gate: float) -> None:
    """Raise `InputError` if ``gate`` is no share."""
    if not 0 <= gate <= 1:
        raise InputError(
            f"gate must lie in [0, 1], got {gate}; 0 is off and 1 keeps the base as it is."
        )
