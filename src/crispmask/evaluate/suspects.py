"""Which labels of a data set are doubted by a segmenter and by a prior over masks."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from crispmask.data.regions import Box, regions_of
from crispmask.data.sample import Sample
from crispmask.errors import InputError
from crispmask.evaluate.moves import POWER, best_moves, share_of_gain
from crispmask.models.prior import MaskPrior
from crispmask.models.probabilities import log_smoothed
from crispmask.models.segmenters import Segmenter, flip_average
from crispmask.report.suspects import Suspect, SuspectPicture
from crispmask.shapes import Probs

Opinions = Mapping[str, Float[Tensor, "k h w"]]
"""Log2-probability of each class at each pixel by "base", by "prior", or by both."""


@dataclass(frozen=True, kw_only=True)
class Judges:
    """Who doubts.

    Attributes:
        base: a segmenter, which looks at the image and at its mirror image.
        prior: a prior over masks, which looks at the other labels.
        seed: of the prior's noise.

    Raises:
        InputError: if there is neither.
    """

    base: Segmenter | None = None
    prior: MaskPrior | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.base is None and self.prior is None:
            raise InputError("a base segmenter, a prior or both are needed to judge labels.")

    def opinions(self, sample: Sample) -> Opinions:
        """What they say of an image; no probability is 0, so that none outweighs all others."""
        opinions = {}
        if self.base is not None:
            opinions["base"] = _bits(flip_average(self.base, sample.image[None]).probs)
        if self.prior is not None:
            log_probs = self.prior.log_probs(sample.mask[None], seed=self.seed, names=[sample.name])
            opinions["prior"] = _bits(log_probs.softmax(1))
        return opinions


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The regions of one label map and what each judge says of them.

    Attributes:
        labels: class of each region.
        means: for each judge, the means of its `Opinions` over each region. A pixel weighs by the
            square of its distance from the border, where labels and judges are vague.
    """

    labels: Int64[Tensor, "n"]
    means: Mapping[str, Float[Tensor, "n k"]]


@dataclass(frozen=True, kw_only=True)
class Trust:
    """How to read each judge on a data set: a linear map from its opinion to log2-odds.

    Attributes:
        maps: for each judge, from what it says of each class (rows) to what that tells of each
            label (columns); the identity takes it by its word.
        offsets: what is added for each label, in bits.
    """

    maps: Mapping[str, Float[Tensor, "k k2"]]
    offsets: Float[Tensor, "k"]

    def read(self, opinions: Opinions) -> Opinions:
        """What each judge's opinion tells of each label, in bits."""
        return {
            judge: torch.einsum("chw,ck->khw", bits, self.maps[judge])
            for judge, bits in opinions.items()
        }

    def total(self, opinions: Opinions) -> Float[Tensor, "k h w"]:
        """Log2 of how likely each label is at each pixel, up to a term that all share."""
        return torch.stack(list(self.read(opinions).values())).sum(0) + self.offsets[:, None, None]


def evidence_of(sample: Sample, opinions: Opinions, *, min_area: int) -> Evidence:
    """What the judges say of the connected regions with at least ``min_area`` pixels."""
    found = regions_of(sample.mask)
    large, weights = found.areas >= min_area, found.depth() ** 2
    return Evidence(
        labels=found.labels[large],
        means={judge: found.means(bits, weights)[large] for judge, bits in opinions.items()},
    )


def fit_trust(evidence: Sequence[Evidence]) -> Trust:
    """The reading of the judges under which the labels of all regions are likeliest.

    Most labels are right, so what a judge usually says of regions with some label is no reason to
    doubt it: poles that a segmenter takes for buildings are only suspect where it says something
    else yet. The idea is that of Confident Learning (Northcutt et al. 2021), which counts such
    confusions. Here it is logistic regression, with a normal prior of deviation 1 about the
    identity and about offsets of 0, which decides where regions are few.
    """
    labels = torch.cat([part.labels for part in evidence])
    judges = list(evidence[0].means)
    means = torch.stack([torch.cat([part.means[j] for part in evidence]) for j in judges])
    means = means.double() * math.log(2)  # j n k, in nats
    k = means.shape[2]
    identity = torch.eye(k, dtype=torch.float64).expand(len(judges), k, k)
    maps = identity.clone().requires_grad_()
    offsets = torch.zeros(k, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([maps, offsets], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = torch.einsum("jnc,jck->nk", means, maps) + offsets
        fit = F.cross_entropy(logits, labels, reduction="sum")
        loss = fit + ((maps - identity) ** 2).sum() / 2 + (offsets**2).sum() / 2
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    read = dict(zip(judges, maps.detach().float(), strict=True))
    return Trust(maps=read, offsets=offsets.detach().float() / math.log(2))


def suspects_of(
    sample: Sample, opinions: Opinions, trust: Trust, *, min_area: int
) -> list[Suspect]:
    """The connected regions with at least ``min_area`` pixels and how doubtful each is.

    With ``z = sum_j l_j A_j + c``, where ``l_j`` is the opinion of judge j, a region's score is the
    gain of its best single correction in bits per pixel, times ``n^POWER`` where n is the number of
    wrong pixels. The correction is another class for the whole region, which gains the mean of
    ``max over k of z(k) - z(label)``, or another place, see `best_moves`.
    """
    found = regions_of(sample.mask)
    weights = found.depth() ** 2
    numbers = (found.areas >= min_area).nonzero()[:, 0]
    own, sizes = found.labels[numbers][:, None], found.areas[numbers][:, None] ** POWER

    def gains(bits: Float[Tensor, "k h w"]) -> Float[Tensor, "n k"]:
        means = found.means(bits, weights)[numbers]
        return (means - means.gather(1, own)) * sizes

    total = trust.total(opinions)
    read = trust.read(opinions)
    scores, classes = gains(total).scatter(1, own, -math.inf).max(1)
    shares = {judge: gains(bits) for judge, bits in read.items()}
    moves = best_moves(total, sample.mask, found, numbers.tolist())
    suspects = []
    for i, (number, move) in enumerate(zip(numbers.tolist(), moves, strict=True)):
        k = int(classes[i])
        size = move.pixels**POWER
        stays = float(scores[i]) >= move.gain * size
        share = {judge: float(gained[i, k]) for judge, gained in shares.items()}
        if not stays:
            share = {j: size * share_of_gain(bits, sample.mask, move) for j, bits in read.items()}
        suspects.append(
            Suspect(
                image=sample.name,
                label=int(own[i]),
                suggestion=k if stays else None,
                move=None if stays else (move.rows, move.columns),
                area=int(found.areas[number]),
                box=found.boxes[number],
                score=max(float(scores[i]), move.gain * size),
                base=share.get("base"),
                prior=share.get("prior"),
            )
        )
    return suspects


def ranked(suspects: Iterable[Suspect]) -> list[Suspect]:
    """The most doubtful first."""
    return sorted(suspects, key=lambda s: (-s.score, s.image, s.box))


def picture_of(
    suspect: Suspect, sample: Sample, opinions: Opinions, trust: Trust
) -> SuspectPicture:
    """The surroundings of a suspect, with the doubt of each pixel by itself.

    The doubt is 255 times the chance ``1 / (1 + 2^-score)`` that the likeliest other class is
    right and the label wrong; 0 where the label is unknown.
    """
    found = regions_of(sample.mask)
    number = found.find(suspect.label, suspect.area, suspect.box)
    bits = trust.total(opinions)  # k h w
    own = sample.mask.clamp(max=len(bits) - 1)[None]
    other = bits.scatter(0, own, -math.inf).amax(0)  # h w
    doubt = torch.sigmoid((other - bits.gather(0, own)[0]) * math.log(2))
    doubt = doubt.where(found.index >= 0, 0)
    crop = _surroundings(suspect.box, sample.mask.shape[0], sample.mask.shape[1])
    return SuspectPicture(
        image=(sample.image * 255).round().byte().movedim(0, -1)[crop].numpy(),
        labels=sample.mask.byte()[crop].numpy(),
        region=(found.index == number)[crop].numpy(),
        doubt=(255 * doubt).round().byte()[crop].numpy(),
    )


def _bits(probs: Probs) -> Float[Tensor, "k h w"]:
    """Log2 of the smoothed probabilities of a batch of one."""
    log_probs: Tensor = log_smoothed(probs.float().cpu())
    return log_probs[0] / math.log(2)


def _surroundings(box: Box, height: int, width: int) -> tuple[slice, slice]:
    """The box with a margin of half its longer side, at least 24 pixels, within the picture."""
    top, left, bottom, right = box
    margin = max(24, max(bottom - top, right - left) // 2)
    return (
        slice(max(0, top - margin), min(height, bottom + margin)),
        slice(max(0, left - margin), min(width, right + margin)),
    )
