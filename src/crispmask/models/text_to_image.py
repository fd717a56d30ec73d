"""Pictures from captions: what a latent diffusion model knows before it is taught masks."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from crispmask.atomic import write_atomic
from crispmask.diffusion.gaussian import (
    DenoiseLatents,
    Latents,
    Scheduler,
    Steps,
    guided_latents,
    sample_latents,
    shared_noise,
)
from crispmask.errors import InputError
from crispmask.models.backbone import MINILM_ENTRY, Backbone, load_text_to_image
from crispmask.models.latents import LatentCodec
from crispmask.models.text_states import TextStates
from crispmask.shapes import Image


def captioned(unet: nn.Module, states: TextStates, *, reads_padding: bool) -> DenoiseLatents:
    """A U-Net with a caption for each row.

    Args:
        unet: diffusers' `UNet2DConditionModel`.
        states: as many as rows, on the device of the network.
        reads_padding: whether attention sees padding, see `QueryEncoder`.
    """
    network: Any = unet

    def denoise(x_t: Latents, step: Steps) -> Latents:
        out: Latents = network(
            x_t,
            step,
            encoder_hidden_states=states.tokens.to(x_t.dtype),
            encoder_attention_mask=None if reads_padding else states.mask,
        ).sample
        return out

    return denoise


@torch.no_grad()
def generate(
    model: Backbone | Path | str,
    captions: Sequence[str],
    *,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    num_inference_steps: int = 50,
    guidance_scale: float = 1.0,
) -> Image:
    """A picture for each caption.

    Args:
        model: a folder that `load_backbone` reads, or the parts of `load_text_to_image`.
        captions: sentences; "" is a picture of anything.
        size: height and width in pixels, rounded up to whole latents; by default those that the
            model was trained with.
        seed: of the noise.
        num_inference_steps: calls of the network, or half of them with guidance.
        guidance_scale: s in ``empty + s * (caption - empty)``; 1 is off.

    Raises:
        InputError: if the folder cannot be used, a caption is too long, there is none, or the
            network cannot draw from pure noise.
    """
    parts = model if isinstance(model, Backbone) else load_text_to_image(model)
    unet: Any = parts.unet
    if parts.trained_prediction == "epsilon" or unet.config["in_channels"] != parts.channels:
        raise InputError(
            "pictures need a U-Net of v or of the clean sample with as many channels in as out, "
            f"got one of {parts.trained_prediction} with {unet.config['in_channels']} and "
            f"{parts.channels}; use what `crispmask train latent-earth-pretrain` leaves."
        )
    codec = LatentCodec(parts.vae)
    device = next(unet.parameters()).device
    if size is None:
        known = unet.config["sample_size"]
        h, w = (known, known) if isinstance(known, int) else known
    else:
        h, w = (-(-side // codec.stride) for side in size)
    padding = parts.words.reads_padding
    conditions = [parts.words.encode(list(captions))]
    if guidance_scale != 1:
        conditions.append(parts.words.encode([""] * len(captions)))
    calls = [captioned(unet, states.to(device), reads_padding=padding) for states in conditions]
    start = shared_noise(
        (len(captions), codec.channels, h, w),
        queries=1,
        generator=torch.Generator().manual_seed(seed),
        device=device,
    )
    z_0 = sample_latents(
        guided_latents(calls[0], calls[-1], guidance_scale),
        parts.scheduler,
        start,
        num_inference_steps=num_inference_steps,
    )
    return (codec.decode(z_0).clamp(-1, 1) + 1) / 2


def save_minilm_model(
    folder: Path, *, unet: nn.Module, vae: nn.Module, scheduler: Scheduler
) -> None:
    """Write a model whose words go through MiniLM, in diffusers' layout: unet/, vae/, scheduler/.

    model_index.json, without which `load_backbone` reads nothing, comes last.
    """
    parts: dict[str, Any] = {"unet": unet, "vae": vae, "scheduler": scheduler}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    index = {
        "_class_name": "TextToImage",
        "text_encoder": MINILM_ENTRY,
        **{name: ["diffusers", type(part).__name__] for name, part in parts.items()},
    }
    write_atomic(folder / "model_index.json", json.dumps(index, indent=2) + "\n")
