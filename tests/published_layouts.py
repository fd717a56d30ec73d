"""Tiny folders laid out like ADE20K and Cityscapes, and a tiny SegFormer of transformers."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image


def _pair(rng: np.random.Generator, image: Path, label: Path, values: np.ndarray) -> None:
    """A noisy picture, brighter where the values are higher, and its label file."""
    for path in (image, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    pixels = values[..., None] % 16 * 12 + rng.integers(0, 60, (*values.shape, 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(image)
    Image.fromarray(values.astype(np.uint8)).save(label)


def blocks(rng: np.random.Generator, values: list[int], size: tuple[int, int]) -> np.ndarray:
    """Squares of 8 x 8 pixels with one of the values each."""
    coarse = rng.choice(values, (-(-size[0] // 8), -(-size[1] // 8)))
    return np.kron(coarse, np.ones((8, 8), int))[: size[0], : size[1]]


def ade20k_folder(root: Path, *, train: int = 3, val: int = 2) -> Path:
    """ADEChallengeData2016: images of several sizes, JPEG; labels 0 to 150."""
    rng = np.random.default_rng(0)
    folder = root / "ADEChallengeData2016"
    for split, name, count in (("training", "train", train), ("validation", "val", val)):
        for i in range(count):
            stem = f"ADE_{name}_{i + 1:08d}"
            values = blocks(rng, [0, 1, 2, 57, 150], (48 + 8 * i, 64))
            image = folder / "images" / split / f"{stem}.jpg"
            _pair(rng, image, folder / "annotations" / split / f"{stem}.png", values)
    return folder


def cityscapes_folder(root: Path, *, kind: str = "labelIds") -> Path:
    """cityscapes: two cities to train, one to validate."""
    rng = np.random.default_rng(0)
    folder = root / "cityscapes"
    values = [0, 3, 7, 11, 33] if kind == "labelIds" else [255, 0, 2, 18]
    for split, city in (("train", "aachen"), ("train", "ulm"), ("val", "lindau")):
        for i in range(2):
            name = f"{city}_{i:06d}_000019"
            image = folder / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png"
            label = folder / "gtFine" / split / city / f"{name}_gtFine_{kind}.png"
            _pair(rng, image, label, blocks(rng, values, (64, 128)))
            instances = label.with_name(f"{name}_gtFine_instanceIds.png")
            Image.fromarray(np.zeros((64, 128), np.uint16)).save(instances)
    return folder


def transformers_segformer(folder: Path, num_labels: int) -> Path:
    """A random SegFormer of a few channels, as ``save_pretrained`` of transformers writes it."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    sizes: dict[str, Any] = {
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [8, 16, 40, 64],
        "decoder_hidden_size": 12,
        "num_labels": num_labels,
    }

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = SegformerForSemanticSegmentation(SegformerConfig(**sizes))
        norm = model.decode_head.batch_norm
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    model.save_pretrained(folder)
    return folder
