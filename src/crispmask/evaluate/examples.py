"""Which images a report shows, and their pictures."""

from collections.abc import Sequence
from typing import Literal

import torch

from crispmask.data.sample import Sample
from crispmask.models.probabilities import entropy
from crispmask.report.results import Example, ImageResult
from crispmask.shapes import Probs

Group = Literal["best", "typical", "worst"]


def choose(images: Sequence[ImageResult], pictures: int) -> list[tuple[int, Group]]:
    """Images to show: the largest gains first, some around the median, the largest losses."""
    change = {i: r.ours - r.base for i, r in enumerate(images) if r.ours == r.ours}
    order = sorted(change, key=lambda i: -change[i])
    shown = min(pictures, len(order))
    best, worst = (shown + 2) // 3, (shown + 1) // 3
    typical = shown - best - worst
    middle = best + (len(order) - shown) // 2
    groups: list[tuple[int, Group]] = [(i, "best") for i in order[:best]]
    groups += [(i, "typical") for i in order[middle : middle + typical]]
    return groups + [(i, "worst") for i in order[len(order) - worst :]]


def draw(sample: Sample, result: ImageResult, group: Group, *, base: Probs, ours: Probs) -> Example:
    """Eight-bit pictures of one image and of what two rows say about it (batch size 1)."""
    pixels = (
        (255 * sample.image.movedim(0, -1)).round(),
        sample.mask,
        base[0].argmax(0),
        ours[0].argmax(0),
        (255 * entropy(ours)[0]).round(),
    )
    image, truth, before, after, uncertainty = (
        x.clamp(0, 255).to(torch.uint8).cpu().numpy() for x in pixels
    )
    return Example(
        result=result,
        group=group,
        image=image,
        truth=truth,
        base=before,
        ours=after,
        uncertainty=uncertainty,
    )
