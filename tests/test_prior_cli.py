"""The commands of a prior: draw masks, fill holes, rank regions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crispmask.cli import main
from crispmask.data.catalog import palette_for
from crispmask.data.sample import colorize, read_mask, write_mask
from crispmask.models.prior import MaskPrior
from crispmask.models.prior_config import PriorConfig
from crispmask.nn.unet import MaskUNetConfig
from crispmask.shapes import IGNORE

NAMES = ("sky", "ground", "sun")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a prior with random weights."""
    network = MaskUNetConfig(num_classes=3, cond_channels=1, num_states=4, widths=(8, 16))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        prior = MaskPrior(PriorConfig(class_names=NAMES, network=network, pixels=16 * 16))
        torch.nn.init.normal_(prior.network.classifier.weight)
    folder = tmp_path_factory.mktemp("prior")
    prior.save_pretrained(folder)
    return folder


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Two masks, one of which has a hole."""
    folder = tmp_path / "masks"
    folder.mkdir()
    mask = torch.zeros(12, 20, dtype=torch.long)
    mask[6:] = 1
    write_mask(mask, folder / "whole.png")
    mask[2:8, 5:9] = IGNORE
    write_mask(mask, folder / "holed.png")
    return folder


def test_samples_are_those_of_the_model(model: Path, tmp_path: Path) -> None:
    words = ["--count", "5", "--size", "12", "20", "--num-inference-steps", "3", "--seed", "7"]
    words += ["--device", "cpu"]
    assert main(["prior", "sample", str(model), "--output", str(tmp_path / "out"), *words]) == 0
    prior = MaskPrior.from_pretrained(model)
    expected = prior.sample(5, size=(12, 20), num_inference_steps=3, seed=7)
    files = sorted((tmp_path / "out" / "labels").iterdir())
    assert [path.name for path in files] == [f"{i:03}.png" for i in range(5)]
    assert torch.equal(torch.stack([read_mask(path) for path in files]), expected)
    picture = np.asarray(Image.open(tmp_path / "out" / "samples.png"))
    assert picture.shape == (2 * 16, 4 * 24, 3)  # two rows of four, with margins of two pixels
    palette = palette_for(NAMES)
    assert np.array_equal(picture[2:14, 26:46], colorize(expected[1], palette))
    assert np.array_equal(picture[18:30, 2:22], colorize(expected[4], palette))
    assert (picture[16:, 24:] == 255).all()


def test_holes_are_filled_and_the_rest_is_kept(model: Path, masks: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    words = ["--output", str(output), "--num-inference-steps", "3", "--seed", "7"]
    words += ["--device", "cpu"]
    assert main(["prior", "complete", str(model), str(masks), *words]) == 0
    before = read_mask(masks / "holed.png")
    after = read_mask(output / "labels" / "holed.png", len(NAMES))
    assert (after != IGNORE).all()
    assert torch.equal(after[before != IGNORE], before[before != IGNORE])
    prior = MaskPrior.from_pretrained(model)
    assert torch.equal(after, prior.complete(before[None], num_inference_steps=3, seed=7)[0])
    whole = read_mask(masks / "whole.png")
    assert torch.equal(read_mask(output / "labels" / "whole.png"), whole)
    picture = np.asarray(Image.open(output / "pictures" / "holed.png"))
    palette = palette_for(NAMES)
    assert np.array_equal(picture[:, :20], colorize(before, palette))
    assert np.array_equal(picture[:, 20:], colorize(after, palette))


def test_regions_of_all_masks_in_one_order(
    model: Path, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prior", "regions", str(model), str(masks), "--output", str(tmp_path / "out")]
    assert main([*words, "--seed", "7", "--device", "cpu"]) == 0
    found = json.loads((tmp_path / "out" / "regions.json").read_text())
    bits = [region["bits"] for region in found]
    assert bits == sorted(bits, reverse=True)
    prior = MaskPrior.from_pretrained(model)
    for name in ("whole.png", "holed.png"):
        expected = prior.regions(read_mask(masks / name), seed=7)
        got = [region for region in found if region["mask"] == name]
        assert [region["bits"] for region in got] == pytest.approx([r.bits for r in expected])
        assert [tuple(region["box"]) for region in got] == [r.box for r in expected]
        assert [region["class"] for region in got] == [NAMES[r.label] for r in expected]
    assert "whole.png" in capsys.readouterr().out
    assert main([*words, "--min-area", "121"]) == 0
    assert json.loads((tmp_path / "out" / "regions.json").read_text()) == []


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("sample", "MODEL", "--count", "0"), "--count"),
        (("sample", "MODEL", "--size", "0", "4"), "--size"),
        (("sample", "MODEL", "--num-inference-steps", "0"), "num_inference_steps"),
        (("sample", "MODEL", "--num-inference-steps", "1000000"), "num_inference_steps"),
        (("sample", "no-such-model"), "no-such-model"),
        (("complete", "MODEL"), "at least one mask"),
        (("complete", "MODEL", "no-such-mask.png"), "no-such-mask.png"),
        (("complete", "MODEL", "MASKS", "--num-inference-steps", "0"), "num_inference_steps"),
        (("complete", "MODEL", "MASKS", "MASKS/whole.png"), "more than once"),
        (("complete", "MODEL", "LOSSY"), "lossy.jpg; export it anew"),
        (("regions", "MODEL", "BAD"), "0 to 2"),
        (("complete", "MODEL", "BAD"), "0 to 2"),
        (("sample", "MODEL", "--device", "abacus"), "--device abacus cannot be used here ("),
        (("complete", "MODEL", "BAD", "--device", "abacus"), "--device abacus cannot"),
        (("regions", "MODEL", "BAD", "--device", "abacus"), "--device abacus cannot"),
        (("guess",), "sample, complete and regions"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_used(
    model: Path,
    masks: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    answer: str,
) -> None:
    write_mask(torch.full((4, 4), 9), tmp_path / "bad.png")
    Image.new("L", (4, 4)).save(tmp_path / "lossy.jpg")
    places = {"MODEL": str(model), "MASKS": str(masks)}
    places |= {"BAD": str(tmp_path / "bad.png"), "LOSSY": str(tmp_path / "lossy.jpg")}
    argv = [places.get(word, word.replace("MASKS/", f"{masks}/")) for word in ("prior", *words)]
    assert main([*argv, "--output", str(tmp_path / "out")]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert answer in sentence
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", ["labels", "pictures"])
def test_a_mask_is_never_overwritten(
    model: Path, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    masks.rename(tmp_path / part)
    before = (tmp_path / part / "holed.png").read_bytes()
    words = ["prior", "complete", str(model), str(tmp_path / part)]
    assert main([*words, "--output", str(tmp_path)]) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert (tmp_path / part / "holed.png").read_bytes() == before
