"""How far a refinement depends on its noise: over seeds, and from call to call."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from crispmask.errors import InputError
from crispmask.models.probabilities import entropy
from crispmask.models.refiner import MaskRefiner
from crispmask.models.refiner_parts import RefinerOutput
from crispmask.shapes import Mask, Probs


@dataclass(frozen=True, kw_only=True)
class EnsembleOutput:
    """What several seeds of one refiner say together.

    Attributes:
        probs: mean of the seeds' class probabilities at the size of the image, b k h w.
        disagreement: information that the seed carries about the label, over its maximum log(k):
            the entropy of the mean minus the mean entropy (Houlsby et al. 2011, "Bayesian active
            learning", eq. 2), b h w in [0, 1]. 0 where all seeds give the same probabilities,
            however unsure these are.
        num_calls: how often the network was called for each image.
    """

    probs: Probs
    disagreement: Float[Tensor, "b h w"]
    num_calls: int

    @property
    def labels(self) -> Mask:
        """The most probable class of each pixel, b h w."""
        return self.probs.argmax(1)

    @property
    def uncertainty(self) -> Float[Tensor, "b h w"]:
        """Entropy of ``probs`` over its maximum log(k): 0 is certain, 1 is a guess."""
        return entropy(self.probs)


def refine_ensemble(
    refiner: MaskRefiner,
    image: Any,
    base: Any,
    *,
    ensemble_size: int,
    num_inference_steps: int = 1,
    seed: int = 0,
    gate: float | None = None,
    known: Any = None,
    missing: Any = None,
    names: list[str] | None = None,
) -> EnsembleOutput:
    """Refined masks averaged over several seeds, and how far the seeds disagree.

    Args:
        refiner: the model.
        image: as `MaskRefiner` takes it.
        base: likewise.
        ensemble_size: how many seeds: ``seed``, ``seed + 1`` and so on.
        num_inference_steps: calls of the network for each seed.
        seed: the first one.
        gate: share of the base in the answers; the model's own by default, 0 is off.
        known: labels that are certain, as `MaskRefiner` takes them.
        missing: where neither image nor base is to be believed, likewise.
        names: one for each image of the batch; their position by default.

    Raises:
        InputError: if there is no seed, or image or base cannot be used.
    """
    if ensemble_size < 1:
        raise InputError(f"ensemble_size must be at least 1, got {ensemble_size}.")

    def refine(seed: int) -> RefinerOutput:
        out: RefinerOutput = refiner(
            image,
            base,
            num_inference_steps=num_inference_steps,
            seed=seed,
            gate=gate,
            known=known,
            missing=missing,
            names=names,
        )
        return out

    return over_seeds(refine, range(seed, seed + ensemble_size))


def over_seeds(refine: Callable[[int], RefinerOutput], seeds: Sequence[int]) -> EnsembleOutput:
    """`refine_ensemble` with any way to refine an image by a seed, in windows for instance."""
    first, *others = seeds
    out = refine(first)
    total, doubt, calls = out.probs, out.uncertainty, out.num_calls  # b k h w, b h w
    for seed in others:
        out = refine(seed)
        total, doubt, calls = total + out.probs, doubt + out.uncertainty, calls + out.num_calls
    mean = total / len(seeds)
    disagreement = (entropy(mean) - doubt / len(seeds)).clamp(0, 1)
    return EnsembleOutput(probs=mean, disagreement=disagreement, num_calls=calls)


def step_disagreement(trace: Sequence[Int64[Tensor, "b h w"]]) -> Float[Tensor, "b h w"]:
    """Share of the calls before the last whose label differs from the last one's, in [0, 1].

    Args:
        trace: labels after each call, as ``refiner(..., keep_trace=True).trace`` has them at the
            size of the state.

    Raises:
        InputError: with fewer than two calls, between which nothing can change.
    """
    if len(trace) < 2:
        raise InputError(
            f"step disagreement compares at least 2 calls, got {len(trace)}; refine with "
            "num_inference_steps=2 or more and keep_trace=True."
        )
    *earlier, last = trace
    return torch.stack([labels != last for labels in earlier]).float().mean(0)
