"""How the parts of a query's score are weighed: fitted to held-out pixels."""

import math
from collections.abc import Sequence
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
"""Weight of the squared logarithms, so that images without an error ask for no infinite weight."""

Sample = tuple[Float[Tensor, "3 _ _"], Int64[Tensor, "_"]]
"""Of one image: parts of the scores of k words at n pixels, 3 n k, and which word is true, n."""


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
    All three are positive. The floor, the constant score of a background, is fitted afterwards.
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
        scores = [(x[0] + align * x[1] + presence * x[2], target) for x, target in samples]
        return {
            "temperature": temperature,
            "align_weight": align,
            "presence_weight": presence,
            "floor": fitted_floor(scores),
        }


def fitted_weights(samples: Sequence[Sample]) -> Float[Tensor, "3"]:
    """Logarithms of temperature and weights, from the pixels that a word is true of."""
    named = [(x[:, t < x.shape[2]], t[t < x.shape[2]]) for x, t in samples]
    named = [(x, t) for x, t in named if len(t)]
    if not named:
        return torch.zeros(3)
    with torch.enable_grad():
        logs = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([logs], max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            temperature, align, presence = logs.exp()
            losses = [
                F.cross_entropy((x[0] + align * x[1] + presence * x[2]) / temperature, target)
                for x, target in named
            ]
            total = torch.stack(losses).mean() + CALM * logs.square().sum()
            total.backward()  # type: ignore[no-untyped-call]
            return total

        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return logs.detach()


def fitted_floor(samples: Sequence[tuple[Float[Tensor, "_ _"], Int64[Tensor, "_"]]]) -> float:
    """The constant score of a background at which both errors are equally frequent.

    These are: that a pixel whose word is asked has no score above it, and that one has whose true
    word is left out.
    """
    asked, left_out = [], []
    for scores, target in samples:
        whole = torch.cat([scores, torch.full_like(scores[:, :1], -torch.inf)], 1)
        asked.append(whole.amax(1)[target < scores.shape[1]])
        left_out.append(whole.scatter(1, target[:, None], -torch.inf).amax(1))
    if not samples or not sum(map(len, asked)):
        return 0.0
    low, high = torch.cat(asked).sort().values, torch.cat(left_out).sort().values
    floors = torch.cat([low, high[high.isfinite()]])
    lost = torch.searchsorted(low, floors) / len(low)
    kept = 1 - torch.searchsorted(high, floors, right=True) / len(high)
    unlike = (lost - kept).abs()
    return float(floors[unlike == unlike.min()].mean())
