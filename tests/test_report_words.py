"""The page of `crispmask evaluate-words`: the numbers of the JSON, and nothing from elsewhere."""

import base64
import io
import json
import re
from html import escape, unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from crispmask.cli import main
from crispmask.data.sample import Sample
from crispmask.report.pictures import BROKEN, LONGEST_SIDE
from crispmask.report.words import BARS, WordsReport
from crispmask.report.words_pictures import EXAMPLES, WordsExample, WordsGallery
from crispmask.report.words_scores import cells, columns, further
from crispmask.shapes import VOID
from striped_data import dataset

FOUR = "water\nforest\nurban\nsnow\n"
"""Of which the last never occurs."""

NOTHING = "\N{EN DASH}"
"""What the page shows for a mean over nothing."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return dataset(tmp_path / "data", names=FOUR)


def measured(*words: str | Path, output: Path) -> tuple[dict[str, Any], str]:
    """Runs the command; the JSON and the page that it has written."""
    assert main(["evaluate-words", *map(str, words), "--output", str(output)]) == 0
    page = (output / "report.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert not re.search(r"https?://|<script|@import|url\(", page)
    return json.loads((output / "report.json").read_text()), page


def tables(page: str) -> list[list[list[str]]]:
    """Text of all cells, by table and row."""
    return [
        [
            [unescape(re.sub("<[^>]+>", " ", cell)).strip() for cell in found]
            for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL)
            if (found := re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL))
        ]
        for table in re.findall(r"<table>.*?</table>", page, re.DOTALL)
    ]


def test_the_page_of_one_data_set(
    tiny_words: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    record, page = measured(tiny_words, data, output=output)
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == f"look at {output / 'report.html'}"
    rows = record["results"][str(data)]
    names = rows["names"]
    miou = f"{100 * names['scores']['miou_truth']:.1f}"
    assert f"has a mean IoU of {miou} % (95 % interval" in page
    assert "over 3 images." in page
    (scores,) = tables(page)
    assert scores[0] == ["", *columns(rows)]
    assert "told" not in scores[0]
    assert scores[1] == ["names", *(cells(names)[c] for c in columns(rows))]
    for text in further(names).values():
        assert text in page
    assert names["protocol"]["hash"] in page
    assert page.count("data:image/png;base64,") == 4 * 3
    shown = dict(re.findall(r"([a-z]+)(?:<span.*?</span>)?<small>([\d.]+) %</small>", page))
    assert set(shown) == {"water", "forest", "urban"}
    assert sum(map(float, shown.values())) == pytest.approx(100, abs=0.2)
    assert page.count('<span class="chip">unseen</span>') == 1  # urban
    assert re.search(r"(In neither|In no image).*?: .*snow", page)
    assert "The mean mIoU over" not in page


def test_rows_of_words_and_oracle(tiny_words: Path, data: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.json"
    synonyms = {"water": ["lake"], "forest": ["wood"], "urban": ["town"], "snow": ["ice"]}
    words.write_text(json.dumps(synonyms))
    options = ("--words", words, "--synonyms", "--absent", "car, piano", "--oracle")
    record, page = measured(tiny_words, data, *options, output=tmp_path / "out")
    rows = record["results"][str(data)]
    scores, classes = tables(page)
    assert [row[0] for row in scores[1:]] == list(rows)
    assert scores[0][-1] == "told"
    assert scores[1][-1] == f"{100 * rows['names']['oracle_presence']['miou_truth']:.1f}"
    assert "words that no image shows: car, piano" in page
    assert "by another word alone: lake, wood, town, ice<" in page
    assert classes[0] == ["", "share", *rows]
    water = next(row for row in classes if row[0] == "water")
    place = rows["names"]["label_names"].index("water")
    for cell, row in zip(water[2:], rows.values(), strict=True):
        assert cell.split()[0] == f"{100 * row['scores']['iou'][place]:.1f}"
    assert water[3].split()[1] == "lake"
    assert all(row["protocol"]["hash"] in page for row in rows.values())


def test_several_data_sets_and_few_pictures(tiny_words: Path, data: Path, tmp_path: Path) -> None:
    other = dataset(tmp_path / "other", names="background\ncity\nsky\n", images=8)
    record, page = measured(tiny_words, data, other, "--limit", "7", output=tmp_path / "out")
    means = record["mean over data sets"]
    said = f"{100 * means['miou']:.1f} %, and {100 * means['coi_miou']:.1f} %"
    assert f"The mean mIoU over 2 data sets is {said}" in page
    assert len(tables(page)) == 2
    assert page.count('href="#set-') == 2
    assert f"{EXAMPLES} of 7 images" in page
    assert page.count("data:image/png;base64,") == 4 * (3 + EXAMPLES)
    assert 'class="background"' in page


def test_names_of_files_are_escaped(tiny_words: Path, tmp_path: Path) -> None:
    data = dataset(tmp_path / "<i>data&co", names=FOUR)
    for part in ("images", "labels"):
        (data / part / "0.png").rename(data / part / "<u>.png")
    _, page = measured(tiny_words, data, output=tmp_path / "out")
    assert "<i>data" not in page
    assert "<u>" not in page
    assert "&lt;i&gt;data&amp;co" in page
    assert "&lt;u&gt;" in page


@pytest.mark.parametrize("in_truth", [0, 1, 2])
def test_words_are_escaped(in_truth: int) -> None:
    names = ["<b>x", '"><script>']  # the tiny encoder has no tokens for these, others do
    gallery = WordsGallery(names, shown=(0,), ignore=255)
    mask = torch.zeros(4, 4, dtype=torch.int64)
    mask[:2] = in_truth > 1
    gallery.add(Sample(torch.zeros(3, 4, 4), mask, "<em>"), mask[None])
    record = plain_record(names, in_truth=in_truth)
    rows = record["results"]["d"]
    rows["synonyms 1"] = rows["absent words"] = rows["names"] | {"label_names": ["<b>y", "<b>z"]}
    page = WordsReport(record=record | {"model": "<b>m"}, galleries={"d": gallery}).html()
    assert not re.search("<b>[xyzm]|<script|<em>", page)
    for escaped in ("<b>x", "<b>z", "<b>m", "<em>"):
        assert escape(escaped) in page


def test_images_without_any_word(tiny_words: Path, data: Path, tmp_path: Path) -> None:
    (data / "classes.txt").write_text("background\ncity\nsky\n")
    for path in (data / "labels").iterdir():
        Image.fromarray(np.zeros((12, 16), np.uint8)).save(path)
    record, page = measured(tiny_words, data, output=tmp_path / "out")
    assert record["results"][str(data)]["names"]["presence"]["ap"] is None
    (scores,) = tables(page)
    row = dict(zip(scores[0], scores[1], strict=True))
    assert row["there AP"] == row["seen"] == row["unseen"] == NOTHING


def test_a_model_of_many_words_has_a_small_page() -> None:
    names = [f"word {i}" for i in range(150)]
    gallery = WordsGallery(names, shown=(), ignore=VOID)
    mask = torch.arange(100).repeat_interleave(torch.arange(1, 101))[None]  # 100 of 150, growing
    gallery.add(Sample(torch.zeros(3, *mask.shape), mask, "a"), mask[None])
    page = WordsReport(record=plain_record(names, in_truth=100), galleries={"d": gallery}).html()
    assert page.count('<div class="bar">') == BARS
    assert f"the first {BARS} of 100" in page
    assert page.index(">word 99<") < page.index(">word 98<")
    assert "50 classes are in neither" in page
    _, classes = tables(page)
    assert len(classes) == 1 + 100
    assert "<details open" not in page
    assert len(page) < 60_000


def test_an_answer_without_presence_or_known_scores() -> None:
    record = plain_record(["a", "b"], in_truth=0)
    row = record["results"]["d"]["names"]
    row["scores"].update(dict.fromkeys(("miou_truth", "miou_union", "mean_f1"), None))
    row["interval"] = dict.fromkeys(("mean", "low", "high"), None)
    gallery = WordsGallery(["a", "b"], shown=(0,), ignore=255)
    unknown = torch.full((4, 4), 255)
    gallery.add(Sample(torch.zeros(3, 4, 4), unknown, "i"), torch.zeros(1, 4, 4).long())
    page = WordsReport(record=record, galleries={"d": gallery}).html()
    assert "mean IoU of n/a %" in page
    assert "mean F1 n/a" in page
    assert page.count("no pixel is labelled") == 1
    assert "No pixel is labelled." in page
    assert "In neither truth nor answer: a, b" in page


def plain_record(names: list[str], *, in_truth: int) -> dict[str, Any]:
    """What report.json could hold of a data set "d", whose answers are all right."""
    row = {
        "protocol": {
            "hash": "0123456789ab",
            "data": "d",
            "vocabulary": {"class_names": names, "templates": ["{}"], "background": None},
            "trained_on": [],
            "image_size": "as they are",
            "ignore": VOID,
            "options": {},
            "images": "abc",
            "headline": "one",
            "other": "another",
        },
        "images": 1,
        "scores": {
            "miou_truth": 1.0,
            "miou_union": 1.0,
            "miou_seen": None,
            "miou_unseen": 1.0,
            "mean_f1": 1.0,
            "iou": [1.0 if i < in_truth else None for i in range(len(names))],
        },
        "interval": {"mean": 1.0, "low": 1.0, "high": 1.0},
        "oracle_presence": None,
        "presence": None,
        "absent_area": 0.0,
        "per_image": None,
        "label_names": names,
    }
    return {"model": "m", "options": {}, "results": {"d": {"names": row}}, "circumstances": {}}


def test_pictures_of_an_example() -> None:
    mask = torch.zeros(6, 2 * LONGEST_SIDE, dtype=torch.int64)
    mask[:, LONGEST_SIDE:] = 300  # 255 and more are classes like others
    mask[:2] = VOID
    labels = mask.clamp(min=0)
    labels[4:] = 255
    example = WordsExample.of(
        Sample(torch.zeros(3, *mask.shape), mask, "a"),
        labels,
        label_names=[f"word {i}" for i in range(301)],
        ignore=VOID,
    )
    assert [caption for caption, _ in example.panels] == ["image", "truth", "answer", "mistakes"]
    assert example.right == 0.5
    assert not example.small
    assert {name for name, _ in example.legend} == {"word 0", "word 255", "word 300"}
    pictures = {
        caption: np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
        for caption, uri in example.panels
    }
    assert {picture.shape for picture in pictures.values()} == {(3, LONGEST_SIDE, 3)}
    truth, answer, mistakes = (pictures[name] for name in ("truth", "answer", "mistakes"))
    assert (truth[1] == answer[1]).all()
    assert (mistakes[2] == BROKEN).all()
    assert not (mistakes[:2] == BROKEN).all(-1).any()
    assert len(np.unique(truth[0], axis=0)) == 2  # stripes
    colours = dict(example.legend)
    assert "#{:02x}{:02x}{:02x}".format(*truth[1, -1]) == colours["word 300"]
