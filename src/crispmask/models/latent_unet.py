"""The denoising U-Net of masks: a pretrained one whose input also takes the image's latents."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from crispmask.errors import InputError
from crispmask.models.diffusers_parts import diffusers_class, load_diffusers, read_json

InputInit = Literal["half", "image_only", "mask_only"]
"""Where the pretrained input weights go.

"half": half of them to the image and half to the mask, so that equal inputs change nothing, as
Marigold does (Ke et al. 2024, section 3.2). "image_only": the network first sees exactly what it
saw before, the image, and the mask's weights start at zero; right if the mask starts as zeros
in one step. "mask_only": the noisy mask takes the place of the noisy picture.
"""

INPUT_ORDER = "image, mask"
"""Order of the latents along the channels; Marigold's, and the only one."""

_ORDER_KEY = "_input_order"  # with an underscore diffusers keeps it without a warning

_OTHER_WIDTHS = {5: "a depth-to-image", 7: "an upscaling", 9: "an inpainting", 12: "a Marigold IID"}


def widen_input(unet: nn.Module, *, init: InputInit) -> None:
    """Give a pretrained U-Net the image's latents as further input channels, in place.

    ``conv_in`` goes from c to 2 c channels, image first; its bias and all other weights stay
    untouched, and ``unet.config`` says what the network now is. A U-Net that has 2 c channels
    already stays as it is.

    Args:
        unet: diffusers' `UNet2DConditionModel` with as many channels in as out, or twice as many.
        init: how the widened weights start.

    Raises:
        InputError: if the U-Net takes another number of channels.
    """
    config: Any = unet.config
    inputs, channels = int(config["in_channels"]), int(config["out_channels"])
    check_channels(inputs, channels)
    if inputs == channels:
        old: Any = unet.conv_in
        weight = old.weight.detach()
        none = torch.zeros_like(weight)
        wide = {
            "half": (weight / 2, weight / 2),
            "image_only": (weight, none),
            "mask_only": (none, weight),
        }[init]
        with torch.device("meta"):
            new = nn.Conv2d(2 * channels, old.out_channels, old.kernel_size, padding=old.padding)
        new.weight = nn.Parameter(torch.cat(wide, dim=1))
        new.bias = old.bias
        unet.conv_in = new
    _register(unet, in_channels=2 * channels)


def load_unet(folder: Path | str, *, pipeline: str = "", weights: bool = True) -> nn.Module:
    """A U-Net as diffusers or `widen_input` left it, with c or 2 c input channels.

    Args:
        folder: as ``save_pretrained`` of diffusers writes it.
        pipeline: class of the pipeline that the folder is a part of. Marigold's 8 channels are
            in our order; those of others need the note that `widen_input` leaves in the config.
        weights: without them the network has its shape only, on the ``meta`` device.

    Raises:
        InputError: if the folder is damaged, not of a `UNet2DConditionModel` conditioned on text
            alone, or of another width or order of its input.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    check_unet_config(config, folder, pipeline=pipeline)
    unet = load_diffusers(diffusers_class("UNet2DConditionModel"), folder, weights=weights)
    if config["in_channels"] != config["out_channels"]:
        _register(unet, in_channels=config["in_channels"])
    return unet


def check_unet_config(config: dict[str, Any], folder: Path, *, pipeline: str = "") -> None:
    """Raise unless a network of this config can be the backbone; see `load_unet`."""
    kind = config.get("_class_name")
    if kind != "UNet2DConditionModel":
        raise InputError(f"{folder} must hold a UNet2DConditionModel, got {kind}.")
    for name in ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type"):
        if config.get(name) is not None:
            raise InputError(
                f"the U-Net in {folder} needs conditions besides text ({name} is "
                f"{config[name]!r}); use Stable Diffusion 1.x or 2.x or Marigold."
            )
    inputs, channels = int(config.get("in_channels", 4)), int(config.get("out_channels", 4))
    check_channels(inputs, channels)
    ours = config.get(_ORDER_KEY) == INPUT_ORDER
    if inputs == 2 * channels and not ours and not pipeline.startswith("Marigold"):
        raise InputError(
            f"the U-Net in {folder} takes {inputs} channels, but nothing says that the image comes "
            f"first (pipeline {pipeline or 'unknown'}); use a Marigold folder, one that crispmask "
            f"saved, or a U-Net of {channels} channels."
        )


def check_channels(inputs: int, channels: int) -> None:
    """Raise unless a U-Net takes its own latents, or two of them.

    Raises:
        InputError: naming the kind of U-Net that takes another number.
    """
    if inputs not in (channels, 2 * channels):
        other = _OTHER_WIDTHS.get(inputs)
        raise InputError(
            f"a U-Net of {channels}-channel latents must take {channels} or {2 * channels} "
            f"channels, got {inputs}" + (f" ({other} U-Net)" if other else "") + "; use the "
            "text-to-image U-Net of Stable Diffusion 1.x or 2.x, or Marigold's."
        )


def _register(unet: Any, *, in_channels: int) -> None:
    unet.register_to_config(in_channels=in_channels, **{_ORDER_KEY: INPUT_ORDER})
