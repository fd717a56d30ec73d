"""The published recipes: their sizes, a dry run of each, and what makes long runs possible."""

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file

from crispmask.data.cityscapes import CITYSCAPES_CLASSES
from crispmask.data.source import open_split
from crispmask.data.transforms import AugmentConfig
from crispmask.models.bases import load_base
from crispmask.models.refiner import MaskRefiner
from crispmask.models.segformer import SegformerBase, SegformerBaseConfig
from crispmask.models.segmenters import FPNSegmenter, SegmenterConfig
from crispmask.nn.fpn import FPNConfig
from crispmask.nn.unet import paper
from crispmask.recipes import RECIPES
from crispmask.train import RefinerTrainConfig, run, train
from crispmask.train.ahead import draw_ahead
from crispmask.train.batches import LazyImages, draw, live_base, store
from crispmask.train.loop import seeded
from crispmask.train.untrained import new_refiner
from crispmask.train.validation import refiner_scores
from published_layouts import ade20k_folder, cityscapes_folder, transformers_segformer

ROOT = Path(__file__).parents[1]
PRESETS = ("paper-ade-b2", "paper-ade-b0", "paper-city-b2", "paper-city-b0")


def recipe(name: str) -> RefinerTrainConfig:
    config = RECIPES[name]()
    assert isinstance(config, RefinerTrainConfig)
    return config


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both data sets in small, with a SegFormer for each."""
    root = tmp_path_factory.mktemp("published")
    ade20k_folder(root)
    cityscapes_folder(root)
    transformers_segformer(root / "ade", 150)
    transformers_segformer(root / "city", 19)
    return root


def tiny(name: str, root: Path, **loop: Any) -> RefinerTrainConfig:
    """The recipe on the small folders, a few channels wide and two steps long."""
    config = recipe(name)
    kind = "ade" if "ade" in name else "city"
    data = {"ade": "ade20k:{}/ADEChallengeData2016", "city": "cityscapes:{}/cityscapes"}[kind]
    short = {"steps": 2, "batch_size": 2, "ema_every": 1, "warmup_steps": 1} | loop
    return replace(
        config,
        data=data.format(root),
        base=str(root / kind),
        widths=(8, 8, 8),
        head_channels=8,
        loop=replace(config.loop, **short),
        augment=replace(config.augment, crop=(32, 32), short_side=48 if kind == "ade" else 0),
    )


# sizes


@pytest.mark.parametrize(
    ("name", "classes", "steps"),
    [(n, 150, 100) for n in PRESETS[:2]] + [(n, 19, 20) for n in PRESETS[2:]],
)
def test_the_network_is_the_published_one(name: str, classes: int, steps: int) -> None:
    config = recipe(name)
    width = 256 if name.endswith("b2") else 128
    with torch.device("meta"):
        model = new_refiner(config, [str(i) for i in range(classes)], feature_channels=256)
    expected = replace(paper(classes, cond_channels=256, width=width), time_scale=steps - 1.0)
    assert model.config.network == expected
    assert (model.config.stride, model.config.residual) == (4, False)
    assert config.noise_share == 1 / steps
    network = model.network
    apart = sum(
        p.numel() for part in (network.classifier, network.embed) for p in part.parameters()
    )
    millions = (sum(p.numel() for p in network.parameters()) - apart) / 1e6
    assert millions == pytest.approx({256: 40.81, 128: 11.31}[width], abs=0.01)
    assert all(side % 16 == 0 for side in config.augment.crop)


# runs


@pytest.mark.parametrize("name", PRESETS)
def test_a_dry_run(published: Path, tmp_path: Path, name: str) -> None:
    """The first step sees pure noise, the second the network's own first prediction."""
    output = train(tiny(name, published), tmp_path / "run")
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1]
    model = MaskRefiner.from_pretrained(output)
    base = load_base(published / name.split("-")[1], class_names=model.config.class_names)
    image = torch.rand(1, 3, 40, 33)
    out = model(image, base(image), num_inference_steps=2)
    assert out.probs.shape == (1, 150 if "ade" in name else 19, 40, 33)
    table = model.network.embed.weight  # the label table stays as it was drawn
    assert torch.equal(
        table, load_file(output / "checkpoint" / "state.safetensors")["model.network.embed.weight"]
    )


def test_resumed_with_threads_it_is_the_same(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("paper-ade-b0", published, steps=4, save_every=2, workers=0)
    straight = train(config, tmp_path / "straight")
    threaded = replace(config, loop=replace(config.loop, workers=3))
    calls = 0

    def stopped(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise KeyboardInterrupt
        return draw(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(run, "draw", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(threaded, tmp_path / "resumed")
    resumed = train(threaded, tmp_path / "resumed", resume=True)
    assert (straight / "log.jsonl").read_text() == (resumed / "log.jsonl").read_text()
    ours, theirs = (load_file(f / "model.safetensors") for f in (straight, resumed))
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_reproduce_measures_a_run(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny("paper-ade-b0", published)
    output = train(config, tmp_path / "run")
    script = runpy.run_path(str(ROOT / "benchmarks" / "reproduce.py"))
    script["SHORT_SIDES"]["ade20k"] = 40
    script["main"]([config.data, str(output), "--steps", "2", "--limit", "1", "--device", "cpu"])
    report = json.loads((output / "scores" / "report.json").read_text())
    assert [row["name"] for row in report["rows"]] == [
        "base",
        "base, 12 views",
        "refined, 1 call",
        "refined, 2 calls",
        "refined, 2 calls, 12 views",
    ]
    assert "refined, 2 calls, 12 views" in capsys.readouterr().out


def test_reproduce_measures_a_converted_model(published: Path, tmp_path: Path) -> None:
    """With void as a class of its own and a base that cannot classify."""
    config = tiny("paper-city-b0", published)
    names = ("void", *CITYSCAPES_CLASSES)
    base = SegformerBase(
        SegformerBaseConfig(
            class_names=names,
            widths=(8, 16, 40, 64),
            depths=(1, 1, 1, 1),
            neck_channels=12,
            classifier=False,
        )
    )
    base.save_pretrained(tmp_path / "base")
    refiner = new_refiner(config, names, feature_channels=12)
    refiner.config = replace(refiner.config, void_class=0)
    refiner.save_pretrained(tmp_path / "refiner")
    script = runpy.run_path(str(ROOT / "benchmarks" / "reproduce.py"))
    script["main"]([config.data, str(tmp_path), "--steps", "2", "--limit", "1", "--device", "cpu"])
    report = json.loads((tmp_path / "scores" / "report.json").read_text())
    assert [row["name"] for row in report["rows"]] == [
        "refined, 1 call",
        "refined, 2 calls",
        "refined, 2 calls, 12 views",
    ]


# data that is read piece by piece


def test_lazy_images_give_the_crops_of_stored_ones(published: Path) -> None:
    data = open_split(f"ade20k:{published}/ADEChallengeData2016", "train")
    stored, lazy = store(data), LazyImages(data)
    assert len(lazy) == len(stored) == 3
    for seed in range(3):
        drawn = [
            draw(
                images,
                AugmentConfig(crop=(32, 32), short_side=48, dominance=0.75),
                batch_size=4,
                generator=torch.Generator().manual_seed(seed),
            )
            for images in (stored, lazy)
        ]
        assert torch.equal(drawn[0].images, drawn[1].images)
        assert torch.equal(drawn[0].masks, drawn[1].masks)


def test_the_live_base_says_of_a_crop_what_it_says_of_an_image(published: Path) -> None:
    data = open_split(f"ade20k:{published}/ADEChallengeData2016", "train")
    base = load_base(published / "ade", class_names=data.class_names)
    config = AugmentConfig(crop=(32, 32))
    batch = draw(LazyImages(data), config, batch_size=2, generator=torch.Generator())
    features = live_base(base, conditioning="features", stride=4)(batch).maps
    probs = live_base(base, conditioning="probs", stride=4)(batch).maps
    assert features is not None
    assert probs is not None
    output = base(batch.images)
    assert torch.equal(features, output.features)
    torch.testing.assert_close(probs, torch.nn.functional.avg_pool2d(output.probs, 4))
    assert not features.is_inference()  # or no gradient could be taken behind it


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_threads_draw_the_same_in_the_same_order(workers: int) -> None:
    drawn = draw_ahead(lambda g: torch.rand(2, generator=g), range(20), workers=workers)
    for seed, (values, generator) in zip(range(20), drawn, strict=True):
        expected = torch.Generator().manual_seed(seed)
        assert torch.equal(values, torch.rand(2, generator=expected))
        assert torch.equal(generator.get_state(), expected.get_state())


def test_an_error_in_a_thread_is_raised_in_its_place() -> None:
    def faulty(generator: torch.Generator) -> int:
        if generator.initial_seed() == 3:
            raise OSError("unreadable")
        return generator.initial_seed()

    drawn = draw_ahead(faulty, range(20), workers=2)
    assert [next(drawn)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="unreadable"):
        next(drawn)


# several processes


def test_two_processes_share_a_run(published: Path, tmp_path: Path) -> None:
    """Other crops in each, the mean of their losses, all validation images scored once."""
    data = open_split(f"ade20k:{published}/ADEChallengeData2016", "train")
    network = FPNConfig(num_classes=150, channels=8)
    base = FPNSegmenter(SegmenterConfig(class_names=data.class_names, network=network))
    base.save_pretrained(tmp_path / "base")
    config = replace(tiny("paper-ade-b0", published), base=str(tmp_path / "base"))
    output = tmp_path / "run"
    options = f"""
        --data {config.data} --base {config.base} --output {output} --loop.steps 2
        --loop.batch-size 2 --loop.ema-every 1 --loop.warmup-steps 1 --widths 8 8 8
        --head-channels 8 --augment.crop 32 32 --augment.short-side 48
    """
    launcher = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --main_process_port 0"
    command = [*launcher.split(), "-m", "crispmask", "train", "paper-ade-b0", *options.split()]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained model in") == 1
    record = json.loads((output / "run.json").read_text())
    assert record["processes"] == 2
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1]

    losses = []
    cpu = torch.device("cpu")
    few = LazyImages(open_split(config.data, "val"))
    for process in range(2):
        with seeded(config.loop.seed, cpu):
            task = run._live_refiner_task(config, LazyImages(data), few, data.class_names)
        generator = torch.Generator().manual_seed(process)
        batch = task.complete(task.draw(generator))
        with seeded(process, cpu), torch.no_grad():
            losses.append(task.objective.train()(batch, 0.0, generator).item())
    assert losses[0] != losses[1]
    assert lines[0]["loss"] == pytest.approx(sum(losses) / 2, rel=1e-4)

    assert PartialState().num_processes == 1
    trained = MaskRefiner.from_pretrained(output)
    scores = refiner_scores(trained, few, lambda _, image: base(image), short_side=48)
    assert scores["val_miou"] == pytest.approx(record["val_miou"], abs=1e-3)
