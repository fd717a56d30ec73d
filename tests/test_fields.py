"""Drawn fields: repeatable, varied, and labelled as they are painted."""

import numpy as np
import pytest
import torch

from crispmask.data.catalog import palette_for
from crispmask.data.fields import (
    CROPS,
    FIELD_CLASSES,
    FIELD_PALETTE,
    FIELDS,
    SEED,
    SIZE,
    VIEWS,
    draw_conditions,
    fields,
)
from crispmask.data.source import open_split
from crispmask.errors import InputError

DATASETS = {split: fields(split) for split in FIELDS}
SAMPLES = [DATASETS["train"][i] for i in range(0, 48, 4)]  # one of each of twelve fields


def test_contract() -> None:
    assert [len(data) for data in DATASETS.values()] == [400, 60, 120]
    for sample in SAMPLES:
        assert sample.image.shape == (3, SIZE, SIZE)
        assert sample.mask.shape == (SIZE, SIZE)
        assert 0 <= sample.image.min() < sample.image.max() <= 1
    assert SAMPLES[1].name == "f001-0"
    data = open_split("fields", "val")
    assert data.class_names == FIELD_CLASSES
    assert palette_for(data.class_names) == FIELD_PALETTE


def test_a_picture_depends_on_its_number_alone() -> None:
    first, again = DATASETS["test"][7], fields("test")[7]
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.mask, again.mask)
    other = DATASETS["test"][6]
    assert DATASETS["test"].blocks[6] == DATASETS["test"].blocks[7]
    assert not torch.equal(first.mask, other.mask)


def test_no_field_is_in_two_splits() -> None:
    blocks = [set(data.blocks) for data in DATASETS.values()]
    assert len(set.union(*blocks)) == sum(map(len, blocks))
    for data in DATASETS.values():
        assert all(data.blocks.count(block) == VIEWS for block in set(data.blocks))


def test_every_class_occurs_and_soil_is_most() -> None:
    for sample in SAMPLES:
        soil, crop, weed = (torch.bincount(sample.mask.flatten(), minlength=3) / SIZE**2).tolist()
        assert 0.4 < soil < 0.97
        assert crop > 0.02
        assert weed > 0.001
    shares = torch.stack([torch.bincount(s.mask.flatten(), minlength=3) for s in SAMPLES]).float()
    assert (shares.std(0) / shares.mean(0) > 0.15)[1:].all()


def test_plants_are_green_where_the_mask_says_so() -> None:
    """More green over red than the soil of the same picture: the mask lies on the plants."""
    for sample in SAMPLES:
        greenness = sample.image[1] / (sample.image.sum(0) + 0.05)
        for label in (1, 2):
            inside = greenness[sample.mask == label].mean()
            assert inside > greenness[sample.mask == 0].mean() + 0.03, sample.name


def test_the_mask_is_registered_with_the_picture() -> None:
    sample = SAMPLES[0]
    greenness = (sample.image[1] / (sample.image.sum(0) + 0.05)).numpy()
    plants = (sample.mask > 0).numpy()

    def contrast(dy: int, dx: int) -> float:
        moved = np.roll(plants, (dy, dx), (0, 1))[8:-8, 8:-8]
        inner = greenness[8:-8, 8:-8]
        return float(inner[moved].mean() - inner[~moved].mean())

    scores = {(dy, dx): contrast(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)}
    assert max(scores, key=scores.__getitem__) == (0, 0)


def test_all_crops_occur_in_training() -> None:
    found = {
        draw_conditions(np.random.default_rng((SEED, field))).crop.widest
        for field in FIELDS["train"]
    }
    assert found == {crop.widest for crop in CROPS}


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(InputError, match="train, val, test, got all"):
        fields("all")
