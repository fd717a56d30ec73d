"""Training that goes on from a trained segmenter of words, and adapters of one."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from backbone_layouts import write_backbone
from crispmask.cli import main
from crispmask.errors import InputError
from crispmask.models.text_adapter import FACTORS, TARGETS, fingerprint
from crispmask.models.text_folder import HEADS, is_segmenter
from crispmask.models.text_segmenter import TextSegmenter
from crispmask.train import TextTrainConfig, train
from crispmask.train.queries import words_of
from crispmask.train.text_model import new_text_segmenter
from text_runs import AUGMENT, NAMES, log, stopping_at, text_config, write_data
from tiny_text import image_file, tiny_segmenter

TOYS = ("background", "ball", "box")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "shapes", NAMES)


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("toys") / "toys", TOYS)


@pytest.fixture(scope="module")
def finished(
    toys: Path, tiny_words: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TextTrainConfig, Path]:
    """An adapter of `tiny_words` and how it was trained."""
    pytest.importorskip("peft")
    config = text_config(toys, tiny_words, lora_rank=2, loop={"learning_rate": 0.05})
    return config, train(config, tmp_path_factory.mktemp("adapters") / "toys")


@pytest.fixture
def adapter(finished: tuple[TextTrainConfig, Path], tiny_words: Path, tmp_path: Path) -> Path:
    """A copy of it beside a copy of its base, which it names, for tests that spoil one of them."""
    shutil.copytree(tiny_words, tmp_path / "base")
    shutil.copytree(finished[1], tmp_path / "adapter")
    change(tmp_path / "adapter", base=str(tmp_path / "base"))
    return tmp_path / "adapter"


def change(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in ours.items())


# on from a trained segmenter


def test_a_trained_segmenter_goes_on(toys: Path, tiny_words: Path, tmp_path: Path) -> None:
    files = {p: p.read_bytes() for p in tiny_words.rglob("*") if p.is_file()}
    augment = replace(AUGMENT, short_side=16)
    config = text_config(toys, tiny_words, augment=augment, loop={"learning_rate": 1e-5})
    output = train(config, tmp_path / "run")
    assert {p: p.read_bytes() for p in tiny_words.rglob("*") if p.is_file()} == files
    model, start = (TextSegmenter.from_pretrained(f) for f in (output, tiny_words))
    assert model.config.class_names == ("ball", "box", "water", "forest")
    assert model.config.image_size == 16
    before, after = start.state_dict(), model.state_dict()
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4)
    for part in ("unet.", "align.", "decoder.", "pathway."):
        names = [name for name in before if name.startswith(part)]
        assert not all(torch.equal(after[name], before[name]) for name in names)
    assert (output / "unet").is_dir()  # whole
    card = (output / "README.md").read_text()
    assert f"It began with the text segmenter {tiny_words}." in card
    assert "This is an adapter" not in card
    record = json.loads((output / "run.json").read_text())
    assert record["base_sha256"] == fingerprint(tiny_words)


def test_words_of_a_closed_code_are_the_new_ones(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    tiny_segmenter(
        class_names=("water", "forest"), mask_code="palette", decode="vae"
    ).save_pretrained(tmp_path / "base")
    config = text_config(data, tmp_path / "base", mask_code="palette", lora_rank=1)
    model = TextSegmenter.from_pretrained(train(config, tmp_path / "run"))
    assert model.config.class_names == NAMES


def test_bundled_names_are_segmenters_and_backbones_are_none(tmp_path: Path) -> None:
    assert is_segmenter("text-earth")
    assert not is_segmenter(write_backbone(tmp_path, "sd1"))
    assert not is_segmenter("no-such-model")


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (("--mask-code", "palette"), "needs mask_code='binary', got 'palette'; change that"),
        (("--template", "a {}"), "needs template='{}', got 'a {}'"),
        (("--no-pathway",), "needs pathway=True, got False"),
        (("--steps", "many"), "needs steps='one', got 'many'"),
        (("--from-scratch",), "needs from_scratch=False, got True"),
        (("--steps", "many", "--no-pathway"), "pathway=True, got False; steps='one', got 'many'"),
        (("--held-out", "forest"), "held_out must name words .* was trained on forest"),
    ],
)
def test_settings_that_contradict_the_segmenter(
    tiny_words: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    match: str,
) -> None:
    images = write_data(tmp_path / "land", ("water", "forest", "city"))
    arguments = ["train", "text", "--backbone", str(tiny_words), "--data", str(images)]
    arguments += ["--template", "{}", "--augment.crop", "16", "16"]
    assert main([*arguments, *flags, "--output", str(tmp_path / "run")]) == 2
    *_, sentence = capsys.readouterr().err.splitlines()  # after a progress bar of transformers
    with pytest.raises(AssertionError, match=match.replace("{}", r"\{\}")):
        raise AssertionError(sentence)
    assert not (tmp_path / "run").exists()


# adapters


def test_an_adapter_holds_what_was_trained_and_no_more(
    finished: tuple[TextTrainConfig, Path], tiny_words: Path
) -> None:
    _, folder = finished
    mine = {"config.json", FACTORS, "run.json", "README.md", "log.jsonl", "checkpoint"}
    assert {path.name for path in folder.iterdir()} == mine
    record = json.loads((folder / "config.json").read_text())
    assert {k: v for k, v in record.items() if k != "segmenter"} == {
        "model": "TextAdapter",
        "base": str(tiny_words),
        "base_sha256": fingerprint(tiny_words),
        "rank": 2,
    }
    base, model = (TextSegmenter.from_pretrained(f) for f in (tiny_words, folder))
    assert not model.training
    assert model.config.class_names == ("ball", "box", "water", "forest")
    before, after = base.state_dict(), model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    low_rank = {n for n in before if n.endswith(tuple(f".{t}.weight" for t in TARGETS))}
    low_rank = {n for n in low_rank if n.startswith("unet.")}
    assert {name for name in changed if name.startswith(("unet.", "codec."))} == low_rank
    assert changed - low_rank
    for name in low_rank:
        assert torch.linalg.matrix_rank(after[name] - before[name], atol=1e-5) <= 2
    card = (folder / "README.md").read_text()
    assert f"an adapter of it, of rank 2: config.json and {FACTORS} hold all" in card


def test_an_adapter_answers_as_the_model_did_that_was_trained(
    finished: tuple[TextTrainConfig, Path], tmp_path: Path
) -> None:
    config, folder = finished
    loaded = TextSegmenter.from_pretrained(folder)
    trained = new_text_segmenter(config, [words_of("toys", TOYS)])  # its updates beside the weights
    state = load_file(folder / "checkpoint" / "state.safetensors")
    start = "average.module."
    trained.load_state_dict({k.removeprefix(start): v for k, v in state.items() if start in k})
    trained.config = loaded.config
    loaded.save_pretrained(tmp_path / "whole")
    whole = TextSegmenter.from_pretrained(tmp_path / "whole")
    assert whole.config == loaded.config
    image = image_file(tmp_path)
    answers = [model.eval()(image, ["ball", "box"]) for model in (trained, loaded, whole)]
    for answer in answers[1:]:
        torch.testing.assert_close(answer.probs, answers[0].probs, rtol=0, atol=1e-6)
        torch.testing.assert_close(answer.presence, answers[0].presence, rtol=0, atol=1e-6)
    record = json.loads((folder / "run.json").read_text())
    assert record["temperature"] == loaded.config.temperature


def test_a_whole_model_made_of_an_adapter_stands_alone(adapter: Path, tmp_path: Path) -> None:
    model = TextSegmenter.from_pretrained(adapter)
    model.save_pretrained(tmp_path / "whole")
    shutil.rmtree(tmp_path / "base")
    whole = TextSegmenter.from_pretrained(tmp_path / "whole")
    assert same(model.state_dict(), whole.state_dict())


def test_commands_take_an_adapter_as_the_model(
    finished: tuple[TextTrainConfig, Path], toys: Path, tmp_path: Path
) -> None:
    image, folder, output = image_file(tmp_path), str(finished[1]), str(tmp_path / "out")
    assert main(["segment", str(image), "ball, box", "--model", folder, "--output", output]) == 0
    assert (tmp_path / "out" / "labels" / "image.png").is_file()
    scores = str(tmp_path / "scores")
    assert main(["evaluate-words", folder, str(toys / "val"), "--output", scores]) == 0


def test_an_adapter_goes_on_as_a_base(
    finished: tuple[TextTrainConfig, Path], data: Path, tmp_path: Path
) -> None:
    _, first = finished
    config = text_config(data, first, lora_rank=1, loop={"steps": 1})
    second = train(config, tmp_path / "second")
    model = TextSegmenter.from_pretrained(second)
    assert model.config.class_names == ("ground", "disc", "box", "ball", "water", "forest")
    assert json.loads((second / "config.json").read_text())["base_sha256"] == fingerprint(first)


def test_a_resumed_adapter_is_the_same(
    toys: Path, tiny_words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    shutil.copytree(tiny_words, tmp_path / "base")
    loop = {"steps": 4, "save_every": 2, "eval_every": 3}
    config = text_config(toys, tmp_path / "base", lora_rank=2, loop=loop)
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    train(config, straight)
    with stopping_at(3, monkeypatch), pytest.raises(KeyboardInterrupt):
        train(config, resumed)
    assert not (resumed / "config.json").exists()
    with pytest.raises(InputError, match="cannot be read"):
        TextSegmenter.from_pretrained(resumed)
    heads = load_file(tmp_path / "base" / HEADS)
    save_file({name: value + 1 for name, value in heads.items()}, tmp_path / "base" / HEADS)
    with pytest.raises(InputError, match=r"began with another model than .*bring that back"):
        train(config, resumed, resume=True)
    shutil.copy(tiny_words / HEADS, tmp_path / "base" / HEADS)
    train(config, resumed, resume=True)
    assert log(straight) == log(resumed)
    assert same(load_file(straight / FACTORS), load_file(resumed / FACTORS))
    assert (straight / "config.json").read_text() == (resumed / "config.json").read_text()


def no_base(folder: Path) -> None:
    (folder.parent / "base").rename(folder.parent / "elsewhere")


def other_base(folder: Path) -> None:
    path = folder.parent / "base" / HEADS
    save_file({name: value + 1 for name, value in load_file(path).items()}, path)


def backbone_as_base(folder: Path) -> None:
    shutil.rmtree(folder.parent / "base")
    write_backbone(folder.parent / "base", "sd1")


def no_factors(folder: Path) -> None:
    (folder / FACTORS).unlink()


def half_a_file(folder: Path) -> None:
    (folder / FACTORS).write_bytes((folder / FACTORS).read_bytes()[:1000])


def other_rank(folder: Path) -> None:
    change(folder, rank=3)


def no_rank(folder: Path) -> None:
    change(folder, rank=0)


def no_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (no_base, r"needs its base .*base, which is not there .*; bring it back, or write"),
        (other_base, r"adapter of another model than .* must begin with \w{12}, got \w{12}; bring"),
        (backbone_as_base, r"heads.safetensors cannot be read .*copy the whole model again"),
        (no_factors, r"adapter.safetensors cannot be read .* copy it again"),
        (half_a_file, r"adapter.safetensors cannot be read .* copy it again"),
        (other_rank, r"does not fit its config.json: \d+ tensors are missing, extra or"),
        (no_rank, "rank must be at least 1, got 0"),
        (no_config, r"config.json cannot be read .* copy it again"),
    ],
)
def test_adapters_that_cannot_be_loaded(
    adapter: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
    match: str,
) -> None:
    spoil(adapter)
    capsys.readouterr()
    arguments = ["segment", str(image_file(tmp_path)), "ball, box", "--model", str(adapter)]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    with pytest.raises(AssertionError, match=match):
        raise AssertionError(sentence)
    assert not (tmp_path / "out").exists()
