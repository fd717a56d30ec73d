"""Losses on the predicted clean mask. Pixels whose target is `IGNORE` do not count."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from crispmask.shapes import IGNORE, Logits, Mask


def cross_entropy(logits: Logits, target: Mask) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats over the valid pixels of the batch; 0 if there are none."""
    total = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum")
    return total / (target != IGNORE).sum().clamp(min=1)


def soft_dice(logits: Logits, target: Mask) -> Float[Tensor, ""]:
    """One minus the soft Dice score, averaged over the classes that occur in the target.

    Milletari et al. 2016 (V-Net) with plain sums in the denominator. Sums run over the whole
    batch; the result is 0 if there is no valid pixel.
    """
    valid = (target != IGNORE).unsqueeze(1)  # b 1 h w
    labels = target.where(target != IGNORE, 0)
    truth = F.one_hot(labels, logits.shape[1]).movedim(-1, 1) * valid  # b k h w
    probs = logits.softmax(1) * valid
    pixels = truth.sum((0, 2, 3))  # k
    overlap = (probs * truth).sum((0, 2, 3))
    loss = 1 - 2 * overlap / (probs.sum((0, 2, 3)) + pixels).clamp(min=1e-6)
    present = pixels > 0
    return (loss * present).sum() / present.sum().clamp(min=1)
