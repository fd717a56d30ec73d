"""A report is whole: valid JSON, one page with everything inside, nothing half-written."""

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from crispmask.provenance import commit, provenance
from crispmask.report import (
    COLUMNS,
    CONFIDENCE_COLUMNS,
    Example,
    Gain,
    ImageResult,
    Reliability,
    Report,
    RiskCurve,
    RowResult,
    StateUse,
)
from crispmask.report.curves import risk_coverage_chart, row_classes
from crispmask.report.page import page
from crispmask.report.plots import state_chart
from crispmask.shapes import IGNORE

NAN = float("nan")
PALETTE = ((10, 20, 30), (200, 100, 0), (0, 90, 250))


def row(name: str, *miou: float, steps: int | None = None) -> RowResult:
    columns = COLUMNS + CONFIDENCE_COLUMNS
    scores = {column.key: tuple(m / 2 for m in miou) for column in columns}
    return RowResult(
        name=name,
        steps=steps,
        scores=scores | {"miou": miou},
        iou=tuple((m, m, NAN) for m in miou),
        biou=tuple((m, m, NAN) for m in miou),
        reliability=Reliability(
            confidence=(NAN, 0.5, 0.9), accuracy=(NAN, 0.4, 0.8), share=(0.0, 0.25, 0.75)
        ),
        risk_curve=RiskCurve(coverage=(0.5, 1.0), risk=(0.1, 0.3), area=0.125),
    )


def example(name: str, ours: float, *, size: tuple[int, int] = (20, 30)) -> Example:
    rng = np.random.default_rng(0)
    truth, base, refined = (rng.integers(0, 3, size, dtype=np.uint8) for _ in range(3))
    truth[0, 0] = IGNORE
    return Example(
        result=ImageResult(name=name, base=0.5, ours=ours),
        group="best" if ours > 0.5 else "worst",
        image=rng.integers(0, 255, (*size, 3), dtype=np.uint8),
        truth=truth,
        base=base,
        ours=refined,
        uncertainty=rng.integers(0, 255, size, dtype=np.uint8),
    )


STATE_USE = StateUse(
    times=(1.0, 0.5, 0.1),
    truth=(0.62, 0.625, 0.63),
    base=(0.62, 0.61, 0.61),
    noise=(0.62, 0.62, 0.625),
    base_alone=0.6,
    images=16,
)
REPORT = Report(
    title="Islands <of> test & try",
    class_names=("sea", "sand & stone", "never seen"),
    palette=PALETTE,
    shares=(0.75, 0.25, 0.0),
    rows=(
        row("base", 0.5),
        row("control", 0.6, 0.62),
        row("refined, 1 call", 0.7, 0.72, steps=1),
        row("refined, 3 calls", 0.71, 0.71, steps=3),
    ),
    ours="refined, 1 call",
    gains={
        "base": Gain(mean=0.21, low=0.1, high=0.3),
        "control": Gain(mean=0.1, low=-0.01, high=0.2),
        "refined, 3 calls": Gain(mean=-0.02, low=-0.03, high=-0.01),
    },
    images=(
        ImageResult(name="a", base=0.5, ours=0.9),
        ImageResult(name="b", base=NAN, ours=NAN),
    ),
    examples=(example("a <1>", 0.9), example("b", 0.2)),
    protocol={"data": "2 of 2 images", "intervals": "bootstrap", **provenance()},
    state_use=STATE_USE,
)


def test_json_is_strict_and_has_every_number(tmp_path: Path) -> None:
    path, _ = REPORT.write(tmp_path / "new" / "folder")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    data = json.loads(path.read_text(), parse_constant=refuse)
    assert data == REPORT.to_json()
    control = data["rows"][1]
    assert control["name"] == "control"
    assert control["miou"]["mean"] == pytest.approx(0.61)
    assert control["miou"]["std"] == pytest.approx(0.02 / 2**0.5)
    assert control["miou"]["values"] == [0.6, 0.62]
    assert control["iou"] == {
        "sea": [0.6, 0.62],
        "sand & stone": [0.6, 0.62],
        "never seen": [None, None],
    }
    assert data["rows"][0]["miou"]["std"] is None
    assert data["gain"]["over"]["base"] == {"mean": 0.21, "low": 0.1, "high": 0.3}
    assert data["rows"][0]["risk_coverage"] == {
        "coverage": [0.5, 1.0],
        "risk": [0.1, 0.3],
        "area": 0.125,
    }
    assert data["state_use"]["truth"] == [0.62, 0.625, 0.63]
    assert data["state_use"]["reading"] == STATE_USE.reading
    assert data["images"][1] == {"name": "b", "base": None, "ours": None}
    assert {"command", "commit", "software", "hardware", "date"} <= set(data["protocol"])


class Balance(HTMLParser):
    """Collects text and attributes, and checks that tags close in order."""

    VOID = frozenset({"meta", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [v for k, v in attrs if k in ("src", "href", "srcset", "data") and v]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in {"line", "circle", "polyline", "polygon"}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_page_has_all_parts_and_needs_nothing_else(tmp_path: Path) -> None:
    _, path = REPORT.write(tmp_path)
    html = path.read_text(encoding="utf-8")
    parser = Balance()
    parser.feed(html)

    assert parser.open == []
    text = " ".join(" ".join(parser.text).split())
    for part in ("results", "pictures", "figures", "confidence", "state", "classes", "protocol"):
        assert f'<section id="{part}">' in html
    for words in (
        "Islands <of> test & try",
        *(column.label for column in COLUMNS),
        *(r.name for r in REPORT.rows),
        "sand & stone",
        "unlabelled",
        "wrong → right",
        "changed pixels",
        "uncertainty",
        "Largest gain",
        "a <1>",
        "Steps and quality: mIoU",
        "Reliability",
        "Risk and coverage",
        *(column.label for column in CONFIDENCE_COLUMNS),
        "it hardly looks at its state",
        "on 16 images at the size of the state, where the base itself has 60.0",
        "In neither truth nor prediction: never seen.",
        *REPORT.protocol.values(),
    ):
        assert words in text, words
    assert html.count("<svg") == 6
    assert len(parser.links) == 12  # six pictures of two images
    assert all(link.startswith("data:image/png;base64,") for link in parser.links)
    assert not re.search(r"https?:|url\(|@import|<link|src=\"(?!data:)", html)


def test_states_that_make_little_difference_look_alike() -> None:
    def lines(use: StateUse) -> dict[str, list[float]]:
        found = re.findall(r'points="([^"]+)"[^>]*><title>([^<]+)', state_chart(use))
        return {name: [float(p.split(",")[1]) for p in points.split()] for points, name in found}

    flat = lines(STATE_USE)
    assert list(flat) == ["the truth", "the base&#x27;s mask", "random labels"]
    assert all(len(line) == 3 for line in flat.values())
    assert flat["the truth"][0] == flat["random labels"][0]
    assert 0 < flat["random labels"][2] - flat["the truth"][2] < 15  # half a point, upwards is less
    steep = lines(replace(STATE_USE, truth=(0.62, 0.8, 0.99)))
    assert steep["random labels"][2] - steep["the truth"][2] > 100


def test_a_failing_page_leaves_what_was_there(tmp_path: Path) -> None:
    broken = replace(REPORT, palette=PALETTE[:2])  # a class without a colour
    with pytest.raises((ValueError, IndexError)):
        broken.write(tmp_path / "new")
    assert not (tmp_path / "new").exists()

    paths = REPORT.write(tmp_path)
    before = [path.read_bytes() for path in paths]
    with pytest.raises((ValueError, IndexError)):
        broken.write(tmp_path)
    assert [path.read_bytes() for path in paths] == before
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_a_failing_rename_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "report.json").mkdir()
    with pytest.raises(OSError, match="directory"):
        REPORT.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_tables_mark_the_best_and_show_the_spread() -> None:
    lines = REPORT.markdown().splitlines()
    assert lines[0] == "| | mIoU | mBIoU 2 % | mBIoU 2 px | accuracy | ECE | s/image |"
    assert lines[2].startswith("| base | 50.0 | 25.0 |")
    assert "**25.00**" in lines[2]  # the lowest ECE
    assert lines[3].startswith("| control | 61.0 ±1.4 |")
    for line in lines[4:]:  # 71.0 twice: both are best
        assert "**71.0 ±" in line
        assert re.search(r"\| 0\.355 \|$", line)  # seconds: neither marked nor spread

    console = Console(width=100, file=io.StringIO(), force_terminal=True, markup=False)  # as shown
    console.print(REPORT.table())
    assert isinstance(console.file, io.StringIO)
    assert "\x1b[1m71.0 ±1.4\x1b[0m" in console.file.getvalue()


def test_a_report_of_the_base_alone_can_be_written() -> None:
    alone = replace(
        REPORT, rows=REPORT.rows[:1], ours="base", gains={}, examples=(), state_use=None
    )
    html = page(alone)
    assert html.count("<svg") == 2
    assert 'id="state"' not in html
    assert 'id="pictures"' not in html
    assert "±" not in html.split("<table")[1].split("</table>")[0]


def test_the_reading_of_the_probe_follows_its_numbers() -> None:
    assert STATE_USE.reading == (
        "Handed the true mask as its state at t = 0.5, the refiner answers with 62.5 mIoU, handed "
        "random labels with 62.0: it hardly looks at its state, so further calls cannot help."
    )
    copying = replace(STATE_USE, truth=(0.62, 0.8, 0.95))
    assert "at t = 0.1, the refiner answers with 95.0" in copying.reading
    assert "it would also copy its own errors" in copying.reading
    reading = replace(STATE_USE, truth=(0.62, 0.7, 0.75))
    assert "it reads its state without copying it" in reading.reading
    assert "cannot be told" in replace(STATE_USE, noise=(NAN, NAN, NAN)).reading


def test_each_row_has_a_line_and_colours_repeat_only_when_they_must() -> None:
    names = [f"row {i}" for i in range(8)]
    styles = row_classes(names, base="row 0", ours="row 5")
    assert (styles["row 0"], styles["row 5"]) == ("base", "ours")
    assert len(set(styles.values())) == 8
    alone = row_classes(["base"], base="base", ours="base")
    assert alone == {"base": "base"}
    unknown = RiskCurve(coverage=(1.0,), risk=(NAN,), area=NAN)
    known = RiskCurve(coverage=(1.0,), risk=(0.3,), area=0.3)
    curves = dict.fromkeys(names, known) | {"row 3": unknown}
    drawn = risk_coverage_chart(curves, base="row 0", ours="row 5")
    assert drawn.count("<polyline") == 7
    assert "nan" not in drawn


def test_provenance_names_what_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/crispmask", "evaluate", "my model"])
    assert provenance()["command"] == "crispmask evaluate 'my model'"
    found = commit()
    assert found is None or re.fullmatch(r"[0-9a-f]{7,40}(-dirty)?", found)
