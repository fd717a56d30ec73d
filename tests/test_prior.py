"""The prior alone: it learns from masks, draws them, fills them, and says what is unlikely."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from crispmask.cli import main
from crispmask.data.masks import open_masks, shrink
from crispmask.data.regions import regions_of
from crispmask.data.sample import write_mask
from crispmask.data.transforms import AugmentConfig, augment, augment_masks, resize_labels
from crispmask.errors import InputError
from crispmask.models.prior import TIMES, TURNS, MaskPrior
from crispmask.models.prior_config import PriorConfig
from crispmask.models.refiner_config import ProcessName, num_states
from crispmask.nn.unet import MaskUNetConfig
from crispmask.shapes import IGNORE
from crispmask.train import LoopConfig, PriorTrainConfig, prior, train
from crispmask.train.masks import draw_masks, store_masks
from crispmask.train.prior import PriorObjective, bits_per_pixel, hide_parts

PROCESSES: tuple[ProcessName, ...] = ("uniform", "absorbing", "mixed")
NAMES = ("sky", "ground", "sun")


def landscape(rng: np.random.Generator, h: int = 24, w: int = 32) -> Tensor:
    """Sky above a slanted horizon, ground below, a sun in the sky."""
    rows, columns = np.mgrid[:h, :w]
    left, right = rng.integers(h // 2, h - 4, 2)
    mask = (rows >= left + (right - left) * columns / w).astype(np.int64)
    y, x = rng.integers(4, h // 2 - 3), rng.integers(4, w - 4)
    mask[(rows - y) ** 2 + (columns - x) ** 2 <= 9] = 2
    return torch.from_numpy(mask)


def landscapes(count: int, *, seed: int = 0) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    return [landscape(rng) for _ in range(count)]


def write_all(folder: Path, masks: list[Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, mask in enumerate(masks):
        write_mask(mask, folder / f"{i:03}.png")
    return folder


def tiny(process: ProcessName = "absorbing", *, patch_size: int = 1) -> MaskPrior:
    """Random weights over three classes."""
    network = MaskUNetConfig(
        num_classes=3,
        cond_channels=1,
        num_states=num_states(3, process),
        widths=(8, 16),
        patch_size=patch_size,
    )
    config = PriorConfig(class_names=NAMES, network=network, pixels=24 * 32, process=process)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MaskPrior(config)
        torch.nn.init.normal_(model.network.classifier.weight)
    return model.eval()


@contextmanager
def counted(model: MaskPrior) -> Iterator[list[int]]:
    """Collects the batch size of each call of the network."""
    calls: list[int] = []
    hook = model.network.register_forward_hook(lambda _m, args, _o: calls.append(len(args[0])))
    yield calls
    hook.remove()


# drawing


@pytest.mark.parametrize("process", PROCESSES)
def test_samples_are_labels_and_repeat(process: ProcessName) -> None:
    model = tiny(process)
    with counted(model) as calls:
        masks = model.sample(3, size=(11, 18), num_inference_steps=4, seed=5)
    assert calls == [3, 3, 3, 3]
    assert masks.shape == (3, 11, 18)
    assert masks.min() >= 0
    assert masks.max() < 3
    assert torch.equal(masks, model.sample(3, size=(11, 18), num_inference_steps=4, seed=5))
    assert not torch.equal(masks, model.sample(3, size=(11, 18), num_inference_steps=4, seed=6))


@pytest.mark.parametrize("process", PROCESSES)
def test_a_sample_does_not_depend_on_its_batch(process: ProcessName) -> None:
    model = tiny(process, patch_size=2)
    few = model.sample(2, size=(24, 32), num_inference_steps=5)
    many = model.sample(5, size=(24, 32), num_inference_steps=5)
    assert torch.equal(few, many[:2])


def test_samples_have_the_size_that_was_learned_by_default() -> None:
    assert tiny().sample(1, num_inference_steps=1).shape == (1, 28, 28)


@pytest.mark.parametrize(
    "options",
    [{"count": 0}, {"size": (0, 8)}, {"num_inference_steps": 0}, {"num_inference_steps": 10**6}],
    ids=str,
)
def test_sampling_refuses_numbers_out_of_range(options: dict[str, Any]) -> None:
    allowed: dict[str, Any] = {"count": 1, "size": (8, 8), "num_inference_steps": 2}
    with pytest.raises(InputError):
        tiny().sample(**(allowed | options))


# completing


@pytest.mark.parametrize("process", PROCESSES)
def test_completion_keeps_known_pixels(process: ProcessName) -> None:
    model = tiny(process)
    masks = torch.stack(landscapes(3)).repeat_interleave(2, 1)  # 48 x 32, is resized
    masks[:, 10:30, 5:20] = IGNORE
    masks[1] = IGNORE
    with counted(model) as calls:
        filled = model.complete(masks, num_inference_steps=3)
    assert calls == [3, 3, 3]
    known = masks != IGNORE
    assert torch.equal(filled[known], masks[known])
    assert filled.max() < 3
    assert torch.equal(filled, model.complete(masks, num_inference_steps=3))
    assert torch.equal(filled[:1], model.complete(masks[:1], num_inference_steps=3))


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (31, 7), (100, 3)])
def test_a_mask_may_have_any_size(size: tuple[int, int]) -> None:
    mask = torch.full((1, *size), 2)
    mask[0, 0, 0] = IGNORE
    filled = tiny().complete(mask, num_inference_steps=2)
    assert filled.shape == mask.shape
    assert torch.equal(filled.flatten()[1:], mask.flatten()[1:])
    assert tiny().plausibility(mask).shape == mask.shape


def test_a_known_mask_is_returned_as_it_is() -> None:
    mask = torch.stack(landscapes(1))
    assert torch.equal(tiny().complete(mask, num_inference_steps=1), mask)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.zeros(4, 4, dtype=torch.long), "shape"),
        (torch.zeros(1, 4, 4), "float"),
        (torch.full((1, 4, 4), 3), "ids from 0 to 2"),
        (torch.full((1, 4, 4), -1), "ids from 0 to 2"),
        (torch.zeros(1, 0, 4, dtype=torch.long), "shape"),
    ],
)
def test_masks_that_are_none_are_refused(mask: Tensor, words: str) -> None:
    model = tiny()
    for method in (model.complete, model.log_probs, model.plausibility):
        with pytest.raises(InputError, match=words):
            method(mask)


@pytest.mark.parametrize("steps", [0, 10**6])
def test_completion_refuses_steps_out_of_range(steps: int) -> None:
    with pytest.raises(InputError, match="num_inference_steps"):
        tiny().complete(torch.stack(landscapes(1)), num_inference_steps=steps)


# judging


def test_plausibility_is_a_log_probability_of_known_pixels() -> None:
    model = tiny("mixed")
    masks = torch.stack(landscapes(2))
    masks[0, :5, :5] = IGNORE
    with counted(model) as calls:
        log_probs = model.log_probs(masks)
    assert len(calls) == TURNS * len(TIMES)
    values = model.plausibility(masks)
    assert torch.equal(values.isnan(), masks == IGNORE)
    assert (values[masks != IGNORE] <= 0).all()
    own = log_probs.gather(1, masks.where(masks != IGNORE, 0)[:, None])[:, 0]
    assert torch.equal(own[masks != IGNORE], values[masks != IGNORE])
    alone = model.log_probs(masks[1:], names=["1"])
    torch.testing.assert_close(alone, log_probs[1:])


def test_a_region_does_not_speak_for_itself() -> None:
    model = tiny()
    one, other = (torch.full((1, 24, 32), label) for label in (0, 1))
    torch.testing.assert_close(model.log_probs(one), model.log_probs(other))


def test_regions_are_those_of_the_mask_the_least_plausible_first() -> None:
    model, mask = tiny(), landscapes(1)[0]
    mask[:3, :3] = IGNORE
    found = model.regions(mask)
    assert [region.bits for region in found] == sorted((r.bits for r in found), reverse=True)
    plain = regions_of(mask)
    assert sorted(r.area for r in found) == sorted(plain.areas.tolist())
    assert sum(r.area for r in found) == int((mask != IGNORE).sum())
    log_p = model.plausibility(mask[None])[0]
    for region in found:
        index = plain.find(region.label, region.area, region.box)
        mean = -log_p[plain.index == index].mean().item() / math.log(2)
        assert region.bits == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize("times", [(), (0.0,), (0.5, 1.5)])
def test_times_out_of_range_are_refused(times: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="times"):
        tiny().log_probs(torch.stack(landscapes(1)), times=times)


def test_each_mask_needs_a_name() -> None:
    with pytest.raises(InputError, match="2 masks need as many names, got 1"):
        tiny().log_probs(torch.stack(landscapes(2)), names=["a"])


# the model as a folder


def test_a_saved_prior_loads_to_the_same_masks(tmp_path: Path) -> None:
    model = tiny()
    model.save_pretrained(tmp_path / "prior")
    loaded = MaskPrior.from_pretrained(tmp_path)  # a bundle
    assert loaded.config == model.config
    first, second = (m.sample(1, size=(8, 8), num_inference_steps=3) for m in (model, loaded))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"process": "uniform"}, "num_states=3"),
        ({"class_names": ("a", "b")}, "2 names"),
        ({"process": "mixed", "class_names": ("a", "b", "c", "d")}, "4 names"),
        ({"pixels": 0}, "pixels"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(tiny().config, **changes)


# data


def test_layouts_of_folders(tmp_path: Path) -> None:
    masks = landscapes(12)
    plain = write_all(tmp_path / "plain", masks)
    splits = open_masks(str(plain))
    assert (len(splits.train), len(splits.val), splits.class_names) == (11, 1, None)
    assert torch.equal(splits.val[0], masks[11])
    write_all(tmp_path / "pairs" / "labels", masks)
    assert len(open_masks(str(tmp_path / "pairs")).train) == 11
    for part, inner, count in (("train", "labels", 3), ("val", ".", 2)):
        write_all(tmp_path / "split" / part / inner, masks[:count])
    (tmp_path / "split" / "classes.txt").write_text("\n".join(NAMES))
    splits = open_masks(str(tmp_path / "split"))
    assert (len(splits.train), len(splits.val), splits.class_names) == (3, 2, NAMES)
    assert open_masks(str(tmp_path / "split" / "val")).class_names == NAMES
    earth = open_masks("earth")
    assert earth.class_names is not None
    assert len(earth.class_names) == 10
    assert earth.val[0].shape == (128, 128)


def test_masks_are_kept_at_the_size_the_network_sees() -> None:
    mask = landscapes(1)[0].repeat_interleave(3, 0).repeat_interleave(3, 1)
    mask[0, 0] = IGNORE
    stored = store_masks([mask], 24 * 32)
    assert stored.ids == {0, 1, 2}
    assert torch.equal(stored.masks[0].long(), resize_labels(mask[None], (24, 32))[0])
    assert torch.equal(store_masks([mask], 0).masks[0].long(), mask)
    assert shrink(torch.zeros(1, 1, 10**4, dtype=torch.long), 100).shape == (1, 1, 1000)


def test_masks_are_cropped_like_masks_of_images() -> None:
    config = AugmentConfig(crop=(16, 20), scale=(0.5, 2.0))
    mask = torch.stack(landscapes(1))
    for seed in range(5):
        one, two = (torch.Generator().manual_seed(seed) for _ in range(2))
        _, want, _ = augment(torch.zeros(1, 3, 24, 32), mask, None, config, generator=one)
        assert torch.equal(augment_masks(mask, config, generator=two), want)
    generator = torch.Generator().manual_seed(0)
    sizes = [landscape(np.random.default_rng(0), h, 32).byte() for h in (20, 24)]
    batch = draw_masks(sizes, config, batch_size=6, generator=generator)
    assert batch.shape == (6, 16, 20)
    assert set(torch.unique(batch).tolist()) <= {0, 1, 2, IGNORE}


# training


def settings(data: Path, **loop: Any) -> PriorTrainConfig:
    options: dict[str, Any] = {
        "steps": 3,
        "batch_size": 2,
        "warmup_steps": 2,
        "eval_every": 100,
        "save_every": 100,
        "ema_decay": 0.5,
    }
    return PriorTrainConfig(
        data=str(data),
        loop=LoopConfig(**(options | loop)),
        crop=(24, 32),
        zoom=(1.0, 1.2),
        pixels=24 * 32,
        widths=(8, 16),
        patch_size=1,
        eval_steps=5,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("masks") / "data", landscapes(30))


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = settings(folder, steps=150, batch_size=8, learning_rate=4e-3, ema_decay=0.9)
    return train(config, tmp_path_factory.mktemp("runs") / "prior")


def test_a_run_leaves_a_model_and_its_record(folder: Path, trained: Path) -> None:
    model = MaskPrior.from_pretrained(trained)
    assert model.config.class_names == ("0", "1", "2")
    record = json.loads((trained / "run.json").read_text())
    assert record["settings"]["kind"] == "PriorTrainConfig"
    assert (record["train_masks"], record["val_masks"]) == (27, 3)
    assert f"| val_bits | {record['val_bits']:.4f} |" in (trained / "README.md").read_text()
    held_out = [mask.byte() for mask in landscapes(30)[27:]]
    bits = bits_per_pixel(model, held_out, steps=5)
    assert bits == pytest.approx(record["val_bits"], rel=1e-4)
    pixels = torch.stack(landscapes(30)).flatten()
    share = torch.bincount(pixels) / len(pixels)
    independent = -(share * share.log2()).sum().item()
    assert bits < 0.6 * independent


def test_a_flipped_region_is_the_least_plausible(trained: Path) -> None:
    model = MaskPrior.from_pretrained(trained)
    found = 0
    for mask in landscapes(5, seed=9):
        mask[19:23, 8:16] = 0  # sky in the ground
        first = model.regions(mask)[0]
        found += (first.label, first.box) == (0, (19, 8, 23, 16))
        log_p = model.plausibility(mask[None])[0]
        assert log_p[19:23, 8:16].mean() < log_p.mean()
    assert found >= 4


def test_a_hole_is_filled_with_what_surrounds_it(trained: Path) -> None:
    model = MaskPrior.from_pretrained(trained)
    truth = torch.stack(landscapes(5, seed=9))
    masks = truth.clone()
    masks[:, 18:, 4:20] = IGNORE  # ground but for a strip
    filled = model.complete(masks, num_inference_steps=20)
    assert (filled == truth)[masks == IGNORE].float().mean() > 0.8


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("vlb_weight", [0.0, 0.5])
def test_every_process_trains(process: ProcessName, vlb_weight: float) -> None:
    model = tiny(process).train()
    objective = PriorObjective(model, hide=0.5, vlb_weight=vlb_weight)
    masks = torch.stack(landscapes(4))
    masks[0] = IGNORE
    loss = objective(masks, 0.0, torch.Generator().manual_seed(0))
    loss.backward()
    assert loss.isfinite()
    stem = {"network.stem.weight"}  # meets zeros
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0 or name in stem, name


def test_parts_are_hidden_as_wholes() -> None:
    masks = torch.stack(landscapes(40))
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(hide_parts(masks, 0.0, generator), masks)
    shown = hide_parts(masks, 0.5, generator)
    assert ((shown == masks) | (shown == IGNORE)).all()
    touched = [i for i in range(40) if (shown[i] == IGNORE).any()]
    assert 10 <= len(touched) <= 30
    shapes = set()
    for i in touched:
        hidden, found = shown[i] == IGNORE, regions_of(masks[i])
        whole = all(len(set(hidden[found.index == n].tolist())) == 1 for n in range(len(found)))
        rows, columns = hidden.any(1).nonzero(), hidden.any(0).nonzero()
        box = int((rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1))
        assert whole or hidden.sum() == box
        shapes.add(whole)
    assert shapes == {False, True}


def test_a_resumed_run_takes_the_same_steps(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(folder, steps=5, save_every=2)
    straight = train(config, tmp_path / "straight")
    count = 0

    def stopped(*args: Any, **options: Any) -> Tensor:
        nonlocal count
        if count == 3:
            raise KeyboardInterrupt
        count += 1
        return draw_masks(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(prior, "draw_masks", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "stopped")
    resumed = train(config, tmp_path / "stopped", resume=True)
    ours, theirs = (load_file(run / "model.safetensors") for run in (straight, resumed))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    first, second = ((run / "log.jsonl").read_text() for run in (straight, resumed))
    assert first == second


def test_class_names_of_a_file_are_used(tmp_path: Path) -> None:
    data = write_all(tmp_path / "data", landscapes(4))
    (data / "classes.txt").write_text("\n".join((*NAMES, "never seen")))
    output = train(settings(data, steps=1), tmp_path / "run")
    assert MaskPrior.from_pretrained(output).config.class_names == (*NAMES, "never seen")


# input that cannot be used


@pytest.fixture
def refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Trains on a folder, which must fail well, and returns the one sentence."""

    def run(data: Path, *more: str) -> str:
        output = tmp_path / "output"
        words = ["train", "prior", "--data", str(data), "--output", str(output), *more]
        assert main(words) == 2
        captured = capsys.readouterr()
        sentence = captured.err.splitlines()[-1]
        assert sentence.startswith("crispmask: ")
        assert "Traceback" not in captured.err
        assert not output.exists()
        return sentence

    return run


def test_masks_of_a_single_class(refuse: Any, tmp_path: Path) -> None:
    mask = torch.zeros(8, 8, dtype=torch.long)
    mask[:4] = IGNORE  # as binary masks often are
    sentence = refuse(write_all(tmp_path / "data", [mask, mask]))
    assert "at least two" in sentence
    assert "255 means unknown" in sentence


def test_masks_without_any_label(refuse: Any, tmp_path: Path) -> None:
    mask = torch.full((8, 8), IGNORE)
    assert "0 classes" in refuse(write_all(tmp_path / "data", [mask, mask]))


def test_missing_and_empty_folders(refuse: Any, tmp_path: Path) -> None:
    assert "does not exist" in refuse(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no label file" in refuse(tmp_path / "empty")
    write_all(tmp_path / "half" / "train", landscapes(2))
    assert "does not exist" in refuse(tmp_path / "half")
    assert "at least two" in refuse(write_all(tmp_path / "one", landscapes(1)))


def test_ids_beyond_254(refuse: Any, tmp_path: Path) -> None:
    masks = landscapes(2)
    masks[0][0, 0] = 300
    assert "300" in refuse(write_all(tmp_path / "data", masks))


def test_ids_beyond_the_names(refuse: Any, tmp_path: Path) -> None:
    data = write_all(tmp_path / "data", landscapes(2))
    (data / "classes.txt").write_text("sky\nground\n")
    assert "ids from 0 to 1" in refuse(data)


def test_a_file_that_cannot_be_read(refuse: Any, tmp_path: Path) -> None:
    data = write_all(tmp_path / "data", landscapes(3))
    (data / "001.png").write_bytes(b"no picture")
    assert "001.png" in refuse(data)


def test_colours_instead_of_ids(refuse: Any, tmp_path: Path) -> None:
    data = write_all(tmp_path / "data", landscapes(3))
    Image.new("RGB", (32, 24)).save(data / "001.png")
    assert "map its colours to ids" in refuse(data)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("--loop.steps", "0"), "steps must be at least 1"),
        (("--eval-steps", "0"), "eval_steps"),
        (("--eval-steps", "1000000"), "eval_steps"),
        (("--crop", "10", "12"), "multiples of 8"),
        (("--crop", "0", "8"), "crop must be at least 1x1"),
        (("--widths", "10"), "multiples of 8"),
        (("--vlb-weight", "-1"), "vlb_weight"),
        (("--hide", "2"), "hide"),
        (("--process", "other"), "other"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_settings_out_of_range(
    refuse: Any, folder: Path, words: tuple[str, ...], answer: str
) -> None:
    assert answer in refuse(folder, *words)
