"""Refines, segments, scores and trains on the device of `other_device`, and compares with the CPU.

    python tests/run_on_other_device.py MODELS WORDS BACKBONE DATA

Folders of tiny models and a data set. Run by `test_other_device.py`; says what it has done.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from other_device import NAME, elsewhere


def same(found: Tensor, expected: Tensor) -> None:
    assert found.device.type == NAME, found.device
    torch.testing.assert_close(found.cpu(), expected, atol=1e-5, rtol=0)


def refine(models: Path) -> None:
    from crispmask import FPNSegmenter, MaskRefiner
    from crispmask.models.refiner_config import Sampling
    from crispmask.predict import refine_windows

    base, there_base = (FPNSegmenter.from_pretrained(models / "base") for _ in range(2))
    refiner, there = (MaskRefiner.from_pretrained(models / "refiner") for _ in range(2))
    there_base.to(NAME)
    there.to(NAME)
    image = torch.rand(1, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    seen, there_seen = base(image), there_base(image)
    same(there_seen.probs, seen.probs)
    known = torch.full((40, 48), 255)
    known[3:6, 3:6] = 1
    cloud = torch.zeros(40, 48, dtype=torch.bool)
    cloud[10:20, 10:20] = True
    options: list[dict[str, Any]] = [
        {},
        {"num_inference_steps": 3, "eta": 0.5, "average_last": 2, "keep_trace": True},
        {"num_inference_steps": 2, "guidance_scale": 2.0, "gate": 0.5},
        {"num_inference_steps": 2, "start": "base", "estimate": "sample"},
        {"num_inference_steps": 2, "start": known},
        {"num_inference_steps": 2, "known": known, "missing": cloud},
    ]
    for some in options:
        expected, found = refiner(image, seen, **some), there(image, there_seen, **some)
        same(found.labels, expected.labels)
        same(found.probs, expected.probs)
        same(found.uncertainty, expected.uncertainty)
    windows: dict[str, Any] = {
        "window": 32,
        "overlap": 8,
        "sampling": Sampling(num_inference_steps=2),
    }
    expected = refine_windows(refiner, image, seen, known=known, **windows)
    found = refine_windows(there, image.to(NAME), there_seen, known=known, **windows)
    same(found.probs, expected.probs)


def segment(words: Path) -> None:
    from crispmask.models.text_segmenter import TextSegmenter

    model, there = (TextSegmenter.from_pretrained(words) for _ in range(2))
    there.to(NAME)
    image = torch.rand(3, 40, 32, generator=torch.Generator().manual_seed(0))
    options: list[dict[str, Any]] = [
        {},
        {"num_inference_steps": 3, "flip": True},
        {"decode": "vae", "top": 1, "tile": 24},
        {"top": None, "chunk": 1},
    ]
    for some in options:
        texts = ["water", "forest"]
        expected, found = model(image, texts, **some), there(image, texts, **some)
        same(found.labels, expected.labels)
        same(found.probs, expected.probs)
        same(found.presence, expected.presence)


def score(models: Path, data: Path) -> None:
    from crispmask import FPNSegmenter, MaskRefiner
    from crispmask.data.source import open_split
    from crispmask.evaluate import evaluate, refiner_rows

    base, there_base = (FPNSegmenter.from_pretrained(models / "base") for _ in range(2))
    refiner, there = (MaskRefiner.from_pretrained(models / "refiner") for _ in range(2))
    there_base.to(NAME)
    there.to(NAME)
    images = open_split(str(data), "val")
    reports = [
        evaluate(
            images,
            b,
            refiner_rows([r], [], flip_segmenter=b, num_classes=3, steps=[1, 2]),
            title="",
            pictures=0,
        )
        for b, r in ((base, refiner), (there_base, there))
    ]
    for here, there_row in zip(reports[0].rows, reports[1].rows, strict=True):
        for key in ("miou", "mbiou", "accuracy", "ece"):
            pairs = (torch.tensor(row.scores[key]) for row in (there_row, here))
            torch.testing.assert_close(*pairs, atol=1e-4, rtol=0)


def learn(data: Path, backbone: Path, folder: Path) -> None:
    """Every step of two trainings; the words' is not saved, as its tensors have no storage."""
    from crispmask.data.transforms import AugmentConfig
    from crispmask.train import LoopConfig, RefinerTrainConfig, SegmenterTrainConfig, train
    from crispmask.train.evidence import EvidenceConfig
    from crispmask.train.text import text_task
    from crispmask.train.text_config import TextTrainConfig

    loop = LoopConfig(steps=2, batch_size=2, warmup_steps=1, eval_every=1, save_every=100)
    augment = AugmentConfig(crop=(32, 32))
    train(
        SegmenterTrainConfig(
            data=str(data), loop=loop, augment=augment, channels=8, imagenet=False
        ),
        folder / "base",
    )
    config = RefinerTrainConfig(
        data=str(data),
        base=str(folder / "base"),
        loop=loop,
        augment=augment,
        widths=(8, 16),
        process="absorbing",
        noise_target="truth",
        evidence=EvidenceConfig(),
    )
    train(config, folder / "refiner")
    for steps in ("one", "many"):
        words = TextTrainConfig(
            data=(str(data),),
            backbone=str(backbone),
            loop=loop,
            augment=AugmentConfig(crop=(16, 16)),
            template="{}",
            steps=steps,
            foreign=("car",),
        )
        task, _ = text_task(words)
        task.objective.to(NAME)
        generator = torch.Generator().manual_seed(0)
        batch = task.draw(generator).to(torch.device(NAME, 0))
        task.objective(task.complete(batch), 0.0, generator).backward()
        task.evaluate(task.objective.model)  # type: ignore[arg-type]


def main() -> None:
    models, words, backbone, data = map(Path, sys.argv[1:])
    os.environ["ACCELERATE_TORCH_DEVICE"] = f"{NAME}:0"
    torch.set_num_threads(1)
    with elsewhere(), tempfile.TemporaryDirectory() as folder:
        refine(models)
        segment(words)
        score(models, data)
        learn(data, backbone, Path(folder))
    print("all on one device")


if __name__ == "__main__":
    main()
