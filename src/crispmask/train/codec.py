"""The training of a `CodecModel`: masks in memory, random crops, their own labels as the target."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from jaxtyping import UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from crispmask.data.transforms import AugmentConfig, pad_to_multiple, resize_labels
from crispmask.diffusion.losses import cross_entropy
from crispmask.metrics.boundary import BoundaryIoU
from crispmask.metrics.confusion import ConfusionMatrix
from crispmask.models.codec import CodecConfig, CodecModel
from crispmask.nn.mask_codec import MaskCodecConfig
from crispmask.shapes import IGNORE, Mask
from crispmask.train.loop import Task
from crispmask.train.masks import draw_masks, read_masks
from crispmask.train.masks_config import CodecTrainConfig
from crispmask.train.processes import own_share


class CodecObjective(nn.Module):
    """Cross-entropy of the labels that come back, at full resolution."""

    def __init__(self, model: CodecModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, masks: Mask, progress: float, generator: torch.Generator) -> Tensor:
        """Loss of a batch over its known pixels; progress and generator do not matter here."""
        return cross_entropy(self.model(masks), masks)


def codec_task(config: CodecTrainConfig) -> tuple[Task, dict[str, Any]]:
    """Model, batches and validation scores of a run, and what its card says of the data.

    The card also gets the ceiling of plain resizing at the same stride, which a codec must beat.

    Raises:
        InputError: if the masks cannot be used or hold fewer than two classes.
    """
    masks = read_masks(config.data, pixels=0, eval_images=config.loop.eval_images)
    names = masks.class_names
    network = MaskCodecConfig(
        num_classes=len(names), levels=config.levels, stride=config.stride, width=config.width
    )
    augmentation = AugmentConfig(crop=config.crop, scale=config.zoom, flip=config.flip)
    task = Task(
        objective=CodecObjective(CodecModel(CodecConfig(class_names=names, network=network))),
        draw=lambda g: draw_masks(
            masks.train, augmentation, batch_size=config.loop.batch_size, generator=g
        ),
        evaluate=lambda candidate: codec_scores(cast(CodecModel, candidate), masks.val),
    )
    plain = ceiling(
        masks.val,
        lambda mask: resized(mask, stride=config.stride, num_classes=len(names)),
        num_classes=len(names),
        device=PartialState().device,
    )
    facts: dict[str, Any] = {
        "train_masks": len(masks.train),
        "val_masks": len(masks.val),
        "codes": network.num_codes,
    }
    return task, facts | {f"resized_{name}": score for name, score in plain.items()}


@torch.no_grad()
def codec_scores(model: CodecModel, masks: Sequence[UInt8[Tensor, "_ _"]]) -> dict[str, float]:
    """What ``decode(encode(mask))`` keeps, and how the codes are used.

    ``code_usage`` is the share of the codes that occur in blocks with a known pixel,
    ``code_perplexity`` the exponential of the entropy of their frequencies: as many codes, used
    evenly, would say as much.
    """
    codec, n = model.network, model.config.network.num_codes
    device = next(model.parameters()).device
    counts = torch.zeros(n, dtype=torch.int64, device=device)

    def through(mask: Mask) -> Mask:
        padded, (h, w) = pad_to_multiple(mask, model.config.network.stride)
        codes = codec.encode(padded)
        counts.add_(torch.bincount(codes[codec.known(padded)], minlength=n))
        one_hot = F.one_hot(codes, n).movedim(-1, 1).float()
        return codec.decode(one_hot)[..., :h, :w].argmax(1)

    kept = ceiling(masks, through, num_classes=len(model.config.class_names), device=device)
    counts = reduce(counts, "sum")
    share = counts / counts.sum().clamp(min=1)
    return {
        **{f"val_{name}": score for name, score in kept.items()},
        "code_usage": (share > 0).float().mean().item(),
        "code_perplexity": torch.special.entr(share).sum().exp().item(),
    }


def ceiling(
    masks: Sequence[UInt8[Tensor, "_ _"]],
    through: Callable[[Mask], Mask],
    *,
    num_classes: int,
    device: torch.device,
) -> dict[str, float]:
    """mIoU and boundary IoU (2 px) of masks against what something leaves of them."""
    score = ConfusionMatrix(num_classes).to(device)
    boundary = BoundaryIoU(num_classes, width=2).to(device)
    for i in own_share(len(masks)):
        mask = masks[i][None].long().to(device)
        labels = through(mask)
        score.update(labels, mask)
        boundary.update(labels, mask)
    return {"miou": score.compute().miou, "mbiou_2px": boundary.compute().mbiou}


def resized(mask: Mask, *, stride: int, num_classes: int) -> Mask:
    """What is left of masks that are resized by a stride and back, as a refiner does it.

    Labels are resized at pixel centres, and back as one-hot scores, bilinearly.
    """
    padded, (h, w) = pad_to_multiple(mask, stride)
    small = resize_labels(padded, (padded.shape[1] // stride, padded.shape[2] // stride))
    known = (small != IGNORE)[:, None]
    one_hot = F.one_hot(small.clamp(max=num_classes - 1), num_classes).movedim(-1, 1) * known
    up = F.interpolate(
        one_hot.float(), scale_factor=float(stride), mode="bilinear", align_corners=False
    )
    return up[..., :h, :w].argmax(1)
