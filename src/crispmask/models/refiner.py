"""MaskRefiner: better masks from any segmenter's output (DDPS, Lai et al. 2023)."""

import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from crispmask.data.transforms import block_mean, pad_to_multiple
from crispmask.diffusion.categorical import (
    AbsorbingDiffusion,
    UniformDiffusion,
    image_generators,
)
from crispmask.diffusion.samplers import Denoise, guided, sample_mask
from crispmask.diffusion.schedules import SCHEDULES
from crispmask.errors import InputError
from crispmask.models.checkpoint import Pretrained
from crispmask.models.segmenters import (
    BaseOutput,
    as_base_output,
    as_image,
    check_same_size,
    evaluating,
)
from crispmask.nn.layers import standardized_once
from crispmask.nn.unet import MaskUNet, MaskUNetConfig, Stem
from crispmask.shapes import Image, Logits, Mask, Probs, Time

SMOOTHING = 0.01
"""Share of uniform probability mixed into a base output, so that its logarithm is finite."""


@dataclass(frozen=True, kw_only=True)
class RefinerConfig:
    """What a `MaskRefiner` is made of.

    Attributes:
        class_names: names in the order of the ids.
        network: size of the denoiser; `condition_channels` says what its cond_channels must be.
        conditioning: "probs" reads the image and the base's probabilities or labels and works
            behind any segmenter; "features" reads the base's feature maps, as the paper does.
        stride: pixels of the image per pixel of the diffused mask, along each side.
        process: how labels are corrupted; "absorbing" needs one state more than classes.
        schedule: survival of a label over time.
        residual: predict a change of the base's log-probabilities instead of logits.
        feature_channels: channels of the base's features ("features" only).
        condition_dropout: share of training images that were shown without condition; guidance
            needs some.
        temperature: divides the logits of the answer; fitted on held-out images, it makes the
            probabilities honest and changes no label (Guo et al. 2017).
    """

    class_names: tuple[str, ...]
    network: MaskUNetConfig
    conditioning: Literal["probs", "features"] = "probs"
    stride: int = 2
    process: Literal["uniform", "absorbing"] = "uniform"
    schedule: Literal["linear", "cosine"] = "linear"
    residual: bool = True
    feature_channels: int = 0
    condition_dropout: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        k = self.network.num_classes
        for name, known in (
            ("conditioning", ("probs", "features")),
            ("process", ("uniform", "absorbing")),
            ("schedule", tuple(SCHEDULES)),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be {' or '.join(known)}, got {getattr(self, name)!r}."
                )
        if len(self.class_names) != k:
            raise ValueError(
                f"class_names has {len(self.class_names)} names, the network {k} classes; "
                "give one name for each class."
            )
        if self.stride not in (1, 2, 4):
            raise ValueError(f"stride must be 1, 2 or 4, got {self.stride}.")
        if (self.conditioning == "features") != (self.feature_channels > 0):
            raise ValueError(
                'feature_channels belongs to conditioning "features" and must then be positive, '
                f"got {self.feature_channels} with {self.conditioning!r}."
            )
        states = k + (self.process == "absorbing")
        if self.network.num_states != states:
            raise ValueError(
                f"the {self.process} process over {k} classes has {states} states, the network "
                f"has num_states={self.network.num_states}."
            )
        want = condition_channels(
            self.conditioning, k, stride=self.stride, feature_channels=self.feature_channels
        )
        if self.network.cond_channels != want:
            raise ValueError(
                f"the condition has {want} channels, the network cond_channels="
                f"{self.network.cond_channels}; set it to {want}."
            )
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}.")
        if not 0 <= self.condition_dropout < 1:
            raise ValueError(f"condition_dropout must lie in [0, 1), got {self.condition_dropout}.")


def condition_channels(
    conditioning: str, num_classes: int, *, stride: int, feature_channels: int = 0
) -> int:
    """Channels of the condition: the features, or colours of the pixels and probabilities."""
    if conditioning == "features":
        return feature_channels
    return 3 * stride**2 + num_classes


@dataclass(frozen=True)
class Condition:
    """Everything about one batch that does not change between calls of the denoiser.

    Attributes:
        stem: the condition's share of the network's first layer.
        log_base: log-probabilities of the base at the size of the state, b k h/stride w/stride.
    """

    stem: Stem
    log_base: Logits


@dataclass(frozen=True)
class RefinerOutput:
    """A refined mask.

    Attributes:
        probs: class probabilities at the size of the image, b k h w.
        trace: labels at the size of the state after each call, if asked for.
        num_calls: how often the network was called.
    """

    probs: Probs
    trace: tuple[Int64[Tensor, "b _ _"], ...]
    num_calls: int

    @property
    def labels(self) -> Mask:
        """The most probable class of each pixel, b h w."""
        return self.probs.argmax(1)

    @property
    def uncertainty(self) -> Float[Tensor, "b h w"]:
        """Entropy of ``probs`` over its maximum log(k): 0 is certain, 1 is a guess."""
        return entropy(self.probs)


class MaskRefiner(nn.Module, Pretrained):
    """A diffusion prior over masks that corrects the output of a segmenter.

    ``MaskRefiner.from_pretrained("earth-small")`` loads a model; calling it with an image and a
    base output gives a `RefinerOutput`.
    """

    config_class = RefinerConfig
    part = "refiner"

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        self.config = config
        self.network = MaskUNet(config.network)
        if config.residual:
            nn.init.zeros_(self.network.classifier.weight)
            assert self.network.classifier.bias is not None
            nn.init.zeros_(self.network.classifier.bias)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def process(self) -> UniformDiffusion | AbsorbingDiffusion:
        """The forward process of this model."""
        classes, schedule = self.config.network.num_classes, SCHEDULES[self.config.schedule]
        if self.config.process == "absorbing":
            return AbsorbingDiffusion(classes, schedule)
        return UniformDiffusion(classes, schedule)

    def condition(
        self,
        image: Image,
        base: BaseOutput,
        *,
        keep: Float[Tensor, "b"] | Bool[Tensor, "b"] | None = None,
    ) -> Condition:
        """What the denoiser is told of an image and its base output.

        Args:
            image: sides are multiples of ``stride * network.stride``.
            base: output for this image.
            keep: images of the batch that keep their condition; the others get zeros in its place
                and a uniform base, as guidance is trained.
        """
        stride = self.config.stride
        probs = block_mean(base.probs, stride)  # b k h/s w/s
        if self.config.conditioning == "features":
            if base.features is None:
                raise InputError(
                    'this refiner reads the features of its base (conditioning="features"), but '
                    "the base output has none; use its base segmenter, or a refiner with "
                    'conditioning="probs".'
                )
            channels = base.features.shape[1]
            if channels != self.config.feature_channels:
                raise InputError(
                    f"this refiner reads {self.config.feature_channels} feature channels, the base "
                    f"gives {channels}; use the base segmenter that it was trained with."
                )
            cond = F.interpolate(
                base.features, size=probs.shape[-2:], mode="bilinear", align_corners=False
            )
        else:
            pixels = F.pixel_unshuffle((image - 0.5) * 4, stride)  # b 3ss h/s w/s
            cond = torch.cat([pixels, probs], dim=1)
        log_base = log_smoothed(probs)
        if keep is not None:
            weight = keep.to(cond.dtype).view(-1, 1, 1, 1)
            cond, log_base = cond * weight, log_base * weight
        return Condition(stem=self.network.condition(cond), log_base=log_base)

    def denoise(self, x_t: Mask, condition: Condition, t: Time) -> Logits:
        """What the network adds to the base's log-probabilities (or its logits), b k h/s w/s."""
        delta: Logits = self.network(x_t, condition.stem, t)
        return delta

    def state_logits(self, x_t: Mask, condition: Condition, t: Time) -> Logits:
        """Logits of the clean mask at the size of the state."""
        delta = self.denoise(x_t, condition, t)
        return condition.log_base + delta if self.config.residual else delta

    @torch.inference_mode()
    def forward(
        self,
        image: Any,
        base: Any,
        *,
        num_inference_steps: int = 1,
        guidance_scale: float = 1.0,
        eta: float = 0.0,
        seed: int = 0,
        names: list[str] | None = None,
        keep_trace: bool = False,
    ) -> RefinerOutput:
        """Refined masks.

        Args:
            image: path, PIL image, h w 3 array, or tensor (b) 3 h w in [0, 1].
            base: labels, probabilities, logits, a `BaseOutput`, a model output with ``logits`` or
                the path of one of these; of the image's size.
            num_inference_steps: calls of the network, exactly.
            guidance_scale: s in ``uncond + s (cond - uncond)``; 1 is off.
            eta: 0 re-noises the estimate freely between calls, 1 takes exact ancestral steps.
            seed: seeds each image's noise, together with its name.
            names: one for each image of the batch; their position by default.
            keep_trace: also return the labels after each call.

        Raises:
            InputError: if image or base cannot be used, or they do not fit each other.
        """
        config = self.config
        if num_inference_steps < 1:
            raise InputError(f"num_inference_steps must be at least 1, got {num_inference_steps}.")
        if guidance_scale != 1 and not config.condition_dropout:
            warnings.warn(
                f"guidance_scale is {guidance_scale}, but this model was trained without condition "
                "dropout and has no unconditional answer to be guided from; leave it at 1.",
                stacklevel=2,
            )
        device = next(self.parameters()).device
        pixels = as_image(image).to(device)
        given = as_base_output(base, num_classes=config.network.num_classes)
        given = BaseOutput(
            probs=given.probs.to(device).float(),
            features=None if given.features is None else given.features.to(device),
        )
        check_same_size(pixels, given)
        if names is not None and len(names) != len(pixels):
            raise InputError(f"{len(pixels)} images need as many names, got {len(names)}.")
        generators = image_generators(seed, names or [str(i) for i in range(len(pixels))])
        padded, padded_base = self.pad(pixels, given)
        with evaluating(self), standardized_once(self), autocast(device):
            cond = self.condition(padded, padded_base)
            none = None
            if guidance_scale != 1:
                off = torch.zeros(len(pixels), device=device)
                none = self.condition(padded, padded_base, keep=off)
            denoise = self._bind(cond, none, guidance_scale)
            size = (len(pixels), *cond.log_base.shape[-2:])
            result = sample_mask(
                self.process,
                denoise,
                self.process.prior(size, generator=generators, device=device),
                num_inference_steps=num_inference_steps,
                eta=eta,
                generator=generators,
                keep_trace=keep_trace,
            )
        answer = result.logits.float()
        change = answer - cond.log_base if config.residual else answer
        probs = self.answer_probs(change, given.probs)
        return RefinerOutput(
            probs=probs,
            trace=result.trace,
            num_calls=result.num_calls,
        )

    def answer_logits(
        self,
        delta: Float[Tensor, "b k s_h s_w"],
        base: Probs,
        *,
        keep: Bool[Tensor, "b"] | None = None,
    ) -> Logits:
        """Logits of the clean mask at the size of the image, differentiable, b k h w.

        Args:
            delta: what `denoise` gave, b k h/s w/s.
            base: probabilities of the base, b k h w.
            keep: as in `condition`.
        """
        h, w = base.shape[-2:]
        up: Logits = self._enlarge(delta)[..., :h, :w]
        if not self.config.residual:
            return up
        log_base = log_smoothed(base)
        if keep is not None:
            log_base = log_base * keep.view(-1, 1, 1, 1)
        logits: Logits = up + log_base
        return logits

    def answer_probs(self, delta: Float[Tensor, "b k s_h s_w"], base: Probs) -> Probs:
        """Softmax of `answer_logits` over the temperature, without a logarithm at full size."""
        temperature = self.config.temperature
        if not self.config.residual:
            plain: Probs = (self.answer_logits(delta, base) / temperature).softmax(1)
            return plain
        h, w = base.shape[-2:]
        delta = (delta - delta.amax(1, keepdim=True)) / temperature  # at most 0: exp is safe
        probs = self._enlarge(delta)[..., :h, :w].exp()
        smoothed = smooth(base)
        probs *= smoothed if temperature == 1 else smoothed.pow(1 / temperature)
        probs /= probs.sum(1, keepdim=True)
        return probs

    def _enlarge(self, delta: Float[Tensor, "b k s_h s_w"]) -> Float[Tensor, "b k p_h p_w"]:
        scale = float(self.config.stride)
        up: Tensor = F.interpolate(delta, scale_factor=scale, mode="bilinear", align_corners=False)
        return up

    def pad(
        self, image: Image, base: BaseOutput
    ) -> tuple[Float[Tensor, "b 3 p_h p_w"], BaseOutput]:
        """Both with sides that `condition` takes; features stay where they belong."""
        config, multiple = self.config, self.network.config.stride
        padded, (h, w) = pad_to_multiple(image, config.stride * multiple)
        probs, _ = pad_to_multiple(base.probs, config.stride * multiple)
        features = base.features
        if features is not None and config.conditioning == "features":
            size = (-(-h // config.stride), -(-w // config.stride))
            features = F.interpolate(features, size=size, mode="bilinear", align_corners=False)
            features, _ = pad_to_multiple(features, multiple)
        return padded, BaseOutput(probs=probs, features=features)

    def _bind(self, cond: Condition, none: Condition | None, guidance_scale: float) -> Denoise:
        """The denoiser with its conditions; both halves of guidance run as one batch."""
        if none is None:
            return lambda x_t, t: self.state_logits(x_t, cond, t)
        both = Condition(
            stem=torch.cat([cond.stem, none.stem]),
            log_base=torch.cat([cond.log_base, none.log_base]),
        )

        def pair(x_t: Mask, t: Time) -> tuple[Logits, Logits]:
            logits = self.state_logits(x_t.repeat(2, 1, 1), both, t.repeat(2))
            first, second = logits.chunk(2)
            return first, second

        return guided(pair, guidance_scale)


def smooth(probs: Probs) -> Probs:
    """The probabilities with `SMOOTHING` of the uniform distribution mixed in."""
    return (1 - SMOOTHING) * probs + SMOOTHING / probs.shape[1]


def log_smoothed(probs: Probs) -> Logits:
    """Logarithm of the smoothed probabilities; finite where a class has probability 0."""
    return smooth(probs).log()


def entropy(probs: Probs) -> Float[Tensor, "b h w"]:
    """Entropy per pixel over its maximum log(k): 0 is certain, 1 is a guess."""
    nats: Tensor = torch.special.entr(probs).sum(1)
    return (nats / math.log(probs.shape[1])).clamp(0, 1)


def autocast(device: torch.device) -> torch.autocast:
    """Mixed precision in bf16 where the device computes in it natively, else off."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        fast = device.type == "cpu" and (
            torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        )
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=fast)
