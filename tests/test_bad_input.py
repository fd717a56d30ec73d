"""Input that cannot be used: one sentence on stderr, exit code 2, nothing written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crispmask.cli import main

Refuse = Callable[..., str]


def picture(path: Path, *, size: tuple[int, int] = (24, 16), mode: str = "RGB") -> Path:
    """A noisy picture of width and height `size`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    w, h = size
    channels = {"RGB": (3,), "RGBA": (4,)}.get(mode, ())
    if mode == "I;16":
        pixels = rng.integers(0, 65536, (h, w)).astype(np.uint16)
    else:
        pixels = rng.integers(0, 256, (h, w, *channels)).astype(np.uint8)
    image = Image.fromarray(pixels)
    if mode == "P":
        image = image.convert("P")
        image.putpalette(rng.integers(0, 256, 768).astype(np.uint8).tobytes())
    image.save(path)
    return path


def labels(path: Path, *, size: tuple[int, int] = (24, 16), high: int = 3) -> Path:
    """Class ids below `high`, each of which occurs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    w, h = size
    Image.fromarray((np.arange(h * w).reshape(h, w) % high).astype(np.uint8)).save(path)
    return path


def scores(path: Path, values: np.ndarray[Any, Any]) -> Path:
    np.save(path, values)
    return path


def probabilities(h: int = 16, w: int = 24) -> np.ndarray[Any, Any]:
    values = np.random.default_rng(0).random((3, h, w)).astype(np.float32) + 0.1
    return np.asarray(values / values.sum(0))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


@pytest.fixture
def refuse(output: Path, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Runs a command that must fail well, and returns its one sentence."""

    def run(*argv: str | Path) -> str:
        assert main([str(word) for word in argv]) == 2
        captured = capsys.readouterr()
        *bars, sentence = captured.err.splitlines()
        assert all("evaluating" in line for line in bars), captured.err
        assert captured.out == ""
        assert sentence.startswith("crispmask: ")
        assert "Traceback" not in sentence
        assert not output.exists()
        return sentence

    return run


@pytest.fixture
def refuse_refine(refuse: Refuse, tiny_models: Path, output: Path) -> Refuse:
    def run(image: Path, base: Path, model: Path | str = tiny_models, *more: str) -> str:
        return refuse("refine", image, "--base", base, "--model", model, "--output", output, *more)

    return run


# files


def test_missing_image(refuse_refine: Refuse, tmp_path: Path) -> None:
    sentence = refuse_refine(tmp_path / "no.png", labels(tmp_path / "mask.png"))
    assert "no.png does not exist" in sentence


def test_missing_base(refuse_refine: Refuse, tmp_path: Path) -> None:
    sentence = refuse_refine(picture(tmp_path / "photo.png"), tmp_path / "no.npy")
    assert "no.npy does not exist" in sentence


@pytest.mark.parametrize("name", ["photo.png", "photo.jpg", "photo.tif"])
def test_image_that_is_none(refuse_refine: Refuse, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no picture")
    assert name in refuse_refine(tmp_path / name, labels(tmp_path / "mask.png"))


@pytest.mark.parametrize("name", ["photo.png", "photo.jpg"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_image(refuse_refine: Refuse, tmp_path: Path, name: str, share: float) -> None:
    path = picture(tmp_path / name, size=(64, 48))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    sentence = refuse_refine(path, labels(tmp_path / "mask.png", size=(64, 48)))
    assert name in sentence


@pytest.mark.parametrize("name", ["scores.npy", "scores.npz"])
@pytest.mark.parametrize("share", [0, 0.01, 0.5])
def test_truncated_scores(refuse_refine: Refuse, tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    np.savez(path, probabilities()) if name.endswith("z") else np.save(path, probabilities())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert name in refuse_refine(picture(tmp_path / "photo.png"), path)


def test_scores_with_pickled_objects_are_not_loaded(refuse_refine: Refuse, tmp_path: Path) -> None:
    path = tmp_path / "scores.npy"
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    assert "scores.npy" in refuse_refine(picture(tmp_path / "photo.png"), path)


def test_an_array_that_is_no_number(refuse_refine: Refuse, tmp_path: Path) -> None:
    path = scores(tmp_path / "scores.npy", np.full((16, 24), "road"))
    refuse_refine(picture(tmp_path / "photo.png"), path)


def test_an_empty_npz(refuse_refine: Refuse, tmp_path: Path) -> None:
    np.savez(tmp_path / "scores.npz")
    assert "scores.npz" in refuse_refine(picture(tmp_path / "photo.png"), tmp_path / "scores.npz")


def test_empty_folder(refuse_refine: Refuse, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    sentence = refuse_refine(tmp_path / "images", labels(tmp_path / "mask.png"))
    assert "images" in sentence
    assert ".png" in sentence


def test_image_without_base(refuse_refine: Refuse, tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "images" / f"{name}.jpg")
    labels(tmp_path / "masks" / "a.png")
    sentence = refuse_refine(tmp_path / "images", tmp_path / "masks")
    assert "1 of 2" in sentence
    assert "'b'" in sentence


def test_two_bases_of_one_name(refuse_refine: Refuse, tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.jpg")
    scores(labels(tmp_path / "masks" / "a.png").with_suffix(".npy"), probabilities())
    assert "a.npy" in refuse_refine(tmp_path / "images", tmp_path / "masks")


def test_nothing_is_written_when_a_later_image_is_bad(
    refuse_refine: Refuse, tmp_path: Path
) -> None:
    for name, high in (("a", 3), ("b", 9)):
        picture(tmp_path / "images" / f"{name}.jpg")
        labels(tmp_path / "masks" / f"{name}.png", high=high)
    assert "b.png" in refuse_refine(tmp_path / "images", tmp_path / "masks")


def test_a_base_is_never_overwritten(
    tmp_path: Path, tiny_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, mask = picture(tmp_path / "a.png"), labels(tmp_path / "labels" / "a.png")
    before = mask.read_bytes()
    words = ["refine", image, "--base", mask, "--model", tiny_models, "--output", tmp_path]
    assert main([str(word) for word in words]) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert mask.read_bytes() == before
    assert not (tmp_path / "overlays").exists()


def test_labels_in_a_lossy_file(refuse_refine: Refuse, tmp_path: Path, tiny_models: Path) -> None:
    image, mask = picture(tmp_path / "a.png"), labels(tmp_path / "mask.png")
    lossy = labels(tmp_path / "lossy.jpg")
    sentence = refuse_refine(image, lossy)
    assert f".tif, .tiff, .bmp, .npy, .npz is needed, got {lossy}" in sentence
    assert f".geojson, .json is needed, got {lossy}" in refuse_refine(
        image, mask, tiny_models, "--known", str(lossy)
    )
    assert f".tiff, .bmp is needed, got {lossy}" in refuse_refine(
        image, mask, tiny_models, "--missing", str(lossy)
    )


@pytest.mark.parametrize("read", ["image", "base", "known", "missing"])
@pytest.mark.parametrize(
    "part", ["labels", "overlays", "uncertainty", "disagreement", "label-sets"]
)
def test_no_file_that_is_read_is_overwritten(
    tmp_path: Path,
    tiny_models: Path,
    output: Path,
    capsys: pytest.CaptureFixture[str],
    read: str,
    part: str,
) -> None:
    files = {key: labels(tmp_path / key / "a.png") for key in ("base", "known", "missing")}
    files["image"] = picture(tmp_path / "image" / "a.png")
    taken = output / part / "a.png"
    taken.parent.mkdir(parents=True)
    files[read] = files[read].rename(taken)
    before = taken.read_bytes()
    words = ["refine", files["image"], "--output", output, "--model", tiny_models]
    words += [w for key in ("base", "known", "missing") for w in (f"--{key}", files[key])]
    words += ["--uncertainty", "--ensemble-size", "2"]
    assert main([str(word) for word in words]) == 2
    assert f"{part}/a.png would be overwritten" in capsys.readouterr().err
    assert taken.read_bytes() == before
    assert [path for path in output.rglob("*") if path.is_file()] == [taken]


def test_output_that_is_a_file(
    tmp_path: Path, tiny_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, mask = picture(tmp_path / "a.png"), labels(tmp_path / "mask.png")
    words = ["refine", image, "--base", mask, "--model", tiny_models, "--output", mask]
    assert main([str(word) for word in words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("crispmask: ") for line in lines] == [True]
    assert "mask.png" in lines[0]


# values


def test_sizes_that_differ(refuse_refine: Refuse, tmp_path: Path) -> None:
    sentence = refuse_refine(
        picture(tmp_path / "photo.png", size=(24, 16)), labels(tmp_path / "mask.png", size=(16, 24))
    )
    assert "16x24" in sentence
    assert "24x16" in sentence


def test_label_outside_the_classes(refuse_refine: Refuse, tmp_path: Path) -> None:
    sentence = refuse_refine(picture(tmp_path / "photo.png"), labels(tmp_path / "mask.png", high=7))
    assert "0 to 2" in sentence
    assert "mask.png" in sentence


def test_negative_label(refuse_refine: Refuse, tmp_path: Path) -> None:
    path = scores(tmp_path / "mask.npy", np.full((16, 24), -1))
    assert "-1" in refuse_refine(picture(tmp_path / "photo.png"), path)


def test_colours_in_place_of_labels(refuse_refine: Refuse, tmp_path: Path) -> None:
    sentence = refuse_refine(picture(tmp_path / "photo.png"), picture(tmp_path / "mask.png"))
    assert "RGB" in sentence


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite(refuse_refine: Refuse, tmp_path: Path, bad: float) -> None:
    logits = 9 * probabilities() - 3
    logits[1, 2, 3] = bad
    sentence = refuse_refine(
        picture(tmp_path / "photo.png"), scores(tmp_path / "logits.npy", logits)
    )
    assert "finite" in sentence


def test_probabilities_that_do_not_sum_to_one(refuse_refine: Refuse, tmp_path: Path) -> None:
    path = scores(tmp_path / "probs.npy", probabilities() * 0.8)
    assert "sum to 1" in refuse_refine(picture(tmp_path / "photo.png"), path)


def test_scores_of_another_number_of_classes(refuse_refine: Refuse, tmp_path: Path) -> None:
    path = scores(tmp_path / "probs.npy", np.full((5, 16, 24), 0.2, dtype=np.float32))
    assert "3 classes" in refuse_refine(picture(tmp_path / "photo.png"), path)


@pytest.mark.parametrize("steps", ["0", "-1", "two", "1000000"])
def test_number_of_steps(
    refuse_refine: Refuse, tmp_path: Path, tiny_models: Path, steps: str
) -> None:
    image, mask = picture(tmp_path / "photo.png"), labels(tmp_path / "mask.png")
    sentence = refuse_refine(image, mask, tiny_models, "--num-inference-steps", steps)
    assert "num-inference-steps" in sentence.replace("_", "-")
    assert steps in sentence


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--eta", "2"), "eta must be between 0 and 1, got 2.0"),
        (("--average-last", "3"), "average_last must be 1 to num_inference_steps = 1, got 3"),
        (("--order", "confident"), "order confident needs the absorbing process"),
        (("--device", "abacus"), "--device abacus cannot be used here ("),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_options_are_checked_before_any_image_is_read(
    refuse_refine: Refuse,
    tmp_path: Path,
    tiny_models: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, str],
    message: str,
) -> None:
    monkeypatch.delattr("crispmask.cli.refine.read_inputs")
    image, mask = picture(tmp_path / "photo.png"), labels(tmp_path / "mask.png")
    assert message in refuse_refine(image, mask, tiny_models, *options)


@pytest.mark.filterwarnings("default")
def test_guidance_without_dropout_is_a_warning_of_one_sentence(
    tmp_path: Path, tiny_models: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, mask = picture(tmp_path / "photo.png"), labels(tmp_path / "mask.png")
    words = ["refine", image, "--base", mask, "--model", tiny_models, "--output", output]
    assert main([*map(str, words), "--guidance-scale", "2"]) == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    (sentence,) = warned
    assert sentence.startswith("crispmask: warning: guidance_scale is 2.0")
    assert "without condition dropout" in sentence


def test_unusual_images_are_refined_not_refused(
    tmp_path: Path, tiny_models: Path, output: Path
) -> None:
    """One pixel, sides that no stride divides, grey, palette, 16 bits, alpha."""
    kinds = {
        "dot": ((1, 1), "RGB"),
        "line": ((1, 37), "RGB"),
        "odd": ((33, 47), "RGB"),
        "grey": ((24, 16), "L"),
        "palette": ((24, 16), "P"),
        "deep": ((24, 16), "I;16"),
        "alpha": ((24, 16), "RGBA"),
    }
    for name, (size, mode) in kinds.items():
        picture(tmp_path / "images" / f"{name}.png", size=size, mode=mode)
        labels(tmp_path / "masks" / f"{name}.png", size=size)
    words = ["refine", tmp_path / "images", "--base", tmp_path / "masks"]
    words += ["--model", tiny_models, "--output", output]
    assert main([str(word) for word in words]) == 0
    for name, (size, _) in kinds.items():
        with Image.open(output / "labels" / f"{name}.png") as refined:
            assert refined.size == size
            assert np.asarray(refined).max() < 3


# models


@pytest.fixture
def refuse_model(refuse_refine: Refuse, tmp_path: Path, tiny_models: Path) -> Refuse:
    """Refines with a copy of the refiner that was changed before."""

    def run(change: Callable[[Path], object]) -> str:
        model = tmp_path / "model"
        shutil.copytree(tiny_models / "refiner", model)
        change(model)
        return refuse_refine(picture(tmp_path / "photo.png"), labels(tmp_path / "mask.png"), model)

    return run


def change_config(model: Path, **fields: object) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_unknown_model(refuse_refine: Refuse, tmp_path: Path) -> None:
    image, mask = picture(tmp_path / "photo.png"), labels(tmp_path / "mask.png")
    assert "no-such-model" in refuse_refine(image, mask, "no-such-model")


def test_folder_without_a_model(refuse_refine: Refuse, tmp_path: Path) -> None:
    image, mask = picture(tmp_path / "photo.png"), labels(tmp_path / "mask.png")
    assert "config.json" in refuse_refine(image, mask, tmp_path)


def test_checkpoint_of_another_model(
    refuse_refine: Refuse, tmp_path: Path, tiny_models: Path
) -> None:
    image, mask = picture(tmp_path / "photo.png"), labels(tmp_path / "mask.png")
    sentence = refuse_refine(image, mask, tiny_models / "base")
    assert "FPNSegmenter" in sentence
    assert "MaskRefiner" in sentence


def test_weights_of_another_model(refuse_model: Refuse, tiny_models: Path) -> None:
    other = tiny_models / "base" / "model.safetensors"
    sentence = refuse_model(lambda model: shutil.copy(other, model))
    assert "model.safetensors" in sentence


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_truncated_weights(refuse_model: Refuse, share: float) -> None:
    def cut(model: Path) -> None:
        path = model / "model.safetensors"
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    assert "model.safetensors" in refuse_model(cut)


def test_missing_weights(refuse_model: Refuse) -> None:
    assert "model.safetensors" in refuse_model(lambda m: (m / "model.safetensors").unlink())


@pytest.mark.parametrize("text", ["", "{", "[]", '"model"', "null"])
def test_config_that_is_no_object(refuse_model: Refuse, text: str) -> None:
    assert "config.json" in refuse_model(lambda m: (m / "config.json").write_text(text))


def test_config_with_an_unknown_field(refuse_model: Refuse) -> None:
    assert "colour" in refuse_model(lambda model: change_config(model, colour="red"))


@pytest.mark.parametrize(
    "fields",
    [
        {"class_names": ["land", "water"]},
        {"stride": 3},
        {"stride": "two"},
        {"feature_channels": 4},
        {"process": "absorbing"},
        {"process": "melting"},
        {"schedule": "steep"},
        {"conditioning": "hope"},
        {"class_names": None},
        {"network": 7},
        {"network": {}},
    ],
    ids=json.dumps,
)
def test_config_with_a_contradictory_field(refuse_model: Refuse, fields: dict[str, object]) -> None:
    assert "config.json" in refuse_model(lambda model: change_config(model, **fields))


# other commands


def test_unknown_command(refuse: Refuse) -> None:
    assert "demo, refine" in refuse("refin")


def test_unknown_option(refuse: Refuse, output: Path) -> None:
    sentence = refuse("demo", "--output", output, "--jsn")
    assert "--jsn" in sentence
    assert "crispmask demo --help" in sentence


def test_missing_option(refuse: Refuse) -> None:
    assert "not given: --output;" in refuse("demo")
    assert "not given: MODEL, DATA, --output;" in refuse("evaluate")


@pytest.mark.parametrize(
    "words",
    [
        ("no-such-recipe",),
        ("camvid-base", "--loop.steps", "0"),
        ("camvid-base", "--no-such-field", "1"),
        ("camvid-base", "--scale", "large"),
        ("camvid-base", "--data", "no-such-data"),
        ("camvid-base", "--data", "camvid:no-such-folder"),
        ("camvid-refiner", "--first-stage", "2"),
        ("camvid-refiner", "--widths", "10"),
        ("camvid-refiner", "--stride", "3"),
        ("camvid-refiner", "--conditioning", "hope"),
        (),
    ],
)
def test_train(refuse: Refuse, output: Path, words: tuple[str, ...]) -> None:
    sentence = refuse("train", *words, *(("--output", output) if words else ()))
    assert any(
        word.removeprefix("--").split(".")[-1].split(":")[-1] in sentence
        for word in words[-2:] or ["{"]
    )


def test_evaluate_unknown_data(refuse: Refuse, tiny_models: Path, output: Path) -> None:
    for data in ("earth:north", "earth", "camvid:nowhere/val", "nowhere"):
        refuse("evaluate", tiny_models, data, "--output", output)
    for data, said in (
        ("fields", "the data fields 3; from class 0 on"),
        ("ade20k:nowhere/val", "nowhere"),
        ("camvid:nowhere", "end it with /train, /val or /test"),
    ):
        for command in (("evaluate",), ("calibrate", "--base", tiny_models)):
            words = ("--output", output) if command == ("evaluate",) else ()
            assert said in refuse(*command, tiny_models, data, *words)


def test_a_device_that_is_not_here(refuse: Refuse, tiny_models: Path, output: Path) -> None:
    said = "--device abacus cannot be used here ("
    device = ("--device", "abacus")
    for model in (tiny_models, tiny_models / "base"):  # with a refiner, and without
        assert said in refuse("evaluate", model, "nowhere", "--output", output, *device)
    assert said in refuse("calibrate", tiny_models, "nowhere", "--base", tiny_models, *device)


def test_names_in_another_order(
    refuse: Refuse, tiny_models: Path, output: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    picture(data / "images" / "a.png")
    labels(data / "labels" / "a.png")
    for place in (data, tmp_path):  # in the folder, or above it
        (place / "classes.txt").write_text("land\ncloud\nwater\n")
        said = "from class 1 on they differ (water, cloud; cloud, water)"
        assert said in refuse("evaluate", tiny_models, data, "--output", output)
        assert said in refuse("calibrate", tiny_models, data, "--base", tiny_models)
        (place / "classes.txt").unlink()


def test_evaluate_empty_folder(
    refuse: Refuse, tiny_models: Path, output: Path, tmp_path: Path
) -> None:
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "labels").mkdir()
    sentence = refuse("evaluate", tiny_models, tmp_path / "data", "--output", output)
    assert "no image" in sentence


def test_evaluate_sizes_and_ids(
    refuse: Refuse, tiny_models: Path, output: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    picture(data / "images" / "a.png")
    labels(data / "labels" / "a.png", size=(16, 24))
    assert "a.png" in refuse("evaluate", tiny_models, data, "--output", output)
    labels(data / "labels" / "a.png", high=9)
    assert "0 to 2" in refuse("evaluate", tiny_models, data, "--output", output)


def test_check_of_a_folder_that_is_none(refuse: Refuse, tmp_path: Path) -> None:
    assert "images" in refuse("data", "check", tmp_path)
    (tmp_path / "val").mkdir()
    assert f"data check {tmp_path / 'val'}" in refuse("data", "check", tmp_path)
