"""Drawn shapes on disk, and a package of MiniLM's name with a tiny BERT in it."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from crispmask.data.sample import write_mask
from crispmask.models.text_states import MINILM
from crispmask.shapes import IGNORE
from crispmask.train import LoopConfig

NAMES = ("ground", "disc", "box")
COLOURS = torch.tensor([[90, 110, 90], [220, 60, 40], [40, 70, 220]], dtype=torch.uint8)
TEXT_WIDTH = 16


def shapes(count: int, *, seed: int) -> Tensor:
    """Masks of 16 x 16, of ground with a disc or a box, in turn."""
    generator = torch.Generator().manual_seed(seed)
    ys, xs = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    masks = torch.zeros(count, 16, 16, dtype=torch.long)
    for i, mask in enumerate(masks):
        y, x = torch.randint(5, 11, (2,), generator=generator).tolist()
        if i % 2:
            mask[(ys - y) ** 2 + (xs - x) ** 2 <= 25] = 1
        else:
            mask[torch.maximum((ys - y).abs(), (xs - x).abs()) <= 4] = 2
    return masks


def write_shapes(folder: Path) -> Path:
    """A data set of 8 images to train and 4 to validate; a pixel of each mask is unknown."""
    folder.mkdir(exist_ok=True)
    (folder / "classes.txt").write_text("\n".join(NAMES))
    for split, count in (("train", 8), ("val", 4)):
        for part in ("images", "labels"):
            (folder / split / part).mkdir(parents=True)
        for i, mask in enumerate(shapes(count, seed=count)):
            Image.fromarray(COLOURS[mask].numpy()).save(folder / split / "images" / f"{i}.png")
            mask[0, 0] = IGNORE
            write_mask(mask, folder / split / "labels" / f"{i}.png")
    return folder


def write_minilm(folder: Path) -> Path:
    """A folder for ``sys.path`` with the package that `QueryEncoder.minilm` looks for."""
    from transformers import BertConfig, BertModel, BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", "and", "of", "with", "a", "some"]
    words += ["picture", "photo", "image", "mostly", "lot", "little", "bit", "trace", *NAMES]
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=TEXT_WIDTH,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=40,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertModel(config, add_pooling_layer=False)
    tokenizer = BertTokenizer(vocab={w: i for i, w in enumerate(words)}, model_max_length=40)
    package = folder / MINILM
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('only its files are to be read')\n")
    model.save_pretrained(package / "model")
    tokenizer.save_pretrained(package / "model")
    return folder


def loop(**changes: Any) -> LoopConfig:
    settings: dict[str, Any] = {
        "steps": 2,
        "batch_size": 4,
        "warmup_steps": 2,
        "eval_every": 1000,
        "eval_images": 0,
        "save_every": 1000,
        "ema_decay": 0.5,
    }
    return LoopConfig(**(settings | changes))
