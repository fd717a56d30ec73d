"""One call of the small refiner against the base network it stands behind, same image."""

import json
import statistics
import time
from collections.abc import Callable

import torch

from crispmask.models.refiner import MaskRefiner
from crispmask.models.refiner_config import RefinerConfig, condition_channels
from crispmask.models.segmenters import FPNSegmenter, SegmenterConfig
from crispmask.nn.fpn import FPNConfig
from crispmask.nn.unet import MaskUNetConfig

CLASSES = 11


def models() -> tuple[FPNSegmenter, MaskRefiner]:
    """The base and the refiner of the recipes, with random weights."""
    names = tuple(f"class {i}" for i in range(CLASSES))
    base = FPNSegmenter(SegmenterConfig(class_names=names, network=FPNConfig(num_classes=CLASSES)))
    channels = condition_channels("probs", CLASSES, stride=2)
    network = MaskUNetConfig(num_classes=CLASSES, cond_channels=channels, patch_size=2)
    refiner = MaskRefiner(RefinerConfig(class_names=names, network=network))
    return base.eval(), refiner.eval()


def bench_refiner(height: int = 360, width: int = 480, *, rounds: int = 30) -> dict[str, float]:
    """Milliseconds of the base, of refining with 1 and 4 calls, and the ratios."""
    torch.manual_seed(0)
    base, refiner = models()
    image = torch.rand(1, 3, height, width)
    output = base(image)
    calls: dict[str, Callable[[], object]] = {
        "base": lambda: base(image),
        "one": lambda: refiner(image, output),
        "four": lambda: refiner(image, output, num_inference_steps=4),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + 3):
        for name, call in calls.items():  # in turn, so that a slow moment hits all alike
            start = time.perf_counter()
            call()
            if round_ >= 3:
                times[name].append((time.perf_counter() - start) * 1e3)
    base_ms, one, four = (statistics.median(times[name]) for name in calls)
    ratio = statistics.median(o / b for o, b in zip(times["one"], times["base"], strict=True))
    return {
        "height": height,
        "width": width,
        "threads": torch.get_num_threads(),
        "base_ms": base_ms,
        "refine_1_call_ms": one,
        "refine_4_calls_ms": four,
        "refine_over_base": ratio,
        "later_call_over_first": (four - one) / 3 / one,
    }


if __name__ == "__main__":
    print(json.dumps(bench_refiner(), indent=2))
