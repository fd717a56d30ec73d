"""``crispmask refine --known``: known labels come back, mistakes leave nothing behind."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from crispmask.cli import main
from crispmask.data.sample import read_mask, write_mask
from crispmask.models.refiner import MaskRefiner
from crispmask.models.refiner_config import RefinerConfig, condition_channels
from crispmask.nn.mask_codec import MaskCodecConfig
from crispmask.nn.unet import MaskUNetConfig
from crispmask.shapes import IGNORE

SIZES = {"a": (16, 24), "b": (16, 24), "c": (9, 11)}

pytestmark = pytest.mark.filterwarnings("ignore:this refiner was trained without known labels")


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Three scenes with images/ and bases/; known/ holds what is known of a and c."""
    rng = np.random.default_rng(0)
    for part in ("images", "bases", "known"):
        (tmp_path / part).mkdir()
    for name, (h, w) in SIZES.items():
        pixels = rng.integers(0, 256, (h, w, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
        labels = torch.from_numpy(rng.integers(0, 3, (h, w)))
        write_mask(labels, tmp_path / "bases" / f"{name}.png")
    known = torch.full(SIZES["a"], IGNORE)
    known[2:9, 3:8] = 2
    write_mask(known, tmp_path / "known" / "a.png")
    draw(tmp_path / "known" / "c.geojson", "water")
    return tmp_path


def draw(path: Path, label: str, x: int = 2) -> Path:
    """A square from (x, 1) to (x + 4, 5)."""
    ring = [[x, 1], [x + 4, 1], [x + 4, 5], [x, 5], [x, 1]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    feature = {"type": "Feature", "properties": {"class": label}, "geometry": geometry}
    path.write_text(json.dumps(feature))
    return path


def coco(path: Path) -> Path:
    """The square of `draw`, land in image b and cloud in image c."""
    images: list[dict[str, Any]] = [
        {"id": i, "file_name": f"{name}.jpg", "height": h, "width": w}
        for i, (name, (h, w)) in enumerate(SIZES.items())
    ]
    categories = [{"id": 1, "name": "land"}, {"id": 2, "name": "cloud"}]
    annotations = [
        {"image_id": i, "category_id": i, "segmentation": [[2, 1, 6, 1, 6, 5, 2, 5]]}
        for i in (1, 2)
    ]
    data = {"images": images, "categories": categories, "annotations": annotations}
    path.write_text(json.dumps(data))
    return path


def refine(scenes: Path, model: Path, *known: Path, image: Path | None = None) -> int:
    words: list[str | Path] = ["refine", image or scenes / "images", "--base", scenes / "bases"]
    words += ["--model", model, "--output", scenes / "out", *(["--known"] if known else []), *known]
    return main([str(word) for word in words])


def test_known_labels_come_back_and_other_images_are_as_without(
    scenes: Path, tiny_models: Path
) -> None:
    assert refine(scenes, tiny_models, scenes / "known") == 0
    answer = {name: read_mask(scenes / "out" / "labels" / f"{name}.png") for name in SIZES}
    known = read_mask(scenes / "known" / "a.png")
    assert (answer["a"][2:9, 3:8] == 2).all()
    assert (answer["c"][1:5, 2:6] == 1).all()
    refiner = MaskRefiner.from_pretrained(tiny_models)
    for name, given in (("a", known), ("b", None)):
        image, base = (scenes / part / f"{name}.png" for part in ("images", "bases"))
        expected = refiner(image, base, known=given, names=[name])
        assert torch.equal(answer[name], expected.labels[0])


def test_a_single_file_is_for_a_single_image(scenes: Path, tiny_models: Path) -> None:
    known = draw(scenes / "strokes.geojson", "cloud")
    assert refine(scenes, tiny_models, known, image=scenes / "images" / "b.png") == 0
    assert (read_mask(scenes / "out" / "labels" / "b.png")[1:5, 2:6] == 2).all()


def test_a_coco_file_is_for_the_images_inside(scenes: Path, tiny_models: Path) -> None:
    assert refine(scenes, tiny_models, coco(scenes / "known.json")) == 0
    labels = scenes / "out" / "labels"
    assert (read_mask(labels / "b.png")[1:5, 2:6] == 0).all()
    assert (read_mask(labels / "c.png")[1:5, 2:6] == 2).all()


@pytest.fixture
def refused(scenes: Path, tiny_models: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command that must fail well, and returns its one sentence."""

    def run(*known: Path, model: Path = tiny_models) -> str:
        assert refine(scenes, model, *known) == 2
        (sentence,) = capsys.readouterr().err.splitlines()
        assert sentence.startswith("crispmask: ")
        assert not (scenes / "out").exists()
        return sentence

    return run


def test_nothing_is_written_when_a_later_file_is_bad(scenes: Path, refused: Any) -> None:
    draw(scenes / "known" / "c.geojson", "lava")
    assert "'lava'" in refused(scenes / "known")
    draw(scenes / "known" / "c.geojson", "water", x=50)
    assert "feature 1 of" in refused(scenes / "known")
    (scenes / "known" / "c.geojson").write_text("{")
    assert "c.geojson cannot be read as JSON" in refused(scenes / "known")


def test_a_label_picture_of_another_size(scenes: Path, refused: Any) -> None:
    write_mask(torch.zeros(9, 12, dtype=torch.int64), scenes / "c.png")
    assert "9x11 (height x width), got 9x12" in refused(scenes / "c.png")


def test_known_labels_of_no_image(scenes: Path, refused: Any) -> None:
    known = draw(scenes / "d.geojson", "water")
    assert "d.geojson has that of none" in refused(scenes / "known", known)
    assert "no.png does not exist" in refused(scenes / "no.png")


def test_an_option_without_files(
    scenes: Path, tiny_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option, what in (("--known", "known labels"), ("--missing", "missing pixels")):
        words = ["refine", scenes / "images", "--base", scenes / "bases", option]
        words += ["--model", tiny_models, "--output", scenes / "out"]
        assert main([str(word) for word in words]) == 2
        assert f"a file or folder of {what} is needed, got none" in capsys.readouterr().err
    assert not (scenes / "out").exists()


@pytest.mark.parametrize("part", ["known", "bases"])
def test_a_folder_is_matched_by_name_even_with_one_image(
    scenes: Path, tiny_models: Path, part: str
) -> None:
    (scenes / part / "a.png").unlink()
    for other in (scenes / part).glob("c.*"):
        other.rename(scenes / part / f"{part}{other.suffix}")
    if part == "bases":
        (scenes / part / "b.png").unlink()
    assert len(list((scenes / part).iterdir())) == 1
    known = [scenes / "known"] if part == "known" else []
    assert refine(scenes, tiny_models, *known, image=scenes / "images" / "a.png") == 2
    assert not (scenes / "out").exists()


def test_two_files_for_one_image(scenes: Path, refused: Any) -> None:
    sentence = refused(scenes / "known", coco(scenes / "more.json"))
    assert "a.png" in sentence
    assert "more.json; put them into one" in sentence


def test_a_model_of_codes(scenes: Path, refused: Any) -> None:
    codec = MaskCodecConfig(num_classes=3, levels=(3, 3), stride=4, width=8)
    network = MaskUNetConfig(
        num_classes=9, cond_channels=condition_channels("probs", 3, stride=4), widths=(8, 16)
    )
    names = ("land", "water", "cloud")
    config = RefinerConfig(
        class_names=names, network=network, stride=4, residual=False, codec=codec
    )
    MaskRefiner(config).save_pretrained(scenes / "codes")
    assert "use one without codec" in refused(scenes / "known", model=scenes / "codes")


def test_known_labels_are_never_overwritten(
    scenes: Path, tiny_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = scenes / "out" / "labels" / "a.png"
    known.parent.mkdir(parents=True)
    write_mask(torch.zeros(16, 24, dtype=torch.int64), known)
    before = known.read_bytes()
    assert refine(scenes, tiny_models, known) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert known.read_bytes() == before


def test_missing_pixels_are_not_looked_at(
    scenes: Path, tiny_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hole = torch.zeros(SIZES["a"], dtype=torch.int64)
    hole[3:9, 5:11] = 1
    (scenes / "clouds").mkdir()
    Image.fromarray((255 * hole).numpy().astype(np.uint8)).save(scenes / "clouds" / "a.png")
    words = ["refine", scenes / "images", "--base", scenes / "bases", "--model", tiny_models]
    words += ["--output", scenes / "out", "--missing", scenes / "clouds"]
    assert main([str(word) for word in words]) == 0
    refiner = MaskRefiner.from_pretrained(tiny_models)
    for name, missing in (("a", hole), ("b", None)):
        image, base = (scenes / part / f"{name}.png" for part in ("images", "bases"))
        expected = refiner(image, base, missing=missing, names=[name]).labels[0]
        assert torch.equal(read_mask(scenes / "out" / "labels" / f"{name}.png"), expected)

    write_mask(torch.zeros(9, 12, dtype=torch.int64), scenes / "clouds" / "b.png")
    assert main([str(word) for word in words]) == 2
    assert "b.png is 9x12 (height x width)" in capsys.readouterr().err

    Image.fromarray(hole.numpy().astype(np.uint8)).save(scenes / "clouds" / "a.png")  # 0 and 1
    (scenes / "clouds" / "b.png").unlink()
    assert main([str(word) for word in words]) == 0
    assert "a.png hides no pixel: it is white nowhere" in capsys.readouterr().err
