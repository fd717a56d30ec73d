"""Copy trained Earth models into the package, in half precision, with their cards.

    python scripts/ship_weights.py --runs runs --report benchmarks/results/first_light_earth_test \
        --clicks benchmarks/results/evidence_earth.json

Refiner and control are those of the recipes earth-evidence and earth-evidence-control: they also
know what to make of clicks.
Filters and matrices are stored as fp16, statistics and biases as fp32; loading gives fp32.
"""

import argparse
import json
import re
import shutil
import statistics
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from crispmask.atomic import write_atomic
from crispmask.models.checkpoint import WEIGHTS

PARTS = {
    "base": "earth-base",
    "refiner": "earth-evidence-0",
    "control": "earth-evidence-control-0",
}
ROWS = {"refiner": "clicks in the state, 1 call", "control": "clicks as input"}
"""Rows of `benchmarks/evidence.py` that measure a part."""
COLUMNS = ("miou", "mbiou", "mbiou_2px", "accuracy", "ece")


def halve(source: Path, target: Path) -> int:
    """Write the tensors in half precision; returns the size of the file in bytes."""
    tensors = load_file(source)
    small = {
        k: v.half() if v.ndim > 1 and v.dtype == torch.float32 else v for k, v in tensors.items()
    }
    save_file(small, target, metadata={"format": "pt"})
    return target.stat().st_size


def bundled(card: str) -> str:
    """The card of a run as that of a model in the package, whose licence its data allow."""
    card = card.replace("; settings in run.json", "")
    card = re.sub(r"What it may be used for follows .*\n", "", card)
    if "\nlicense: " in card:
        return card
    top = "library_name: crispmask\n"
    assert card.count(top) == 1
    return card.replace(top, f"{top}license: apache-2.0\n")


def calibrated(run: Path) -> str:
    """What `crispmask calibrate` changed after the training, for the card."""
    if not (run / "calibration.json").exists():
        return ""
    record = json.loads((run / "calibration.json").read_text())
    changed = ", ".join(f"{name} {value}" for name, value in record["settings"].items() if value)
    return f"\nAfterwards `{record['command']}` at {record['commit']}: {changed}.\n"


def scores(report: Path, part: str) -> str:
    """The test row of a part as a table for its card: mean over seeds."""
    data = json.loads((report / "report.json").read_text())
    rows = {row["name"]: {c: row[c]["mean"] for c in COLUMNS} for row in data["rows"]}
    return table({part: rows[part]})


def scores_of_clicks(record: Path, part: str) -> str:
    """The row of a part at each number of clicks as a table for its card: mean over seeds.

    A click tells a disc in a region that the control has wrong; told pixels are not scored.
    """
    found = json.loads(record.read_text())["clicks"]
    return table(
        {
            f"{count} clicks": {c: statistics.fmean(rows[ROWS[part]][c]) for c in COLUMNS}
            for count, rows in found.items()
        }
    )


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown of means over seeds."""
    lines = ["", "Scores on the Earth test blocks, mean over seeds (this file is seed 0):", ""]
    lines += ["| row | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(f"{row[c]:.4f}" for c in COLUMNS) + " |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--clicks", type=Path, required=True)
    args = parser.parse_args()
    total = 0
    for part, run in PARTS.items():
        folder = WEIGHTS / "earth-small" / part
        folder.mkdir(parents=True, exist_ok=True)
        total += halve(args.runs / run / "model.safetensors", folder / "model.safetensors")
        shutil.copy(args.runs / run / "config.json", folder / "config.json")
        card = bundled((args.runs / run / "README.md").read_text())
        card += calibrated(args.runs / run)
        card += scores_of_clicks(args.clicks, part) if part in ROWS else scores(args.report, part)
        write_atomic(folder / "README.md", card)
    print(f"{total / 1e6:.2f} MB in {WEIGHTS / 'earth-small'}")


if __name__ == "__main__":
    main()
