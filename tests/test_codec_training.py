"""From masks to a codec, and from a codec to a refiner whose noisy mask is one of codes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from crispmask.cli import main
from crispmask.data.sample import write_mask
from crispmask.data.transforms import AugmentConfig
from crispmask.errors import InputError
from crispmask.metrics.confusion import ConfusionMatrix
from crispmask.models.codec import CodecConfig, CodecModel
from crispmask.models.refiner import MaskRefiner
from crispmask.nn.mask_codec import MaskCodecConfig
from crispmask.shapes import IGNORE
from crispmask.train import (
    CodecTrainConfig,
    LoopConfig,
    RefinerTrainConfig,
    SegmenterTrainConfig,
    codec,
    train,
)
from crispmask.train.batches import Batch
from crispmask.train.codec import CodecObjective, ceiling, codec_scores, resized
from crispmask.train.masks import draw_masks
from crispmask.train.objectives import RefinerObjective
from crispmask.train.untrained import new_refiner

NAMES = ("ground", "disc", "box")
COLOURS = torch.tensor([[90, 110, 90], [200, 80, 60], [70, 90, 190]], dtype=torch.uint8)
CPU = torch.device("cpu")


def shapes(count: int, *, seed: int) -> Tensor:
    """Masks of 32 x 32 with a disc and a box."""
    generator = torch.Generator().manual_seed(seed)
    ys, xs = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    masks = torch.zeros(count, 32, 32, dtype=torch.long)
    for mask in masks:
        y, x, v, u = torch.randint(8, 24, (4,), generator=generator).tolist()
        r, q = torch.randint(5, 10, (2,), generator=generator).tolist()
        mask[(ys - y) ** 2 + (xs - x) ** 2 <= r * r] = 1
        mask[torch.maximum((ys - v).abs(), (xs - u).abs()) <= q] = 2
    return masks


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set on disk; a corner of each mask is unknown."""
    folder = tmp_path_factory.mktemp("shapes")
    (folder / "classes.txt").write_text("\n".join(NAMES))
    for split, count in (("train", 24), ("val", 6)):
        for part in ("images", "labels"):
            (folder / split / part).mkdir(parents=True)
        for i, mask in enumerate(shapes(count, seed=count)):
            Image.fromarray(COLOURS[mask].numpy()).save(folder / split / "images" / f"{i}.png")
            mask[:4, :4] = IGNORE
            write_mask(mask, folder / split / "labels" / f"{i}.png")
    return folder


def loop(**changes: Any) -> LoopConfig:
    settings: dict[str, Any] = {
        "steps": 2,
        "batch_size": 2,
        "warmup_steps": 2,
        "eval_every": 100,
        "save_every": 100,
        "ema_decay": 0.5,
    }
    return LoopConfig(**(settings | changes))


def codec_config(data: Path, **changes: Any) -> CodecTrainConfig:
    return CodecTrainConfig(
        data=str(data), loop=loop(**changes), crop=(32, 32), levels=(5, 5), width=8
    )


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = codec_config(data, steps=150, batch_size=8, learning_rate=1e-2, ema_decay=0.9)
    return train(config, tmp_path_factory.mktemp("runs") / "codec")


@pytest.fixture(scope="module")
def base(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = SegmenterTrainConfig(
        data=str(data),
        loop=loop(),
        augment=AugmentConfig(crop=(32, 32)),
        channels=8,
        imagenet=False,
    )
    return train(config, tmp_path_factory.mktemp("runs") / "base")


def refiner_config(data: Path, base: Path, codec: Path) -> RefinerTrainConfig:
    return RefinerTrainConfig(
        data=str(data),
        base=str(base),
        loop=loop(steps=3),
        augment=AugmentConfig(crop=(32, 32)),
        codec=str(codec),
        stride=4,
        patch_size=1,
        widths=(8, 16),
    )


def tiny() -> CodecModel:
    torch.manual_seed(0)
    network = MaskCodecConfig(num_classes=3, levels=(3, 3), width=8)
    return CodecModel(CodecConfig(class_names=NAMES, network=network))


# the codec


def test_a_codec_run_leaves_a_model_and_its_record(data: Path, trained: Path) -> None:
    model = CodecModel.from_pretrained(trained)
    assert model.config.class_names == NAMES
    record = json.loads((trained / "run.json").read_text())
    assert record["settings"]["kind"] == "CodecTrainConfig"
    assert (record["train_masks"], record["val_masks"], record["codes"]) == (24, 6, 25)
    card = (trained / "README.md").read_text()
    wanted = ("val_miou", "val_mbiou_2px", "resized_miou", "resized_mbiou_2px")
    for name in (*wanted, "code_usage", "code_perplexity"):
        assert f"| {name} | {record[name]:.4f} |" in card
    losses = [json.loads(line)["loss"] for line in (trained / "log.jsonl").read_text().splitlines()]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    truth = shapes(6, seed=6)
    truth[:, :4, :4] = IGNORE
    score, majority = ConfusionMatrix(3), ConfusionMatrix(3)
    score.update(model(truth).argmax(1), truth)
    majority.update(torch.zeros_like(truth), truth)
    assert score.compute().miou == pytest.approx(record["val_miou"], abs=1e-3)
    assert record["val_miou"] > majority.compute().miou + 0.25
    assert 0 < record["code_usage"] <= 1
    assert 1 < record["code_perplexity"] <= 25 * record["code_usage"] + 1e-3


def test_a_resumed_run_takes_the_same_steps(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = codec_config(data, steps=5, save_every=2)
    straight = train(config, tmp_path / "straight")
    count = 0

    def stopped(*args: Any, **options: Any) -> Tensor:
        nonlocal count
        if count == 3:
            raise KeyboardInterrupt
        count += 1
        return draw_masks(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(codec, "draw_masks", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "stopped")
    resumed = train(config, tmp_path / "stopped", resume=True)
    ours, theirs = (load_file(run / "model.safetensors") for run in (straight, resumed))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    first, second = ((run / "log.jsonl").read_text() for run in (straight, resumed))
    assert first == second


def test_masks_of_any_size_keep_it() -> None:
    model = tiny().eval()
    mask = torch.nn.functional.pad(shapes(1, seed=0), (0, 3, 0, 2), value=1)  # 34 x 35
    logits = model(mask)
    assert logits.shape == (1, 3, 34, 35)
    same = ceiling([mask[0].byte()], lambda m: model(m).argmax(1), num_classes=3, device=CPU)
    scores = codec_scores(model, [mask[0].byte()])
    assert scores["val_miou"] == pytest.approx(same["miou"], abs=1e-3)
    assert scores["val_mbiou_2px"] == pytest.approx(same["mbiou_2px"], abs=1e-3)


def test_unknown_pixels_carry_no_loss_for_a_codec() -> None:
    model, masks = tiny(), shapes(2, seed=0)
    masks[:, :, :16] = IGNORE
    loss = CodecObjective(model)(masks, 0.0, torch.Generator())
    expected = F.cross_entropy(model(masks)[..., 16:], masks[..., 16:])
    torch.testing.assert_close(loss, expected)


def test_codes_of_blocks_without_a_known_pixel_are_not_counted() -> None:
    model = tiny()
    nothing = torch.full((32, 32), IGNORE, dtype=torch.uint8)
    assert codec_scores(model, [nothing])["code_usage"] == 0
    mask = torch.full((1, 8, 8), IGNORE)
    mask[0, 5, 2] = 1
    assert model.network.known(mask).tolist() == [[[False, False], [True, False]]]


def test_resizing_keeps_large_parts_and_loses_thin_ones() -> None:
    halves = torch.zeros(1, 32, 32, dtype=torch.long)
    halves[:, 16:] = 1
    assert torch.equal(resized(halves, stride=4, num_classes=2), halves)
    line = torch.zeros(1, 32, 30, dtype=torch.long)  # sides need not divide
    line[:, 3] = 1
    assert resized(line, stride=4, num_classes=2).sum() == 0


# a refiner with it


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"state_input": False},
        {"process": "mixed", "noise_target": "truth", "vlb_weight": 0.1, "first_stage": 0.0},
        {"conditioning": "logits", "noise_target": "base", "first_stage": 0.0},
    ],
    ids=str,
)
def test_a_refiner_keeps_its_codec(
    data: Path, base: Path, trained: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = shutil.copytree(trained, tmp_path / "codec")
    output = train(replace(refiner_config(data, base, folder), **changes), tmp_path / "refiner")
    shutil.rmtree(folder)
    model = MaskRefiner.from_pretrained(output)
    assert model.config.codec == CodecModel.from_pretrained(trained).config.network
    assert model.config.network.num_classes == 25
    assert model.codec is not None
    before = load_file(trained / "model.safetensors")
    for name, value in model.codec.state_dict().items():
        assert torch.equal(value, before[f"network.{name}"]), name
    image, labels = torch.rand(1, 3, 33, 47), torch.zeros(1, 33, 47, dtype=torch.long)
    out = model(image, labels, num_inference_steps=2, start="base")
    assert out.probs.shape == (1, 3, 33, 47)
    torch.testing.assert_close(out.probs.sum(1), torch.ones(1, 33, 47))


def test_unknown_pixels_carry_no_loss_for_a_refiner_of_codes(
    data: Path, base: Path, trained: Path
) -> None:
    config = replace(refiner_config(data, base, trained), noise_target="truth", first_stage=0.0)
    model = new_refiner(config, NAMES, feature_channels=0)
    masks = shapes(2, seed=0)
    masks[:, :16] = IGNORE
    state = model.state(masks)
    assert state.shape == (2, 8, 8)
    assert (state[:, :4] == IGNORE).all()
    assert (state[:, 4:] < 25).all()
    batch = Batch(
        images=torch.rand(2, 3, 32, 32),
        masks=torch.full_like(masks, IGNORE),
        labelled=torch.ones(2, dtype=torch.bool),
        maps=torch.full((2, 3, 8, 8), 1 / 3),
    )
    loss = RefinerObjective(model, config)(batch, 0.9, torch.Generator().manual_seed(0))
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in model.parameters())


def test_a_codec_of_another_stride(data: Path, base: Path, trained: Path, tmp_path: Path) -> None:
    config = replace(refiner_config(data, base, trained), stride=2)
    with pytest.raises(InputError, match=r"stride of 4, the run one of 2; set stride=4\."):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_codec_of_other_classes(data: Path, base: Path, trained: Path) -> None:
    config = refiner_config(data, base, trained)
    with pytest.raises(InputError, match="knows the classes ground, disc, box, the data a, b, c"):
        new_refiner(config, ("a", "b", "c"), feature_channels=0)


def test_a_folder_that_holds_no_codec(data: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds a FPNSegmenter, needed is a CodecModel"):
        new_refiner(refiner_config(data, base, base), NAMES, feature_channels=0)
    with pytest.raises(InputError, match="no model called"):
        new_refiner(refiner_config(data, base, tmp_path / "none"), NAMES, feature_channels=0)


def test_names_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="2 names, the network 3 classes"):
        CodecConfig(class_names=("a", "b"), network=MaskCodecConfig(num_classes=3))


# the command


def test_the_command_trains_a_codec(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "codec"
    short = ["--loop.steps", "1", "--loop.batch-size", "2", "--crop", "16", "16", "--width", "8"]
    words = ["train", "codec", "--data", str(data), *short, "--output", str(output)]
    assert main(words) == 0
    assert CodecModel.from_pretrained(output).config.network.width == 8


@pytest.mark.parametrize("recipe", ["codec", "earth-codec", "camvid-codec"])
def test_help_says_what_a_codec_can_be(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", recipe, "--help"]) == 0
    text = capsys.readouterr().out
    assert "--levels" in text
    assert "--stride" in text


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("--stride", "8"), "stride must be 2 or 4"),
        (("--stride", "3"), "power of two"),
        (("--levels", "4", "5"), "odd numbers"),
        (("--levels", "7", "7", "7"), "343 codes"),
        (("--width", "0"), "width must be at least 1"),
        (("--crop", "0", "8"), "crop must be at least 1x1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_settings_out_of_range(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    answer: str,
) -> None:
    output = tmp_path / "codec"
    assert main(["train", "codec", "--data", str(data), *words, "--output", str(output)]) == 2
    assert answer in capsys.readouterr().err
    assert not output.exists()
