"""The denoiser: a noisy mask, a condition and a time in, logits of the clean mask out."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from crispmask.nn.layers import Attention, LinearAttention, ResidualBlock, time_embedding
from crispmask.shapes import IGNORE, Features, Logits, Mask, Time

Stem = Float[Tensor, "b d n_h n_w"]
"""The condition after the first layer; a position covers ``patch_size`` pixels each way."""


@dataclass(frozen=True, kw_only=True)
class MaskUNetConfig:
    """Size of a `MaskUNet`. The defaults are the small network; `paper` gives the published one.

    Attributes:
        num_classes: labels a mask may take, without the ignore label.
        cond_channels: channels of the condition, at the size of the mask.
        num_states: labels a noisy mask may take; one more than the classes if pixels can be masked.
        widths: channels per level, multiples of 8; each level halves height and width.
        up_widths: channels per level on the way up, as the way down if empty; the middle has the
            last of them. The paper's wider networks have (1, 1, 2) and (1, 2, 4) times a width.
        depth: residual blocks before each skip connection.
        linear_attention: attend at every level, not only at the coarsest.
        patch_size: pixels of the mask that share one position inside the network.
        embed_dim: channels of the label table.
        embed_trained: whether the label table is learned; the paper keeps it random.
        stem_kernel: side of the first convolution.
        head_channels: width of the layer before the classifier; 0 leaves that layer out.
        dropout: share of channels dropped before the classifier while training.
        time_scale: number that stands for a clean mask in the time embedding.
        state_input: False takes the noisy mask away: the control of every comparison.
        evidence: some labels may be known for certain; they stand in the noisy mask, marked by a
            learned vector, and a map of how near each class is known enters the stem. With
            ``state_input`` False the labels stand alone.
    """

    num_classes: int
    cond_channels: int
    num_states: int = 0
    widths: tuple[int, ...] = (32, 48, 64)
    up_widths: tuple[int, ...] = ()
    depth: int = 1
    linear_attention: bool = False
    patch_size: int = 1
    embed_dim: int = 8
    embed_trained: bool = True
    stem_kernel: int = 3
    head_channels: int = 0
    dropout: float = 0.0
    time_scale: float = 100.0
    state_input: bool = True
    evidence: bool = False

    def __post_init__(self) -> None:
        if not self.num_states:
            object.__setattr__(self, "num_states", self.num_classes)
        if self.num_classes < 2:
            raise ValueError(
                f"num_classes must be at least 2, got {self.num_classes}: "
                "a binary mask has two classes, background and foreground."
            )
        if self.num_states not in (self.num_classes, self.num_classes + 1):
            raise ValueError(
                f"num_states must be num_classes ({self.num_classes}) or one more for the masked "
                f"state, got {self.num_states}."
            )
        if not self.widths or any(w % 8 or w < 8 for w in (*self.widths, *self.up_widths)):
            raise ValueError(
                f"widths must be multiples of 8, got {self.widths} and {self.up_widths}."
            )
        if len(self.up_widths) not in (0, len(self.widths)):
            raise ValueError(
                f"up_widths needs a width per level ({len(self.widths)}), got {self.up_widths}."
            )
        if self.stem_kernel % 2 == 0 or min(self.depth, self.patch_size, self.embed_dim) < 1:
            raise ValueError(
                "stem_kernel must be odd, depth, patch_size and embed_dim at least 1, got "
                f"{self.stem_kernel}, {self.depth}, {self.patch_size} and {self.embed_dim}."
            )
        if self.head_channels < 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                "head_channels must be at least 0 and dropout lie in [0, 1), got "
                f"{self.head_channels} and {self.dropout}."
            )
        if not self.time_scale > 0:
            raise ValueError(
                f"time_scale must be positive, got {self.time_scale}: it is T - 1 for a chain of "
                "T steps, of which there are at least two."
            )

    @property
    def stride(self) -> int:
        """Sides of a mask must be multiples of this."""
        return int(self.patch_size * 2 ** (len(self.widths) - 1))


def paper(num_classes: int, *, cond_channels: int = 256, width: int = 256) -> MaskUNetConfig:
    """The network of DDPS (Lai et al. 2023): 256 wide for MiT-B2 and larger, 128 for MiT-B0."""
    return MaskUNetConfig(
        num_classes=num_classes,
        cond_channels=cond_channels,
        widths=(width, width, width),
        depth=2,
        linear_attention=True,
        embed_dim=16,
        embed_trained=False,
        stem_kernel=7,
        head_channels=256,
        dropout=0.1,
        time_scale=99.0,
    )


class Level(nn.Module):
    """Residual blocks, attention and a change of size."""

    def __init__(
        self, blocks: list[ResidualBlock], attention: nn.Module, resize: nn.Module
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attention = attention
        self.resize = resize


class MaskUNet(nn.Module):
    """U-Net over label embeddings, modulated by time.

    The shape of DDPS's denoiser (Lai et al. 2023): embedding and condition meet in the stem; each
    level has residual blocks with skips on both sides; full attention at the coarsest level.
    The stem is linear, so the condition's part of it is computed once per image (`condition`).
    """

    def __init__(self, config: MaskUNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, up_widths = config.widths, config.up_widths or config.widths
        depth, patch = config.depth, config.patch_size
        time_width = 4 * widths[0]
        self.time = nn.Sequential(
            nn.Linear(widths[0] // 2 * 2, time_width), nn.GELU(), nn.Linear(time_width, time_width)
        )
        kernel, padding = config.stem_kernel, config.stem_kernel // 2
        cond = config.cond_channels * patch**2
        self.stem = nn.Conv2d(cond, widths[0], kernel, padding=padding)
        if config.state_input or config.evidence:
            self.embed = nn.Embedding(config.num_states, config.embed_dim)
            self.embed.weight.requires_grad_(config.embed_trained)
            embed = config.embed_dim * patch**2
            self.stem_state = nn.Conv2d(embed, widths[0], kernel, padding=padding, bias=False)
        if config.evidence:
            self.certain = nn.Parameter(torch.zeros(config.embed_dim))
            near = config.num_classes * patch**2
            self.stem_near = nn.Conv2d(near, widths[0], kernel, padding=padding, bias=False)

        def attend(width: int) -> nn.Module:
            return LinearAttention(width) if config.linear_attention else nn.Identity()

        last = len(widths) - 1
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for i, width in enumerate(widths):
            after = widths[i + 1] if i < last else up_widths[-1]
            shrink = (
                nn.Conv2d(width, after, 4, stride=2, padding=1)
                if i < last
                else nn.Conv2d(width, after, 3, padding=1)
            )
            blocks = [ResidualBlock(width, width, time_width) for _ in range(depth)]
            self.down.append(Level(blocks, attend(width), shrink))
        for i in range(last, -1, -1):
            width, after = up_widths[i], up_widths[i - 1] if i else widths[0]
            grow: nn.Module = nn.Conv2d(width, after, 3, padding=1)
            if i:
                grow = nn.Sequential(nn.Upsample(scale_factor=2.0), grow)
            joined = width + widths[i]
            blocks = [ResidualBlock(joined, width, time_width) for _ in range(depth)]
            self.up.append(Level(blocks, attend(width), grow))
        middle = up_widths[-1]
        self.middle_in = ResidualBlock(middle, middle, time_width)
        self.middle_attention = Attention(middle)
        self.middle_out = ResidualBlock(middle, middle, time_width)
        self.final = ResidualBlock(2 * widths[0], widths[0], time_width)
        hidden = config.head_channels or widths[0]
        self.head = nn.Conv2d(widths[0], hidden, 1) if config.head_channels else nn.Identity()
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = nn.Conv2d(hidden, config.num_classes * patch**2, 1)

    def condition(self, cond: Features) -> Stem:
        """The condition's share of the stem, to be computed once and passed to every call.

        Raises:
            ValueError: if height or width is not a multiple of ``config.stride``.
        """
        h, w = cond.shape[-2:]
        stride = self.config.stride
        if h % stride or w % stride:
            raise ValueError(
                f"mask height and width must be multiples of {stride}, got {h}x{w}; "
                f"pad to {h + -h % stride}x{w + -w % stride} with transforms.pad_to_multiple."
            )
        patches = F.pixel_unshuffle(cond, self.config.patch_size)
        stem: Tensor = self.stem(patches.contiguous(memory_format=torch.channels_last))
        return stem

    @torch.no_grad()
    def ignore_time(self) -> None:
        """Answer at every time as at 0, until training changes that."""
        first = cast(nn.Linear, self.time[0])
        zero = torch.zeros(1, device=first.weight.device)
        at_zero = time_embedding(zero, first.in_features, scale=self.config.time_scale)
        first.bias.copy_(first(at_zero)[0])
        first.weight.zero_()

    def informed(self, stem: Stem, near: Float[Tensor, "b k h w"]) -> Stem:
        """The stem with the share of what is known, given how near each class is known."""
        added: Tensor = self.stem_near(F.pixel_unshuffle(near, self.config.patch_size))
        return stem + added

    def forward(self, x_t: Mask, stem: Stem, t: Time, known: Mask | None = None) -> Logits:
        """Logits of the clean mask, given ``stem = condition(cond)``.

        Args:
            x_t: the noisy mask.
            stem: of the condition.
            t: its time.
            known: labels that are certain, `IGNORE` elsewhere; they stand in place of the noisy
                ones.
        """
        config = self.config
        x = stem
        if config.state_input or (config.evidence and known is not None):
            labels = self._labels(x_t, known).movedim(-1, 1)  # b e h w
            x = x + self.stem_state(F.pixel_unshuffle(labels, config.patch_size))
        if not config.state_input:
            t = torch.zeros_like(t)  # the control knows neither mask nor time
        time = self.time(time_embedding(t, config.widths[0], scale=config.time_scale))  # b d
        start, skips = x, []
        for level in cast(Iterable[Level], self.down):
            for i, block in enumerate(level.blocks):
                x = block(x, time)
                if i == config.depth - 1:
                    x = level.attention(x)
                skips.append(x)
            x = level.resize(x)
        x = self.middle_out(self.middle_attention(self.middle_in(x, time)), time)
        for level in cast(Iterable[Level], self.up):
            for block in level.blocks:
                x = block(torch.cat([x, skips.pop()], dim=1), time)
            x = level.attention(x)
            x = level.resize(x)
        x = self.final(torch.cat([x, start], dim=1), time)
        logits: Tensor = self.classifier(self.dropout(self.head(x)))
        return F.pixel_shuffle(logits, config.patch_size)

    def _labels(self, x_t: Mask, known: Mask | None) -> Float[Tensor, "b h w e"]:
        """Vectors of the labels of the state, and of those that are certain."""
        labels: Tensor
        if known is None:
            labels = self.embed(x_t)
            return labels
        certain = known != IGNORE
        labels = self.embed(torch.where(certain, known, x_t))
        if not self.config.state_input:
            labels = labels * certain[..., None]
        if self.config.evidence:
            labels = labels + self.certain * certain[..., None]
        return labels
