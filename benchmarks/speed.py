"""All speed ratios, written to ``benchmarks/results/speed.json``. Run by ``make bench``."""

import json
import platform
from pathlib import Path

import torch

from bench_boundary import bench_boundary
from bench_noise import bench_noise
from bench_refiner import bench_refiner
from bench_training import bench_training
from crispmask.atomic import write_atomic
from crispmask.provenance import provenance


def main() -> None:
    results = {
        "forward noising": bench_noise(),
        "boundary IoU": bench_boundary(),
        "refiner": bench_refiner(),
        "training with clicks": bench_training(),
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
        "provenance": dict(provenance()),
    }
    path = Path(__file__).parent / "results" / "speed.json"
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
