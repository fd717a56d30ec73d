"""How a segmenter of words did on data sets, as JSON and as one self-contained HTML file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crispmask.atomic import write_atomic
from crispmask.data.class_names import seen_in
from crispmask.report import svg
from crispmask.report.page import css
from crispmask.report.pictures import BROKEN
from crispmask.report.segment import BACKGROUND, words_palette
from crispmask.report.template import render
from crispmask.report.words_pictures import STRIPES, WordsGallery
from crispmask.report.words_scores import COLUMNS, NAMES, Row, cells, columns, further, percent

BARS = 40
"""Classes with a bar, the largest first; the table behind them has all."""

LEGEND = 12
"""Labels that the legend of one image lists."""


@dataclass(frozen=True, kw_only=True)
class WordClass:
    """A class of a data set that is in the truth or in the answer by the names.

    Attributes:
        name: of the label.
        colour: in the pictures.
        kind: "seen" or "unseen" in training, or "background".
        share: of the labelled pixels, in percent; 0 for a class that is not in the truth.
        iou: by the names, in [0, 1].
        by_row: for each row of words, what the class is called there, and its IoU or None.
    """

    name: str
    colour: str
    kind: str
    share: float
    iou: float
    by_row: tuple[tuple[str, float | None], ...]


@dataclass(frozen=True, kw_only=True)
class WordsSet:
    """A data set on the page: its rows of results and what was gathered of its images."""

    name: str
    rows: Mapping[str, Row]
    gallery: WordsGallery

    @property
    def names(self) -> Row:
        """The row of the names."""
        names: Row = self.rows[NAMES]
        return names

    @property
    def sentence(self) -> str:
        """The headline, in words."""
        row = cells(self.names)
        words = len(self.names["protocol"]["vocabulary"]["class_names"])
        images = self.names["images"]
        low, high = (percent(self.names["interval"][end]) or "n/a" for end in ("low", "high"))
        return (
            f"Asked for the {words} class{'es' if words > 1 else ''} of {self.name} by name, the "
            f"model has a mean IoU of {row['mIoU'] or 'n/a'} % (95 % interval {low} to {high}) "
            f"over {images} image{'s' if images > 1 else ''}."
        )

    @property
    def notes(self) -> dict[str, str]:
        """What each row was asked, with a few of the words."""
        out = {}
        for name, row in self.rows.items():
            if name == NAMES:
                out[name] = "each class by its name"
            elif name == "names and synonyms":
                out[name] = "all of them at once; the best word speaks for its class"
            elif name.startswith("synonyms"):
                words = row["protocol"]["vocabulary"]["class_names"]
                more = " and so on" if len(words) > 4 else ""
                out[name] = f"each class by another word alone: {', '.join(words[:4])}{more}"
            else:
                beside = [w for w in row["label_names"] if w not in self.names["label_names"]]
                out[name] = f"the names beside words that no image shows: {', '.join(beside)}"
        return out

    @property
    def classes(self) -> list[WordClass]:
        """Those in truth or answer, the most frequent one first."""
        labels, true = self.names["label_names"], self.gallery.true_pixels.tolist()
        seen = seen_in(labels, self.names["protocol"]["trained_on"])
        all_pixels, palette = max(sum(true), 1), words_palette(labels)
        found = [
            WordClass(
                name=name,
                colour=css(palette[k]),
                kind=name if name == BACKGROUND else "seen" if seen[k] else "unseen",
                share=100 * true[k] / all_pixels,
                iou=iou,
                by_row=tuple(
                    (row["label_names"][k], row["scores"]["iou"][k]) for row in self.rows.values()
                ),
            )
            for k, (name, iou) in enumerate(zip(labels, self.names["scores"]["iou"], strict=True))
            if iou is not None
        ]
        return sorted(found, key=lambda one: -one.share)

    @property
    def nowhere(self) -> list[str]:
        """Names of classes in neither truth nor answer."""
        row = self.names
        pairs = zip(row["label_names"], row["scores"]["iou"], strict=True)
        return [name for name, iou in pairs if iou is None]

    @property
    def details(self) -> dict[str, str]:
        """The protocol of the names in words; other rows differ from it in their words alone."""
        protocol = self.names["protocol"]
        words, options = protocol["vocabulary"], protocol["options"]
        policy = words["background"] or {}
        return {
            "data": protocol["data"],
            "images": f"{self.names['images']}, digest {protocol['images']}",
            "words": ", ".join(words["class_names"]),
            "sentence": ", ".join(words["templates"]),
            "background": _options(policy) or "none, each pixel has a word",
            "trained on": ", ".join(protocol["trained_on"]) or "unknown names",
            "image size": protocol["image_size"],
            "options": _options(options) or "the defaults",
            "unlabelled": f"pixels of label {protocol['ignore']} never count",
        }


@dataclass(frozen=True, kw_only=True)
class WordsReport:
    """A segmenter of words on all data sets.

    Attributes:
        record: what report.json holds; the page shows these numbers.
        galleries: pictures and true pixels of the row of the names, by data set.
    """

    record: Mapping[str, Any]
    galleries: Mapping[str, WordsGallery]

    @property
    def sets(self) -> list[WordsSet]:
        """The data sets in their order."""
        results = self.record["results"]
        return [
            WordsSet(name=name, rows=rows, gallery=self.galleries[name])
            for name, rows in results.items()
        ]

    @property
    def mean_sentence(self) -> str:
        """The mean over data sets, in words; empty for one alone."""
        means = self.record.get("mean over data sets")
        if means is None:
            return ""
        count = len(self.record["results"])
        return (
            f"The mean mIoU over {count} data sets is {percent(means['miou'])} %, "
            f"and {percent(means['coi_miou'])} % over the classes of interest alone, without "
            "background; both count the classes in truth or answer (column “union”)."
        )

    def html(self) -> str:
        """The page as text."""
        sets = self.sets
        where = sets[0].name if len(sets) == 1 else f"{len(sets)} data sets"
        circumstances = {
            "model": self.record["model"],
            "options": _options(self.record["options"]),
            **self.record["circumstances"],
        }
        values = {
            "report": self,
            "title": f"Words: {self.record['model']} on {where}",
            "sets": sets,
            "columns": columns,
            "meanings": COLUMNS,
            "cells": cells,
            "further": further,
            "percent": percent,
            "bars": BARS,
            "legend": LEGEND,
            "wrong": css(BROKEN),
            "stripes": [css(colour) for colour in STRIPES],
            "circumstances": circumstances,
            "plot_style": svg.style(),
        }
        return render("words", values)

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write report.json and report.html and return their paths."""
        contents = json.dumps(self.record, indent=1, allow_nan=False) + "\n", self.html()
        paths = folder / "report.json", folder / "report.html"
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, contents, strict=True):
            write_atomic(path, text)
        return paths


def _options(options: Mapping[str, Any]) -> str:
    """Names and values in words."""

    def text(value: Any) -> str:
        if isinstance(value, list | tuple):
            return " / ".join(map(str, value))
        return "none" if value in (None, "") else str(value)

    return ", ".join(f"{name} {text(value)}" for name, value in options.items())
