"""Processes as dense matrices in float64, the slow reference, and chi-square tests of draws."""

from typing import Any

import torch
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from crispmask.diffusion.categorical import AbsorbingDiffusion, UniformDiffusion
from crispmask.diffusion.mixed import MixedDiffusion, Process
from crispmask.diffusion.schedules import cosine, linear

KINDS: list[type[Process]] = [UniformDiffusion, AbsorbingDiffusion, MixedDiffusion]
UNLIKELY = 1e-5  # p-value; the draws are seeded, so a test that passes keeps passing

schedules = st.sampled_from([linear, cosine])
mixed_processes = st.builds(MixedDiffusion, st.integers(2, 7), schedules, st.floats(0.02, 0.98))
processes = st.one_of(
    st.builds(UniformDiffusion, st.integers(2, 7), schedules),
    st.builds(AbsorbingDiffusion, st.integers(2, 7), schedules),
    mixed_processes,
)
later_times = st.floats(0.01, 1)
shares = st.floats(0, 0.98)


def time(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def mask_share(process: Process) -> float:
    """Share of the lost labels that the process masks."""
    if isinstance(process, MixedDiffusion):
        return process.mask_share
    return 1.0 if isinstance(process, AbsorbingDiffusion) else 0.0


def noise(process: Process) -> Tensor:
    """Distribution of a state about which nothing is known."""
    k, share = process.num_classes, mask_share(process)
    return torch.tensor([(1 - share) / k] * k + [share], dtype=torch.float64)[: process.num_states]


def kernel(process: Process, s: float | None, t: float) -> Tensor:
    """Dense ``q(x_t | x_s)``, one row per x_s; s = None is the clean mask.

    A matrix of D3PM: the label stays, is masked, or becomes any label; a masked pixel stays.
    """
    a_s = torch.ones(1, dtype=torch.float64) if s is None else process.schedule(time(s))
    a_t = process.schedule(time(t))
    k, stay = process.num_classes, a_t / a_s
    if isinstance(process, UniformDiffusion):
        return stay * torch.eye(k, dtype=torch.float64) + (1 - stay) / k
    share = mask_share(process)
    masked_s, masked_t = share * (1 - a_s), share * (1 - a_t)
    mask = (masked_t - masked_s) / (1 - masked_s)  # the share is of all labels lost until then
    dense = torch.zeros(k + 1, k + 1, dtype=torch.float64)
    dense[:k, :k] = stay * torch.eye(k, dtype=torch.float64)
    if isinstance(process, MixedDiffusion):
        dense[:k, :k] += (1 - stay - mask) / k
    dense[:k, k] = mask
    dense[k, k] = 1
    return dense


def bayes(process: Process, t: float, s: float) -> Tensor:
    """Dense ``q(x_s | x_t, x_0)`` with axes x_0, x_s, x_t; zero where ``q(x_t | x_0)`` is zero."""
    joint = kernel(process, None, s)[:, :, None] * kernel(process, s, t)[None]
    return (joint / joint.sum(1, keepdim=True)).nan_to_num(0)


def dense_posterior(process: Process, p_0: Tensor, x_t: Tensor, t: float, s: float) -> Tensor:
    """Dense ``sum_x0 q(x_s | x_t, x_0) p_0(x_0)`` for one image: k h w and h w to x_s h w."""
    given_x_0 = bayes(process, t, s)[: process.num_classes, :, x_t]  # x_0 x_s h w
    p_s = torch.einsum("kshw,khw->shw", given_x_0, p_0)
    if isinstance(process, AbsorbingDiffusion):  # an unmasked pixel excludes all other x_0
        label = torch.nn.functional.one_hot(x_t, process.num_states).movedim(-1, 0)
        p_s = torch.where(x_t == process.num_classes, p_s, label)
    return p_s


def counts(x: Tensor, num_states: int) -> Any:
    return torch.bincount(x.flatten(), minlength=num_states).numpy()


def assert_drawn_from(x: Tensor, probs: Tensor) -> None:
    """Chi-square test; states too rare for it must be rare, and impossible ones absent."""
    seen, expected = counts(x, len(probs)), probs.double().numpy() * x.numel()
    assert seen[expected == 0].sum() == 0
    assert seen[expected < 5].sum() < 50
    common = expected >= 5
    if common.sum() > 1:
        expected = expected[common] * seen[common].sum() / expected[common].sum()
        assert chisquare(seen[common], expected).pvalue > UNLIKELY
