"""Known labels from files: label pictures, GeoJSON and COCO."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from crispmask.data import coco, geojson
from crispmask.data.drawing import Drawing
from crispmask.data.folder import LABEL_SUFFIXES
from crispmask.data.json_fields import read_json
from crispmask.data.sample import read_mask, turned
from crispmask.errors import InputError
from crispmask.shapes import IGNORE

JSON_SUFFIXES = (".geojson", ".json")
KNOWN_SUFFIXES = (*LABEL_SUFFIXES, *JSON_SUFFIXES)


def read_known(
    path: Path | str,
    *,
    size: Sequence[int],
    class_names: Sequence[str],
    image_name: str = "",
) -> Int64[Tensor, "h w"]:
    """Class ids where a file says them, `IGNORE` elsewhere.

    A label picture has an id or 255 in each pixel. In GeoJSON and COCO coordinates are pixels, x
    to the right and y down, the centres of pixels at .5. A GeoJSON feature has the property
    ``class``, a name or an id; points and lines are ``radius`` pixels wide to each side, 3 by
    default. A polygon has the pixels whose centres it has. COCO's categories are matched with
    the classes by name, and its annotations may be polygons or uncompressed run-length codes.

    Args:
        path: of the file.
        size: height and width of the image.
        class_names: in the order of the ids.
        image_name: file name of the image without ending; needed for a COCO file of several.

    Raises:
        InputError: if the file cannot be used, or gives a pixel two classes.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in KNOWN_SUFFIXES:
        raise InputError(
            f"known labels must be a file ending in {', '.join(KNOWN_SUFFIXES)}, got {path}; "
            "export one of these."
        )
    if len(size) != 2:
        raise InputError(f"size must be (height, width) of the image, got {tuple(size)}.")
    h, w = size
    if suffix in JSON_SUFFIXES:
        drawings = _drawings(path, size=(h, w), class_names=class_names, image_name=image_name)
        return paint(drawings, size=(h, w), class_names=class_names)
    known = read_mask(path, len(class_names))
    if known.shape != (h, w):
        raise InputError(
            f"{path} must have the size of its image, {h}x{w} (height x width), got "
            f"{known.shape[0]}x{known.shape[1]}; draw it on the image itself"
            f"{turned((h, w), known.shape)}."
        )
    return known


def known_names(path: Path) -> frozenset[str]:
    """Names without ending of the images a file is for: a COCO file's images, else its own name.

    Raises:
        InputError: if it ends in .json or .geojson and cannot be read.
    """
    if path.suffix.lower() in JSON_SUFFIXES and _is_coco(data := read_json(path)):
        return frozenset(coco.image_names(data, source=str(path)))
    return frozenset([path.stem])


def paint(
    drawings: Iterable[Drawing], *, size: Sequence[int], class_names: Sequence[str]
) -> Int64[Tensor, "h w"]:
    """Drawings on one mask, `IGNORE` where there is none.

    Raises:
        InputError: if one covers no pixel, or two of different classes share one.
    """
    h, w = size
    known = np.full((h, w), IGNORE, dtype=np.int64)
    for drawing in drawings:
        if not any(patch.inside.any() for patch in drawing.patches):
            raise InputError(
                f"{drawing.source} needs to cover a pixel of the image, {w} wide and {h} high, but "
                "lies outside of it or between the centres of its pixels; give coordinates in "
                "pixels, x to the right and y down, or remove it."
            )
        for rows, columns, inside in drawing.patches:
            before = known[rows, columns]
            clash = inside & (before != IGNORE) & (before != drawing.label)
            if clash.any():
                y, x = np.argwhere(clash)[0]
                first, second = class_names[before[y, x]], class_names[drawing.label]
                raise InputError(
                    f"a pixel needs one class, but {drawing.source} says {second!r} at pixel "
                    f"({columns.start + x}, {rows.start + y}), where an earlier one says "
                    f"{first!r}; remove one of them."
                )
            before[inside] = drawing.label
    return torch.from_numpy(known)


def _drawings(
    path: Path, *, size: Sequence[int], class_names: Sequence[str], image_name: str
) -> Iterable[Drawing]:
    data, source = read_json(path), str(path)
    if _is_coco(data):
        return coco.annotations(
            data, source=source, class_names=class_names, size=size, image_name=image_name
        )
    if isinstance(data, dict) and data.get("type") in geojson.TYPES:
        return geojson.features(data, source=source, class_names=class_names, size=size)
    raise InputError(
        f"{path} must be GeoJSON (an object with a type such as FeatureCollection) or COCO (an "
        f"object with {', '.join(coco.PARTS)}), it is neither; export one of these, or a label PNG."
    )


def _is_coco(data: Any) -> bool:
    return isinstance(data, dict) and all(part in data for part in coco.PARTS)
