"""The words that an image is segmented by, and what is left over as background."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from crispmask.data.class_names import (
    VOID_NAMES,
    class_list,
    class_lists,
    own_words,
    read_names,
    synonyms_of,
)
from crispmask.errors import InputError
from crispmask.shapes import Mask

TEMPLATE = "A photo of a {} in the scene"
"""The one template that CAT-Seg (Cho et al. 2024) tests with."""

MAX_CLASSES = 1000


CHANCE = 0.4
"""Threshold for words of one's own: of all that `benchmarks/background.py` tries, that with the
fewest errors on validation tiles."""


@dataclass(frozen=True, kw_only=True)
class Rivals:
    """Words for everything that is no class: what one of them wins is background.

    Attributes:
        words: concrete things, such as "sky" or "wall"; the word "background" is none.
        label: id of the background among the labels; None is one more than the last class.
    """

    words: tuple[str, ...]
    label: int | None = None

    def __post_init__(self) -> None:
        _check_words(self.words, "rivals of the classes")


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A pixel is background where no class reaches this score.

    Attributes:
        score: in (0, 1): the chance of the best class against the background that a pixel needs.
            It is even at the model's ``floor``, which training fits to held-out pixels with the
            true word and without it.
        label: id of the background among the labels; None is one more than the last class.
    """

    score: float
    label: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.score < 1:
            raise InputError(f"the score of a threshold must lie in (0, 1), got {self.score}.")


Background = Rivals | Threshold


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Class names, their synonyms, the sentences that they are put into, and the background.

    Every name, synonym and rival is a query of its own. A class scores what its best query does
    (as OpenSeg, Ghiasi et al. 2022); averaged words would stand for none of them.

    Attributes:
        class_names: without the background.
        synonyms: further words by class name.
        templates: sentences with {} for the word; the first gives the token states, and the
            pooled vector is the mean over all.
        background: what becomes of pixels that are of no class; None leaves none over.

    Raises:
        InputError: if there is no class or more than 1,000, if a word is blank, stands twice or
            is no more than "background", or if a template has not one {}.
    """

    class_names: tuple[str, ...]
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    templates: tuple[str, ...] = (TEMPLATE,)
    background: Background | None = None

    def __post_init__(self) -> None:
        if len(self.class_names) > MAX_CLASSES:
            raise InputError(
                f"at most {MAX_CLASSES:,} texts can be asked for at once, got "
                f"{len(self.class_names):,}; split the list."
            )
        unknown = [name for name in self.synonyms if name not in self.class_names]
        if unknown:
            raise InputError(
                f"synonyms belong to classes, but {unknown[0]!r} is none; its classes are "
                f"{', '.join(self.class_names[:5])} and so on."
            )
        _check_words(self.class_names, "texts")
        _check_words(self.queries, "texts with their synonyms and rivals")
        if not self.templates or any(t.count("{}") != 1 for t in self.templates):
            raise InputError(
                f"a template needs {{}} once, where the word goes, got {list(self.templates)}; "
                f"for example {TEMPLATE!r}."
            )
        label = None if self.background is None else self.background.label
        if label is not None and not 0 <= label <= len(self.class_names):
            raise InputError(
                f"the background's label must lie in 0 to {len(self.class_names)}, got {label}."
            )

    @classmethod
    def from_texts(cls, texts: Sequence[str] | Mapping[str, Sequence[str]]) -> Self:
        """The vocabulary of a list of texts, or of texts with synonyms."""
        names = tuple(_tidy(text) for text in texts)
        if not isinstance(texts, Mapping):
            return cls(class_names=names)
        words = {_tidy(name): tuple(map(_tidy, found)) for name, found in texts.items()}
        return cls(class_names=names, synonyms={n: w for n, w in words.items() if w})

    @classmethod
    def parse(cls, text: str) -> Self:
        """What a user may write: words with commas, a known list, or a .txt or .json file.

        A known list brings its synonyms. Where it has a background, the other words of Pascal
        Context are its rivals for the lists of Pascal VOC; other lists get a threshold of 0.5.
        """
        if text.strip() in class_lists():
            return cls.named(text.strip())
        if Path(text).suffix.lower() in (".txt", ".json"):
            return cls.from_texts(read_names(Path(text)))
        return cls.from_texts(text.split(",") if text.strip() else [])

    @classmethod
    def named(cls, name: str, *, synonyms: bool = True) -> Self:
        """A list of `class_lists`, with its background as a policy; see `parse`."""
        names = class_list(name)
        classes = tuple(n for n in names if n != "background")
        label = names.index("background") if "background" in names else None
        background: Background | None = None
        words = synonyms_of(classes) if synonyms else {}
        if label is not None and name.startswith("voc-"):
            rivals = class_list("pascal-context-59")[20:]
            background = Rivals(words=rivals, label=label)
            with_rivals = own_words({**words, **dict.fromkeys(rivals, ())})
            words = {n: with_rivals[n] for n in words if with_rivals[n]}
        elif label is not None:
            background = Threshold(score=0.5, label=label)
        return cls(class_names=classes, synonyms=words, background=background)

    @property
    def queries(self) -> tuple[str, ...]:
        """All words that are asked: of each class in turn its name and synonyms, then rivals."""
        words = [w for n in self.class_names for w in (n, *self.synonyms.get(n, ()))]
        return (*words, *(self.background.words if isinstance(self.background, Rivals) else ()))

    @property
    def owners(self) -> tuple[int, ...]:
        """Class of each query; one more than the last class for rivals."""
        owners = [i for i, n in enumerate(self.class_names) for _ in (n, *self.synonyms.get(n, ()))]
        return (*owners, *[len(self.class_names)] * (len(self.queries) - len(owners)))

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names in the order of the labels that `labels` gives."""
        names = list(self.class_names)
        if self.background is not None:
            names.insert(self._background_label, "background")
        return tuple(names)

    @property
    def query_labels(self) -> tuple[int, ...]:
        """Label of each query; that of the background for rivals."""
        place = {name: label for label, name in enumerate(self.label_names)}
        names = (*self.class_names, "background")
        return tuple(place[names[owner]] for owner in self.owners)

    def prompts(self, query: str) -> tuple[str, ...]:
        """The query in each template."""
        return tuple(template.replace("{}", query) for template in self.templates)

    def class_scores(self, scores: Float[Tensor, "b q *rest"]) -> Float[Tensor, "b k *rest"]:
        """Best score over each class's queries; with rivals one more channel, for them all."""
        parts = torch.split(scores, self._queries_each(), dim=1)
        return torch.stack([part.amax(1) for part in parts], dim=1)

    def labels(
        self, scores: Float[Tensor, "b q h w"], *, among: Sequence[int] | None = None
    ) -> Mask:
        """Labels of the best-scoring classes, with the background at its id.

        Args:
            scores: of the queries, at the size of the image.
            among: the only classes that may be answered, the background aside.
        """
        best = self.class_scores(scores)  # b k or k+1, h w
        if among is not None:
            barred = torch.ones(len(self.class_names), dtype=torch.bool, device=best.device)
            barred[list(among)] = False
            index = barred.nonzero().flatten()
            best = best.index_fill(1, index, -torch.inf)
        score, winner = best.max(1)
        if self.background is None:
            return winner
        if isinstance(self.background, Threshold):
            winner = winner.where(score >= self.background.score, len(self.class_names))
        label = self._background_label
        shifted = winner + (winner >= label).long()
        return shifted.where(winner < len(self.class_names), label)

    @property
    def _background_label(self) -> int:
        assert self.background is not None
        label = self.background.label
        return len(self.class_names) if label is None else label

    def _queries_each(self) -> list[int]:
        owners = self.owners
        return [owners.count(i) for i in range(owners[-1] + 1)]


def _tidy(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _check_words(words: Sequence[str], what: str) -> None:
    """Check that there are words, none blank, none twice, none a mere "background"."""
    if not words:
        raise InputError(f"the {what} are missing: give at least one word.")
    blank = [i for i, word in enumerate(words) if not any(c.isalnum() for c in word)]
    if blank:
        raise InputError(
            f"each of the {what} needs a letter or digit, got {words[blank[0]]!r} in place "
            f"{blank[0] + 1} of {len(words)}."
        )
    places: dict[str, int] = {}
    for i, word in enumerate(words):
        key = _tidy(word).casefold()
        if key in places:
            raise InputError(
                f"the {what} must differ, but {word!r} stands in places {places[key] + 1} and "
                f"{i + 1}; keep one."
            )
        if key in VOID_NAMES:
            raise InputError(
                f"{word!r} says what a thing is not, which no text encoder can look for; give "
                "the background as Rivals (words for what else there is) or as a Threshold."
            )
        places[key] = i
