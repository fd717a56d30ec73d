"""Reverse loops: from a noisy mask and a `Denoise` callable to a clean mask.

One family with two knobs. ``eta`` chooses the step from t to an earlier s: 0 forgets the state
and noises the estimate of the clean mask again, ``q(x_s | x_0)``, as DDPS does by default (Lai et
al. 2023); 1 is the exact ancestral step ``q(x_s | x_t, x_0)``; in between, each pixel takes the
ancestral step with probability eta. If the estimate is the true mask, every eta yields
``q(x_s | x_0)``. ``estimate`` chooses how the probabilities of the clean mask enter the step.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from crispmask.diffusion.categorical import AbsorbingDiffusion, categorical_sample, uniform
from crispmask.diffusion.mixed import Process
from crispmask.errors import InputError
from crispmask.shapes import Generators, Logits, Mask, Time

Denoise = Callable[[Mask, Time], Logits]
"""A network with its conditions bound: noisy mask and time to logits of the clean mask."""

Estimate = Literal["argmax", "sample", "soft"]
"""Clean mask in a step: the likeliest, a drawn one, or an average over all.

A drawn mask and the average give each pixel of the next state the same distribution; the draw is
cheaper, as its step has no axis of classes.
"""

Order = Literal["random", "confident"]
"""Which labels of the estimate a masked state takes over: random ones, or the surest."""

MAX_STEPS = 1000
"""Most calls that a sampler makes; D3PM (Austin et al. 2021) trains with as many steps."""


@dataclass(frozen=True, kw_only=True)
class MaskSample:
    """What a sampler returns.

    Attributes:
        logits: for the clean mask: of the last call, or the logarithm of the mean of the
            probabilities of the last calls.
        trace: the predicted mask after each call, empty unless asked for.
        num_calls: how often the denoiser ran.
    """

    logits: Logits
    trace: tuple[Mask, ...]
    num_calls: int


def timesteps(num_inference_steps: int, *, start_time: float = 1.0) -> list[float]:
    """Times of the calls, evenly spaced from `start_time` towards 0, which is not among them."""
    if not 1 <= num_inference_steps <= MAX_STEPS:
        raise InputError(
            f"num_inference_steps must be 1 to {MAX_STEPS}, got {num_inference_steps}; "
            "it is the number of calls of the network."
        )
    if not 0 < start_time <= 1:
        raise InputError(f"start_time must be above 0 and at most 1, got {start_time}.")
    return [start_time * (1 - i / num_inference_steps) for i in range(num_inference_steps)]


def sample_mask(
    process: Process,
    denoise: Denoise,
    x_start: Mask,
    *,
    num_inference_steps: int,
    start_time: float = 1.0,
    eta: float = 0.0,
    estimate: Estimate = "argmax",
    order: Order = "random",
    generator: Generators = None,
    average_last: int = 1,
    early_exit: float = 0.0,
    keep_trace: bool = False,
) -> MaskSample:
    """Clean mask from the state at `start_time`, in ``num_inference_steps`` calls of the denoiser.

    Call i of N happens at ``start_time * (1 - i / N)``. To start from a mask of another model,
    noise it: with ``t = N / (N + 1)``, ``x_start = process.forward(mask, t)`` and
    ``start_time = t``, the N calls are the last of a loop of N + 1 whose first call, at time 1,
    gave that mask.

    Args:
        process: the process that the denoiser was trained to reverse.
        denoise: gives the logits of the clean mask.
        x_start: state at `start_time`, for time 1 usually ``process.prior(...)``.
        num_inference_steps: exact number of calls, unless `early_exit` ends them sooner; 1 to 1000.
        start_time: time of `x_start` and of the first call, above 0 and at most 1.
        eta: share of pixels that take the ancestral step, 0 to 1.
        estimate: how the prediction of the clean mask enters a step.
        order: "confident" is for `AbsorbingDiffusion` and eta 0: the surest labels of each
            estimate stay, as many as the process would keep, and the others are masked again
            (MaskGIT, Chang et al. 2022, sec. 3.2; there labels once taken over are not judged
            again).
        generator: one per image makes the result independent of the batch.
        average_last: over how many of the last calls the predicted probabilities are averaged;
            1 returns the logits of the last call as they are. The steps themselves and the trace
            use the prediction of each call alone.
        early_exit: an image is finished when less than this share of its predicted labels
            changed from one call to the next; 0 never ends early. A finished image keeps its
            logits, and the loop ends when all are finished.
        keep_trace: keep the predicted mask after each call.

    Raises:
        InputError: if an option is out of range, if more calls are to be averaged than made, or
            if calls are to be averaged with an early exit.
    """
    grid = timesteps(num_inference_steps, start_time=start_time)
    check_options(num_inference_steps, eta, average_last, early_exit)
    check_order(order, process, eta)
    if estimate not in get_args(Estimate):
        raise InputError(f"estimate must be {', '.join(get_args(Estimate))}, got {estimate!r}.")
    batch, device = len(x_start), x_start.device
    times = [torch.full((batch,), t, device=device) for t in grid]
    logits = denoise(x_start, times[0])
    trace = [logits.argmax(1)] if keep_trace else []
    average = _LastCalls(average_last, of=num_inference_steps)
    average.add(logits)
    running = torch.ones(batch, dtype=torch.bool, device=device)
    x_t, calls = x_start, 1
    for t, s in pairwise(times):
        if order == "confident":
            x_t = surest(logits, process.schedule(s), masked=process.num_classes)
        else:
            x_t = reverse_step(
                process, logits, x_t, t, s, eta=eta, estimate=estimate, generator=generator
            )
        new = denoise(x_t, s)
        calls += 1
        if early_exit > 0:
            new = torch.where(running.view(-1, 1, 1, 1), new, logits)
            changed = (new.argmax(1) != logits.argmax(1)).float().mean((1, 2))  # b
            running = running & (changed >= early_exit)
        logits = new
        average.add(logits)
        if keep_trace:
            trace.append(logits.argmax(1))
        if early_exit > 0 and not running.any():
            break
    return MaskSample(logits=average.logits(logits), trace=tuple(trace), num_calls=calls)


def reverse_step(
    process: Process,
    logits: Logits,
    x_t: Mask,
    t: Time,
    s: Time,
    *,
    eta: float,
    estimate: Estimate,
    generator: Generators = None,
) -> Mask:
    """Draw the state at an earlier time s from the state at t and logits of the clean mask."""
    if estimate == "soft":
        p_0 = logits.float().softmax(1)
        p_s = process.marginal(p_0, s)
        if eta > 0:
            p_s = torch.lerp(p_s, process.posterior(p_0, x_t, t, s), eta)
        return categorical_sample(p_s, generator=generator)
    if estimate == "sample":
        x_0 = categorical_sample(logits.float().softmax(1), generator=generator)
    else:
        x_0 = logits.argmax(1)
    if eta == 0:
        return process.forward(x_0, s, generator=generator)
    ancestral = process.posterior_sample(x_0, x_t, t, s, generator=generator)
    if eta == 1:
        return ancestral
    renoised = process.forward(x_0, s, generator=generator)
    return torch.where(uniform(x_t.shape, generator, x_t.device) < eta, ancestral, renoised)


def surest(logits: Logits, share: Float[Tensor, "b"], *, masked: int) -> Mask:
    """The predicted labels, all but this share of the surest pixels of each image masked."""
    confidence, labels = logits.float().softmax(1).max(1)  # b h w
    pixels = confidence[0].numel()
    rank = confidence.flatten(1).argsort(1, descending=True).argsort(1)  # b h*w
    keep = (rank < (share * pixels).round()[:, None]).view_as(labels)
    return labels.where(keep, masked)


def guided(denoise_pair: Callable[[Mask, Time], tuple[Logits, Logits]], scale: float) -> Denoise:
    """Classifier-free guidance: ``uncond + scale * (cond - uncond)`` (Ho and Salimans 2022).

    Args:
        denoise_pair: gives the logits with the condition and those without it.
        scale: 1 is off and returns the conditional logits exactly; more sharpens.
    """

    def denoise(x_t: Mask, t: Time) -> Logits:
        cond, uncond = denoise_pair(x_t, t)
        return cond if scale == 1 else uncond + scale * (cond - uncond)

    return denoise


class _LastCalls:
    """Mean of the probabilities of the last calls, as a running sum of their logarithms."""

    def __init__(self, count: int, *, of: int) -> None:
        self.count = count
        self.skip = of - count
        self.log_sum: Logits | None = None

    def add(self, logits: Logits) -> None:
        """Take in the next call."""
        self.skip -= 1
        if self.count == 1 or self.skip >= 0:
            return
        log_probs = logits.float().log_softmax(1)
        self.log_sum = log_probs if self.log_sum is None else self.log_sum.logaddexp(log_probs)

    def logits(self, last: Logits) -> Logits:
        """Logarithm of the mean; the logits of the last call themselves if it alone counts."""
        return last if self.log_sum is None else self.log_sum - math.log(self.count)


def check_options(steps: int, eta: float, average_last: int, early_exit: float = 0.0) -> None:
    """Raise `InputError` if an option of `sample_mask` is out of range or contradicts another."""
    for name, value in (("eta", eta), ("early_exit", early_exit)):
        if not 0 <= value <= 1:
            raise InputError(f"{name} must be between 0 and 1, got {value}.")
    if not 1 <= average_last <= steps:
        raise InputError(
            f"average_last must be 1 to num_inference_steps = {steps}, got {average_last}."
        )
    if average_last > 1 and early_exit > 0:
        raise InputError(
            f"average_last = {average_last} needs early_exit = 0, got {early_exit}: the last calls "
            "are not known before the loop ends; leave one of them out."
        )


def check_order(order: Order, process: Process, eta: float) -> None:
    """Raise `InputError` if there is no such order, or this process or eta has none."""
    if order not in get_args(Order):
        raise InputError(f"order must be {' or '.join(get_args(Order))}, got {order!r}.")
    if order == "confident" and (eta > 0 or not isinstance(process, AbsorbingDiffusion)):
        raise InputError(
            "order confident needs the absorbing process, in which labels are masked, and eta = 0, "
            f"got {type(process).__name__} and {eta}; leave order at random."
        )
