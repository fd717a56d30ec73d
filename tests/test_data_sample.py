"""Files of images and masks: every usual kind is read as it should be, the rest is explained."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest
import torch

from crispmask.data.decoded import read_colours, read_foreground
from crispmask.data.sample import colorize, overlay, read_image, read_mask, write_mask
from crispmask.errors import InputError
from crispmask.shapes import IGNORE

RGB = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10


def save(pixels: np.ndarray, path: Path, mode: str | None = None) -> Path:
    picture = PIL.Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(path)
    return path


def test_rgb_is_scaled_and_channels_come_first(tmp_path: Path) -> None:
    image = read_image(save(RGB, tmp_path / "a.png"))
    assert image.dtype == torch.float32
    torch.testing.assert_close(image, torch.from_numpy(RGB).permute(2, 0, 1) / 255)


def test_rgba_loses_its_alpha(tmp_path: Path) -> None:
    rgba = np.dstack([RGB, np.zeros((2, 4), np.uint8)])
    torch.testing.assert_close(
        read_image(save(rgba, tmp_path / "a.png")), read_image(save(RGB, tmp_path / "b.png"))
    )


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.array([[0, 51, 255]], np.uint8), [0.0, 0.2, 1.0]),
        (np.array([[0, 13107, 65535]], np.uint16), [0.0, 0.2, 1.0]),
        (np.array([[False, True, True]]), [0.0, 1.0, 1.0]),
    ],
    ids=["8 bit", "16 bit", "1 bit"],
)
def test_grey_of_any_depth_becomes_rgb(
    tmp_path: Path, pixels: np.ndarray, expected: list[float]
) -> None:
    image = read_image(save(pixels, tmp_path / "a.png"))
    torch.testing.assert_close(image, torch.tensor(expected).expand(3, 1, 3))


def test_a_palette_picture_is_an_image_by_colour_and_a_mask_by_index(tmp_path: Path) -> None:
    picture = PIL.Image.fromarray(np.array([[0, 2]], np.uint8))
    picture.putpalette([10, 20, 30, 0, 0, 0, 255, 0, 51])
    picture.save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    torch.testing.assert_close(image[:, 0, 1], torch.tensor([1.0, 0.0, 0.2]))
    assert read_mask(tmp_path / "a.png").tolist() == [[0, 2]]


def test_float_pictures_must_lie_between_0_and_1(tmp_path: Path) -> None:
    values = np.array([[0.0, 0.25]], np.float32)
    assert read_image(save(values, tmp_path / "a.tif"))[1].tolist() == [[0.0, 0.25]]
    for wrong in (values * 100, values * np.nan):
        with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
            read_image(save(wrong, tmp_path / "b.tif"))


def test_one_pixel_is_an_image_and_a_mask(tmp_path: Path) -> None:
    path = save(np.array([[7]], np.uint8), tmp_path / "a.png")
    assert read_image(path).shape == (3, 1, 1)
    assert read_mask(path).tolist() == [[7]]


def tagged(pixels: np.ndarray, path: Path, orientation: int) -> Path:
    """A picture file that says how its pixels are to be turned."""
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = orientation
    PIL.Image.fromarray(pixels).save(path, exif=exif)
    return path


TURNS = {  # what viewers make of stored pixels h w 3, by the tag's value (EXIF 2.32, section 4.6.4)
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x[::-1].swapaxes(0, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x[:, ::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("orientation", TURNS)
def test_photos_are_turned_as_viewers_show_them(tmp_path: Path, orientation: int) -> None:
    want = torch.from_numpy(TURNS[orientation](RGB).copy()).permute(2, 0, 1) / 255
    torch.testing.assert_close(read_image(tagged(RGB, tmp_path / "a.png", orientation)), want)
    large = RGB.repeat(32, 0).repeat(32, 1)  # one colour in each block, for JPEG
    photo = read_image(tagged(large, tmp_path / "a.jpg", orientation))
    torch.testing.assert_close(photo[:, 16::32, 16::32], want, atol=0.02, rtol=0)


def test_labels_are_never_turned(tmp_path: Path) -> None:
    ids = RGB[..., 0] % 3
    path = tagged(ids, tmp_path / "ids.png", 6)
    assert read_mask(path).tolist() == ids.tolist()
    colours = {(v, v, v): v for v in range(3)}
    assert read_colours(path, colours).tolist() == ids.tolist()
    bright = tagged(np.array([[0, 255, 255]], np.uint8), tmp_path / "bright.png", 8)
    assert read_foreground(bright).tolist() == [[0, 1, 1]]


@pytest.mark.parametrize("junk", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0", b"no tags"])
def test_a_damaged_orientation_counts_as_none(tmp_path: Path, junk: bytes) -> None:
    PIL.Image.fromarray(RGB).save(tmp_path / "a.png", exif=junk)
    assert read_image(tmp_path / "a.png").shape == (3, 2, 4)


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_missing_damaged_and_cut_files_are_named(
    tmp_path: Path, read: Callable[[Path], torch.Tensor]
) -> None:
    with pytest.raises(InputError, match=r"none\.png does not exist"):
        read(tmp_path / "none.png")
    with pytest.raises(InputError, match="is not a file"):
        read(tmp_path)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match=r"text\.png cannot be read as an image"):
        read(tmp_path / "text.png")
    noise = np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)
    whole = save(noise, tmp_path / "whole.png").read_bytes()
    for length in (0, 20, 60, len(whole) // 2, len(whole) - 40):
        (tmp_path / "cut.png").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cut\.png cannot be read"):
            read(tmp_path / "cut.png")


def test_a_mask_in_colour_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"one class id per pixel.*mode RGB; map its colours"):
        read_mask(save(RGB, tmp_path / "a.png"))


def test_ids_beyond_the_classes_are_counted(tmp_path: Path) -> None:
    path = save(np.array([[0, 4, 7, 7, IGNORE]], np.uint8), tmp_path / "a.png")
    assert read_mask(path, 8).tolist() == [[0, 4, 7, 7, IGNORE]]
    with pytest.raises(InputError, match=r"ids from 0 to 3.*got 4, 7 in 3 pixels"):
        read_mask(path, 4)


@pytest.mark.parametrize(("high", "mode"), [(255, "L"), (1000, "I;16")])
def test_a_written_mask_reads_back(tmp_path: Path, high: int, mode: str) -> None:
    mask = torch.randint(high, (5, 7), generator=torch.Generator().manual_seed(0))
    mask[0, 0] = high
    write_mask(mask, tmp_path / "a.png")
    assert PIL.Image.open(tmp_path / "a.png").mode == mode
    assert torch.equal(read_mask(tmp_path / "a.png"), mask)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_mask_that_fits_no_png_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 to 65535, got -1"):
        write_mask(torch.tensor([[-1, 0]]), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_colours_follow_the_palette_and_void_is_black() -> None:
    palette = ((255, 0, 0), (0, 255, 0))
    mask = torch.tensor([[1, 0, IGNORE]])
    assert colorize(mask, palette).tolist() == [[[0, 255, 0], [255, 0, 0], [0, 0, 0]]]
    with pytest.raises(InputError, match="got 2 in 1 pixels"):
        colorize(torch.tensor([[2]]), palette)


def test_an_overlay_shows_the_image_alone_where_the_mask_is_void() -> None:
    laid = overlay(torch.ones(3, 1, 2), torch.tensor([[0, IGNORE]]), ((0, 0, 0),), opacity=0.6)
    assert laid.tolist() == [[[102] * 3, [255] * 3]]
