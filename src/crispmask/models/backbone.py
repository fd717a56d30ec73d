"""A pretrained latent diffusion model as diffusers saves it: the parts of a text segmenter."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from crispmask.diffusion.gaussian import Scheduler, mask_scheduler
from crispmask.errors import InputError
from crispmask.models.diffusers_parts import (
    diffusers_class,
    load_diffusers,
    load_text_encoder,
    load_tokenizer,
    read_json,
)
from crispmask.models.latent_unet import InputInit, check_unet_config, load_unet, widen_input
from crispmask.models.text_states import QueryEncoder

_FILES = {
    "unet": ("config.json",),
    "vae": ("config.json",),
    "text_encoder": ("config.json",),
    "tokenizer": ("vocab.json", "tokenizer.json"),
    "scheduler": ("scheduler_config.json",),
}
"""Files that show that a part is there, any of them."""

_VAES = ("AutoencoderKL", "AutoencoderTiny")


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """Parts of a pretrained text-to-image model, ready to be fine-tuned for masks.

    Attributes:
        unet: diffusers' `UNet2DConditionModel`, its input widened for the image's latents.
        vae: diffusers' `AutoencoderKL` or `AutoencoderTiny`.
        words: the checkpoint's text encoder with its tokenizer.
        scheduler: `mask_scheduler` of the checkpoint's own.
        trained_prediction: what the checkpoint was trained to predict; where it is "epsilon",
            fine-tuning turns the network to v.
    """

    unet: nn.Module
    vae: nn.Module
    words: QueryEncoder
    scheduler: Scheduler
    trained_prediction: str


def load_backbone(
    folder: Path | str, *, init: InputInit = "image_only", weights: bool = True
) -> Backbone:
    """The parts of a Stable Diffusion 1.x or 2.x or a Marigold folder, without any download.

    All configs are checked against each other before the first weight is read. Weights come from
    safetensors files, plain or "fp16", and are float32 afterwards.

    Args:
        folder: holds model_index.json and unet/, vae/, text_encoder/, tokenizer/, scheduler/.
        init: how the weights of the mask's input start, for a U-Net of 4 channels. One of 8
            (Marigold) keeps its own.
        weights: without them all networks have their shapes only, on the ``meta`` device: a quick
            check of a folder.

    Raises:
        InputError: if a part is missing, damaged, of another kind, or does not fit the others.
    """
    folder = Path(folder)
    pipeline = _check_parts(folder)
    configs = {part: read_json(folder / part / "config.json") for part in ("vae", "text_encoder")}
    unet_config = read_json(folder / "unet" / "config.json")
    check_unet_config(unet_config, folder / "unet", pipeline=pipeline)
    _check_fit(folder, unet_config, configs["vae"], configs["text_encoder"])
    schedule = read_json(folder / "scheduler" / "scheduler_config.json")
    scheduler = mask_scheduler(schedule)
    tokenizer = load_tokenizer(folder / "tokenizer")
    if len(tokenizer) > configs["text_encoder"]["vocab_size"]:
        raise InputError(
            f"the tokenizer in {folder} has {len(tokenizer)} tokens, its text encoder knows "
            f"{configs['text_encoder']['vocab_size']}; copy both from one checkpoint."
        )
    unet = load_unet(folder / "unet", pipeline=pipeline, weights=weights)
    widen_input(unet, init=init)
    vae_class = diffusers_class(configs["vae"]["_class_name"])
    return Backbone(
        unet=unet,
        vae=load_diffusers(vae_class, folder / "vae", weights=weights),
        words=QueryEncoder(load_text_encoder(folder / "text_encoder", weights=weights), tokenizer),
        scheduler=scheduler,
        trained_prediction=str(schedule.get("prediction_type", "epsilon")),
    )


def _check_parts(folder: Path) -> str:
    """The class of the pipeline, if all its parts are there."""
    if not folder.is_dir():
        raise InputError(
            f"a backbone is a folder as diffusers saves it, but {folder} is none; nothing is "
            "downloaded, so give the path of a copy."
        )
    index = read_json(folder / "model_index.json")
    pipeline = str(index.get("_class_name", ""))
    extra = [part for part in ("text_encoder_2", "transformer") if part in index]
    if extra:
        raise InputError(
            f"{folder} is a {pipeline} with {' and '.join(extra)}; use a Stable Diffusion 1.x or "
            "2.x or a Marigold folder."
        )
    missing = [
        part
        for part, files in _FILES.items()
        if not any((folder / part / file).is_file() for file in files)
    ]
    if missing:
        raise InputError(
            f"{folder} needs {', '.join(_FILES)}, got none or an incomplete "
            f"{', '.join(missing)}; copy the whole checkpoint."
        )
    return pipeline


def _check_fit(
    folder: Path, unet: dict[str, Any], vae: dict[str, Any], text_encoder: dict[str, Any]
) -> None:
    if vae.get("_class_name") not in _VAES:
        raise InputError(
            f"the VAE in {folder} must be one of {', '.join(_VAES)}, got {vae.get('_class_name')}."
        )
    kinds = text_encoder.get("architectures") or ["unknown"]
    if "CLIPTextModel" not in kinds:
        raise InputError(f"the text encoder in {folder} must be a CLIPTextModel, got {kinds[0]}.")
    needed, given = unet.get("cross_attention_dim"), text_encoder.get("hidden_size")
    if needed != given:
        raise InputError(
            f"the U-Net in {folder} attends to text of width {needed}, its text encoder gives "
            f"{given}; copy both from one checkpoint."
        )
    channels, latent = unet.get("out_channels", 4), vae.get("latent_channels", 4)
    if channels != latent:
        raise InputError(
            f"the U-Net in {folder} works on latents of {channels} channels, its VAE makes "
            f"{latent}; copy both from one checkpoint."
        )
