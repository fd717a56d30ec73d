"""The TAEF2 codec (tiny autoencoder for FLUX.2 latents, MIT) as a diffusers `AutoencoderTiny`.

For benchmarks only: ``FOLDER/taef2/{encoder,decoder}.safetensors`` as madebyollin/taesd publishes
them, 3 to 32 channels at an eighth of the size. It is diffusers' `AutoencoderTiny` but for the
blocks at the lowest resolution, which first add a normalised mixture of their channels.
"""

from pathlib import Path
from typing import Any

from diffusers import AutoencoderTiny
from safetensors.torch import load_file
from torch import Tensor, nn


class PooledBlock(nn.Module):
    """A block of `AutoencoderTiny` on ``x + pool(x)``."""

    def __init__(self, block: Any, width: int = 64) -> None:
        super().__init__()
        self.conv, self.fuse = block.conv, block.fuse
        self.pool = nn.Sequential(
            nn.Conv2d(width, 4 * width, 1, bias=False),
            nn.GroupNorm(4, 4 * width),
            nn.ReLU(),
            nn.Conv2d(4 * width, width, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """A residual block, as `AutoencoderTiny` has it, after the mixture."""
        x = x + self.pool(x)
        out: Tensor = self.fuse(self.conv(x) + x)
        return out


def load_taef2(folder: Path) -> AutoencoderTiny:
    """TAEF2 from its two files, in float32."""
    vae = AutoencoderTiny(latent_channels=32)
    for part, skipped in ((vae.encoder, 0), (vae.decoder, 1)):  # the decoder's clamp is no layer
        name = "encoder" if part is vae.encoder else "decoder"
        state = load_file(folder / f"{name}.safetensors")
        pooled = {int(key.split(".")[0]) - skipped for key in state if ".pool." in key}
        for i in pooled:
            part.layers[i] = PooledBlock(part.layers[i])
        renamed = {}
        for key, weight in state.items():
            index, _, rest = key.partition(".")
            renamed[f"{int(index) - skipped}.{rest}"] = weight.float()
        part.layers.load_state_dict(renamed)
    return vae.eval()
