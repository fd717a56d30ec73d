"""Scores of a `TextSegmenter` on validation images, and signs of collapse."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from crispmask.data.transforms import pad_to_multiple, resize_labels, resize_short_side
from crispmask.diffusion.gaussian import clean_latents
from crispmask.metrics.confusion import ConfusionMatrix
from crispmask.metrics.open_vocabulary import PresenceAP
from crispmask.models.latents import VaeLatents
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
from crispmask.train.text_objective import mask_latents

CHUNK = 16
"""Rows that go through the network at once."""


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
        sets: with several, there are also the scores of each.
    """
    monitor = MaskMonitor(next(model.parameters()).device)
    each = {one.name: _set_scores(model, one, monitor) for one in sets}
    means = {
        name: sum(scores[name] for scores in each.values()) / len(each)
        for name in ("val_miou", "val_presence_ap")
    }
    named = {f"{n}_{one}": value for one, scores in each.items() for n, value in scores.items()}
    return means | (named if len(each) > 1 else {}) | monitor.compute()


@dataclass(frozen=True, kw_only=True)
class WordMaps:
    """What the model says of one image, asked for all words.

    Attributes:
        logits: of the mask of each word, at the size of the padded image.
        scores: of each word, to be compared with those of the others.
        presence: logit that a word occurs.
        latents: of each row of the network.
    """

    logits: Float[Tensor, "1 k h w"]
    scores: Float[Tensor, "1 k h w"]
    presence: Float[Tensor, "1 k"]
    latents: VaeLatents


def word_maps(model: TextSegmenter, image: Image, words: TextStates, rows: TextStates) -> WordMaps:
    """One step for all words.

    Args:
        model: in evaluation mode.
        image: one, of sides that are multiples of the model's stride.
        words: states of the words, whose vectors are aligned.
        rows: what the network is asked: the same, or the passes of a closed mask code.
    """
    z_image = model.look(image)
    start = model.start(z_image, generator=torch.Generator().manual_seed(0))
    none = model.words.encode([""])
    step = torch.full((1,), model.last_step, device=image.device)
    features = model.call(z_image, start, step, none).features
    align = model.align.scores(
        model.align.pixels(features), model.align.words(words.pooled.to(image))
    )
    presence = model.align.presence(align)
    parts = []
    for i in range(0, len(rows.pooled), CHUNK):
        some = TextStates(
            tokens=rows.tokens[i : i + CHUNK],
            mask=rows.mask[i : i + CHUNK],
            pooled=rows.pooled[i : i + CHUNK],
        )
        parts.append(_answers(model, z_image, start, some, image))
    latents = torch.cat([z for z, _ in parts])
    if model.config.closed:
        logits = model.closed_logits(latents, image, len(words.pooled))
        return WordMaps(logits=logits, scores=logits, presence=presence, latents=latents)
    logits = torch.cat([found for _, found in parts]).movedim(0, 1)  # 1 k h w
    large = F.interpolate(align, logits.shape[-2:], mode="bilinear", align_corners=False)
    scores = logits + model.config.align_weight * large
    scores = scores + model.config.presence_weight * F.logsigmoid(presence)[..., None, None]
    return WordMaps(logits=logits, scores=scores, presence=presence, latents=latents)


def _answers(
    model: TextSegmenter, z_image: VaeLatents, start: VaeLatents, rows: TextStates, image: Image
) -> tuple[Tensor, Tensor]:
    """Clean latents of some rows, and their logits (of a closed code: none)."""
    n = len(rows.pooled)
    z_t, step = start.expand(n, -1, -1, -1), torch.full((n,), model.last_step, device=image.device)
    called = model.call(z_image.expand(n, -1, -1, -1), z_t, step, rows)
    z_0 = clean_latents(model.scheduler, called.output, z_t, step)
    if model.config.closed:
        return z_0, z_0.new_zeros(n, 1, 1, 1)
    return z_0, model.mask_logits(z_0, called.features, image.expand(n, -1, -1, -1))


def _set_scores(
    model: TextSegmenter, data: ValidationSet, monitor: MaskMonitor
) -> dict[str, float]:
    device = next(model.parameters()).device
    vocabulary = replace(data.vocabulary, templates=(model.config.template,))
    words = model.words(vocabulary)
    count = len(vocabulary.class_names)
    rows = words
    if model.config.closed:
        rows = model.words.encode(pass_prompts(model.mask_codec.num_passes(count)))
    confusion = ConfusionMatrix(len(vocabulary.label_names)).to(device)
    presence = PresenceAP().to(device)
    ids = torch.tensor([class_ids(vocabulary)])
    for i in own_share(len(data.items)):
        image = data.items[i].image[None].float() / 255
        mask = data.items[i].mask[None].long()
        small = resize_short_side(image, model.config.image_size)
        padded, (h, w) = pad_to_multiple(small, model.stride)
        maps = word_maps(model, padded.to(device), words, rows)
        scores = F.interpolate(
            maps.scores[..., :h, :w], mask.shape[1:], mode="bilinear", align_corners=False
        )
        probs = scores.softmax(1) if model.config.closed else scores.sigmoid()
        confusion.update(vocabulary.labels(probs), mask.to(device))
        there = occurring(mask, ids)
        presence.update(maps.presence, there.to(device))
        seen = resize_labels(mask, (h, w))
        seen = F.pad(seen, (0, padded.shape[3] - w, 0, padded.shape[2] - h), value=IGNORE)
        _watch(monitor, model, padded, seen, maps, ids[0])
    return {"val_miou": confusion.compute().miou, "val_presence_ap": presence.compute().ap}


def _watch(
    monitor: MaskMonitor,
    model: TextSegmenter,
    image: Image,
    mask: Mask,
    maps: WordMaps,
    ids: Tensor,
) -> None:
    """Show the monitor the answers to the words that occur."""
    device = maps.logits.device
    there = occurring(mask, ids[None])[0].nonzero().flatten()
    if not len(there):
        return
    filled = fill_unknown(mask)
    truth = filled == ids[there].view(-1, 1, 1)  # n h w
    if model.config.closed:
        best = maps.logits.argmax(1).cpu()
        predicted, latents = best == there.view(-1, 1, 1), maps.latents
        pictures = masks_of(filled, len(ids))
    else:
        predicted, latents = maps.logits[0, there].cpu() > 0, maps.latents[there]
        pictures = truth[:, None]
    images = image.expand(len(latents), -1, -1, -1)
    monitor.update(
        predicted.to(device),
        truth.to(device),
        (mask != IGNORE).expand_as(truth).to(device),
        latents,
        mask_latents(model, pictures.to(device), images.to(device)),
    )
