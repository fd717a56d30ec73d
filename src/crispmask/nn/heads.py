"""What is read off a denoising U-Net's features: scores of words, presence, and a mask."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from crispmask.nn.block_features import level_strides, level_widths
from crispmask.shapes import Features, Image, Logits

COARSEST = 4
"""Largest stride, in latent cells, of the features that words are compared with."""

Words = Float[Tensor, "k d"]
"""Unit vectors, one for each word."""


@dataclass(frozen=True, kw_only=True)
class AlignHeadConfig:
    """Size of an `AlignHead`.

    Attributes:
        block_widths: ``block_out_channels`` of the U-Net's configuration.
        text_width: channels of the text vectors.
        width: channels in which pixels and words are compared.
        sharpness: r of the pooling; 0 would be the mean over pixels, infinity the maximum.
    """

    block_widths: tuple[int, ...]
    text_width: int
    width: int = 256
    sharpness: float = 5.0

    def __post_init__(self) -> None:
        if not self.block_widths or min(*self.block_widths, self.text_width, self.width) < 1:
            raise ValueError(
                f"widths must be positive, got block_widths={self.block_widths}, "
                f"text_width={self.text_width} and width={self.width}."
            )
        if not self.sharpness > 0:
            raise ValueError(f"sharpness must be positive, got {self.sharpness}.")


class AlignHead(nn.Module):
    """Cosine of pixels and words, ``a(x) = tau <p(x), u> + b``, and a presence logit per word.

    Pixels are the outputs of the up blocks at strides 1 to `COARSEST`, each projected to unit
    vectors and weighted. Weighting and resizing are linear, so the levels are fused once, before
    any word is known, and K words cost one product of a K x `width` matrix.
    """

    def __init__(self, config: AlignHeadConfig) -> None:
        super().__init__()
        self.config = config
        widths, strides = level_widths(config.block_widths), level_strides(config.block_widths)
        names = [n for n in widths if n.startswith("up_") and strides[n] <= COARSEST]
        self.project = nn.ModuleDict({n: nn.Conv2d(widths[n], config.width, 1) for n in names})
        self.weight = nn.Parameter(torch.zeros(len(names)))
        self.word = nn.Linear(config.text_width, config.width)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))  # as in SigLIP
        self.bias = nn.Parameter(torch.tensor(-2.0))  # one pixel in eight, before training
        self.presence_scale = nn.Parameter(torch.ones(()))
        self.presence_bias = nn.Parameter(torch.zeros(()))

    def pixels(self, features: Mapping[str, Tensor]) -> Float[Tensor, "b d h w"]:
        """Fused pixel vectors at the size of the latent; their length is at most 1.

        Args:
            features: outputs of the blocks by name, as `block_features` and `TextPathway` give.
        """
        size = features[max(self.project)].shape[-2:]  # the last block has the latent's size
        fused = torch.zeros(())
        for (name, project), weight in zip(
            self.project.items(), self.weight.softmax(0), strict=True
        ):
            level = F.normalize(project(features[name]), dim=1)
            fused = fused + weight * F.interpolate(
                level, size=size, mode="bilinear", align_corners=False
            )
        return fused

    def words(self, texts: Float[Tensor, "k t"]) -> Words:
        """Unit vectors of the pooled outputs of a text encoder."""
        return F.normalize(self.word(texts), dim=1)

    def scores(self, pixels: Float[Tensor, "b d h w"], words: Words) -> Logits:
        """Logit of each word at each pixel."""
        cosine = torch.einsum("bdhw,kd->bkhw", pixels, words)
        return self.log_scale.exp() * cosine + self.bias

    def presence(self, scores: Logits) -> Float[Tensor, "b k"]:
        """Logit that a word has any pixel, from the scores of its pixels.

        ``1/r log mean exp(r a)``, the log-sum-exp pooling of Pinheiro and Collobert (2015, eq. 2),
        then a learned scale and offset.
        """
        r, n = self.config.sharpness, scores.shape[-2] * scores.shape[-1]
        pooled = ((r * scores).flatten(2).logsumexp(2) - math.log(n)) / r
        return self.presence_scale * pooled + self.presence_bias

    def rank(
        self, pixels: Float[Tensor, "b d h w"], words: Words, *, chunk: int = 64
    ) -> Float[Tensor, "b k"]:
        """Presence logits of many words; score maps exist for `chunk` words at a time only."""
        chunks = [words[i : i + chunk] for i in range(0, len(words), chunk)]
        return torch.cat([self.presence(self.scores(pixels, w)) for w in chunks], 1)


@dataclass(frozen=True, kw_only=True)
class LightDecoderConfig:
    """Size of a `LightDecoder`.

    Attributes:
        latent_channels: of the predicted clean latent.
        feature_channels: of the U-Net's last up block, ``block_out_channels[0]``.
        factor: pixels per latent cell along each side, a power of two from 2.
        width: channels at the latent's size; halved at each doubling, down to 32.
    """

    latent_channels: int
    feature_channels: int
    factor: int = 8
    width: int = 128

    def __post_init__(self) -> None:
        if min(self.latent_channels, self.feature_channels) < 1:
            raise ValueError(
                f"channels must be positive, got latent_channels={self.latent_channels} and "
                f"feature_channels={self.feature_channels}."
            )
        if self.factor < 2 or self.factor & (self.factor - 1):
            raise ValueError(f"factor must be a power of two from 2, got {self.factor}.")
        if self.width < 8 or self.width & (self.width - 1):
            raise ValueError(f"width must be a power of two from 8, got {self.width}.")


class ConvBlock(nn.Module):
    """Two 3x3 convolutions with group norm and SiLU beside a shortcut."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, padding=1),
            nn.GroupNorm(8, c_out),
            nn.SiLU(),
            nn.Conv2d(c_out, c_out, 3, padding=1),
            nn.GroupNorm(8, c_out),
            nn.SiLU(),
        )
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Features) -> Float[Tensor, "b c_out h w"]:
        shortcut: Tensor = self.shortcut(x)
        body: Tensor = self.body(x)
        return shortcut + body


class LightDecoder(nn.Module):
    """Mask logits from the clean latent, the U-Net's last features, and the image.

    It takes the place of the VAE's decoder, of which it needs about one percent. The image joins
    at half its size with the 2 x 2 pixels of a cell as channels, and each cell answers for its
    four pixels, so that borders are drawn at full size and convolutions run at half of it.
    """

    def __init__(self, config: LightDecoderConfig) -> None:
        super().__init__()
        self.config = config
        doublings = int(math.log2(config.factor)) - 1
        least = min(32, config.width)
        widths = [max(config.width >> i, least) for i in range(doublings + 1)]
        self.latent = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.features = nn.Sequential(
            nn.LayerNorm(config.feature_channels),
            nn.Linear(config.feature_channels, widths[0]),
        )
        self.image = nn.Conv2d(12, widths[-1], 3, padding=1)
        self.first = ConvBlock(widths[0], widths[0])
        self.blocks = nn.ModuleList(ConvBlock(a, b) for a, b in pairwise(widths))
        self.last = ConvBlock(2 * widths[-1], widths[-1])
        self.out = nn.Conv2d(widths[-1], 4, 3, padding=1)

    def forward(
        self,
        z_0: Float[Tensor, "b c z_h z_w"],
        features: Float[Tensor, "b f z_h z_w"],
        image: Image,
    ) -> Float[Tensor, "b 1 h w"]:
        """Logits of foreground against background at the size of the image.

        Raises:
            ValueError: if the image is not `factor` times as large as the latent.
        """
        h, w = image.shape[-2:]
        zh, zw = z_0.shape[-2:]
        if (h, w) != (zh * self.config.factor, zw * self.config.factor):
            raise ValueError(
                f"an image {self.config.factor} times the latent is needed, so "
                f"{zh * self.config.factor}x{zw * self.config.factor}, got {h}x{w}."
            )
        z_0 = z_0.contiguous(memory_format=torch.channels_last)  # a third faster on a CPU
        x = self.latent(z_0) + self.features(features.movedim(1, -1)).movedim(-1, 1)
        x = self.first(x)
        for block in self.blocks:
            x = block(F.interpolate(x, scale_factor=2.0))
        cells = F.pixel_unshuffle(2 * image - 1, 2)  # b 12 h/2 w/2
        guide = self.image(cells.contiguous(memory_format=torch.channels_last))
        x = self.last(torch.cat([x, guide], dim=1))
        logits: Tensor = F.pixel_shuffle(self.out(x), 2)
        return logits
