"""Regions whose label may be wrong, as JSON and as one HTML file that needs nothing else."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from crispmask.atomic import write_atomic
from crispmask.data.regions import Box
from crispmask.report.page import css
from crispmask.report.pictures import HEAT, UNKNOWN_COLOUR, data_uri, heat_picture, labels_picture
from crispmask.report.template import render

OUTLINE = (255, 64, 200)
"""Colour of a region's border: rare in photos and not on the scale of heat."""

LONGEST_SIDE = 240


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A connected region of a label map, and how much its label is doubted.

    Attributes:
        image: name of the file, without ending.
        label: class that the map gives it.
        suggestion: the other class that the evidence favours most; None if the region rather
            belongs somewhere else.
        move: how many pixels down and to the right, in this case.
        area: number of pixels.
        box: top, left, bottom and right; the last two are outside.
        score: what that correction gains in bits per wrong pixel, times the fourth root of their
            number.
        base: what the segmenter adds to it, which saw the image; None if there is none.
        prior: what the prior adds to it, which saw the other labels; None if there is none. The
            rest of the score is how much more often the new labels are given where they are likely.
    """

    image: str
    label: int
    suggestion: int | None
    move: tuple[int, int] | None
    area: int
    box: Box
    score: float
    base: float | None
    prior: float | None

    def correction(self, class_names: Sequence[str]) -> str:
        """The class that it rather is, or where it rather belongs, in words."""
        if self.move is None:
            return "?" if self.suggestion is None else class_names[self.suggestion]
        rows, columns = self.move
        down = f"{abs(rows)} {'up' if rows < 0 else 'down'}" if rows else ""
        right = f"{abs(columns)} {'left' if columns < 0 else 'right'}" if columns else ""
        return ", ".join(filter(None, (down, right)))


@dataclass(frozen=True, kw_only=True)
class SuspectPicture:
    """What surrounds a suspect: pixels, labels, where it is, and the doubt of each pixel."""

    image: UInt8[np.ndarray, "h w 3"]
    labels: UInt8[np.ndarray, "h w"]
    region: Bool[np.ndarray, "h w"]
    doubt: UInt8[np.ndarray, "h w"]


@dataclass(frozen=True, kw_only=True)
class SuspectReport:
    """Suspects, the most doubtful first.

    Attributes:
        title: what was searched.
        class_names: in the order of the ids.
        palette: colour of each class.
        suspects: all of them.
        pictures: of the first suspects, in the same order.
        protocol: how they were found, in words.
    """

    title: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    suspects: tuple[Suspect, ...]
    pictures: tuple[SuspectPicture, ...]
    protocol: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """All suspects by rank, with the names of their classes."""
        rows = [
            {"rank": rank, **asdict(suspect)}
            | {
                "label_name": self.class_names[suspect.label],
                "suggestion_name": None
                if suspect.suggestion is None
                else self.class_names[suspect.suggestion],
            }
            for rank, suspect in enumerate(self.suspects, 1)
        ]
        return {"title": self.title, "protocol": dict(self.protocol), "suspects": rows}

    def html(self) -> str:
        """The page as text."""
        shown = zip(self.suspects, self.pictures, strict=False)
        legend = zip(self.class_names, self.palette, strict=True)
        values = {
            "report": self,
            "cards": [(suspect, panels(picture, self.palette)) for suspect, picture in shown],
            "legend": [(name, css(colour)) for name, colour in legend],
            "unknown": css(UNKNOWN_COLOUR),
            "outline": css(OUTLINE),
            "heat": ", ".join(css(colour) for colour in HEAT),
        }
        return render("suspects", values)

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write suspects.json and suspects.html and return their paths."""
        contents = json.dumps(self.to_json(), indent=1) + "\n", self.html()
        paths = folder / "suspects.json", folder / "suspects.html"
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, contents, strict=True):
            write_atomic(path, text)
        return paths


def panels(
    picture: SuspectPicture, palette: tuple[tuple[int, int, int], ...]
) -> list[tuple[str, str]]:
    """Image, label and doubt with the region's border, each with its caption, as data URIs."""
    pictures = {
        "image": Image.fromarray(picture.image),
        "label": labels_picture(picture.labels, palette).convert("RGB"),
        "doubt": heat_picture(picture.doubt),
    }
    border = _border(picture.region)
    out = []
    for caption, drawn in pictures.items():
        pixels = np.array(drawn)
        pixels[border] = OUTLINE
        outlined = Image.fromarray(pixels)
        outlined.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
        out.append((caption, data_uri(outlined)))
    return out


def _border(region: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels outside the region that touch it along a side."""
    padded = np.pad(region, 1)
    near = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return np.asarray(near & ~region)
