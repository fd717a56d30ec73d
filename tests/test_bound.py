"""The variational bound against dense divergences and against a likelihood that is known."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from crispmask.diffusion.categorical import image_generators
from crispmask.diffusion.losses import negative_log_likelihood_bound, vlb
from crispmask.diffusion.mixed import Process
from crispmask.errors import InputError
from crispmask.shapes import IGNORE
from dense_processes import KINDS, dense_posterior, later_times, processes, shares, time
from toy_denoisers import K, best_denoiser, opinionated, oracle, rng, sure_of

every_process = pytest.mark.parametrize("process", [kind(K) for kind in KINDS])


# -- one step ------------------------------------------------------------------------------------


def dense_nats(
    process: Process, logits: Tensor, x_0: Tensor, x_t: Tensor, t: float, s: float
) -> Tensor:
    """Cost per pixel of one image, by dense matrices."""
    truth = torch.nn.functional.one_hot(x_0, process.num_classes).movedim(-1, 0).double()
    if s == 0:
        return -(logits.softmax(0).log() * truth).sum(0)
    q = dense_posterior(process, truth, x_t, t, s)
    p = dense_posterior(process, logits.softmax(0), x_t, t, s)
    return (q * (q / p).log()).where(q > 0, 0).sum(0)


@given(processes, st.integers(0, 2**32), later_times, shares)
def test_step_is_the_dense_divergence(process: Process, seed: int, t: float, share: float) -> None:
    """Three images: any step, another one, and the last, which is a cross-entropy."""
    k, generator = process.num_classes, rng(seed)
    x_0 = torch.randint(k, (3, 4, 5), generator=generator)
    t_b, s_b = [t, 0.6, t], [t * share, 0.5, 0.0]
    times, earlier = torch.cat([time(u) for u in t_b]), torch.cat([time(u) for u in s_b])
    x_t = process.forward(x_0, times, generator=generator)
    logits = 3 * torch.randn(3, k, 4, 5, generator=generator, dtype=torch.float64)
    known = torch.rand(3, 4, 5, generator=generator) < 0.7

    got = vlb(process, logits, x_0.where(known, IGNORE), x_t, times, earlier)

    each = [dense_nats(process, *image) for image in zip(logits, x_0, x_t, t_b, s_b, strict=True)]
    want = (torch.stack(each) * known).sum() / known.sum().clamp(min=1)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


@every_process
@pytest.mark.parametrize("s", [0.0, 0.3])
def test_step_costs_nothing_only_if_certain_and_right(process: Process, s: float) -> None:
    x_0 = torch.randint(K, (2, 6, 6), generator=rng())
    t = torch.tensor([0.5, 0.9])
    x_t = process.forward(x_0, t, generator=rng())
    right = vlb(process, sure_of(x_0), x_0, x_t, t, torch.full((2,), s))
    assert right.item() == pytest.approx(0, abs=1e-7)
    for logits in (torch.zeros(2, K, 6, 6), opinionated(x_t, t), sure_of((x_0 + 1) % K)):
        cost = vlb(process, logits, x_0, x_t, t, torch.full((2,), s))
        assert 0.01 < cost.item() < 300  # finite, however wrong


@every_process
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_of_a_step_is_finite_and_points_to_the_truth(
    process: Process, dtype: torch.dtype
) -> None:
    x_0 = torch.randint(K, (2, 6, 6), generator=rng())
    t, s = torch.tensor([1.0, 0.8]), torch.tensor([0.4, 0.0])
    x_t = process.forward(x_0, t, generator=rng())
    logits = (60 * torch.randn(2, K, 6, 6, generator=rng())).to(dtype).requires_grad_()
    cost = vlb(process, logits, x_0, x_t, t, s)
    gradient = torch.autograd.grad(cost, logits)[0].float()
    assert gradient.isfinite().all()
    at_truth = gradient.gather(1, x_0.unsqueeze(1))
    assert (at_truth <= 1e-6).all()
    assert (at_truth < -1e-6).any()


# -- the whole bound -----------------------------------------------------------------------------

PI = torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 8], dtype=torch.float64)
ENTROPY = 1.75  # bits


def pixels_with_frequencies(size: int) -> Tensor:
    """Independent pixels in which the frequencies are exactly `PI`."""
    labels = torch.arange(K).repeat_interleave((PI * size * size).long())
    return labels[torch.randperm(size * size, generator=rng())].view(1, size, size)


@every_process
@pytest.mark.parametrize("steps", [1, 3, 40])
def test_bound_of_the_best_denoiser_is_the_entropy(process: Process, steps: int) -> None:
    """Its reverse steps are those of the true chain, so that no gap is left at any length."""
    x_0 = pixels_with_frequencies(128)
    bits = negative_log_likelihood_bound(
        process, best_denoiser(process, PI), x_0, num_steps=steps, generator=rng()
    )
    assert bits.item() == pytest.approx(ENTROPY, abs=0.03)


@every_process
@pytest.mark.parametrize("steps", [1, 20])
def test_bound_of_a_worse_denoiser_is_higher(process: Process, steps: int) -> None:
    x_0, even = pixels_with_frequencies(128), torch.full_like(PI, 1 / K)
    for pi, least in [(even, math.log2(K)), (PI.flip(0), 2.4)]:
        bits = negative_log_likelihood_bound(
            process, best_denoiser(process, pi), x_0, num_steps=steps, generator=rng()
        )
        cross_entropy = -(PI * pi.log2()).sum().item()
        assert bits.item() == pytest.approx(cross_entropy, abs=0.05)
        assert bits.item() > least - 0.05 > ENTROPY


@every_process
def test_bound_of_a_denoiser_that_knows_the_mask_is_zero(process: Process) -> None:
    x_0 = pixels_with_frequencies(8)
    bits = negative_log_likelihood_bound(process, oracle(x_0), x_0, num_steps=5, generator=rng())
    assert bits.item() == pytest.approx(0, abs=1e-3)


@every_process
def test_bound_is_per_image_and_over_labelled_pixels(process: Process) -> None:
    x_0 = torch.randint(K, (3, 6, 7), generator=rng())
    x_0[0, :3] = IGNORE
    x_0[1] = IGNORE
    seen: list[float] = []

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        seen.append(t[0].item())
        return opinionated(x_t, t)

    def bits(rows: list[int]) -> Tensor:
        generators = image_generators(0, [str(row) for row in rows])
        return negative_log_likelihood_bound(
            process, denoise, x_0[rows], num_steps=4, generator=generators
        )

    together = bits([0, 1, 2])
    assert seen == [1, 0.75, 0.5, 0.25]
    assert together[1] == 0
    assert (together[[0, 2]] > 0.5).all()
    for row in range(3):
        torch.testing.assert_close(bits([row])[0], together[row], rtol=1e-5, atol=1e-6)


@every_process
def test_pixels_without_a_label_cost_nothing(process: Process) -> None:
    x_0 = torch.randint(K, (1, 8, 8), generator=rng())
    x_0[:, :, ::2] = IGNORE

    def bits(wrong: float) -> Tensor:
        void = (x_0 == IGNORE).unsqueeze(1)
        return negative_log_likelihood_bound(
            process,
            lambda x_t, t: torch.where(void, wrong * sure_of(x_t % K), opinionated(x_t, t)),
            x_0,
            num_steps=3,
            generator=rng(),
        )

    assert torch.equal(bits(1.0), bits(-1.0))


@every_process
@pytest.mark.parametrize("void", [0, 30])
def test_bits_are_per_labelled_pixel(process: Process, void: int) -> None:
    """One call that knows nothing costs log2 K for each pixel that has a label."""
    x_0 = torch.randint(K, (1, 6, 6), generator=rng())
    x_0.view(-1)[:void] = IGNORE
    bits = negative_log_likelihood_bound(
        process, lambda x_t, t: torch.zeros(1, K, 6, 6), x_0, num_steps=1, generator=rng()
    )
    assert bits.item() == pytest.approx(math.log2(K), abs=1e-3)


@pytest.mark.parametrize("steps", [0, 1001])
def test_number_of_steps_is_checked(steps: int) -> None:
    process, x_0 = KINDS[0](K), torch.zeros(1, 2, 2, dtype=torch.int64)
    with pytest.raises(InputError, match=f"num_steps must be 1 to 1000, got {steps}"):
        negative_log_likelihood_bound(process, opinionated, x_0, num_steps=steps)
