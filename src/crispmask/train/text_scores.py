"""Scores of a `TextSegmenter` on validation images, and signs of collapse."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from crispmask.data.transforms import pad_to_multiple, resize_labels, resize_short_side
from crispmask.diffusion.gaussian import clean_latents
from crispmask.metrics.confusion import ConfusionMatrix
from crispmask.metrics.open_vocabulary import PresenceAP
from crispmask.models.mask_images import fill_unknown, masks_of
from crispmask.models.text_config import pass_prompts
from crispmask.models.text_segmenter import TextSegmenter
from crispmask.models.text_states import TextStates
from crispmask.models.vocabulary import Vocabulary
from crispmask.shapes import IGNORE, Image, Mask
from crispmask.train.batches import Stored
from crispmask.train.collapse import MaskMonitor
from crispmask.train.processes import own_share
from crispmask.train.queries import class_ids, occurring

WATCHED = 16
"""Images of each data set, at most, that are looked at for signs of collapse."""


@dataclass(frozen=True, kw_only=True)
class ValidationSet:
    """Held-out images of one data set.

    Attributes:
        name: for the log.
        vocabulary: its words.
        items: images in memory.
    """

    name: str
    vocabulary: Vocabulary
    items: Sequence[Stored]


@torch.no_grad()
def text_scores(model: TextSegmenter, sets: Sequence[ValidationSet]) -> dict[str, float]:
    """mIoU and average precision of presence, means over data sets, and signs of collapse.

    Each image is asked for all words of its data set, in one step and without a ranking.

    Args:
        model: in evaluation mode.
        sets: with several, the log also has the scores of each.
    """
    device = next(model.parameters()).device
    monitor = MaskMonitor(device)
    scores: dict[str, float] = {}
    for one in sets:
        scores |= {f"{name}_{one.name}": value for name, value in _set_scores(model, one).items()}
        for i in own_share(min(len(one.items), WATCHED)):
            item = one.items[i * len(one.items) // min(len(one.items), WATCHED)]
            watch(monitor, model, item.image[None].float() / 255, item.mask[None].long(), one)
    means = {
        name: sum(scores[f"{name}_{one.name}"] for one in sets) / len(sets)
        for name in ("val_miou", "val_presence_ap")
    }
    return means | (scores if len(sets) > 1 else {}) | monitor.compute()


def _set_scores(model: TextSegmenter, data: ValidationSet) -> dict[str, float]:
    device = next(model.parameters()).device
    words = data.vocabulary
    confusion = ConfusionMatrix(len(words.label_names)).to(device)
    presence = PresenceAP().to(device)
    ids = torch.tensor([class_ids(words)])
    for i in own_share(len(data.items)):
        image = data.items[i].image.float() / 255
        mask = data.items[i].mask[None].long()
        answer = model(image, words, top=None)
        confusion.update(answer.labels.to(device), mask.to(device))
        presence.update(answer.presence.to(device), occurring(mask, ids).to(device))
    return {
        "val_miou": confusion.compute().miou,
        "val_presence_ap": presence.compute().ap,
    }


def watch(
    monitor: MaskMonitor, model: TextSegmenter, image: Image, mask: Mask, data: ValidationSet
) -> None:
    """Show the monitor one image, asked for all words that occur in it."""
    device = next(model.parameters()).device
    side = model.config.image_size
    small = resize_short_side(image, side)
    mask = resize_labels(mask, (small.shape[2], small.shape[3]))
    padded, (h, w) = pad_to_multiple(small, model.stride)
    mask = F.pad(mask, (0, padded.shape[3] - w, 0, padded.shape[2] - h), value=IGNORE)
    ids = torch.tensor([class_ids(data.vocabulary)])
    there = occurring(mask, ids)[0].nonzero().flatten()
    if not len(there):
        return
    filled = fill_unknown(mask)
    if model.config.closed:
        masks = masks_of(filled, ids.shape[1])  # 1 k h w
        prompts = list(pass_prompts(model.mask_codec.num_passes(ids.shape[1])))
    else:
        masks = filled == ids[0, there][:, None, None]  # n h w
        masks = masks[None]
        names = [data.vocabulary.class_names[i] for i in there.tolist()]
        prompts = [model.config.template.replace("{}", name) for name in names]
    states = model.words.encode(prompts)
    answer(monitor, model, padded.to(device), masks.to(device), (mask != IGNORE).to(device), states)
