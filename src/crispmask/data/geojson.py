"""GeoJSON (RFC 7946) with pixels in place of longitude and latitude."""

from collections.abc import Iterator, Sequence
from reprlib import repr as shortened
from typing import Any

from crispmask.data.drawing import Drawing, Patch, polygon, stroke
from crispmask.data.json_fields import as_label, as_points, is_number, member
from crispmask.errors import InputError

GEOMETRIES = (
    "Point",
    "MultiPoint",
    "LineString",
    "MultiLineString",
    "Polygon",
    "MultiPolygon",
    "GeometryCollection",
)
TYPES = ("FeatureCollection", "Feature", *GEOMETRIES)

RADIUS = 3
"""Of points and lines that do not say theirs, in pixels."""


def features(
    data: dict[str, Any], *, source: str, class_names: Sequence[str], size: Sequence[int]
) -> Iterator[Drawing]:
    """The drawing of each feature.

    Args:
        data: of a file, its "type" one of `TYPES`.
        source: name of the file, for messages.
        class_names: that the property "class" may take, or their ids.
        size: height and width of the image.

    Raises:
        InputError: if there is no feature, or one of them cannot be drawn.
    """
    if data["type"] in GEOMETRIES:
        raise InputError(
            f"{source} needs features, which say their class, got a bare {data['type']}; wrap it: "
            '{"type": "Feature", "properties": {"class": NAME}, "geometry": ...}.'
        )
    found = [data] if data["type"] == "Feature" else member(data, "features", list, source)
    if not found:
        raise InputError(f"{source} needs at least one feature, got none; draw some or leave it.")
    for number, feature in enumerate(found, 1):
        where = f"feature {number} of {source}"
        properties = member(feature, "properties", dict, where)
        label = as_label(properties.get("class"), class_names, f'"class" of {where}')
        radius = properties.get("radius")
        if radius is None:
            radius = RADIUS
        if not is_number(radius, low=1):  # from 1 a disc covers a pixel wherever it lies
            raise InputError(
                f"{where} needs a radius in pixels of at least 1, got {shortened(radius)}; "
                f"correct it, or leave it out for {RADIUS}."
            )
        geometry = member(feature, "geometry", dict, where)
        yield Drawing(label, where, list(_drawn(geometry, radius, size, where)))


def _drawn(geometry: Any, radius: float, size: Sequence[int], source: str) -> Iterator[Patch]:
    kind = member(geometry, "type", str, f"the geometry of {source}")
    if kind not in GEOMETRIES:
        raise InputError(
            f"{source} needs a geometry of type {', '.join(GEOMETRIES)}, got {shortened(kind)}; "
            "draw it as one of these."
        )
    if kind == "GeometryCollection":
        for part in member(geometry, "geometries", list, source):
            yield from _drawn(part, radius, size, source)
        return
    coordinates = member(geometry, "coordinates", list, source)
    match kind:
        case "Point":
            parts = [[coordinates]]
        case "MultiPoint":
            parts = [[position] for position in coordinates]
        case "LineString" | "Polygon":
            parts = [coordinates]
        case _:
            parts = coordinates
    for part in parts:
        if "Polygon" in kind:
            yield polygon(_rings(part, source), size)
        else:
            yield from stroke(as_points(part, source), radius, size)


def _rings(part: Any, source: str) -> list[Any]:
    if not isinstance(part, list) or not part:
        raise InputError(
            f"{source} needs a list of rings for each polygon, got {shortened(part)}; correct it "
            "or export the file again."
        )
    return [as_points(ring, source, least=3) for ring in part]
