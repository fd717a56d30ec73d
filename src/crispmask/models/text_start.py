"""Labels that a `TextSegmenter` begins with, in place of pure noise."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from crispmask.diffusion.gaussian import Latents, add_noise, inference_steps
from crispmask.errors import InputError
from crispmask.models.evidence import as_labels
from crispmask.models.text_denoiser import TextDenoiser
from crispmask.models.text_question import Question, TextSampling
from crispmask.models.text_views import View
from crispmask.models.vocabulary import Vocabulary
from crispmask.shapes import IGNORE, Mask


def start_labels(
    segmenter: TextDenoiser,
    labels: Any,
    *,
    vocabulary: Vocabulary,
    sampling: TextSampling,
    size: tuple[int, int],
) -> Mask | None:
    """Labels to begin with, 1 h w, checked; None if no pixel is known.

    Args:
        segmenter: that is to begin with them.
        labels: path of a label picture, or integers of shape h w or 1 h w: places in
            ``vocabulary.label_names``, `IGNORE` (255) where unknown.
        vocabulary: the words.
        sampling: how they are asked.
        size: height and width of the image.

    Raises:
        InputError: if they are no such labels, or the model cannot begin with any.
    """
    config, names = segmenter.config, vocabulary.label_names
    if config.start == "zeros":
        raise InputError(
            "this model draws masks in one call from zeros and never saw one that it could begin "
            'with; leave start out, or train with steps="many".'
        )
    if len(names) > IGNORE:
        raise InputError(
            f"start takes labels of at most {IGNORE} names, as {IGNORE} is an unknown pixel, got "
            f"{len(names)} names; ask for fewer words."
        )
    what = str(labels) if isinstance(labels, str | Path) else "start"
    mask = as_labels(labels, num_classes=len(names), what=what).cpu()
    if mask.shape != (1, *size):
        raise InputError(
            f"{what} must have the size of the image, 1 of {size[0]}x{size[1]}, got "
            f"{mask.shape[0]} of {mask.shape[1]}x{mask.shape[2]}; draw it on the image itself."
        )
    asked = torch.isin(mask, torch.tensor((*vocabulary.query_labels, IGNORE)))
    if config.closed and not asked.all():
        raise InputError(
            f"{what} holds background, but this model draws all classes as one picture (mask_code="
            f'"{config.mask_code}") in which each pixel has one; put {IGNORE} there.'
        )
    inference_steps(  # refuses more calls than there are steps
        segmenter.scheduler, sampling.num_inference_steps, strength=sampling.strength
    )
    return None if (mask == IGNORE).all() else mask


def noised_masks(
    segmenter: TextDenoiser, asked: Question, view: View, noise: Latents, queries: Sequence[int]
) -> Latents:
    """The state of the first call: masks in the labels of a view, coded and noised to ``strength``.

    SDEdit (Meng et al. 2022, "SDEdit: Guided Image Synthesis and Editing with Stochastic
    Differential Equations", arXiv 2108.01073), with masks in place of pictures.

    Args:
        segmenter: whose code, VAE and scheduler are used.
        asked: says how far to noise.
        view: with labels.
        noise: a row for each query, or for each pass of a closed code.
        queries: whose masks are needed; a closed code takes all.
    """
    assert view.labels is not None
    labels, closed = asked.vocabulary.query_labels, segmenter.config.closed
    drawn = torch.tensor(labels if closed else [labels[query] for query in queries])
    masks = view.labels[:, None] == drawn.to(noise.device).view(1, -1, 1, 1)  # 1 q h w
    if not closed:
        masks = masks.movedim(0, 1)  # q 1 h w
    z_0 = segmenter.mask_latents(masks, view.image.expand(len(noise), -1, -1, -1))
    how = asked.sampling
    first, *_ = inference_steps(segmenter.scheduler, how.num_inference_steps, strength=how.strength)
    step = torch.full((len(noise),), first, device=noise.device)
    return add_noise(segmenter.scheduler, z_0, noise, step)
