"""How far confidence can be trusted, one line per row: reliability, and risk against coverage."""

import math
from collections.abc import Callable, Mapping, Sequence

from crispmask.report import svg
from crispmask.report.results import Reliability, RiskCurve
from crispmask.report.svg import BOTTOM, LEFT, TOP

WIDTH, HEIGHT, RIGHT = 540.0, 320.0, 176.0
COLOURS = 6
"""Colours that the style sheet has for rows besides the base and the highlighted one."""

Scale = Callable[[float], float]


def row_classes(names: Sequence[str], *, base: str, ours: str) -> dict[str, str]:
    """The style of each row: its own for the base and the highlighted row, else by turns."""
    fixed = {ours: "ours", base: "base"}
    others = [name for name in names if name not in fixed]
    return fixed | {name: f"row-{i % COLOURS}" for i, name in enumerate(others)}


def reliability_chart(rows: Mapping[str, Reliability], *, base: str, ours: str) -> str:
    """Accuracy against confidence; dots of base and `ours`: the bin's share of the pixels."""
    styles = row_classes(list(rows), base=base, ours=ours)
    x, y, out = _square("confidence", top=1.0)
    out.append(svg.line(x(0.0), y(0.0), x(1.0), y(1.0), css="other dashed"))
    ends: dict[str, float] = {}
    for name in _in_front_last(rows, base=base, ours=ours):
        bins, css = rows[name], styles[name]
        filled = [
            (c, a, s)
            for c, a, s in zip(bins.confidence, bins.accuracy, bins.share, strict=True)
            if s > 0
        ]
        if not filled:
            continue
        out.append(svg.polyline([(x(c), y(a)) for c, a, _ in filled], css=css, note=name))
        ends[name] = y(filled[-1][1])
        for confidence, accuracy, share in filled if name in (base, ours) else ():
            note = f"{name}: {accuracy:.2f} right at {confidence:.2f}, {share:.1%} of pixels"
            size = 2 + 9 * math.sqrt(share)
            out.append(svg.dot(x(confidence), y(accuracy), size, css=css, note=note))
    out += _names(ends, styles, {name: name for name in ends})
    return svg.drawing(WIDTH, HEIGHT, out, label="accuracy against confidence")


def risk_coverage_chart(rows: Mapping[str, RiskCurve], *, base: str, ours: str) -> str:
    """Error rate among the most certain pixels against their share of all pixels."""
    styles = row_classes(list(rows), base=base, ours=ours)
    drawn = {name: rows[name] for name in rows if not math.isnan(rows[name].risk[-1])}
    largest = max((risk for curve in drawn.values() for risk in curve.risk), default=0.0)
    x, y, out = _square("share of pixels kept, the most certain first", top=1.05 * largest or 1.0)
    ends: dict[str, float] = {}
    for name in _in_front_last(drawn, base=base, ours=ours):
        curve = drawn[name]
        points = [(x(c), y(r)) for c, r in zip(curve.coverage, curve.risk, strict=True)]
        out.append(svg.polyline(points, css=styles[name], note=name))
        ends[name] = points[-1][1]
    labels = {name: f"{svg.shorten(name, 18)} {100 * drawn[name].area:.1f}" for name in drawn}
    out += _names(ends, styles, labels)
    return svg.drawing(WIDTH, HEIGHT, out, label="error rate against the share of pixels kept")


def _square(label: str, *, top: float) -> tuple[Scale, Scale, list[str]]:
    """Scales of x from 0 to 1 and y from 0 to `top`, and their axes."""

    def x(value: float) -> float:
        return LEFT + value * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM)

    out = svg.y_axis(y, svg.ticks(0.0, top), LEFT, WIDTH - RIGHT)
    for value in svg.ticks(0.0, 1.0):
        out.append(svg.text(x(value), HEIGHT - BOTTOM + 18, f"{value:g}", anchor="middle"))
    out.append(svg.text(x(0.5), HEIGHT - 4, label, anchor="middle", css="label"))
    return x, y, out


def _in_front_last(rows: Mapping[str, object], *, base: str, ours: str) -> list[str]:
    """Names in drawing order: base and `ours` lie over the others."""
    return sorted(rows, key=lambda name: (name == ours, name == base))


def _names(
    ends: Mapping[str, float], styles: Mapping[str, str], labels: Mapping[str, str]
) -> list[str]:
    """The rows' names beside the right ends of their lines, not above the plot."""
    places = svg.spread_out(ends, gap=15.0)
    lowest = TOP
    for name in sorted(places, key=places.__getitem__):
        places[name] = max(places[name], lowest)
        lowest = places[name] + 15.0
    return [
        svg.text(WIDTH - RIGHT + 8, place + 4, svg.shorten(labels[name], 25), css=styles[name])
        for name, place in places.items()
    ]
