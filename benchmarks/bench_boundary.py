"""Boundary IoU of one pair: one window test on the label map against erosion class by class.

Run ``python benchmarks/bench_boundary.py``; it takes about ten seconds and prints JSON.
"""

import json
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import binary_erosion, minimum_filter
from torch import Tensor

from crispmask.metrics.boundary import BoundaryIoU, ratio_to_width

Erode = Callable[[np.ndarray, int], np.ndarray]


def iterated_erosion(region: np.ndarray, width: int) -> np.ndarray:
    """Erode ``width`` times by a 3x3 square, as the definition says."""
    return np.asarray(binary_erosion(region, np.ones((3, 3), dtype=bool), iterations=width))


def separable_erosion(region: np.ndarray, width: int) -> np.ndarray:
    """Erode once by the large square, as a running minimum along rows and columns."""
    if not region.any():
        return region
    side = 2 * width + 1
    return np.asarray(minimum_filter(region.view(np.uint8), side, mode="constant")).astype(bool)


def count_by_class(
    pred: Tensor, target: Tensor, num_classes: int, width: int, *, erode: Erode
) -> tuple[list[int], list[int]]:
    """Intersection and union of the bands of each class."""
    intersection, union = [], []
    for label in range(num_classes):
        p, t = (mask.numpy()[0] == label for mask in (pred, target))
        p, t = p & ~erode(p, width), t & ~erode(t, width)
        intersection.append(int((p & t).sum()))
        union.append(int((p | t).sum()))
    return intersection, union


def patches(num_classes: int, height: int, width: int) -> Tensor:
    """A mask (1 h w) of about a hundred rectangles of random classes."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(num_classes, (1, 1, 9, 11), generator=generator)
    return F.interpolate(coarse.double(), (height, width), mode="nearest")[:, 0].long()


def cpu_ms(call: Callable[[], object], *, repeats: int) -> float:
    """Milliseconds of processor time per call on one thread, the best of ``repeats``."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    torch.set_num_threads(threads)
    return min(times) * 1e3


def bench_boundary() -> dict[str, float]:
    """Milliseconds and ratios for a 512x683 pair of 151 classes (the usual size of ADE20K)."""
    num_classes, height, length = 151, 512, 683
    width = ratio_to_width(0.02, height, length)
    target = patches(num_classes, height, length)
    pred = target.roll((3, 5), (1, 2))
    metric = BoundaryIoU(num_classes)

    def by_class(erode: Erode) -> tuple[list[int], list[int]]:
        return count_by_class(pred, target, num_classes, width, erode=erode)

    metric.update(pred, target)
    counts = metric.intersection.tolist(), metric.union.tolist()
    for erode in (iterated_erosion, separable_erosion):
        assert by_class(erode) == counts, "the two ways must count the same pixels"

    ours = cpu_ms(lambda: metric.update(pred, target), repeats=50)
    iterated = cpu_ms(lambda: by_class(iterated_erosion), repeats=3)
    separable = cpu_ms(lambda: by_class(separable_erosion), repeats=3)
    return {
        "classes": num_classes,
        "height": height,
        "width": length,
        "band": width,
        "boundary_iou_ms": ours,
        "iterated_erosion_by_class_ms": iterated,
        "separable_erosion_by_class_ms": separable,
        "times_faster_than_iterated": iterated / ours,
        "times_faster_than_separable": separable / ours,
    }


if __name__ == "__main__":
    print(json.dumps(bench_boundary(), indent=2))
