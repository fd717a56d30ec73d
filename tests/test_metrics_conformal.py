"""Conformal label sets: against a slow search, and the promise on exchangeable images."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from crispmask.data.earth import earth
from crispmask.errors import InputError
from crispmask.metrics.conformal import ConformalThreshold, LabelSetCoverage, label_sets
from crispmask.models.checkpoint import WEIGHTS
from crispmask.models.segmenters import FPNSegmenter
from crispmask.shapes import IGNORE

K = 4


def images(count: int, rng: torch.Generator, *, size: int = 6) -> tuple[Tensor, Tensor]:
    """Images that differ in difficulty; all pixels of one share its luck."""
    logits = 2 * torch.randn(count, K, size, size, generator=rng)
    trust = 3 * torch.rand(count, 1, 1, 1, generator=rng)  # of one image: is the answer any good?
    gumbel = -torch.log(-torch.log(torch.rand(logits.shape, generator=rng).clamp(1e-6, 1 - 1e-6)))
    target = (trust * logits + gumbel).argmax(1)
    target[torch.rand(target.shape, generator=rng) < 0.2] = IGNORE
    return logits.softmax(1), target


def missed(probs: Tensor, target: Tensor, threshold: float) -> float:
    """Loss of one image (k h w, h w) by a loop."""
    lost, known = 0, 0
    for y, x in (target != IGNORE).nonzero().tolist():
        p, label = probs[:, y, x], int(target[y, x])
        known += 1
        lost += not (p[label] >= threshold or int(p.argmax()) == label)
    return lost / known


@given(st.integers(1, 8), st.sampled_from([0.05, 0.2, 0.4, 0.7]), st.integers(0, 100))
def test_the_threshold_is_the_largest_safe_one(count: int, alpha: float, seed: int) -> None:
    probs, target = images(count, torch.Generator().manual_seed(seed), size=4)
    target[:, 0, 0] = 0
    metric = ConformalThreshold(alpha, num_thresholds=20)
    metric.update(probs, target)

    safe = [0.0]
    for step in range(21):
        threshold = torch.tensor(step / 20).item()  # as a float32 has it
        losses = [missed(p, t, threshold) for p, t in zip(probs, target, strict=True)]
        if (sum(losses) + 1) / (count + 1) <= alpha:
            safe.append(threshold)
    assert metric.compute() == pytest.approx(max(safe))


def test_a_new_image_is_covered_as_promised() -> None:
    rng = torch.Generator().manual_seed(0)
    alpha, covered = 0.15, []
    for _ in range(60):  # calibrations of 25 images, 20 new ones each
        metric = ConformalThreshold(alpha)
        metric.update(*images(25, rng))
        probs, target = images(20, rng)
        check = LabelSetCoverage()
        check.update(label_sets(probs, metric.compute()), target)
        covered.append(check.compute().coverage)
    values = torch.tensor(covered)
    error = values.std().item() / math.sqrt(len(values))
    assert values.mean() >= 1 - alpha - 3 * error
    assert values.mean() <= 1 - alpha + 0.1  # and not by taking all labels


def test_few_images_promise_little() -> None:
    probs, target = images(4, torch.Generator().manual_seed(0))
    metric = ConformalThreshold(0.1)  # five images could not hold 0.1 if one were lost
    metric.update(probs, target)
    assert metric.compute() == 0
    assert label_sets(probs, 0.0).all()


def test_sets_are_never_empty_and_shrink_with_the_threshold() -> None:
    probs, _ = images(3, torch.Generator().manual_seed(1))
    assert torch.equal(label_sets(probs, 1.0).sum(1), torch.ones(3, 6, 6, dtype=torch.int64))
    assert torch.equal(label_sets(probs, 1.0).int().argmax(1), probs.argmax(1))
    wide, narrow = label_sets(probs, 0.1), label_sets(probs, 0.3)
    assert (wide | ~narrow).all()


def test_scores_by_hand_and_batches_add_up() -> None:
    target = torch.tensor([[[0, 1]], [[1, IGNORE]], [[IGNORE, IGNORE]]])
    sets = torch.zeros(3, 3, 1, 2, dtype=torch.bool)
    sets[0, 0, 0] = True  # {0} and {0}: one of two
    sets[1, 1:, 0, 0] = True  # {1, 2}: one of one
    whole, left, right = (LabelSetCoverage() for _ in range(3))
    whole.update(sets, target)
    scores = whole.compute()
    assert scores.coverage == pytest.approx((1 / 2 + 1) / 2)
    assert scores.size == pytest.approx(4 / 3)
    assert scores.single == pytest.approx(2 / 3)
    left.update(sets[:1], target[:1])
    right.update(sets[1:], target[1:])
    left.merge_state(right)
    assert left.compute() == scores
    blank = LabelSetCoverage()
    blank.update(sets[2:], target[2:])
    assert math.isnan(blank.compute().coverage)


def test_calibration_batches_add_up_and_ignored_pixels_do_not_count() -> None:
    probs, target = images(6, torch.Generator().manual_seed(3))
    target[5] = IGNORE
    other = torch.where((target == IGNORE)[:, None], probs.roll(1, 1), probs)
    whole, left, right = (ConformalThreshold(0.3) for _ in range(3))
    whole.update(probs, target)
    left.update(other[:2], target[:2])
    right.update(other[2:], target[2:])
    left.merge_state(right)
    assert int(left.images) == 5
    torch.testing.assert_close(left.missed, whole.missed)


def test_a_share_outside_is_refused() -> None:
    with pytest.raises(InputError, match="between 0 and 1, got 1"):
        ConformalThreshold(1)


@pytest.mark.skipif(not (WEIGHTS / "earth-small").is_dir(), reason="earth-small is not bundled")
def test_on_tiles_of_the_earth() -> None:
    segmenter = FPNSegmenter.from_pretrained("earth-small")
    metric, check = ConformalThreshold(0.3), LabelSetCoverage()
    for index in range(6):
        sample = earth("val")[5 * index - 5]
        metric.update(segmenter(sample.image[None]).probs, sample.mask[None])
    sample = earth("test")[0]
    check.update(
        label_sets(segmenter(sample.image[None]).probs, metric.compute()), sample.mask[None]
    )
    assert 0 < metric.compute() < 1
    assert 1 <= check.compute().size <= 10
