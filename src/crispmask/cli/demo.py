"""``crispmask demo``: the whole job on held-out satellite tiles, measured while you watch."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from torch import Tensor

from crispmask.cli.output import check_output, write_labels, write_picture
from crispmask.data.earth import EARTH_PALETTE, earth
from crispmask.data.sample import overlay
from crispmask.evaluate import Row, evaluate
from crispmask.models.checkpoint import find_model
from crispmask.models.refiner import MaskRefiner
from crispmask.models.refiner_parts import RefinerOutput
from crispmask.models.segmenters import BaseOutput, FPNSegmenter
from crispmask.shapes import Image, Probs

MODEL = "earth-small"


@dataclass(frozen=True, kw_only=True)
class DemoArguments:
    """Segment and refine satellite tiles that no training saw, with the bundled weights.

    Prints the scores of the base segmenter, of the control (the refiner's network without the
    mask as input) and of the refiner; writes labels/, overlays/, report.html and report.json.

    Example: crispmask demo --output demo-output

    Attributes:
        output: folder to write to.
        json: print the scores as one JSON object in the last line, all else on stderr.
    """

    output: Path
    json: bool = False


def demo(args: DemoArguments) -> int:
    """Run the bundled models over the test blocks and show what came out."""
    start = time.perf_counter()
    check_output(args.output)
    tiles = earth("test")
    segmenter = FPNSegmenter.from_pretrained(MODEL)
    refiner = MaskRefiner.from_pretrained(MODEL)
    control = MaskRefiner.from_pretrained(find_model(MODEL, part="control"))
    masks: dict[str, Tensor] = {}

    def refined(image: Image, base: BaseOutput, name: str) -> Probs:
        out: RefinerOutput = refiner(image, base, names=[name])
        masks[name] = out.labels[0]
        return out.probs

    rows = [
        Row(name="base", predictors=(lambda image, base, name: base.probs,)),
        Row(
            name="control", predictors=(lambda i, base, name: control(i, base, names=[name]).probs,)
        ),
        Row(name="refined", predictors=(refined,), steps=1, refiner=refiner, control=control),
    ]
    report = evaluate(tiles, segmenter, rows, title="Earth, held-out blocks: earth-small")
    for tile in (tiles[i] for i in range(len(tiles))):
        write_labels(masks[tile.name], args.output / "labels" / f"{tile.name}.png")
        picture = overlay(tile.image, masks[tile.name], EARTH_PALETTE)
        write_picture(picture, args.output / "overlays" / f"{tile.name}.png")
    _, page = report.write(args.output)
    seconds = round(time.perf_counter() - start, 1)

    console = Console(stderr=args.json, markup=False)
    console.print(report.table())
    console.print(f"{len(masks)} tiles in {seconds} s; look at {page}", soft_wrap=True)
    if args.json:
        scores = {
            row.name: {key: round(row.mean(key), 6) for key in ("miou", "mbiou", "ece")}
            for row in report.rows
        }
        print(json.dumps({**scores, "seconds": seconds}))
    return 0
