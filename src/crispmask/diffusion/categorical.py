"""Noising processes over labels, sampled exactly with a few operations per pixel.

A state is an integer per pixel. Both processes keep a label until time t with probability
``a_t = schedule(t)`` and replace it otherwise, so that sampling needs a coin and a replacement,
never a tensor with an axis of classes. Only the soft `posterior` has that axis. `mixed` puts one
on top of the other.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crispmask.diffusion.schedules import Schedule, linear
from crispmask.errors import InputError
from crispmask.shapes import IGNORE, Generators, Mask, Probs, Time

StateProbs = Float[Tensor, "b s h w"]
"""Probabilities of the states of a process, which may be more than the classes."""


@dataclass(frozen=True)
class UniformDiffusion:
    """Replaces labels by uniformly drawn ones: ``q(x_t | x_0) = Cat(a_t x_0 + (1 - a_t) / K)``.

    The uniform kernel of D3PM (Austin et al. 2021, app. A.2.1), with ``a_t`` given directly.

    Attributes:
        num_classes: number K of labels, 2 to 255.
        schedule: survival probability ``a_t`` of a label.
    """

    num_classes: int
    schedule: Schedule = linear

    def __post_init__(self) -> None:
        _check_states(self.num_classes, self.num_states)

    @property
    def num_states(self) -> int:
        """Number of values a pixel can take: the classes."""
        return self.num_classes

    def prior(
        self,
        shape: tuple[int, int, int],
        *,
        generator: Generators = None,
        device: torch.device | str = "cpu",
    ) -> Mask:
        """State at time 1 for a mask of this shape (b, h, w): uniform labels."""
        return (uniform(shape, generator, device) * self.num_classes).long()

    def forward(self, x_0: Mask, t: Time, *, generator: Generators = None) -> Mask:
        """Draw from ``q(x_t | x_0)``; a pixel without a label (`IGNORE`) becomes uniform noise."""
        keep = uniform(x_0.shape, generator, x_0.device) < _per_pixel(self.schedule(t))
        return torch.where(keep & (x_0 != IGNORE), x_0, self._noise_like(x_0, generator))

    def jump(self, x_s: Mask, s: Time, t: Time, *, generator: Generators = None) -> Mask:
        """Draw from ``q(x_t | x_s)`` for a later time t."""
        a_ts = _per_pixel(self.schedule(t) / self.schedule(s))
        keep = uniform(x_s.shape, generator, x_s.device) < a_ts
        return torch.where(keep, x_s, self._noise_like(x_s, generator))

    def posterior_sample(
        self, x_0: Mask, x_t: Mask, t: Time, s: Time, *, generator: Generators = None
    ) -> Mask:
        """Draw from ``q(x_s | x_t, x_0)`` for an earlier time s, at any distance from t.

        Multiplied out, the product ``q(x_t | x_s) q(x_s | x_0)`` of Bayes' rule is a mixture of
        three cases: copy ``x_0``, copy ``x_t``, or draw a uniform label.
        """
        a_t, a_s = _per_pixel(self.schedule(t)), _per_pixel(self.schedule(s))
        a_ts = a_t / a_s  # survival from s to t
        u = 1 / self.num_classes
        same = (x_0 == x_t).to(a_t.dtype)
        total = a_t * same + (1 - a_t) * u  # q(x_t | x_0)
        copy_0 = a_s * (a_ts * same + (1 - a_ts) * u) / total
        copy_t = a_ts * (1 - a_s) * u / total
        draw = uniform(x_0.shape, generator, x_0.device)
        x_s = torch.where(draw < copy_0 + copy_t, x_t, self._noise_like(x_0, generator))
        return torch.where(draw < copy_0, x_0, x_s)

    def marginal(self, p_0: Probs, t: Time) -> Probs:
        """Distribution of the state at t: ``sum_x0 q(x_t | x_0) p_0(x_0)``."""
        a_t = self.schedule(t).view(-1, 1, 1, 1)
        return a_t * p_0 + (1 - a_t) / self.num_classes

    def posterior(self, p_0: Probs, x_t: Mask, t: Time, s: Time) -> Probs:
        """Reverse step from t to an earlier s: ``sum_x0 q(x_s | x_t, x_0) p_0(x_0)``.

        Averages exact Bayes posteriors in O(K). D3PM eq. 4 weighs by the joint
        ``q(x_s, x_t | x_0)`` instead; the two agree when ``p_0`` is one-hot, not in general.
        """
        a_t, a_s = (self.schedule(time).view(-1, 1, 1, 1) for time in (t, s))
        a_ts = a_t / a_s  # survival from s to t
        u = 1 / self.num_classes
        now = _is_state(x_t, self.num_classes)
        weight = p_0 / (a_t * now + (1 - a_t) * u)  # p_0 / q(x_t | x_0)
        likelihood = a_ts * now + (1 - a_ts) * u  # q(x_t | x_s)
        return likelihood * (a_s * weight + (1 - a_s) * u * weight.sum(1, keepdim=True))

    def _noise_like(self, x: Mask, generator: Generators) -> Mask:
        b, h, w = x.shape
        return self.prior((b, h, w), generator=generator, device=x.device)


@dataclass(frozen=True)
class AbsorbingDiffusion:
    """Replaces labels by a mask state, whose id is ``num_classes``.

    The absorbing kernel of D3PM (Austin et al. 2021, app. A.2.2), with ``a_t`` given directly.

    Attributes:
        num_classes: number K of labels, 2 to 254.
        schedule: survival probability ``a_t`` of a label.
    """

    num_classes: int
    schedule: Schedule = linear

    def __post_init__(self) -> None:
        _check_states(self.num_classes, self.num_states)

    @property
    def num_states(self) -> int:
        """Number of values a pixel can take: the classes and the mask state."""
        return self.num_classes + 1

    def prior(
        self,
        shape: tuple[int, int, int],
        *,
        generator: Generators = None,
        device: torch.device | str = "cpu",
    ) -> Mask:
        """State at time 1 for a mask of this shape (b, h, w): masked everywhere, not random."""
        return torch.full(shape, self.num_classes, dtype=torch.int64, device=device)

    def forward(self, x_0: Mask, t: Time, *, generator: Generators = None) -> Mask:
        """Draw from ``q(x_t | x_0)``; a pixel without a label (`IGNORE`) becomes masked."""
        keep = uniform(x_0.shape, generator, x_0.device) < _per_pixel(self.schedule(t))
        return x_0.where(keep & (x_0 != IGNORE), self.num_classes)

    def jump(self, x_s: Mask, s: Time, t: Time, *, generator: Generators = None) -> Mask:
        """Draw from ``q(x_t | x_s)`` for a later time t."""
        a_ts = _per_pixel(self.schedule(t) / self.schedule(s))
        return x_s.where(uniform(x_s.shape, generator, x_s.device) < a_ts, self.num_classes)

    def posterior_sample(
        self, x_0: Mask, x_t: Mask, t: Time, s: Time, *, generator: Generators = None
    ) -> Mask:
        """Draw from ``q(x_s | x_t, x_0)`` for an earlier time s, at any distance from t.

        A pixel that is not masked stays as it is, also where it differs from ``x_0``.
        """
        reveal = uniform(x_t.shape, generator, x_t.device) < _per_pixel(self._reveal(t, s))
        return torch.where(reveal & (x_t == self.num_classes), x_0, x_t)

    def marginal(self, p_0: Probs, t: Time) -> StateProbs:
        """Distribution of the state at t: ``sum_x0 q(x_t | x_0) p_0(x_0)``."""
        return self._split(p_0, self.schedule(t))

    def posterior(self, p_0: Probs, x_t: Mask, t: Time, s: Time) -> StateProbs:
        """Reverse step from t to an earlier s: ``sum_x0 q(x_s | x_t, x_0) p_0(x_0)``.

        The last of the ``num_classes + 1`` states is the mask state.
        """
        step = self._split(p_0, self._reveal(t, s))
        masked = (x_t == self.num_classes).unsqueeze(1)
        return torch.where(masked, step, _is_state(x_t, self.num_states).to(step.dtype))

    def _reveal(self, t: Time, s: Time) -> Time:
        """Probability that a pixel masked at t still has its label at s."""
        a_t, a_s = self.schedule(t), self.schedule(s)
        return (a_s - a_t) / (1 - a_t)

    def _split(self, p_0: Probs, labelled: Time) -> StateProbs:
        """Gives the labels this share of the probability, and the mask state the rest."""
        share = labelled.view(-1, 1, 1, 1)
        rest = (1 - share).expand(-1, 1, *p_0.shape[2:])
        return torch.cat([share * p_0, rest], dim=1)  # b k+1 h w


def categorical_sample(probs: Probs, *, generator: Generators = None) -> Mask:
    """Draw a class for each pixel, by one uniform number and the cumulative sum over classes."""
    cdf = probs.cumsum(1)
    b, k, h, w = cdf.shape
    draw = uniform((b, h, w), generator, cdf.device) * cdf[:, -1]
    return (cdf <= draw.unsqueeze(1)).sum(1).clamp(max=k - 1)


def image_generators(seed: int, names: Sequence[str]) -> list[torch.Generator]:
    """One generator for each image, seeded by a stable hash of the seed and the image's name.

    Results then do not depend on the size or the order of batches.
    """
    generators = []
    for name in names:
        digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
        generators.append(torch.Generator().manual_seed(int.from_bytes(digest, "big")))
    return generators


def uniform(
    shape: Sequence[int], generator: Generators, device: torch.device | str
) -> Float[Tensor, "b h w"]:
    """Uniform numbers in [0, 1), drawn where the generator lives and moved to the device."""
    if isinstance(generator, Sequence):
        if len(generator) != shape[0]:
            raise InputError(
                f"one generator per image is needed, got {len(generator)} generators for "
                f"{shape[0]} images; make them with image_generators(seed, names)."
            )
        return torch.stack([_draw(shape[1:], one, device) for one in generator])
    return _draw(shape, generator, device)


def _draw(
    shape: Sequence[int], generator: torch.Generator | None, device: torch.device | str
) -> Float[Tensor, "*shape"]:
    source = device if generator is None else generator.device
    return torch.rand(*shape, generator=generator, device=source, dtype=torch.float32).to(device)


def _per_pixel(value: Time) -> Float[Tensor, "b 1 1"]:
    return value.view(-1, 1, 1)


def _is_state(x: Mask, num_states: int) -> Bool[Tensor, "b s h w"]:
    states = torch.arange(num_states, device=x.device).view(1, -1, 1, 1)
    return x.unsqueeze(1) == states


def _check_states(num_classes: int, num_states: int) -> None:
    if num_classes < 2 or num_states > IGNORE:
        raise InputError(
            f"a process needs 2 to {IGNORE - (num_states - num_classes)} classes, got "
            f"{num_classes}; a binary mask has two, and {IGNORE} is the label of unknown pixels."
        )
