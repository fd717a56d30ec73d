"""How the parts of a query's score are weighed: fitted to held-out pixels."""

import math
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


@dataclass(frozen=True, kw_only=True)
class ScoreParts:
    """What the score of each label of an image is the weighted sum of.

    Attributes:
        logits: of masks; those of a background that words do not find are constant.
        align: score of pixels and words.
        presence: log-probability that the word is there.
    """

    logits: Float[Tensor, "k h w"]
    align: Float[Tensor, "k h w"]
    presence: Float[Tensor, "k"]


class WeightFit:
    """Temperature T and weights of ``(logits + w_a align + w_p presence) / T``.

    They minimise the cross-entropy of the softmax over labels, as a temperature alone would (Guo et
    al. 2017), on pixels of all images of all processes; each image counts the same. All three are
    positive.
    """

    def __init__(self) -> None:
        self.samples: list[tuple[Tensor, Tensor]] = []

    def update(self, parts: ScoreParts, target: Int64[Tensor, "h w"]) -> None:
        """Add an image; `IGNORE` in the target does not count."""
        known = (target.flatten() != IGNORE).nonzero().flatten()
        chosen = known[:: max(1, math.ceil(len(known) / PIXELS))]
        if not len(chosen):
            return
        logits, align = (x.flatten(1)[:, chosen].T for x in (parts.logits, parts.align))
        found = torch.stack([logits, align, parts.presence.expand_as(align)])  # 3 n k
        self.samples.append((found.double().cpu(), target.flatten()[chosen].cpu()))

    def compute(self) -> dict[str, float]:
        """``temperature``, ``align_weight`` and ``presence_weight``; all 1 of nothing."""
        state = PartialState()
        samples = self.samples
        if state.num_processes > 1:
            samples = gather_object(samples)
        logs = torch.zeros(3, dtype=torch.float64)
        if samples:
            logs = _fitted(samples)
        temperature, align, presence = logs.exp().tolist()
        return {"temperature": temperature, "align_weight": align, "presence_weight": presence}


def _fitted(samples: list[tuple[Tensor, Tensor]]) -> Float[Tensor, "3"]:
    """Logarithms of temperature and weights."""
    with torch.enable_grad():
        logs = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([logs], max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            temperature, align, presence = logs.exp()
            losses = [
                F.cross_entropy((x[0] + align * x[1] + presence * x[2]) / temperature, target)
                for x, target in samples
            ]
            total = torch.stack(losses).mean() + CALM * logs.square().sum()
            total.backward()  # type: ignore[no-untyped-call]
            return total

        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return logs.detach()
