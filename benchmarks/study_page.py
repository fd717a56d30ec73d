"""Writes docs/study.md and its plots from what benchmarks/study.py measured.

    python benchmarks/study_page.py

Reads benchmarks/results/study_DATA_TABLE/report.json. What the numbers mean is written by hand, in
benchmarks/study_notes/TABLE.md, and goes below the numbers; intro.md goes above all of them.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crispmask.report import COLUMNS, Column, Gain, svg
from crispmask.report.plots import Point, gains_chart, steps_chart

QUESTIONS = {
    "calls": "Do more calls of the refiner help, and does the first one beat the control?",
    "noise": "Which mask should be noised for training: the first prediction, the truth, the base?",
    "corruption": "Does the state matter if the truth goes wrong in segments, patches and borders?",
    "transition": "Which noise: uniform, absorbing or both, on a linear or a cosine schedule?",
    "reverse": "Free re-noising (eta 0), the strict posterior (eta 1), or something in between?",
    "guidance": "Does guidance help a refiner that was trained with dropout of its condition?",
    "start": "Should the chain start from the base's mask instead of pure noise?",
    "condition": "What should the refiner be told: features, log-probabilities, or the mask alone?",
    "codec": "At which stride should the mask be diffused?",
    "stages": "One stage of training, two, or the first alone?",
    "averaging": "Does it help to average steps, seeds, flips or scales?",
    "bases": "Does it help behind other bases, weak or a transformer, and behind one never seen?",
}
"""What each table asks, in the order of the page."""

DATA = {"earth": "Earth", "camvid": "CamVid"}

Json = Mapping[str, Any]


def page(reports: Mapping[tuple[str, str], Json], notes: Mapping[str, str]) -> str:
    """The page as Markdown.

    Args:
        reports: by table and data set.
        notes: by table, and "intro".
    """
    parts = ["# Does the diffusion help?", notes.get("intro", "")]
    for table, question in QUESTIONS.items():
        found = {data: reports[table, data] for data in DATA if (table, data) in reports}
        if not found:
            continue
        parts += [f"## {table.capitalize()}", question]
        for data, report in found.items():
            image = f"images/study/{data}_{table}.svg"
            parts += [
                f"### {DATA[data]}",
                markdown(report),
                f"![{DATA[data]}, {table}: {plot_label(report, table)}]({image})",
                circumstances(report),
            ]
        parts.append(notes.get(table, ""))
    lacking = {
        table: [name for data, name in DATA.items() if (table, data) not in reports]
        for table in QUESTIONS
    }
    lines = [f"- {t} ({', '.join(where)}): {QUESTIONS[t]}" for t, where in lacking.items() if where]
    if lines:
        parts += ["## Not run yet", "\n".join(lines)]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def markdown(report: Json) -> str:
    """The table: means and spread over seeds, and what each row gains over others, in points."""
    roles = roles_of(report)
    head = ["", *(column.label for column in COLUMNS), *(f"over {heading(r)}" for r in roles)]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for row in report["rows"]:
        cells = [row["name"], *(cell(row, column) for column in COLUMNS)]
        cells += [gain_text(row, role) for role in roles]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def roles_of(report: Json) -> list[str]:
    """With whom rows are compared: control, default, base."""
    found = {role for row in report["rows"] for role in row["gains"]}
    return [role for role in ("control", "default", "base") if role in found]


def heading(role: str) -> str:
    return {"control": "its control", "default": "the default", "base": "its base"}[role]


def cell(row: Json, column: Column) -> str:
    """Mean and spread over seeds; a time has none, its noise is not the seed's."""
    mean, spread = row[column.key]["mean"], row[column.key]["std"]
    if mean is None:
        return "n/a"
    shown = spread is not None and column.best is not None
    return column.text(mean) + (f" ±{column.text(spread)}" if shown else "")


def gain_of(row: Json, role: str) -> Gain | None:
    """What the row gains, if it was compared."""
    compared = row["gains"].get(role)
    if compared is None or compared["gain"]["mean"] is None:
        return None
    return Gain(**compared["gain"])


def gain_text(row: Json, role: str) -> str:
    gain = gain_of(row, role)
    if gain is None:
        return ""
    mean, low, high = (100 * value for value in (gain.mean, gain.low, gain.high))
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"


def circumstances(report: Json) -> str:
    """What the numbers need beside them."""
    said = report["protocol"]
    seeds = max(row["seeds"] for row in report["rows"])
    return (
        f"{said['data']}; {seeds} seeds; intervals: {said['intervals']}. "
        f"`python benchmarks/{said['command']}` at {said['commit']}, {said['hardware']}, "
        f"{said['date']}."
    )


def plot_label(report: Json, table: str) -> str:
    if table == "calls":
        return "mIoU against network calls"
    return f"points of mIoU over {heading(plotted_role(report))}, with 95 % intervals"


def plotted_role(report: Json) -> str:
    """The base where rows have several, else the control."""
    return "base" if "base" in roles_of(report) else "control"


def plot(report: Json, table: str) -> str:
    """Quality against calls, or what each row gains, as an SVG file."""
    rows = report["rows"]
    if table == "calls":
        points = [
            Point(
                x=row["steps"],
                mean=100 * row["miou"]["mean"],
                low=100 * min(row["miou"]["values"]),
                high=100 * max(row["miou"]["values"]),
            )
            for row in sorted(rows, key=lambda row: row["steps"] or 0)
            if row["steps"] is not None
        ]
        levels = {row["name"]: 100 * row["miou"]["mean"] for row in rows if row["steps"] is None}
        return svg.standalone(steps_chart(points, levels, label="mIoU", base="base"))
    gains = {row["name"]: gain_of(row, plotted_role(report)) for row in rows}
    drawn = {name: gain for name, gain in gains.items() if gain is not None}
    return svg.standalone(gains_chart(drawn, label=plot_label(report, table)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = Path("benchmarks")
    parser.add_argument("--results", type=Path, default=here / "results")
    parser.add_argument("--notes", type=Path, default=here / "study_notes")
    parser.add_argument("--output", type=Path, default=Path("docs/study.md"))
    args = parser.parse_args()
    reports = {}
    for table in QUESTIONS:
        for data in DATA:
            path = args.results / f"study_{data}_{table}" / "report.json"
            if path.exists():
                reports[table, data] = json.loads(path.read_text(encoding="utf-8"))
    notes = {path.stem: path.read_text(encoding="utf-8") for path in args.notes.glob("*.md")}
    images = args.output.parent / "images" / "study"
    images.mkdir(parents=True, exist_ok=True)
    for (table, data), report in reports.items():
        drawn = plot(report, table)
        (images / f"{data}_{table}.svg").write_text(drawn, encoding="utf-8")
    args.output.write_text(page(reports, notes), encoding="utf-8")
    print(f"{len(reports)} of {len(QUESTIONS) * len(DATA)} tables in {args.output}")


if __name__ == "__main__":
    main()
