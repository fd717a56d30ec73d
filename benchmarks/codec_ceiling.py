"""How much of the true masks survives each mask codec, alone and through two autoencoders.

    CRISPMASK_DATA=... python benchmarks/codec_ceiling.py earth camvid --limit 20

mIoU and boundary F (2 pixels) of true masks that were encoded and decoded, in percent, on images
spread evenly over the split. TAEF2 is an autoencoder of all kinds of pictures, that of text-earth
has seen Earth alone. Numbers go to benchmarks/results/codec_ceiling.json.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from crispmask.data.catalog import shared_data
from crispmask.data.sample import Sample
from crispmask.data.source import open_split
from crispmask.errors import InputError
from crispmask.evaluate.codec_ceiling import codec_ceiling
from crispmask.models.latents import LatentCodec
from crispmask.models.mask_images import (
    BinaryCodec,
    BitCodec,
    MaskImageCodec,
    OverlayCodec,
    PaletteCodec,
    ResizeCodec,
)
from crispmask.models.text_segmenter import TextSegmenter
from crispmask.provenance import provenance
from taef2 import load_taef2

RESULTS = Path(__file__).parent / "results" / "codec_ceiling.json"

CODECS: tuple[MaskImageCodec, ...] = (  # few passes first
    PaletteCodec(),
    BitCodec(),
    ResizeCodec(stride=8),
    ResizeCodec(stride=4),
    BinaryCodec(),
    OverlayCodec(),
)


def of_images(samples: Sequence[Sample], vae: LatentCodec) -> dict[str, float]:
    """What the VAE does to the images themselves."""
    images = torch.stack([2 * sample.image - 1 for sample in samples])
    latents = vae.encode(images)
    back = vae.decode(latents, (images.shape[-2], images.shape[-1]))
    error = (back.clamp(-1, 1) - images).square().mean().item()
    return {"latent_std": latents.std().item(), "psnr": 10 * math.log10(4 / error)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", nargs="+", help="earth, camvid, or another data set")
    parser.add_argument("--split", choices=("train", "val", "test"), default="val")
    parser.add_argument("--limit", type=int, default=20, help="images of each data set")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    shared = shared_data()
    if shared is None or not (shared / "taef2").is_dir():
        raise InputError("taef2/ is needed in $CRISPMASK_DATA: the two files of TAEF2.")
    vaes = {
        "taef2": LatentCodec(load_taef2(shared / "taef2")),
        "text-earth": TextSegmenter.from_pretrained("text-earth").codec,
    }
    results: dict[str, Any] = {}
    for name in arguments.data:
        data = open_split(name, arguments.split)
        step = max(1, len(data) / arguments.limit)
        count = min(arguments.limit, len(data))
        samples = [data[int(i * step)] for i in range(count)]
        kind = name.partition(":")[0]
        results[kind] = {"images": count, "split": arguments.split} | {
            f"{vae}_{key}": value
            for vae, codec in vaes.items()
            for key, value in of_images(samples, codec).items()
        }
        print(kind, results[kind], flush=True)
        for codec in track(CODECS, description=kind):
            label = type(codec).__name__ + (f"-{codec.stride}" if codec.stride > 1 else "")
            through = {"": None} | ({f" + {v}": vaes[v] for v in vaes} if codec.stride == 1 else {})
            for end, vae in through.items():
                got = codec_ceiling(samples, len(data.class_names), codec, latents=vae)
                results[kind][label + end] = {
                    "passes": codec.num_passes(len(data.class_names)),
                    "miou": 100 * got.miou,
                    "boundary_f": 100 * got.boundary_f,
                    "iou": {c: 100 * v for c, v in zip(data.class_names, got.iou, strict=True)},
                }
                line = (
                    f"{kind:8} {label + end:28} {100 * got.miou:6.2f} {100 * got.boundary_f:6.2f}"
                )
                print(line, flush=True)
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps({"run": provenance(), **results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
