"""What a `MaskRefiner` is made of."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from crispmask.diffusion.samplers import Order, check_options, timesteps
from crispmask.diffusion.schedules import SCHEDULES
from crispmask.errors import InputError
from crispmask.models.probabilities import check_gate
from crispmask.nn.mask_codec import MaskCodecConfig
from crispmask.nn.unet import MaskUNetConfig

Conditioning = Literal["probs", "features", "logits", "mask", "none"]
"""What the denoiser is told of image and base output, beside the noisy mask.

- probs: the pixels and the base's probabilities or labels; works behind any segmenter.
- features: the base's feature maps, as in DDPS (Lai et al. 2023).
- logits: the base's log-probabilities alone, without the image.
- mask: the base's labels alone.
- none: nothing; the model is then a prior over masks.
"""

ProcessName = Literal["uniform", "absorbing", "mixed"]
"""How labels are corrupted: replaced by uniform ones, masked, or half of each."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a chain of calls is run, and what is made of its answer.

    Attributes:
        num_inference_steps: calls of the network, exactly.
        guidance_scale: s in ``uncond + s (cond - uncond)`` (Ho and Salimans 2022); 1 is off.
        eta: 0 re-noises the estimate freely between calls, 1 takes exact ancestral steps.
        start: "noise" begins with pure noise; "base" with the base's labels, noised to
            N / (N + 1), in place of the first prediction.
        average_last: calls at the end whose probabilities are averaged.
        seed: seeds each image's noise, together with its name.
        gate: share of the base in the answer, 0 (off) to 1 (the base as it is); by default the
            one that the model was calibrated to.
        estimate: "argmax" goes on with the likeliest labels, "sample" with drawn ones, so that
            several seeds give several masks.
        order: of what a masked state takes over: "random" labels or the most "confident"; the
            latter for the absorbing process.
    """

    num_inference_steps: int = 1
    guidance_scale: float = 1.0
    eta: float = 0.0
    start: Literal["noise", "base"] = "noise"
    average_last: int = 1
    seed: int = 0
    gate: float | None = None
    estimate: Literal["argmax", "sample"] = "argmax"
    order: Order = "random"

    def __post_init__(self) -> None:
        if self.start not in ("noise", "base"):
            raise InputError(f"start must be noise or base, got {self.start!r}.")
        if self.estimate not in ("argmax", "sample"):
            raise InputError(f"estimate must be argmax or sample, got {self.estimate!r}.")
        if self.gate is not None:
            check_gate(self.gate)
        if not math.isfinite(self.guidance_scale):
            raise InputError(f"guidance_scale must be a number, got {self.guidance_scale}.")
        timesteps(self.num_inference_steps)  # checks the number
        check_options(self.num_inference_steps, self.eta, self.average_last)


def start_time(sampling: Sampling) -> float:
    """Time of the first call: 1, or N / (N + 1) from the base."""
    steps = sampling.num_inference_steps
    return 1.0 if sampling.start == "noise" else steps / (steps + 1)


@dataclass(frozen=True, kw_only=True)
class RefinerConfig:
    """What a `MaskRefiner` is made of.

    Attributes:
        class_names: names in the order of the ids.
        network: size of the denoiser; `condition_channels` says what its cond_channels must be.
        conditioning: what the denoiser is told of image and base, see `Conditioning`.
        stride: pixels of the image per pixel of the diffused mask, along each side.
        process: how labels are corrupted; "absorbing" and "mixed" need one state more than classes.
        schedule: survival of a label over time.
        residual: predict a change of the base's log-probabilities instead of logits.
        feature_channels: channels of the base's features ("features" only).
        condition_dropout: share of training images that were shown without condition; guidance
            needs some.
        holes: share of training images with a hole, where image and base said nothing; filling
            what is missing needs some.
        temperature: divides the logits of the answer; fitted on held-out images, it makes the
            probabilities honest and changes no label (Guo et al. 2017).
        gate: share of the base in the answer, after the temperature; 0 is off, 1 keeps the base
            as it is. `crispmask.evaluate.calibrate` finds the least that does no harm.
        label_threshold: probability from which a class belongs to a pixel's label set, fitted by
            `crispmask.evaluate.calibrate` to a promised coverage.
        codec: the noisy mask is one of codes, made by a learned codec, instead of labels.
        void_class: class that stands for unknown pixels in the noisy mask, in models that were
            trained with one; never answered but where a user says that it is known.
    """

    class_names: tuple[str, ...]
    network: MaskUNetConfig
    conditioning: Conditioning = "probs"
    stride: int = 2
    process: ProcessName = "uniform"
    schedule: Literal["linear", "cosine"] = "linear"
    residual: bool = True
    feature_channels: int = 0
    condition_dropout: float = 0.0
    holes: float = 0.0
    temperature: float = 1.0
    gate: float = 0.0
    label_threshold: float | None = None
    codec: MaskCodecConfig | None = None
    void_class: int | None = None

    def __post_init__(self) -> None:
        k = len(self.class_names)
        for name, known in (
            ("conditioning", get_args(Conditioning)),
            ("process", get_args(ProcessName)),
            ("schedule", tuple(SCHEDULES)),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be {' or '.join(known)}, got {getattr(self, name)!r}."
                )
        if self.codec is None and self.network.num_classes != k:
            raise ValueError(
                f"class_names has {k} names, the network {self.network.num_classes} classes; "
                "give one name for each class."
            )
        if self.codec is not None:
            self._check_codec(self.codec)
        if self.stride not in (1, 2, 4):
            raise ValueError(f"stride must be 1, 2 or 4, got {self.stride}.")
        if (self.conditioning == "features") != (self.feature_channels > 0):
            raise ValueError(
                'feature_channels belongs to conditioning "features" and must then be positive, '
                f"got {self.feature_channels} with {self.conditioning!r}."
            )
        states = num_states(self.network.num_classes, self.process)
        if self.network.num_states != states:
            raise ValueError(
                f"the {self.process} process over {self.network.num_classes} classes has {states} "
                f"states, the network has num_states={self.network.num_states}."
            )
        want = condition_channels(
            self.conditioning, k, stride=self.stride, feature_channels=self.feature_channels
        )
        if self.network.cond_channels != want:
            raise ValueError(
                f"the condition has {want} channels, the network cond_channels="
                f"{self.network.cond_channels}; set it to {want}."
            )
        if self.residual and self.conditioning == "none":
            raise ValueError('residual needs a base: set it to False with conditioning="none".')
        if self.void_class is not None and not 0 <= self.void_class < k:
            raise ValueError(
                f"void_class must be one of the {k} classes, got {self.void_class}; "
                "leave it out if there is none."
            )
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be positive, got {self.temperature}.")
        check_gate(self.gate)
        if self.label_threshold is not None and not 0 <= self.label_threshold <= 1:
            raise ValueError(f"label_threshold must lie in [0, 1], got {self.label_threshold}.")
        if not 0 <= self.condition_dropout < 1:
            raise ValueError(f"condition_dropout must lie in [0, 1), got {self.condition_dropout}.")
        if not 0 <= self.holes <= 1:
            raise ValueError(f"holes must lie in [0, 1], got {self.holes}.")

    def _check_codec(self, codec: MaskCodecConfig) -> None:
        found = (codec.num_classes, codec.stride, codec.num_codes, False)
        want = (len(self.class_names), self.stride, self.network.num_classes, self.residual)
        if found != want:
            raise ValueError(
                "a codec needs residual=False, and must agree in classes, stride and codes with "
                f"class_names, stride and network.num_classes; got {found[:3]} and {want[:3]}, "
                f"residual={self.residual}."
            )
        if self.void_class is not None:
            raise ValueError("a codec has no void class; leave void_class out.")


def condition_channels(
    conditioning: str, num_classes: int, *, stride: int, feature_channels: int = 0
) -> int:
    """Channels of the condition, at the size of the noisy mask."""
    if conditioning == "features":
        return feature_channels
    if conditioning == "none":
        return 1  # zeros
    return num_classes + (3 * stride**2 if conditioning == "probs" else 0)


def num_states(num_classes: int, process: ProcessName) -> int:
    """Labels a noisy mask may take: the classes, and the masked state where there is one."""
    return num_classes + (process != "uniform")
