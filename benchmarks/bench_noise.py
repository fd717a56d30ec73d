"""Forward noising of a mask: a coin and a label per pixel against one-hot rows and Gumbel noise.

Run ``python benchmarks/bench_noise.py``; it takes about twenty seconds and prints JSON.
"""

import json
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.benchmark import Timer

from crispmask.diffusion.categorical import UniformDiffusion


def gumbel_noising(process: UniformDiffusion, x_0: Tensor, t: Tensor) -> Tensor:
    """Draw from ``q(x_t | x_0)`` as usual: probabilities of all classes, then the Gumbel trick."""
    a_t = process.schedule(t).view(-1, 1, 1, 1)
    one_hot = F.one_hot(x_0, process.num_classes).movedim(-1, 1).float()  # b k h w
    probs = a_t * one_hot + (1 - a_t) / process.num_classes
    gumbel = -(-torch.rand_like(probs).clamp(min=1e-30).log()).log()
    return (probs.log() + gumbel).argmax(1)


def cpu_ms(call: Callable[[], object]) -> float:
    """Milliseconds of processor time per call on one thread, the best of at least two seconds."""
    timer = Timer("call()", globals={"call": call}, timer=time.process_time)
    return min(timer.blocked_autorange(min_run_time=2).times) * 1e3


def bench_noise() -> dict[str, float]:
    """Milliseconds and ratio for a batch of four 128x128 masks of 151 classes."""
    num_classes, shape = 151, (4, 128, 128)
    process = UniformDiffusion(num_classes)
    generator = torch.Generator().manual_seed(0)
    x_0 = process.prior(shape, generator=generator)
    t = torch.full((len(x_0),), 0.5)

    kept = [
        (noised == x_0).float().mean().item()
        for noised in (process.forward(x_0, t), gumbel_noising(process, x_0, t))
    ]
    assert abs(kept[0] - kept[1]) < 0.02, "the two ways must keep the same share of labels"

    ours = cpu_ms(lambda: process.forward(x_0, t))
    gumbel = cpu_ms(lambda: gumbel_noising(process, x_0, t))
    return {
        "classes": num_classes,
        "masks": shape[0],
        "height": shape[1],
        "width": shape[2],
        "forward_ms": ours,
        "one_hot_gumbel_ms": gumbel,
        "times_faster": gumbel / ours,
    }


if __name__ == "__main__":
    print(json.dumps(bench_noise(), indent=2))
