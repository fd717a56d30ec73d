"""Draw docs/pictures/before-after.png: image, truth, base and refined mask of two test tiles.

    python scripts/readme_picture.py --report benchmarks/results/first_light_earth_test

Above the tile with the largest gain in mIoU, below the one with the median change.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw

from crispmask.data.earth import EARTH_PALETTE, earth
from crispmask.data.sample import colorize
from crispmask.models.refiner import MaskRefiner
from crispmask.models.segmenters import FPNSegmenter

ZOOM, GAP, HEAD = 2, 8, 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("docs/pictures/before-after.png"))
    args = parser.parse_args()
    images = json.loads((args.report / "report.json").read_text())["images"]
    images.sort(key=lambda entry: entry["ours"] - entry["base"])
    chosen = [images[-1]["name"], images[len(images) // 2]["name"]]
    tiles = earth("test")
    segmenter = FPNSegmenter.from_pretrained("earth-small")
    refiner = MaskRefiner.from_pretrained("earth-small")
    size = 128 * ZOOM
    width, height = 4 * size + 3 * GAP, len(chosen) * (size + GAP) + HEAD - GAP
    canvas = PIL.Image.new("RGB", (width, height), "white")
    draw = PIL.ImageDraw.Draw(canvas)
    for i, title in enumerate(("image", "truth", "base", "refined")):
        draw.text((i * (size + GAP) + 2, 4), title, fill="black", font_size=15)
    for row, name in enumerate(chosen):
        tile = tiles[tiles.names.index(name)]
        base = segmenter(tile.image[None])
        refined = refiner(tile.image, base, names=[name])
        pixels = (tile.image.movedim(0, -1) * 255).round().byte().numpy()
        masks = (tile.mask, base.labels[0], refined.labels[0])
        panels = [pixels, *(np.asarray(colorize(mask, EARTH_PALETTE)) for mask in masks)]
        for i, panel in enumerate(panels):
            picture = PIL.Image.fromarray(panel).resize((size, size), PIL.Image.Resampling.NEAREST)
            canvas.paste(picture, (i * (size + GAP), HEAD + row * (size + GAP)))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(args.output, optimize=True)
    print(f"{args.output}: {' and '.join(chosen)}")


if __name__ == "__main__":
    main()
