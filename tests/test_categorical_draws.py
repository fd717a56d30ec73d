"""Draws of the processes: chi-square tests against dense matrices, generators, memory."""

from typing import Any

import pytest
import torch
from diffusers import DiscreteDDIMScheduler
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from crispmask.diffusion.categorical import (
    UniformDiffusion,
    categorical_sample,
    image_generators,
)
from crispmask.diffusion.mixed import Process
from dense_processes import (
    KINDS,
    UNLIKELY,
    assert_drawn_from,
    bayes,
    counts,
    kernel,
    later_times,
    processes,
    shares,
)

every_kind = pytest.mark.parametrize("kind", KINDS)


# -- distributions -------------------------------------------------------------------------------


@hypothesis_settings(max_examples=30)
@given(processes, st.integers(0, 2**32), st.floats(0, 1))
def test_forward_draws_follow_q(process: Process, seed: int, t: float) -> None:
    x_0 = torch.ones(1, 100, 100, dtype=torch.int64)
    rng = torch.Generator().manual_seed(seed)
    x_t = process.forward(x_0, torch.tensor([t]), generator=rng)
    assert_drawn_from(x_t, kernel(process, None, t)[1])


@hypothesis_settings(max_examples=30)
@given(processes, st.integers(0, 2**32), later_times, shares)
def test_jump_draws_follow_the_kernel(process: Process, seed: int, t: float, share: float) -> None:
    rng, s = torch.Generator().manual_seed(seed), t * share
    for state in (0, process.num_states - 1):
        x_s = torch.full((1, 100, 100), state)
        x_t = process.jump(x_s, torch.tensor([s]), torch.tensor([t]), generator=rng)
        assert_drawn_from(x_t, kernel(process, s, t)[state])


@hypothesis_settings(max_examples=30)
@given(processes, st.integers(0, 2**32), later_times, shares)
def test_jump_continues_the_chain(process: Process, seed: int, t: float, share: float) -> None:
    """Chapman-Kolmogorov forwards: to s and then to t is the same as to t at once."""
    rng = torch.Generator().manual_seed(seed)
    start, s = torch.ones(1, 100, 100, dtype=torch.int64), torch.tensor([t * share])
    x_s = process.forward(start, s, generator=rng)
    x_t = process.jump(x_s, s, torch.tensor([t]), generator=rng)
    assert_drawn_from(x_t, kernel(process, None, t)[1])


@hypothesis_settings(max_examples=30)
@given(processes, st.integers(0, 2**32), later_times, shares)
def test_posterior_draws_follow_bayes_rule(
    process: Process, seed: int, t: float, share: float
) -> None:
    rng, last = torch.Generator().manual_seed(seed), process.num_states - 1
    possible = kernel(process, None, t)[0] > 0
    for x_0, x_t in [(0, 0), (0, 1), (0, last)]:
        if possible[x_t]:
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
    assert_drawn_from(x, probs)


def test_posterior_agrees_with_diffusers() -> None:
    """Its schedule is ``1 - t`` and its time an index; all pairs of labels, three jumps."""
    k, steps, draws = 4, 4, 4000
    process = UniformDiffusion(k, schedule=lambda t: 1 - t)
    oracle: Any = DiscreteDDIMScheduler(steps)
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


# -- generators, memory ---------------------------------------------------------------------------


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
