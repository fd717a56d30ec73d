"""Processes against dense matrices in float64: their distributions, their ends, their messages."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from crispmask.diffusion.categorical import (
    AbsorbingDiffusion,
    UniformDiffusion,
    image_generators,
)
from crispmask.diffusion.mixed import MixedDiffusion, Process
from crispmask.errors import InputError
from crispmask.shapes import IGNORE
from dense_processes import (
    KINDS,
    assert_drawn_from,
    dense_posterior,
    kernel,
    later_times,
    mixed_processes,
    noise,
    processes,
    shares,
    time,
)

every_kind = pytest.mark.parametrize("kind", KINDS)


# -- distributions -------------------------------------------------------------------------------


@given(processes, st.integers(0, 2**32), later_times, shares)
def test_posterior_is_bayes_rule(process: Process, seed: int, t: float, share: float) -> None:
    s, rng = t * share, torch.Generator().manual_seed(seed)
    x_t = torch.randint(process.num_states, (1, 4, 5), generator=rng)
    p_0 = torch.rand(1, process.num_classes, 4, 5, generator=rng, dtype=torch.float64)
    p_0 = p_0 / p_0.sum(1, keepdim=True)

    got = process.posterior(p_0, x_t, time(t), time(s))[0]

    want = dense_posterior(process, p_0[0], x_t[0], t, s)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(got.sum(0), torch.ones_like(got[0]), rtol=0, atol=1e-12)


@given(processes, st.integers(0, 2**32), st.floats(0, 1))
def test_marginal_is_the_dense_product(process: Process, seed: int, t: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    p_0 = torch.rand(1, process.num_classes, 2, 3, generator=rng, dtype=torch.float64).softmax(1)
    dense = kernel(process, None, t)[: process.num_classes]
    want = torch.einsum("bkhw,ks->bshw", p_0, dense)
    torch.testing.assert_close(process.marginal(p_0, time(t)), want, rtol=0, atol=1e-14)


def certain(process: Process, x_0: int, x_t: Tensor) -> Tensor:
    """Probabilities that are sure of one class, for each pixel of x_t."""
    p_0 = torch.zeros(1, process.num_classes, *x_t.shape[1:], dtype=torch.float64)
    p_0[:, x_0] = 1
    return p_0


@given(processes, later_times, shares, shares)
def test_two_reverse_jumps_equal_one(
    process: Process, t: float, share: float, share_of_s: float
) -> None:
    """Chapman-Kolmogorov backwards: ``sum_s q(r|s,0) q(s|t,0) = q(r|t,0)``."""
    s, r = t * share, t * share * share_of_s
    states = torch.arange(process.num_states).view(1, 1, -1)
    seen = kernel(process, None, t)[0] > 0  # states that are possible at t when x_0 = 0
    p_0 = certain(process, 0, states)

    t_to_s = process.posterior(p_0, states, time(t), time(s))[0, :, 0]  # x_s x_t
    s_to_r = process.posterior(p_0, states, time(s), time(r))[0, :, 0]  # x_r x_s
    t_to_r = process.posterior(p_0, states, time(t), time(r))[0, :, 0]

    torch.testing.assert_close((s_to_r @ t_to_s)[:, seen], t_to_r[:, seen], rtol=0, atol=1e-9)


@given(processes, later_times, shares)
def test_reverse_step_undoes_the_forward_process(process: Process, t: float, share: float) -> None:
    states = torch.arange(process.num_states).view(1, 1, -1)
    s, p_0 = t * share, certain(process, 0, states)
    t_to_s = process.posterior(p_0, states, time(t), time(s))[0, :, 0]
    want = kernel(process, None, s)[0]
    torch.testing.assert_close(t_to_s @ kernel(process, None, t)[0], want, rtol=0, atol=1e-12)


@given(mixed_processes, later_times, shares)
def test_masking_and_replacing_is_a_chain(process: MixedDiffusion, t: float, share: float) -> None:
    """Between any two times no probability is negative, and the jumps compose."""
    to_s, s_to_t = kernel(process, None, t * share), kernel(process, t * share, t)
    assert (s_to_t >= 0).all()
    torch.testing.assert_close(to_s @ s_to_t, kernel(process, None, t), rtol=0, atol=1e-12)
    masked = process.mask_share * (1 - process.schedule(time(t)))
    torch.testing.assert_close(kernel(process, None, t)[0, -1:], masked, rtol=0, atol=1e-12)


# -- ends, void ----------------------------------------------------------------------------------


@every_kind
def test_time_one_is_the_prior_and_time_zero_the_mask(kind: type[Process]) -> None:
    process, rng = kind(5), torch.Generator().manual_seed(0)
    x_0 = torch.full((1, 200, 200), 2)
    assert_drawn_from(process.prior((1, 200, 200), generator=rng), noise(process))
    at_one = process.forward(x_0, torch.ones(1), generator=rng)
    if isinstance(process, AbsorbingDiffusion):
        assert (at_one != 5).sum() <= 3  # survives with probability 9e-6
    else:
        assert_drawn_from(at_one, noise(process))
    assert (process.forward(x_0, torch.zeros(1), generator=rng) != x_0).sum() <= 3


def test_the_mask_share_is_of_the_lost_labels() -> None:
    process, rng = MixedDiffusion(4, mask_share=0.9), torch.Generator().manual_seed(0)
    assert_drawn_from(process.prior((1, 200, 200), generator=rng), noise(process))
    x_t = process.forward(torch.zeros(1, 300, 300).long(), torch.tensor([0.5]), generator=rng)
    assert (x_t == 4).double().mean().item() == pytest.approx(0.9 * 0.5, abs=0.01)
    assert (x_t == 0).double().mean().item() == pytest.approx(0.5 + 0.1 * 0.5 / 4, abs=0.01)


@every_kind
def test_each_image_has_its_own_time(kind: type[Process]) -> None:
    x_0 = torch.ones(2, 50, 50, dtype=torch.int64)
    x_t = kind(5).forward(x_0, torch.tensor([0.0, 1.0]), generator=torch.Generator().manual_seed(0))
    assert (x_t[0] == 1).float().mean() > 0.99
    assert (x_t[1] == 1).float().mean() < 0.3


@every_kind
@pytest.mark.parametrize("t", [0.0, 0.5, 1.0])
def test_a_pixel_without_label_becomes_noise_at_any_time(kind: type[Process], t: float) -> None:
    process, rng = kind(4), torch.Generator().manual_seed(0)
    void = torch.full((1, 100, 100), IGNORE)
    x_t = process.forward(void, torch.tensor([t]), generator=rng)
    assert_drawn_from(x_t, noise(process))


# -- messages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [0, 1, 256])
def test_number_of_classes_is_checked(num_classes: int) -> None:
    with pytest.raises(InputError, match=f"2 to 255 classes, got {num_classes}"):
        UniformDiffusion(num_classes)


@pytest.mark.parametrize("kind", [AbsorbingDiffusion, MixedDiffusion])
def test_the_mask_state_is_not_the_ignore_label(kind: type[Process]) -> None:
    assert kind(254).num_states == 255
    with pytest.raises(InputError, match="2 to 254 classes, got 255"):
        kind(255)


@pytest.mark.parametrize("share", [-0.1, 0.0, 1.0, float("nan")])
def test_the_mask_share_is_checked(share: float) -> None:
    with pytest.raises(InputError, match=f"mask_share must be above 0 and below 1, got {share}"):
        MixedDiffusion(3, mask_share=share)


def test_number_of_generators_is_checked() -> None:
    with pytest.raises(InputError, match="got 1 generators for 2 images"):
        UniformDiffusion(3).prior((2, 4, 4), generator=image_generators(0, ["a"]))
