"""MaskRefiner: better masks from any segmenter's output (DDPS, Lai et al. 2023)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from jaxtyping import Int64
from torch import Tensor

from crispmask.diffusion.categorical import image_generators
from crispmask.diffusion.samplers import Denoise, MaskSample, Order, guided, sample_mask
from crispmask.errors import InputError, warn
from crispmask.models.checkpoint import Pretrained
from crispmask.models.evidence import as_labels, as_missing, check_labels_size, told, without
from crispmask.models.inference import autocast, evaluating
from crispmask.models.inputs import as_base_output, as_image, check_same_size, in_order_of
from crispmask.models.refiner_config import RefinerConfig, Sampling, start_time
from crispmask.models.refiner_core import RefinerCore
from crispmask.models.refiner_parts import Bound, Condition, RefinerOutput, State
from crispmask.models.segmenters import BaseOutput
from crispmask.nn.layers import standardized_once
from crispmask.shapes import IGNORE, Image, Logits, Mask, Time


class MaskRefiner(RefinerCore, Pretrained):
    """A diffusion prior over masks that corrects the output of a segmenter.

    ``MaskRefiner.from_pretrained("earth-small")`` loads a model; calling it with an image and a
    base output gives a `RefinerOutput`.
    """

    config_class = RefinerConfig
    part = "refiner"

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
            missing: True, 1 or 255 where neither image nor base is to be believed, under a cloud
                for instance: an array or tensor of the image's size. A refiner that was trained
                with holes fills them.
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
        pixels, given = self.inputs(image, base, missing=missing)
        first = None if isinstance(start, str) else self._labels(start, given, "start")
        if names is not None and len(names) != len(pixels):
            raise InputError(f"{len(pixels)} images need as many names, got {len(names)}.")
        called = names or [str(i) for i in range(len(pixels))]
        certain = self.known(known, given, names=called)
        generators = image_generators(seed, called)
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
            trace=result.trace if state is None else tuple(told(t, state) for t in result.trace),
            num_calls=result.num_calls,
        )

    def inputs(self, image: Any, base: Any, *, missing: Any = None) -> tuple[Image, BaseOutput]:
        """Image and base output as tensors on this model's device, checked.

        Args:
            image: as `forward` takes it.
            base: likewise.
            missing: where both say nothing of their own, likewise.

        Raises:
            InputError: if one cannot be used, or they do not fit each other.
        """
        weight = next(self.parameters())
        if weight.dtype != torch.float32:
            raise InputError(
                f"the weights of a refiner must be float32, got {weight.dtype}; call .float() on "
                "it, on a GPU it computes in bfloat16 by itself."
            )
        device = weight.device
        pixels = as_image(image).to(device)
        names = self.config.class_names
        given = as_base_output(in_order_of(base, names), num_classes=len(names))
        given = BaseOutput(
            probs=given.probs.to(device).float(),
            features=None if given.features is None else given.features.to(device),
        )
        check_same_size(pixels, given)
        if missing is None:
            return pixels, given
        if self.config.conditioning == "features":
            raise InputError(
                "this refiner reads the features of its base, which know what is missing; give "
                "missing pixels to one that reads probabilities."
            )
        hidden = as_missing(missing)
        check_labels_size(hidden, given.probs, what="missing pixels")
        if hidden.any() and not self.config.holes:
            warn(
                "this refiner was trained without holes and only guesses what is missing; use one "
                "that was trained with them (--holes)."
            )
        return without(pixels, given, hidden.to(device))

    def known(self, known: Any, base: BaseOutput, *, names: Sequence[str]) -> Mask | None:
        """Labels that are certain, checked; None if there are none.

        Args:
            known: as `forward` takes it.
            base: checked, as `inputs` gives it.
            names: of the images, for a warning.

        Raises:
            InputError: if they do not fit the base output, an id is no class, or this model's state
                is one of codes, which no single label fixes.
        """
        if known is None:
            return None
        labels = self._labels(known, base, "known labels")
        if (labels == IGNORE).all():
            return None
        if self.codec is not None:
            raise InputError(
                "known labels need a refiner whose state is one of labels; this one diffuses the "
                "codes of a learned codec. Use a refiner without codec."
            )
        decided = (labels != IGNORE).flatten(1).all(1).tolist()
        for name in (name for name, all_known in zip(names, decided, strict=True) if all_known):
            warn(f"every pixel of image {name!r} is known: the answer is the known mask itself.")
        if not all(decided) and not self.config.network.evidence:
            warn(
                "this refiner was trained without known labels and hardly follows them beyond "
                "their own pixels; use one that was trained with evidence."
            )
        return labels

    def _labels(self, labels: Any, base: BaseOutput, what: str) -> Mask:
        """Labels that a user gives, checked, on the device of the base output."""
        classes = len(self.config.class_names)
        mask = as_labels(labels, num_classes=classes, what=what)
        check_labels_size(mask, base.probs, what=what)
        return mask.to(base.probs.device)

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
            return self.bound(cond)
        if not self.config.condition_dropout:
            warn(
                f"guidance_scale is {guidance_scale}, but this model was trained without condition "
                "dropout and has no unconditional answer to be guided from; leave it at 1."
            )
        nothing = torch.zeros(len(image), device=image.device)
        none = self.condition(image, base, keep=nothing, known=known)
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

    def bound(self, condition: Condition) -> Bound:
        """The denoiser with this condition, without guidance."""
        return Bound(lambda x_t, t: self.state_logits(x_t, condition, t), condition.log_base)

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
        given = None if mask is None else self.state(self.padded(mask))
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
