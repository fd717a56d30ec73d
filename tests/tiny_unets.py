"""Random U-Nets of diffusers at tiny width, in the layouts of known checkpoints."""

from typing import Any

import torch

TEXT_WIDTH = 24

LAYOUTS: dict[str, dict[str, Any]] = {
    "SD 1": {"attention_head_dim": 2},
    "SD 2": {"attention_head_dim": (1, 2, 2, 2), "use_linear_projection": True},
    "two levels": {
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    },
    "attention at the coarsest level only": {
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    },
    "no attention, no middle": {
        "block_out_channels": (8, 16),
        "mid_block_type": None,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
    },
}


def tiny_unet(layout: str, *, in_channels: int = 8) -> Any:
    """A `UNet2DConditionModel` in evaluation mode; the random state is left as it was."""
    from diffusers import UNet2DConditionModel

    shape: dict[str, Any] = {
        "block_out_channels": (8, 16, 16, 24),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 2,
        "in_channels": in_channels,
        "out_channels": 4,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet: Any = UNet2DConditionModel
        return unet(**shape | LAYOUTS[layout]).eval()
