"""MaskPrior: what masks look like, learned from masks alone."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from crispmask.data.masks import shrink
from crispmask.data.regions import Box, regions_of, turns
from crispmask.data.sample import check_ids
from crispmask.diffusion.categorical import image_generators
from crispmask.diffusion.losses import negative_log_likelihood_bound
from crispmask.diffusion.mixed import Process
from crispmask.diffusion.samplers import Denoise, sample_mask
from crispmask.diffusion.schedules import SCHEDULES
from crispmask.errors import InputError
from crispmask.models.checkpoint import Pretrained
from crispmask.models.inference import autocast, evaluating
from crispmask.models.prior_config import PriorConfig
from crispmask.models.refiner_core import PROCESSES
from crispmask.nn.layers import standardized_once
from crispmask.nn.unet import MaskUNet
from crispmask.shapes import IGNORE, Logits, Mask, Time

TIMES = (0.6, 0.8, 0.9)
"""Noise at which `MaskPrior.log_probs` asks; at 0.8 a fifth of the other labels is left."""

TURNS = 4
"""Shares of a mask's regions that `MaskPrior.log_probs` hides in turn."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """A connected region of a mask and how surprising its label is.

    Attributes:
        label: class of the region.
        area: number of pixels.
        box: top, left, bottom and right; the last two are outside.
        bits: mean of ``-log2 p(label)`` over its pixels, given the rest of the mask.
    """

    label: int
    area: int
    box: Box
    bits: float


class MaskPrior(nn.Module, Pretrained):
    """A diffusion model of masks that knows no image.

    It draws masks, fills the unknown part of one, and says which labels of a mask are unlikely
    given the others. ``MaskPrior.from_pretrained("runs/prior")`` loads one.
    """

    config_class = PriorConfig
    part = "prior"

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        self.network = MaskUNet(config.network)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def process(self) -> Process:
        """The forward process of this model."""
        schedule = SCHEDULES[self.config.schedule]
        return PROCESSES[self.config.process](self.config.network.num_classes, schedule)

    def forward(self, x_t: Mask, t: Time) -> Logits:
        """Logits of the clean mask; sides of ``x_t`` are multiples of ``config.network.stride``."""
        nothing = torch.zeros(len(x_t), 1, *x_t.shape[1:], device=x_t.device)
        logits: Logits = self.network(x_t, self.network.condition(nothing), t)
        return logits

    @torch.no_grad()
    def sample(
        self,
        count: int,
        *,
        size: tuple[int, int] | None = None,
        num_inference_steps: int = 50,
        seed: int = 0,
    ) -> Mask:
        """Masks drawn from the model: exact ancestral steps, then the likeliest label.

        Args:
            count: number of masks, drawn as one batch; mask i depends on ``seed`` and i alone.
            size: height and width; about ``config.pixels`` pixels, or a square of so many.
            num_inference_steps: calls of the network, exactly, 1 to 1000; more is better.
            seed: of the noise.

        Raises:
            InputError: if a number is out of range.
        """
        side = max(1, round(self.config.pixels**0.5))
        h, w = size or (side, side)
        if min(count, h, w) < 1:
            raise InputError(
                f"at least one mask of one pixel is needed, got {count} of {h}x{w}; "
                "give positive numbers."
            )
        generators = self._generators(seed, None, count)
        stride, device = self.network.config.stride, self._device()
        shape = (count, h + -h % stride, w + -w % stride)
        with self._inferring():
            start = self.process.prior(shape, generator=generators, device=device)
            logits = self._chain(self, start, num_inference_steps, generators)
        return logits[..., :h, :w].argmax(1)

    @torch.no_grad()
    def complete(self, mask: Tensor, *, num_inference_steps: int = 50, seed: int = 0) -> Mask:
        """The masks with every `IGNORE` pixel filled; known pixels are returned as they are.

        Each call of the network sees the known labels noised to its time, and so one that ends
        soon sees little of them: 1 step ignores them. What is filled in is a sample.

        Args:
            mask: class ids, b h w, `IGNORE` where something is to be filled in.
            num_inference_steps: calls of the network, exactly, 1 to 1000.
            seed: of the noise; mask i of a batch depends on it and i alone.

        Raises:
            InputError: if an id is neither a class nor `IGNORE`, or a number is out of range.
        """
        given = self._checked(mask)
        generators = self._generators(seed, None, len(given))
        small, (h, w) = self._shrunk(given)
        known = small != IGNORE

        def denoise(x_t: Mask, t: Time) -> Logits:
            state = self.process.forward(small, t, generator=generators)
            logits: Logits = self(state.where(known, x_t), t)
            return logits

        with self._inferring():
            b, sh, sw = small.shape
            start = self.process.prior((b, sh, sw), generator=generators, device=small.device)
            logits = self._chain(denoise, start, num_inference_steps, generators)
        truth = F.one_hot(small.where(known, 0), logits.shape[1]).movedim(-1, 1)  # b k sh sw
        probs = logits.softmax(1).where(~known[:, None], truth.float())[..., :h, :w]
        filled = F.interpolate(probs, given.shape[1:], mode="bilinear", align_corners=False)
        return given.where(given != IGNORE, filled.argmax(1))

    @torch.no_grad()
    def log_probs(
        self,
        mask: Tensor,
        *,
        times: Sequence[float] = TIMES,
        seed: int = 0,
        names: Sequence[str] | None = None,
    ) -> Logits:
        """What each pixel's label might be, given the rest of its mask: ``log p(k)``, b k h w.

        A pixel is judged while its whole region is hidden, else a wrong region would speak for
        itself: `TURNS` random shares of the regions are hidden in turn, and the other labels are
        noised to each of the times, so that no detail of the border gives the answer away. The
        result is the mean of the log-probabilities over the times.

        Args:
            mask: class ids, b h w; an `IGNORE` pixel has no region and is hidden always.
            times: noise, each in (0, 1].
            seed: of the noise and of the shares.
            names: one for each mask of the batch, which with the seed decides its randomness;
                their position by default.

        Raises:
            InputError: if an id is neither a class nor `IGNORE`, or a time is out of range.
        """
        if not times or not all(0 < t <= 1 for t in times):
            raise InputError(f"times must lie in (0, 1], got {tuple(times)}.")
        given = self._checked(mask)
        small, (h, w) = self._shrunk(given)
        generators = self._generators(seed, names, len(given))
        turn_of = torch.stack([turns(m, TURNS, g) for m, g in zip(small, generators, strict=True)])
        total = torch.zeros(len(small), self.network.config.num_classes, *small.shape[1:])
        total = total.to(small.device)
        with self._inferring():
            for time in times:
                t = torch.full((len(small),), time, device=small.device)
                for i in range(TURNS):
                    hidden = turn_of.to(small.device) == i
                    state = self.process.forward(
                        small.where(~hidden, IGNORE), t, generator=generators
                    )
                    logits = self(state, t).float().log_softmax(1)
                    total += logits.where(hidden[:, None], 0)
        mean = total[..., :h, :w] / len(times)
        enlarged: Logits = F.interpolate(mean, given.shape[1:], mode="nearest-exact")
        return enlarged

    def plausibility(
        self, mask: Tensor, *, times: Sequence[float] = TIMES, seed: int = 0
    ) -> Float[Tensor, "b h w"]:
        """Log-probability in nats of each label given the rest of its mask; NaN where unknown.

        From `log_probs`, which says how a label is judged, what it takes and what raises.
        """
        given = self._checked(mask)
        log_probs = self.log_probs(given, times=times, seed=seed)
        known = given != IGNORE
        own = log_probs.gather(1, given.where(known, 0)[:, None])[:, 0]
        return own.where(known, math.nan)

    def regions(
        self, mask: Tensor, *, times: Sequence[float] = TIMES, seed: int = 0
    ) -> list[Region]:
        """The connected regions of one mask (h w), the least plausible first.

        From `log_probs`, which says how a label is judged and what raises.
        """
        log_probs = self.log_probs(mask[None], times=times, seed=seed)[0]
        found = regions_of(mask)
        own = found.means(log_probs).gather(1, found.labels[:, None])[:, 0]  # n
        bits = (-own / math.log(2)).tolist()
        regions = [
            Region(label=int(label), area=int(area), box=box, bits=value)
            for label, area, box, value in zip(
                found.labels, found.areas, found.boxes, bits, strict=True
            )
        ]
        return sorted(regions, key=lambda region: -region.bits)

    def bits_per_pixel(
        self, mask: Tensor, *, num_steps: int, seed: int = 0, names: Sequence[str] | None = None
    ) -> Float[Tensor, "b"]:
        """Upper bound of what a known pixel of each mask, resized for the network, costs in bits.

        See `negative_log_likelihood_bound`, which says what raises.

        Args:
            mask: class ids, b h w, `IGNORE` where unknown.
            num_steps: steps of the chain that is bounded, each a call of the network.
            seed: of the noise.
            names: as in `log_probs`.
        """
        small, _ = self._shrunk(self._checked(mask))
        generators = self._generators(seed, names, len(small))
        with self._inferring():
            return negative_log_likelihood_bound(
                self.process, self, small, num_steps=num_steps, generator=generators
            )

    def _chain(
        self, denoise: Denoise, start: Mask, steps: int, generators: list[torch.Generator]
    ) -> Logits:
        result = sample_mask(
            self.process,
            denoise,
            start,
            num_inference_steps=steps,
            eta=1.0,
            estimate="sample",
            generator=generators,
        )
        return result.logits.float()

    def _checked(self, mask: Tensor) -> Mask:
        if mask.ndim != 3 or mask.is_floating_point() or 0 in mask.shape:
            raise InputError(
                f"masks must be class ids of shape (batch, h, w), got {mask.dtype} of shape "
                f"{tuple(mask.shape)}."
            )
        check_ids(mask, self.network.config.num_classes, source="the mask")
        return mask.long().to(self._device())

    def _shrunk(self, mask: Mask) -> tuple[Int64[Tensor, "b s_h s_w"], tuple[int, int]]:
        """The masks as the network sees them, and their size before sides became multiples."""
        small = shrink(mask, self.config.pixels)
        h, w = small.shape[1:]
        stride = self.network.config.stride
        return F.pad(small, (0, -w % stride, 0, -h % stride), value=IGNORE), (h, w)

    def _generators(
        self, seed: int, names: Sequence[str] | None, count: int
    ) -> list[torch.Generator]:
        if names is not None and len(names) != count:
            raise InputError(f"{count} masks need as many names, got {len(names)}.")
        return image_generators(seed, names or [str(i) for i in range(count)])

    def _device(self) -> torch.device:
        return next(self.parameters()).device

    @contextmanager
    def _inferring(self) -> Iterator[None]:
        """Evaluation mode, filters standardised once, bf16 where the device has it."""
        with evaluating(self), standardized_once(self), autocast(self._device()):
            yield
