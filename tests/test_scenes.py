"""Drawn scenes: repeatable, labelled as they are painted, with pairs that training never shows."""

from itertools import product

import numpy as np
import pytest
import torch

from crispmask.data.scenes import (
    COLOURS,
    HELD_OUT,
    SCENE_CLASSES,
    SCENES,
    SHAPES,
    SIZE,
    ScenesDataset,
    cover,
    scenes,
)
from crispmask.data.source import open_data, open_split
from crispmask.errors import InputError

DATASETS = {split: scenes(split) for split in SCENES}


def pairs_of(data: ScenesDataset) -> list[set[str]]:
    """Names of what each scene shows."""
    return [
        {SCENE_CLASSES[i] for i in torch.unique(s.mask).tolist() if i}
        for s in map(data.__getitem__, range(len(data)))
    ]


PAIRS = {split: pairs_of(data) for split, data in DATASETS.items()}


def test_contract() -> None:
    assert [len(data) for data in DATASETS.values()] == [800, 80, 200]
    for i in range(20):
        sample = DATASETS["train"][i]
        assert sample.image.shape == (3, SIZE, SIZE)
        assert sample.mask.shape == (SIZE, SIZE)
        assert 0 <= sample.image.min() < sample.image.max() <= 1
    assert DATASETS["val"][3].name == "s0803"
    for data in (open_split("scenes", "val"), open_data("scenes:val")):
        assert data.class_names == SCENE_CLASSES
        assert torch.equal(data[0].mask, DATASETS["val"][0].mask)
    with pytest.raises(InputError, match="train, val, test, got all"):
        scenes("all")


def test_a_scene_depends_on_its_number_alone() -> None:
    first, again, other = DATASETS["test"][7], scenes("test")[7], DATASETS["test"][6]
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.mask, again.mask)
    assert not torch.equal(first.mask, other.mask)


def test_held_out_pairs_are_in_no_training_scene_but_their_words_are() -> None:
    trained = set.union(*PAIRS["train"])
    assert trained == set(SCENE_CLASSES[1:]) - set(HELD_OUT)
    words = {word for pair in trained for word in pair.split()}
    assert words == {*COLOURS, *SHAPES}
    for pair in HELD_OUT:
        assert sum(pair in found for found in PAIRS["test"]) >= 10
    assert set.union(*PAIRS["val"]) == set.union(*PAIRS["test"]) == set(SCENE_CLASSES[1:])


@pytest.mark.parametrize("split", SCENES)
def test_three_of_four_pairs_are_there(split: str) -> None:
    """So no colour and no shape tells alone what is asked."""
    for found in PAIRS[split]:
        colours, shapes = (set(words) for words in zip(*map(str.split, found), strict=True))
        assert (len(found), len(colours), len(shapes)) == (3, 2, 2)


def test_colours_are_those_of_the_names() -> None:
    for i in range(20):
        sample = DATASETS["test"][i]
        for label in torch.unique(sample.mask).tolist():
            name = SCENE_CLASSES[label].split()[0]
            if name in COLOURS:
                inside = sample.image[:, sample.mask == label].median(1).values
                far = [(inside - torch.tensor(colour)).norm().item() for colour in COLOURS.values()]
                assert list(COLOURS)[int(np.argmin(far))] == name


def test_shapes_have_their_areas() -> None:
    """Against the areas of plane geometry, for a shape that fills most of the picture."""
    r = 12.0
    areas = {
        "circle": np.pi * r**2,
        "square": (2 * 0.87 * r) ** 2,
        "triangle": 2 * r**2,
        "cross": (4 * 0.36 * 2 - 4 * 0.36**2) * r**2,
    }
    for shape in SHAPES:
        covered = cover(shape, 16.0, 15.5, r)
        assert covered.sum() == pytest.approx(areas[shape], rel=0.02), shape
        rows, columns = np.nonzero(covered > 0)
        assert rows.min() >= 3
        assert columns.max() <= 28
    assert len({tuple((cover(s, 16.0, 16.0, 6.0) >= 0.5).ravel()) for s in SHAPES}) == len(SHAPES)


def test_names_are_pairs_in_the_order_of_the_ids() -> None:
    assert SCENE_CLASSES[0] == "background"
    assert list(SCENE_CLASSES[1:]) == [" ".join(pair) for pair in product(COLOURS, SHAPES)]
    assert len({pair.split()[0] for pair in HELD_OUT}) == len(HELD_OUT)
    assert {pair.split()[1] for pair in HELD_OUT} == set(SHAPES)
