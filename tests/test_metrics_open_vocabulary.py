"""Metrics of open vocabularies, against loops over pixels and against sums done by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from crispmask.errors import InputError
from crispmask.metrics.open_vocabulary import PresenceAP, VocabularyConfusion
from crispmask.metrics.per_image import PerImage, hausdorff95
from crispmask.shapes import IGNORE, VOID


def random_pair(
    seed: int, labels: int, size: tuple[int, ...], ignore: int
) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    pred = torch.randint(labels, size, generator=rng)
    target = torch.randint(max(1, labels - 1), size, generator=rng)  # the last is never true
    target[torch.rand(size, generator=rng) < 0.2] = ignore
    target.view(-1)[0] = 0
    return pred, target


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 5), st.integers(1, 5))
def test_scores_equal_loops_over_pixels(seed: int, labels: int, h: int, w: int) -> None:
    pred, target = random_pair(seed, labels, (2, h, w), VOID)
    seen = [i % 2 == 0 for i in range(labels)]
    metric = VocabularyConfusion(labels, seen=seen, background=1, ignore=VOID)
    metric.update(pred[:1], target[:1])
    metric.update(pred[1:], target[1:])
    scores = metric.compute()
    pairs = [
        (p, t)
        for p, t in zip(pred.flatten().tolist(), target.flatten().tolist(), strict=True)
        if t != VOID
    ]
    iou, f1, recall = {}, {}, {}
    for k in range(labels):
        both, either = sum(p == t == k for p, t in pairs), sum(k in pair for pair in pairs)
        if either:
            iou[k], f1[k] = both / either, 2 * both / (both + either)
        if any(t == k for _, t in pairs):
            recall[k] = both / sum(t == k for _, t in pairs)
    there = list(recall)
    want = {
        "miou_truth": mean([iou[k] for k in there]),
        "miou_union": mean(list(iou.values())),
        "miou_seen": mean([iou[k] for k in there if seen[k] and k != 1]),
        "miou_unseen": mean([iou[k] for k in there if not seen[k] and k != 1]),
        "coi_miou": mean([value for k, value in iou.items() if k != 1]),
        "mean_f1": mean([f1[k] for k in there]),
        "mean_accuracy": mean(list(recall.values())),
        "accuracy": mean([float(p == t) for p, t in pairs]),
    }
    for name, value in want.items():
        assert getattr(scores, name) == pytest.approx(value, nan_ok=True), name
    assert scores.miou_union <= scores.miou_truth + 1e-12


def test_class_255_counts_where_void_is_unknown() -> None:
    metric = VocabularyConfusion(300, ignore=VOID)
    metric.update(torch.tensor([[[255, 299, 0]]]), torch.tensor([[[255, VOID, 255]]]))
    assert metric.compute().iou[255] == 1 / 2
    with pytest.raises(InputError, match="label 255 cannot be unknown where there are 300"):
        VocabularyConfusion(300)
    with pytest.raises(InputError, match="target must lie in 0 to 299, got 65535"):
        metric.update(torch.tensor([[[0]]]), torch.tensor([[[65535]]]))


def test_a_guess_between_two_classes_scores_half_of_it_for_the_one_of_interest() -> None:
    target = torch.zeros(1, 10, 10, dtype=torch.int64)
    target[:, 0] = 1
    pred = torch.arange(100).view(1, 10, 10) % 2
    metric = VocabularyConfusion(2, background=0)
    metric.update(pred, target)
    scores = metric.compute()
    assert scores.coi_miou == pytest.approx(5 / 55)
    assert scores.miou_union == pytest.approx((5 / 55 + 45 / 95) / 2)


def slow_ap(scores: list[float], truths: list[bool]) -> float:
    """Sum over thresholds of precision times the gain in recall."""
    total, before, area = sum(truths), 0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        kept = [t for s, t in zip(scores, truths, strict=True) if s >= threshold]
        area += sum(kept) / len(kept) * (sum(kept) - before) / total
        before = sum(kept)
    return area


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 4))
def test_presence_equals_a_sum_over_thresholds(seed: int, images: int, words: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    scores = torch.randint(-3, 4, (images, words), generator=rng).float() * 30
    there = torch.rand(images, words, generator=rng) < 0.5
    there[0, 0] = True
    metric = PresenceAP()
    for i in range(images):
        metric.update(scores[i : i + 1], there[i : i + 1])
    got = metric.compute()
    assert got.ap == pytest.approx(slow_ap(scores.flatten().tolist(), there.flatten().tolist()))
    own = [
        slow_ap(scores[:, k].tolist(), there[:, k].tolist())
        for k in range(words)
        if there[:, k].any()
    ]
    assert got.mean_ap == pytest.approx(mean(own))
    assert got.share == pytest.approx(there.double().mean().item())


def test_presence_of_words_that_are_nowhere() -> None:
    metric = PresenceAP()
    metric.update(torch.tensor([[0.3, 0.2]]), torch.tensor([[False, False]]))
    assert math.isnan(metric.compute().ap)
    with pytest.raises(InputError, match="must be finite"):
        metric.update(torch.tensor([[math.nan]]), torch.tensor([[True]]))


def slow_hausdorff95(a: np.ndarray, b: np.ndarray) -> float:
    def outline(mask: np.ndarray) -> np.ndarray:
        padded = np.pad(mask, 1)
        near = [padded[1:-1, :-2], padded[1:-1, 2:], padded[:-2, 1:-1], padded[2:, 1:-1]]
        return np.argwhere(mask & ~np.logical_and.reduce(near))

    ours, theirs = outline(a), outline(b)
    apart = np.sqrt(((ours[:, None] - theirs[None]) ** 2).sum(-1))
    return float(max(np.percentile(apart.min(1), 95), np.percentile(apart.min(0), 95)))


@given(st.integers(0, 10_000), st.integers(2, 9), st.integers(2, 9))
def test_per_image_scores_equal_slow_ones(seed: int, h: int, w: int) -> None:
    pred, target = random_pair(seed, 3, (2, h, w), IGNORE)
    metric = PerImage(3)
    metric.update(pred, target)
    scores = metric.compute()
    known = target != IGNORE
    for place, label in enumerate((1, 2)):
        ours, theirs = (pred == label) & known, (target == label) & known
        dice, far = [], []
        for a, b in zip(ours.numpy(), theirs.numpy(), strict=True):
            both, total = int((a & b).sum()), int(a.sum() + b.sum())
            dice.append(2 * both / total if total else 1.0)
            if a.any() and b.any():
                far.append(slow_hausdorff95(a, b))
            else:
                far.append(0.0 if a.any() == b.any() else math.hypot(h, w))
        assert scores.image_dice[place] == pytest.approx(mean(dice))
        assert scores.hd95[place] == pytest.approx(mean(far))
        tp, tn = (ours & theirs).sum(), (~ours & ~theirs & known).sum()
        sensitivity, specificity = tp / theirs.sum(), tn / (~theirs & known).sum()
        assert scores.sensitivity[place] == pytest.approx(sensitivity.item(), nan_ok=True)
        assert scores.specificity[place] == pytest.approx(specificity.item(), nan_ok=True)
        area = ours.sum() + theirs.sum()
        assert scores.dice[place] == pytest.approx((2 * tp / area).item(), nan_ok=True)


def test_empty_masks() -> None:
    empty = torch.zeros(1, 3, 4, dtype=torch.int64)
    full = torch.ones(1, 3, 4, dtype=torch.int64)
    metric = PerImage(2)
    metric.update(empty, empty)
    both_empty = metric.compute()
    assert (both_empty.image_dice, both_empty.image_iou, both_empty.hd95) == ((1,), (1,), (0,))
    assert math.isnan(both_empty.dice[0])
    metric.update(full, empty)
    assert metric.compute().image_dice == (0.5,)
    assert hausdorff95(full[0].bool().numpy(), empty[0].bool().numpy()) == 5
