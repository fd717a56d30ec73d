"""MaskRefiner: better masks from any segmenter's output (DDPS, Lai et al. 2023)."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from crispmask.data.transforms import block_mean, pad_to_multiple, resize_labels
from crispmask.diffusion.categorical import (
    AbsorbingDiffusion,
    UniformDiffusion,
    image_generators,
)
from crispmask.diffusion.mixed import MixedDiffusion, Process
from crispmask.diffusion.samplers import Denoise, MaskSample, Order, guided, sample_mask
from crispmask.diffusion.schedules import SCHEDULES, Schedule
from crispmask.errors import InputError
from crispmask.models.checkpoint import Pretrained
from crispmask.models.evidence import (
    as_known,
    check_known_size,
    commonest,
    pasted,
    without,
)
from crispmask.models.inference import autocast, evaluating
from crispmask.models.inputs import as_base_output, as_image, check_same_size
from crispmask.models.probabilities import gated, log_smoothed, smooth
from crispmask.models.refiner_config import RefinerConfig, Sampling, start_time
from crispmask.models.refiner_parts import Bound, Condition, RefinerOutput, State
from crispmask.models.segmenters import BaseOutput
from crispmask.nn.layers import standardized_once
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
        return Condition(stem=self.network.condition(cond), log_base=log_base, known=known)

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

    @torch.inference_mode()
    def forward(
        self,
        image: Any,
        base: Any,
        *,
        num_inference_steps: int = 1,
        guidance_scale: float = 1.0,
        eta: float = 0.0,
        start: Any = "noise",
        average_last: int = 1,
        seed: int = 0,
        gate: float | None = None,
        estimate: Literal["argmax", "sample"] = "argmax",
        order: Order = "random",
        known: Any = None,
        missing: Any = None,
        names: list[str] | None = None,
        keep_trace: bool = False,
    ) -> RefinerOutput:
        """Refined masks.

        Args:
            image: path, PIL image, h w 3 array, or tensor (b) 3 h w in [0, 1].
            base: labels, probabilities, logits, a `BaseOutput`, a model output with ``logits`` or
                the path of one of these; of the image's size.
            num_inference_steps: calls of the network, exactly.
            guidance_scale: see `Sampling`, as the next four.
            eta: 0 re-noises the estimate freely between calls, 1 takes exact ancestral steps.
            start: begin with pure "noise", with the labels of the "base", noised, or with other
                labels in their place: a mask of the image's size, of the frame before for instance,
                `IGNORE` where there is none.
            average_last: calls at the end whose probabilities are averaged.
            seed: seeds each image's noise, together with its name.
            gate: share of the base in the answer; the model's own by default, 0 is off.
            estimate: see `Sampling`, as the next.
            order: of what a masked state takes over.
            known: labels that are certain, `IGNORE` (255) elsewhere: a path, array or tensor of the
                image's size. They stand in the state at every call and in the answer. Without any
                the answer is exactly that of ``known=None``.
            missing: True where neither image nor base is to be believed, under a cloud for
                instance: an array or tensor of the image's size. A refiner that was trained with
                holes fills them.
            names: one for each image of the batch; their position by default.
            keep_trace: also return the labels after each call.

        Raises:
            InputError: if image or base cannot be used, or they do not fit each other.
        """
        sampling = Sampling(
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            eta=eta,
            start=cast(Any, start) if isinstance(start, str) else "base",
            average_last=average_last,
            seed=seed,
            gate=gate,
            estimate=estimate,
            order=order,
        )
        pixels, given = self.inputs(image, base)
        first = None if isinstance(start, str) else self._labels(start, given)
        if names is not None and len(names) != len(pixels):
            raise InputError(f"{len(pixels)} images need as many names, got {len(names)}.")
        certain = self.known(known, given)
        if missing is not None:
            pixels, given = without(pixels, given, self._labels(missing, given) > 0)
        generators = image_generators(seed, names or [str(i) for i in range(len(pixels))])
        with self.inferring():
            padded, seen = self.pad(pixels, self.visible(given))
            state = None if certain is None else self.known_state(certain)
            bound = self.bind(padded, seen, guidance_scale=guidance_scale, known=state)
            x_start = self.start(seen, bound.log_base, sampling, generators, mask=first)
            result = self.sample(
                bound.denoise, x_start, sampling, generators, keep_trace=keep_trace
            )
        return RefinerOutput(
            probs=self.answer(result.logits, bound.log_base, given, gate=gate, known=certain),
            trace=result.trace,
            num_calls=result.num_calls,
        )

    def inputs(self, image: Any, base: Any) -> tuple[Image, BaseOutput]:
        """Image and base output as tensors on this model's device, checked.

        Raises:
            InputError: if one cannot be used, or they do not fit each other.
        """
        device = next(self.parameters()).device
        pixels = as_image(image).to(device)
        given = as_base_output(base, num_classes=len(self.config.class_names))
        given = BaseOutput(
            probs=given.probs.to(device).float(),
            features=None if given.features is None else given.features.to(device),
        )
        check_same_size(pixels, given)
        return pixels, given

    def known(self, known: Any, base: BaseOutput) -> Mask | None:
        """Labels that are certain, checked; None if there are none.

        Raises:
            InputError: if they do not fit the base output, an id is no class, or this model's state
                is one of codes, which no single label fixes.
        """
        if known is None:
            return None
        labels = self._labels(known, base)
        if (labels == IGNORE).all():
            return None
        if self.codec is not None:
            raise InputError(
                "known labels need a refiner whose state is one of labels; this one diffuses the "
                "codes of a learned codec. Use a refiner without codec."
            )
        if (labels != IGNORE).all():
            warnings.warn(
                "every pixel is known: the answer is the known mask itself.", stacklevel=3
            )
        elif not self.config.network.evidence:
            warnings.warn(
                "this refiner was trained without known labels and hardly follows them beyond "
                "their own pixels; use one that was trained with evidence.",
                stacklevel=3,
            )
        return labels

    def known_state(self, known: Mask) -> State:
        """Known labels at the size of the padded state: the commonest of each block's."""
        padded, k = self._padded(known), len(self.config.class_names)
        return commonest(padded, self.config.stride, num_classes=k)

    def _labels(self, labels: Any, base: BaseOutput) -> Mask:
        """Labels that a user gives, checked, on the device of the base output."""
        mask = as_known(labels, num_classes=len(self.config.class_names))
        check_known_size(mask, base)
        return mask.to(base.probs.device)

    def _padded(self, mask: Mask) -> Int64[Tensor, "b p_h p_w"]:
        """A mask with the sides that `condition` takes."""
        h, w = mask.shape[-2:]
        multiple = self.config.stride * self.network.config.stride
        return F.pad(mask, (0, -w % multiple, 0, -h % multiple), value=IGNORE)

    @contextmanager
    def inferring(self) -> Iterator[None]:
        """Evaluation mode, filters standardised once, bf16 where the device has it."""
        device = next(self.parameters()).device
        with evaluating(self), standardized_once(self), autocast(device):
            yield

    def bind(
        self,
        image: Image,
        base: BaseOutput,
        *,
        guidance_scale: float,
        known: State | None = None,
    ) -> Bound:
        """The denoiser with this condition; both halves of guidance run as one batch."""
        cond = self.condition(image, base, known=known)
        if guidance_scale == 1:
            return Bound(lambda x_t, t: self.state_logits(x_t, cond, t), cond.log_base)
        if not self.config.condition_dropout:
            warnings.warn(
                f"guidance_scale is {guidance_scale}, but this model was trained without condition "
                "dropout and has no unconditional answer to be guided from; leave it at 1.",
                stacklevel=3,
            )
        none = self.condition(image, base, keep=torch.zeros(len(image), device=image.device))
        both = Condition(
            stem=torch.cat([cond.stem, none.stem]),
            log_base=torch.cat([cond.log_base, none.log_base]),
            known=None if known is None else known.repeat(2, 1, 1),
        )

        def pair(x_t: Mask, t: Time) -> tuple[Logits, Logits]:
            logits = self.state_logits(x_t.repeat(2, 1, 1), both, t.repeat(2))
            first, second = logits.chunk(2)
            return first, second

        return Bound(guided(pair, guidance_scale), cond.log_base)

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

    def start(
        self,
        base: BaseOutput,
        log_base: Logits,
        sampling: Sampling,
        generators: list[torch.Generator],
        *,
        mask: Int64[Tensor, "b image_h image_w"] | None = None,
    ) -> State:
        """The state of the first call.

        Args:
            base: `visible` output, padded.
            log_base: its log-probabilities at the size of the state.
            sampling: says what to start from.
            generators: one per image.
            mask: labels that stand in place of the base's, at the size of the image.
        """
        b, _, h, w = log_base.shape
        if sampling.start == "noise":
            return self.process.prior((b, h, w), generator=generators, device=log_base.device)
        t = torch.full((b,), start_time(sampling), device=log_base.device)
        given = None if mask is None else self.state(self._padded(mask))
        clean = self.base_state(base, log_base) if given is None else given
        return self.process.forward(clean, t, generator=generators)

    def sample(
        self,
        denoise: Denoise,
        x_start: Mask,
        sampling: Sampling,
        generators: list[torch.Generator],
        *,
        keep_trace: bool = False,
    ) -> MaskSample:
        """Run the chain at the size of the state."""
        return sample_mask(
            self.process,
            denoise,
            x_start,
            num_inference_steps=sampling.num_inference_steps,
            start_time=start_time(sampling),
            eta=sampling.eta,
            estimate=sampling.estimate,
            order=sampling.order,
            average_last=sampling.average_last,
            generator=generators,
            keep_trace=keep_trace,
        )

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
        probs /= probs.sum(1, keepdim=True)
        return probs

    def _enlarge(self, delta: Float[Tensor, "b n s_h s_w"]) -> Float[Tensor, "b k p_h p_w"]:
        if self.codec is not None:
            return self.codec.decode(delta.softmax(1))
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
