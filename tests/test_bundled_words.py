"""The bundled segmenter of words is whole, small, and answers offline."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from crispmask.cli import main
from crispmask.data.class_names import readable
from crispmask.data.earth import EARTH_CLASSES, earth
from crispmask.metrics.confusion import ConfusionMatrix
from crispmask.models.checkpoint import WEIGHTS
from crispmask.models.text_segmenter import TextSegmenter
from crispmask.models.text_states import MINILM

FOLDER = WEIGHTS / "text-earth"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the weights text-earth are not here")
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec(MINILM) is None, reason="MiniLM is not installed (extra text)"
)


def test_all_parts_are_there_in_half_precision() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25_000_000
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert len(weights) == 3  # U-Net, VAE, heads
    for path in weights:
        for name, tensor in load_file(path).items():
            assert tensor.dtype == torch.float16, (path, name)
            assert tensor.isfinite().all(), (path, name)
    config = json.loads((FOLDER / "config.json").read_text())
    assert tuple(config["class_names"]) == tuple(map(readable, EARTH_CLASSES))
    card = (FOLDER / "README.md").read_text()
    assert "presence AP" in card
    assert "license: apache-2.0" in card


@needs_minilm
def test_it_knows_land_from_water_better_than_chance() -> None:
    model = TextSegmenter.from_pretrained("text-earth")
    names = tuple(map(readable, EARTH_CLASSES))
    data, score = earth("test"), ConfusionMatrix(len(names))
    ask = model.bound(names)
    for i in range(0, len(data), 5):
        score.update(ask(data[i].image).labels, data[i].mask[None])
    assert score.compute().miou > 0.15


@needs_minilm
def test_a_single_word_that_is_not_there_has_no_pixels() -> None:
    model, tiles = TextSegmenter.from_pretrained("text-earth"), earth("test")
    found: dict[str, list[float]] = {}
    for word in ("piano", "water"):
        ask = model.bound([word])
        answers = [ask(tiles[i].image).labels for i in range(0, 50, 10)]
        found[word] = [(labels == 0).float().mean().item() for labels in answers]
    assert max(found["piano"]) < 0.05
    assert max(found["water"]) > 0.1


@needs_minilm
def test_the_command_answers_with_it(tmp_path: Path) -> None:
    from PIL import Image

    pixels = (255 * earth("test")[0].image).byte().movedim(0, -1).numpy()
    Image.fromarray(pixels).save(tmp_path / "tile.png")
    words = ["segment", str(tmp_path / "tile.png"), "water, forest, city"]
    assert main([*words, "--output", str(tmp_path / "found")]) == 0
    found = json.loads((tmp_path / "found" / "segment.json").read_text())
    assert "water" in json.dumps(found)
    assert (tmp_path / "found" / "segment.html").is_file()
    assert (tmp_path / "found" / "labels" / "tile.png").is_file()
