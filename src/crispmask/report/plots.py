"""Plots of a report as SVG; colours come from the page's style sheet, so they follow its theme."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from crispmask.report.results import Gain, Reliability

LEFT, TOP, RIGHT, BOTTOM = 46.0, 14.0, 14.0, 40.0


@dataclass(frozen=True, kw_only=True)
class Point:
    """A mean over seeds with the lowest and the highest seed."""

    x: int
    mean: float
    low: float
    high: float


def ticks(low: float, high: float, *, count: int = 5) -> list[float]:
    """Round numbers that lie in [low, high], about `count` of them."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def steps_chart(
    points: Sequence[Point], references: Mapping[str, float], *, label: str, base: str
) -> str:
    """Quality against network calls, with the rows that take no steps as level lines."""
    width, height, right = 540.0, 300.0, 166.0
    values = [v for p in points for v in (p.low, p.high)] + list(references.values())
    pad = max(0.12 * (max(values) - min(values)), 0.1)
    low, high = min(values) - pad, max(values) + pad
    calls = [math.log(p.x) for p in points]
    span = max(calls) - min(calls)

    def x(call: int) -> float:
        share = (math.log(call) - min(calls)) / span if span else 0.5
        return LEFT + 24 + share * (width - LEFT - right - 48)

    def y(value: float) -> float:
        return TOP + (high - value) / (high - low) * (height - TOP - BOTTOM)

    out = _y_axis(y, ticks(low, high), LEFT, width - right)
    for p in points:
        out.append(_text(x(p.x), height - BOTTOM + 18, str(p.x), anchor="middle"))
    middle = (LEFT + width - right) / 2
    out.append(_text(middle, height - 4, "network calls", anchor="middle", css="label"))
    labels = _spread_out({name: y(value) for name, value in references.items()}, gap=15.0)
    for name, value in references.items():
        css = "base" if name == base else "other"
        out.append(_line(LEFT, y(value), width - right, y(value), css=f"{css} dashed"))
        text = f"{_shorten(name, 20)} {value:.1f}"
        out.append(_text(width - right + 8, labels[name] + 4, text, css=css))
    band = [(x(p.x), y(p.high)) for p in points] + [(x(p.x), y(p.low)) for p in reversed(points)]
    out.append(f'<polygon class="ours band" points="{_path(band)}"/>')
    out.append(f'<polyline class="ours" points="{_path([(x(p.x), y(p.mean)) for p in points])}"/>')
    for p in points:
        note = f"{p.x} calls: {p.mean:.2f}, seeds {p.low:.2f} to {p.high:.2f}"
        out.append(_line(x(p.x), y(p.low), x(p.x), y(p.high), css="ours"))
        out.append(_dot(x(p.x), y(p.mean), 4.5, css="ours", note=note))
    return _svg(width, height, out, label=f"{label} against network calls")


def reliability_chart(series: Mapping[str, Reliability], *, base: str) -> str:
    """Accuracy against confidence; the area of a dot is its bin's share of the pixels."""
    width, height = 380.0, 300.0

    def x(value: float) -> float:
        return LEFT + value * (width - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (1 - value) * (height - TOP - BOTTOM)

    grid = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    out = _y_axis(y, grid, LEFT, width - RIGHT)
    for value in grid:
        out.append(_text(x(value), height - BOTTOM + 18, f"{value:g}", anchor="middle"))
    middle = (LEFT + width - RIGHT) / 2
    out.append(_text(middle, height - 4, "confidence", anchor="middle", css="label"))
    out.append(_line(x(0.0), y(0.0), x(1.0), y(1.0), css="other dashed"))
    for row, (name, bins) in enumerate(series.items()):
        css = "base" if name == base else "ours"
        dots = [
            (c, a, s)
            for c, a, s in zip(bins.confidence, bins.accuracy, bins.share, strict=True)
            if s > 0
        ]
        out.append(
            f'<polyline class="{css}" points="{_path([(x(c), y(a)) for c, a, _ in dots])}"/>'
        )
        for confidence, accuracy, share in dots:
            note = f"{name}: {accuracy:.2f} right at {confidence:.2f}, {share:.1%} of pixels"
            size = 2 + 9 * math.sqrt(share)
            out.append(_dot(x(confidence), y(accuracy), size, css=css, note=note))
        out.append(_dot(LEFT + 16, TOP + 10 + 18 * row, 4.5, css=css))
        out.append(_text(LEFT + 27, TOP + 14 + 18 * row, _shorten(name, 24), css=css))
    return _svg(width, height, out, label="accuracy against confidence")


def gains_chart(gains: Mapping[str, Gain]) -> str:
    """Differences in mIoU points with their 95 % intervals, one line each."""
    width, left, line = 540.0, 170.0, 34.0
    height = TOP + line * len(gains) + BOTTOM
    values = [100 * v for g in gains.values() for v in (g.low, g.high, g.mean)] + [0.0]
    pad = max(0.06 * (max(values) - min(values)), 0.1)
    low, high = min(values) - pad, max(values) + pad

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - 60)

    bottom = height - BOTTOM
    out = []
    for value in ticks(low, high):
        css = "zero" if value == 0 else "grid"
        out.append(_line(x(value), TOP, x(value), bottom, css=css))
        out.append(_text(x(value), bottom + 18, f"{value:+g}" if value else "0", anchor="middle"))
    middle = (left + width - 60) / 2
    out.append(_text(middle, height - 4, "points of mIoU", anchor="middle", css="label"))
    for row, (name, gain) in enumerate(gains.items()):
        mean, lowest, highest = 100 * gain.mean, 100 * gain.low, 100 * gain.high
        height_here = TOP + line * (row + 0.5)
        css = "ours" if lowest > 0 else "loss" if highest < 0 else "other"
        out.append(_text(left - 12, height_here + 4, f"over {_shorten(name, 20)}", anchor="end"))
        out.append(_line(x(lowest), height_here, x(highest), height_here, css=f"{css} interval"))
        note = f"{mean:+.2f}, 95 % interval {lowest:+.2f} to {highest:+.2f}"
        out.append(_dot(x(mean), height_here, 5.5, css=css, note=note))
        out.append(_text(width - 50, height_here + 4, f"{mean:+.2f}", css=f"{css} value"))
    return _svg(width, height, out, label="difference in mIoU")


def _spread_out(places: Mapping[str, float], *, gap: float) -> dict[str, float]:
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


def _y_axis(
    y: Callable[[float], float], values: Sequence[float], left: float, right: float
) -> list[str]:
    out = []
    for value in values:
        out.append(_line(left, y(value), right, y(value), css="grid"))
        out.append(_text(left - 8, y(value) + 4, f"{value:g}", anchor="end"))
    return out


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _line(x1: float, y1: float, x2: float, y2: float, *, css: str) -> str:
    return f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _dot(x: float, y: float, radius: float, *, css: str, note: str = "") -> str:
    head = f'<circle class="{css}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"'
    return head + (f"><title>{escape(note)}</title></circle>" if note else "/>")


def _text(x: float, y: float, text: str, *, anchor: str = "start", css: str = "tick") -> str:
    return (
        f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _svg(width: float, height: float, parts: Sequence[str], *, label: str) -> str:
    head = f'<svg viewBox="0 0 {width:g} {height:g}" style="max-width: {width:g}px" role="img" '
    head += f'aria-label="{escape(label)}">'
    return head + "".join(parts) + "</svg>"
