"""Runs of `crispmask train text` on drawn shapes, at tiny size."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from crispmask.data.sample import write_mask
from crispmask.data.transforms import AugmentConfig
from crispmask.shapes import IGNORE
from crispmask.train import LoopConfig, TextTrainConfig, text
from crispmask.train.queries import TextBatch
from crispmask.train.text import draw_text

NAMES = ("ground", "disc", "box")
COLOURS = torch.tensor([[90, 110, 90], [200, 80, 60], [70, 90, 190]], dtype=torch.uint8)
AUGMENT = AugmentConfig(crop=(16, 16), scale=(0.8, 1.25))


def write_data(folder: Path, names: tuple[str, ...], *, train: int = 4, val: int = 2) -> Path:
    """Discs and boxes of 24 x 20 pixels; a corner of each image is unknown."""
    generator = torch.Generator().manual_seed(0)
    ys, xs = torch.meshgrid(torch.arange(24), torch.arange(20), indexing="ij")
    for split, count in (("train", train), ("val", val)):
        for part in ("images", "labels"):
            (folder / split / part).mkdir(parents=True)
        for i in range(count):
            y, x, v, u = torch.randint(5, 15, (4,), generator=generator).tolist()
            mask = torch.zeros(24, 20, dtype=torch.long)
            mask[(ys - y) ** 2 + (xs - x) ** 2 <= 16] = 1
            mask[torch.maximum((ys - v).abs(), (xs - u).abs()) <= 3] = 2
            pixels = COLOURS[mask]
            Image.fromarray(pixels.numpy()).save(folder / split / "images" / f"{i}.png")
            mask[:3, :3] = IGNORE
            write_mask(mask, folder / split / "labels" / f"{i}.png")
    (folder / "classes.txt").write_text("\n".join(names))
    return folder


def text_config(data: Path, backbone: Path, /, **changes: Any) -> TextTrainConfig:
    loop: dict[str, Any] = {"steps": 2, "batch_size": 2, "warmup_steps": 1, "ema_decay": 0.5}
    loop |= changes.pop("loop", {})
    settings: dict[str, Any] = {"data": (str(data),), "template": "{}", "augment": AUGMENT}
    settings |= changes
    return TextTrainConfig(backbone=str(backbone), loop=LoopConfig(**loop), **settings)


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@contextmanager
def stopping_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Someone presses Ctrl-C while a step's batch is drawn."""
    count = 0

    def stopped(*args: Any) -> TextBatch:
        nonlocal count
        if count == step:
            raise KeyboardInterrupt
        count += 1
        return draw_text(*args)

    with monkeypatch.context() as patch:
        patch.setattr(text, "draw_text", stopped)
        yield
