"""How much of the true masks survives each mask codec, alone and through the TAEF2 autoencoder.

    CRISPMASK_DATA=... python benchmarks/codec_ceiling.py earth camvid --limit 20

mIoU and boundary F (2 pixels) of true masks that were encoded and decoded, in percent, on images
spread evenly over the split. Numbers go to benchmarks/results/codec_ceiling.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from crispmask.data.catalog import shared_data
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
    vae = LatentCodec(load_taef2(shared / "taef2"))
    results: dict[str, Any] = {}
    for name in arguments.data:
        data = open_split(name, arguments.split)
        step = max(1, len(data) / arguments.limit)
        count = min(arguments.limit, len(data))
        samples = [data[int(i * step)] for i in range(count)]
        images = torch.stack([2 * s.image - 1 for s in samples])
        latents = vae.encode(images)
        back = vae.decode(latents, (images.shape[-2], images.shape[-1]))
        error = (back.clamp(-1, 1) - images).square().mean().item()
        results[name] = {
            "images": count,
            "split": arguments.split,
            "taef2_latent_std": latents.std().item(),
            "taef2_psnr_of_images": float(10 * torch.tensor(4 / error).log10()),
        }
        print(name, results[name])
        for codec in track(CODECS, description=name):
            label = type(codec).__name__ + (f"-{codec.stride}" if codec.stride > 1 else "")
            for through in (None, vae) if codec.stride == 1 else (None,):
                got = codec_ceiling(samples, len(data.class_names), codec, latents=through)
                row = f"{label}{' + taef2' if through else ''}"
                results[name][row] = {
                    "passes": codec.num_passes(len(data.class_names)),
                    "miou": 100 * got.miou,
                    "boundary_f": 100 * got.boundary_f,
                    "iou": {c: 100 * v for c, v in zip(data.class_names, got.iou, strict=True)},
                }
                print(f"{name:8} {row:24} {100 * got.miou:6.2f} {100 * got.boundary_f:6.2f}")
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps({"run": provenance(), **results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
