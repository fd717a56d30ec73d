"""Losses of a batch, as modules: what an optimiser step calls."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from crispmask.diffusion.losses import cross_entropy, soft_dice, vlb
from crispmask.models.bases import Base
from crispmask.models.evidence import without
from crispmask.models.refiner import MaskRefiner
from crispmask.models.refiner_parts import Condition
from crispmask.models.segmenters import BaseOutput
from crispmask.shapes import Logits, Mask
from crispmask.train.batches import Batch
from crispmask.train.configs import RefinerTrainConfig
from crispmask.train.damage import damaged, holes
from crispmask.train.evidence import simulate

VLB_STEPS = 20
"""Steps of the chain whose bound is trained, as many as DDPS takes on Cityscapes."""


def segmentation_loss(logits: Logits, target: Mask, *, dice_weight: float) -> Float[Tensor, ""]:
    """Cross-entropy, and soft Dice with a weight.

    Dice is taken from every second row and column: its sums over the batch change little and cost
    a quarter.
    """
    loss = cross_entropy(logits, target)
    if dice_weight:
        thin = (..., slice(None, None, 2), slice(None, None, 2))
        loss = loss + dice_weight * soft_dice(logits[thin], target[thin])
    return loss


class SegmenterObjective(nn.Module):
    """Cross-entropy of a segmenter."""

    def __init__(self, model: Base, *, dice_weight: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.dice_weight = dice_weight

    def forward(self, batch: Batch, progress: float, generator: torch.Generator) -> Tensor:
        """Loss of a batch; neither progress nor generator matter here."""
        logits, _ = self.model.logits(batch.images)
        return segmentation_loss(logits, batch.masks, dice_weight=self.dice_weight)


@dataclass(frozen=True)
class Seen:
    """What the refiner is told of a batch.

    Attributes:
        base: output of the base.
        condition: made from it and the images.
        keep: which of the images are shown at all.
    """

    base: BaseOutput
    condition: Condition
    keep: Bool[Tensor, "b"]


class RefinerObjective(nn.Module):
    """Loss of the clean mask, given a noisy one.

    By default the diffusion-on-first-prediction of DDPS (Lai et al. 2023): the state is never made
    from the truth, so that training sees the kind of mask that inference will see.
    """

    def __init__(self, model: MaskRefiner, config: RefinerTrainConfig) -> None:
        super().__init__()
        self.model = model
        self.settings = config

    def forward(self, batch: Batch, progress: float, generator: torch.Generator) -> Tensor:
        """Loss of a batch at full resolution; ``progress`` in [0, 1) decides the stage.

        With evidence two answers learn: the first, without any mark, and one that is told marks on
        what the first has wrong.
        """
        model, settings = self.model, self.settings
        images, base = batch.images, model.visible(self.base_output(batch, generator))
        keep = torch.rand(len(images), generator=generator) >= settings.condition_dropout
        keep = keep.to(images.device) & batch.labelled
        if settings.holes:
            n, height, width = batch.masks.shape
            hidden = holes(n, (height, width), settings.holes, generator)
            images, base = without(images, base, hidden.to(images.device))
        seen = Seen(base, model.condition(images, base, keep=keep), keep)
        marks = settings.evidence
        if marks is None:
            _, loss = self.answer(batch, seen, progress, generator)
            return loss
        first = self.first_answer(seen, generator)
        loss = segmentation_loss(first, batch.masks, dice_weight=settings.dice_weight)
        k = len(model.config.class_names)
        found = simulate(batch.masks, first.argmax(1), marks, num_classes=k, generator=generator)
        told = model.informed(seen.condition, model.known_state(found.known))
        logits, told_loss = self.answer(batch, replace(seen, condition=told), progress, generator)
        marked = cross_entropy(logits, found.regions)
        return (loss + told_loss) / 2 + marks.region_weight * marked

    def answer(
        self, batch: Batch, seen: Seen, progress: float, generator: torch.Generator
    ) -> tuple[Logits, Float[Tensor, ""]]:
        """Logits of the clean mask from a noisy one, and their loss."""
        model, settings = self.model, self.settings
        base, condition, keep = seen.base, seen.condition, seen.keep
        b, _, h, w = condition.log_base.shape
        t = torch.ones(b)
        x_t = model.process.prior((b, h, w), generator=generator, device=base.probs.device)
        noised = settings.state_input and progress >= settings.first_stage
        if noised:
            drawn = 1 - torch.rand(b, generator=generator)  # (0, 1]
            pure = torch.rand(b, generator=generator) < settings.noise_share
            t = torch.where(pure, 1.0, drawn)
            start = self.clean_mask(batch, seen, x_t, generator)
            x_t = model.process.forward(start, t.to(x_t.device), generator=generator)
        t = t.to(x_t.device)
        delta = model.denoise(x_t, condition, t)
        logits = model.answer_logits(delta, base.probs, keep=keep)
        loss = segmentation_loss(logits, batch.masks, dice_weight=settings.dice_weight)
        if model.codec is not None:
            loss = loss + cross_entropy(delta, model.state(batch.masks))
        if settings.vlb_weight and noised:
            small = delta + condition.log_base if model.config.residual else delta
            earlier = (t - 1 / VLB_STEPS).clamp(min=0)
            bound = vlb(model.process, small, model.state(batch.masks), x_t, t, earlier)
            loss = loss + settings.vlb_weight * bound
        return logits, loss

    def first_answer(self, seen: Seen, generator: torch.Generator) -> Logits:
        """What the network answers in one call."""
        condition, base = seen.condition, seen.base
        b, _, h, w = condition.log_base.shape
        noise = self.model.process.prior((b, h, w), generator=generator, device=base.probs.device)
        delta = self.model.denoise(noise, condition, torch.ones(b, device=noise.device))
        return self.model.answer_logits(delta, base.probs, keep=seen.keep)

    @torch.no_grad()
    def clean_mask(self, batch: Batch, seen: Seen, x_1: Mask, generator: torch.Generator) -> Mask:
        """The mask that is noised, at the size of the state."""
        target, base, condition = self.settings.noise_target, seen.base, seen.condition
        if target == "truth":
            return self.model.state(batch.masks)
        if target == "damaged":
            return self.model.state(damaged(batch.masks, base.probs, generator))
        if target == "base":
            return self.model.base_state(base, condition.log_base)
        ones = torch.ones(len(x_1), device=x_1.device)
        return self.model.state_logits(x_1, condition, ones).argmax(1)

    def base_output(self, batch: Batch, generator: torch.Generator) -> BaseOutput:
        """The stored output of the base for these crops; some as hard labels."""
        assert batch.maps is not None
        k = len(self.model.config.class_names)
        if self.settings.conditioning == "features":
            uniform = torch.full_like(batch.images[:, :1], 1 / k).expand(-1, k, -1, -1)
            return BaseOutput(probs=uniform, features=batch.maps)
        maps = F.interpolate(
            batch.maps, size=batch.images.shape[-2:], mode="bilinear", align_corners=False
        )
        probs = maps + 1e-6  # outside the image all classes are equally likely
        probs = probs / probs.sum(1, keepdim=True)
        hard = torch.rand(len(probs), generator=generator) < self.settings.hard_labels
        if hard.any():
            hard = hard.to(probs.device)
            one_hot = F.one_hot(probs[hard].argmax(1), k).movedim(-1, 1)
            probs[hard] = one_hot.to(probs.dtype)
        return BaseOutput(probs=probs)
