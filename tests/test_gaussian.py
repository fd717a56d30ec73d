"""Diffusion of latents: the formulas, the guard, exact calls, and diffusers' own stepping."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("diffusers")

from diffusers import DDIMScheduler, PNDMScheduler

from crispmask.diffusion.gaussian import (
    add_noise,
    check_scheduler,
    clean_latents,
    fine_tuned_prediction,
    guided_latents,
    inference_steps,
    mask_scheduler,
    noise_estimate,
    sample_latents,
    shared_noise,
    training_target,
)
from crispmask.errors import InputError

SD1 = {  # what Stable Diffusion 1.5 says of its schedule, among other things
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "clip_sample": False,
}
SD2 = {**SD1, "_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
SAMPLE = {**SD2, "prediction_type": "sample"}


def scheduler(kind: str = "v_prediction") -> Any:
    return mask_scheduler({**SD2, "prediction_type": kind})


def latents(seed: int, count: int = 2) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, 3, 5, generator=rng, dtype=torch.float64)


def zero_snr_signal() -> torch.Tensor:
    """sqrt(a) of the rescaled schedule, written out from the paper in float64."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    signal = (1 - betas).cumprod(0).sqrt()
    return (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])


def test_the_schedule_is_the_checkpoints_rescaled_to_zero_signal() -> None:
    made = mask_scheduler(SD1)
    want = zero_snr_signal()
    torch.testing.assert_close(
        made.alphas_cumprod.double().sqrt(), want, rtol=1e-4, atol=1e-5, check_dtype=False
    )
    assert made.alphas_cumprod[-1] == 0
    check_scheduler(made)


@pytest.mark.parametrize(
    ("config", "prediction"), [(SD1, "v_prediction"), (SD2, "v_prediction"), (SAMPLE, "sample")]
)
def test_every_checkpoint_gets_a_prediction_that_works(config: Any, prediction: str) -> None:
    assert mask_scheduler(config).config["prediction_type"] == prediction


@given(st.integers(0, 999), st.integers(0, 2**32))
def test_formulas(t: int, seed: int) -> None:
    made, step = scheduler(), torch.tensor([t, 999 - t])
    x_0, noise = latents(seed), latents(seed + 1)
    signal = made.alphas_cumprod.double()[step].sqrt().view(2, 1, 1, 1)
    sigma = (1 - signal**2).sqrt()
    x_t, v = add_noise(made, x_0, noise, step), training_target(made, x_0, noise, step)
    torch.testing.assert_close(x_t, signal * x_0 + sigma * noise)
    torch.testing.assert_close(v, signal * noise - sigma * x_0)
    torch.testing.assert_close(clean_latents(made, v, x_t, step), x_0)
    torch.testing.assert_close(noise_estimate(made, v, x_t, step), noise)
    other = scheduler("sample")
    assert training_target(other, x_0, noise, step) is x_0
    assert clean_latents(other, x_0, x_t, step) is x_0
    torch.testing.assert_close(noise_estimate(other, x_0, x_t, step), noise, rtol=1e-4, atol=1e-6)


def test_the_formulas_are_those_of_diffusers() -> None:
    made, step = scheduler(), torch.tensor([0, 700])
    x_0, noise = latents(0).float(), latents(1).float()
    want = made.add_noise(x_0, noise, step)
    torch.testing.assert_close(add_noise(made, x_0, noise, step), want)
    want = made.get_velocity(x_0, noise, step)
    torch.testing.assert_close(training_target(made, x_0, noise, step), want)


def test_from_pure_noise_the_clean_latent_is_minus_v() -> None:
    made, v = scheduler(), latents(0)
    step = torch.full((2,), 999)
    assert torch.equal(clean_latents(made, v, latents(1), step), -v)
    answer = sample_latents(
        lambda x_t, t: v, made, torch.zeros(2, 4, 3, 5, dtype=torch.float64), num_inference_steps=1
    )
    assert torch.equal(answer, -v)


def test_half_precision_keeps_the_levels_in_float32() -> None:
    made, step = scheduler(), torch.tensor([998, 5])
    x_0 = latents(0).bfloat16()
    assert add_noise(made, x_0, x_0, step).dtype == torch.float32


def toy_network(x_t: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    return torch.sin(2 * x_t) - step.view(-1, 1, 1, 1) / 1000


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
@pytest.mark.parametrize("calls", [1, 2, 4, 10, 50])
def test_steps_are_those_of_diffusers_where_the_calls_divide_the_steps(
    kind: str, calls: int
) -> None:
    made, start = scheduler(kind), latents(3)
    answer = sample_latents(toy_network, made, start, num_inference_steps=calls)
    made.set_timesteps(calls)
    x_t = start
    for t in made.timesteps:
        out = made.step(toy_network(x_t, t.expand(len(x_t))), t, x_t)
        x_t = out.prev_sample
    assert made.timesteps.tolist() == inference_steps(made, calls)
    torch.testing.assert_close(answer, out.pred_original_sample, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(answer, x_t, rtol=1e-5, atol=1e-6)  # the last step ends at x_0


@pytest.mark.parametrize("calls", [1, 2, 3, 7, 10, 61, 333, 1000])  # diffusers makes 62 of 61
def test_calls_are_counted_exactly_and_happen_at_the_steps(calls: int) -> None:
    made, seen = scheduler(), []

    def denoise(x_t: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        assert (step == step[0]).all()
        seen.append(int(step[0]))
        return x_t

    sample_latents(denoise, made, latents(0), num_inference_steps=calls)
    assert len(seen) == calls
    assert seen == inference_steps(made, calls)
    assert seen[0] == 999
    assert seen == sorted(set(seen), reverse=True)
    assert seen[-1] == round(1000 / calls) - 1


@pytest.mark.parametrize("strength", [0.001, 0.0123, 0.3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("calls", [1, 2, 7, 300])
def test_below_strength_one_as_many_calls_share_less_time(calls: int, strength: float) -> None:
    made, seen, total = scheduler(), [], round(1000 * strength)

    def denoise(x_t: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        seen.append(int(step[0]))
        return x_t

    def sample() -> None:
        sample_latents(denoise, made, latents(0), num_inference_steps=calls, strength=strength)

    if calls > total:
        with pytest.raises(InputError, match=f"1 to {total}, got {calls}.*leaves {total} of 1000"):
            sample()
        return
    sample()
    assert seen == inference_steps(made, calls, strength=strength)
    assert len(set(seen)) == calls
    assert seen == sorted(seen, reverse=True)
    assert (seen[0], seen[-1]) == (total - 1, round(total / calls) - 1)


@pytest.mark.parametrize("calls", [1, 3, 7])
def test_a_perfect_network_gives_the_clean_latent_after_any_number_of_calls(calls: int) -> None:
    made, x_0 = scheduler(), latents(0)

    def perfect(x_t: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        signal = made.alphas_cumprod.double()[step].sqrt().view(-1, 1, 1, 1)
        sigma = (1 - signal**2).sqrt()
        velocity: torch.Tensor = signal * (x_t - signal * x_0) / sigma - sigma * x_0
        return velocity

    answer = sample_latents(perfect, made, latents(1), num_inference_steps=calls)
    torch.testing.assert_close(answer, x_0, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("calls", [0, 1001])
def test_numbers_of_calls_that_cannot_be(calls: int) -> None:
    with pytest.raises(InputError, match=f"1 to 1000, got {calls}"):
        sample_latents(toy_network, scheduler(), latents(0), num_inference_steps=calls)


def test_guidance_is_the_formula_and_one_switches_it_off() -> None:
    counts = {"cond": 0, "uncond": 0}

    def network(name: str, value: float) -> Any:
        def denoise(x_t: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
            counts[name] += 1
            return torch.full_like(x_t, value)

        return denoise

    cond, uncond = network("cond", 2.0), network("uncond", 0.5)
    start, made = latents(0), scheduler("sample")
    for scale, want in ((1.0, 2.0), (3.0, 5.0), (0.0, 0.5)):
        counts.update(cond=0, uncond=0)
        denoise = guided_latents(cond, uncond, scale)
        answer = sample_latents(denoise, made, start, num_inference_steps=4)
        assert torch.equal(answer, torch.full_like(answer, want))
        assert counts == {"cond": 4, "uncond": 0 if scale == 1 else 4}


def test_noise_is_shared_by_the_queries_of_an_image_and_independent_of_the_batch() -> None:
    def seeds(*values: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(value) for value in values]

    both = shared_noise((2, 4, 8, 8), queries=3, generator=seeds(5, 6))
    assert both.shape == (6, 4, 8, 8)
    assert torch.equal(both[0], both[1])
    assert torch.equal(both[0], both[2])
    assert not torch.equal(both[0], both[3])
    alone = shared_noise((1, 4, 8, 8), queries=1, generator=seeds(6))
    assert torch.equal(both[3:4], alone)
    assert math.isclose(both.std().item(), 1, rel_tol=0.1)
    one = shared_noise((2, 4, 8, 8), queries=1, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(one[0], one[1])
    with pytest.raises(InputError, match="got 2 generators for 3 images"):
        shared_noise((3, 4, 8, 8), queries=1, generator=seeds(5, 6))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"timestep_spacing": "leading"}, "timestep_spacing='trailing', got 'leading'"),
        ({"timestep_spacing": "linspace"}, "timestep_spacing='trailing', got 'linspace'"),
        ({"prediction_type": "epsilon"}, "got 'epsilon'"),
        ({"prediction_type": "epsilon", "rescale_betas_zero_snr": False}, "got 'epsilon'"),
        ({"rescale_betas_zero_snr": False}, "rescale_betas_zero_snr=True, got False"),
        ({"clip_sample": True}, "clip_sample=False"),
        ({"thresholding": True}, "thresholding=False"),
        ({"set_alpha_to_one": False}, "set_alpha_to_one=True"),
    ],
)
def test_schedulers_that_cannot_work_are_refused(change: dict[str, Any], match: str) -> None:
    wrong = DDIMScheduler.from_config(scheduler().config, **change)
    with pytest.raises(InputError, match=match):
        check_scheduler(wrong)
    with pytest.raises(InputError, match=match):
        sample_latents(toy_network, wrong, latents(0), num_inference_steps=1)


def test_another_class_of_scheduler_is_refused() -> None:
    with pytest.raises(InputError, match="got a PNDMScheduler"):
        check_scheduler(PNDMScheduler())


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler"),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"}, "EDMEuler"),
        ({"prediction_type": "v_prediction"}, "beta_schedule or trained_betas"),
        ({**SD2, "prediction_type": "flow_prediction"}, "got 'flow_prediction'"),
    ],
)
def test_checkpoints_of_another_kind_are_refused(config: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        mask_scheduler(config)


def test_predictions_by_name() -> None:
    assert fine_tuned_prediction("epsilon") == "v_prediction"
    assert fine_tuned_prediction("sample") == "sample"
