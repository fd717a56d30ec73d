"""Gaussian diffusion of latents: a thin layer over diffusers' `DDIMScheduler`.

Times are the steps of the scheduler that a pretrained network knows: whole numbers from 0, nearly
clean, to ``T - 1``, pure noise, with T usually 1000. With ``a`` the scheduler's ``alphas_cumprod``
at a step, a clean latent ``x_0`` and noise ``n`` give ``x_t = sqrt(a) x_0 + sqrt(1 - a) n``. The
schedule is rescaled to a signal of exactly zero at the last step (Lin et al. 2024, "Common
diffusion noise schedules and sample steps are flawed", algorithm 1).
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from crispmask.errors import InputError
from crispmask.shapes import Generators

Latents = Float[Tensor, "n c h w"]
"""Scaled latents, n = images x queries."""

Steps = Int64[Tensor, "n"]
"""Step of the scheduler for each latent, 0 to T - 1."""

DenoiseLatents = Callable[[Latents, Steps], Latents]
"""A network with its conditions bound: what the scheduler's prediction type says it predicts."""

Scheduler = Any
"""diffusers' `DDIMScheduler`; the package is loaded only where one is made."""

FINE_TUNED = {"v_prediction": "v_prediction", "sample": "sample", "epsilon": "v_prediction"}
"""What a network is fine-tuned to predict, by what it was trained to predict."""

_SCHEDULE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")

_NEEDED: tuple[tuple[str, object, str], ...] = (
    ("timestep_spacing", "trailing", "other spacings do not begin at the step of pure noise"),
    ("rescale_betas_zero_snr", True, "otherwise a trace of the mask is left in the last step"),
    ("clip_sample", False, "latents go beyond 1"),
    ("thresholding", False, "latents go beyond 1"),
    ("set_alpha_to_one", True, "otherwise the last step stops short of the clean latent"),
)


def fine_tuned_prediction(checkpoint: str) -> str:
    """What a network is fine-tuned to predict: "v_prediction" or "sample".

    A network of v or of the clean sample stays what it is. One of the noise ("epsilon": Stable
    Diffusion 1.x, 2-base) learns v from its first step of fine-tuning on: from pure noise, the
    noise says nothing of the sample.

    Args:
        checkpoint: ``prediction_type`` in the scheduler's config of the checkpoint.

    Raises:
        InputError: if it is none of these three.
    """
    if checkpoint not in FINE_TUNED:
        raise InputError(
            f"a backbone must predict {', '.join(FINE_TUNED)}, got {checkpoint!r}; "
            "use a Stable Diffusion 1.x or 2.x or a Marigold folder."
        )
    return FINE_TUNED[checkpoint]


def mask_scheduler(config: Mapping[str, Any]) -> Scheduler:
    """The scheduler of masks: a checkpoint's betas rescaled to zero SNR, with trailing steps.

    Args:
        config: the checkpoint's own scheduler, as diffusers saves it; only its betas and its
            prediction type are used.

    Raises:
        InputError: if the checkpoint is of another kind of diffusion, says nothing of its betas,
            or diffusers is missing.
    """
    kind = str(config.get("_class_name", ""))
    if "FlowMatch" in kind or "EDM" in kind or config.get("use_flow_sigmas"):
        raise InputError(
            f"a backbone of discrete betas is needed, got one with a {kind or 'flow'} scheduler; "
            "use a Stable Diffusion 1.x or 2.x or a Marigold folder."
        )
    if not (config.get("beta_schedule") or config.get("trained_betas")):
        raise InputError(
            "the scheduler's config needs beta_schedule or trained_betas, got neither; "
            "copy scheduler/scheduler_config.json of the checkpoint again."
        )
    prediction = fine_tuned_prediction(str(config.get("prediction_type", "epsilon")))
    try:
        from diffusers import DDIMScheduler
    except ImportError as error:
        raise InputError(
            "latent diffusion needs diffusers; install it: pip install 'crispmask[text]'."
        ) from error
    return DDIMScheduler(
        **{name: config[name] for name in _SCHEDULE if name in config},
        **{name: value for name, value, _ in _NEEDED},
        prediction_type=prediction,
    )


def check_scheduler(scheduler: Scheduler) -> None:
    """Raise unless one call from pure noise can be right with this scheduler.

    Raises:
        InputError: naming the first setting that is wrong, and why.
    """
    kind = type(scheduler).__name__
    if kind != "DDIMScheduler":
        raise InputError(
            f"masks need a DDIMScheduler, got a {kind}; build one with mask_scheduler(config)."
        )
    config = scheduler.config
    if config["prediction_type"] not in FINE_TUNED.values():
        raise InputError(
            f"masks need prediction_type 'v_prediction' or 'sample', got "
            f"{config['prediction_type']!r}: from pure noise the noise says nothing of the mask; "
            "fine-tune with mask_scheduler(config)."
        )
    for name, needed, why in _NEEDED:
        if config[name] != needed:
            raise InputError(
                f"masks need a scheduler with {name}={needed!r}, got {config[name]!r}: {why}; "
                "build it with mask_scheduler(config)."
            )


def inference_steps(
    scheduler: Scheduler, num_inference_steps: int, *, strength: float = 1.0
) -> list[int]:
    """Steps of the calls: trailing, from ``T strength - 1`` down, evenly spaced and rounded.

    Raises:
        InputError: if the number is not 1 to T times strength.
    """
    whole = int(scheduler.config["num_train_timesteps"])
    total = round(whole * strength)
    if not 1 <= num_inference_steps <= total:
        less = "" if total == whole else f"; strength {strength:g} leaves {total} of {whole} steps"
        raise InputError(
            f"num_inference_steps must be 1 to {total}, got {num_inference_steps}; "
            f"it is the number of calls of the network{less}."
        )
    left = range(num_inference_steps, 0, -1)
    return [round(total * i / num_inference_steps) - 1 for i in left]


def add_noise(scheduler: Scheduler, x_0: Latents, noise: Latents, step: Steps) -> Latents:
    """``x_t = sqrt(a) x_0 + sqrt(1 - a) n``."""
    signal, sigma = _levels(scheduler, x_0, step)
    return signal * x_0 + sigma * noise


def training_target(scheduler: Scheduler, x_0: Latents, noise: Latents, step: Steps) -> Latents:
    """What the network should say: ``v = sqrt(a) n - sqrt(1 - a) x_0``, or ``x_0`` itself.

    v is that of Salimans and Ho (2022), appendix D.
    """
    if scheduler.config["prediction_type"] == "sample":
        return x_0
    signal, sigma = _levels(scheduler, x_0, step)
    return signal * noise - sigma * x_0


def clean_latents(scheduler: Scheduler, output: Latents, x_t: Latents, step: Steps) -> Latents:
    """The network's ``x_0``: its output, or ``sqrt(a) x_t - sqrt(1 - a) v``; -v from pure noise."""
    if scheduler.config["prediction_type"] == "sample":
        return output
    signal, sigma = _levels(scheduler, x_t, step)
    return signal * x_t - sigma * output


def noise_estimate(scheduler: Scheduler, output: Latents, x_t: Latents, step: Steps) -> Latents:
    """The network's noise: ``(x_t - sqrt(a) x_0) / sqrt(1 - a)``, or ``sqrt(a) v + sqrt(1-a) x_t``.

    DDIM's ``epsilon`` (Song et al. 2021, eq. 12).
    """
    signal, sigma = _levels(scheduler, x_t, step)
    if scheduler.config["prediction_type"] == "sample":
        return (x_t - signal * output) / sigma
    return signal * output + sigma * x_t


def sample_latents(
    denoise: DenoiseLatents,
    scheduler: Scheduler,
    start: Latents,
    *,
    num_inference_steps: int,
    strength: float = 1.0,
) -> Latents:
    """Clean latents from ``start`` in exactly ``num_inference_steps`` calls, deterministically.

    Each step is DDIM's with eta 0 (Song et al. 2021, eq. 12), from the estimate of ``x_0`` to the
    next step that is called; what the last call says of ``x_0`` is the answer. diffusers' own
    ``step`` goes a fixed number of steps back instead, and misses the next one wherever the
    number of calls does not divide T.

    Args:
        denoise: the network, with image and text bound.
        scheduler: as `mask_scheduler` makes it.
        start: state at pure noise: noise, or zeros for a network that was fine-tuned on zeros
            in one step. Below strength 1, the state at the first of `inference_steps`.
        num_inference_steps: exact number of calls.
        strength: time at which the steps begin, in (0, 1]; 1 is pure noise.

    Raises:
        InputError: if the scheduler cannot work, or there are too many or too few calls.
    """
    check_scheduler(scheduler)
    grid = inference_steps(scheduler, num_inference_steps, strength=strength)
    calls = [torch.full((len(start),), t, device=start.device) for t in grid]
    x_t = start
    for t, s in pairwise(calls):
        output = denoise(x_t, t)
        x_0 = clean_latents(scheduler, output, x_t, t)
        x_t = add_noise(scheduler, x_0, noise_estimate(scheduler, output, x_t, t), s)
    return clean_latents(scheduler, denoise(x_t, calls[-1]), x_t, calls[-1])


def guided_latents(
    cond: DenoiseLatents, uncond: DenoiseLatents, guidance_scale: float
) -> DenoiseLatents:
    """Classifier-free guidance: ``uncond + scale * (cond - uncond)`` (Ho and Salimans 2022).

    Args:
        cond: the network with the query.
        uncond: the network with the empty or a negative prompt.
        guidance_scale: 1 is off: ``cond`` itself is returned and ``uncond`` never called.
    """
    if guidance_scale == 1:
        return cond

    def denoise(x_t: Latents, step: Steps) -> Latents:
        without = uncond(x_t, step)
        return without + guidance_scale * (cond(x_t, step) - without)

    return denoise


def shared_noise(
    shape: tuple[int, int, int, int],
    *,
    queries: int,
    generator: Generators = None,
    device: torch.device | str = "cpu",
) -> Latents:
    """Gaussian noise for images x queries, the same for all queries of an image.

    Maps of several queries can only be compared if they start from one state.

    Args:
        shape: images, channels, height and width of the latents.
        queries: queries of each image; those of an image are neighbours in the result.
        generator: one per image makes the result independent of the batch.
        device: where the noise is needed; it is drawn where the generator lives.

    Raises:
        InputError: if there are several generators, but not one for each image.
    """
    if isinstance(generator, Sequence):
        if len(generator) != shape[0]:
            raise InputError(
                f"one generator per image is needed, got {len(generator)} generators for "
                f"{shape[0]} images; make them with image_generators(seed, names)."
            )
        noise = torch.stack([_normal(shape[1:], one, device) for one in generator])
    else:
        noise = _normal(shape, generator, device)
    return noise.repeat_interleave(queries, dim=0)


def _normal(
    shape: Sequence[int], generator: torch.Generator | None, device: torch.device | str
) -> Float[Tensor, "*shape"]:
    source = device if generator is None else generator.device
    return torch.randn(*shape, generator=generator, device=source).to(device)


def _levels(
    scheduler: Scheduler, like: Latents, step: Steps
) -> tuple[Float[Tensor, "n 1 1 1"], Float[Tensor, "n 1 1 1"]]:
    """``sqrt(a)`` and ``sqrt(1 - a)``, in float32 at least: half precision loses small signals."""
    kept: Tensor = scheduler.alphas_cumprod.cpu()[step.cpu()].double().view(-1, 1, 1, 1)
    dtype = torch.promote_types(like.dtype, torch.float32)
    return kept.sqrt().to(like.device, dtype), (1 - kept).sqrt().to(like.device, dtype)
