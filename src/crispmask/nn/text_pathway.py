"""A second way for words into a U-Net, parallel to its own cross-attention."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from crispmask.nn.block_features import block_features, level_widths
from crispmask.shapes import Features

States = Float[Tensor, "b n d"]
"""Token states of a text encoder, one text per row."""

Tokens = Bool[Tensor, "b n"]
"""True for tokens, False for padding."""


@dataclass(frozen=True, kw_only=True)
class TextPathwayConfig:
    """Size of a `TextPathway`.

    Attributes:
        block_widths: ``block_out_channels`` of the U-Net's configuration.
        text_width: channels of the token states; they need not come from the U-Net's own encoder.
        width: channels inside the attention, for all heads together.
        heads: of the attention.
    """

    block_widths: tuple[int, ...]
    text_width: int
    width: int = 256
    heads: int = 4

    def __post_init__(self) -> None:
        if not self.block_widths or min(*self.block_widths, self.text_width, self.heads) < 1:
            raise ValueError(
                f"widths and heads must be positive, got block_widths={self.block_widths}, "
                f"text_width={self.text_width} and heads={self.heads}."
            )
        if self.width < 1 or self.width % self.heads:
            raise ValueError(
                f"width must be a multiple of the heads, got {self.width} and {self.heads}."
            )


class TextAdapter(nn.Module):
    """``x + tanh(g) CrossAttention(LayerNorm(x), text)``, the identity while ``g = 0``.

    The gate is that of Flamingo (Alayrac et al. 2022, section 2.2). It starts at zero, the
    attention does not, so that the gate has a gradient from the first step on.
    """

    def __init__(self, channels: int, text_width: int, *, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, width, bias=False)
        self.key_value = nn.Linear(text_width, 2 * width, bias=False)
        self.out = nn.Linear(width, channels)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x: Features, states: States, tokens: Tokens | None) -> Features:
        b, _, h, w = x.shape
        q = self.query(self.norm(x.flatten(2).transpose(1, 2)))  # b h*w width
        k, v = self.key_value(states).chunk(2, dim=-1)  # b n width
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        mask = None if tokens is None else tokens[:, None, None, :]  # b 1 1 n
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # b heads h*w d
        y = self.gate.tanh() * self.out(y.transpose(1, 2).flatten(2))  # b h*w c
        changed: Features = x + y.transpose(1, 2).reshape(b, -1, h, w).to(x.dtype)
        return changed


class TextPathway(nn.Module):
    """An adapter behind every block of a diffusers U-Net: down, mid and up, at all its scales.

    While the gates are zero the U-Net's output is the same to the last bit. A down block's output
    is changed on its way on and where it skips to the up path; see `block_features`.
    """

    def __init__(self, config: TextPathwayConfig) -> None:
        super().__init__()
        self.config = config
        self.adapters = nn.ModuleDict(
            {
                name: TextAdapter(
                    channels, config.text_width, width=config.width, heads=config.heads
                )
                for name, channels in level_widths(config.block_widths).items()
            }
        )

    def attached(
        self, unet: Any, states: States, tokens: Bool[Tensor, "_ _"] | None = None
    ) -> AbstractContextManager[dict[str, Features]]:
        """Inside ``with``, calls of the U-Net see these texts; gives the changed block outputs.

        Args:
            unet: a `UNet2DConditionModel` of the widths in the configuration.
            states: a text for each row of the U-Net's batch.
            tokens: which states are tokens; None where all are.

        Raises:
            ValueError: if the U-Net has other widths, the states another width or another number
                of texts than the mask, or a text has no token at all.
        """
        if tuple(unet.config.block_out_channels) != self.config.block_widths:
            raise ValueError(
                f"the text pathway was made for a U-Net of widths {self.config.block_widths}, "
                f"this one has {tuple(unet.config.block_out_channels)}; make another pathway."
            )
        if states.shape[2] != self.config.text_width:
            raise ValueError(
                f"token states need {self.config.text_width} channels, got {states.shape[2]}."
            )
        if tokens is not None and tokens.shape != states.shape[:2]:
            raise ValueError(
                f"the token mask needs the shape {tuple(states.shape[:2])} of the states, "
                f"got {tuple(tokens.shape)}."
            )
        if tokens is not None and not tokens.any(1).all():
            raise ValueError("each text needs a token, if only that of its beginning.")
        return self._attached(unet, states, tokens)

    @contextmanager
    def _attached(
        self, unet: Any, states: States, tokens: Tokens | None
    ) -> Iterator[dict[str, Features]]:
        def change(name: str, x: Features) -> Features:
            if len(x) != len(states):
                raise ValueError(
                    f"the U-Net's batch has {len(x)} rows but there are {len(states)} texts; "
                    "repeat the one or the other."
                )
            changed: Features = self.adapters[name](x, states, tokens)
            return changed

        with block_features(unet, change) as features:
            yield features
