"""What a segmenter answers, whatever it is, and a small segmenter of our own."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from crispmask.data.sample import check_ids
from crispmask.data.transforms import pad_to_multiple
from crispmask.errors import InputError
from crispmask.models.checkpoint import Pretrained
from crispmask.models.inference import evaluating
from crispmask.nn.fpn import FPN, FPNConfig
from crispmask.shapes import IGNORE, Image, Logits, Mask, Probs

BaseFeatures = Float[Tensor, "b c f_h f_w"]
"""Feature maps behind a base output, smaller than the image."""


@dataclass(frozen=True)
class BaseOutput:
    """Class probabilities of a segmenter and, if it gives them, the features behind them.

    Attributes:
        probs: class probabilities at the size of the image, b k h w.
        features: feature maps at a quarter of the size that the network saw, b c h/4 w/4.
    """

    probs: Probs
    features: BaseFeatures | None = None

    @property
    def labels(self) -> Mask:
        """The most probable class of each pixel."""
        return self.probs.argmax(1)

    @classmethod
    def from_labels(cls, labels: Integer[Tensor, "b h w"], *, num_classes: int) -> Self:
        """One-hot probabilities; pixels of label 255 are unknown: all classes equally likely.

        Raises:
            InputError: if an id is neither a class nor 255.
        """
        labels = labels.long()
        check_ids(labels, num_classes, source="the base output")
        known = labels != IGNORE
        one_hot = F.one_hot(torch.where(known, labels, 0), num_classes).movedim(-1, 1)
        uniform = torch.full((), 1 / num_classes, device=labels.device)
        return cls(probs=torch.where(known[:, None], one_hot.float(), uniform))

    @classmethod
    def from_logits(cls, logits: Logits) -> Self:
        """Softmax of the logits.

        Raises:
            InputError: if a value is not finite.
        """
        check_finite(logits, "logits")
        return cls(probs=logits.float().softmax(1))

    @classmethod
    def from_probs(cls, probs: Probs) -> Self:
        """Probabilities as they are, scaled to sum to one exactly.

        Raises:
            InputError: if a value is not finite or negative, or a pixel's sum is off by over 2 %.
        """
        check_finite(probs, "probabilities")
        probs = probs.float()
        total = probs.sum(1, keepdim=True)
        low, worst = probs.min().item(), (total - 1).abs().max().item()
        if low < 0 or worst > 0.02:
            raise InputError(
                "probabilities must be at least 0 and sum to 1 over the classes, got a minimum of "
                f"{low:.3g} and a sum that is off by {worst:.3g}; give softmax outputs, or logits "
                "through BaseOutput.from_logits."
            )
        return cls(probs=probs / total)


def check_finite(values: Tensor, name: str) -> None:
    if not finite_range(values):
        count = (~torch.isfinite(values)).sum().item()
        raise InputError(
            f"{name} must be finite, got {count} NaN or infinite values; repair the segmenter that "
            "made them (a half-precision overflow is the usual cause)."
        )


def finite_range(values: Tensor) -> tuple[float, float] | None:
    """Smallest and largest value in one pass; None if any is NaN or infinite."""
    low, high = (bound.item() for bound in values.aminmax())
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


Segmenter = Callable[[Image], BaseOutput]


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig:
    """What an `FPNSegmenter` is made of.

    Attributes:
        class_names: names in the order of the ids.
        network: size of the network.
        scale: factor by which images are resized before the network sees them.
    """

    class_names: tuple[str, ...]
    network: FPNConfig
    scale: float = 1.0

    def __post_init__(self) -> None:
        if len(self.class_names) != self.network.num_classes:
            raise ValueError(
                f"class_names has {len(self.class_names)} names, the network "
                f"{self.network.num_classes} classes; give one name for each class."
            )
        if not 0 < self.scale <= 4:
            raise ValueError(f"scale must lie in (0, 4], got {self.scale}.")


class FPNSegmenter(nn.Module, Pretrained):
    """EfficientNet-Lite0 with a feature pyramid, called on images of any size."""

    config_class = SegmenterConfig
    part = "base"

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        self.network = FPN(config.network)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def feature_channels(self) -> int:
        """Channels of the features."""
        return int(self.config.network.channels)

    def logits(self, image: Image) -> tuple[Logits, BaseFeatures]:
        """Logits at the size of ``image`` (differentiable) and the stride-4 features."""
        h, w = image.shape[-2:]
        x = image
        if self.config.scale != 1:
            size = (max(1, round(h * self.config.scale)), max(1, round(w * self.config.scale)))
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
        inner = x.shape[-2:]
        x, _ = pad_to_multiple(x, FPN.stride)
        logits, features = self.network(x.contiguous(memory_format=torch.channels_last))
        logits = F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)
        logits = logits[..., : inner[0], : inner[1]]
        if inner != (h, w):
            logits = F.interpolate(logits, size=(h, w), mode="bilinear", align_corners=False)
        fh, fw = -(-inner[0] // 4), -(-inner[1] // 4)
        return logits, features[..., :fh, :fw]

    @torch.inference_mode()
    def forward(self, image: Image) -> BaseOutput:
        """Probabilities at the size of ``image``, with features; batch norm is never updated."""
        with evaluating(self):
            logits, features = self.logits(image.to(next(self.parameters()).device))
        return BaseOutput(probs=logits.softmax(1), features=features)


def flip_average(segmenter: Segmenter, image: Image) -> BaseOutput:
    """Mean of the probabilities of the image and of its mirror image."""
    plain, mirrored = segmenter(image), segmenter(image.flip(-1))
    return BaseOutput(probs=(plain.probs + mirrored.probs.flip(-1)) / 2, features=plain.features)
