"""What a page shows of images that words were measured on; gathered while they are measured."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Int32, Int64, UInt8
from PIL import Image
from torch import Tensor

from crispmask.data.sample import Palette, Sample
from crispmask.report.page import css
from crispmask.report.pictures import (
    BROKEN,
    SMALL,
    UNKNOWN_COLOUR,
    data_uri,
    fitted,
    pale,
    thumbnail,
)
from crispmask.report.segment import words_palette
from crispmask.shapes import Mask

EXAMPLES = 6
"""Images of a data set that a page shows."""

STRIPES = (UNKNOWN_COLOUR, (232, 232, 236))
"""Two colours of unlabelled pixels in turn; a single one could be that of a class."""


@dataclass(frozen=True, kw_only=True)
class WordsExample:
    """An image, its truth and the answer.

    Attributes:
        name: of the image.
        panels: image, truth, answer and mistakes as PNGs in URIs, each with its caption.
        legend: names and colours of the labels in truth or answer, the largest first.
        right: share of the labelled pixels that are right; None if no pixel is labelled.
        small: whether the pictures are to be enlarged pixel by pixel.
    """

    name: str
    panels: tuple[tuple[str, str], ...]
    legend: tuple[tuple[str, str], ...]
    right: float | None
    small: bool

    @classmethod
    def of(
        cls,
        sample: Sample,
        labels: Int64[Tensor, "h w"],
        *,
        label_names: Sequence[str],
        ignore: int,
    ) -> Self:
        """Draw an answer; unlabelled pixels are neither right nor wrong."""
        palette = words_palette(label_names)
        known = sample.mask != ignore
        pixels = (255 * sample.image).round().clamp(0, 255).byte().movedim(0, -1)
        photo = thumbnail(pixels.cpu().numpy())
        truth, answer = (
            fitted(x.to(torch.int32).numpy(), photo)
            for x in (sample.mask.where(known, ignore), labels)
        )
        mistakes = pale(np.asarray(photo))
        mistakes[truth != answer] = BROKEN
        _stripe(mistakes, truth == ignore)
        pictures = {
            "image": photo,
            "truth": _coloured(truth, palette, ignore=ignore),
            "answer": _coloured(answer, palette, ignore=ignore),
            "mistakes": Image.fromarray(mistakes),
        }
        both = torch.cat([sample.mask[known], labels.flatten()])
        counts = both.bincount(minlength=len(label_names))
        shown = [k for k in counts.argsort(descending=True).tolist() if counts[k] > 0]
        return cls(
            name=sample.name,
            panels=tuple((caption, data_uri(picture)) for caption, picture in pictures.items()),
            legend=tuple((label_names[k], css(palette[k])) for k in shown),
            right=(labels == sample.mask)[known].float().mean().item() if known.any() else None,
            small=max(labels.shape) < SMALL,
        )


class WordsGallery:
    """True pixels of each label, and pictures of a few images.

    Which ones is settled before the first is measured, so that none is shown for its score and
    no other answer has to be kept.
    """

    def __init__(self, label_names: Sequence[str], *, shown: Collection[int], ignore: int) -> None:
        """Start with nothing seen.

        Args:
            label_names: in the order of the labels.
            shown: places of the images to draw, in the order in which they come.
            ignore: label of unknown pixels.
        """
        self.label_names, self.ignore = tuple(label_names), ignore
        self.shown = frozenset(shown)
        self.true_pixels = torch.zeros(len(self.label_names), dtype=torch.int64)
        self.examples: list[WordsExample] = []
        self.images = 0

    def add(self, sample: Sample, labels: Mask) -> None:
        """Look at the next image and the labels that it was given (batch size 1)."""
        known = sample.mask[sample.mask != self.ignore]
        self.true_pixels += known.bincount(minlength=len(self.label_names))
        if self.images in self.shown:
            example = WordsExample.of(
                sample, labels[0], label_names=self.label_names, ignore=self.ignore
            )
            self.examples.append(example)
        self.images += 1


def _coloured(labels: Int32[np.ndarray, "h w"], palette: Palette, *, ignore: int) -> Image.Image:
    """Labels in their colours, of any number of classes."""
    known = labels != ignore
    colours = np.asarray(palette, dtype=np.uint8)[np.where(known, labels, 0)]
    _stripe(colours, ~known)
    return Image.fromarray(colours)


def _stripe(pixels: UInt8[np.ndarray, "h w 3"], where: Bool[np.ndarray, "h w"]) -> None:
    """Draw diagonal stripes over these pixels, in place."""
    rows, columns = where.nonzero()
    pixels[where] = np.asarray(STRIPES, dtype=np.uint8)[(rows + columns) // 4 % 2]
