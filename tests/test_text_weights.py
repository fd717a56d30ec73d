"""Weights of the parts of a score: they find the truth, and stay calm where there is none."""

import pytest
import torch
from torch.nn import functional as F

from crispmask.shapes import IGNORE
from crispmask.train.text_weights import PIXELS, ScoreParts, WeightFit


def drawn(
    temperature: float, align: float, presence: float, *, seed: int
) -> tuple[ScoreParts, torch.Tensor]:
    """Parts of five labels, and labels drawn from what these weights make of them."""
    generator = torch.Generator().manual_seed(seed)
    parts = ScoreParts(
        logits=3 * torch.randn(5, 40, 40, generator=generator),
        align=2 * torch.randn(5, 40, 40, generator=generator),
        presence=-F.softplus(2 * torch.randn(5, generator=generator)),
    )
    scores = parts.logits + align * parts.align + presence * parts.presence[:, None, None]
    probs = (scores / temperature).softmax(0).flatten(1).T
    return parts, torch.multinomial(probs, 1, generator=generator).view(40, 40)


def test_the_weights_that_made_the_labels_are_found() -> None:
    fit = WeightFit()
    for seed in range(60):
        parts, labels = drawn(2.0, 0.5, 3.0, seed=seed)
        labels[:5] = IGNORE
        fit.update(parts, labels)
    assert max(len(target) for _, target in fit.samples) <= PIXELS
    found = fit.compute()
    assert found["temperature"] == pytest.approx(2.0, rel=0.1)
    assert found["align_weight"] == pytest.approx(0.5, rel=0.2)
    assert found["presence_weight"] == pytest.approx(3.0, rel=0.2)


def test_without_errors_the_weights_stay_finite() -> None:
    fit = WeightFit()
    labels = torch.randint(0, 3, (20, 20), generator=torch.Generator().manual_seed(0))
    logits = 10 * F.one_hot(labels, 3).movedim(-1, 0).float()
    fit.update(
        ScoreParts(logits=logits, align=torch.zeros_like(logits), presence=torch.zeros(3)), labels
    )
    found = fit.compute()
    assert 0.01 < found["temperature"] < 1
    assert found["align_weight"] == pytest.approx(1)


def test_of_nothing_all_are_one() -> None:
    fit = WeightFit()
    parts, labels = drawn(1.0, 1.0, 1.0, seed=0)
    fit.update(parts, torch.full_like(labels, IGNORE))
    floor = fit.compute().pop("floor")
    assert set(fit.compute().values()) == {1.0, floor}
    assert floor == 0


def test_the_floor_parts_words_that_are_there_from_those_left_out() -> None:
    """True words score 8 to 12 and all others -2 to 2: a floor lies between, with either sign."""
    generator = torch.Generator().manual_seed(0)
    for offset in (0.0, -20.0):
        fit = WeightFit()
        for _ in range(5):
            labels = torch.randint(0, 4, (20, 20), generator=generator)
            noise = 4 * torch.rand(4, 20, 20, generator=generator) - 2
            logits = offset + noise + 10 * F.one_hot(labels, 4).movedim(-1, 0)
            parts = ScoreParts(logits=logits, align=0 * logits, presence=torch.zeros(4))
            fit.update(parts, labels)
        assert offset + 2 < fit.compute()["floor"] < offset + 8


def test_pixels_of_the_background_do_not_count_for_the_weights() -> None:
    alone, beside = WeightFit(), WeightFit()
    parts, labels = drawn(2.0, 0.5, 3.0, seed=0)
    top = torch.arange(40)[:, None] < 20
    alone.update(parts, labels.where(top, IGNORE))
    beside.update(parts, labels.where(top, len(parts.presence)))
    ours, theirs = alone.compute(), beside.compute()
    assert theirs.pop("floor") > ours.pop("floor")
    assert theirs == pytest.approx(ours, rel=0.3)  # other pixels are chosen
