"""Pictures and plots of a report: right colours, right places."""

import base64
import io
import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from crispmask.report import Example, ImageResult
from crispmask.report.pictures import (
    BROKEN,
    FIXED,
    STILL_WRONG,
    UNKNOWN_COLOUR,
    changed_picture,
    heat_picture,
    labels_picture,
    panels,
)
from crispmask.report.plots import Point, steps_chart
from crispmask.report.svg import spread_out, ticks
from crispmask.shapes import IGNORE

PALETTE = ((10, 20, 30), (200, 100, 0), (0, 90, 250))


def example(height: int, width: int) -> Example:
    labels = np.zeros((height, width), dtype=np.uint8)
    return Example(
        result=ImageResult(name="a", base=0.5, ours=0.9),
        group="best",
        image=np.zeros((height, width, 3), dtype=np.uint8),
        truth=labels,
        base=labels,
        ours=labels,
        uncertainty=labels,
    )


def test_pictures_are_six_and_small_ones_are_enlarged_pixel_by_pixel() -> None:
    pair = (example(20, 30), example(600, 900))
    small, large = (panels(e, PALETTE, ours="refined") for e in pair)

    labels = ["image", "truth", "base", "refined", "changed pixels", "uncertainty"]
    assert [panel.label for panel in small] == labels
    sizes = {Image.open(io.BytesIO(decoded(panel.uri))).size for panel in small}
    assert sizes == {(30, 20)}
    assert all(panel.small for panel in small)
    sizes = {Image.open(io.BytesIO(decoded(panel.uri))).size for panel in large}
    assert sizes == {(512, 341)}
    assert not any(panel.small for panel in large)


def decoded(uri: str) -> bytes:
    return base64.b64decode(uri.split(",", 1)[1])


def test_labels_have_the_colours_of_the_legend() -> None:
    labels = np.array([[0, 1], [2, IGNORE]], dtype=np.uint8)
    picture = np.asarray(labels_picture(labels, PALETTE).convert("RGB"))
    assert picture.tolist() == [
        [list(PALETTE[0]), list(PALETTE[1])],
        [list(PALETTE[2]), list(UNKNOWN_COLOUR)],
    ]


def test_changed_pixels_say_what_the_change_did() -> None:
    truth = np.array([[0, 0, 0, 0, IGNORE]], dtype=np.uint8)
    base = np.array([[1, 0, 1, 0, 0]], dtype=np.uint8)
    ours = np.array([[0, 1, 2, 0, 1]], dtype=np.uint8)
    image = np.zeros((1, 5, 3), dtype=np.uint8)
    pixels = np.asarray(changed_picture(image, truth, base, ours))[0]
    assert [tuple(p) for p in pixels[:3].tolist()] == [FIXED, BROKEN, STILL_WRONG]
    assert len(set(pixels[3].tolist())) == 1  # grey: unchanged
    assert len(set(pixels[4].tolist())) == 1  # grey: changed, but nobody knows the truth


def test_uncertainty_gets_brighter() -> None:
    values = np.arange(256, dtype=np.uint8)[None]
    light = np.asarray(heat_picture(values)).astype(int).sum(-1)[0]
    assert (np.diff(light) >= 0).all()


@given(st.dictionaries(st.text("abc", min_size=1), st.floats(0, 300), max_size=8))
def test_labels_of_level_lines_keep_apart_and_in_order(places: dict[str, float]) -> None:
    moved = spread_out(places, gap=15.0)
    order = sorted(places, key=lambda name: places[name])
    heights = [moved[name] for name in order]
    assert all(b - a >= 15 - 1e-6 for a, b in itertools.pairwise(heights))
    if len(places) == 1:
        assert moved == places


@given(st.floats(-100, 100), st.floats(0.01, 100))
def test_ticks_are_few_and_inside(low: float, span: float) -> None:
    values = ticks(low, low + span)
    assert 2 <= len(values) <= 6
    assert low - 1e-6 <= values[0] <= values[-1] <= low + span + 1e-6


def test_a_single_step_is_drawn() -> None:
    point = Point(x=1, mean=50.0, low=50.0, high=50.0)
    svg = steps_chart([point], {"base": 50.0}, label="mIoU", base="base")
    assert "nan" not in svg
    assert svg.count("<circle") == 1
