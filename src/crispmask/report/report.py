"""What an evaluation found, and its ways out: a table, JSON, a page to look at."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from crispmask.atomic import unfinished
from crispmask.report.results import (
    COLUMNS,
    Column,
    Corrections,
    Example,
    Gain,
    ImageResult,
    RowResult,
    StateUse,
)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Results of all rows over one data set.

    Attributes:
        title: what was evaluated on what.
        class_names: in the order of their ids.
        palette: a colour per class.
        shares: each class's share of the labelled pixels.
        rows: the first one is the base.
        ours: name of the row that figures and pictures compare with the base.
        gains: mIoU of `ours` minus that of each other row.
        images: in the order of the data set, first seed.
        examples: the pictures of the page.
        protocol: what a number needs beside it: data, seeds, command, versions, hardware, date.
        state_use: what the refiner makes of its state; None without a refiner.
        corrections: what it makes of clicks; None if it was not trained with known labels.
    """

    title: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    shares: tuple[float, ...]
    rows: tuple[RowResult, ...]
    ours: str
    gains: Mapping[str, Gain]
    images: tuple[ImageResult, ...]
    examples: tuple[Example, ...]
    protocol: Mapping[str, str]
    state_use: StateUse | None = None
    corrections: Corrections | None = None

    @property
    def base(self) -> RowResult:
        """The row that others are compared with."""
        return self.rows[0]

    def row(self, name: str) -> RowResult:
        """The row of this name."""
        return next(row for row in self.rows if row.name == name)

    def best(self, column: Column) -> frozenset[str]:
        """Names of the rows that share the best value at the digits shown."""
        if column.best is None or len(self.rows) < 2:
            return frozenset()
        shown = {row.name: column.text(row.mean(column.key)) for row in self.rows}
        numbers = [float(text) for text in shown.values() if text != "n/a"]
        if not numbers:
            return frozenset()
        target = max(numbers) if column.best == "high" else min(numbers)
        return frozenset(n for n, text in shown.items() if text != "n/a" and float(text) == target)

    def cell(self, row: RowResult, column: Column) -> str:
        """Mean and spread over seeds; a time has none, its noise is not the seed's."""
        text, spread = column.text(row.mean(column.key)), row.spread(column.key)
        shown = spread is not None and column.best is not None
        return f"{text} ±{column.text(spread or 0.0)}" if shown else text

    def table(self) -> Table:
        """The table for a terminal, best values bold."""
        table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
        table.add_column("", no_wrap=True)
        best = {column.key: self.best(column) for column in COLUMNS}
        for column in COLUMNS:
            table.add_column(column.label, justify="right", no_wrap=True)
        for row in self.rows:
            cells = [(self.cell(row, column), row.name in best[column.key]) for column in COLUMNS]
            shown = (Text(text, style="bold" if top else "") for text, top in cells)
            table.add_row(Text(row.name), *shown)
        return table

    def markdown(self) -> str:
        """The table for a README."""
        lines = ["| |" + "".join(f" {column.label} |" for column in COLUMNS)]
        lines.append("|---|" + "---:|" * len(COLUMNS))
        best = {column.key: self.best(column) for column in COLUMNS}
        for row in self.rows:
            line = f"| {row.name} |"
            for column in COLUMNS:
                text = self.cell(row, column)
                line += f" **{text}** |" if row.name in best[column.key] else f" {text} |"
            lines.append(line)
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """All numbers, no pictures; fractions and seconds, null where nothing was counted."""
        rows = []
        for row in self.rows:
            scores = {
                key: {"mean": row.mean(key), "std": row.spread(key), "values": list(values)}
                for key, values in row.scores.items()
            }
            classes = {
                key: {
                    name: [seed[k] for seed in per_seed] for k, name in enumerate(self.class_names)
                }
                for key, per_seed in (("iou", row.iou), ("biou", row.biou))
            }
            head = {"name": row.name, "steps": row.steps, "seeds": row.seeds}
            curves: dict[str, Any] = {
                "reliability": asdict(row.reliability),
                "risk_coverage": asdict(row.risk_curve),
            }
            gains = {part: asdict(comparison) for part, comparison in row.gains.items()}
            rows.append(head | scores | {"gains": gains} | classes | curves)
        report = {
            "title": self.title,
            "protocol": dict(self.protocol),
            "class_shares": dict(zip(self.class_names, self.shares, strict=True)),
            "rows": rows,
            "gain": {
                "row": self.ours,
                "over": {name: asdict(value) for name, value in self.gains.items()},
            },
            "state_use": self.state_use
            and asdict(self.state_use) | {"reading": self.state_use.reading},
            "corrections": self.corrections
            and {
                "clicks": list(self.corrections.counts),
                "rows": {name: list(values) for name, values in self.corrections.rows.items()},
                "images": self.corrections.images,
                "reading": self.corrections.reading,
            },
            "images": [asdict(image) for image in self.images],
        }
        return dict(_without_nan(report))

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write report.json and report.html and return their paths.

        Both are rendered and on the disk before either takes its name, so a failure leaves what
        was there before.
        """
        from crispmask.report.page import page  # pictures and a template: only when wanted

        text = json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"
        html = page(self)
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / "report.json", folder / "report.html"
        with unfinished(paths[1]) as second, unfinished(paths[0]) as first:
            first.write_text(text, encoding="utf-8")
            second.write_text(html, encoding="utf-8")
        return paths


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
