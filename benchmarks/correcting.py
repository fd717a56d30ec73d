"""How long does a person wait for the next mask after a click? Ratios in one run.

    python benchmarks/correcting.py

An image of 480 x 360 pixels behind eleven classes, a refiner of the size of `camvid-evidence` with
random weights: the first answer with its look at the image, and each answer after it, with one call
and with five. The base's own time is not among them.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from crispmask.models.interactive import Correction
from crispmask.models.refiner_config import Sampling
from crispmask.recipes import camvid_evidence
from crispmask.shapes import IGNORE
from crispmask.train.untrained import new_refiner
from earth_models import RESULTS, save

SIZE = (360, 480)
CLASSES = 11


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median time of one call, after one that warms up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    names = tuple(str(i) for i in range(CLASSES))
    config = replace(camvid_evidence(), init=None)  # its size matters here, not what it learned
    refiner = new_refiner(config, names, feature_channels=0)
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, *SIZE, generator=generator)
    base = torch.rand(1, CLASSES, *SIZE, generator=generator).softmax(1)
    known = torch.full(SIZE, IGNORE)
    known[100:107, 200:207] = 3
    correction = Correction(refiner, image, base)

    def again(calls: int) -> Callable[[], object]:
        return lambda: correction(known, sampling=Sampling(num_inference_steps=calls))

    results = {
        "first answer, 1 call": seconds(lambda: refiner(image, base), args.repeats),
        "after a click, 1 call": seconds(again(1), args.repeats),
        "after a click, 5 calls": seconds(again(5), args.repeats),
    }
    first = results["first answer, 1 call"]
    ratios = {name: value / first for name, value in results.items()}
    save("correcting", {"seconds": results, "over the first answer": ratios}, args.output)


if __name__ == "__main__":
    main()
