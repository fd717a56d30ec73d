"""Annotations in the format of COCO (Lin et al. 2014): polygons and run-length codes."""

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from reprlib import repr as shortened
from typing import Any

from crispmask.data.drawing import Drawing, Patch, polygon, runs
from crispmask.data.json_fields import as_label, as_points, is_number, member
from crispmask.data.sample import turned
from crispmask.errors import InputError

PARTS = ("images", "annotations", "categories")


def annotations(
    data: dict[str, Any],
    *,
    source: str,
    class_names: Sequence[str],
    size: Sequence[int],
    image_name: str,
) -> Iterator[Drawing]:
    """The drawing of each annotation of one image; none if the file has some of others only.

    Args:
        data: of a file, with all of `PARTS`.
        source: name of the file, for messages.
        class_names: that categories are matched with.
        size: height and width of the image.
        image_name: without ending; any if the file has one image.

    Raises:
        InputError: if the file does not have the image or has no annotation at all, or an
            annotation cannot be drawn.
    """
    image = _image(data, source, image_name)
    h, w = size
    said = tuple(
        side if image.get(key) is None else member(image, key, int, f"an image of {source}")
        for key, side in (("height", h), ("width", w))
    )
    if said != (h, w):
        raise InputError(
            f"{source} must be for the image as it is, {h}x{w} (height x width), but says "
            f"{said[0]}x{said[1]}; annotate the image itself, or resize it back"
            f"{turned((h, w), said)}."
        )
    found = member(data, "annotations", list, source)
    if not found:
        raise InputError(
            f"{source} needs at least one annotation, got none; draw some or leave it."
        )
    names = {
        number: member(category, "name", str, f"category {number} of {source}")
        for number, category in _by_id(data, "categories", source).items()
    }
    images = _by_id(data, "images", source)
    for number, annotation in enumerate(found, 1):
        where = f"annotation {number} of {source}"
        owner = member(annotation, "image_id", int, where)
        if owner not in images:
            raise InputError(
                f"{where} needs an image_id that the file's images list, got {owner}; correct it."
            )
        if owner != image["id"]:
            continue
        category = member(annotation, "category_id", int, where)
        if category not in names:
            raise InputError(
                f"{where} needs a category_id that the file's categories list, got {category}; "
                "add it there."
            )
        label = as_label(names[category], class_names, f"the category of {where}")
        yield Drawing(label, where, _patches(annotation.get("segmentation"), size, where))


def image_names(data: dict[str, Any], *, source: str) -> list[str]:
    """Names without ending of the images in a file.

    Raises:
        InputError: if an image has none.
    """
    return [
        PurePosixPath(member(image, "file_name", str, f"an image of {source}")).stem
        for image in member(data, "images", list, source)
    ]


def _image(data: dict[str, Any], source: str, name: str) -> dict[str, Any]:
    images, names = member(data, "images", list, source), image_names(data, source=source)
    chosen = (
        images if len(images) == 1 else [i for i, n in zip(images, names, strict=True) if n == name]
    )
    if len(chosen) != 1:
        raise InputError(
            f"{source} needs one image named {name!r} (without ending), {len(chosen)} of its "
            f"{len(images)} are; name images as in the file's file_name."
        )
    return dict(chosen[0])


def _by_id(data: dict[str, Any], part: str, source: str) -> dict[int, Any]:
    """Images or categories by their ids."""
    found: dict[int, Any] = {}
    for entry in member(data, part, list, source):
        number = member(entry, "id", int, f"an entry of {part!r} in {source}")
        if number in found:
            raise InputError(
                f"{source} needs ids that differ, but {part!r} has {number} twice; export it again."
            )
        found[number] = entry
    return found


def _patches(segmentation: Any, size: Sequence[int], source: str) -> list[Patch]:
    match segmentation:
        case {"counts": str()}:
            raise InputError(
                f"{source} is a compressed run-length code; export polygons or uncompressed "
                "run-length codes (counts as a list), or a label PNG."
            )
        case {"counts": list(counts)}:
            return [_decoded(counts, segmentation.get("size"), size, source)]
        case [_, *_]:
            return [polygon([_outline(flat, source)], size) for flat in segmentation]
    raise InputError(
        f"{source} needs a segmentation with polygons or an uncompressed run-length code, got "
        f"{shortened(segmentation)}; boxes and keypoints are not read: export one of these, or a "
        "label PNG."
    )


def _decoded(counts: list[Any], said: Any, size: Sequence[int], source: str) -> Patch:
    h, w = size
    if said != [h, w]:
        raise InputError(
            f"{source} needs a run-length code of size [{h}, {w}], that of the image, got "
            f"{shortened(said)}; annotate the image itself, or resize it back."
        )
    whole = all(isinstance(count, int) and is_number(count, low=0) for count in counts)
    if not whole or sum(counts) != h * w:
        raise InputError(
            f"{source} needs counts of whole numbers that sum to the {h * w} pixels of the image, "
            f"got {shortened(counts)}; export it again."
        )
    return runs(counts, size)


def _outline(flat: Any, source: str) -> Any:
    if not isinstance(flat, list) or len(flat) % 2:
        raise InputError(
            f"{source} needs polygons as lists [x, y, x, y, ...], got {shortened(flat)}; export it "
            "again."
        )
    pairs = [list(pair) for pair in zip(flat[::2], flat[1::2], strict=True)]
    return as_points(pairs, source, least=3)
