"""SegFormer as a base segmenter: transformers' Mix Transformer and the all-MLP neck."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from crispmask.errors import InputError
from crispmask.models.checkpoint import Pretrained
from crispmask.models.inference import evaluating
from crispmask.models.segformer_necks import NECKS, NeckName
from crispmask.models.segmenters import BaseFeatures, BaseOutput
from crispmask.shapes import Image, Logits

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

MULTIPLE = 16
"""Images are padded to multiples of this, with the mean colour, as DDPS (Lai et al. 2023) does."""

SMALLEST = 32
"""Smaller images are padded to this, for attention pools keys over 8 x 8 pixels at stride 4."""

SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "b0": ((32, 64, 160, 256), (2, 2, 2, 2)),
    "b1": ((64, 128, 320, 512), (2, 2, 2, 2)),
    "b2": ((64, 128, 320, 512), (3, 4, 6, 3)),
    "b3": ((64, 128, 320, 512), (3, 4, 18, 3)),
    "b4": ((64, 128, 320, 512), (3, 8, 27, 3)),
    "b5": ((64, 128, 320, 512), (3, 6, 40, 3)),
}
"""Widths and depths of the published Mix Transformers (Xie et al. 2021, table 6)."""


@dataclass(frozen=True, kw_only=True)
class SegformerBaseConfig:
    """What a `SegformerBase` is made of; `mit` gives the published sizes.

    Attributes:
        class_names: names in the order of the ids.
        widths: channels of the four stages, at strides 4, 8, 16 and 32.
        depths: transformer blocks of each stage.
        heads: attention heads of each stage.
        reductions: keys and values are pooled over squares of this side.
        mlp_ratios: hidden width of the blocks' MLPs over the width of the stage.
        neck_channels: channels of the stride-4 features.
        neck: how the stages are fused, "mmseg" or "transformers"; see `NECKS`.
        classifier: whether it can classify; without, it gives features only.
        norm_eps: number under the root of every layer norm of the backbone.
        drop_path: share of residual branches dropped in the deepest block while training.
        dropout: share of channels dropped before the classifier while training.
    """

    class_names: tuple[str, ...]
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...] = (1, 2, 5, 8)
    reductions: tuple[int, ...] = (8, 4, 2, 1)
    mlp_ratios: tuple[int, ...] = (4, 4, 4, 4)
    neck_channels: int = 256
    neck: NeckName = "mmseg"
    classifier: bool = True
    norm_eps: float = 1e-6
    drop_path: float = 0.1
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if len(self.class_names) < 2:
            raise ValueError(
                f"class_names needs at least 2 names, got {list(self.class_names)}: "
                "a binary mask has two classes, background and foreground."
            )
        for name in ("widths", "depths", "heads", "reductions", "mlp_ratios"):
            values = getattr(self, name)
            if len(values) != 4 or min(values) < 1:
                raise ValueError(f"{name} needs a positive number per stage (4), got {values}.")
        if any(w % h for w, h in zip(self.widths, self.heads, strict=True)):
            raise ValueError(
                f"widths must be multiples of heads, got {self.widths} and {self.heads}."
            )
        if self.neck_channels < 1 or self.norm_eps <= 0:
            raise ValueError(
                "neck_channels must be at least 1 and norm_eps positive, got "
                f"{self.neck_channels} and {self.norm_eps}."
            )
        if not (0 <= self.drop_path < 1 and 0 <= self.dropout < 1):
            raise ValueError(
                f"drop_path and dropout must lie in [0, 1), got {self.drop_path}, {self.dropout}."
            )


def mit(size: str, *, class_names: Sequence[str]) -> SegformerBaseConfig:
    """SegFormer with the Mix Transformer of this size, "b0" to "b5".

    Raises:
        InputError: if there is no such size.
    """
    if size not in SIZES:
        raise InputError(f"a Mix Transformer is one of {', '.join(SIZES)}, got {size!r}.")
    widths, depths = SIZES[size]
    return SegformerBaseConfig(class_names=tuple(class_names), widths=widths, depths=depths)


class SegformerBase(nn.Module, Pretrained):
    """SegFormer (Xie et al. 2021), called on images of any size.

    The backbone is transformers' `SegformerModel`, an optional package. Nothing is downloaded:
    the config says everything, weights come from training or from a folder.

    Raises:
        InputError: if transformers is not installed, or too old to have this model's layout.
    """

    config_class = SegformerBaseConfig
    part = "base"
    mean: Tensor
    std: Tensor

    def __init__(self, config: SegformerBaseConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = _backbone(config)
        self.neck = NECKS[config.neck](config.widths, config.neck_channels)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = (
            nn.Conv2d(config.neck_channels, len(config.class_names), 1)
            if config.classifier
            else None
        )
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    @property
    def feature_channels(self) -> int:
        """Channels of the features."""
        return int(self.config.neck_channels)

    def maps(self, pixels: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Feature maps of the four stages at strides 4, 8, 16 and 32, of normalised pixels."""
        output = self.backbone(pixels, output_hidden_states=True)
        return list(output.hidden_states)

    def features(self, image: Image) -> BaseFeatures:
        """Stride-4 features of an image in [0, 1] of any size, b c ceil(h/4) ceil(w/4)."""
        h, w = image.shape[-2:]
        pixels = (image - self.mean) / self.std
        right, below = (max(-side % MULTIPLE, SMALLEST - side) for side in (w, h))
        pixels = F.pad(pixels, (0, right, 0, below))
        fused: Tensor = self.neck(self.maps(pixels))
        return fused[..., : -(-h // 4), : -(-w // 4)]

    def logits(self, image: Image) -> tuple[Logits, BaseFeatures]:
        """Logits at the size of ``image`` (differentiable) and the stride-4 features.

        Raises:
            InputError: if the model has no classifier.
        """
        if self.classifier is None:
            raise InputError(
                "this SegFormer was stored without a classifier and gives features only; "
                "use it as the base of the refiner that was trained with it."
            )
        h, w = image.shape[-2:]
        features = self.features(image)
        coarse = self.classifier(self.dropout(features))
        size = (4 * coarse.shape[-2], 4 * coarse.shape[-1])
        logits = F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
        return logits[..., :h, :w], features

    @torch.inference_mode()
    def forward(self, image: Image) -> BaseOutput:
        """Probabilities at the size of ``image``, with features; batch norm is never updated.

        Without a classifier all classes are equally likely everywhere: the features alone say
        something.
        """
        image = image.to(self.mean.device)
        with evaluating(self):
            if self.classifier is not None:
                logits, features = self.logits(image)
                return BaseOutput(probs=logits.softmax(1), features=features)
            features = self.features(image)
        classes = len(self.config.class_names)
        b, _, h, w = image.shape
        uniform = torch.full((), 1 / classes, device=image.device).expand(b, classes, h, w)
        return BaseOutput(probs=uniform, features=features)


def _backbone(config: SegformerBaseConfig) -> nn.Module:
    """transformers' model, with the layer norms of the config."""
    if importlib.util.find_spec("transformers") is None:
        raise InputError("SegFormer needs transformers; install it: pip install 'crispmask[hf]'.")
    from transformers import SegformerConfig, SegformerModel

    settings: dict[str, Any] = {
        "hidden_sizes": list(config.widths),
        "depths": list(config.depths),
        "num_attention_heads": list(config.heads),
        "sr_ratios": list(config.reductions),
        "mlp_ratios": list(config.mlp_ratios),
        "drop_path_rate": config.drop_path,
    }
    backbone = cast(nn.Module, SegformerModel(SegformerConfig(**settings)))
    if not hasattr(backbone, "stages"):
        raise InputError(
            "SegFormer needs a newer transformers; update it: pip install -U 'crispmask[hf]'."
        )
    for module in backbone.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = config.norm_eps
    return backbone
