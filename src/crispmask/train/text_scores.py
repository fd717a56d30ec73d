"""Scores of a `TextSegmenter` on validation images, and signs of collapse."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int64
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
from crispmask.train.text_weights import ScoreParts, WeightFit

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

    First the weights of the parts of a score are fitted, and the model gets them; then each image
    is asked for all words of its data set, in one step and without a ranking. Pixels of words that
    the model was not trained on do not count for the weights, but for the scores.

    Args:
        model: in evaluation mode.
        sets: with several, there are also the scores of each.
    """
    monitor, fit = MaskMonitor(next(model.parameters()).device), WeightFit()
    for one in sets:
        _look_closer(model, one, monitor, fit)
    weights: dict[str, Any] = fit.compute()
    model.config = replace(model.config, **weights)
    each = {one.name: _set_scores(model, one) for one in sets}
    means = {
        name: sum(scores[name] for scores in each.values()) / len(each)
        for name in ("val_miou", "val_presence_ap")
    }
    named = {f"{n}_{one}": value for one, scores in each.items() for n, value in scores.items()}
    return means | (named if len(each) > 1 else {}) | monitor.compute() | weights


@dataclass(frozen=True, kw_only=True)
class WordMaps:
    """What the model says of one image, asked for all words.

    Attributes:
        parts: of the score of each word, at the size of the padded image.
        latents: of each row of the network.
    """

    parts: ScoreParts
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
    found = []
    for i in range(0, len(rows.pooled), CHUNK):
        some = rows.take(range(i, min(i + CHUNK, len(rows.pooled))))
        found.append(_answers(model, z_image, start, some, image))
    latents = torch.cat([z for z, _ in found])
    if model.config.closed:
        logits = model.closed_logits(latents, image, len(words.pooled))[0]
    else:
        logits = torch.cat([one for _, one in found])[:, 0]
    large = F.interpolate(align, logits.shape[-2:], mode="bilinear", align_corners=False)
    presence = F.logsigmoid(model.align.presence(align))
    return WordMaps(
        parts=ScoreParts(logits=logits, align=large[0], presence=presence[0]), latents=latents
    )


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


def _look_closer(
    model: TextSegmenter, data: ValidationSet, monitor: MaskMonitor, fit: WeightFit
) -> None:
    """Show the monitor the answers to the words that occur, and the fit the parts of all."""
    device = next(model.parameters()).device
    vocabulary = data.vocabulary
    rows = words = model.words(replace(vocabulary, templates=(model.config.template,)))
    names, ids = vocabulary.class_names, torch.tensor(class_ids(vocabulary))
    if model.config.closed:
        rows = model.words.encode(pass_prompts(model.mask_codec.num_passes(len(names))))
    for i in own_share(len(data.items)):
        image = data.items[i].image[None].float() / 255
        small = resize_short_side(image, model.config.image_size)
        padded, (h, w) = pad_to_multiple(small, model.stride)
        mask = resize_labels(data.items[i].mask[None].long(), (h, w))
        mask = F.pad(mask, (0, padded.shape[3] - w, 0, padded.shape[2] - h), value=IGNORE)
        maps = word_maps(model, padded.to(device), words, rows)
        trained = model.config.class_names or names
        fit.update(maps.parts, _word_of(mask[0], names, ids, trained))
        _watch(monitor, model, padded, mask, maps, ids)


def _word_of(
    mask: Int64[Tensor, "h w"], names: Sequence[str], ids: Tensor, trained: Sequence[str]
) -> Int64[Tensor, "h w"]:
    """Which word each pixel is, the number of words where none; `IGNORE` where untrained."""
    words = torch.full((IGNORE + 1,), len(names))
    words[ids] = torch.arange(len(names))
    words[IGNORE] = IGNORE
    words[ids[[name not in trained for name in names]]] = IGNORE
    return words[mask]


def _set_scores(model: TextSegmenter, data: ValidationSet) -> dict[str, float]:
    device = next(model.parameters()).device
    vocabulary = replace(data.vocabulary, templates=(model.config.template,))
    confusion = ConfusionMatrix(len(vocabulary.label_names)).to(device)
    presence = PresenceAP().to(device)
    ids = torch.tensor([class_ids(vocabulary)])
    ask = model.bound(vocabulary, top=None, chunk=CHUNK)
    for i in own_share(len(data.items)):
        mask = data.items[i].mask[None].long()
        answer = ask(data.items[i].image[None].float() / 255)
        confusion.update(answer.labels, mask.to(device))
        presence.update(answer.presence, occurring(mask, ids).to(device))
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
    logits = maps.parts.logits
    device = logits.device
    there = occurring(mask, ids[None])[0].nonzero().flatten()
    if not len(there):
        return
    filled = fill_unknown(mask)
    truth = filled == ids[there].view(-1, 1, 1)  # n h w
    if model.config.closed:
        best = logits.argmax(0)[None].cpu()
        predicted, latents = best == there.view(-1, 1, 1), maps.latents
        pictures = masks_of(filled, len(ids))
    else:
        predicted, latents = logits[there].cpu() > 0, maps.latents[there]
        pictures = truth[:, None]
    images = image.expand(len(latents), -1, -1, -1)
    monitor.update(
        predicted.to(device),
        truth.to(device),
        (mask != IGNORE).expand_as(truth).to(device),
        latents,
        model.mask_latents(pictures.to(device), images.to(device)),
    )
