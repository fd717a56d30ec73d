"""The training of a `MaskPrior`: masks in memory, random crops, noise on the truth."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from crispmask.data.regions import turns
from crispmask.data.transforms import AugmentConfig
from crispmask.diffusion.losses import cross_entropy, vlb
from crispmask.models.prior import TURNS, MaskPrior
from crispmask.models.prior_config import PriorConfig
from crispmask.models.refiner_config import num_states
from crispmask.nn.unet import MaskUNetConfig
from crispmask.shapes import IGNORE, Mask
from crispmask.train.loop import Task
from crispmask.train.masks import draw_masks, read_masks
from crispmask.train.masks_config import PriorTrainConfig
from crispmask.train.objectives import VLB_STEPS


class PriorObjective(nn.Module):
    """Cross-entropy of the clean mask given a noised one, at all times in (0, 1].

    Of a share ``hide`` of the masks a part is hidden, see `hide_parts`. With a weight, a term of
    the variational bound is added over the rest (D3PM, Austin et al. 2021, sec. 3.4).
    """

    def __init__(self, model: MaskPrior, *, hide: float = 0.0, vlb_weight: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.hide = hide
        self.vlb_weight = vlb_weight

    def forward(self, masks: Mask, progress: float, generator: torch.Generator) -> Tensor:
        """Loss of a batch; the times of its masks are spread evenly, from a random start."""
        b, process = len(masks), self.model.process
        t = 1 - (torch.rand((), generator=generator) + torch.arange(b) / b) % 1
        t = t[torch.randperm(b, generator=generator)].to(masks.device)
        shown = hide_parts(masks, self.hide, generator)
        x_t = process.forward(shown, t, generator=generator)
        logits = self.model(x_t, t)
        loss = cross_entropy(logits, masks)
        if self.vlb_weight:
            earlier = (t - 1 / VLB_STEPS).clamp(min=0)
            loss = loss + self.vlb_weight * vlb(process, logits, shown, x_t, t, earlier)
        return loss


def hide_parts(masks: Mask, share: float, generator: torch.Generator) -> Mask:
    """The masks, a share of them with a part made `IGNORE`, which a process turns into noise.

    The part is a rectangle of up to the whole mask, or one of `TURNS` random shares of its regions,
    as `MaskPrior.log_probs` hides them.
    """
    hidden = torch.zeros_like(masks, dtype=torch.bool)
    h, w = masks.shape[1:]
    for i, mask in enumerate(masks):
        chance, kind, *edges = torch.rand(6, generator=generator).tolist()
        if chance >= share:
            continue
        if kind < 0.5:
            hidden[i] = (turns(mask, TURNS, generator) == 0).to(masks.device)
        else:
            top, bottom = sorted(round(h * edge) for edge in edges[:2])
            left, right = sorted(round(w * edge) for edge in edges[2:])
            hidden[i, top:bottom, left:right] = True
    return masks.where(~hidden, IGNORE)


def prior_task(config: PriorTrainConfig) -> tuple[Task, dict[str, Any]]:
    """Model, batches and validation score of a run, and what its card says of the data.

    Raises:
        InputError: if the masks cannot be used or hold fewer than two classes.
    """
    masks = read_masks(config.data, pixels=config.pixels, eval_images=config.loop.eval_images)
    names = masks.class_names
    network = MaskUNetConfig(
        num_classes=len(names),
        cond_channels=1,
        num_states=num_states(len(names), config.process),
        widths=config.widths,
        depth=config.depth,
        patch_size=config.patch_size,
    )
    model = MaskPrior(
        PriorConfig(
            class_names=names,
            network=network,
            pixels=config.pixels,
            process=config.process,
            schedule=config.schedule,
        )
    )
    augmentation = AugmentConfig(crop=config.crop, scale=config.zoom, flip=config.flip)
    task = Task(
        objective=PriorObjective(model, hide=config.hide, vlb_weight=config.vlb_weight),
        draw=lambda g: draw_masks(
            masks.train, augmentation, batch_size=config.loop.batch_size, generator=g
        ),
        evaluate=lambda candidate: {
            "val_bits": bits_per_pixel(
                cast(MaskPrior, candidate), masks.val, steps=config.eval_steps
            )
        },
    )
    return task, {"train_masks": len(masks.train), "val_masks": len(masks.val)}


def bits_per_pixel(
    model: MaskPrior, masks: Sequence[UInt8[Tensor, "_ _"]], *, steps: int, seed: int = 0
) -> float:
    """Upper bound of the bits that a known pixel costs, over all masks together.

    Args:
        model: the prior.
        masks: at the size that the network sees.
        steps: of the chain that is bounded; more give a tighter bound and take longer.
        seed: of the noise; mask i depends on it and i alone.
    """
    bits, pixels = 0.0, 0
    for i, mask in enumerate(masks):
        count = int((mask != IGNORE).sum())
        each = model.bits_per_pixel(mask[None].long(), num_steps=steps, seed=seed, names=[str(i)])
        bits, pixels = bits + count * each.item(), pixels + count
    return bits / max(pixels, 1)
