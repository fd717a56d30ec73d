"""``crispmask evaluate-words``: rows of words, their numbers, and input that cannot be used."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crispmask.cli import main
from crispmask.cli.asking import Asking
from crispmask.cli.evaluate_words import check_order, protocol_options
from crispmask.data.catalog import CAMVID_CLASSES
from crispmask.data.class_names import readable
from crispmask.data.earth import EARTH_CLASSES
from crispmask.data.photos import CONTEXT_CLASSES
from crispmask.data.source import open_data
from crispmask.errors import InputError
from crispmask.evaluate.open_vocabulary import WordsProtocol, evaluate_words
from crispmask.evaluate.words import UnderNames, vocabulary_of, word_rows
from crispmask.models.text_segmenter import TextSegmenter
from crispmask.models.vocabulary import Rivals, Threshold, Vocabulary
from crispmask.shapes import VOID
from striped_data import dataset

# the words


@pytest.mark.parametrize("names", [EARTH_CLASSES, CAMVID_CLASSES], ids=["earth", "camvid"])
def test_three_synonyms_of_each_class(names: tuple[str, ...]) -> None:
    vocabulary = vocabulary_of(names)
    assert vocabulary.label_names == names
    assert min(len(vocabulary.synonyms[name]) for name in names) >= 3
    rows = word_rows(vocabulary)
    assert list(rows) == ["names", *(f"synonyms {i}" for i in (1, 2, 3)), "names and synonyms"]
    for i in (1, 2, 3):
        words = rows[f"synonyms {i}"]
        assert not set(words.queries) & set(names)
        for name, word in zip(names, words.class_names, strict=True):
            assert word == vocabulary.synonyms[name][i - 1]
    assert rows["names"].queries == names
    assert rows["names and synonyms"] == vocabulary


def test_synonyms_count_only_where_every_class_has_one() -> None:
    words = Vocabulary(class_names=("car", "sky"), synonyms={"car": ("auto",)})
    assert list(word_rows(words)) == ["names", "names and synonyms"]


@pytest.mark.parametrize("label", [None, 0, 1])
def test_absent_words_keep_the_labels(label: int | None) -> None:
    for background in (Threshold(score=0.5, label=label), Rivals(words=("wall",), label=label)):
        words = Vocabulary(class_names=("car", "sky"), background=background)
        more = word_rows(words, absent=["polyp", "piano"])["absent words"]
        assert more.label_names == (*words.label_names, "polyp", "piano")
    with pytest.raises(InputError, match="'Sky' is a word for one of the classes"):
        word_rows(words, absent=["piano", "Sky"])


def test_a_background_class_becomes_a_policy() -> None:
    words = vocabulary_of(("background", "polyp"))
    assert words.label_names == ("background", "polyp")
    assert words.background == Threshold(score=0.5, label=0)


# the command


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return dataset(tmp_path / "data", names="water\nforest\nurban\n")


def run(*words: str | Path) -> int:
    return main(["evaluate-words", *map(str, words)])


def report(*words: str | Path, output: Path) -> dict[str, Any]:
    assert run(*words, "--output", output) == 0
    record: dict[str, Any] = json.loads((output / "report.json").read_text())
    return record


def test_the_names_as_python_measures_them(
    tiny_words: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = report(tiny_words, data, "--oracle", output=tmp_path / "out")
    printed = capsys.readouterr().out
    assert list(record["results"]) == [str(data)]
    (row,) = record["results"][str(data)].values()
    model = TextSegmenter.from_pretrained(tiny_words)
    names = Vocabulary(class_names=("water", "forest", "urban"), templates=("{}",))
    protocol = WordsProtocol(
        data=str(data),
        vocabulary=names,
        trained_on=("water", "forest"),
        image_size="as they are",
    )
    want = evaluate_words(open_data(str(data)), model.bound(names), protocol)
    assert row["scores"]["miou_truth"] == pytest.approx(want.scores.miou_truth)
    assert row["presence"]["ap"] == pytest.approx(want.presence.ap)  # type: ignore[union-attr]
    assert row["oracle_presence"]["miou_truth"] >= row["scores"]["miou_truth"]
    assert row["protocol"]["hash"] == want.protocol.hash
    assert want.protocol.hash in printed
    assert f"{100 * want.scores.miou_truth:.1f}" in printed
    assert "mean over data sets" not in record
    assert want.per_image is not None
    hd95 = sum(want.per_image.hd95) / len(want.per_image.hd95)
    assert f"mean F1 {100 * want.scores.mean_f1:.1f}, dice " in printed
    assert f"HD95 {hd95:.1f} pixels" in printed


def test_rows_of_other_words(tiny_words: Path, data: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.json"
    words.write_text(json.dumps({"water": ["lake", "sea"], "forest": ["wood"], "urban": ["town"]}))
    options = ("--words", words, "--synonyms", "--absent", "car, piano")
    record = report(tiny_words, data, *options, output=tmp_path / "out")
    rows = record["results"][str(data)]
    assert list(rows) == ["names", "synonyms 1", "names and synonyms", "absent words"]
    assert rows["synonyms 1"]["label_names"] == ["lake", "wood", "town"]
    assert rows["absent words"]["label_names"] == ["water", "forest", "urban", "car", "piano"]
    assert rows["absent words"]["absent_area"] > 0
    assert len(rows["absent words"]["scores"]["iou"]) == 5
    assert len({row["protocol"]["hash"] for row in rows.values()}) == 4
    assert rows["names"]["scores"]["miou_unseen"] is not None  # urban was not trained on
    assert rows["synonyms 1"]["scores"]["miou_seen"] is None


def test_several_data_sets_and_a_limit(
    tiny_words: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = dataset(tmp_path / "other", names="background\ncity\nsky\n", seed=1)
    options = ("--limit", "2", "--json", "--num-inference-steps", "2")
    record = report(tiny_words, data, other, *options, output=tmp_path / "out")
    captured = capsys.readouterr()
    assert json.loads(captured.out) == record
    assert "mean over data sets" in captured.err
    first, second = (rows["names"] for rows in record["results"].values())
    means = record["mean over data sets"]
    assert means["miou"] == pytest.approx(
        (first["scores"]["miou_union"] + second["scores"]["miou_union"]) / 2
    )
    assert first["images"] == second["images"] == 2
    assert second["label_names"] == ["background", "city", "sky"]
    assert second["protocol"]["vocabulary"]["background"]["label"] == 0
    assert "2 images" in first["protocol"]["data"]
    assert record["options"]["num_inference_steps"] == 2


def test_options_of_a_protocol_are_those_that_matter(tiny_words: Path) -> None:
    model = TextSegmenter.from_pretrained(tiny_words)
    assert model.config.start == "zeros"
    assert protocol_options(Asking(seed=3, chunk=2), model) == {}
    assert protocol_options(Asking(exact=True, flip=True), model) == {"top": None, "flip": True}


def test_labels_of_16_bits(tiny_words: Path, tmp_path: Path) -> None:
    root, rng = tmp_path / "ade", np.random.default_rng(0)
    letters = "abcdefghij"
    names = [x + y + z for x in letters for y in letters for z in letters][:847]
    for kind in ("images", "annotations"):
        (root / f"{kind}_detectron2" / "validation").mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(names))
    ids = np.full((16, 24), 846, np.uint16)
    ids[:4], ids[4:8] = 255, 65535  # a class, and unknown
    pixels = rng.integers(0, 256, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "images_detectron2" / "validation" / "a.jpg")
    Image.fromarray(ids).save(root / "annotations_detectron2" / "validation" / "a.tif")
    data = f"ade20k-847:{root}/val"
    record = report(tiny_words, data, "--top", "2", output=tmp_path / "out")
    row = record["results"][data]["names"]
    assert row["protocol"]["ignore"] == VOID
    assert row["label_names"] == names
    known = [i for i, iou in enumerate(row["scores"]["iou"]) if iou is not None]
    assert {255, 846} <= set(known)
    assert len(known) <= 4  # these two, and what the two words that were drawn took


Refuse = Callable[..., str]


@pytest.fixture
def refuse(tiny_words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Runs the command, which must fail well, and returns its one sentence."""

    def attempt(*words: str | Path, model: str | Path = tiny_words) -> str:
        output = tmp_path / "output"
        assert run(model, *words, "--output", output) == 2
        captured = capsys.readouterr()
        (sentence,) = captured.err.splitlines()
        assert sentence.startswith("crispmask: ")
        assert captured.out == ""
        assert not output.exists()
        return sentence

    return attempt


def test_data_and_words_that_do_not_fit(refuse: Refuse, data: Path, tmp_path: Path) -> None:
    assert "has 3 labels, the vocabulary 2" in refuse(data, "--words", "water, forest")
    assert "'forest' stands in places" in refuse(data, "--words", "forest, forest, city")
    assert "Cyrillic" in refuse(data, "--words", "вода, forest, city")
    twice = refuse(data, "--words", "water, forest, urban", "water, forest, urban")
    assert "each of 1 data sets or not at all, got 2" in twice
    assert "is a word for one of the classes" in refuse(data, "--absent", "water")
    assert "one or more different data sets" in refuse(data, data)
    assert "needed but not given" in refuse() or "different data sets" in refuse()
    (data / "classes.txt").unlink()
    assert "needs a file classes.txt" in refuse(data)
    assert "train, val and test" in refuse("earth:all")


def test_the_names_of_the_data_in_another_order(refuse: Refuse, data: Path) -> None:
    said = "call class 1 'forest', the words 'Urban'; leave --words out"
    assert said in refuse(data, "--words", "water, Urban, forest")
    (data / "classes.txt").write_text("background\nforest\nurban\n")
    words = ("--words", "forest, urban", "--background-threshold", "0.5")  # background comes last
    assert "call class 0 'background', the words 'forest'" in refuse(data, *words)


def test_a_list_in_another_order_than_its_reader() -> None:
    words = Vocabulary.parse("pascal-context-59").label_names
    with pytest.raises(InputError, match="the order of the labels of context, which call class 1"):
        check_order(words, CONTEXT_CLASSES, source="context")
    check_order([readable(name) for name in CONTEXT_CLASSES], CONTEXT_CLASSES, source="context")


def test_models_that_are_none(refuse: Refuse, data: Path, tiny_models: Path) -> None:
    assert "no model called" in refuse(data, model="nothing")
    assert "needed is a TextSegmenter" in refuse(data, model=tiny_models / "base")


@pytest.mark.parametrize("options", [("--limit", "0"), ("--top", "0"), ("--limit", "x")])
def test_options_out_of_range(refuse: Refuse, data: Path, options: tuple[str, str]) -> None:
    assert options[0].strip("-") in refuse(data, *options)


def test_a_data_set_under_more_names(data: Path) -> None:
    source = open_data(str(data))
    more = UnderNames(source, (*source.class_names, "piano"))
    assert len(more) == 3
    assert more[1].name == source[1].name
    assert more.blocks is None
    earth = open_data("earth:val")
    assert list(UnderNames(earth, ("a",)).blocks) == list(earth.blocks)  # type: ignore[union-attr]
