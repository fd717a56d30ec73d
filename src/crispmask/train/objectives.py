"""Losses of a batch, as modules: what an optimiser step calls."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from crispmask.diffusion.losses import cross_entropy, soft_dice
from crispmask.models.refiner import MaskRefiner
from crispmask.models.segmenters import BaseOutput, FPNSegmenter
from crispmask.shapes import Logits, Mask
from crispmask.train.batches import Batch
from crispmask.train.configs import RefinerTrainConfig


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

    def __init__(self, model: FPNSegmenter, *, dice_weight: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.dice_weight = dice_weight

    def forward(self, batch: Batch, progress: float, generator: torch.Generator) -> Tensor:
        """Loss of a batch; neither progress nor generator matter here."""
        logits, _ = self.model.logits(batch.images)
        return segmentation_loss(logits, batch.masks, dice_weight=self.dice_weight)


class RefinerObjective(nn.Module):
    """Cross-entropy of the clean mask, with noise on the network's first prediction.

    The diffusion-on-first-prediction of DDPS (Lai et al. 2023): the state is never made from the
    truth, so that training sees the kind of mask that inference will see.
    """

    def __init__(self, model: MaskRefiner, config: RefinerTrainConfig) -> None:
        super().__init__()
        self.model = model
        self.settings = config

    def forward(self, batch: Batch, progress: float, generator: torch.Generator) -> Tensor:
        """Loss of a batch at full resolution; ``progress`` in [0, 1) decides the stage."""
        model, settings = self.model, self.settings
        base = self.base_output(batch, generator)
        b = len(batch.images)
        keep = torch.rand(b, generator=generator) >= settings.condition_dropout
        keep = keep.to(batch.images.device)
        condition = model.condition(batch.images, base, keep=keep)
        size = (b, *condition.log_base.shape[-2:])
        device = batch.images.device
        t = torch.ones(b)
        x_t = model.process.prior(size, generator=generator, device=device)
        if settings.state_input and progress >= settings.first_stage:
            drawn = 1 - torch.rand(b, generator=generator)  # (0, 1]
            pure = torch.rand(b, generator=generator) < settings.noise_share
            t = torch.where(pure, 1.0, drawn)
            with torch.no_grad():
                ones = torch.ones(b, device=device)
                first = model.state_logits(x_t, condition, ones).argmax(1)
            x_t = model.process.forward(first, t.to(device), generator=generator)
        delta = model.denoise(x_t, condition, t.to(device))
        logits = model.answer_logits(delta, base.probs, keep=keep)
        return segmentation_loss(logits, batch.masks, dice_weight=settings.dice_weight)

    def base_output(self, batch: Batch, generator: torch.Generator) -> BaseOutput:
        """The stored output of the base for these crops; some as hard labels."""
        assert batch.maps is not None
        k = self.model.config.network.num_classes
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
