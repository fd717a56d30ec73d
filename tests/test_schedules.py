"""Schedules: end points, order, and the official values on a grid of steps."""

import pytest
import torch

from crispmask.diffusion.schedules import CLEAN, NOISE, SCHEDULES, Schedule, cosine, linear

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


@every_schedule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends_are_the_official_ones(schedule: Schedule, dtype: torch.dtype) -> None:
    a_t = schedule(torch.tensor([0.0, 1.0], dtype=dtype))
    torch.testing.assert_close(a_t, torch.tensor([0.99999, 9e-6], dtype=dtype), rtol=1e-6, atol=0)


@every_schedule
def test_survival_only_falls(schedule: Schedule) -> None:
    a_t = schedule(torch.linspace(0, 1, 1001))
    assert (a_t.diff() < 0).all()
    assert ((a_t > 0) & (a_t < 1)).all()


def test_linear_on_twenty_steps() -> None:
    a_t = linear(torch.linspace(0, 1, 20, dtype=torch.float64))
    got = a_t[[0, 1, 2, -2, -1]]
    want = torch.tensor([0.99999, 0.9474, 0.8947, 0.0526, 9e-6], dtype=torch.float64)
    torch.testing.assert_close(got, want, rtol=0, atol=5e-5)


def test_cosine_is_noisier_in_the_middle() -> None:
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    assert (cosine(t) < linear(t)).all()
    half = cosine(torch.tensor([0.5], dtype=torch.float64)).item()
    assert half == pytest.approx(NOISE + (CLEAN - NOISE) * (1 - 0.5**0.5) ** 2)


def test_cosine_on_twenty_steps() -> None:
    a_t = cosine(torch.arange(3, dtype=torch.float64) / 20)
    want = torch.tensor([0.99999, 0.849, 0.712], dtype=torch.float64)
    torch.testing.assert_close(a_t, want, rtol=0, atol=1e-3)
