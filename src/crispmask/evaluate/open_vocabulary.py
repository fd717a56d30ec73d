"""A segmenter of words over a data set: the scores that benchmarks use, under a stated protocol.

Open-vocabulary numbers change with the words, the template, the background and the denominator.
A result therefore carries all of them, and a hash that two results must share to be compared.
"""

import dataclasses
import hashlib
import json
import math
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crispmask.atomic import write_atomic
from crispmask.data.class_names import seen_in
from crispmask.data.sample import Sample
from crispmask.errors import InputError
from crispmask.evaluate.bootstrap import ClassCounts, blocks_of, gain
from crispmask.evaluate.images import LabelledImages, evenly_spread
from crispmask.metrics.confusion import pair_counts
from crispmask.metrics.open_vocabulary import (
    PresenceAP,
    PresenceScores,
    VocabularyConfusion,
    VocabularyScores,
)
from crispmask.metrics.per_image import PerImage, PerImageScores
from crispmask.models.vocabulary import Vocabulary
from crispmask.provenance import provenance
from crispmask.report.results import Gain
from crispmask.shapes import IGNORE, Image, Mask

PER_IMAGE_LABELS = 20
"""Dice and Hausdorff distance are measured for label sets up to this size: they cost per class."""


@dataclass(frozen=True, kw_only=True)
class WordsOutput:
    """What a segmenter of words answers.

    Attributes:
        labels: at the size of the image, in the order of ``vocabulary.label_names``.
        presence: for each class, higher where the word is in the image; None if it is not told.
    """

    labels: Mask
    presence: Float[Tensor, "b k"] | None = None


class WordsAnswer(Protocol):
    """Anything with labels and presence: a `WordsOutput`, or the answer of a `TextSegmenter`."""

    @property
    def labels(self) -> Mask:
        """See `WordsOutput`."""
        ...

    @property
    def presence(self) -> Float[Tensor, "b k"] | None:
        """See `WordsOutput`."""
        ...


class WordsSegmenter(Protocol):
    """Labels of an image by the classes of a vocabulary that it is bound to."""

    def __call__(self, image: Image, *, among: Sequence[int] | None) -> WordsAnswer:
        """Answer; with ``among``, by these classes and the background alone."""
        ...


@dataclass(frozen=True, kw_only=True)
class WordsProtocol:
    """All that a score depends on beside the model.

    Attributes:
        data: name, split and version of the data set, for people.
        vocabulary: the words; its labels are those of the data set.
        trained_on: names of the training classes, for the split into seen and unseen ones.
        image_size: how images are resized or tiled for the model, in words.
        ignore: label of unknown pixels.
        options: how the model was asked, where it was not by default: steps, views, guidance.
        images: digest of the names and true labels of the measured images, which `evaluate_words`
            fills in.
    """

    data: str
    vocabulary: Vocabulary
    trained_on: tuple[str, ...]
    image_size: str
    ignore: int = IGNORE
    options: Mapping[str, Any] = field(default_factory=dict)
    images: str = ""

    def record(self) -> dict[str, Any]:
        """The protocol as plain values, with the denominators of the scores in words."""
        words = dataclasses.asdict(self.vocabulary)
        background = self.vocabulary.background
        words["background"] = (
            None
            if background is None
            else {"policy": type(background).__name__, **words["background"]}
        )
        return {
            "data": self.data,
            "vocabulary": words,
            "trained_on": list(self.trained_on),
            "image_size": self.image_size,
            "ignore": self.ignore,
            "options": dict(self.options),
            "images": self.images,
            "headline": "miou_truth: full vocabulary, IoU from the counts of the whole data set, "
            "mean over the classes in the truth",
            "other": "miou_union, coi_miou: mean over the classes in the truth or the prediction",
        }

    @property
    def hash(self) -> str:
        """Twelve digits that are the same for the same protocol.

        Where the images are known by their digest, what the data set is called does not count: a
        copy in another folder is the same.
        """
        record = self.record()
        if self.images:
            del record["data"]
        text = json.dumps(record, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class WordsResult:
    """Scores of a segmenter of words on a data set.

    Attributes:
        protocol: what was measured, and how.
        images: how many.
        scores: with the whole vocabulary, the headline.
        interval: of ``scores.miou_truth``, 95 %, from a bootstrap over blocks of images:
            those of the data set, or runs of neighbours.
        oracle_presence: scores of the same model when it is told which classes each image has;
            no result that a user could get, and not to be compared with others' ``scores``.
        presence: of the words, if the model tells.
        absent_area: mean share of an image that is given to classes which are not in it.
        per_image: Dice and the like, for small sets of labels.
    """

    protocol: WordsProtocol
    images: int
    scores: VocabularyScores
    interval: Gain
    oracle_presence: VocabularyScores | None
    presence: PresenceScores | None
    absent_area: float
    per_image: PerImageScores | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN is None."""
        record = dataclasses.asdict(self)
        record["protocol"] = {"hash": self.protocol.hash, **self.protocol.record()}
        record["label_names"] = list(self.protocol.vocabulary.label_names)
        plain: dict[str, Any] = _plain({**record, "circumstances": provenance()})
        return plain

    def save(self, path: Path) -> None:
        """Write a JSON file, complete or not at all."""
        write_atomic(path, json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")


@torch.inference_mode()
def evaluate_words(
    dataset: LabelledImages,
    segmenter: WordsSegmenter,
    protocol: WordsProtocol,
    *,
    oracle: bool = True,
    limit: int | None = None,
    watch: Callable[[Sample, Mask], None] | None = None,
) -> WordsResult:
    """Measure a segmenter of words, one image at a time, at the size of the labels.

    Args:
        dataset: images with masks whose labels are ``vocabulary.label_names``, in this order.
        segmenter: bound to the words of the protocol.
        protocol: what the result is to be known by.
        oracle: whether to measure oracle presence, too, at twice the cost.
        limit: images at most, spread evenly over the data set; the result says how many.
        watch: is shown each image with the labels that it was given.

    Raises:
        InputError: if there is no image, the labels are not those of the vocabulary, or the
            segmenter answers in another size.
    """
    names = protocol.vocabulary.label_names
    if len(dataset.class_names) != len(names):
        raise InputError(
            f"the data set has {len(dataset.class_names)} labels, the vocabulary {len(names)} "
            "with its background; give the list of this data set."
        )
    indices = evenly_spread(len(dataset), limit)
    meter = _WordsMeter(protocol, oracle=oracle)
    for index in indices:
        sample = dataset[index]
        labels = meter.add(segmenter, sample.image[None], sample.mask[None], sample.name)
        if watch is not None:
            watch(sample, labels)
    return meter.result(blocks_of(dataset, indices)[0])


@dataclass(frozen=True, kw_only=True)
class CrossDomain:
    """Means over data sets, each counting once, as MESS (Blumenstiel et al. 2023) reports.

    Attributes:
        miou: mean of ``miou_union``.
        coi_miou: mean of ``coi_miou``.
        sets: the two numbers of each data set.
    """

    miou: float
    coi_miou: float
    sets: Mapping[str, tuple[float, float]]


def cross_domain(results: Sequence[WordsResult]) -> CrossDomain:
    """Mean over data sets.

    Raises:
        InputError: if there is none, or one stands twice.
    """
    sets = {r.protocol.data: (r.scores.miou_union, r.scores.coi_miou) for r in results}
    if not results or len(sets) < len(results):
        names = [result.protocol.data for result in results]
        raise InputError(f"a mean over data sets needs different ones, got {names}.")
    miou, coi = (statistics.fmean(column) for column in zip(*sets.values(), strict=True))
    return CrossDomain(miou=miou, coi_miou=coi, sets=sets)


class _WordsMeter:
    """All that is counted while the images go by."""

    def __init__(self, protocol: WordsProtocol, *, oracle: bool) -> None:
        self.protocol = protocol
        names = protocol.vocabulary.label_names
        self.background = names.index("background") if "background" in names else None
        self.classes = [i for i in range(len(names)) if i != self.background]
        self.confusion, self.told = (self._confusion() for _ in range(2))
        self.oracle = oracle
        self.presence = PresenceAP()
        self.per_image: PerImage | None = None
        if protocol.ignore == IGNORE and len(names) <= PER_IMAGE_LABELS:
            self.per_image = PerImage(len(names), background=self.background)
        self.absent_areas: list[float] = []
        self.hits: list[Tensor] = []
        self.unions: list[Tensor] = []
        self.images = hashlib.sha256()

    def _confusion(self) -> VocabularyConfusion:
        names = self.protocol.vocabulary.label_names
        return VocabularyConfusion(
            len(names),
            seen=seen_in(names, self.protocol.trained_on),
            background=self.background,
            ignore=self.protocol.ignore,
        )

    def add(self, segmenter: WordsSegmenter, image: Image, target: Mask, name: str) -> Mask:
        """Measure one image; returns the labels that it was given."""
        output = segmenter(image, among=None)
        pred = output.labels.cpu()
        if pred.shape != target.shape:
            raise InputError(
                f"labels of {name} must be {tuple(target.shape)}, got {tuple(pred.shape)}; resize "
                "scores to the size of the image before argmax."
            )
        self.confusion.update(pred, target)
        self.images.update(f"{name} {tuple(target.shape)}".encode())
        self.images.update(target.numpy().astype("<i8").tobytes())
        size = len(self.protocol.vocabulary.label_names)
        valid = target != self.protocol.ignore
        counts = pair_counts(pred, target, size, valid=valid)
        hit, true, found = counts.diag(), counts.sum(1), counts.sum(0)
        self.hits.append(hit)
        self.unions.append(true + found - hit)
        there = true[self.classes] > 0  # k
        absent = found[self.classes][~there].sum()
        self.absent_areas.append((absent / valid.sum().clamp(min=1)).item())
        if output.presence is not None:
            self.presence.update(output.presence.cpu(), there[None])
        if self.per_image is not None:
            self.per_image.update(pred, target)
        if self.oracle:
            among = there.nonzero().flatten().tolist()
            self.told.update(segmenter(image, among=among).labels.cpu(), target)
        return pred

    def result(self, blocks: Sequence[Hashable]) -> WordsResult:
        return WordsResult(
            protocol=replace(self.protocol, images=self.images.hexdigest()[:12]),
            images=len(self.hits),
            scores=self.confusion.compute(),
            interval=self._interval(blocks),
            oracle_presence=self.told.compute() if self.oracle else None,
            presence=self.presence.compute() if self.presence.scores else None,
            absent_area=statistics.fmean(self.absent_areas),
            per_image=None if self.per_image is None else self.per_image.compute(),
        )

    def _interval(self, blocks: Sequence[Hashable]) -> Gain:
        """Interval of the headline: the gain over a model that hits nothing, whose mIoU is 0."""
        in_truth = self.confusion.counts.sum(1) > 0
        hits, unions = (
            torch.stack(x).where(in_truth, 0).double().numpy()[None]  # 1 images k
            for x in (self.hits, self.unions)
        )
        nothing = ClassCounts(hits=np.zeros_like(hits), unions=unions)
        return gain(ClassCounts(hits=hits, unions=unions), nothing, blocks)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
