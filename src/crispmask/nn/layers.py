"""Building blocks of the mask U-Net."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from crispmask.shapes import Features, Time

HEADS = 4
HEAD_WIDTH = 32


def time_embedding(t: Time, width: int, *, scale: float) -> Float[Tensor, "b d"]:
    """Sines and cosines of ``scale * (1 - t)``, the transformer's position code.

    The embedded number is 0 at pure noise and ``scale`` at a clean mask, which is the direction in
    which DDPS (Lai et al. 2023) counts; its integer time with T steps is ``scale = T - 1``.
    """
    half = width // 2
    ramp = torch.arange(half, device=t.device, dtype=torch.float32) / max(half - 1, 1)
    angles = scale * (1 - t.float())[:, None] * torch.exp(-math.log(1e4) * ramp)  # b d/2
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class StandardizedConv2d(nn.Conv2d):
    """Convolution whose filters have mean 0 and variance 1 (Qiao et al. 2019, eq. 4)."""

    keep = False
    kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.kept
        if weight is None:
            weight = self.standardized(1e-5 if x.dtype == torch.float32 else 1e-3)
            self.kept = weight if self.keep else None
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)

    def standardized(self, eps: float) -> Tensor:
        """The filters that are used."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        return (self.weight - mean) * torch.rsqrt(variance + eps)


@contextmanager
def standardized_once(model: nn.Module) -> Iterator[None]:
    """Inside, each filter of ``model`` is standardised at the first call only."""
    convs = [m for m in model.modules() if isinstance(m, StandardizedConv2d)]
    for conv in convs:
        conv.keep = True
    try:
        yield
    finally:
        for conv in convs:
            conv.keep, conv.kept = False, None


class Modulated(nn.Module):
    """3x3 convolution, group norm, optional scale and shift from the time, SiLU."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = StandardizedConv2d(c_in, c_out, 3, padding=1)
        self.norm = nn.GroupNorm(8, c_out)

    def forward(self, x: Tensor, film: tuple[Tensor, Tensor] | None = None) -> Tensor:
        x = self.norm(self.conv(x))
        if film is not None:
            scale, shift = film
            x = torch.addcmul(shift, x, 1 + scale)
        return F.silu(x)


class ResidualBlock(nn.Module):
    """Two modulated convolutions beside a shortcut; the time acts on the first (FiLM)."""

    def __init__(self, c_in: int, c_out: int, time_width: int) -> None:
        super().__init__()
        self.film = nn.Sequential(nn.SiLU(), nn.Linear(time_width, 2 * c_out))
        self.first = Modulated(c_in, c_out)
        self.second = Modulated(c_out, c_out)
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Features, time: Float[Tensor, "b d"]) -> Float[Tensor, "b c_out h w"]:
        scale, shift = self.film(time)[:, :, None, None].chunk(2, dim=1)  # b c 1 1
        y: Tensor = self.second(self.first(x, (scale, shift)))
        shortcut: Tensor = self.shortcut(x)
        return y + shortcut


class ChannelNorm(nn.Module):
    """Layer norm over channels with a gain and no bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Features) -> Features:
        eps = 1e-5 if x.dtype == torch.float32 else 1e-3
        variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
        return (x - mean) * torch.rsqrt(variance + eps) * self.gain


class Attention(nn.Module):
    """Residual self-attention over all pixels; memory grows with pixels (fused kernels)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = HEADS * HEAD_WIDTH
        self.norm = ChannelNorm(channels)
        self.qkv = nn.Conv2d(channels, 3 * hidden, 1, bias=False)
        self.out = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Features) -> Features:
        b, _, h, w = x.shape
        qkv = self.qkv(self.norm(x)).flatten(2).view(b, 3, HEADS, HEAD_WIDTH, h * w)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # b heads n d
        y = F.scaled_dot_product_attention(q, k, v)
        y = y.transpose(-1, -2).reshape(b, -1, h, w)
        projected: Tensor = self.out(y)
        return x + projected


class LinearAttention(nn.Module):
    """Residual attention whose cost is linear in pixels (Shen et al. 2021, section 3.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = HEADS * HEAD_WIDTH
        self.norm = ChannelNorm(channels)
        self.qkv = nn.Conv2d(channels, 3 * hidden, 1, bias=False)
        self.out = nn.Sequential(nn.Conv2d(hidden, channels, 1), ChannelNorm(channels))

    def forward(self, x: Features) -> Features:
        b, _, h, w = x.shape
        qkv = self.qkv(self.norm(x)).flatten(2).view(b, 3, HEADS, HEAD_WIDTH, h * w)
        q, k, v = qkv.unbind(1)  # b heads d n
        q = q.softmax(dim=-2) * HEAD_WIDTH**-0.5
        k = k.softmax(dim=-1)
        context = k @ (v / (h * w)).transpose(-1, -2)  # b heads d d
        y = (context.transpose(-1, -2) @ q).reshape(b, -1, h, w)
        projected: Tensor = self.out(y)
        return x + projected
