"""What a prior learns from room masks alone: bits per pixel, samples, and holes that it fills.

    crispmask train prior --data FOLDER/ade-rooms-masks --output runs/prior-rooms
    python benchmarks/prior_rooms.py FOLDER/ade-rooms-masks --prior runs/prior-rooms

All masks are measured at the size that the network sees. The bound is compared with two models that
can be written down: pixels that are independent and follow the class frequencies, and pixels that
are independent and follow the frequencies at their place (a grid of 12 x 16 cells). A quarter of
each mask, a random rectangle, is removed and filled; the rival copies the nearest known label.
Numbers go to benchmarks/results/prior_rooms.json, samples to a picture if asked for.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image
from rich.progress import track
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional as F

from crispmask.data.catalog import palette_for
from crispmask.data.masks import Masks, open_masks, shrink
from crispmask.data.sample import colorize
from crispmask.data.transforms import resize_labels
from crispmask.metrics.confusion import ConfusionMatrix
from crispmask.models.prior import MaskPrior
from crispmask.provenance import provenance
from crispmask.shapes import IGNORE, Mask
from crispmask.train.masks import store_masks
from crispmask.train.prior import bits_per_pixel

GRID = (12, 16)


def few(masks: Masks, limit: int, pixels: int) -> list[Int64[Tensor, "_ _"]]:
    """About ``limit`` masks, spread evenly, at the size that the network sees."""
    step = max(1, len(masks) // limit)
    return [shrink(masks[i][None], pixels)[0] for i in range(0, len(masks), step)]


def independent_bits(
    train: Sequence[Int64[Tensor, "_ _"]], val: Sequence[Int64[Tensor, "_ _"]], k: int
) -> dict[str, float]:
    """Cross-entropy in bits per pixel of the two models without any structure."""
    counts = torch.ones(k, *GRID)
    for mask in train:
        grid = resize_labels(mask[None], (4 * GRID[0], 4 * GRID[1]))[0]
        one_hot = F.one_hot(grid.where(grid != IGNORE, k), k + 1).movedim(-1, 0)[:k].float()
        counts += F.avg_pool2d(one_hot, 4, divisor_override=1)
    share = counts.sum((1, 2)) / counts.sum()
    at = counts / counts.sum(0)
    bits, placed, pixels = 0.0, 0.0, 0
    for mask in val:
        known = mask != IGNORE
        place = F.interpolate(at[None], mask.shape, mode="bilinear", align_corners=False)[0]
        labels = mask.where(known, 0)
        bits -= share.log2()[labels][known].sum().item()
        placed -= place.log2().gather(0, labels[None])[0][known].sum().item()
        pixels += int(known.sum())
    return {"class_frequencies": bits / pixels, "frequencies_by_place": placed / pixels}


def with_hole(mask: Int64[Tensor, "h w"], rng: np.random.Generator) -> Int64[Tensor, "h w"]:
    """The mask without a random rectangle of a quarter of its area."""
    h, w = mask.shape
    tall = rng.uniform(0.3, 0.8)
    height, width = round(h * tall), round(w * 0.25 / tall)
    top, left = rng.integers(0, h - height + 1), rng.integers(0, w - width + 1)
    out = mask.clone()
    out[top : top + height, left : left + width] = IGNORE
    return out


def nearest(mask: Int64[Tensor, "h w"]) -> Int64[Tensor, "h w"]:
    """Each unknown pixel takes the nearest known label."""
    rows, columns = distance_transform_edt(
        (mask == IGNORE).numpy(), return_distances=False, return_indices=True
    )
    return mask[torch.from_numpy(rows), torch.from_numpy(columns)]


@torch.no_grad()
def one_look(model: MaskPrior, mask: Mask) -> Mask:
    """What one call makes of the holes when it sees every known label as it is.

    Tells the network from the chain: if this is bad, more calls cannot be good.
    """
    h, w = mask.shape[1:]
    stride = model.network.config.stride
    padded = F.pad(mask, (0, -w % stride, 0, -h % stride), value=IGNORE)
    share = (padded == IGNORE).flatten(1).float().mean(1)
    state = model.process.forward(padded, torch.zeros(len(mask)))
    labels = model(state, share).argmax(1)[..., :h, :w]
    return mask.where(mask != IGNORE, labels)


def voted(model: MaskPrior, mask: Mask, *, steps: int, votes: int) -> Mask:
    """The most frequent label of several completions."""
    k = model.config.network.num_classes
    drawn = [model.complete(mask, num_inference_steps=steps, seed=seed) for seed in range(votes)]
    return torch.stack([F.one_hot(one, k) for one in drawn]).sum(0).argmax(-1)


def completion(
    model: MaskPrior, masks: Sequence[Int64[Tensor, "_ _"]], *, steps: Sequence[int], votes: int
) -> dict[str, Any]:
    """Accuracy and mIoU inside the holes."""
    k = model.config.network.num_classes
    names = [
        "nearest",
        "prior_one_look",
        *(f"prior_{n}_calls" for n in steps),
        f"prior_{steps[-1]}_calls_{votes}_votes",
    ]
    scores = {name: ConfusionMatrix(k) for name in names}
    rng = np.random.default_rng(0)
    for truth in track(list(masks), "filling holes"):
        holed = with_hole(truth, rng)
        target = truth.where(holed == IGNORE, IGNORE)[None]
        filled = [nearest(holed)[None], one_look(model, holed[None])]
        filled += [model.complete(holed[None], num_inference_steps=n) for n in steps]
        filled.append(voted(model, holed[None], steps=steps[-1], votes=votes))
        for name, one in zip(names, filled, strict=True):
            scores[name].update(one, target)
    return {
        name: {"accuracy": score.compute().accuracy, "miou": score.compute().miou}
        for name, score in scores.items()
    }


def picture(model: MaskPrior, path: Path, *, steps: int) -> None:
    """Three rows of five samples."""
    masks = model.sample(15, size=(96, 128), num_inference_steps=steps)
    palette = palette_for(model.config.class_names)
    tiles = [
        np.pad(colorize(mask, palette), ((2, 2), (2, 2), (0, 0)), constant_values=255)
        for mask in masks
    ]
    rows = [np.concatenate(tiles[i : i + 5], axis=1) for i in range(0, 15, 5)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).quantize(32).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="folder with train/ and val/")
    parser.add_argument("--prior", default="runs/prior-rooms")
    parser.add_argument("--limit", type=int, default=100, help="masks that are measured")
    parser.add_argument("--bound-steps", type=int, default=50)
    parser.add_argument("--calls", type=int, nargs="+", default=[5, 20])
    parser.add_argument("--votes", type=int, default=5)
    parser.add_argument("--picture", type=Path, default=None, help="PNG of 15 samples")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    model = MaskPrior.from_pretrained(args.prior)
    splits = open_masks(args.data)
    pixels, k = model.config.pixels, model.config.network.num_classes
    train = [mask.long() for mask in store_masks(splits.train, pixels).masks]
    val = few(splits.val, args.limit, pixels)
    bits = independent_bits(train, val, k)
    bits["prior_bound"] = bits_per_pixel(model, [m.byte() for m in val], steps=args.bound_steps)
    result = {
        "data": f"{Path(args.data).name} val, {len(val)} masks",
        "bits_per_pixel": bits,
        "bits_per_mask_of_the_bound": bits["prior_bound"] * sum(m.numel() for m in val) / len(val),
        "bound_steps": args.bound_steps,
        "uniform_bits": math.log2(k),
        "completion": completion(model, val, steps=args.calls, votes=args.votes),
        "provenance": provenance(),
    }
    (args.output / "prior_rooms.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    if args.picture:
        picture(model, args.picture, steps=100)


if __name__ == "__main__":
    main()
