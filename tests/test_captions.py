"""Captions say what is in a mask, in the order of how much."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from crispmask.data.captions import KINDS, caption
from crispmask.shapes import IGNORE

NAMES = ("water", "forest", "cropland", "urban", "snow")


def mask_of(*counts: int) -> torch.Tensor:
    """A mask with so many pixels of each class."""
    ids = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return ids.view(1, -1)


def many(mask: torch.Tensor, count: int = 300) -> list[str]:
    rng = np.random.default_rng(0)
    return [caption(mask, NAMES, kinds=KINDS["earth"], rng=rng) for _ in range(count)]


def test_the_same_seed_gives_the_same_caption() -> None:
    mask = mask_of(20, 70, 10)
    first, again = many(mask), many(mask)
    assert first == again
    assert len(set(first)) > 30


def test_amounts_and_order() -> None:
    captions = many(mask_of(20, 72, 8), 600)
    assert "satellite picture of forest, some water and a little cropland" in captions
    for text in captions:
        places = [text.find(name) for name in ("forest", "water", "cropland")]
        found = [place for place in places if place >= 0]
        assert found == sorted(found)
        assert "urban" not in text
        assert "snow" not in text
        assert "  " not in text


def test_the_largest_class_is_named_and_small_ones_are_not() -> None:
    captions = many(mask_of(1, 0, 990, 9))
    named = [text for text in captions if "cropland" in text]
    assert 0.9 < len(named) / len(captions) < 1
    assert not any("water" in text or "urban" in text for text in captions)
    assert set(captions) - set(named) <= set(KINDS["earth"])


def test_unknown_pixels_do_not_count() -> None:
    mask = torch.cat([mask_of(0, 3), torch.full((1, 500), IGNORE)], 1)
    assert any("forest" in text for text in many(mask, 20))
    nothing = torch.full((4, 4), IGNORE)
    assert set(many(nothing)) <= set(KINDS["earth"])


@given(st.lists(st.integers(0, 50), min_size=5, max_size=5), st.integers(0, 99))
def test_every_named_class_is_there(counts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    text = caption(mask_of(*counts), NAMES, kinds=("picture",), rng=rng)
    assert text.startswith("picture")
    for name, count in zip(NAMES, counts, strict=True):
        if name in text:
            assert count / sum(counts) >= 0.02
