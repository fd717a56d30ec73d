"""What a segmenter answers, whatever it is, and a small segmenter of our own."""

import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from crispmask.data.sample import check_ids, read_mask
from crispmask.data.transforms import pad_to_multiple
from crispmask.errors import InputError
from crispmask.models.checkpoint import Pretrained
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
        _check_finite(logits, "logits")
        return cls(probs=logits.float().softmax(1))

    @classmethod
    def from_probs(cls, probs: Probs) -> Self:
        """Probabilities as they are, scaled to sum to one exactly.

        Raises:
            InputError: if a value is not finite or negative, or a pixel's sum is off by over 2 %.
        """
        _check_finite(probs, "probabilities")
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


def _check_finite(values: Tensor, name: str) -> None:
    if not _finite_range(values):
        count = (~torch.isfinite(values)).sum().item()
        raise InputError(
            f"{name} must be finite, got {count} NaN or infinite values; repair the segmenter that "
            "made them (a half-precision overflow is the usual cause)."
        )


def _finite_range(values: Tensor) -> tuple[float, float] | None:
    """Smallest and largest value in one pass; None if any is NaN or infinite."""
    low, high = (bound.item() for bound in values.aminmax())
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


Segmenter = Callable[[Image], BaseOutput]


def as_base_output(base: Any, *, num_classes: int) -> BaseOutput:
    """Whatever a segmenter gave, as a `BaseOutput`.

    Integers are labels (h w or b h w). Floats (k h w or b k h w) are probabilities if they lie in
    [0, 1] and sum to one, logits if any is outside [0, 1]. A path is a label PNG, a ``.npy`` or
    the first array of an ``.npz``. An object with ``logits`` is a model output.

    Raises:
        InputError: if the values or their shape fit none of these.
    """
    if isinstance(base, BaseOutput):
        classes = base.probs.shape[1]
        if classes != num_classes:
            raise InputError(f"the model has {num_classes} classes, the base gives {classes}.")
        _check_finite(base.probs, "probabilities")
        return base
    if isinstance(base, str | Path):
        return as_base_output(_read(Path(base), num_classes), num_classes=num_classes)
    if hasattr(base, "logits"):
        return as_base_output(base.logits, num_classes=num_classes)
    values = _as_tensor(base)
    if values.numel() == 0:
        raise InputError(f"the base output is empty, its shape is {tuple(values.shape)}.")
    if not values.is_floating_point():
        if values.ndim not in (2, 3):
            raise InputError(
                f"labels must have shape (h, w) or (batch, h, w), got {tuple(values.shape)}."
            )
        labels = values.long().reshape(-1, *values.shape[-2:])
        return BaseOutput.from_labels(labels, num_classes=num_classes)
    if values.ndim not in (3, 4) or values.shape[-3] != num_classes:
        raise InputError(
            f"probabilities or logits must have shape ({num_classes}, h, w) or (batch, "
            f"{num_classes}, h, w) for this model's {num_classes} classes, got "
            f"{tuple(values.shape)}."
        )
    values = values.float().reshape(-1, *values.shape[-3:])
    _check_finite(values, "probabilities or logits")
    if values.min() < 0 or values.max() > 1 + 1e-3:
        return BaseOutput.from_logits(values)
    return BaseOutput.from_probs(values)


def _as_tensor(base: Any) -> Tensor:
    if isinstance(base, Tensor):
        values = base
    else:
        array = np.asarray(base)
        if array.dtype.kind not in "biuf":
            raise InputError(
                "a base output must be labels, probabilities or logits: an array or tensor of "
                f"numbers, a BaseOutput, a model output or a path; got {type(base).__name__} "
                f"of {array.dtype}."
            )
        values = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
    if values.is_complex():
        raise InputError(f"a base output must be real numbers, got {values.dtype}.")
    return values


def _read(path: Path, num_classes: int) -> Tensor | np.ndarray[Any, Any]:
    if path.suffix not in (".npy", ".npz"):
        return read_mask(path, num_classes)
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return np.asarray(loaded[loaded.files[0]])
    except _UNREADABLE as error:
        raise InputError(
            f"{path} cannot be read as a NumPy array of numbers ({error}); it is missing, damaged "
            "or empty: write it again with numpy.save."
        ) from error


_UNREADABLE = (OSError, ValueError, IndexError, EOFError, zipfile.BadZipFile, zlib.error)
"""What NumPy raises for files that it cannot read."""


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


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards each module is back in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


class FPNSegmenter(nn.Module, Pretrained):
    """EfficientNet-Lite0 with a feature pyramid, called on images of any size."""

    config_class = SegmenterConfig
    part = "base"

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        self.network = FPN(config.network)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

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


def check_same_size(image: Tensor, base: BaseOutput) -> None:
    """Raise `InputError` unless image and base output agree in batch, height and width."""
    want, got = image.shape, base.probs.shape
    if want[-2:] != got[-2:] or want[0] != got[0]:
        raise InputError(
            f"image and base output must agree in batch and size, got {want[0]} of "
            f"{want[-2]}x{want[-1]} and {got[0]} of {got[-2]}x{got[-1]}; "
            "resize the base output (labels by nearest, scores bilinearly)."
        )


def as_image(image: Any) -> Float[Tensor, "b 3 h w"]:
    """A path, PIL image, h w 3 array (uint8 or [0, 1]) or tensor as a batch of RGB in [0, 1].

    Raises:
        InputError: if it is none of these.
    """
    from PIL import Image as PILImage

    from crispmask.data.sample import read_image

    if isinstance(image, str | Path):
        return read_image(Path(image))[None]
    if isinstance(image, PILImage.Image):
        if image.mode == "F" or image.mode.startswith("I"):
            raise InputError(
                f"a PIL image must have 8 bits per channel, got mode {image.mode}; give its path, "
                "or an array of floats in [0, 1]."
            )
        image = np.asarray(image.convert("RGB"))
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3:
            raise InputError(f"an image array must have shape (h, w, 3), got {image.shape}.")
        image = torch.from_numpy(np.array(image)).movedim(-1, 0)
    if not isinstance(image, Tensor):
        raise InputError(
            "an image must be a path, a PIL image, an array or a tensor, got "
            f"{type(image).__name__}."
        )
    values = image if image.ndim == 4 else image[None]
    if values.ndim != 4 or values.shape[1] != 3 or 0 in values.shape:
        raise InputError(
            f"an image tensor must have shape (3, h, w) or (batch, 3, h, w), got "
            f"{tuple(image.shape)}."
        )
    scale = 1 if values.is_floating_point() else 255
    values = values.float() / scale
    bounds = _finite_range(values)
    if bounds is None or bounds[0] < -1e-3 or bounds[1] > 1 + 1e-3:
        raise InputError(
            "image values must lie in [0, 1], or 0 to 255 if they are integers, got "
            f"{scale * values.min().item():.3g} to {scale * values.max().item():.3g}; "
            "divide by the largest value there can be."
        )
    return values
