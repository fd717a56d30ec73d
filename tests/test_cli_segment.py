"""``crispmask segment`` writes what the model answers, and refuses what it cannot use."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backbone_layouts import write_backbone
from crispmask.cli import main
from crispmask.cli.segment import SegmentArguments
from crispmask.data.sample import read_mask, write_mask
from crispmask.models.text_segmenter import TextSegmenter
from crispmask.models.vocabulary import CHANCE, Threshold, Vocabulary
from tiny_text import tiny_segmenter

WORDS = "water, forest, city"
ASKED = Vocabulary(
    class_names=("water", "forest", "city"),
    templates=("{}",),
    background=Threshold(score=CHANCE),
)


def picture(path: Path, *, size: tuple[int, int] = (32, 24)) -> Path:
    """A noisy picture of width and height `size`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def run(*words: str | Path) -> int:
    return main(["segment", *map(str, words)])


def grey(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path)))


def test_files_hold_what_the_model_answers(
    tiny_words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = picture(tmp_path / "photos" / "a.png")
    picture(tmp_path / "photos" / "b.jpg", size=(20, 36))
    output = tmp_path / "out"
    assert run(tmp_path / "photos", WORDS, "--model", tiny_words, "--output", output) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2 label maps" in captured.err

    answer = TextSegmenter.from_pretrained(tiny_words)(one, ASKED)
    assert torch.equal(read_mask(output / "labels" / "a.png"), answer.labels[0])
    doubt = (255 * answer.uncertainty[0]).round()
    assert (grey(output / "uncertainty" / "a.png") - doubt).abs().max() <= 1
    assert Image.open(output / "overlays" / "b.png").size == (20, 36)

    record = json.loads((output / "segment.json").read_text())
    assert record["words"] == {"water": [], "forest": [], "city": []}
    first, second = record["images"]
    assert (first["name"], first["file"], second["file"]) == ("a", "a.png", "b.jpg")
    assert list(first["presence"].values()) == pytest.approx(answer.presence[0].tolist())
    for label, name in enumerate(record["label_names"]):
        share = (answer.labels == label).float().mean().item()
        assert first["shares"][name] == pytest.approx(share)
    assert first["num_calls"] == answer.num_calls == 4
    assert "torch" in record["protocol"]["software"]
    assert record["options"]["num_inference_steps"] == 1

    page = (output / "segment.html").read_text()
    assert page.count("<article") == 2
    before = {path: path.read_bytes() for path in output.rglob("*.png")}
    assert len(before) == 6
    assert run(tmp_path / "photos", WORDS, "--model", tiny_words, "--output", output) == 0
    assert {path: path.read_bytes() for path in output.rglob("*.png")} == before


def test_options_reach_the_model(tiny_words: Path, tmp_path: Path) -> None:
    image, output = picture(tmp_path / "a.png"), tmp_path / "out"
    words = tmp_path / "words.txt"
    words.write_text("water, lake\nforest\ncity\n")

    def record(*more: str) -> dict[str, object]:
        assert run(image, words, "--model", tiny_words, "--output", output, *more) == 0
        found = json.loads((output / "segment.json").read_text())
        return {**found["images"][0], "label_names": found["label_names"], "all": found}

    assert record()["num_calls"] == 1 + 4  # the synonym is a query of its own
    assert record()["label_names"] == ["water", "forest", "city", "background"]
    assert record("--background-threshold", "0")["label_names"] == ["water", "forest", "city"]
    assert record("--top", "1")["num_calls"] == 1 + 1
    assert record("--top", "1", "--exact")["num_calls"] == 1 + 4
    assert record("--num-inference-steps", "2")["num_calls"] == 1 + 4 * 2
    assert record("--flip")["num_calls"] == 1 + 4 * 2
    assert record("--tile", "16")["num_calls"] != 1 + 4
    light, vae = record()["uncertainty"], record("--decode", "vae")["uncertainty"]
    assert light != vae

    found = record("--background-threshold", "0.45")
    assert found["label_names"] == ["water", "forest", "city", "background"]
    vocabulary = Vocabulary(
        class_names=("water", "forest", "city"),
        synonyms={"water": ("lake",)},
        templates=("{}",),
        background=Threshold(score=0.45),
    )
    want = TextSegmenter.from_pretrained(tiny_words)(image, vocabulary)
    assert torch.equal(read_mask(output / "labels" / "a.png"), want.labels[0])
    assert found["all"]["background"]["policy"] == "Threshold"  # type: ignore[index]


def test_a_class_list_has_no_background_but_its_own() -> None:
    def background(words: str) -> object:
        return SegmentArguments(images=("a.png", words)).vocabulary.background

    assert background("water, forest") == Threshold(score=CHANCE)
    assert background("earth-10") is None
    assert background("isic-2") == Vocabulary.named("isic-2").background


Refuse = Callable[..., str]


@pytest.fixture
def refuse(tiny_words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Runs the command, which must fail well, and returns its one sentence."""

    def attempt(*words: str | Path, model: str | Path = tiny_words) -> str:
        output = tmp_path / "output"
        assert run(*words, "--model", model, "--output", output) == 2
        captured = capsys.readouterr()
        (sentence,) = captured.err.splitlines()
        assert sentence.startswith("crispmask: ")
        assert captured.out == ""
        assert not output.exists()
        return sentence

    return attempt


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "at least one word"),
        ("water, , city", "needs a letter or digit, got '' in place 2"),
        ("water, city, Water", "'Water' stands in places 1 and 3"),
        ("water, background", "Rivals .* or as a Threshold"),
        ("water, " + "long" * 9, "shorten it"),
        ("water, вода", "Cyrillic letters"),
        ("no-such-list.txt", "cannot be read"),
    ],
)
def test_words_that_cannot_be_asked(
    refuse: Refuse, tmp_path: Path, words: str, message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(refuse(picture(tmp_path / "a.png"), words))


def test_devices(refuse: Refuse, tiny_words: Path, tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png")
    assert "--device abacus cannot be used here (" in refuse(image, WORDS, "--device", "abacus")
    output = tmp_path / "found"
    assert run(image, WORDS, "--model", tiny_words, "--output", output, "--device", "cpu") == 0
    assert (output / "labels" / "a.png").exists()


def test_too_many_words(refuse: Refuse, tmp_path: Path) -> None:
    words = tmp_path / "many.txt"
    letters = "abcdefghijk"
    words.write_text("\n".join(x + y + z for x in letters for y in letters for z in letters))
    sentence = refuse(picture(tmp_path / "a.png"), words)
    assert "at most 1,000 texts can be asked for at once, got 1,331" in sentence


def test_models_that_are_none(refuse: Refuse, tiny_models: Path, tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png")
    assert "no model called 'nothing'" in refuse(image, WORDS, model="nothing")
    other = refuse(image, WORDS, model=tiny_models / "refiner")
    assert "holds a MaskRefiner, needed is a TextSegmenter" in other
    backbone = write_backbone(tmp_path / "sd", "sd1")
    assert "is a backbone, which has learned nothing of masks yet" in refuse(
        image, WORDS, model=backbone
    )


def test_images_that_cannot_be_used(refuse: Refuse, tmp_path: Path) -> None:
    good = picture(tmp_path / "a.png")
    small = picture(tmp_path / "small.png", size=(9, 1))
    assert "small.png must have at least 2x2 pixels" in refuse(good, small, WORDS)
    broken = tmp_path / "broken.png"
    broken.write_bytes(good.read_bytes()[:200])
    assert "broken.png cannot be read" in refuse(good, broken, WORDS)
    assert "does not exist" in refuse(tmp_path / "nowhere.png", WORDS)
    again = picture(tmp_path / "again" / "a.png")
    assert "differ in name, got 'a' 2 times" in refuse(good, again, WORDS)


def test_no_file_that_is_read_is_overwritten(
    tiny_words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, output = picture(tmp_path / "b.png"), tmp_path / "out"
    inside = [picture(output / part / "a.png") for part in ("labels", "overlays", "uncertainty")]
    words = output / "segment.json"
    words.write_text('["water", "city"]')
    before = {path: path.read_bytes() for path in (*inside, words)}
    cases: list[tuple[Path, str | Path]] = [*((path, WORDS) for path in inside), (image, words)]
    for given, asked in cases:
        assert run(given, asked, "--output", output, "--model", tiny_words) == 2
        assert "would be overwritten" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


def test_an_argument_is_missing(refuse: Refuse, tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png")
    assert "one image and the words are needed" in refuse(image)
    for last in (picture(tmp_path / "b.JPG"), tmp_path / "nowhere.tif"):
        sentence = refuse(image, last)
        assert f"words must be the last argument, got the image {last}" in sentence


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tile", "15"), "tile must be a multiple of 4, got 15"),
        (("--top", "0"), "top must be at least 1"),
        (("--num-inference-steps", "0"), "got 0"),
        (("--decode", "other"), "--decode"),
        (("--background-threshold", "2"), "must lie in"),
        (("--ensemble-size", "2"), "starts from zeros"),
    ],
)
def test_options_out_of_range(
    refuse: Refuse, tmp_path: Path, options: tuple[str, str], message: str
) -> None:
    assert message in refuse(picture(tmp_path / "a.png"), WORDS, *options)


@pytest.fixture(scope="module")
def noisy_words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model of many steps."""
    folder = tmp_path_factory.mktemp("words") / "noisy"
    tiny_segmenter(start="noise").save_pretrained(folder)
    return folder


def test_labels_of_one_run_start_another(noisy_words: Path, tmp_path: Path) -> None:
    one = picture(tmp_path / "photos" / "a.png")
    picture(tmp_path / "photos" / "b.png", size=(20, 36))
    first, second = tmp_path / "first", tmp_path / "second"
    assert run(tmp_path / "photos", WORDS, "--model", noisy_words, "--output", first) == 0
    labels = read_mask(first / "labels" / "a.png")
    labels[:12] = 255
    starts = tmp_path / "starts"
    starts.mkdir()
    write_mask(labels, starts / "a.png")
    words = (tmp_path / "photos", WORDS, "--model", noisy_words, "--output", second)
    assert run(*words, "--start", starts, "--strength", "0.2") == 0
    model = TextSegmenter.from_pretrained(noisy_words)
    want = model(one, ASKED, start=labels, strength=0.2)
    assert torch.equal(read_mask(second / "labels" / "a.png"), want.labels[0])
    plain, other = (read_mask(folder / "labels" / "b.png") for folder in (first, second))
    assert torch.equal(plain, other)
    options = json.loads((second / "segment.json").read_text())["options"]
    assert (options["start"], options["strength"]) == ({"a.png": "a.png"}, 0.2)
    assert "start" not in json.loads((first / "segment.json").read_text())["options"]


def test_starts_that_cannot_be_used(
    refuse: Refuse, noisy_words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, start = picture(tmp_path / "a.png"), tmp_path / "start.png"
    write_mask(torch.zeros(24, 32, dtype=torch.int64), start)
    assert "from zeros and never saw one" in refuse(image, WORDS, "--start", start)

    def said(*words: str | Path) -> str:
        return refuse(image, WORDS, "--start", start, *words, model=noisy_words)

    assert "strength must lie in (0, 1], got 0.0" in said("--strength", "0")
    assert "strength 0.002 leaves 2 of 1000 steps" in said(
        "--strength", "0.002", "--num-inference-steps", "3"
    )
    assert "start labels must have the name of their image" in refuse(
        image, picture(tmp_path / "b.png"), WORDS, "--start", start, model=noisy_words
    )
    write_mask(torch.full((24, 32), 4), start)
    assert "start.png needs ids from 0 to 3, or 255 for unknown, got 4" in said()
    write_mask(torch.zeros(32, 24, dtype=torch.int64), start)
    assert "start.png must have the size of the image, 1 of 24x32" in said()
    (tmp_path / "output" / "labels").mkdir(parents=True)
    kept = tmp_path / "output" / "labels" / "a.png"
    write_mask(torch.zeros(24, 32, dtype=torch.int64), kept)
    words = (image, WORDS, "--start", kept, "--model", noisy_words)
    assert run(*words, "--output", tmp_path / "output") == 2
    assert "would be overwritten" in capsys.readouterr().err


def test_an_output_that_cannot_be_made(
    tiny_words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = picture(tmp_path / "a.png")
    for output in (image, image / "below"):
        assert run(image, WORDS, "--model", tiny_words, "--output", output) == 2
        (sentence,) = capsys.readouterr().err.splitlines()
        assert "a.png" in sentence
        assert "give another name" in sentence
