"""Options of the sampler: start, average, early exit; independence of the batch."""

import weakref
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from crispmask.diffusion.categorical import (
    AbsorbingDiffusion,
    UniformDiffusion,
    image_generators,
)
from crispmask.diffusion.mixed import Process
from crispmask.diffusion.samplers import (
    Estimate,
    MaskSample,
    sample_mask,
    timesteps,
)
from crispmask.errors import InputError
from dense_processes import KINDS
from toy_denoisers import K, opinionated, oracle, rng, sure_of

every_process = pytest.mark.parametrize("process", [kind(K) for kind in KINDS])
every_estimate = pytest.mark.parametrize("estimate", get_args(Estimate))


# -- start ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("start_time", [0.01, 0.8, 1.0])
def test_calls_run_from_the_start_time_towards_zero(start_time: float) -> None:
    seen: list[float] = []

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        seen.extend(t.tolist())
        return opinionated(x_t, t)

    process = UniformDiffusion(K)
    start = process.prior((1, 3, 3), generator=rng())
    sample_mask(process, denoise, start, num_inference_steps=4, start_time=start_time)
    assert seen == pytest.approx([start_time * share for share in (1, 0.75, 0.5, 0.25)])
    assert timesteps(4, start_time=1.0) == timesteps(4)


@every_process
def test_a_noised_mask_replaces_the_first_call(process: Process) -> None:
    """N calls from N / (N + 1) are the last of N + 1 calls whose first gives that mask."""
    guess = torch.randint(K, (1, 12, 12), generator=rng(3))

    def with_guess(x_t: Tensor, t: Tensor) -> Tensor:
        return sure_of(guess) if t == 1 else opinionated(x_t, t)

    whole = sample_mask(
        process,
        with_guess,
        process.prior((1, 12, 12), generator=rng(4)),
        num_inference_steps=5,
        generator=rng(),
    )
    generator, t = rng(), 4 / 5
    short = sample_mask(
        process,
        opinionated,
        process.forward(guess, torch.tensor([t]), generator=generator),
        num_inference_steps=4,
        start_time=t,
        generator=generator,
    )
    assert (whole.num_calls, short.num_calls) == (5, 4)
    torch.testing.assert_close(short.logits, whole.logits, rtol=0, atol=1e-6)


# -- average -------------------------------------------------------------------------------------


def recorded(average_last: int, steps: int = 5) -> tuple[MaskSample, list[Tensor]]:
    """A run, and the logits of each call."""
    calls: list[Tensor] = []

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        calls.append(opinionated(x_t, t))
        return calls[-1]

    process = UniformDiffusion(K)
    out = sample_mask(
        process,
        denoise,
        process.prior((2, 7, 6), generator=rng()),
        num_inference_steps=steps,
        average_last=average_last,
        generator=rng(1),
        keep_trace=True,
    )
    return out, calls


@pytest.mark.parametrize("count", [2, 3, 5])
def test_probabilities_of_the_last_calls_are_averaged(count: int) -> None:
    out, calls = recorded(count)
    mean = torch.stack([logits.double().softmax(1) for logits in calls[-count:]]).mean(0)
    torch.testing.assert_close(out.logits.double(), mean.log(), rtol=0, atol=1e-6)
    for label, logits in zip(out.trace, calls, strict=True):  # the trace is of single calls
        assert torch.equal(label, logits.argmax(1))


def test_averaging_does_not_change_the_steps() -> None:
    alone, average = recorded(1)[1], recorded(4)[1]
    assert all(torch.equal(a, b) for a, b in zip(alone, average, strict=True))


def test_one_call_is_returned_untouched() -> None:
    out, calls = recorded(1)
    assert out.logits is calls[-1]
    single, first = recorded(1, steps=1)
    assert single.logits is first[0]


def test_an_average_keeps_what_a_single_call_rules_out() -> None:
    """No probability is lost to underflow on the way to the logarithm."""
    process, masks = UniformDiffusion(K), iter([0, 1])
    out = sample_mask(
        process,
        lambda x_t, t: sure_of(torch.full_like(x_t, next(masks))),
        process.prior((1, 2, 2), generator=rng()),
        num_inference_steps=2,
        average_last=2,
    )
    want = torch.tensor([0.5, 0.5, 0, 0]).view(1, -1, 1, 1).expand(1, K, 2, 2)
    torch.testing.assert_close(out.logits.softmax(1), want)
    assert (out.logits[:, 2:] < -100).all()
    assert out.logits.isfinite().all()


def test_averaging_keeps_a_running_sum_only() -> None:
    alive: list[Any] = []
    most = 0

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        nonlocal most
        logits = opinionated(x_t, t)
        alive.append(weakref.ref(logits))
        most = max(most, sum(ref() is not None for ref in alive))
        return logits

    process = UniformDiffusion(K)
    start = process.prior((1, 4, 4), generator=rng())
    sample_mask(process, denoise, start, num_inference_steps=9, average_last=9)
    assert most <= 2  # the call that was, and the call that is


# -- the batch -----------------------------------------------------------------------------------


@every_process
@every_estimate
@pytest.mark.parametrize(
    "options", [{}, {"early_exit": 0.35}, {"average_last": 3}, {"start_time": 0.6}], ids=str
)
def test_an_image_does_not_depend_on_its_batch(
    process: Process, estimate: Estimate, options: dict[str, Any]
) -> None:
    names = ["a", "b", "c"]

    def run(rows: list[int]) -> Tensor:
        generators = image_generators(0, [names[row] for row in rows])
        return sample_mask(
            process,
            opinionated,
            process.prior((len(rows), 6, 7), generator=generators),
            num_inference_steps=6,
            eta=0.5,
            estimate=estimate,
            generator=generators,
            **options,
        ).logits

    together = run([2, 0, 1])
    rounding = 1e-6 if "average_last" in options else 0  # of the logarithm, by place in memory
    for place, row in enumerate([2, 0, 1]):
        torch.testing.assert_close(together[place], run([row])[0], rtol=0, atol=rounding)


def test_early_exit_ends_when_nothing_changes() -> None:
    process = UniformDiffusion(K)
    start = process.prior((2, 5, 5), generator=rng())
    settled = oracle(torch.ones_like(start))
    for share, calls in [(0.0, 9), (0.01, 2)]:
        out = sample_mask(process, settled, start, num_inference_steps=9, early_exit=share)
        assert out.num_calls == calls


def test_early_exit_waits_for_the_last_image_and_keeps_the_finished_one() -> None:
    """The first image settles at once, then would change its mind; the second never settles."""
    calls = 0

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        first = 1 if calls <= 2 else 3
        return sure_of(torch.tensor([first, calls % 2]).view(2, 1, 1).expand(x_t.shape))

    process = UniformDiffusion(K)
    out = sample_mask(
        process, denoise, process.prior((2, 4, 4)), num_inference_steps=6, early_exit=0.5
    )
    assert out.num_calls == calls == 6
    assert (out.logits.argmax(1)[0] == 1).all()


# -- messages ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps must be 1 to 1000, got 0"),
        ({"num_inference_steps": 1001}, "num_inference_steps must be 1 to 1000, got 1001"),
        ({"num_inference_steps": 10**6}, "num_inference_steps must be 1 to 1000, got 1000000"),
        ({"start_time": 0.0}, "start_time must be above 0 and at most 1, got 0.0"),
        ({"start_time": 1.1}, "start_time must be above 0 and at most 1, got 1.1"),
        ({"eta": 1.5}, "eta must be between 0 and 1, got 1.5"),
        ({"early_exit": -1.0}, "early_exit must be between 0 and 1"),
        ({"average_last": 0}, "average_last must be 1 to num_inference_steps = 2, got 0"),
        ({"average_last": 3}, "average_last must be 1 to num_inference_steps = 2, got 3"),
        ({"average_last": 2, "early_exit": 0.1}, "average_last = 2 needs early_exit = 0, got 0.1"),
    ],
    ids=str,
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    start = UniformDiffusion(K).prior((1, 2, 2))
    calls: list[Tensor] = []

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        calls.append(t)
        return opinionated(x_t, t)

    with pytest.raises(InputError, match=message):
        sample_mask(UniformDiffusion(K), denoise, start, **{"num_inference_steps": 2} | options)
    assert not calls  # before any work


# -- order ---------------------------------------------------------------------------------------


def test_the_surest_labels_stay_and_the_others_are_masked_again() -> None:
    process, seen = AbsorbingDiffusion(K), []
    labels = torch.randint(K, (2, 8, 8), generator=rng(1))
    sureness = torch.rand(2, 8, 8, generator=rng(2))

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        seen.append(x_t)
        return sure_of(labels) / 100 * (1 + sureness)[:, None]

    sample_mask(
        process,
        denoise,
        process.prior((2, 8, 8)),
        num_inference_steps=4,
        order="confident",
        generator=rng(),
    )
    assert [int((x_t != K).sum()) for x_t in seen] == [0, 2 * 16, 2 * 32, 2 * 48]
    for x_t in seen[1:]:
        kept = x_t != K
        assert (x_t[kept] == labels[kept]).all()
        for image in range(2):
            assert sureness[image][kept[image]].min() > sureness[image][~kept[image]].max()


@pytest.mark.parametrize(
    ("process", "eta"), [(UniformDiffusion(K), 0.0), (AbsorbingDiffusion(K), 0.5)]
)
def test_confident_order_needs_masked_labels_and_no_ancestors(process: Process, eta: float) -> None:
    with pytest.raises(InputError, match="order confident needs"):
        sample_mask(
            process,
            opinionated,
            process.prior((1, 4, 4)),
            num_inference_steps=2,
            eta=eta,
            order="confident",
        )
