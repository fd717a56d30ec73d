"""Small functions of class probabilities."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

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
