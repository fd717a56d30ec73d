"""A small learned codec between masks and coarser maps of discrete codes."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from crispmask.shapes import IGNORE, Logits, Mask

Codes = Int64[Tensor, "b c_h c_w"]
"""A code per block of ``stride x stride`` pixels."""

CodeProbs = Float[Tensor, "b n c_h c_w"]
"""Probabilities of the codes."""


@dataclass(frozen=True, kw_only=True)
class MaskCodecConfig:
    """Size of a `MaskCodec`.

    Attributes:
        num_classes: labels a mask may take.
        levels: values of each latent channel, odd numbers; their product is the number of codes.
        stride: pixels of the mask per code, along each side; a power of two.
        width: channels of the convolutions.
    """

    num_classes: int
    levels: tuple[int, ...] = (5, 5, 5)
    stride: int = 4
    width: int = 32

    def __post_init__(self) -> None:
        if not self.levels or any(n < 3 or n % 2 == 0 for n in self.levels):
            raise ValueError(f"levels must be odd numbers from 3, got {self.levels}.")
        if self.num_codes > 254:
            raise ValueError(
                f"levels {self.levels} make {self.num_codes} codes; at most 254 can be diffused."
            )
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}.")
        if self.stride < 2 or self.stride & (self.stride - 1):
            raise ValueError(f"stride must be a power of two from 2, got {self.stride}.")

    @property
    def num_codes(self) -> int:
        """How many codes there are."""
        return math.prod(self.levels)


class MaskCodec(nn.Module):
    """Convolutions down to a few bounded, rounded channels, and up again.

    Finite scalar quantisation (Mentzer et al. 2024, section 3): each channel of the latent is
    squashed to its number of levels and rounded, the gradient passing straight through; a code is
    the combination of the rounded values. There is no codebook to learn and none to collapse.
    """

    def __init__(self, config: MaskCodecConfig) -> None:
        super().__init__()
        self.config = config
        width, steps = config.width, int(math.log2(config.stride))
        down: list[nn.Module] = [nn.Conv2d(config.num_classes, width, 3, padding=1), nn.SiLU()]
        up: list[nn.Module] = [nn.Conv2d(len(config.levels), width, 3, padding=1), nn.SiLU()]
        for _ in range(steps):
            down += [nn.Conv2d(width, width, 4, stride=2, padding=1), nn.SiLU()]
            up += [nn.Upsample(scale_factor=2.0), nn.Conv2d(width, width, 3, padding=1), nn.SiLU()]
        self.encoder = nn.Sequential(*down, nn.Conv2d(width, len(config.levels), 1))
        self.decoder = nn.Sequential(*up, nn.Conv2d(width, config.num_classes, 1))
        half = torch.tensor([(n - 1) / 2 for n in config.levels])
        self.reach: Tensor
        self.place: Tensor
        self.register_buffer("reach", half.view(1, -1, 1, 1), persistent=False)
        place = [math.prod(config.levels[:i]) for i in range(len(config.levels))]
        self.register_buffer("place", torch.tensor(place).view(1, -1, 1, 1), persistent=False)

    def latent(self, mask: Mask) -> Float[Tensor, "b d c_h c_w"]:
        """Rounded latent in [-1, 1], differentiable; unknown pixels are zeros to the encoder.

        Raises:
            ValueError: if height or width is not a multiple of the stride.
        """
        h, w = mask.shape[-2:]
        if h % self.config.stride or w % self.config.stride:
            raise ValueError(
                f"mask height and width must be multiples of {self.config.stride}, got {h}x{w}; "
                "pad with transforms.pad_to_multiple."
            )
        known = mask != IGNORE
        one_hot = F.one_hot(mask.where(known, 0), self.config.num_classes).movedim(-1, 1)
        z = self.encoder((one_hot * known[:, None]).float()).tanh() * self.reach
        rounded: Tensor = (z + (z.round() - z).detach()) / self.reach
        return rounded

    def encode(self, mask: Mask) -> Codes:
        """The code of each block, 0 to ``num_codes - 1``."""
        digits = (self.latent(mask) * self.reach).round().long() + self.reach.long()
        codes: Tensor = (digits * self.place).sum(1)
        return codes

    def known(self, mask: Mask) -> Bool[Tensor, "b c_h c_w"]:
        """Blocks with a known pixel; the codes of the others say nothing."""
        seen = F.max_pool2d((mask != IGNORE)[:, None].float(), self.config.stride)[:, 0]
        return seen > 0

    def decode(self, probs: CodeProbs) -> Logits:
        """Logits of the mask from probabilities of the codes, by the expected latent."""
        latent = torch.einsum("bnhw,nd->bdhw", probs, self.table())
        logits: Tensor = self.decoder(latent)
        return logits

    def table(self) -> Float[Tensor, "n d"]:
        """Latent of each code."""
        codes = torch.arange(self.config.num_codes, device=self.reach.device)
        levels = torch.tensor(self.config.levels, device=codes.device)
        digits = codes[:, None] // self.place.flatten() % levels  # n d
        return digits / self.reach.flatten() - 1

    def forward(self, mask: Mask) -> Logits:
        """The mask through the codec."""
        logits: Tensor = self.decoder(self.latent(mask))
        return logits
