"""The chart of quality against corrections."""

import re

from crispmask.report.corrections import corrections_chart


def test_a_line_for_each_row_and_its_last_value() -> None:
    rows = {"pasted": [30.0, 31.0, 32.0], "ours": [30.0, 34.0, 36.5], "rule": [30.0, 32.0, 31.0]}
    drawn = corrections_chart([0, 1, 5], rows, base="pasted", ours="ours")
    assert drawn.count("<polyline") == 3
    for name, values in rows.items():
        assert f"{name} {values[-1]:.1f}" in drawn
    assert "ours: 34.00 after 1 clicks" in drawn
    ticks = re.findall(r'text-anchor="middle">(\d+)<', drawn)
    assert ticks == ["0", "1", "5"]
    borders = corrections_chart([0, 1, 5], rows, base="pasted", ours="ours", score="mBIoU")
    assert "mIoU" in drawn
    assert "mIoU" not in borders


def test_rows_of_one_value_are_drawn() -> None:
    assert "<polyline" in corrections_chart([0], {"a": [1.0], "b": [1.0]}, base="a", ours="b")
