"""Parts of a plot as SVG; colours come from a style sheet, so they follow the reader's theme."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib import resources

LEFT, TOP, BOTTOM = 46.0, 14.0, 40.0
"""Margins around the axes, in the units of the drawing."""


def ticks(low: float, high: float, *, count: int = 5) -> list[float]:
    """Round numbers that lie in [low, high], about `count` of them."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def spread_out(places: Mapping[str, float], *, gap: float) -> dict[str, float]:
    """Moves labels down just enough to be `gap` apart, then centres each run on its lines."""
    runs: list[list[str]] = []
    starts: list[float] = []
    for name in sorted(places, key=lambda n: places[n]):
        runs.append([name])
        starts.append(places[name])
        while len(runs) > 1 and starts[-2] + gap * len(runs[-2]) > starts[-1]:
            last = runs.pop()
            starts.pop()
            runs[-1] += last
            middle = sum(places[n] for n in runs[-1]) / len(runs[-1])
            starts[-1] = middle - gap * (len(runs[-1]) - 1) / 2
    pairs = zip(runs, starts, strict=True)
    return {name: start + gap * i for run, start in pairs for i, name in enumerate(run)}


def y_axis(
    y: Callable[[float], float], values: Sequence[float], left: float, right: float
) -> list[str]:
    """Level lines with their values at the left."""
    out = []
    for value in values:
        out.append(line(left, y(value), right, y(value), css="grid"))
        out.append(text(left - 8, y(value) + 4, f"{value:g}", anchor="end"))
    return out


def path(points: Sequence[tuple[float, float]]) -> str:
    """Points as polygons and polylines take them."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def line(x1: float, y1: float, x2: float, y2: float, *, css: str) -> str:
    """A straight line."""
    return f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def polyline(points: Sequence[tuple[float, float]], *, css: str, note: str = "") -> str:
    """Straight lines from point to point; the note appears when they are pointed at."""
    head = f'<polyline class="{css}" points="{path(points)}"'
    return head + (f"><title>{escape(note)}</title></polyline>" if note else "/>")


def dot(x: float, y: float, radius: float, *, css: str, note: str = "") -> str:
    """A disc; the note appears when it is pointed at."""
    head = f'<circle class="{css}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"'
    return head + (f"><title>{escape(note)}</title></circle>" if note else "/>")


def text(x: float, y: float, words: str, *, anchor: str = "start", css: str = "tick") -> str:
    """A line of text."""
    return (
        f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
    )


def shorten(words: str, length: int) -> str:
    """The text, cut off with an ellipsis where it is longer."""
    return words if len(words) <= length else words[: length - 1] + "…"


def drawing(width: float, height: float, parts: Sequence[str], *, label: str) -> str:
    """The whole drawing; the label is read out in its place."""
    head = f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
    head += f'style="max-width: {width:g}px" role="img" aria-label="{escape(label)}">'
    return head + "".join(parts) + "</svg>"


def style() -> str:
    """The style sheet of all plots."""
    return resources.files("crispmask.report").joinpath("plots.css").read_text(encoding="utf-8")


def standalone(drawn: str) -> str:
    """The drawing as a file of its own, with its style sheet."""
    head, rest = drawn.split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>\n{style()}</style>{rest}\n'
