"""Processes against dense matrices in float64, and their draws against chi-square tests."""

from typing import Any

import pytest
import torch
from diffusers import DiscreteDDIMScheduler
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from crispmask.diffusion.categorical import (
    AbsorbingDiffusion,
    Process,
    UniformDiffusion,
    categorical_sample,
    image_generators,
)
from crispmask.diffusion.schedules import cosine, linear
from crispmask.errors import InputError
from crispmask.shapes import IGNORE

KINDS = [UniformDiffusion, AbsorbingDiffusion]
UNLIKELY = 1e-5  # p-value; the draws are seeded, so a test that passes keeps passing

schedules = st.sampled_from([linear, cosine])
processes = st.sampled_from(KINDS).flatmap(
    lambda kind: st.builds(kind, st.integers(2, 7), schedules)
)
later_times = st.floats(0.01, 1)
shares = st.floats(0, 0.98)
every_kind = pytest.mark.parametrize("kind", KINDS)


def time(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def kernel(process: Process, s: float | None, t: float) -> Tensor:
    """Dense ``q(x_t | x_s)``, one row per x_s; s = None is the clean mask. The slow reference."""
    a_s = torch.ones(1, dtype=torch.float64) if s is None else process.schedule(time(s))
    keep = process.schedule(time(t)) / a_s
    n = process.num_states
    replace = torch.zeros(n, n, dtype=torch.float64)
    if isinstance(process, UniformDiffusion):
        replace[:] = 1 / n
    else:
        replace[:, -1] = 1
    return keep * torch.eye(n, dtype=torch.float64) + (1 - keep) * replace


def bayes(process: Process, t: float, s: float) -> Tensor:
    """Dense ``q(x_s | x_t, x_0)`` with axes x_0, x_s, x_t; zero where ``q(x_t | x_0)`` is zero."""
    joint = kernel(process, None, s)[:, :, None] * kernel(process, s, t)[None]
    return (joint / joint.sum(1, keepdim=True)).nan_to_num(0)


def counts(x: Tensor, num_states: int) -> Any:
    return torch.bincount(x.flatten(), minlength=num_states).numpy()


def assert_drawn_from(x: Tensor, probs: Tensor) -> None:
    """Chi-square test; states too rare for it must be rare, and impossible ones absent."""
    seen, expected = counts(x, len(probs)), probs.numpy() * x.numel()
    assert seen[expected == 0].sum() == 0
    assert seen[expected < 5].sum() < 50
    common = expected >= 5
    if common.sum() > 1:
        expected = expected[common] * seen[common].sum() / expected[common].sum()
        assert chisquare(seen[common], expected).pvalue > UNLIKELY


# -- distributions -------------------------------------------------------------------------------


@given(processes, st.integers(0, 2**32), later_times, shares)
def test_posterior_is_bayes_rule(process: Process, seed: int, t: float, share: float) -> None:
    s, rng = t * share, torch.Generator().manual_seed(seed)
    x_t = torch.randint(process.num_states, (1, 4, 5), generator=rng)
    p_0 = torch.rand(1, process.num_classes, 4, 5, generator=rng, dtype=torch.float64)
    p_0 = p_0 / p_0.sum(1, keepdim=True)

    got = process.posterior(p_0, x_t, time(t), time(s))[0]

    given_x_0 = bayes(process, t, s)[: process.num_classes, :, x_t[0]]  # x_0 x_s h w
    want = torch.einsum("kshw,khw->shw", given_x_0, p_0[0])
    if isinstance(process, AbsorbingDiffusion):  # an unmasked pixel excludes all other x_0
        label = torch.nn.functional.one_hot(x_t[0], process.num_states).movedim(-1, 0)
        want = torch.where(x_t == process.num_classes, want, label)
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


# -- draws ---------------------------------------------------------------------------------------


@hypothesis_settings(max_examples=25)
@given(processes, st.integers(0, 2**32), st.floats(0, 1))
def test_forward_draws_follow_q(process: Process, seed: int, t: float) -> None:
    x_0 = torch.ones(1, 100, 100, dtype=torch.int64)
    rng = torch.Generator().manual_seed(seed)
    x_t = process.forward(x_0, torch.tensor([t]), generator=rng)
    assert_drawn_from(x_t, kernel(process, None, t)[1])


@hypothesis_settings(max_examples=25)
@given(processes, st.integers(0, 2**32), later_times, shares)
def test_jump_continues_the_chain(process: Process, seed: int, t: float, share: float) -> None:
    """Chapman-Kolmogorov forwards: to s and then to t is the same as to t at once."""
    rng = torch.Generator().manual_seed(seed)
    start, s = torch.ones(1, 100, 100, dtype=torch.int64), torch.tensor([t * share])
    x_s = process.forward(start, s, generator=rng)
    x_t = process.jump(x_s, s, torch.tensor([t]), generator=rng)
    assert_drawn_from(x_t, kernel(process, None, t)[1])


@hypothesis_settings(max_examples=25)
@given(processes, st.integers(0, 2**32), later_times, shares)
def test_posterior_draws_follow_bayes_rule(
    process: Process, seed: int, t: float, share: float
) -> None:
    rng, last = torch.Generator().manual_seed(seed), process.num_states - 1
    for x_0, x_t in [(0, 0), (0, last)]:
        got = process.posterior_sample(
            torch.full((1, 100, 100), x_0),
            torch.full((1, 100, 100), x_t),
            torch.tensor([t]),
            torch.tensor([t * share]),
            generator=rng,
        )
        assert_drawn_from(got, bayes(process, t, t * share)[x_0, :, x_t])


def test_categorical_draws_follow_the_probabilities() -> None:
    probs = torch.tensor([0.0, 0.5, 0.0, 0.2, 0.3, 0.0])
    x = categorical_sample(
        probs.view(1, -1, 1, 1).expand(1, -1, 200, 200), generator=torch.Generator().manual_seed(0)
    )
    assert_drawn_from(x, probs.double())


def test_posterior_agrees_with_diffusers() -> None:
    """Its schedule is ``1 - t`` and its time an index; all pairs of labels, three jumps."""
    k, steps, draws = 4, 4, 4000
    process = UniformDiffusion(k, schedule=lambda t: 1 - t)
    oracle: Any = DiscreteDDIMScheduler(steps)  # type: ignore[no-untyped-call]
    rng = torch.Generator().manual_seed(0)
    x_0 = torch.arange(k).repeat_interleave(k).expand(draws, 1, -1)
    x_t = torch.arange(k).repeat(k).expand(draws, 1, -1)
    for index in range(steps):
        logits = 50.0 * torch.nn.functional.one_hot(x_0.flatten(1), k)
        theirs = oracle.step(logits, index, x_t.flatten(1), generator=rng).prev_sample
        t, s = (torch.full((draws,), 1 - i / steps) for i in (index, index + 1))
        ours = process.posterior_sample(x_0, x_t, t, s, generator=rng).flatten(1)
        for pair in range(k * k):
            table = torch.stack([ours[:, pair], theirs[:, pair]])
            seen = [counts(row, k) for row in table]
            used = (seen[0] + seen[1]) > 0
            if used.sum() > 1:
                assert chi2_contingency([row[used] for row in seen]).pvalue > UNLIKELY
            else:
                assert index == steps - 1  # the last step goes to the clean mask


# -- ends, void, generators ----------------------------------------------------------------------


@every_kind
def test_time_one_is_the_prior_and_time_zero_the_mask(kind: type[Process]) -> None:
    process, rng = kind(5), torch.Generator().manual_seed(0)
    x_0 = torch.full((1, 200, 200), 2)
    prior = process.prior((1, 200, 200), generator=rng)
    at_one = process.forward(x_0, torch.ones(1), generator=rng)
    if isinstance(process, UniformDiffusion):
        for x in (prior, at_one):
            assert_drawn_from(x, torch.full((5,), 0.2, dtype=torch.float64))
    else:
        assert (prior == 5).all()
        assert (at_one != 5).sum() <= 3  # survives with probability 9e-6
    assert (process.forward(x_0, torch.zeros(1), generator=rng) != x_0).sum() <= 3


@every_kind
def test_each_image_has_its_own_time(kind: type[Process]) -> None:
    x_0 = torch.ones(2, 50, 50, dtype=torch.int64)
    x_t = kind(5).forward(x_0, torch.tensor([0.0, 1.0]), generator=torch.Generator().manual_seed(0))
    assert (x_t[0] == 1).float().mean() > 0.99
    assert (x_t[1] == 1).float().mean() < 0.3


@pytest.mark.parametrize("t", [0.0, 0.5, 1.0])
def test_a_pixel_without_label_becomes_noise_at_any_time(t: float) -> None:
    void, times = torch.full((1, 100, 100), IGNORE), torch.tensor([t])
    rng = torch.Generator().manual_seed(0)
    uniform = UniformDiffusion(4).forward(void, times, generator=rng)
    assert_drawn_from(uniform, torch.full((4,), 0.25, dtype=torch.float64))
    assert (AbsorbingDiffusion(4).forward(void, times, generator=rng) == 4).all()


@every_kind
def test_an_image_depends_on_its_own_generator_only(kind: type[Process]) -> None:
    process, names = kind(6), ["a", "b", "c"]
    rng = torch.Generator().manual_seed(0)
    x_0 = torch.randint(6, (3, 7, 9), generator=rng)
    t, s = torch.tensor([0.3, 0.6, 0.9]), torch.tensor([0.1, 0.4, 0.5])

    def run(rows: list[int]) -> list[Tensor]:
        generators = image_generators(0, [names[i] for i in rows])
        prior = process.prior((len(rows), 7, 9), generator=generators)
        x_s = process.forward(x_0[rows], s[rows], generator=generators)
        x_t = process.jump(x_s, s[rows], t[rows], generator=generators)
        back = process.posterior_sample(x_0[rows], x_t, t[rows], s[rows], generator=generators)
        return [prior, x_s, x_t, back]

    for row in range(3):
        for together, alone in zip(run([2, 0, 1]), run([row]), strict=True):
            assert torch.equal(together[[2, 0, 1].index(row)], alone[0])


def test_generators_follow_seed_and_name() -> None:
    def first(seed: int, name: str) -> float:
        return torch.rand(1, generator=image_generators(seed, [name])[0]).item()

    assert first(0, "a") == first(0, "a")
    assert len({first(0, "a"), first(0, "b"), first(1, "a"), first(1, "b")}) == 4


@every_kind
def test_a_given_generator_leaves_the_global_one_alone(kind: type[Process]) -> None:
    before = torch.get_rng_state()
    kind(3).forward(
        torch.zeros(1, 2, 2, dtype=torch.int64), torch.ones(1), generator=torch.Generator()
    )
    assert torch.equal(torch.get_rng_state(), before)


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the size of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.numel = max([self.numel, *sizes])
        return result


@every_kind
def test_draws_need_memory_for_pixels_only(kind: type[Process]) -> None:
    process, x, t = kind(200), torch.zeros(2, 8, 8, dtype=torch.int64), torch.ones(2)
    with LargestTensor() as largest:  # type: ignore[no-untyped-call]
        process.forward(x, t)
        process.jump(x, t / 2, t)
        process.posterior_sample(x, x, t, t / 2)
    assert largest.numel == x.numel()


# -- messages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [0, 1, 256])
def test_number_of_classes_is_checked(num_classes: int) -> None:
    with pytest.raises(InputError, match=f"2 to 255 classes, got {num_classes}"):
        UniformDiffusion(num_classes)


def test_the_mask_state_is_not_the_ignore_label() -> None:
    assert AbsorbingDiffusion(254).num_states == 255
    with pytest.raises(InputError, match="2 to 254 classes, got 255"):
        AbsorbingDiffusion(255)


def test_number_of_generators_is_checked() -> None:
    with pytest.raises(InputError, match="got 1 generators for 2 images"):
        UniformDiffusion(3).prior((2, 4, 4), generator=image_generators(0, ["a"]))
