"""Pictures that a pretrained latent diffusion model draws for captions: what it has learned.

    python benchmarks/draw_words.py runs/latent-earth-pretrain --captions "picture from space"

A row for each caption, in their order, and a column for each of a few random starts.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from crispmask.models.backbone import load_text_to_image
from crispmask.models.text_to_image import generate

CAPTIONS = (
    "satellite picture of mostly forest and some water",
    "satellite picture of mostly barren",
    "satellite picture of cropland and urban",
    "satellite picture of snow and water",
    "satellite picture",
)
GAP = 4


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path, help="folder of a pretraining run")
    parser.add_argument("--captions", nargs="+", default=list(CAPTIONS))
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--steps", type=int, default=50, help="calls of the network")
    parser.add_argument("--guidance-scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="by default samples.png in the model's folder")
    arguments = parser.parse_args()
    parts = load_text_to_image(arguments.model)
    rows = []
    for text in arguments.captions:
        pictures = generate(
            parts,
            [text] * arguments.columns,
            seed=arguments.seed,
            num_inference_steps=arguments.steps,
            guidance_scale=arguments.guidance_scale,
        )
        rows.append(torch.nn.functional.pad(pictures, (0, GAP, 0, GAP), value=1.0))
        print(text)
    grid = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)  # 3 h w
    pixels = (grid[:, :-GAP, :-GAP] * 255).round().byte().permute(1, 2, 0)
    path = arguments.output or arguments.model / "samples.png"
    Image.fromarray(pixels.numpy()).save(path)
    print(path)


if __name__ == "__main__":
    main()
