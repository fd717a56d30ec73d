"""The gate: off it changes nothing, closed it keeps the base, calibrated it does no harm."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from crispmask.cli import main
from crispmask.data.sample import read_mask
from crispmask.errors import InputError
from crispmask.evaluate.calibration import GATES, Answer, calibrate, worst_fall
from crispmask.metrics.calibration import TEMPERATURES, TemperatureFit, tempered
from crispmask.metrics.conformal import label_sets
from crispmask.models.ensemble import refine_ensemble
from crispmask.models.probabilities import gated
from crispmask.models.refiner import MaskRefiner
from crispmask.models.refiner_config import (
    Conditioning,
    RefinerConfig,
    Sampling,
    condition_channels,
)
from crispmask.models.refiner_parts import RefinerOutput
from crispmask.models.segmenters import BaseOutput
from crispmask.nn.unet import MaskUNetConfig
from crispmask.predict import refine_views, refine_windows
from crispmask.shapes import IGNORE

K = 3
IMAGE = torch.rand(1, 3, 40, 56, generator=torch.Generator().manual_seed(0))
LOGITS = torch.randn(1, K, 40, 56, generator=torch.Generator().manual_seed(1))
BASE = BaseOutput(probs=LOGITS.softmax(1))


def refiner(gate: float = 0.0, *, conditioning: Conditioning = "probs") -> MaskRefiner:
    """A refiner that changes a lot, alike for any gate."""
    channels = condition_channels(conditioning, K, stride=2)
    network = MaskUNetConfig(num_classes=K, cond_channels=channels, widths=(8, 16))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MaskRefiner(
            RefinerConfig(
                class_names=("a", "b", "c"), network=network, conditioning=conditioning, gate=gate
            )
        )
        torch.nn.init.normal_(model.network.classifier.weight)
    return model.eval()


def windowed(model: MaskRefiner, gate: float | None) -> Tensor:
    sampling = Sampling(gate=gate)
    return refine_windows(model, IMAGE, BASE, window=32, overlap=8, sampling=sampling).probs


def called(model: MaskRefiner, gate: float | None) -> Tensor:
    probs: Tensor = model(IMAGE, BASE, gate=gate).probs
    return probs


def averaged(model: MaskRefiner, gate: float | None) -> Tensor:
    return refine_ensemble(model, IMAGE, BASE, ensemble_size=2, gate=gate).probs


def viewed(model: MaskRefiner, gate: float | None) -> Tensor:
    def segmenter(image: Tensor) -> BaseOutput:
        mirrored = not torch.equal(image, IMAGE)
        return BaseOutput(probs=BASE.probs.flip(-1) if mirrored else BASE.probs)

    def refine(image: Tensor, base: BaseOutput) -> RefinerOutput:
        out: RefinerOutput = model(image, base, gate=gate)
        return out

    return refine_views(segmenter, refine, IMAGE, scales=(1.0,))


WAYS = pytest.mark.parametrize("way", [called, windowed, averaged, viewed])
Way = Callable[[MaskRefiner, float | None], Tensor]


@WAYS
def test_off_closed_and_in_between(way: Way) -> None:
    plain = way(refiner(), None)
    assert not torch.equal(plain.argmax(1), BASE.labels)
    calibrated = refiner(gate=0.25)
    assert torch.equal(way(calibrated, 0.0), plain)
    assert torch.equal(way(refiner(gate=1.0), None), BASE.probs)
    mixture = 0.75 * plain + 0.25 * BASE.probs  # of means or mean of mixtures: the same
    torch.testing.assert_close(way(calibrated, None), mixture)


def test_a_closed_gate_returns_what_a_refiner_of_masks_does_not_see() -> None:
    out = refiner(gate=1.0, conditioning="mask")(IMAGE, BASE)
    assert torch.equal(out.probs, BASE.probs)


@given(st.floats(0.05, 0.95), st.integers(0, 1000))
def test_a_label_gives_way_to_more_certainty_than_it_has(gate: float, draw: int) -> None:
    rng = torch.Generator().manual_seed(draw)
    base, refined = (torch.randn(2, 1, K, 4, 4, generator=rng).double() * 2).softmax(2).float()
    old, new = base.argmax(1, keepdim=True), gated(refined, base, gate).argmax(1, keepdim=True)
    for_it = (1 - gate) * (refined.gather(1, new) - refined.gather(1, old))
    against = gate * (base.gather(1, old) - base.gather(1, new))
    assert ((new == old) | (for_it > against - 1e-6)).all()
    assert (against >= 0).all()


def test_the_temperature_of_probabilities_is_that_of_their_logits() -> None:
    model = refiner()
    cool = called(model, None)
    model.config = replace(model.config, temperature=1.7)
    torch.testing.assert_close(called(model, None), tempered(cool, 1.7), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("score", ["nll", "ece"])
def test_the_best_temperature_undoes_overconfidence(score: Literal["nll", "ece"]) -> None:
    rng = torch.Generator().manual_seed(0)
    honest = (2 * torch.randn(1, K, 400, 400, generator=rng)).softmax(1)
    drawn = torch.multinomial(honest[0].flatten(1).T, 1, generator=rng).view(1, 400, 400)
    fit = TemperatureFit(torch.device("cpu"))
    fit.update(tempered(honest, 1 / TEMPERATURES[10]), drawn)
    assert TEMPERATURES[9] <= fit.compute(score) <= TEMPERATURES[11]


def answers(*, right: float, sure: float, base_sure: float = 0.75, count: int = 4) -> list[Answer]:
    """A base that knows three pixels of four, and a refiner that knows a share ``right``."""
    rng = torch.Generator().manual_seed(0)

    def says(truth: Tensor, share: float, certainty: float) -> Tensor:
        wrong = torch.rand(truth.shape, generator=rng) > share
        labels = torch.where(wrong, (truth + 1) % K, truth)
        top = torch.nn.functional.one_hot(labels, K).movedim(-1, 1)
        return top * certainty + (1 - top) * (1 - certainty) / (K - 1)

    found = []
    for _ in range(count):
        truth = (torch.arange(48)[None, :, None] // 16).expand(1, 48, 40).clone()
        found.append(Answer(says(truth, 0.75, base_sure), says(truth, right, sure), truth))
    return found


def test_a_refiner_that_helps_is_left_alone() -> None:
    found = calibrate(answers(right=0.9, sure=0.9, base_sure=0.95))
    assert found.gate == 0
    assert found.gated == found.refined
    assert found.refined["miou"] > found.base["miou"] + 0.1


@pytest.mark.parametrize("right", [0.2, 0.5, 0.7])
@pytest.mark.parametrize("tolerance", [0.0, 0.001])
def test_a_refiner_that_harms_is_held_back(right: float, tolerance: float) -> None:
    """It is sure of much that is wrong."""
    data = answers(right=right, sure=0.95)
    found = calibrate(data, tolerance=tolerance)
    assert worst_fall(found.base, found.refined) > 0.01
    assert found.gate > 0
    assert worst_fall(found.base, found.gated) <= tolerance
    lower = GATES[GATES.index(found.gate) - 1]  # the least gate: the one below does harm
    warm = [Answer(a.base, tempered(a.refined, found.temperature), a.truth) for a in data]
    fixed = [Answer(a.base, gated(a.refined, a.base, lower), a.truth) for a in warm]
    assert worst_fall(found.base, measured(fixed)) > tolerance


def measured(data: list[Answer]) -> dict[str, float]:
    """Scores of the refined side as it is, counted by the metric classes."""
    from crispmask.metrics.boundary import BoundaryIoU
    from crispmask.metrics.calibration import CalibrationError
    from crispmask.metrics.confusion import ConfusionMatrix

    regions, wide, thin, ece = (
        ConfusionMatrix(K),
        BoundaryIoU(K),
        BoundaryIoU(K, width=2),
        CalibrationError(),
    )
    for a in data:
        for metric in (regions, wide, thin):
            metric.update(a.refined.argmax(1), a.truth)
        ece.update(a.refined, a.truth)
    return {
        "miou": regions.compute().miou,
        "accuracy": regions.compute().accuracy,
        "mbiou": wide.compute().mbiou,
        "mbiou_2px": thin.compute().mbiou,
        "ece": ece.compute().ece,
    }


def test_calibration_error_is_a_score_that_may_not_fall() -> None:
    better = {"miou": 0.9, "mbiou": 0.9, "mbiou_2px": 0.9, "accuracy": 0.9}
    worse = {"miou": 0.5, "mbiou": 0.5, "mbiou_2px": 0.5, "accuracy": 0.5}
    fall = worst_fall(worse | {"ece": 0.01}, better | {"ece": 0.03})
    assert fall == pytest.approx(0.02)
    assert worst_fall(worse | {"ece": 0.03}, better | {"ece": 0.01}) < 0
    nothing = {**better, "mbiou": float("nan")}
    assert worst_fall(nothing | {"ece": 0.1}, nothing | {"ece": 0.1}) == 0


def test_label_sets_are_fitted_behind_the_gate() -> None:
    data = answers(right=0.9, sure=0.9, base_sure=0.95, count=30)
    found = calibrate(data, coverage=0.95)
    assert found.gate == 0
    assert found.label_threshold is not None
    hits = [
        label_sets(tempered(a.refined, found.temperature), found.label_threshold)
        .gather(1, a.truth[:, None])
        .float()
        .mean()
        for a in data
    ]
    assert torch.stack(hits).mean() >= 0.95
    assert calibrate(data[:4]).label_threshold is None
    assert calibrate(data[:4], coverage=0.95).label_threshold == 0  # too few to promise it


def test_messages() -> None:
    with pytest.raises(InputError, match="at least one image, got none"):
        calibrate([])
    unknown = [
        replace(answer, truth=torch.full_like(answer.truth, IGNORE))
        for answer in answers(right=1, sure=1)
    ]
    with pytest.raises(InputError, match="images with labelled pixels, got none such"):
        calibrate(unknown)
    with pytest.raises(InputError, match="tolerance must be at least 0, got -1"):
        calibrate(answers(right=1, sure=1), tolerance=-1)
    for wrong in (-0.1, 1.5):
        with pytest.raises(ValueError, match="gate must lie in"):
            replace(refiner().config, gate=wrong)
        with pytest.raises(InputError, match="gate must lie in"):
            refiner()(IMAGE, BASE, gate=wrong)
    with pytest.raises(ValueError, match="label_threshold must lie in"):
        replace(refiner().config, label_threshold=2.0)


# the command


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    """A folder of three scenes with images/ and labels/."""
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    for name in "abc":
        pixels = rng.integers(0, 256, (40, 32, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
        mask = (np.arange(40)[:, None] * 3 // 40 + np.zeros((1, 32))).astype(np.uint8)
        Image.fromarray(mask).save(tmp_path / "labels" / f"{name}.png")
    return tmp_path


def words(*parts: str | Path) -> list[str]:
    return [str(part) for part in parts]


def test_calibrate_writes_the_settings_and_refine_keeps_to_them(
    tiny_models: Path, held_out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = held_out / "models"
    shutil.copytree(tiny_models, bundle)
    before = MaskRefiner.from_pretrained(bundle)
    weights = (bundle / "refiner" / "model.safetensors").read_bytes()
    command = words("calibrate", bundle, held_out, "--base", bundle / "base", "--coverage", "0.5")
    assert main([*command, "--device", "cpu"]) == 0
    record = json.loads((bundle / "refiner" / "calibration.json").read_text())
    assert worst_fall(record["scores"]["base"], record["scores"]["gated"]) <= 0.001
    assert {"command", "commit", "images"} <= record.keys()
    assert "ECE" in capsys.readouterr().out

    after = MaskRefiner.from_pretrained(bundle)
    fitted = {key: getattr(after.config, key) for key in record["settings"]}
    assert fitted == record["settings"]
    assert replace(before.config, **fitted) == after.config
    assert (bundle / "refiner" / "model.safetensors").read_bytes() == weights
    assert [path.name for path in (bundle / "refiner").glob(".*")] == []

    photo, mask = held_out / "images" / "a.png", held_out / "labels" / "a.png"
    refine = words("refine", photo, "--base", mask, "--model", bundle, "--output")
    options = ["--ensemble-size", "2", "--uncertainty", "--label-sets"]
    assert main([*refine, str(held_out / "out"), *options]) == 0
    out = refine_ensemble(after, photo, mask, ensemble_size=2, names=["a"])
    assert torch.equal(read_mask(held_out / "out" / "labels" / "a.png"), out.labels[0])
    assert after.config.label_threshold is not None
    sizes = label_sets(out.probs, after.config.label_threshold).sum(1)[0]
    assert torch.equal(read_mask(held_out / "out" / "label-sets" / "a.png"), sizes)
    spread = read_mask(held_out / "out" / "disagreement" / "a.png")
    assert torch.equal(spread, (255 * out.disagreement[0]).round().long())

    assert main([*refine, str(held_out / "kept"), "--gate", "1"]) == 0
    assert torch.equal(read_mask(held_out / "kept" / "labels" / "a.png"), read_mask(mask))


def test_label_sets_are_not_lost_without_a_word(
    tiny_models: Path, held_out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = held_out / "models"
    shutil.copytree(tiny_models, bundle)
    command = words("calibrate", bundle, held_out, "--base", bundle / "base")
    assert main([*command, "--coverage", "0.5"]) == 0
    before = MaskRefiner.from_pretrained(bundle).config.label_threshold
    assert before is not None
    assert "removed" not in capsys.readouterr().out
    assert main(command) == 0
    assert MaskRefiner.from_pretrained(bundle).config.label_threshold is None
    assert f"label_threshold {before:g} was fitted" in capsys.readouterr().out
    assert main(command) == 0
    assert "removed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("calibrate earth-small {data} --base earth-small", "earth-small is no folder"),
        ("calibrate {model}/base {data} --base {model}", "needed is a MaskRefiner"),
        ("calibrate {model} no-such-folder --base {model}", "no-such-folder"),
        ("calibrate {model} earth --base {model}", "they must be the same ones"),
        ("calibrate {model} {data} --base {model} --tolerance -1", "tolerance must be at least 0"),
        ("calibrate {model} {data} --base {model} --tolerance nan", "at least 0, got nan"),
        (
            "refine {photo} --base {mask} --model {model} --output {out} --guidance-scale nan",
            "guidance_scale must be a number, got nan",
        ),
        ("calibrate {model} {data} --base {model} --coverage 1.5", "coverage must lie between"),
        ("refine {photo} --base {mask} --model {model} --output {out} --gate 2", "gate must lie"),
        (
            "refine {photo} --base {mask} --model {model} --output {out} --ensemble-size 0",
            "ensemble-size must be at least 1",
        ),
        (
            "refine {photo} --base {mask} --model {model} --output {out} --label-sets",
            "run `crispmask calibrate` with --coverage",
        ),
    ],
)
def test_commands_that_cannot_be(
    tiny_models: Path,
    held_out: Path,
    command: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(tiny_models, held_out / "models")
    config = (held_out / "models" / "refiner" / "config.json").read_text()
    places = {
        "data": held_out,
        "model": held_out / "models",
        "photo": held_out / "images" / "a.png",
        "mask": held_out / "labels" / "a.png",
        "out": held_out / "out",
    }
    assert main([word.format(**places) for word in command.split()]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert message in sentence
    assert (held_out / "models" / "refiner" / "config.json").read_text() == config
    assert not (held_out / "out").exists()
