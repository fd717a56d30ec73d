"""Low-rank updates of a U-Net's attention (LoRA, Hu et al. 2022), by peft."""

from typing import Any

from crispmask.errors import InputError

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""Projections of diffusers' attention layers."""


def add_lora(unet: Any, rank: int) -> None:
    """Freeze a U-Net of diffusers but for new low-rank updates, and ``conv_in``.

    The input convolution has just been widened for the image, which low rank cannot learn. The
    updates start at zero and have the scale 1 (``lora_alpha = rank``).

    Raises:
        InputError: if peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise InputError(
            "lora_rank needs peft; install it: pip install 'crispmask[text]', or train the whole "
            "U-Net with lora_rank=0."
        ) from error
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS)))
    unet.conv_in.requires_grad_(True)


def merge_lora(unet: Any) -> None:
    """Add the updates to the weights and leave a plain U-Net."""
    unet.fuse_lora()
    unet.unload_lora()
    unet.requires_grad_(True)
