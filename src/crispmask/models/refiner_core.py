"""The network of a `MaskRefiner` with what goes into it and what is made of its answer."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from crispmask.data.transforms import block_mean, pad_to_multiple, resize_labels
from crispmask.diffusion.categorical import AbsorbingDiffusion, UniformDiffusion
from crispmask.diffusion.mixed import MixedDiffusion, Process
from crispmask.diffusion.schedules import SCHEDULES, Schedule
from crispmask.errors import InputError
from crispmask.models.evidence import commonest, pasted, reach
from crispmask.models.probabilities import gated, log_smoothed, smooth
from crispmask.models.refiner_config import RefinerConfig
from crispmask.models.refiner_parts import Condition, State
from crispmask.models.segmenters import BaseOutput
from crispmask.nn.mask_codec import MaskCodec
from crispmask.nn.unet import MaskUNet
from crispmask.shapes import IGNORE, Image, Logits, Mask, Probs, Time

PROCESSES: dict[str, Callable[[int, Schedule], Process]] = {
    "uniform": UniformDiffusion,
    "absorbing": AbsorbingDiffusion,
    "mixed": MixedDiffusion,
}

NEVER = -1e4
"""Logit of a class that is never answered: its softmax is exactly 0, sums with it stay finite."""


class RefinerCore(nn.Module):
    """State and condition in, logits at the size of the state out, and from these an answer.

    What training and every way to run a chain share; `MaskRefiner` is what users call.
    """

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        self.config = config
        self.network = MaskUNet(config.network)
        self.codec: MaskCodec | None = None
        if config.codec is not None:
            self.codec = MaskCodec(config.codec).requires_grad_(False)
        if config.residual:
            nn.init.zeros_(self.network.classifier.weight)
            assert self.network.classifier.bias is not None
            nn.init.zeros_(self.network.classifier.bias)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def process(self) -> Process:
        """The forward process of this model."""
        classes, schedule = self.config.network.num_classes, SCHEDULES[self.config.schedule]
        return PROCESSES[self.config.process](classes, schedule)

    def visible(self, base: BaseOutput) -> BaseOutput:
        """What this refiner may know of a base output: its labels only, if it reads masks."""
        if self.config.conditioning != "mask":
            return base
        return BaseOutput.from_labels(base.labels, num_classes=base.probs.shape[1])

    def condition(
        self,
        image: Image,
        base: BaseOutput,
        *,
        keep: Float[Tensor, "b"] | Bool[Tensor, "b"] | None = None,
        known: State | None = None,
    ) -> Condition:
        """What the denoiser is told of an image and its base output.

        Args:
            image: sides are multiples of ``stride * network.stride``.
            base: `visible` output for this image.
            keep: images of the batch that keep their condition; the others get zeros in its place
                and a uniform base, as guidance is trained.
            known: labels that are certain, at the size of the state, `IGNORE` elsewhere.
        """
        stride, kind = self.config.stride, self.config.conditioning
        probs = block_mean(base.probs, stride)  # b k h/s w/s
        log_base = log_smoothed(probs)
        if kind == "features":
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
        elif kind == "probs":
            pixels = F.pixel_unshuffle((image - 0.5) * 4, stride)  # b 3ss h/s w/s
            cond = torch.cat([pixels, probs], dim=1)
        elif kind == "none":
            cond = torch.zeros_like(probs[:, :1])
        else:
            cond = log_base if kind == "logits" else probs
        if keep is not None:
            weight = keep.to(cond.dtype).view(-1, 1, 1, 1)
            cond, log_base = cond * weight, log_base * weight
        condition = Condition(stem=self.network.condition(cond), log_base=log_base)
        return condition if known is None else self.informed(condition, known)

    def informed(self, condition: Condition, known: State) -> Condition:
        """The condition with labels that are certain, at the size of the state."""
        stem = condition.stem
        if self.config.network.evidence:
            stem = self.network.informed(stem, reach(known, len(self.config.class_names)))
        return replace(condition, stem=stem, known=known)

    def denoise(self, x_t: Mask, condition: Condition, t: Time) -> Logits:
        """What the network adds to the base's log-probabilities (or its logits), b k h/s w/s."""
        delta: Logits = self.network(x_t, condition.stem, t, condition.known)
        return delta

    def state_logits(self, x_t: Mask, condition: Condition, t: Time) -> Logits:
        """Logits of the clean mask at the size of the state; that of the void class is `NEVER`."""
        logits = self.denoise(x_t, condition, t)
        if self.config.residual:
            logits = condition.log_base + logits
        return self._without_void(logits)

    def state(self, mask: Mask) -> State:
        """A mask at the size of the image as a clean state: its labels there, or its codes.

        What is unknown stays `IGNORE`; of codes those of blocks without a known pixel.
        """
        if self.codec is not None:
            return self.codec.encode(mask).where(self.codec.known(mask), IGNORE)
        h, w = mask.shape[-2:]
        return resize_labels(mask, (h // self.config.stride, w // self.config.stride))

    def base_state(self, base: BaseOutput, log_base: Logits) -> State:
        """The base's mask as a clean state."""
        return log_base.argmax(1) if self.codec is None else self.codec.encode(base.labels)

    def known_state(self, known: Mask) -> State:
        """Known labels at the size of the padded state: the commonest of each block's."""
        padded, k = self.padded(known), len(self.config.class_names)
        return commonest(padded, self.config.stride, num_classes=k)

    def padded(self, mask: Mask) -> Int64[Tensor, "b p_h p_w"]:
        """A mask with the sides that `condition` takes."""
        h, w = mask.shape[-2:]
        multiple = self.config.stride * self.network.config.stride
        return F.pad(mask, (0, -w % multiple, 0, -h % multiple), value=IGNORE)

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

    def change(self, logits: Logits, log_base: Float[Tensor, "b _ h w"]) -> Logits:
        """What `sample` added to the base's log-probabilities, or the logits themselves."""
        added = logits.float() - log_base if self.config.residual else logits.float()
        return self._without_void(added)

    def _without_void(self, logits: Logits) -> Logits:
        void = self.config.void_class
        if void is None:
            return logits
        return logits.index_fill(1, torch.tensor([void], device=logits.device), NEVER)

    def answer(
        self,
        logits: Float[Tensor, "b n s_h s_w"],
        log_base: Float[Tensor, "b _ s_h s_w"],
        base: BaseOutput,
        *,
        gate: float | None,
        known: Mask | None = None,
    ) -> Probs:
        """Probabilities at the size of the image, behind the gate, b k h w.

        Args:
            logits: what `sample` gave, at the size of the state.
            log_base: the base's log-probabilities there.
            base: what the base gave for the image.
            gate: share of the base; None is the model's own.
            known: labels that are certain, at the size of the image.
        """
        refined = self.answer_probs(self.change(logits, log_base), self.visible(base).probs)
        answer = gated(refined, base.probs, self.config.gate if gate is None else gate)
        return answer if known is None else pasted(answer, known)

    def answer_logits(
        self,
        delta: Float[Tensor, "b n s_h s_w"],
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

    def answer_probs(self, delta: Float[Tensor, "b n s_h s_w"], base: Probs) -> Probs:
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
        total = probs.sum(1, keepdim=True)
        if not total.all():  # all classes of a pixel below the smallest number
            enlarged = self._enlarge(delta)[..., :h, :w]
            exact: Probs = (enlarged + smoothed.log() / temperature).softmax(1)
            return exact
        probs /= total
        return probs

    def _enlarge(self, delta: Float[Tensor, "b n s_h s_w"]) -> Float[Tensor, "b k p_h p_w"]:
        if self.codec is not None:
            return self.codec.decode(delta.softmax(1))
        scale = float(self.config.stride)
        up: Tensor = F.interpolate(delta, scale_factor=scale, mode="bilinear", align_corners=False)
        return up
