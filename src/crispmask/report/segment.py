"""What was found of some words in images, as JSON and as one HTML file that needs nothing else."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor

from crispmask.atomic import write_atomic
from crispmask.data.catalog import CAMVID_CLASSES, CAMVID_PALETTE, palette_for
from crispmask.data.earth import EARTH_CLASSES, EARTH_PALETTE
from crispmask.data.sample import Palette
from crispmask.models.text_answer import TextAnswer
from crispmask.models.vocabulary import Vocabulary
from crispmask.report.page import css
from crispmask.report.pictures import (
    HEAT,
    LONGEST_SIDE,
    SMALL,
    UNKNOWN_COLOUR,
    data_uri,
    heat_picture,
)
from crispmask.report.template import render

BACKGROUND = "background"

NOT_FOUND_SHOWN = 20
"""Words without a pixel that the page lists for an image, the most likely first."""


@dataclass(frozen=True, kw_only=True)
class WordsImage:
    """What was found in one image.

    Attributes:
        name: of the file, without ending.
        file: with it.
        height: in pixels.
        width: likewise.
        presence: probability that each class of the vocabulary is in the image.
        shares: of the pixels that each label has.
        uncertainty: mean over the pixels, from 0 (certain) to 1 (a guess).
        num_calls: rows that went through the network.
    """

    name: str
    file: str
    height: int
    width: int
    presence: tuple[float, ...]
    shares: tuple[float, ...]
    uncertainty: float
    num_calls: int

    @classmethod
    def of(cls, answer: TextAnswer, *, name: str, file: str) -> Self:
        """The numbers of an answer for one image."""
        labels = answer.labels[0]
        counts = labels.flatten().bincount(minlength=len(answer.label_names))
        return cls(
            name=name,
            file=file,
            height=labels.shape[0],
            width=labels.shape[1],
            presence=tuple(answer.presence[0].tolist()),
            shares=tuple((counts / labels.numel()).tolist()),
            uncertainty=answer.uncertainty.mean().item(),
            num_calls=answer.num_calls,
        )


@dataclass(frozen=True, kw_only=True)
class WordsCard:
    """Pictures of one image as PNGs in URIs, each with its caption.

    Attributes:
        panels: the image, its words in colour, and the uncertainty.
        small: whether the pictures are to be enlarged pixel by pixel.
    """

    panels: tuple[tuple[str, str], ...]
    small: bool

    @classmethod
    def of(cls, answer: TextAnswer, image: Float[Tensor, "3 h w"], palette: Palette) -> Self:
        """Draw an answer for an image."""
        labels, uncertainty = answer.labels[0].cpu(), answer.uncertainty[0].cpu()
        doubt = (255 * uncertainty).round().byte().numpy()
        pictures = {
            "image": Image.fromarray((255 * image).round().byte().movedim(0, -1).cpu().numpy()),
            "words": Image.fromarray(words_overlay(image, labels, palette)),
            "uncertainty": heat_picture(doubt),
        }
        for picture in pictures.values():
            picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
        return cls(
            panels=tuple((caption, data_uri(picture)) for caption, picture in pictures.items()),
            small=max(labels.shape) < SMALL,
        )


@dataclass(frozen=True, kw_only=True)
class WordRow:
    """A label in the list beside an image.

    Attributes:
        name: of the label.
        colour: in the overlay; None if it has no pixel.
        presence: in percent; None for the background, which is no word.
        share: of the pixels, in percent.
    """

    name: str
    colour: str | None
    presence: float | None
    share: float

    @property
    def doubtful(self) -> bool:
        """Whether it has pixels although it is rather not there: no word suited them better."""
        return self.colour is not None and self.presence is not None and self.presence < 50


@dataclass(frozen=True, kw_only=True)
class SegmentReport:
    """What was found in all images.

    Attributes:
        title: what was looked at.
        vocabulary: the words.
        images: all of them.
        cards: pictures of the first ones, in the same order.
        options: how the words were asked for.
        protocol: model and circumstances, in words.
    """

    title: str
    vocabulary: Vocabulary
    images: tuple[WordsImage, ...]
    cards: tuple[WordsCard, ...]
    options: Mapping[str, Any]
    protocol: Mapping[str, str]

    def rows(self, image: WordsImage) -> list[WordRow]:
        """Labels that have pixels, the largest first, then the other words, most likely first."""
        names = self.vocabulary.label_names
        presence = dict(zip(self.vocabulary.class_names, image.presence, strict=True))
        rows = [
            WordRow(
                name=name,
                colour=css(colour) if share > 0 else None,
                presence=None if name not in presence else 100 * presence[name],
                share=100 * share,
            )
            for name, colour, share in zip(names, words_palette(names), image.shares, strict=True)
            if share > 0 or name in presence
        ]
        return sorted(rows, key=lambda row: (-row.share, -(row.presence or 0)))

    def sentence(self, image: WordsImage) -> str:
        """What was found, in words."""
        found = [f"{row.name} {row.share:.0f} %" for row in self.rows(image) if row.colour]
        return ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")

    def to_json(self) -> dict[str, Any]:
        """All numbers, by word."""
        words, policy = self.vocabulary, self.vocabulary.background
        return {
            "title": self.title,
            "words": {name: list(words.synonyms.get(name, ())) for name in words.class_names},
            "label_names": list(words.label_names),
            "background": policy and {"policy": type(policy).__name__, **asdict(policy)},
            "images": [
                {
                    **asdict(image),
                    "presence": dict(zip(words.class_names, image.presence, strict=True)),
                    "shares": dict(zip(words.label_names, image.shares, strict=True)),
                }
                for image in self.images
            ],
            "options": dict(self.options),
            "protocol": dict(self.protocol),
        }

    def html(self) -> str:
        """The page as text."""
        cards = []
        for image, card in zip(self.images, self.cards, strict=False):
            rows = self.rows(image)
            found = sum(row.colour is not None for row in rows)
            cards.append((image, card, rows[: found + NOT_FOUND_SHOWN], len(rows)))
        heat = ", ".join(css(colour) for colour in HEAT)
        return render("segment", {"report": self, "cards": cards, "heat": heat})

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write segment.json and segment.html and return their paths."""
        contents = json.dumps(self.to_json(), indent=1) + "\n", self.html()
        paths = folder / "segment.json", folder / "segment.html"
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, contents, strict=True):
            write_atomic(path, text)
        return paths


def words_palette(label_names: Sequence[str]) -> Palette:
    """A colour for each label: words of known data sets have theirs, the background is dark."""
    known = dict(
        zip((*CAMVID_CLASSES, *EARTH_CLASSES), (*CAMVID_PALETTE, *EARTH_PALETTE), strict=True)
    )
    return tuple(
        UNKNOWN_COLOUR if name == BACKGROUND else known.get(name, colour)
        for name, colour in zip(label_names, palette_for(label_names), strict=True)
    )


def words_overlay(
    image: Float[Tensor, "3 h w"], labels: Int64[Tensor, "h w"], palette: Palette
) -> UInt8[np.ndarray, "h w 3"]:
    """The image under the colours of its labels, of which 255 is one like the others."""
    colours = np.asarray(palette, dtype=np.float32)[labels.numpy()]
    mixed = (255 * image.movedim(0, -1).cpu().numpy() + colours) / 2
    return np.asarray(mixed.round().astype(np.uint8))
