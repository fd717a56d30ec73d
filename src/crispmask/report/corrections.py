"""Quality against the number of corrections, one line per row."""

import math
from collections.abc import Mapping, Sequence

from crispmask.report import svg
from crispmask.report.curves import row_classes
from crispmask.report.svg import BOTTOM, LEFT, TOP

WIDTH, HEIGHT, RIGHT = 560.0, 320.0, 226.0


def corrections_chart(
    clicks: Sequence[int],
    rows: Mapping[str, Sequence[float]],
    *,
    base: str,
    ours: str,
    score: str = "mIoU",
) -> str:
    """A score against clicks, whose axis is logarithmic from 1 on.

    Args:
        clicks: numbers of clicks, rising.
        rows: score in percent for each number, by the name of the row.
        base: row that others are compared with.
        ours: row that stands out.
        score: its name.
    """
    values = [value for row in rows.values() for value in row]
    pad = max(0.08 * (max(values) - min(values)), 0.1)
    low, high = min(values) - pad, max(values) + pad
    last = math.log1p(clicks[-1]) or 1.0

    def x(count: int) -> float:
        return LEFT + 16 + math.log1p(count) / last * (WIDTH - LEFT - RIGHT - 32)

    def y(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    out = svg.y_axis(y, svg.ticks(low, high), LEFT, WIDTH - RIGHT)
    for count in clicks:
        out.append(svg.text(x(count), HEIGHT - BOTTOM + 18, str(count), anchor="middle"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    out.append(svg.text(middle, HEIGHT - 4, "clicks on an image", anchor="middle", css="label"))
    styles = row_classes(list(rows), base=base, ours=ours)
    for name, row in rows.items():
        points = [(x(c), y(v)) for c, v in zip(clicks, row, strict=True)]
        out.append(svg.polyline(points, css=styles[name], note=name))
        for (px, py), count, value in zip(points, clicks, row, strict=True):
            if name in (base, ours):
                note = f"{name}: {value:.2f} after {count} clicks"
                out.append(svg.dot(px, py, 3.5, css=styles[name], note=note))
    ends = svg.spread_out({name: y(row[-1]) for name, row in rows.items()}, gap=15.0)
    for name, place in ends.items():
        words = f"{svg.shorten(name, 28)} {rows[name][-1]:.1f}"
        out.append(svg.text(WIDTH - RIGHT + 8, place + 4, words, css=styles[name]))
    out.append(svg.text(4, TOP - 5, score, css="label"))
    return svg.drawing(WIDTH, HEIGHT, out, label=f"{score} against the number of clicks")
