"""What a `TextSegmenter` answers."""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from crispmask.models.probabilities import entropy
from crispmask.shapes import Mask, Probs


@dataclass(frozen=True, kw_only=True)
class TextAnswer:
    """Labels, probabilities, presence and uncertainty of an image, at its size.

    A `MaskRefiner` of the same classes takes it as a base.

    Attributes:
        label_names: names of the labels: those of the vocabulary, with the background at its id.
        labels: the most probable one of each pixel.
        kept: labels that have a map, in ascending order; the others have probability 0.
        kept_probs: probabilities of these, their sum over m is 1.
        presence: probability that a class of the vocabulary is in the image, whether it has a map
            or not; the background is none of them.
        uncertainty: entropy of the probabilities over its maximum log(m): 0 is certain, 1 a guess.
        num_calls: rows that went through the denoiser: queries x steps x views, and one more for
            the ranking.
    """

    label_names: tuple[str, ...]
    labels: Mask
    kept: tuple[int, ...]
    kept_probs: Float[Tensor, "b m h w"]
    presence: Float[Tensor, "b k"]
    uncertainty: Float[Tensor, "b h w"]
    num_calls: int

    @classmethod
    def from_probs(
        cls,
        kept_probs: Float[Tensor, "b m h w"],
        *,
        kept: tuple[int, ...],
        label_names: tuple[str, ...],
        presence: Float[Tensor, "b k"],
        num_calls: int,
    ) -> Self:
        """The answer with these probabilities; labels and uncertainty follow from them."""
        winner = kept_probs.argmax(1)  # b h w
        alone = len(kept) == 1  # the only label is certain, and log(1) is no divisor
        return cls(
            label_names=label_names,
            labels=torch.tensor(kept, device=winner.device)[winner],
            kept=kept,
            kept_probs=kept_probs,
            presence=presence,
            uncertainty=torch.zeros_like(kept_probs[:, 0]) if alone else entropy(kept_probs),
            num_calls=num_calls,
        )

    @property
    def probs(self) -> Probs:
        """Probabilities of all labels; made anew at each look, a map for each label."""
        b, _, h, w = self.kept_probs.shape
        probs = self.kept_probs.new_zeros(b, len(self.label_names), h, w)
        probs[:, list(self.kept)] = self.kept_probs
        return probs
