"""The words that a segmenter of words is measured by: names, synonyms, and absent ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from crispmask.data.class_names import readable, synonyms_of
from crispmask.data.sample import Sample
from crispmask.errors import InputError
from crispmask.evaluate.images import LabelledImages
from crispmask.evaluate.open_vocabulary import (
    WordsProtocol,
    WordsResult,
    WordsSegmenter,
    evaluate_words,
)
from crispmask.models.vocabulary import Threshold, Vocabulary
from crispmask.report.words_scores import NAMES
from crispmask.shapes import Mask

BACKGROUND = "background"


def vocabulary_of(class_names: Sequence[str]) -> Vocabulary:
    """The words of a data set, with the synonyms that are known of them.

    A class called "background" becomes a threshold of 0.5, a guess, at its own id.
    """
    names = tuple(map(readable, class_names))
    classes = tuple(name for name in names if name != BACKGROUND)
    policy = Threshold(score=0.5, label=names.index(BACKGROUND)) if BACKGROUND in names else None
    return Vocabulary(class_names=classes, synonyms=synonyms_of(classes), background=policy)


def word_rows(vocabulary: Vocabulary, *, absent: Sequence[str] = ()) -> dict[str, Vocabulary]:
    """Vocabularies for the same labels, by the name of their row.

    Args:
        vocabulary: of a data set, with synonyms.
        absent: words that are in none of its images.

    Returns:
        "names": without synonyms. "synonyms 1" and so on: each class by its first synonym alone,
        its second and so on, as far as every class has one. "names and synonyms": all of them at
        once, the best one speaking for the class. "absent words": the names with words beside
        them that no image shows.

    Raises:
        InputError: if an absent word is one of the vocabulary's.
    """
    names = replace(vocabulary, synonyms={})
    rows = {NAMES: names}
    words = [vocabulary.synonyms.get(name, ()) for name in vocabulary.class_names]
    for i in range(min(map(len, words))):
        others = tuple(found[i] for found in words)
        rows[f"synonyms {i + 1}"] = replace(names, class_names=others)
    if vocabulary.synonyms:
        rows["names and synonyms"] = vocabulary
    if absent:
        known = {query.casefold() for query in vocabulary.queries}
        if shared := [word for word in absent if word.casefold() in known]:
            raise InputError(
                f"absent words must be in none of the images, but {shared[0]!r} is a word for one "
                "of the classes; leave it out."
            )
        rows["absent words"] = _with_more(names, tuple(absent))
    return rows


def _with_more(vocabulary: Vocabulary, words: tuple[str, ...]) -> Vocabulary:
    """The vocabulary with further classes behind all of its labels."""
    policy = vocabulary.background
    if policy is not None and policy.label is None:
        policy = replace(policy, label=len(vocabulary.class_names))
    return replace(vocabulary, class_names=(*vocabulary.class_names, *words), background=policy)


@dataclass(frozen=True)
class UnderNames:
    """A data set under other names; further ones are of classes that its images do not show."""

    data: LabelledImages
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int, /) -> Sample:
        return self.data[index]

    @property
    def blocks(self) -> Any:
        """Name of the block of each image; None if the data set has none."""
        return getattr(self.data, "blocks", None)


def measure_rows(
    data: LabelledImages,
    ask: Callable[[Vocabulary], WordsSegmenter],
    rows: Mapping[str, Vocabulary],
    protocol: WordsProtocol,
    *,
    oracle: bool = False,
    limit: int | None = None,
    watch: Callable[[Sample, Mask], None] | None = None,
) -> dict[str, WordsResult]:
    """`evaluate_words` for each vocabulary.

    Args:
        data: images with labels in the order of ``protocol.vocabulary.label_names``.
        ask: binds the segmenter to a vocabulary.
        rows: of `word_rows`.
        protocol: of all rows but for the vocabulary.
        oracle: see `evaluate_words`.
        limit: likewise.
        watch: likewise, for the row of the names.

    Raises:
        InputError: as `evaluate_words` does, and if the segmenter cannot be asked for a word.
    """
    segmenters = {row: ask(words) for row, words in rows.items()}  # first: words may be refused
    results = {}
    for row, words in rows.items():
        more = len(words.class_names) > len(protocol.vocabulary.class_names)
        results[row] = evaluate_words(
            UnderNames(data, words.label_names) if more else data,
            segmenters[row],
            replace(protocol, vocabulary=words),
            oracle=oracle,
            limit=limit,
            watch=watch if row == NAMES else None,
        )
    return results
