"""A report as one HTML file that needs nothing else: pictures and plots are inside."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from crispmask.report import svg
from crispmask.report.corrections import corrections_chart
from crispmask.report.curves import reliability_chart, risk_coverage_chart
from crispmask.report.pictures import (
    BROKEN,
    FIXED,
    HEAT,
    STILL_WRONG,
    UNKNOWN_COLOUR,
    corrected_panels,
    panels,
)
from crispmask.report.plots import Point, gains_chart, state_chart, steps_chart
from crispmask.report.report import Report
from crispmask.report.results import COLUMNS, CONFIDENCE_COLUMNS, Column, Example, RowResult
from crispmask.report.template import render


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A number of the table, how it compares with the base, and its seeds."""

    text: str
    spread: str
    best: bool
    change: str
    sign: str
    note: str


@dataclass(frozen=True, kw_only=True)
class ClassBar:
    """IoU of one class under the base and the highlighted row, in percent."""

    name: str
    colour: str
    share: float
    base: float
    ours: float


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A plot with its title and a line to read it by."""

    title: str
    caption: str
    svg: str


def page(report: Report) -> str:
    """The page as text."""
    bars = class_bars(report)
    shown = {bar.name for bar in bars}
    return render(
        "page",
        {
            "report": report,
            "headline": headline(report),
            "tables": {
                "results": (COLUMNS, [(row, cells(report, row, COLUMNS)) for row in report.rows]),
                "confidence": (
                    CONFIDENCE_COLUMNS,
                    [(row, cells(report, row, CONFIDENCE_COLUMNS)) for row in report.rows],
                ),
            },
            "state_rows": state_rows(report),
            "state_figure": state_figure(report),
            "corrections_figure": corrections_figure(report),
            "corrected": corrected_panels(report.corrections.example, report.palette)
            if report.corrections and report.corrections.example
            else (),
            "figures": figures(report),
            "bars": bars,
            "absent": [name for name in report.class_names if name not in shown],
            "examples": [
                (example, chip(example), panels(example, report.palette, ours=report.ours))
                for example in report.examples
            ],
            "legend": [
                (name, css(colour))
                for name, colour in zip(report.class_names, report.palette, strict=True)
            ],
            "unknown": css(UNKNOWN_COLOUR),
            "changes": [
                ("wrong → right", css(FIXED)),
                ("right → wrong", css(BROKEN)),
                ("wrong → wrong", css(STILL_WRONG)),
            ],
            "heat": ", ".join(css(colour) for colour in HEAT),
            "plot_style": svg.style(),
        },
    )


def chip(example: Example) -> str:
    """Why the image is shown."""
    gained = example.result.ours > example.result.base
    return {
        "best": "Largest gain" if gained else "Best",
        "typical": "Typical",
        "worst": "Smallest gain" if gained else "Worst",
    }[example.group]


def css(colour: tuple[int, int, int]) -> str:
    """The colour as the style sheet writes it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def headline(report: Report) -> list[tuple[str, str, str, str]]:
    """Label, value, change from the base and its sign for the numbers at the top."""
    ours = report.row(report.ours)
    out = []
    for column, cell in zip(COLUMNS, cells(report, ours, COLUMNS), strict=True):
        if column.best is not None and column.key != "accuracy":
            change = f"{cell.change} vs {report.base.name}" if cell.change else ""
            out.append((column.label, cell.text, change, cell.sign))
    return out


def cells(report: Report, row: RowResult, columns: Sequence[Column]) -> list[Cell]:
    """The row's line of a table."""
    out = []
    for column in columns:
        mean, spread = row.mean(column.key), row.spread(column.key)
        change = (mean - report.base.mean(column.key)) * column.factor
        text = f"{change:+.{column.digits}f}"
        compared = row is not report.base and column.best is not None and not math.isnan(change)
        better = change > 0 if column.best == "high" else change < 0
        flat = float(text) == 0
        seeds = ", ".join(column.text(value) for value in row.scores[column.key])
        out.append(
            Cell(
                text=column.text(mean),
                spread="" if spread is None or column.best is None else column.text(spread),
                best=row.name in report.best(column),
                change=(text[1:] if flat else text.replace("-", "\u2212")) if compared else "",
                sign="flat" if flat else "gain" if better else "loss",
                note=f"seeds: {seeds}" if row.seeds > 1 else "one predictor",
            )
        )
    return out


def state_rows(report: Report) -> list[tuple[str, tuple[float, ...]]]:
    """What was handed over as state, and mIoU of the answer at each time."""
    use = report.state_use
    if use is None:
        return []
    return [("the truth", use.truth), ("the base's mask", use.base), ("random labels", use.noise)]


def state_figure(report: Report) -> str:
    """The same as a plot; none if there is nothing to plot."""
    use = report.state_use
    if use is None or any(math.isnan(v) for v in (*use.truth, *use.base, *use.noise)):
        return ""
    return state_chart(use)


def corrections_figure(report: Report) -> str:
    """mIoU against clicks; none without them."""
    if report.corrections is None:
        return ""
    rows = {
        name: [100 * value for value in values] for name, values in report.corrections.rows.items()
    }
    if any(math.isnan(value) for values in rows.values() for value in values):
        return ""
    first, *_, last = rows
    return corrections_chart(report.corrections.counts, rows, base=first, ours=last)


def class_bars(report: Report) -> list[ClassBar]:
    """Classes that occur, the most frequent first; means over seeds."""

    def mean(row: RowResult, k: int) -> float:
        return sum(100 * seed[k] for seed in row.iou) / row.seeds

    bars = [
        ClassBar(
            name=name,
            colour=css(report.palette[k]),
            share=100 * report.shares[k],
            base=mean(report.base, k),
            ours=mean(report.row(report.ours), k),
        )
        for k, name in enumerate(report.class_names)
    ]
    present = [bar for bar in bars if not math.isnan(bar.base + bar.ours)]
    return sorted(present, key=lambda bar: -bar.share)


def figures(report: Report) -> list[Figure]:
    """The plots that the rows allow."""
    out = []
    if report.gains:
        out.append(
            Figure(
                title=f"What “{report.ours}” gains",
                caption="Difference in mIoU over each other row, with its 95 % interval: "
                f"{report.protocol['intervals']}.",
                svg=gains_chart(
                    {f"over {svg.shorten(name, 20)}": gain for name, gain in report.gains.items()}
                ),
            )
        )
    stepped = sorted((r for r in report.rows if r.steps is not None), key=lambda r: r.steps or 0)
    for column in (c for c in COLUMNS if c.key in ("miou", "mbiou_2px")):
        values = [100 * value for row in report.rows for value in row.scores[column.key]]
        if len(stepped) < 2 or any(math.isnan(value) for value in values):
            continue
        points = [
            Point(
                x=row.steps or 1,
                mean=100 * row.mean(column.key),
                low=100 * min(row.scores[column.key]),
                high=100 * max(row.scores[column.key]),
            )
            for row in stepped
        ]
        others = {r.name: 100 * r.mean(column.key) for r in report.rows if r.steps is None}
        out.append(
            Figure(
                title=f"Steps and quality: {column.label}",
                caption="Mean over seeds, the band from the lowest to the highest seed; dashed: "
                "rows without steps.",
                svg=steps_chart(points, others, label=column.label, base=report.base.name),
            )
        )
    names = {"base": report.base.name, "ours": report.ours}
    out.append(
        Figure(
            title="Reliability",
            caption="Accuracy against confidence; on the diagonal a probability means what it "
            "says. A dot's area is its share of the pixels. First seed of each row.",
            svg=reliability_chart({r.name: r.reliability for r in report.rows}, **names),
        )
    )
    out.append(
        Figure(
            title="Risk and coverage",
            caption="Error rate if only the most certain pixels are kept and the others left to "
            "a human; beside each name the area under its line (AURC), in percent.",
            svg=risk_coverage_chart({r.name: r.risk_curve for r in report.rows}, **names),
        )
    )
    return out
