"""What a `MaskRefiner` passes on: its state, its condition, its answer."""

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from crispmask.diffusion.samplers import Denoise
from crispmask.models.probabilities import entropy
from crispmask.nn.unet import Stem
from crispmask.shapes import Logits, Mask, Probs

State = Int64[Tensor, "b _ _"]
"""Labels, or codes, at the size of the state, beside masks at that of the image."""


@dataclass(frozen=True)
class Condition:
    """Everything about one batch that does not change between calls of the denoiser.

    Attributes:
        stem: the condition's share of the network's first layer.
        log_base: log-probabilities of the base at the size of the state, b k h/stride w/stride.
        known: labels that are certain there, `IGNORE` elsewhere; None if there are none.
    """

    stem: Stem
    log_base: Logits
    known: State | None = None


@dataclass(frozen=True)
class Bound:
    """A denoiser with its condition, and the base's log-probabilities at the state's size."""

    denoise: Denoise
    log_base: Logits


@dataclass(frozen=True)
class RefinerOutput:
    """A refined mask.

    Attributes:
        probs: class probabilities at the size of the image, b k h w.
        trace: labels at the size of the state after each call, before any gate, if asked for; those
            that are known stand in it.
        num_calls: how often the network was called.
    """

    probs: Probs
    trace: tuple[Int64[Tensor, "b _ _"], ...]
    num_calls: int

    @property
    def labels(self) -> Mask:
        """The most probable class of each pixel, b h w."""
        return self.probs.argmax(1)

    @property
    def uncertainty(self) -> Float[Tensor, "b h w"]:
        """Entropy of ``probs`` over its maximum log(k): 0 is certain, 1 is a guess."""
        return entropy(self.probs)
