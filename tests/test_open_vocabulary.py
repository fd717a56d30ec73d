"""Evaluation of words: what is told, what it is compared by, and under which protocol."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from crispmask.data.sample import Sample
from crispmask.errors import InputError
from crispmask.evaluate.open_vocabulary import (
    WordsOutput,
    WordsProtocol,
    cross_domain,
    evaluate_words,
)
from crispmask.models.vocabulary import Rivals, Threshold, Vocabulary
from crispmask.shapes import IGNORE, VOID, Image

WORDS = Vocabulary(
    class_names=("water", "forest", "city"), background=Threshold(score=0.5, label=0)
)
PROTOCOL = WordsProtocol(
    data="blobs, all", vocabulary=WORDS, trained_on=("water", "forest"), image_size="as they are"
)


class Blobs:
    """Images whose pixels tell the labels, except that cities look like forests from image 2 on."""

    class_names = ("background", "water", "forest", "city")

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Sample:
        rng = torch.Generator().manual_seed(index)
        mask = torch.randint(4 if index % 2 else 3, (8, 8), generator=rng)
        seen = torch.where((mask == 3) & (index >= 2), 2, mask)
        mask[0, 0] = IGNORE
        return Sample(seen.expand(3, -1, -1) / 4, mask, str(index))


def reads_pixels(image: Image, *, among: Sequence[int] | None) -> WordsOutput:
    shown = (image[:, 0] * 4).round().long()
    scores = torch.stack([(shown == k).float() for k in (1, 2, 3)], dim=1)  # b k h w
    presence = scores.mean((2, 3))
    scores[:, 2] += 0.9 * scores[:, 1]  # a city is the second guess where a forest is seen
    return WordsOutput(labels=WORDS.labels(scores, among=among), presence=presence)


def test_scores_and_what_they_are_called(tmp_path: Path) -> None:
    result = evaluate_words(Blobs(), reads_pixels, PROTOCOL)
    assert result.images == 6
    scores = result.scores
    assert scores.iou[1] == 1
    assert 0 < scores.iou[3] < 1
    assert scores.miou_truth == pytest.approx(sum(scores.iou) / 4)
    assert scores.coi_miou == pytest.approx(sum(scores.iou[1:]) / 3)
    assert scores.miou_seen == pytest.approx(sum(scores.iou[1:3]) / 2)
    assert scores.miou_unseen == scores.iou[3]
    assert result.interval.mean == pytest.approx(scores.miou_truth)
    assert result.interval.low <= result.interval.mean <= result.interval.high
    assert result.absent_area == 0
    assert result.presence is not None
    assert result.presence.mean_ap > result.presence.share
    assert result.per_image is not None
    assert len(result.per_image.image_dice) == 3
    result.save(tmp_path / "result.json")
    saved = json.loads((tmp_path / "result.json").read_text())
    assert saved["protocol"]["hash"] == result.protocol.hash
    assert replace(result.protocol, images="") == PROTOCOL
    assert saved["protocol"]["vocabulary"]["background"]["policy"] == "Threshold"
    assert saved["oracle_presence"]["miou_truth"] == result.oracle_presence.miou_truth  # type: ignore[union-attr]


def test_neighbours_are_drawn_together() -> None:
    """An interval over single images would be too narrow where runs of four are alike."""

    class Runs(Blobs):
        def __len__(self) -> int:
            return 40

        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index // 4)
            return replace(sample, name=str(index))

    class Tens(Runs):
        blocks = tuple(i // 4 for i in range(40))

    runs = evaluate_words(Runs(), reads_pixels, PROTOCOL).interval
    tens = evaluate_words(Tens(), reads_pixels, PROTOCOL).interval
    assert runs == tens


def test_oracle_presence_keeps_absent_classes_out() -> None:
    def all_city(image: Image, *, among: Sequence[int] | None) -> WordsOutput:
        scores = torch.tensor([0.7, 0.8, 0.9]).view(1, 3, 1, 1).expand(len(image), 3, 8, 8)
        return WordsOutput(labels=WORDS.labels(scores, among=among))

    result = evaluate_words(Blobs(), all_city, PROTOCOL)
    assert result.presence is None
    assert result.absent_area == pytest.approx(1 / 2)  # images 0, 2 and 4 have no city
    assert result.scores.iou[2] == 0
    assert result.oracle_presence is not None
    assert result.oracle_presence.iou[2] > 0


def test_a_hash_tells_protocols_apart() -> None:
    others = [
        replace(PROTOCOL, data="blobs, some"),
        replace(PROTOCOL, ignore=VOID),
        replace(PROTOCOL, image_size="512 tiles"),
        replace(PROTOCOL, trained_on=("water",)),
        replace(PROTOCOL, options={"num_inference_steps": 2}),
        replace(PROTOCOL, images="0123"),
        *(
            replace(PROTOCOL, vocabulary=replace(WORDS, **change))
            for change in (
                {"templates": ("{}",)},
                {"synonyms": {"water": ("lake",)}},
                {"background": Threshold(score=0.4, label=0)},
                {"background": Rivals(words=("sky",), label=0)},
            )
        ),
    ]
    assert len({p.hash for p in (PROTOCOL, *others)}) == 1 + len(others)
    assert replace(PROTOCOL).hash == PROTOCOL.hash


def test_a_hash_knows_images_by_their_labels() -> None:
    found = evaluate_words(Blobs(), reads_pixels, PROTOCOL, oracle=False).protocol
    elsewhere = replace(PROTOCOL, data="elsewhere/blobs")
    assert (
        evaluate_words(Blobs(), reads_pixels, elsewhere, oracle=False).protocol.hash == found.hash
    )
    fewer = evaluate_words(Blobs(), reads_pixels, PROTOCOL, oracle=False, limit=3).protocol
    assert fewer.hash != found.hash


def test_wrong_labels_sizes_and_sets() -> None:
    with pytest.raises(InputError, match="data set has 4 labels, the vocabulary 3"):
        evaluate_words(
            Blobs(), reads_pixels, replace(PROTOCOL, vocabulary=replace(WORDS, background=None))
        )

    def too_small(image: Image, *, among: Sequence[int] | None) -> WordsOutput:
        return WordsOutput(labels=torch.zeros(1, 4, 4, dtype=torch.int64))

    with pytest.raises(InputError, match=r"labels of 0 must be \(1, 8, 8\), got \(1, 4, 4\)"):
        evaluate_words(Blobs(), too_small, PROTOCOL)
    with pytest.raises(InputError, match="one image, got a data set of 6 with a limit of -1"):
        evaluate_words(Blobs(), reads_pixels, PROTOCOL, limit=-1)


def test_every_data_set_counts_once() -> None:
    first = evaluate_words(Blobs(), reads_pixels, PROTOCOL, oracle=False, limit=1)
    second = evaluate_words(Blobs(), reads_pixels, replace(PROTOCOL, data="again"), oracle=False)
    both = cross_domain([first, second])
    assert both.miou == pytest.approx((first.scores.miou_union + second.scores.miou_union) / 2)
    assert both.coi_miou == pytest.approx((first.scores.coi_miou + second.scores.coi_miou) / 2)
    with pytest.raises(InputError, match="needs different ones"):
        cross_domain([first, first])
