"""How the parts of a query's score are weighed: fitted to held-out pixels."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from crispmask.shapes import IGNORE

PIXELS = 256
"""Of each image, evenly spread over the known ones."""

CALM = 1e-3
"""Weight of the squared parameters, so that images without an error ask for no infinite one."""

Sample = tuple[Float[Tensor, "3 n k"], Int64[Tensor, "n"]]
"""Parts of the scores at the chosen pixels of an image, and which word is true; k is none."""


@dataclass(frozen=True, kw_only=True)
class ScoreParts:
    """What the score of each word in an image is the weighted sum of.

    Attributes:
        logits: of masks.
        align: score of pixels and words.
        presence: log-probability that the word is there.
    """

    logits: Float[Tensor, "k h w"]
    align: Float[Tensor, "k h w"]
    presence: Float[Tensor, "k"]


class WeightFit:
    """Temperature T and weights of ``(logits + w_a align + w_p presence) / T``, and a floor.

    The first three minimise the cross-entropy of the softmax over words, as a temperature alone
    would (Guo et al. 2017), on pixels of all images of all processes; each image counts the same.
    All three are positive. The floor, the constant score of a background, is fitted afterwards: it
    parts pixels that are asked for all words from those whose true word is left out.
    """

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def update(self, parts: ScoreParts, target: Int64[Tensor, "h w"]) -> None:
        """Add an image.

        Args:
            parts: of k words.
            target: which word is true, k where none is; `IGNORE` does not count.
        """
        known = (target.flatten() != IGNORE).nonzero().flatten()
        chosen = known[:: max(1, math.ceil(len(known) / PIXELS))]
        if not len(chosen):
            return
        logits, align = (x.flatten(1)[:, chosen].T for x in (parts.logits, parts.align))
        found = torch.stack([logits, align, parts.presence.expand_as(align)])  # 3 n k
        self.samples.append((found.double().cpu(), target.flatten()[chosen].cpu()))

    def compute(self) -> dict[str, float]:
        """``temperature``, ``align_weight``, ``presence_weight`` (1 of nothing), ``floor`` (0)."""
        state = PartialState()
        samples = self.samples
        if state.num_processes > 1:
            samples = gather_object(samples)
        temperature, align, presence = fitted_weights(samples).exp().tolist()
        scores = [((x[0] + align * x[1] + presence * x[2]), target) for x, target in samples]
        return {
            "temperature": temperature,
            "align_weight": align,
            "presence_weight": presence,
            "floor": temperature * float(fitted_floor([(x / temperature, t) for x, t in scores])),
        }


def fitted_weights(samples: Sequence[Sample]) -> Float[Tensor, "3"]:
    """Logarithms of temperature and weights, from the pixels that a word is true of."""
    named = [(x[:, t < x.shape[2]], t[t < x.shape[2]]) for x, t in samples]
    named = [(x, t) for x, t in named if len(t)]

    def loss(logs: Tensor) -> Tensor:
        temperature, align, presence = logs.exp()
        losses = [
            F.cross_entropy((x[0] + align * x[1] + presence * x[2]) / temperature, target)
            for x, target in named
        ]
        return torch.stack(losses).mean()

    return minimum(loss, 3) if named else torch.zeros(3)


def fitted_floor(
    samples: Sequence[tuple[Float[Tensor, "n k"], Int64[Tensor, "n"]]],
) -> Float[Tensor, ""]:
    """The constant score of a background, from scores that were divided by the temperature.

    That of the logistic regression of "the word is asked" on the best score of a pixel, with slope
    one: over all words, and over all but the true one.
    """
    best = []
    for scores, target in samples:
        whole = torch.cat([scores, torch.full_like(scores[:, :1], -torch.inf)], 1)
        left_out = whole.scatter(1, target[:, None], -torch.inf).amax(1)
        best.append((scores.amax(1)[target < scores.shape[1]], left_out))

    def loss(floor: Tensor) -> Tensor:
        losses = [
            F.softplus(floor - asked).sum() / len(left_out) + F.softplus(left_out - floor).mean()
            for asked, left_out in best
        ]
        return torch.stack(losses).mean()

    return minimum(loss, 1)[0] if samples else torch.zeros(())


def minimum(loss: Callable[[Tensor], Tensor], count: int) -> Float[Tensor, "count"]:
    """Where a smooth loss of a few parameters, in float64, is least; the search begins at 0."""
    with torch.enable_grad():
        found = torch.zeros(count, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([found], max_iter=100, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            total = loss(found) + CALM * found.square().sum()
            total.backward()  # type: ignore[no-untyped-call]
            return total

        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return found.detach()
