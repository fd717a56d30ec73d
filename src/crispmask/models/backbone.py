"""A pretrained latent diffusion model as diffusers saves it: the parts of a text segmenter."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from crispmask.diffusion.gaussian import Scheduler, mask_scheduler
from crispmask.errors import InputError
from crispmask.models.checkpoint import no_model
from crispmask.models.diffusers_parts import (
    diffusers_class,
    load_diffusers,
    load_text_encoder,
    load_tokenizer,
    read_json,
)
from crispmask.models.latent_unet import InputInit, check_unet_config, load_unet, widen_input
from crispmask.models.text_states import QueryEncoder, minilm_folder

MINILM_ENTRY = ["crispmask", "minilm"]
"""``text_encoder`` in model_index.json of a folder whose words go through MiniLM's package."""

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
        words: the text encoder with its tokenizer, the folder's own CLIP or MiniLM.
        scheduler: `mask_scheduler` of the checkpoint's own.
        trained_prediction: what the checkpoint was trained to predict; where it is "epsilon",
            fine-tuning turns the network to v.
    """

    unet: nn.Module
    vae: nn.Module
    words: QueryEncoder
    scheduler: Scheduler
    trained_prediction: str

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        unet: Any = self.unet
        return int(unet.config["out_channels"])


def load_backbone(
    folder: Path | str, *, init: InputInit = "image_only", weights: bool = True
) -> Backbone:
    """The parts of a text-to-image model or a Marigold folder, without any download.

    Stable Diffusion 1.x and 2.x, Marigold, and what `crispmask train latent-earth-pretrain` and
    its like leave, whose words go through the installed package of MiniLM. All configs are checked
    against each other before the first weight is read. Weights come from safetensors files, plain
    or "fp16", and are float32 afterwards.

    Args:
        folder: holds model_index.json and unet/, vae/, scheduler/, and text_encoder/ and
            tokenizer/ unless model_index.json names MiniLM.
        init: how the weights of the mask's input start, for a U-Net of 4 channels. One of 8
            (Marigold) keeps its own.
        weights: without them all networks have their shapes only, on the ``meta`` device: a quick
            check of a folder.

    Raises:
        InputError: if a part is missing, damaged, of another kind, or does not fit the others.
    """
    parts = load_text_to_image(folder, weights=weights)
    widen_input(parts.unet, init=init)
    return parts


def load_text_to_image(folder: Path | str, *, weights: bool = True) -> Backbone:
    """As `load_backbone`, with the U-Net's input as it is: what draws pictures from words.

    Raises:
        InputError: as `load_backbone`.
    """
    folder = Path(folder)
    pipeline, minilm = _check_parts(folder)
    text_folder = minilm_folder() if minilm else folder / "text_encoder"
    unet_config = read_json(folder / "unet" / "config.json")
    vae_config = read_json(folder / "vae" / "config.json")
    text_config = read_json(text_folder / "config.json")
    check_unet_config(unet_config, folder / "unet", pipeline=pipeline)
    if not minilm:
        _check_clip(folder, text_config)
    _check_fit(folder, unet_config, vae_config, text_config)
    schedule = read_json(folder / "scheduler" / "scheduler_config.json")
    scheduler = mask_scheduler(schedule)
    vae_class = diffusers_class(vae_config["_class_name"])
    return Backbone(
        words=_load_words(folder, text_config, minilm=minilm, weights=weights),
        unet=load_unet(folder / "unet", pipeline=pipeline, weights=weights),
        vae=load_diffusers(vae_class, folder / "vae", weights=weights),
        scheduler=scheduler,
        trained_prediction=str(schedule.get("prediction_type", "epsilon")),
    )


def _load_words(
    folder: Path, config: dict[str, Any], *, minilm: bool, weights: bool
) -> QueryEncoder:
    if minilm:
        return QueryEncoder.minilm(weights=weights)
    tokenizer = load_tokenizer(folder / "tokenizer")
    if len(tokenizer) > config["vocab_size"]:
        raise InputError(
            f"the tokenizer in {folder} has {len(tokenizer)} tokens, its text encoder knows "
            f"{config['vocab_size']}; copy both from one checkpoint."
        )
    return QueryEncoder(load_text_encoder(folder / "text_encoder", weights=weights), tokenizer)


def _check_parts(folder: Path) -> tuple[str, bool]:
    """The class of the pipeline and whether it needs MiniLM, if all its parts are there."""
    if not folder.is_dir():
        raise InputError(no_model(folder))
    index = read_json(folder / "model_index.json")
    pipeline = str(index.get("_class_name", ""))
    extra = [part for part in ("text_encoder_2", "transformer") if part in index]
    if extra:
        raise InputError(
            f"{folder} is a {pipeline} with {' and '.join(extra)}; use a Stable Diffusion 1.x or "
            "2.x or a Marigold folder."
        )
    minilm = index.get("text_encoder") == MINILM_ENTRY
    needed = [part for part in _FILES if not (minilm and part in ("text_encoder", "tokenizer"))]
    missing = [
        part
        for part in needed
        if not any((folder / part / file).is_file() for file in _FILES[part])
    ]
    if missing:
        raise InputError(
            f"{folder} needs {', '.join(needed)}, got none or an incomplete "
            f"{', '.join(missing)}; copy the whole checkpoint."
        )
    return pipeline, minilm


def _check_clip(folder: Path, config: dict[str, Any]) -> None:
    kinds = config.get("architectures") or ["unknown"]
    if "CLIPTextModel" not in kinds:
        raise InputError(f"the text encoder in {folder} must be a CLIPTextModel, got {kinds[0]}.")


def _check_fit(
    folder: Path, unet: dict[str, Any], vae: dict[str, Any], text_encoder: dict[str, Any]
) -> None:
    if vae.get("_class_name") not in _VAES:
        raise InputError(
            f"the VAE in {folder} must be one of {', '.join(_VAES)}, got {vae.get('_class_name')}."
        )
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
