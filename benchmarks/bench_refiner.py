"""One call of the small refiner against the base network it stands behind, same image."""

import json

import torch
from torch.utils.benchmark import Timer

from crispmask.models.refiner import MaskRefiner, RefinerConfig, condition_channels
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


def bench_refiner(height: int = 360, width: int = 480) -> dict[str, float]:
    """Milliseconds of the base, of refining with 1 and 4 calls, and the ratios."""
    torch.manual_seed(0)
    base, refiner = models()
    image = torch.rand(1, 3, height, width)
    output = base(image)
    threads = torch.get_num_threads()

    def median(statement: str) -> float:
        names = {"base": base, "refiner": refiner, "image": image, "output": output}
        timer = Timer(statement, globals=names, num_threads=threads)
        return timer.blocked_autorange(min_run_time=2).median * 1e3

    base_ms = median("base(image)")
    one = median("refiner(image, output)")
    four = median("refiner(image, output, num_inference_steps=4)")
    return {
        "height": height,
        "width": width,
        "threads": threads,
        "base_ms": base_ms,
        "refine_1_call_ms": one,
        "refine_4_calls_ms": four,
        "refine_over_base": one / base_ms,
        "later_call_over_first": (four - one) / 3 / one,
    }


if __name__ == "__main__":
    print(json.dumps(bench_refiner(), indent=2))
