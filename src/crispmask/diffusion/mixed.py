"""Mask and replace: the two processes of `categorical`, one on top of the other."""

from dataclasses import dataclass

import torch
from torch import Tensor

from crispmask.diffusion.categorical import (
    AbsorbingDiffusion,
    StateProbs,
    UniformDiffusion,
    uniform,
)
from crispmask.diffusion.schedules import Schedule, linear
from crispmask.errors import InputError
from crispmask.shapes import IGNORE, Generators, Mask, Probs, Time


@dataclass(frozen=True)
class MixedDiffusion:
    """Masks some of the lost labels and replaces the others by uniformly drawn ones.

    The strategy of VQ-Diffusion (Gu et al. 2022, sec. 4.1) with one schedule: a label is intact
    with probability ``a_t``, masked with ``mask_share (1 - a_t)``, and drawn anew otherwise. This
    is uniform replacement, whose result is then masked. With

        ``u_t = 1 - mask_share (1 - a_t)``  (not masked)  and  ``b_t = a_t / u_t``  (not replaced),

    both of which fall with t, ``u_t`` is the survival of an `AbsorbingDiffusion` over the labels
    of a `UniformDiffusion` with the survival ``b_t``. The two do not influence each other, so that
    every formula here is one of theirs: a pixel that is not masked at t was never masked, and what
    a mask hides is a state of the uniform process. The mask state has the id ``num_classes``.

    Attributes:
        num_classes: number K of labels, 2 to 254.
        schedule: survival probability ``a_t`` of a label.
        mask_share: share of the lost labels that are masked, above 0 and below 1.

    Raises:
        InputError: if the number of classes or the share is out of range.
    """

    num_classes: int
    schedule: Schedule = linear
    mask_share: float = 0.5

    def __post_init__(self) -> None:
        AbsorbingDiffusion(self.num_classes)  # checks the number of classes
        if not 0 < self.mask_share < 1:
            raise InputError(
                f"mask_share must be above 0 and below 1, got {self.mask_share}; "
                "use UniformDiffusion for 0 and AbsorbingDiffusion for 1."
            )

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
        """State at time 1 for a mask of this shape (b, h, w): masked, or a uniform label."""
        labels = self._labels.prior(shape, generator=generator, device=device)
        unmasked = uniform(shape, generator, device) < 1 - self.mask_share
        return labels.where(unmasked, self.num_classes)

    def forward(self, x_0: Mask, t: Time, *, generator: Generators = None) -> Mask:
        """Draw from ``q(x_t | x_0)``; a pixel without a label (`IGNORE`) is drawn as at time 1."""
        labels = self._labels.forward(x_0, t, generator=generator)
        unmasked = self._unmasked(t).view(-1, 1, 1).where(x_0 != IGNORE, 1 - self.mask_share)
        return labels.where(uniform(x_0.shape, generator, x_0.device) < unmasked, self.num_classes)

    def jump(self, x_s: Mask, s: Time, t: Time, *, generator: Generators = None) -> Mask:
        """Draw from ``q(x_t | x_s)`` for a later time t; a masked pixel stays masked."""
        labels = self._labels.jump(x_s, s, t, generator=generator)
        labels = labels.where(x_s != self.num_classes, self.num_classes)
        return self._masks.jump(labels, s, t, generator=generator)

    def posterior_sample(
        self, x_0: Mask, x_t: Mask, t: Time, s: Time, *, generator: Generators = None
    ) -> Mask:
        """Draw from ``q(x_s | x_t, x_0)`` for an earlier time s, at any distance from t.

        A masked pixel stays so or shows a label drawn from ``q(x_s | x_0)`` of the replacement;
        any other pixel takes the posterior step of the replacement.
        """
        hidden = self._labels.forward(x_0, s, generator=generator)
        shown = self._labels.posterior_sample(x_0, x_t, t, s, generator=generator)
        revealed = self._masks.posterior_sample(hidden, x_t, t, s, generator=generator)
        return torch.where(x_t == self.num_classes, revealed, shown)

    def marginal(self, p_0: Probs, t: Time) -> StateProbs:
        """Distribution of the state at t: ``sum_x0 q(x_t | x_0) p_0(x_0)``."""
        return self._masks.marginal(self._labels.marginal(p_0, t), t)

    def posterior(self, p_0: Probs, x_t: Mask, t: Time, s: Time) -> StateProbs:
        """Reverse step from t to an earlier s: ``sum_x0 q(x_s | x_t, x_0) p_0(x_0)``.

        The last of the ``num_classes + 1`` states is the mask state.
        """
        revealed = self._masks.posterior(self._labels.marginal(p_0, s), x_t, t, s)
        shown = self._labels.posterior(p_0, x_t, t, s)
        shown = torch.cat([shown, torch.zeros_like(shown[:, :1])], dim=1)  # b k+1 h w
        return torch.where((x_t == self.num_classes).unsqueeze(1), revealed, shown)

    @property
    def _labels(self) -> UniformDiffusion:
        return UniformDiffusion(self.num_classes, self._kept)

    @property
    def _masks(self) -> AbsorbingDiffusion:
        return AbsorbingDiffusion(self.num_classes, self._unmasked)

    def _unmasked(self, t: Tensor) -> Tensor:
        """Probability ``u_t`` that a pixel is not masked at t."""
        return 1 - self.mask_share * (1 - self.schedule(t))

    def _kept(self, t: Tensor) -> Tensor:
        """Probability ``b_t`` that a pixel which is not masked still has its own label."""
        return self.schedule(t) / self._unmasked(t)


Process = UniformDiffusion | AbsorbingDiffusion | MixedDiffusion
"""What a sampler can reverse and a loss can judge."""
