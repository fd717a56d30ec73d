"""Augmentation keeps image, mask and maps together; labels are resized at pixel centres."""

import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crispmask.data.transforms import (
    GREY,
    AugmentConfig,
    _turn_hue,
    augment,
    block_mean,
    dominant_share,
    pad_to_multiple,
    resize_labels,
    resize_short_side,
)
from crispmask.errors import InputError
from crispmask.shapes import IGNORE

PLAIN: dict[str, Any] = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(batch: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose red is the row and whose green is the column; masks that number the pixels."""
    rows = torch.arange(height)[:, None].expand(height, width)
    columns = torch.arange(width).expand(height, width)
    image = torch.stack([rows / height, columns / width, torch.full((height, width), 0.3)])
    mask = 1000 + rows * width + columns
    return image.expand(batch, -1, -1, -1), mask.expand(batch, -1, -1)


@settings(max_examples=15)
@given(st.integers(0, 2**31))
def test_at_scale_1_the_crop_is_an_exact_copy(seed: int) -> None:
    images, mask = numbered(4, 20, 30)
    config = AugmentConfig(crop=(9, 13), scale=(1.0, 1.0), flip=0.0, **PLAIN)
    crops, labels, maps = augment(images, mask, images.clone(), config, generator=rng(seed))
    assert maps is not None
    windows = mask[0].unfold(0, 9, 1).unfold(1, 13, 1)  # 12 18 9 13
    for crop, label, extra in zip(crops, labels, maps, strict=True):
        (found,) = (windows == label).flatten(2).all(2).nonzero()
        y, x = found.tolist()
        exact = images[0, :, y : y + 9, x : x + 13]
        torch.testing.assert_close(crop, exact, atol=1e-5, rtol=0)
        torch.testing.assert_close(extra, exact, atol=1e-5, rtol=0)


def test_a_flip_reverses_the_columns() -> None:
    images, mask = numbered(1, 12, 16)
    config = AugmentConfig(crop=(12, 16), scale=(1.0, 1.0), flip=1.0, **PLAIN)
    flipped, labels, _ = augment(images, mask, None, config, generator=rng())
    torch.testing.assert_close(flipped, images.flip(3), atol=1e-5, rtol=0)
    assert torch.equal(labels, mask.flip(2))


def test_the_zoom_can_be_relative_to_a_short_side() -> None:
    images, mask = numbered(2, 20, 30)
    absolute = AugmentConfig(crop=(16, 16), scale=(0.5, 2.0), **PLAIN)
    config = AugmentConfig(crop=(16, 16), scale=(0.25, 1.0), short_side=40, **PLAIN)
    crops, labels, _ = augment(images, mask, None, absolute, generator=rng())
    same_crops, same_labels, _ = augment(images, mask, None, config, generator=rng())
    torch.testing.assert_close(crops, same_crops, atol=1e-4, rtol=0)
    assert (labels == same_labels).float().mean() > 0.99  # but for ties between two pixels


def test_a_crop_that_one_class_dominates_is_placed_anew() -> None:
    mask = torch.zeros(1, 64, 64, dtype=torch.long)
    mask[:, :, 32:] = torch.arange(32) // 4  # variety on the right alone
    images = torch.zeros(1, 3, 64, 64)
    shares = []
    for dominance in (1.0, 0.5):
        config = AugmentConfig(crop=(16, 16), scale=(1.0, 1.0), dominance=dominance, **PLAIN)
        crops = [augment(images, mask, None, config, generator=rng(i))[1] for i in range(60)]
        shares.append(torch.tensor([dominant_share(crop[0]) for crop in crops]))
    assert (shares[0] < 0.5).float().mean() < 0.7
    assert (shares[1] < 0.5).float().mean() > 0.95  # ten places nearly always suffice
    unchanged = shares[0] < 0.5
    assert torch.equal(shares[0][unchanged], shares[1][unchanged])


def test_the_share_of_the_most_frequent_class() -> None:
    assert dominant_share(torch.tensor([[1, 1, 1, 2], [IGNORE] * 4])) == 0.75
    assert dominant_share(torch.full((2, 2), IGNORE)) == 1


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [((20, 30), 10, (10, 15)), ((30, 20), 30, (45, 30)), ((20, 30), 0, (20, 30))],
)
def test_a_short_side(size: tuple[int, int], side: int, expected: tuple[int, int]) -> None:
    assert resize_short_side(torch.rand(1, 3, *size), side).shape[-2:] == expected
    grey = torch.full((1, 3, *size), 0.3)
    torch.testing.assert_close(resize_short_side(grey, side).mean(), torch.tensor(0.3))


@pytest.mark.parametrize("fields", [{"short_side": -1}, {"dominance": 0.0}, {"dominance": 1.5}])
def test_places_that_cannot_be(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"dominance in \(0, 1\]"):
        AugmentConfig(crop=(8, 8), **fields)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_doubling_repeats_each_label(flip: float) -> None:
    _, mask = numbered(1, 8, 8)
    image = torch.zeros(1, 3, 8, 8)
    config = AugmentConfig(crop=(16, 16), scale=(2.0, 2.0), flip=flip, **PLAIN)
    _, labels, _ = augment(image, mask, None, config, generator=rng())
    expected = mask.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(labels, expected.flip(2) if flip else expected)


def test_halving_averages_pairs_of_pixels() -> None:
    images = torch.rand(1, 3, 8, 8, generator=rng())
    config = AugmentConfig(crop=(4, 4), scale=(0.5, 0.5), flip=0.0, **PLAIN)
    halved, _, _ = augment(images, torch.zeros(1, 8, 8).long(), None, config, generator=rng())
    torch.testing.assert_close(halved, torch.nn.functional.avg_pool2d(images, 2), atol=1e-5, rtol=0)


@settings(max_examples=15)
@given(st.integers(0, 2**31))
def test_image_mask_and_maps_stay_together(seed: int) -> None:
    """Where both the mask and the maps say a class, they say the same, at any zoom."""
    mask = torch.zeros(3, 32, 40, dtype=torch.int64)
    mask[:, 8:20, 10:31] = 1
    mask[:, 25:, :15] = 2
    maps = torch.nn.functional.one_hot(mask, 3).movedim(-1, 1).float()
    _, labels, warped = augment(
        maps, mask, maps, AugmentConfig(crop=(24, 28), **PLAIN), generator=rng(seed)
    )
    assert warped is not None
    sure, known = warped.amax(1) > 0.75, labels != IGNORE
    assert torch.equal(warped.argmax(1)[sure & known], labels[sure & known])
    assert (warped.sum(1)[~known] < 0.75).all()


def test_outside_the_picture_all_is_unknown() -> None:
    images, mask = torch.ones(6, 3, 10, 10), torch.zeros(6, 10, 10).long()
    config = AugmentConfig(crop=(30, 30), scale=(1.0, 1.0), flip=0.0, **PLAIN)
    crops, labels, maps = augment(images, mask, images.clone(), config, generator=rng())
    outside = labels == IGNORE
    assert (outside.sum((1, 2)) == 800).all()
    assert maps is not None
    torch.testing.assert_close(crops[:, 0], torch.where(outside, GREY, 1.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(maps[:, 0], torch.where(outside, 0.0, 1.0), atol=1e-4, rtol=0)
    assert len({tuple(row.nonzero()[0].tolist()) for row in ~outside}) > 3  # placed at random


def test_unknown_pixels_stay_unknown() -> None:
    mask = torch.full((2, 16, 16), IGNORE)
    _, labels, _ = augment(
        torch.rand(2, 3, 16, 16), mask, None, AugmentConfig(crop=(8, 8)), generator=rng()
    )
    assert (labels == IGNORE).all()


def test_colour_moves_images_within_range_and_leaves_maps_alone() -> None:
    images = torch.rand(4, 3, 12, 12, generator=rng(1))
    mask = torch.zeros(4, 12, 12).long()
    config = AugmentConfig(crop=(12, 12), scale=(1.0, 1.0), flip=0.0, brightness=0.5, hue=0.1)
    coloured, _, maps = augment(images, mask, images, config, generator=rng())
    assert maps is not None
    torch.testing.assert_close(maps, images, atol=1e-5, rtol=0)
    assert coloured.amin() >= 0
    assert coloured.amax() <= 1
    assert ((coloured - images).abs().mean((1, 2, 3)) > 0.01).all()


def test_a_turn_of_hue_keeps_grey_and_a_third_of_a_turn_swaps_channels() -> None:
    images = torch.rand(2, 3, 4, 4, generator=rng())
    third = torch.full((2,), 2 * torch.pi / 3)
    torch.testing.assert_close(_turn_hue(images, third), images.roll(1, 1))
    grey = images[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(_turn_hue(grey, torch.tensor([0.3, -2.0])), grey)


def test_only_the_generator_decides() -> None:
    images, mask = numbered(3, 20, 20)
    config = AugmentConfig(crop=(10, 10))
    torch.manual_seed(1)
    first = augment(images, mask, None, config, generator=rng(5))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = augment(images, mask, None, config, generator=rng(5))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[1], augment(images, mask, None, config, generator=rng(6))[1])


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"crop": (0, 4)}, "crop must be at least 1x1, got 0x4"),
        ({"scale": (2.0, 1.0)}, "0 < low <= high, got (2.0, 1.0)"),
        ({"flip": 2.0}, "flip must be a probability in [0, 1], got 2.0"),
        ({"contrast": 1.0}, "contrast must be in [0, 1), got 1.0"),
        ({"hue": 0.7}, "hue must be in [0, 0.5], got 0.7"),
    ],
)
def test_a_config_checks_itself(field: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        AugmentConfig(**{"crop": (4, 4), **field})


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 20), st.integers(1, 20))
def test_labels_are_resized_at_pixel_centres(h: int, w: int, new_h: int, new_w: int) -> None:
    mask = torch.arange(h * w).view(1, h, w) % 256
    got = resize_labels(mask, (new_h, new_w))
    rows = [min(int((i + 0.5) * h / new_h), h - 1) for i in range(new_h)]
    columns = [min(int((j + 0.5) * w / new_w), w - 1) for j in range(new_w)]
    assert torch.equal(got, mask[:, rows][:, :, columns])


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 2, 4, 8]))
def test_padding_repeats_the_edge_and_can_be_cut(h: int, w: int, multiple: int) -> None:
    for x in (torch.rand(2, 3, h, w), torch.randint(9, (2, h, w))):
        padded, size = pad_to_multiple(x, multiple)
        assert size == (h, w)
        assert padded.dtype == x.dtype
        assert padded.shape[-2] % multiple == padded.shape[-1] % multiple == 0
        assert padded.shape[-2] - h < multiple
        assert torch.equal(padded[..., :h, :w], x)
        assert torch.equal(padded[..., -1, -1], x[..., -1, -1])


@pytest.mark.parametrize("size", [1, 2, 4])
def test_block_means_are_average_pooling(size: int) -> None:
    x = torch.rand(2, 3, 8, 12, generator=rng())
    torch.testing.assert_close(block_mean(x, size), torch.nn.functional.avg_pool2d(x, size))


def test_small_maps_follow_the_images() -> None:
    """A smooth map warped at half the size agrees with the same map warped at full size."""
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    full = torch.stack([x, y])[None].repeat(4, 1, 1, 1)  # coordinates of the pixel centres
    half = torch.nn.functional.avg_pool2d(full, 2)
    images, mask = torch.zeros(4, 3, 64, 96), torch.zeros(4, 64, 96).long()
    config = AugmentConfig(crop=(32, 48), scale=(1.0, 2.0))
    _, _, fine = augment(images, mask, full, config, generator=rng())
    _, _, coarse = augment(images, mask, half, config, generator=rng())
    assert fine is not None
    assert coarse is not None
    inner = (..., slice(2, -2), slice(2, -2))  # half a coarse pixel lies outside at the border
    want = torch.nn.functional.avg_pool2d(fine, 2)
    torch.testing.assert_close(coarse[inner], want[inner], atol=1e-3, rtol=0)


def test_maps_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match="one whole factor"):
        augment(
            torch.zeros(1, 3, 8, 8),
            torch.zeros(1, 8, 8).long(),
            torch.zeros(1, 2, 4, 8),
            AugmentConfig(crop=(8, 8)),
            generator=rng(),
        )
