"""How a `TextSegmenter` answers: a ranking, then the masks of the words that may be there."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from crispmask.diffusion.gaussian import Latents, Steps, guided_latents, sample_latents
from crispmask.errors import InputError
from crispmask.models.inference import autocast, evaluating
from crispmask.models.inputs import as_image
from crispmask.models.mask_images import fill_unknown
from crispmask.models.text_answer import TextAnswer
from crispmask.models.text_denoiser import TextDenoiser
from crispmask.models.text_question import Question
from crispmask.models.text_start import noised_masks, start_labels
from crispmask.models.text_views import Maps, Scene, View, scene
from crispmask.models.vocabulary import Threshold
from crispmask.shapes import Image, Logits, Probs

CHUNK = 64
"""Queries whose score maps exist at once while all are ranked."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """What one call with the empty prompt says of all queries.

    Attributes:
        seen: what was looked at, as a whole.
        pixels: vectors of its pixels, at the size of the latents.
        words: vectors of the queries.
        presence: logit that a query is in the image.
    """

    seen: Scene
    pixels: Float[Tensor, "1 d z_h z_w"]
    words: Float[Tensor, "q d"]
    presence: Float[Tensor, "1 q"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is drawn.

    Attributes:
        queries: places in the vocabulary of the words that get a map.
        labels: that get a map, in ascending order.
        places: of the label of each query in ``labels``.
        floor: place of the background in ``labels`` and its constant score, for a threshold.
    """

    queries: list[int]
    labels: tuple[int, ...]
    places: list[int]
    floor: tuple[int, float] | None


def answer(
    segmenter: TextDenoiser,
    image: Any,
    asked: Question,
    *,
    among: Sequence[int] | None = None,
    start: Any = None,
) -> TextAnswer:
    """The answer for one image; see `TextSegmenter.forward`.

    Raises:
        InputError: if the image, the classes or the labels to start from cannot be used.
    """
    pixels = _one_image(segmenter, image)
    how, vocabulary, labels = asked.sampling, asked.vocabulary, None
    if start is not None:
        size = (pixels.shape[-2], pixels.shape[-1])
        labels = start_labels(segmenter, start, vocabulary=vocabulary, sampling=how, size=size)
    if labels is not None:
        labels = fill_unknown(labels).to(pixels.device)  # by the nearest known, as in training
    with torch.inference_mode(), evaluating(segmenter), autocast(pixels.device):
        scenes = [
            scene(
                segmenter,
                pixels,
                tile=how.tile,
                overlap=how.overlap,
                mirrored=mirrored,
                labels=labels,
            )
            for mirrored in ((False, True) if how.flip else (False,))
        ]
        ranking = rank(segmenter, scenes[0], asked)
        plan = _plan(segmenter, asked, ranking, among)
        seeds = range(how.seed, how.seed + how.ensemble_size)
        total: Tensor | None = None
        for seed, seen in product(seeds, scenes):
            probs = _probs(segmenter, asked, ranking, plan, seen, seed)
            total = probs if total is None else total.add_(probs)
        assert total is not None
        presence = vocabulary.class_scores(ranking.presence).sigmoid()  # 1 k, or k + 1 with rivals
    rows = len(plan.queries)
    if asked.passes is not None and rows:
        rows = len(asked.passes.tokens)  # all queries at once
    rows *= how.num_inference_steps * (1 if how.guidance_scale == 1 else 2)
    views = len(seeds) * len(scenes) * len(scenes[0].views)
    return TextAnswer.from_probs(
        total / (len(seeds) * len(scenes)),
        kept=plan.labels,
        label_names=vocabulary.label_names,
        presence=presence[:, : len(vocabulary.class_names)],
        num_calls=1 + rows * views,
    )


def rank(segmenter: TextDenoiser, seen: Scene, asked: Question) -> Ranking:
    """Presence of all queries from one call with the empty prompt on the whole view."""
    latents = seen.whole.latents
    step = torch.full((1,), segmenter.last_step, device=latents.device)
    start, *_ = seen.starts(segmenter, seed=asked.sampling.seed)
    call = segmenter.call(latents, start, step, asked.empty)
    pixels = segmenter.align.pixels(call.features)
    words = segmenter.align.words(asked.states.pooled.to(latents))
    presence = segmenter.align.rank(pixels, words)
    return Ranking(seen=seen, pixels=pixels, words=words, presence=presence.float())


def _plan(
    segmenter: TextDenoiser, asked: Question, ranking: Ranking, among: Sequence[int] | None
) -> Plan:
    """The likeliest queries, pinned ones and the best rival, and the labels they speak for."""
    vocabulary, how = asked.vocabulary, asked.sampling
    rival, owners = len(vocabulary.class_names), vocabulary.owners
    if among is not None and not set(among) <= set(range(rival)):
        raise InputError(f"among must hold classes from 0 to {rival - 1}, got {list(among)}.")
    may = {*(range(rival) if among is None else among), rival}
    queries = [query for query, owner in enumerate(owners) if owner in may]
    if not queries and vocabulary.background is None:
        raise InputError("among needs at least one class where there is no background, got none.")
    if not segmenter.config.closed:
        chances = dict(zip(queries, _chances(segmenter, ranking, queries), strict=True))
        best_first = sorted(queries, key=lambda query: -chances[query])
        pinned = [query for query in queries if vocabulary.queries[query] in how.pinned]
        rivals = [query for query in best_first if owners[query] == rival]
        queries = sorted({*best_first[: how.top], *pinned, *rivals[:1]})
    label_of = vocabulary.query_labels
    labels = [label_of[query] for query in queries]
    kept, policy, floor = sorted(set(labels)), vocabulary.background, None
    if isinstance(policy, Threshold):
        left_over = vocabulary.label_names.index("background")
        kept = sorted({*labels, left_over})
        chance = math.log(policy.score / (1 - policy.score))
        score = segmenter.config.floor + segmenter.config.temperature * chance
        floor = (kept.index(left_over), score)
    return Plan(
        queries=queries,
        labels=tuple(kept),
        places=[kept.index(label) for label in labels],
        floor=floor,
    )


def _chances(segmenter: TextDenoiser, ranking: Ranking, queries: Sequence[int]) -> list[float]:
    """Largest log-probability that each query has at any pixel before a mask is drawn.

    A word that wins a few pixels goes before one that is second everywhere. Score maps exist for a
    chunk of queries at a time only.
    """
    chunks = [queries[i : i + CHUNK] for i in range(0, len(queries), CHUNK)]

    def scores(chunk: Sequence[int]) -> Logits:
        return _prior(segmenter, ranking, chunk) / segmenter.config.temperature

    total = ranking.presence.new_full((1, 1, 1, 1), -torch.inf)
    for chunk in chunks:
        total = torch.logaddexp(total, scores(chunk).logsumexp(1, keepdim=True))
    return [value for chunk in chunks for value in (scores(chunk) - total).amax((0, 2, 3)).tolist()]


def _probs(
    segmenter: TextDenoiser,
    asked: Question,
    ranking: Ranking,
    plan: Plan,
    seen: Scene,
    seed: int,
) -> Probs:
    """Probabilities of the planned labels at the size of the image, with one seed, one side up.

    A label scores what its best query does. The queries go through the network in chunks, and
    their maps do not outlive the chunk.
    """
    config = segmenter.config
    starts = seen.starts(segmenter, seed=seed)
    best = ranking.presence.new_full((1, len(plan.labels), *seen.size), -torch.inf)
    if plan.floor is not None:
        place, score = plan.floor
        best[:, place] = score
    size = max(len(plan.queries), 1) if config.closed else asked.sampling.chunk
    for first in range(0, len(plan.queries), size):
        queries = plan.queries[first : first + size]
        parts = [
            _maps(segmenter, asked, view, start, queries)
            for view, start in zip(seen.views, starts, strict=True)
        ]
        prior = ranking.seen.enlarge(_prior(segmenter, ranking, queries))
        scores = seen.merge(parts) + prior  # 1 n h w
        for one, place in zip(scores[0], plan.places[first : first + size], strict=True):
            torch.maximum(best[0, place], one, out=best[0, place])
    return best.div_(config.temperature).softmax(1)


def _prior(segmenter: TextDenoiser, ranking: Ranking, queries: Sequence[int]) -> Logits:
    """What the ranking adds to mask logits: align score and log-probability of presence.

    At the size of the latents.
    """
    config, chosen = segmenter.config, list(queries)
    near = segmenter.align.scores(ranking.pixels, ranking.words[chosen]).float()
    there = F.logsigmoid(ranking.presence[:, chosen, None, None])
    return config.align_weight * near + config.presence_weight * there


def _maps(
    segmenter: TextDenoiser,
    asked: Question,
    view: View,
    start: Float[Tensor, "1 c z_h z_w"],
    queries: list[int],
) -> Maps:
    """Mask logits of these queries at the size of a view, begun with its labels if it has any."""
    how = asked.sampling
    states = asked.states.take(queries) if asked.passes is None else asked.passes
    rows = len(states.tokens)
    z_image = view.latents.expand(rows, -1, -1, -1)
    negative = asked.negative.take([0] * rows)
    state, strength = start.expand(rows, -1, -1, -1), 1.0
    if view.labels is not None:
        state, strength = noised_masks(segmenter, asked, view, state, queries), how.strength
    features: dict[str, Tensor] = {}

    def cond(z_t: Latents, step: Steps) -> Latents:
        call = segmenter.call(z_image, z_t, step, states)
        features.update(call.features)  # those of the last call are left
        return call.output

    def uncond(z_t: Latents, step: Steps) -> Latents:
        return segmenter.call(z_image, z_t, step, negative).output

    z_0 = sample_latents(
        guided_latents(cond, uncond, how.guidance_scale),
        segmenter.scheduler,
        state,
        num_inference_steps=how.num_inference_steps,
        strength=strength,
    )
    if asked.passes is not None:
        drawn = segmenter.closed_logits(z_0, view.image, len(asked.vocabulary.queries))
        return drawn[:, queries].float()
    at_once = 1 if z_0.device.type == "cpu" else rows  # maps of one row fit a CPU's cache
    maps = [
        segmenter.mask_logits(
            z_0[i : i + at_once],
            {name: feature[i : i + at_once] for name, feature in features.items()},
            view.image.expand(len(z_0[i : i + at_once]), -1, -1, -1),
            decode=how.decode,
        )
        for i in range(0, rows, at_once)
    ]
    return torch.cat(maps).movedim(0, 1).float()


def _one_image(segmenter: TextDenoiser, image: Any) -> Image:
    """The image on the segmenter's device and in its precision, checked."""
    weight = next(segmenter.parameters())
    if weight.dtype == torch.float16 and weight.device.type == "cpu":
        raise InputError(
            "a CPU cannot run this model in fp16; use segmenter.float(), or move it to a GPU."
        )
    pixels = as_image(image)
    if len(pixels) != 1:
        raise InputError(f"one image is answered at a time, got a batch of {len(pixels)}.")
    return pixels.to(weight.device, weight.dtype)
