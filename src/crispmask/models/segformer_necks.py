"""The two decoders of SegFormer: all stages at one width and at stride 4, fused into one map."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

NeckName = Literal["mmseg", "transformers"]


class Neck(nn.Module):
    """Normalised and rectified per stage, finest stage first.

    The decoder of SegFormer (Xie et al. 2021, section 3.2) as mmsegmentation builds it and DDPS
    therefore has it.
    """

    def __init__(self, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(_conv_norm_relu(width, channels) for width in widths)
        self.fuse = _conv_norm_relu(len(widths) * channels, channels)

    def forward(self, maps: Sequence[Tensor]) -> Float[Tensor, "b c f_h f_w"]:
        """Features of the size of the first map."""
        same = [conv(x) for conv, x in zip(self.stages, maps, strict=True)]
        fused: Tensor = self.fuse(_joined(same))
        return fused


class PlainNeck(nn.Module):
    """Bare projections per stage, coarsest stage first.

    The decoder as NVIDIA published it and transformers has it; its weights are those of
    ``SegformerDecodeHead``.
    """

    def __init__(self, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in widths)
        self.fuse = _conv_norm_relu(len(widths) * channels, channels)

    def forward(self, maps: Sequence[Tensor]) -> Float[Tensor, "b c f_h f_w"]:
        """Features of the size of the first map."""
        same = [conv(x) for conv, x in zip(self.stages, maps, strict=True)]
        fused: Tensor = self.fuse(_joined(same, reverse=True))
        return fused


NECKS: dict[NeckName, Callable[[Sequence[int], int], nn.Module]] = {
    "mmseg": Neck,
    "transformers": PlainNeck,
}


def _joined(maps: Sequence[Tensor], *, reverse: bool = False) -> Tensor:
    """All maps at the size of the first, as channels of one."""
    size = maps[0].shape[-2:]
    same = [F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in maps]
    return torch.cat(same[::-1] if reverse else same, dim=1)


def _conv_norm_relu(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU())
