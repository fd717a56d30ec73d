"""Copy trained Earth models into the package, in half precision, with their cards.

    python scripts/ship_weights.py --runs runs --report benchmarks/results/first_light_earth_test

Filters and matrices are stored as fp16, statistics and biases as fp32; loading gives fp32.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from crispmask.models.checkpoint import WEIGHTS, write_atomic

PARTS = {"base": "earth-base", "refiner": "earth-refiner-0", "control": "earth-control-0"}
ROWS = {
    "base": ("base",),
    "refiner": ("refined, 1 call", "refined, 3 calls"),
    "control": ("control",),
}
COLUMNS = ("miou", "mbiou", "mbiou_2px", "accuracy", "ece")


def halve(source: Path, target: Path) -> int:
    """Write the tensors in half precision; returns the size of the file in bytes."""
    tensors = load_file(source)
    small = {
        k: v.half() if v.ndim > 1 and v.dtype == torch.float32 else v for k, v in tensors.items()
    }
    save_file(small, target, metadata={"format": "pt"})
    return target.stat().st_size


def calibrated(run: Path) -> str:
    """What `crispmask calibrate` changed after the training, for the card."""
    if not (run / "calibration.json").exists():
        return ""
    record = json.loads((run / "calibration.json").read_text())
    changed = ", ".join(f"{name} {value}" for name, value in record["settings"].items() if value)
    return f"\nAfterwards `{record['command']}` at {record['commit']}: {changed}.\n"


def scores(report: Path, part: str) -> str:
    """The test rows of a part as a table for its card: mean over seeds."""
    data = json.loads((report / "report.json").read_text())
    lines = ["", "Scores on the Earth test blocks, mean over seeds (this file is seed 0):", ""]
    lines += ["| row | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for row in data["rows"]:
        if row["name"] in ROWS[part]:
            means = " | ".join(f"{row[c]['mean']:.4f}" for c in COLUMNS)
            lines.append(f"| {row['name']} | {means} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--report", type=Path, required=True)
    args = parser.parse_args()
    total = 0
    for part, run in PARTS.items():
        folder = WEIGHTS / "earth-small" / part
        folder.mkdir(parents=True, exist_ok=True)
        total += halve(args.runs / run / "model.safetensors", folder / "model.safetensors")
        shutil.copy(args.runs / run / "config.json", folder / "config.json")
        card = (args.runs / run / "README.md").read_text()
        card += calibrated(args.runs / run) + scores(args.report, part)
        write_atomic(folder / "README.md", card)
    print(f"{total / 1e6:.2f} MB in {WEIGHTS / 'earth-small'}")


if __name__ == "__main__":
    main()
