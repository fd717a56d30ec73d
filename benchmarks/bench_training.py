"""A training step with clicks against one without, of the recipes for CamVid: time and memory.

Run ``python benchmarks/bench_training.py``; it takes about a minute and prints JSON. Images and
masks are drawn, so no data are needed. Each kind is measured in a process of its own.
"""

import json
import resource
import subprocess
import sys
import time
from dataclasses import replace

import torch
from torch.nn import functional as F

from crispmask.recipes import camvid_evidence, camvid_refiner
from crispmask.train.batches import Batch
from crispmask.train.objectives import RefinerObjective
from crispmask.train.untrained import new_refiner

CLASSES, REGION, STEPS = 11, 32, 8
KINDS = {"refiner": camvid_refiner, "evidence": camvid_evidence}


def drawn(crop: tuple[int, int], *, batch_size: int, stride: int) -> Batch:
    """Squares of random classes, of which a base has most right and some wrong."""
    generator = torch.Generator().manual_seed(0)
    h, w = crop
    coarse = torch.rand(2, batch_size, CLASSES, h // REGION, w // REGION, generator=generator)
    masks, wrong = (F.interpolate(c, size=crop).argmax(1) for c in coarse)
    said = torch.where(wrong % 4 == 0, wrong, masks)
    one_hot = F.one_hot(said, CLASSES).movedim(-1, 1).float()
    return Batch(
        images=torch.rand(batch_size, 3, h, w, generator=generator),
        masks=masks,
        labelled=torch.ones(batch_size, dtype=torch.bool),
        maps=F.avg_pool2d(0.6 * one_hot + 0.4 / CLASSES, stride),
    )


def step_of(kind: str) -> dict[str, float]:
    """Seconds of processor time a step, and mebibytes that steps add to the process at most."""
    config = replace(KINDS[kind](), init=None)
    batch = drawn(config.augment.crop, batch_size=config.loop.batch_size, stride=config.stride)
    names = [f"class {i}" for i in range(CLASSES)]
    torch.manual_seed(0)
    objective = RefinerObjective(new_refiner(config, names, feature_channels=0), config)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for step in range(STEPS):
        start = time.process_time()
        objective(batch, 0.5, torch.Generator().manual_seed(step)).backward()
        objective.zero_grad()
        seconds.append(time.process_time() - start)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": min(seconds[1:]), "mebibytes": (after - before) / 1024}


def bench_training() -> dict[str, float]:
    """Both kinds, and the ratios."""
    found = {
        kind: json.loads(
            subprocess.run(
                [sys.executable, __file__, kind], check=True, capture_output=True, text=True
            ).stdout
        )
        for kind in KINDS
    }
    plain, clicked = found["refiner"], found["evidence"]
    return {
        **{f"{kind}_{what}": value for kind, one in found.items() for what, value in one.items()},
        "times_slower": clicked["seconds"] / plain["seconds"],
        "times_the_memory": clicked["mebibytes"] / plain["mebibytes"],
    }


if __name__ == "__main__":
    print(json.dumps(step_of(sys.argv[1]) if sys.argv[1:] else bench_training(), indent=2))
