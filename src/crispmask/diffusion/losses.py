"""Losses on the predicted clean mask. Pixels whose target is `IGNORE` do not count."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from crispmask.diffusion.categorical import StateProbs
from crispmask.diffusion.mixed import Process
from crispmask.diffusion.samplers import MAX_STEPS, Denoise
from crispmask.errors import InputError
from crispmask.shapes import IGNORE, Generators, Logits, Mask, Time


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
    truth = _one_hot(target, logits.shape[1]) * valid  # b k h w
    probs = logits.softmax(1) * valid
    pixels = truth.sum((0, 2, 3))  # k
    overlap = (probs * truth).sum((0, 2, 3))
    loss = 1 - 2 * overlap / (probs.sum((0, 2, 3)) + pixels).clamp(min=1e-6)
    present = pixels > 0
    return (loss * present).sum() / present.sum().clamp(min=1)


def vlb(
    process: Process, logits: Logits, x_0: Mask, x_t: Mask, t: Time, s: Time
) -> Float[Tensor, ""]:
    """Term of the variational bound for the step from t to s: its mean over the valid pixels.

    ``KL(q(x_s | x_t, x_0) || p(x_s | x_t))`` in nats, where p is ``process.posterior`` of the
    predicted probabilities. For an image with ``s = 0`` it is the cross-entropy
    ``-log p(x_0 | x_t)`` instead: the last step ends in the clean mask. These are the terms of
    D3PM (Austin et al. 2021), eq. 1; the loss of its sec. 3.4 adds a multiple of `cross_entropy`.

    Args:
        process: the process that drew `x_t`.
        logits: of the clean mask, predicted from `x_t` and t.
        x_0: clean mask, `IGNORE` where unknown.
        x_t: state at t, drawn with ``process.forward(x_0, t)``.
        t: time of `x_t`, above s.
        s: the earlier time, at least 0; each image has its own.

    Returns:
        A scalar; 0, with a gradient of 0, if no pixel is valid.
    """
    nats = _step_nats(process, logits, x_0, x_t, t, s)
    return nats.sum() / (x_0 != IGNORE).sum().clamp(min=1)


@torch.no_grad()
def negative_log_likelihood_bound(
    process: Process,
    denoise: Denoise,
    x_0: Mask,
    *,
    num_steps: int,
    generator: Generators = None,
) -> Float[Tensor, "b"]:
    """Upper bound of ``-log2 p(x_0)`` in bits per labelled pixel, for each image.

    D3PM (Austin et al. 2021), eq. 1: the divergence of ``q(x_1 | x_0)`` at time 1 from noise that
    does not know the mask, and the terms of `vlb` on `num_steps` even steps from time 1 to 0. Each
    term is estimated without bias from one state ``x_t``, drawn with ``process.forward``; the
    estimate for one image scatters, so compare means over many. The noise at time 1 is the
    marginal of a uniform class, which differs from ``process.prior`` by less than 1e-5. The latter
    has no room for the labels that survive masking until time 1: the divergence would be infinite.

    Pixels without a label are noise at every time, count for nothing and tell the denoiser
    nothing. The result carries no gradient.

    Args:
        process: the process that the denoiser was trained to reverse.
        denoise: gives the logits of the clean mask; without a condition it is a prior of masks.
        x_0: masks to score, `IGNORE` where unknown.
        num_steps: exact number of calls of the denoiser, 1 to 1000.
        generator: one per image makes the result independent of the batch.

    Returns:
        Bits per labelled pixel, at least 0 but for rounding; 0 for an image without labels.

    Raises:
        InputError: if the number of steps is out of range.
    """
    if not 1 <= num_steps <= MAX_STEPS:
        raise InputError(f"num_steps must be 1 to {MAX_STEPS}, got {num_steps}.")
    grid = torch.linspace(1, 0, num_steps + 1, device=x_0.device)
    times = list(grid.unsqueeze(1).expand(-1, len(x_0)))  # each b
    truth = _one_hot(x_0, process.num_classes).to(grid.dtype)
    blank = torch.full_like(truth, 1 / process.num_classes)
    at_one, noise = process.marginal(truth, times[0]), process.marginal(blank, times[0])
    nats = _divergence(at_one, noise).where(x_0 != IGNORE, 0).sum((1, 2))  # b
    for t, s in pairwise(times):
        x_t = process.forward(x_0, t, generator=generator)
        nats = nats + _step_nats(process, denoise(x_t, t), x_0, x_t, t, s).sum((1, 2))
    return nats / math.log(2) / (x_0 != IGNORE).sum((1, 2)).clamp(min=1)


def _step_nats(
    process: Process, logits: Logits, x_0: Mask, x_t: Mask, t: Time, s: Time
) -> Float[Tensor, "b h w"]:
    """Cost of the step from t to s for each pixel, 0 where the label is unknown."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    truth = _one_hot(x_0, process.num_classes).to(logits.dtype)
    kl = _divergence(
        process.posterior(truth, x_t, t, s), process.posterior(logits.softmax(1), x_t, t, s)
    )
    last = F.cross_entropy(logits, x_0, ignore_index=IGNORE, reduction="none")
    nats = torch.where((s == 0).view(-1, 1, 1), last, kl)
    return nats.where(x_0 != IGNORE, 0)


def _divergence(q: StateProbs, p: StateProbs) -> Float[Tensor, "b h w"]:
    """``KL(q || p)`` over the states; finite, as a probability of 0 counts as a tiny one."""
    log_q, log_p = (probs.clamp(min=torch.finfo(probs.dtype).tiny).log() for probs in (q, p))
    return (q * (log_q - log_p)).sum(1)


def _one_hot(x: Mask, num_classes: int) -> Int64[Tensor, "b k h w"]:
    """One at the label of each pixel; an unknown label counts as 0."""
    return F.one_hot(x.where(x != IGNORE, 0), num_classes).movedim(-1, 1)
