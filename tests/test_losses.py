"""Losses against loops over pixels; ignored pixels carry no gradient."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from crispmask.diffusion.losses import cross_entropy, soft_dice, vlb
from crispmask.diffusion.mixed import Process
from crispmask.shapes import IGNORE
from dense_processes import KINDS

Loss = Callable[[Tensor, Tensor], Tensor]


def step(process: Process) -> Loss:
    """The variational bound of a step from pure noise, as a loss of the prediction."""

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        t, rng = torch.ones(len(target), dtype=torch.float64), torch.Generator().manual_seed(0)
        x_t = process.forward(target, t, generator=rng)
        return vlb(process, logits, target, x_t, t, t / 2)

    return loss


LOSSES = {"cross_entropy": cross_entropy, "soft_dice": soft_dice} | {
    f"vlb of {kind.__name__}": step(kind(4)) for kind in KINDS
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def example(ignored: float = 0.4) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, generator=rng, dtype=torch.float64)
    target = torch.randint(3, (2, 5, 6), generator=rng)  # class 3 never occurs
    target[torch.rand(2, 5, 6, generator=rng) < ignored] = IGNORE
    return logits, target


def pixels(logits: Tensor, target: Tensor) -> list[tuple[list[float], int]]:
    """Probabilities and label of each valid pixel."""
    found = []
    for scores, label in zip(logits.movedim(1, -1).reshape(-1, 4), target.flatten(), strict=True):
        if label != IGNORE:
            exps = [math.exp(score) for score in scores.tolist()]
            found.append(([value / sum(exps) for value in exps], int(label)))
    return found


def test_cross_entropy_is_the_mean_over_valid_pixels() -> None:
    logits, target = example()
    terms = [-math.log(probs[label]) for probs, label in pixels(logits, target)]
    assert cross_entropy(logits, target).item() == pytest.approx(sum(terms) / len(terms))


def test_soft_dice_averages_the_classes_that_occur() -> None:
    logits, target = example()
    scores = []
    for k in range(3):
        overlap = sum(probs[k] for probs, label in pixels(logits, target) if label == k)
        total = sum(probs[k] + (label == k) for probs, label in pixels(logits, target))
        scores.append(2 * overlap / total)
    assert soft_dice(logits, target).item() == pytest.approx(1 - sum(scores) / 3)


def test_a_certain_and_right_prediction_costs_nothing() -> None:
    target = example(ignored=0)[1]
    logits = 100.0 * torch.nn.functional.one_hot(target, 4).movedim(-1, 1)
    assert cross_entropy(logits, target).item() == pytest.approx(0, abs=1e-6)
    assert soft_dice(logits, target).item() == pytest.approx(0, abs=1e-6)


@every_loss
def test_ignored_pixels_change_nothing(loss: Loss) -> None:
    logits, target = example()
    before = loss(logits, target)
    ignored = (target == IGNORE).unsqueeze(1)
    other = torch.where(ignored, 30 - 5 * logits, logits).requires_grad_()

    after = loss(other, target)
    gradient = torch.autograd.grad(after, other)[0].movedim(1, -1)

    torch.testing.assert_close(after, before)
    assert (gradient[target == IGNORE] == 0).all()
    assert (gradient[target != IGNORE] != 0).any()


@every_loss
def test_a_batch_without_a_valid_pixel_gives_zero_and_a_zero_gradient(loss: Loss) -> None:
    logits = example()[0].requires_grad_()
    value = loss(logits, torch.full((2, 5, 6), IGNORE))
    assert value.item() == 0
    assert (torch.autograd.grad(value, logits)[0] == 0).all()


@every_loss
def test_descent_finds_the_target(loss: Loss) -> None:
    logits, target = example()
    for _ in range(50):
        logits.requires_grad_()
        gradient = torch.autograd.grad(loss(logits, target), logits)[0]
        logits = logits.detach() - 0.3 * gradient.sign()
    valid = target != IGNORE
    assert (logits.argmax(1)[valid] == target[valid]).all()
