"""Quality against network calls, and what the highlighted row gains, as SVG."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crispmask.report import svg
from crispmask.report.results import Gain, StateUse
from crispmask.report.svg import BOTTOM, LEFT, TOP

FLAT = 12.0
"""Points of mIoU that the axis of a state chart spans at least, so that nothing looks like much."""

LETTER = 6.0
"""Mean width of a letter."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A mean over seeds with the lowest and the highest seed."""

    x: int
    mean: float
    low: float
    high: float


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

    out = svg.y_axis(y, svg.ticks(low, high), LEFT, width - right)
    for p in points:
        out.append(svg.text(x(p.x), height - BOTTOM + 18, str(p.x), anchor="middle"))
    middle = (LEFT + width - right) / 2
    out.append(svg.text(middle, height - 4, "network calls", anchor="middle", css="label"))
    labels = svg.spread_out({name: y(value) for name, value in references.items()}, gap=15.0)
    for name, value in references.items():
        css = "base" if name == base else "other"
        out.append(svg.line(LEFT, y(value), width - right, y(value), css=f"{css} dashed"))
        text = f"{svg.shorten(name, 20)} {value:.1f}"
        out.append(svg.text(width - right + 8, labels[name] + 4, text, css=css))
    band = [(x(p.x), y(p.high)) for p in points] + [(x(p.x), y(p.low)) for p in reversed(points)]
    out.append(f'<polygon class="ours band" points="{svg.path(band)}"/>')
    out.append(svg.polyline([(x(p.x), y(p.mean)) for p in points], css="ours"))
    for p in points:
        note = f"{p.x} calls: {p.mean:.2f}, seeds {p.low:.2f} to {p.high:.2f}"
        out.append(svg.line(x(p.x), y(p.low), x(p.x), y(p.high), css="ours"))
        out.append(svg.dot(x(p.x), y(p.mean), 4.5, css="ours", note=note))
    return svg.drawing(width, height, out, label=f"{label} against network calls")


def gains_chart(gains: Mapping[str, Gain], *, label: str = "points of mIoU") -> str:
    """Differences in mIoU points with their 95 % intervals, one line each.

    Args:
        gains: by the name at the left of the line.
        label: of the axis.
    """
    left, line = max(170.0, 24.0 + LETTER * max(map(len, gains))), 34.0
    width = left + 370.0
    height = TOP + line * len(gains) + BOTTOM
    values = [100 * v for g in gains.values() for v in (g.low, g.high, g.mean)] + [0.0]
    pad = max(0.06 * (max(values) - min(values)), 0.1)
    low, high = min(values) - pad, max(values) + pad

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - 60)

    bottom = height - BOTTOM
    out = []
    for value in svg.ticks(low, high):
        css = "zero" if value == 0 else "grid"
        out.append(svg.line(x(value), TOP, x(value), bottom, css=css))
        out.append(
            svg.text(x(value), bottom + 18, f"{value:+g}" if value else "0", anchor="middle")
        )
    middle = (left + width - 60) / 2
    out.append(svg.text(middle, height - 4, label, anchor="middle", css="label"))
    for row, (name, gain) in enumerate(gains.items()):
        mean, lowest, highest = 100 * gain.mean, 100 * gain.low, 100 * gain.high
        height_here = TOP + line * (row + 0.5)
        css = "ours" if lowest > 0 else "loss" if highest < 0 else "other"
        out.append(svg.text(left - 12, height_here + 4, name, anchor="end"))
        out.append(svg.line(x(lowest), height_here, x(highest), height_here, css=f"{css} interval"))
        note = f"{mean:+.2f}, 95 % interval {lowest:+.2f} to {highest:+.2f}"
        out.append(svg.dot(x(mean), height_here, 5.5, css=css, note=note))
        out.append(svg.text(width - 50, height_here + 4, f"{mean:+.2f}", css=f"{css} value"))
    return svg.drawing(width, height, out, label="difference in mIoU")


def state_chart(use: StateUse) -> str:
    """mIoU of one call at each time, a line for each state that was handed over.

    Lines that lie on each other: the state is not read. The base's own mIoU is a level line.
    """
    width, height, right = 540.0, 260.0, 176.0
    lines = {"the truth": use.truth, "the base's mask": use.base, "random labels": use.noise}
    styles = dict(zip(lines, ("ours", "row-2", "row-0"), strict=True))
    values = [100 * value for line in (*lines.values(), (use.base_alone,)) for value in line]
    middle, half = (max(values) + min(values)) / 2, (max(values) - min(values)) / 2
    half = max(1.15 * half, FLAT / 2)

    def x(place: int) -> float:
        steps = max(len(use.times) - 1, 1)
        return LEFT + 24 + place / steps * (width - LEFT - right - 48)

    def y(value: float) -> float:
        return TOP + (middle + half - 100 * value) / (2 * half) * (height - TOP - BOTTOM)

    out = svg.y_axis(
        lambda value: y(value / 100), svg.ticks(middle - half, middle + half), LEFT, width - right
    )
    for place, time in enumerate(use.times):
        out.append(svg.text(x(place), height - BOTTOM + 18, f"t = {time:g}", anchor="middle"))
    label = "the state is noised to time t"
    out.append(
        svg.text((LEFT + width - right) / 2, height - 4, label, anchor="middle", css="label")
    )
    ends = {name: y(line[-1]) for name, line in lines.items()} | {"base alone": y(use.base_alone)}
    places = svg.spread_out(ends, gap=15.0)
    level = y(use.base_alone)
    out.append(svg.line(LEFT, level, width - right, level, css="base dashed"))
    text = f"base alone {100 * use.base_alone:.1f}"
    out.append(svg.text(width - right + 8, places["base alone"] + 4, text, css="base"))
    for name, line in lines.items():
        points = [(x(place), y(value)) for place, value in enumerate(line)]
        out.append(svg.polyline(points, css=styles[name], note=name))
        text = f"{name} {100 * line[-1]:.1f}"
        out.append(svg.text(width - right + 8, places[name] + 4, text, css=styles[name]))
    return svg.drawing(width, height, out, label="mIoU by the state that was handed over")
