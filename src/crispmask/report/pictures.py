"""Six pictures of one image, as PNG data URIs."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from crispmask.report.results import CorrectedExample, Example
from crispmask.shapes import IGNORE

UNKNOWN_COLOUR = (48, 48, 52)
FIXED, BROKEN, STILL_WRONG = (38, 166, 154), (240, 98, 63), (242, 190, 62)
"""Colours of changed pixels: wrong to right, right to wrong, one mistake for another."""

HEAT = ((0, 0, 4), (81, 18, 124), (183, 55, 121), (252, 137, 97), (252, 253, 191))
"""Colours of uncertainty from 0 to 1, in equal steps."""

LONGEST_SIDE = 512
SMALL = 320


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A picture of the page; a small one is enlarged pixel by pixel."""

    label: str
    uri: str
    small: bool


def panels(
    example: Example, palette: tuple[tuple[int, int, int], ...], *, ours: str
) -> tuple[Panel, ...]:
    """Image, truth, base, the highlighted row, where they differ, and how unsure it is."""
    photo = thumbnail(example.image)
    truth, base, refined, uncertainty = (
        fitted(array, photo)
        for array in (example.truth, example.base, example.ours, example.uncertainty)
    )
    pictures = {
        "image": photo,
        "truth": labels_picture(truth, palette),
        "base": labels_picture(base, palette),
        ours: labels_picture(refined, palette),
        "changed pixels": changed_picture(np.asarray(photo), truth, base, refined),
        "uncertainty": heat_picture(uncertainty),
    }
    small = max(example.truth.shape) < SMALL
    return tuple(Panel(label=k, uri=data_uri(v), small=small) for k, v in pictures.items())


def corrected_panels(
    example: CorrectedExample, palette: tuple[tuple[int, int, int], ...]
) -> tuple[Panel, ...]:
    """Image, truth, base, the answer without clicks, the clicks, and the answer with them."""
    photo = thumbnail(example.image)
    labels = {
        "truth": example.truth,
        "base": example.base,
        "refined": example.before,
        f"{example.clicks} clicks": example.known,
        f"refined after {example.clicks} clicks": example.after,
    }
    pictures = {"image": photo} | {
        label: labels_picture(fitted(array, photo), palette) for label, array in labels.items()
    }
    small = max(example.truth.shape) < SMALL
    return tuple(Panel(label=k, uri=data_uri(v), small=small) for k, v in pictures.items())


def thumbnail(image: UInt8[np.ndarray, "h w 3"]) -> Image.Image:
    """The image, made smaller where a side is longer than `LONGEST_SIDE`."""
    photo = Image.fromarray(image)
    photo.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return photo


def fitted(
    labels: Integer[np.ndarray, "h w"], photo: Image.Image
) -> Integer[np.ndarray, "p_h p_w"]:
    """Labels, or numbers, of 8 or 32 bits at the size of the photo."""
    return np.asarray(Image.fromarray(labels).resize(photo.size, Image.Resampling.NEAREST))


def labels_picture(
    labels: UInt8[np.ndarray, "h w"], palette: tuple[tuple[int, int, int], ...]
) -> Image.Image:
    """A label map in its class colours, unlabelled pixels dark grey."""
    colours = np.full((256, 3), UNKNOWN_COLOUR, dtype=np.uint8)
    colours[: len(palette)] = palette
    picture = Image.fromarray(labels)
    picture.putpalette(colours.tobytes())  # makes the ids indices of the palette
    return picture


def changed_picture(
    image: UInt8[np.ndarray, "h w 3"],
    truth: UInt8[np.ndarray, "h w"],
    base: UInt8[np.ndarray, "h w"],
    ours: UInt8[np.ndarray, "h w"],
) -> Image.Image:
    """The image in pale grey; labelled pixels whose label changed by what the change did."""
    out = pale(image)
    changed = (base != ours) & (truth != IGNORE)
    out[changed] = STILL_WRONG
    out[changed & (ours == truth)] = FIXED
    out[changed & (base == truth)] = BROKEN
    return Image.fromarray(out)


def pale(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The image in pale grey, on which colours stand out."""
    grey = image.mean(-1, keepdims=True) * 0.35 + 120
    return np.broadcast_to(grey, image.shape).astype(np.uint8)


def heat_picture(values: UInt8[np.ndarray, "h w"]) -> Image.Image:
    """Values 0 to 255 on the `HEAT` scale."""
    stops = np.linspace(0, 255, len(HEAT))
    channels = [np.interp(np.arange(256), stops, channel) for channel in np.array(HEAT).T]
    table = np.stack(channels, axis=-1).round().astype(np.uint8)  # 256 3
    return Image.fromarray(table[values])


def data_uri(picture: Image.Image) -> str:
    """The picture as a PNG inside a URI."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
