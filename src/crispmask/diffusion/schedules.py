"""Survival probability ``a_t`` of a label as a function of time.

``t`` runs from 0, where nearly every label is intact, to 1, where nearly none is. Neither end is
exact: a label is lost with probability 1e-5 at 0 and kept with probability 9e-6 at 1, so that
ratios such as ``a_t / a_s`` and ``1 / (1 - a_t)`` stay finite.
"""

import math
from collections.abc import Callable

from torch import Tensor

Schedule = Callable[[Tensor], Tensor]
"""Survival probability for each time; falls from `CLEAN` at 0 to `NOISE` at 1."""

CLEAN = 0.99999
"""``a_t`` at t = 0."""

NOISE = 9e-6
"""``a_t`` at t = 1."""


def linear(t: Tensor) -> Tensor:
    """Survival that falls in a straight line: ``CLEAN + (NOISE - CLEAN) t``.

    The default of DDPS (Lai et al. 2023, arXiv 2306.01721), with its end points.
    """
    return CLEAN * (1 - t) + NOISE * t  # this form is exact at both ends


def cosine(t: Tensor) -> Tensor:
    """Survival ``NOISE + (CLEAN - NOISE) (1 - sin(pi t / 2))**2``: more noise at equal t."""
    fall = (1 - (t * (math.pi / 2)).sin()) ** 2
    return NOISE + (CLEAN - NOISE) * fall


SCHEDULES: dict[str, Schedule] = {"linear": linear, "cosine": cosine}
"""Schedules by the name that configurations use."""
