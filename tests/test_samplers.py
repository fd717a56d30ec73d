"""The reverse family: call counts, its two limits and what lies between, chains, guidance."""

from typing import Any, get_args

import pytest
import torch
from diffusers import DiscreteDDIMScheduler
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency
from torch import Tensor

from crispmask.diffusion.categorical import (
    AbsorbingDiffusion,
    UniformDiffusion,
    categorical_sample,
)
from crispmask.diffusion.mixed import Process
from crispmask.diffusion.samplers import Estimate, guided, reverse_step, sample_mask, timesteps
from dense_processes import KINDS, UNLIKELY, assert_drawn_from, counts, processes
from toy_denoisers import K, best_denoiser, opinionated, rng, sure_of

ESTIMATES: tuple[Estimate, ...] = get_args(Estimate)

every_process = pytest.mark.parametrize("process", [kind(K) for kind in KINDS])
every_estimate = pytest.mark.parametrize("estimate", ESTIMATES)
every_eta = pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])


def assert_same_distribution(x: Tensor, y: Tensor) -> None:
    seen = [counts(x, K + 1), counts(y, K + 1)]
    used = (seen[0] + seen[1]) > 0
    assert chi2_contingency([row[used] for row in seen]).pvalue > UNLIKELY


# -- calls ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 7, 15, 20, 100])
def test_the_denoiser_runs_exactly_as_often_as_asked(steps: int) -> None:
    seen: list[float] = []

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        seen.append(t.mean().item())
        return sure_of(torch.zeros_like(x_t))

    process = UniformDiffusion(K)
    out = sample_mask(process, denoise, process.prior((2, 3, 3)), num_inference_steps=steps)

    assert out.num_calls == len(seen) == steps
    assert seen == pytest.approx(timesteps(steps))


def test_times_start_at_one_and_never_reach_zero() -> None:
    assert timesteps(1) == [1]
    assert timesteps(4) == [1, 0.75, 0.5, 0.25]


def test_trace_holds_the_prediction_of_each_call() -> None:
    process = UniformDiffusion(K)
    start = process.prior((1, 8, 8), generator=rng())
    traced, plain = (
        sample_mask(
            process,
            opinionated,
            start,
            num_inference_steps=4,
            generator=rng(),
            keep_trace=keep_trace,
        )
        for keep_trace in (True, False)
    )
    assert len(traced.trace) == 4
    assert torch.equal(traced.trace[0], opinionated(start, torch.ones(1)).argmax(1))
    assert torch.equal(traced.trace[-1], traced.logits.argmax(1))
    assert plain.trace == ()
    assert torch.equal(plain.logits, traced.logits)


# -- the reverse step ----------------------------------------------------------------------------


@every_process
@every_estimate
@every_eta
def test_with_the_true_mask_every_state_has_the_right_marginal(
    process: Process, estimate: Estimate, eta: float
) -> None:
    """x_s is distributed as ``q(x_s | x_0)`` at every step of the loop, for every member."""
    x_0, states = torch.ones(1, 120, 120, dtype=torch.int64), []

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        states.append((x_t, t))
        return sure_of(x_0)

    start = process.forward(x_0, torch.ones(1), generator=rng(1))
    out = sample_mask(
        process,
        denoise,
        start,
        num_inference_steps=5,
        eta=eta,
        estimate=estimate,
        generator=rng(2),
    )

    certain = torch.nn.functional.one_hot(torch.ones(1, 1, 1, dtype=torch.int64), K).double()
    for x_s, s in states[1:]:
        assert_drawn_from(x_s, process.marginal(certain.movedim(-1, 1), s.double())[0, :, 0, 0])
    assert torch.equal(out.logits.argmax(1), x_0)


@every_process
@every_estimate
@every_eta
def test_step_mixes_renoising_and_the_exact_posterior(
    process: Process, estimate: Estimate, eta: float
) -> None:
    """The limits are eta = 0 and 1; between them the distribution is the weighted average."""
    t, s, shape = torch.tensor([0.7]), torch.tensor([0.4]), (1, 120, 120)
    logits = torch.tensor([0.3, 1.2, -0.5, 0.8]).view(1, K, 1, 1).expand(1, K, *shape[1:])
    p_0 = logits[:, :, :1, :1].softmax(1)
    if estimate == "argmax":
        p_0 = sure_of(torch.ones(1, 1, 1, dtype=torch.int64)).softmax(1)
    for state in range(process.num_states):
        x_t = torch.full(shape, state)
        x_s = reverse_step(
            process, logits, x_t, t, s, eta=eta, estimate=estimate, generator=rng(state)
        )
        here = x_t[:, :1, :1]
        ancestral, renoised = process.posterior(p_0, here, t, s), process.marginal(p_0, s)
        assert_drawn_from(x_s, (eta * ancestral + (1 - eta) * renoised)[0, :, 0, 0])


@every_process
def test_renoising_forgets_the_state_and_the_ancestral_step_does_not(process: Process) -> None:
    t, s, start = torch.tensor([0.5]), torch.tensor([0.4]), torch.full((1, 60, 60), 2)
    logits = sure_of(torch.ones_like(start))
    forgetful, exact = (
        reverse_step(process, logits, start, t, s, eta=eta, estimate="argmax", generator=rng())
        for eta in (0.0, 1.0)
    )
    if isinstance(process, AbsorbingDiffusion):
        assert torch.equal(exact, start)  # an unmasked pixel stays
        assert not (forgetful == 2).any()
    else:
        assert (exact == 2).sum() > 2 * (forgetful == 2).sum()


@every_process
@every_eta
def test_soft_and_drawn_estimates_have_one_distribution(process: Process, eta: float) -> None:
    start = process.prior((1, 150, 150), generator=rng())
    drawn, soft = (
        sample_mask(
            process,
            opinionated,
            start,
            num_inference_steps=4,
            eta=eta,
            estimate=estimate,
            generator=rng(seed),
        )
        for seed, estimate in [(1, ESTIMATES[1]), (2, ESTIMATES[2])]
    )
    assert_same_distribution(drawn.logits.argmax(1), soft.logits.argmax(1))


@pytest.mark.parametrize(("estimate", "temperature"), [("argmax", 0.0), ("sample", 1.0)])
def test_ancestral_chain_agrees_with_diffusers(estimate: Estimate, temperature: float) -> None:
    """Same denoiser, flattened masks, schedule ``1 - t``: the states before the last call."""
    shape, steps = (1, 150, 150), 6
    process = UniformDiffusion(K, schedule=lambda t: 1 - t)
    scheduler: Any = DiscreteDDIMScheduler(steps)
    start = process.prior(shape, generator=rng())

    theirs, generator = start, rng(1)
    for index in range(steps - 1):
        logits = opinionated(theirs, torch.full((1,), 1 - index / steps))
        flat = scheduler.step(
            logits.movedim(1, -1).flatten(1, 2),
            index,
            theirs.flatten(1),
            temperature=temperature,
            generator=generator,
        ).prev_sample
        theirs = flat.view(shape)

    states: list[Tensor] = []

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        states.append(x_t)
        return opinionated(x_t, t)

    sample_mask(
        process,
        denoise,
        start,
        num_inference_steps=steps,
        eta=1.0,
        estimate=estimate,
        generator=rng(2),
    )
    assert counts(theirs, K).std() > 500  # uniform labels have 65
    assert_same_distribution(states[-1], theirs)


@hypothesis_settings(max_examples=40)
@given(processes, st.integers(0, 2**32), st.integers(1, 6), st.sampled_from(["sample", "soft"]))
def test_ancestral_chain_from_noise_ends_in_the_right_frequencies(
    process: Process, seed: int, steps: int, estimate: Estimate
) -> None:
    """Exact steps with the true ``p(x_0 | x_t)`` have no error of discretisation."""
    generator = rng(seed)
    pi = torch.rand(process.num_classes, generator=generator, dtype=torch.float64) + 0.02
    pi = pi / pi.sum()
    out = sample_mask(
        process,
        best_denoiser(process, pi),
        process.prior((1, 100, 100), generator=generator),
        num_inference_steps=steps,
        eta=1.0,
        estimate=estimate,
        generator=generator,
    )
    assert_drawn_from(categorical_sample(out.logits.softmax(1), generator=generator), pi)


# -- guidance -------------------------------------------------------------------------------------


def test_guidance_scale() -> None:
    cond, uncond = torch.randn(2, 1, K, 3, 3, generator=rng()).unbind()
    x_t, t = torch.zeros(1, 3, 3, dtype=torch.int64), torch.ones(1)
    at = {s: guided(lambda x, t: (cond, uncond), s)(x_t, t) for s in (0.0, 1.0, 1.0001, 2.0)}
    assert torch.equal(at[1.0], cond)  # off
    assert torch.equal(at[0.0], uncond)
    torch.testing.assert_close(at[2.0], 2 * cond - uncond)
    torch.testing.assert_close(at[1.0001], cond, rtol=0, atol=1e-3)  # no jump beside "off"
