"""The commands do their job: files appear, numbers come out, runs repeat."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crispmask.cli import main
from crispmask.cli.evaluate import seeds
from crispmask.data.sample import read_image, read_mask
from crispmask.models.checkpoint import WEIGHTS
from crispmask.models.refiner import MaskRefiner
from crispmask.models.segformer import SegformerBase, SegformerBaseConfig

needs_weights = pytest.mark.skipif(
    not (WEIGHTS / "earth-small").is_dir(), reason="the weights earth-small are not bundled"
)


def run(*words: str | Path) -> None:
    assert main([str(word) for word in words]) == 0


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A folder of three scenes with images/, labels/ and scores/."""
    rng = np.random.default_rng(0)
    for part in ("images", "labels", "scores"):
        (tmp_path / part).mkdir()
    for name, (h, w) in {"a": (40, 32), "b": (33, 47), "c": (40, 32)}.items():
        pixels = rng.integers(0, 256, (h, w, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
        mask = (np.arange(h)[:, None] * 3 // h + np.zeros((1, w))).astype(np.uint8)
        mask[:3, :3] = 255
        Image.fromarray(mask).save(tmp_path / "labels" / f"{name}.png")
        np.save(tmp_path / "scores" / f"{name}.npy", rng.normal(size=(3, h, w)).astype("f4"))
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--help"],
        *([*c.split(), "--help"] for c in ("demo", "refine", "train", "evaluate", "convert ddps")),
        *([c, "--help"] for c in ("segment", "evaluate-words", "data", "prior", "convert")),
        *(["data", c, "--help"] for c in ("check", "suspects")),
        *(["prior", c, "--help"] for c in ("sample", "complete", "regions")),
    ],
    ids=" ".join,
)
def test_help_shows_an_example(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run(*words)
    text = capsys.readouterr().out
    assert "crispmask" in text
    assert "xample" in text


def test_the_installed_command_fails_in_one_sentence() -> None:
    command = [str(Path(sys.executable).with_name("crispmask")), "data", "check", "no-such-folder"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "no-such-folder" in done.stderr


def test_a_reader_that_stops_early_sees_no_traceback() -> None:
    command = [str(Path(sys.executable).with_name("crispmask")), "train", "earth-base", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        stderr = running.stderr.read()
    assert running.returncode == 1
    assert stderr == b""


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device."),
        (OSError(errno.EIO, "Input/output error", "a.png"), "a.png: Input/output error."),
        (OSError("no route\nto the hub"), "no route to the hub."),
        (TimeoutError(), "TimeoutError."),
    ],
    ids=repr,
)
def test_an_error_of_the_system_is_one_sentence(
    error: OSError,
    sentence: str,
    scenes: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr("crispmask.cli.data.check", fail)
    assert main(["data", "check", str(scenes)]) == 2
    assert capsys.readouterr().err == f"crispmask: {sentence}\n"


def test_refine_writes_what_the_refiner_says(tiny_models: Path, scenes: Path) -> None:
    image, base, output = scenes / "images" / "b.png", scenes / "labels" / "b.png", scenes / "out"
    words: list[str | Path] = [
        "--model",
        tiny_models,
        "--output",
        output,
        "--num-inference-steps",
        "3",
    ]
    run("refine", image, "--base", base, *words, "--seed", "7", "--uncertainty")
    refiner = MaskRefiner.from_pretrained(tiny_models)
    expected = refiner(image, base, num_inference_steps=3, seed=7, names=["b"])
    assert torch.equal(read_mask(output / "labels" / "b.png"), expected.labels[0])
    assert read_image(output / "overlays" / "b.png").shape == (3, 33, 47)
    written = torch.from_numpy(np.array(Image.open(output / "uncertainty" / "b.png"))).float() / 255
    torch.testing.assert_close(written, expected.uncertainty[0], atol=0.003, rtol=0)
    assert {path.name for path in output.rglob("*.*")} == {"b.png"}


@pytest.mark.parametrize("kind", ["labels", "scores", "npz"])
def test_refine_matches_folders_by_name(tiny_models: Path, scenes: Path, kind: str) -> None:
    bases = scenes / kind
    if kind == "npz":
        bases.mkdir()
        for path in (scenes / "scores").iterdir():
            probs = torch.from_numpy(np.load(path)).softmax(0).numpy()
            np.savez_compressed(bases / f"{path.stem}.npz", probs)
    words: list[str | Path] = ["--base", bases, "--model", tiny_models, "--output"]
    run("refine", scenes / "images", *words, scenes / "all")
    assert [p.name for p in sorted((scenes / "all" / "labels").iterdir())] == [
        "a.png",
        "b.png",
        "c.png",
    ]
    run("refine", scenes / "images" / "c.png", *words, scenes / "one")
    together, alone = (read_mask(scenes / o / "labels" / "c.png") for o in ("all", "one"))
    assert torch.equal(together, alone)


def test_evaluate_writes_the_report(
    tiny_models: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("evaluate", tiny_models, scenes, "--output", scenes / "report", "--json", "--device", "cpu")
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    written = json.loads((scenes / "report" / "report.json").read_text())
    assert printed == written
    names = [row["name"] for row in written["rows"]]
    assert names[0] == "base"
    assert {"control", "refined, 1 call", "refined, 3 calls", "refined, 10 calls"} <= set(names)
    assert (scenes / "report" / "report.html").read_text().startswith("<!")


def test_evaluate_a_segmenter_alone(
    tiny_models: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("evaluate", tiny_models / "base", scenes, "--output", scenes / "report", "--limit", "1")
    assert "base + flip" in capsys.readouterr().out


def test_evaluate_a_converted_bundle(tiny_models: Path, scenes: Path) -> None:
    """As `convert ddps` leaves it: the base is a SegFormer without a classifier."""
    base = SegformerBaseConfig(
        class_names=("low", "high"),
        widths=(8, 16, 40, 64),
        depths=(1, 1, 1, 1),
        neck_channels=8,
        classifier=False,
    )
    SegformerBase(base).save_pretrained(scenes / "model" / "base")
    (scenes / "model" / "refiner").symlink_to(tiny_models / "refiner")
    run("evaluate", scenes / "model", scenes, "--output", scenes / "report", "--limit", "1")
    rows = json.loads((scenes / "report" / "report.json").read_text())["rows"]
    assert any(row["name"] == "refined, 1 call" for row in rows)


def test_evaluate_a_refiner_behind_a_base(
    tiny_models: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words: list[str | Path] = [
        tiny_models / "refiner",
        scenes,
        "--limit",
        "1",
        "--output",
        scenes / "report",
    ]
    behind: list[str | Path] = ["--base", tiny_models, "--control", tiny_models / "control"]
    run("evaluate", *words, *behind)
    behind_base = json.loads((scenes / "report" / "report.json").read_text())["rows"]
    run("evaluate", tiny_models, *words[1:])
    bundle = json.loads((scenes / "report" / "report.json").read_text())["rows"]
    scores = [{row["name"]: row["miou"]["mean"] for row in rows} for rows in (behind_base, bundle)]
    assert scores[0] == scores[1]
    run("evaluate", *words, *behind[:2])
    rows = json.loads((scenes / "report" / "report.json").read_text())["rows"]
    assert "control" not in {row["name"] for row in rows}

    other = scenes / "other"
    shutil.copytree(tiny_models / "control", other)
    config = json.loads((other / "config.json").read_text())
    reversed_names = {"class_names": config["class_names"][::-1]}
    (other / "config.json").write_text(json.dumps(config | reversed_names))
    capsys.readouterr()
    for control, why in (
        (other, "control 0 3; from class 0 on they differ"),
        (tiny_models / "refiner", "a control reads no mask"),
    ):
        wrong = ["evaluate", *words, *behind[:2], "--control", control]
        assert main([str(word) for word in wrong]) == 2
        assert why in capsys.readouterr().err
    for wrong, why in ((words, "say with --base"), ([*words, *behind[2:]], "name its base, too")):
        assert main(["evaluate", *map(str, wrong)]) == 2
        assert why in capsys.readouterr().err


def test_train_looks_at_its_output_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["train", "earth-base", "--output", str(tmp_path / "file")]) == 2
    assert "--output must be a folder" in capsys.readouterr().err


def test_seeds_are_numbered_folders_alone(tiny_models: Path, scenes: Path) -> None:
    model = scenes / "model"
    names = ("refiner-10", "refiner-2", "refiner", "refiner-old", "refiners", "my-refiner")
    for temperature, name in enumerate(names, 1):
        shutil.copytree(tiny_models / "refiner", model / name)
        path = model / name / "config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | {"temperature": temperature}))
    (model / "refiner.txt").write_text("refiner-old is of last year")
    assert [seed.config.temperature for seed in seeds(model, "refiner")] == [3, 2, 1]
    assert seeds(model, "control") == []
    shutil.copytree(tiny_models / "base", model / "base")
    run("evaluate", model, scenes, "--output", scenes / "report", "--limit", "1")
    rows = json.loads((scenes / "report" / "report.json").read_text())["rows"]
    assert {row["name"]: row["seeds"] for row in rows}["refined, 1 call"] == 3


def test_data_check(scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("data", "check", scenes)
    assert "3 images, 3 labels" in capsys.readouterr().out
    (scenes / "classes.txt").write_text("low\nhigh\n")
    (scenes / "labels" / "b.png").unlink()
    assert main(["data", "check", str(scenes)]) == 2
    captured = capsys.readouterr()
    assert "3 problems" in captured.err
    assert "b.png has no label" in captured.out
    assert "ids from 0 to 1" in captured.out


def test_train_a_base_and_a_refiner_and_refine_with_it(
    scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        (scenes / split).mkdir()
        for part in ("images", "labels"):
            (scenes / split / part).symlink_to(scenes / part)
    (scenes / "classes.txt").write_text("low\nmiddle\nhigh\n")
    short: list[str | Path] = ["--data", scenes, "--loop.steps", "2", "--loop.batch-size", "2"]
    short += ["--augment.crop", "32", "32"]
    base, refiner = scenes / "base", scenes / "refiner"
    run("train", "base", *short, "--channels", "8", "--no-imagenet", "--output", base)
    assert str(base) in capsys.readouterr().out
    settings = json.loads((base / "run.json").read_text())["settings"]
    assert settings["loop"]["steps"] == 2
    small: list[str | Path] = ["--base", base, "--widths", "8", "16"]
    run("train", "refiner", *short, *small, "--output", refiner)
    words: list[str | Path] = ["--base", scenes / "labels" / "b.png", "--model", refiner]
    run("refine", scenes / "images" / "b.png", *words, "--output", scenes / "refined")
    assert read_mask(scenes / "refined" / "labels" / "b.png").shape == (33, 47)

    control, told = scenes / "control", scenes / "told"
    run("train", "refiner", *short, *small, "--no-state-input", "--output", control)
    run("train", "evidence", *short, *small, "--init", control, "--output", told)
    known = scenes / "known.png"
    strokes = np.full((33, 47), 255, dtype=np.uint8)
    strokes[4] = 2
    Image.fromarray(strokes).save(known)
    words = ["--base", scenes / "labels" / "b.png", "--model", told, "--known", known]
    run("refine", scenes / "images" / "b.png", *words, "--output", scenes / "corrected")
    assert (read_mask(scenes / "corrected" / "labels" / "b.png")[4] == 2).all()

    capsys.readouterr()
    again = ["train", "base", *map(str, short), "--output", str(base)]
    assert main(again) == 2
    assert "already holds a run" in capsys.readouterr().err


@needs_weights
def test_demo_refines_better_than_its_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("demo", "--output", tmp_path / "demo", "--json")
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(scores) == {"base", "control", "refined", "seconds"}
    for row in ("base", "control", "refined"):
        assert set(scores[row]) == {"miou", "mbiou", "ece"}
    assert scores["refined"]["miou"] > scores["base"]["miou"]
    assert scores["refined"]["mbiou"] > scores["base"]["mbiou"]
    written = {path.relative_to(tmp_path / "demo").parts[0] for path in tmp_path.rglob("*.*")}
    assert {"labels", "overlays", "report.html", "report.json"} <= written


def test_tables_show_no_markup(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    folder = tmp_path / "report [v2]"
    assert main(["evaluate", "earth-small", "earth", "--limit", "1", "--output", str(folder)]) == 0
    shown = capsys.readouterr()
    assert "[bold]" not in shown.out + shown.err
    assert "report [v2]/report.html" in shown.out + shown.err
