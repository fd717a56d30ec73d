"""Low-rank updates of a U-Net's attention (LoRA, Hu et al. 2022), by peft."""

from typing import Any

from torch import Tensor

from crispmask.errors import InputError
from crispmask.models.text_adapter import TARGETS


def add_lora(unet: Any, rank: int, *, new_input: bool) -> None:
    """Freeze a U-Net of diffusers but for new low-rank updates, and ``conv_in`` if that is new.

    The updates start at zero and have the scale 1 (``lora_alpha = rank``).

    Args:
        unet: changed in place.
        rank: of the updates.
        new_input: whether the input convolution has just been widened for the image, which low rank
            cannot learn. That of a trained segmenter reads the same latents whatever the domain.

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
    unet.conv_in.requires_grad_(new_input)


def low_rank_factors(unet: Any) -> dict[str, Tensor]:
    """The updates of `add_lora`, as `models.text_adapter.like_factors` names them."""
    state = unet.state_dict()
    return {k.replace(".default.", "."): v for k, v in state.items() if ".lora_" in k}


def merge_lora(unet: Any) -> None:
    """Add the updates to the weights and leave a plain U-Net."""
    unet.fuse_lora()
    unet.unload_lora()
    unet.requires_grad_(True)
