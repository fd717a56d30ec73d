"""The page of found words: complete, self-contained, and plain about what was not found."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from crispmask.models.text_answer import TextAnswer
from crispmask.models.vocabulary import Threshold, Vocabulary
from crispmask.report.pictures import UNKNOWN_COLOUR
from crispmask.report.segment import (
    NOT_FOUND_SHOWN,
    SegmentReport,
    WordsCard,
    WordsImage,
    words_overlay,
    words_palette,
)

WORDS = Vocabulary(
    class_names=("water", "a<b>", "city", "ship"), background=Threshold(score=0.5, label=0)
)


def answer(vocabulary: Vocabulary = WORDS, *, presence: tuple[float, ...] = ()) -> TextAnswer:
    """Half of the pixels are of label 1, a quarter each of 0 and 3."""
    labels = torch.zeros(8, 12, dtype=torch.int64)
    labels[:4] = 1
    labels[4:, 6:] = 3
    probs = torch.stack([(labels == k).float() * 0.8 + 0.05 for k in (0, 1, 3)])[None]
    return TextAnswer.from_probs(
        probs / probs.sum(1, keepdim=True),
        kept=(0, 1, 3),
        label_names=vocabulary.label_names,
        presence=torch.tensor([presence or (0.9, 0.2, 0.4, 0.3)]),
        num_calls=4,
    )


def report(vocabulary: Vocabulary = WORDS, *, found: TextAnswer | None = None) -> SegmentReport:
    found = answer() if found is None else found
    image = torch.rand(3, 8, 12, generator=torch.Generator().manual_seed(0))
    return SegmentReport(
        title="1 image by <tiny>",
        vocabulary=vocabulary,
        images=(WordsImage.of(found, name="a", file="a.jpg"),),
        cards=(WordsCard.of(found, image, words_palette(vocabulary.label_names)),),
        options={"top": None, "negative": ""},
        protocol={"model": "tiny"},
    )


def test_rows_say_what_was_found() -> None:
    one = report()
    rows = one.rows(one.images[0])
    assert [row.name for row in rows] == ["water", "city", "background", "ship", "a<b>"]
    water, city, background, ship, _ = rows
    assert (water.share, city.share, ship.share) == (50, 25, 0)
    assert water.colour is not None
    assert ship.colour is None
    assert background.presence is None
    assert [row.doubtful for row in rows] == [False, True, False, False, False]
    assert one.sentence(one.images[0]) == "water 50 %, city 25 %, background 25 %"


def test_the_page_needs_nothing_else_and_escapes() -> None:
    page = report().html()
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "http" not in page
    assert page.count("data:image/png;base64,") == 3
    assert "a&lt;b&gt;" in page
    assert "<tiny>" not in page
    assert page.count(">not found<") == 2
    assert len(re.findall(r'class="value doubtful">doubtful 40 %', page)) == 1
    assert "width: 90.0%" in page
    assert "top none, negative none" in page


def test_a_background_that_is_not_asked_for_is_explained() -> None:
    open_words = replace(WORDS, background=None)
    found = answer(open_words)
    assert "No background was asked for" in report(open_words, found=found).html()
    assert "No background was asked for" not in report().html()


def test_a_long_list_is_cut_where_nothing_was_found() -> None:
    names = tuple(f"word {i}" for i in range(300))
    vocabulary = Vocabulary(class_names=names)
    found = answer(vocabulary, presence=tuple(i / 300 for i in range(300)))
    long = report(vocabulary, found=found)
    page = long.html()
    assert page.count(">not found<") == NOT_FOUND_SHOWN
    assert f"{297 - NOT_FOUND_SHOWN} further words" in page
    assert ">word 299<" in page  # the most likely one
    assert ">word 5<" not in page
    assert len(long.to_json()["images"][0]["presence"]) == 300


def test_files(tmp_path: Path) -> None:
    data, page = report().write(tmp_path / "new")
    record = json.loads(data.read_text())
    assert record["background"] == {"policy": "Threshold", "score": 0.5, "label": 0}
    assert record["label_names"] == ["background", "water", "a<b>", "city", "ship"]
    (image,) = record["images"]
    assert image["shares"] == {"background": 0.25, "water": 0.5, "a<b>": 0, "city": 0.25, "ship": 0}
    assert set(image["presence"]) == {"water", "a<b>", "city", "ship"}
    assert (image["height"], image["width"]) == (8, 12)
    assert page.read_text().startswith("<!doctype html>")


def test_colours() -> None:
    palette = words_palette(("background", "water", "dragon", "water lily"))
    assert palette[0] == UNKNOWN_COLOUR
    assert palette[1] == (40, 90, 170)  # as on pages about Earth
    assert len(set(palette)) == 4


def test_the_overlay_knows_more_than_255_labels() -> None:
    palette = tuple((i % 256, i // 256, 7) for i in range(300))
    labels = torch.tensor([[0, 255], [256, 299]])
    pixels = words_overlay(torch.zeros(3, 2, 2), labels, palette)
    want = np.array([[palette[i] for i in row] for row in labels.tolist()]) / 2
    assert np.abs(pixels - want).max() <= 0.5
