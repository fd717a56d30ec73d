"""Known labels from files: every format lands on the right pixels, every mistake is explained."""

import json
import math
import re
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from crispmask.data.drawing import LARGEST_BOX, polygon, stroke
from crispmask.data.sample import write_mask
from crispmask.data.strokes import known_names, read_known
from crispmask.errors import InputError
from crispmask.shapes import IGNORE

CLASSES = ("land", "water", "cloud")
H, W = 12, 16
Json = dict[str, Any]

SQUARE = [[2, 3], [8, 3], [8, 9], [2, 9], [2, 3]]
HOLE = [[4, 5], [6, 5], [6, 7], [4, 7], [4, 5]]


def read(path: Path, image_name: str = "") -> torch.Tensor:
    return read_known(path, size=(H, W), class_names=CLASSES, image_name=image_name)


def write(data: Any, folder: Path, name: str = "known.json") -> Path:
    path = folder / name
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def feature(kind: str, coordinates: Any, label: Any = "water", **properties: Any) -> Json:
    geometry = {"type": kind, "coordinates": coordinates}
    return {"type": "Feature", "properties": {"class": label} | properties, "geometry": geometry}


def collection(*features: Any) -> Json:
    return {"type": "FeatureCollection", "features": list(features)}


def near(*points: tuple[float, float], radius: float, size: tuple[int, int] = (H, W)) -> Any:
    """Pixels whose centre is at most so far from one of the points, one by one."""
    inside = np.zeros(size, dtype=bool)
    for y, x in product(*map(range, size)):
        inside[y, x] = any(np.hypot(x + 0.5 - a, y + 0.5 - b) <= radius for a, b in points)
    return inside


def drawn(*boxes: tuple[slice, slice], label: int = 1) -> torch.Tensor:
    known = torch.full((H, W), IGNORE)
    for box in boxes:
        known[box] = label
    return known


def as_known(inside: Any, label: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.where(inside, label, IGNORE))


# label pictures


@given(st.lists(st.sampled_from([0, 1, 2, IGNORE]), min_size=H * W, max_size=H * W))
def test_a_label_picture_is_read_as_written(ids: list[int]) -> None:
    mask = torch.tensor(ids).view(H, W)
    with tempfile.TemporaryDirectory() as folder:
        write_mask(mask, Path(folder) / "a.png")
        assert torch.equal(read(Path(folder) / "a.png"), mask)


def test_a_label_picture_of_another_size(tmp_path: Path) -> None:
    write_mask(torch.zeros(H, W + 1, dtype=torch.int64), tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png must have the size of its image, 12x16 .* 12x17"):
        read(tmp_path / "a.png")


def test_a_label_picture_with_an_unknown_id(tmp_path: Path) -> None:
    write_mask(torch.full((H, W), 3), tmp_path / "a.png")
    with pytest.raises(InputError, match="ids from 0 to 2"):
        read(tmp_path / "a.png")


def test_another_kind_of_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ending in \.png.*\.geojson.*got .*a\.shp"):
        read(tmp_path / "a.shp")


# GeoJSON


BOX = (slice(3, 9), slice(2, 8))


@pytest.mark.parametrize(
    ("kind", "coordinates", "inside"),
    [
        ("Point", [5, 6], near((5, 6), radius=3)),
        ("MultiPoint", [[5, 6], [12.5, 2]], near((5, 6), (12.5, 2), radius=3)),
        (
            "LineString",
            [[3, 4], [9, 4], [9, 8]],
            near(*((3 + s / 50, 4) for s in range(301)), *((9, 4 + s / 50) for s in range(201)),
                 radius=3),
        ),
        (
            "MultiLineString",
            [[[1, 1], [1, 1.5]], [[14, 11], [14, 11.5]]],
            near((1, 1), (1, 1.25), (1, 1.5), (14, 11), (14, 11.25), (14, 11.5), radius=3),
        ),
        ("Polygon", [SQUARE], drawn(BOX) == 1),
        ("Polygon", [SQUARE[:-1]], drawn(BOX) == 1),
        ("Polygon", [SQUARE, HOLE], (drawn(BOX) == 1) & (drawn(np.s_[5:7, 4:6]) != 1)),
        (
            "MultiPolygon",
            [[SQUARE, HOLE], [[[10, 0], [99, 0], [99, 2], [10, 2]]]],
            (drawn(BOX, np.s_[0:2, 10:16]) == 1) & (drawn(np.s_[5:7, 4:6]) != 1),
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("single", [True, False])
def test_geometries(tmp_path: Path, kind: str, coordinates: Any, inside: Any, single: bool) -> None:
    shape = feature(kind, coordinates)
    path = write(shape if single else collection(shape), tmp_path, "known.geojson")
    assert torch.equal(read(path), as_known(inside))


@given(*(st.floats(-1e9, 1e9) | st.floats(-50, 400) for _ in range(4)), st.floats(1, 60))
def test_a_long_line_is_drawn_in_parts(
    x0: float, y0: float, x1: float, y1: float, radius: float
) -> None:
    points, size = np.array([[x0, y0], [x1, y1]]), (300, 350)
    found = np.zeros(size, dtype=bool)
    for rows, columns, inside in stroke(points, radius, size):
        assert inside.size <= LARGEST_BOX or inside.size <= (5 * radius + 5) ** 2
        found[rows, columns] |= inside
    ys, xs = (axis + 0.5 for axis in np.indices(size))
    (dx, dy), length = points[1] - points[0], math.dist(*points)
    share = ((xs - x0) * dx + (ys - y0) * dy) / (length**2 or 1)
    share = share.clip(0, 1)
    distance = np.hypot(xs - x0 - share * dx, ys - y0 - share * dy)
    unsure = abs(distance - radius) < 1e-6 * max(1, length, abs(x0), abs(y0))
    assert (found == (distance <= radius))[~unsure].all()


def test_a_geometry_collection_has_one_class_and_one_radius(tmp_path: Path) -> None:
    shape = feature("GeometryCollection", None, 2, radius=1.5)
    shape["geometry"] = {
        "type": "GeometryCollection",
        "geometries": [
            {"type": "Point", "coordinates": [12.5, 4.5, 99]},
            {"type": "Polygon", "coordinates": [SQUARE]},
        ],
    }
    inside = near((12.5, 4.5), radius=1.5) | (drawn(BOX) == 1).numpy()
    assert torch.equal(read(write(shape, tmp_path)), as_known(inside, 2))


def test_the_radius_is_that_of_the_feature(tmp_path: Path) -> None:
    path = write(collection(feature("Point", [5.5, 6.5], radius=1)), tmp_path)
    cross = drawn(np.s_[6:7, 4:7], np.s_[5:8, 5:6])
    assert torch.equal(read(path), cross)


@given(st.floats(0, W - 0.01), st.floats(0, H - 0.01))
def test_the_smallest_disc_covers_the_pixel_it_is_in(x: float, y: float) -> None:
    (patch,) = stroke(np.array([[x, y]]), 1, (H, W))
    assert patch.inside[int(y) - patch.rows.start, int(x) - patch.columns.start]


side = st.tuples(st.integers(-5, 20), st.integers(-5, 20)).filter(lambda ends: ends[0] < ends[1])


@given(side, side)
def test_the_polygon_of_a_rectangle_is_the_slice(x: tuple[int, int], y: tuple[int, int]) -> None:
    corners = np.array([(x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1])], dtype=float)
    found = np.zeros((H, W), dtype=bool)
    rows, columns, inside = polygon([corners], (H, W))
    found[rows, columns] = inside
    expected = np.zeros_like(found)
    expected[max(y[0], 0) : max(y[1], 0), max(x[0], 0) : max(x[1], 0)] = True
    assert np.array_equal(found, expected)


coordinate = st.one_of(st.integers(0, 160).map(lambda n: n / 10), st.floats(0, 16))
place = st.tuples(coordinate, coordinate)


@given(place, place)
@example((0.6, 5.2), (9.3, 15.1))  # through the centre of a pixel, to the last digit
@example((1.0, 2.6), (7.0, 10.2))
def test_polygons_on_two_sides_of_an_edge_share_no_pixel_and_leave_none(
    a: tuple[float, float], b: tuple[float, float]
) -> None:
    """Each goes along the edge in its own direction."""
    count = np.zeros((16, 16), dtype=int)
    left, right = [a, b, (0, b[1]), (0, a[1])], [b, a, (16, a[1]), (16, b[1])]
    for outline in (left, right):
        rows, columns, inside = polygon([np.array(outline, dtype=float)], (16, 16))
        count[rows, columns] += inside
    low, high = sorted((a[1], b[1]))
    centres = np.arange(16) + 0.5
    between = (centres >= low) & (centres < high)
    assert np.array_equal(count, np.repeat(between[:, None], 16, axis=1))


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "evidence.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    path = write(example, tmp_path)
    known = read_known(path, size=(64, 64), class_names=(*CLASSES, "city"))
    square = torch.zeros(64, 64, dtype=torch.bool)
    square[40:60, 5:25] = True
    assert torch.equal(known == 3, square)
    assert (known[20:24, 10:61] == 1).any(0).all()


def test_shapes_of_one_class_may_overlap(tmp_path: Path) -> None:
    path = write(collection(feature("Polygon", [SQUARE]), feature("Point", [5, 6], 1)), tmp_path)
    assert torch.equal(read(path), drawn(BOX))


def test_two_classes_on_one_pixel(tmp_path: Path) -> None:
    shapes = collection(
        feature("Polygon", [SQUARE], "cloud"),
        feature("Polygon", [[[7, 8], [12, 8], [12, 12], [7, 12]]], "land"),
    )
    with pytest.raises(InputError, match=r"feature 2 of .* 'land' at pixel \(7, 8\).* 'cloud'"):
        read(write(shapes, tmp_path))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", "it is neither"),
        ({"type": "Topology"}, "it is neither"),
        ({"images": []}, "it is neither"),
        (collection(), "at least one feature, got none"),
        ({"type": "FeatureCollection"}, "'features' with a list, got None"),
        ({"type": "Point", "coordinates": [1, 1]}, "got a bare Point; wrap it"),
        (collection(7), "feature 1 of .* needs 'properties'"),
        (collection(feature("Point", [1, 1], "lava")), r"\(land, water, cloud\).* got 'lava'"),
        (collection(feature("Point", [1, 1], 3)), "an id from 0 to 2, got 3"),
        (collection(feature("Point", [1, 1], IGNORE)), "got 255"),
        (collection(feature("Point", [1, 1], True)), "got True"),
        (collection(feature("Point", [1, 1], None)), "got None"),
        (collection(feature("Point", [1, 1], radius=0)), "radius in pixels of at least 1, got 0"),
        (collection(feature("Point", [1, 1], radius="3")), "at least 1, got '3'"),
        (collection(feature("Point", [1, 1], radius=True)), "at least 1, got True"),
        (collection(feature("Point", [True, False])), r"positions \[x, y\]"),
        (collection(feature("Circle", [1, 1])), "got 'Circle'"),
        (collection(feature("Point", [40, 4])), "cover a pixel of the image, 16 wide and 12 high"),
        (collection(feature("Point", [4, -40])), "cover a pixel"),
        (collection(feature("MultiPoint", [])), "cover a pixel"),
        (collection(feature("Polygon", [[[1, 1], [1.2, 1], [1.2, 9]]])), "cover a pixel"),
        (collection(feature("Point", [1])), r"positions \[x, y\]"),
        (collection(feature("Point", ["1", "2"])), r"positions \[x, y\]"),
        (collection(feature("Point", [float("nan"), 2])), r"positions \[x, y\]"),
        (collection(feature("Point", [10**400, 2])), r"positions \[x, y\]"),
        (collection(feature("LineString", [])), "at least 1 positions"),
        (collection(feature("LineString", [1, 2])), r"positions \[x, y\]"),
        (collection(feature("Polygon", [[[1, 1], [2, 2]]])), "at least 3 positions"),
        (collection(feature("Polygon", [])), "a list of rings"),
        (collection(feature("MultiPolygon", [7])), "a list of rings"),
        (collection(feature("Polygon", None)), "'coordinates' with a list"),
        (collection(feature("GeometryCollection", [])), "'geometries' with a list"),
        (collection(feature("Point", [1, 1]) | {"geometry": None}), "'geometry' with an object"),
    ],
)
def test_geojson_that_cannot_be_used(tmp_path: Path, data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(write(data, tmp_path))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.geojson cannot be read"):
        read(tmp_path / "no.geojson")


# COCO


def coco(*segmentations: Any, **changes: Any) -> Json:
    """The annotations alternate between water and land, all of them of the image street/a.jpg."""
    return {
        "images": [
            {"id": 7, "file_name": "street/a.jpg", "height": H, "width": W},
            {"id": 8, "file_name": "b.jpg", "height": 99, "width": 99},
        ],
        "categories": [{"id": 40, "name": "water"}, {"id": 3, "name": "land"}],
        "annotations": [
            {"id": i, "image_id": 7, "category_id": (40, 3)[i % 2], "segmentation": segmentation}
            for i, segmentation in enumerate(segmentations)
        ],
    } | changes


def rle(mask: torch.Tensor) -> Json:
    """An uncompressed run-length code, written down pixel by pixel."""
    counts, value = [0], False
    for pixel in mask.T.flatten().tolist():
        if pixel != value:
            counts, value = [*counts, 0], pixel
        counts[-1] += 1
    return {"counts": counts, "size": list(mask.shape)}


def test_coco_polygons(tmp_path: Path) -> None:
    data = coco(
        [[2, 3, 8, 3, 8, 9, 2, 9], [10, 0, 16, 0, 16, 2, 10, 2]], [[8, 3, 12, 3, 12, 9, 8, 9]]
    )
    expected = drawn(BOX, np.s_[0:2, 10:16])
    expected[3:9, 8:12] = 0
    assert torch.equal(read(write(data, tmp_path), "a"), expected)


@given(st.lists(st.booleans(), min_size=H * W, max_size=H * W).filter(any))
def test_coco_run_lengths(pixels: list[bool]) -> None:
    mask = torch.tensor(pixels).view(H, W)
    with tempfile.TemporaryDirectory() as folder:
        assert torch.equal(read(write(coco(rle(mask)), Path(folder)), "a"), as_known(mask))


def test_a_coco_file_of_one_image_needs_no_name(tmp_path: Path) -> None:
    data = coco(rle(drawn(BOX) == 1))
    data["images"] = data["images"][:1]
    assert torch.equal(read(write(data, tmp_path), "photo"), drawn(BOX))


def test_an_image_that_only_others_are_annotated_of(tmp_path: Path) -> None:
    data = coco([[2, 3, 8, 3, 8, 9, 2, 9]])
    data["images"][1] |= {"height": H, "width": W}
    assert (read(write(data, tmp_path), "b") == IGNORE).all()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (coco(), "at least one annotation, got none"),
        (coco({"counts": "f0oL", "size": [H, W]}), "compressed run-length code; export polygons"),
        (coco({"counts": [H * W - 1], "size": [H, W]}), "sum to the 192 pixels"),
        (coco({"counts": [H * W + 1, -1], "size": [H, W]}), "sum to the 192 pixels"),
        (coco({"counts": [H * W], "size": [W, H]}), r"of size \[12, 16\].* got \[16, 12\]"),
        (coco({"counts": [H * W], "size": [H, W]}), "cover a pixel"),
        (coco(None), "needs a segmentation with polygons"),
        (coco([]), "needs a segmentation with polygons"),
        (coco([[1, 2, 3]]), r"lists \[x, y, x, y"),
        (coco([1, 2, 3, 4, 5, 6]), r"lists \[x, y, x, y"),
        (coco([[1, 2, 3, 4]]), "at least 3 positions"),
        (coco([[1, 2, 3, 4, "5", 6]]), "positions"),
        (coco([[20, 20, 30, 20, 30, 30]]), "annotation 1 of .* cover a pixel"),
        (coco([[2, 3, 8, 3, 8, 9]], [[2, 3, 8, 3, 8, 9]]), r"'land' at pixel \(\d, 3\).* 'water'"),
        (coco([[2, 3, 8, 3, 8, 9]], categories=[]), "got 40; add it there"),
        (coco([[2, 3, 8, 3, 8, 9]], categories=[{"id": 40, "name": "lava"}]), "got 'lava'"),
        (coco([[2, 3, 8, 3, 8, 9]], images=[{"id": 7}]), "'file_name' with a text, got None"),
        (
            coco([[2, 3, 8, 3, 8, 9]], images=[{"id": 7, "file_name": "a", "height": 9}]),
            "12x16 .* says 9x16",
        ),
        (coco([], images=[{"id": 7, "file_name": "a", "height": "12"}]), "'height' with a whole"),
        (coco([], images=2 * [{"id": 7, "file_name": "a"}]), "one image named 'a' .* 2 of its 2"),
        (
            coco([], images=[{"id": 7, "file_name": name} for name in "ab"]),
            "ids that differ, but 'images' has 7 twice",
        ),
        (coco([], categories=2 * [{"id": 40, "name": "land"}]), "'categories' has 40 twice"),
        (coco([], categories=[{"id": 40, "name": 1}]), "category 40 .* 'name' with a text"),
        (
            coco(annotations=[{"image_id": 9, "category_id": 40}]),
            "an image_id that the file's images list, got 9",
        ),
        (coco([[2, 3, 8, 3, 8, 9]], images=[]), "one image named 'a' .* 0 of its 0 are"),
        (coco(annotations=[{"id": 1}]), "annotation 1 of .* needs 'image_id'"),
    ],
)
def test_coco_that_cannot_be_used(tmp_path: Path, data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(write(data, tmp_path), "a")


def test_an_image_that_a_coco_file_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"one image named 'c' .* 0 of its 2 are"):
        read(write(coco([[2, 3, 8, 3, 8, 9]]), tmp_path), "c")


def test_an_image_may_leave_its_size_open(tmp_path: Path) -> None:
    data = coco(rle(drawn(BOX) == 1))
    data["images"][0] |= {"height": None, "width": None}
    assert torch.equal(read(write(data, tmp_path), "a"), drawn(BOX))


def test_names_of_images(tmp_path: Path) -> None:
    assert known_names(write(coco(), tmp_path)) == {"a", "b"}
    assert known_names(write(collection(), tmp_path, "c.json")) == {"c"}
    assert known_names(tmp_path / "d.png") == {"d"}
