"""A small segmentation network with stride-4 features: EfficientNet-Lite0 and a feature pyramid."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from crispmask.nn.efficientnet import LEVEL_CHANNELS, EfficientNetLite0
from crispmask.shapes import Image


@dataclass(frozen=True, kw_only=True)
class FPNConfig:
    """Size of an `FPN`.

    Attributes:
        num_classes: labels that it tells apart.
        channels: width of the pyramid and of the stride-4 features.
    """

    num_classes: int
    channels: int = 64

    def __post_init__(self) -> None:
        if self.num_classes < 2 or self.channels < 1:
            raise ValueError(
                f"an FPN needs at least 2 classes and 1 channel, got num_classes="
                f"{self.num_classes} and channels={self.channels}."
            )


class FPN(nn.Module):
    """Encoder, top-down pathway (Lin et al. 2017) and a sum of all levels at stride 4.

    The sum of levels is the semantic head of Panoptic FPN (Kirillov et al. 2019, section 3.1) with
    one convolution for all levels together; the mean of the top level joins as global context.
    """

    stride = 32

    def __init__(self, config: FPNConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        self.encoder = EfficientNetLite0()
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in LEVEL_CHANNELS)
        self.context = nn.Sequential(nn.Conv2d(LEVEL_CHANNELS[-1], width, 1), nn.ReLU())
        self.smooth = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
            )
            for _ in LEVEL_CHANNELS
        )
        self.fuse = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(width, config.num_classes, 1)

    def forward(
        self, image: Image
    ) -> tuple[Float[Tensor, "b k h//4 w//4"], Float[Tensor, "b c h//4 w//4"]]:
        """Logits and features, both at a quarter of the image's size (sides divide by 32)."""
        maps: list[Tensor] = self.encoder(image)
        top = maps[-1]
        x = self.lateral[-1](top) + self.context(top.mean((2, 3), keepdim=True))
        levels = [self.smooth[-1](x)]
        for i in range(len(maps) - 2, -1, -1):
            x = self.lateral[i](maps[i]) + F.interpolate(x, scale_factor=2.0)
            levels.append(self.smooth[i](x))
        size = levels[-1].shape[-2:]
        merged = torch.stack(
            [F.interpolate(y, size=size, mode="bilinear", align_corners=False) for y in levels]
        ).sum(0)  # b c h/4 w/4
        features = self.fuse(merged)
        return self.classifier(self.dropout(features)), features
