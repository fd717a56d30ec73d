"""Which words are asked of which crop, and in which sentence."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from crispmask.data.class_names import VOID_NAMES, readable, synonyms_of
from crispmask.errors import InputError
from crispmask.models.text_states import QueryEncoder, TextStates
from crispmask.models.vocabulary import Threshold, Vocabulary
from crispmask.shapes import IGNORE, Image, Mask

NO_WORD = 0
"""Row of the table of sentences that holds the empty prompt."""

TEMPLATES = ("{}", "a photo of a {}", "there is a {} here")
"""Further sentences for training."""

Asked = Bool[Tensor, "b k"]
"""Whether a word is asked of a crop; the columns are the words of the crop's own data set."""


@dataclass(frozen=True, kw_only=True)
class WordTable:
    """The words of all data sets of a run; lists are padded to the longest.

    Attributes:
        ids: class of each word in its data set, -1 where the list has ended.
        weights: chance of a word that occurs, ``1 / sqrt(share of the known pixels)``.
        sentences: rows of the table of sentences that say each word, the one at inference first.
    """

    ids: Int64[Tensor, "s k"]
    weights: Float[Tensor, "s k"]
    sentences: tuple[tuple[tuple[int, ...], ...], ...]

    def say(self, generator: torch.Generator) -> Int64[Tensor, "s k"]:
        """A sentence for each word, drawn anew; `NO_WORD` where a list has ended."""
        said = torch.full_like(self.ids, NO_WORD)
        for row, words in zip(said, self.sentences, strict=True):
            for i, ways in enumerate(words):
                row[i] = ways[int(torch.randint(len(ways), (), generator=generator))]
        return said


@dataclass(frozen=True, kw_only=True)
class TextBatch:
    """Crops and what is asked of them.

    Attributes:
        images: the crops.
        masks: classes of each crop's own data set.
        filled: masks without unknown pixels, `fill_unknown`.
        sources: data set of each crop.
        there: which words occur.
        asked: words that occur, and some that do not.
        said: sentence of each word in this batch, a row of the table of sentences.
    """

    images: Image
    masks: Mask
    filled: Mask
    sources: Int64[Tensor, "b"]
    there: Asked
    asked: Asked
    said: Int64[Tensor, "s k"]

    def to(self, device: torch.device) -> Self:
        """The batch on this device."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items()})


def words_of(name: str, class_names: Sequence[str]) -> Vocabulary:
    """The words of a data set, in its order.

    A class that says what a thing is not ("background") is no word but what is left over.

    Raises:
        InputError: if there are several such classes, or names that are blank or stand twice.
    """
    void = [i for i, n in enumerate(class_names) if readable(n).casefold() in VOID_NAMES]
    if len(void) > 1:
        raise InputError(
            f"{name} has {len(void)} classes that say what a thing is not "
            f"({', '.join(class_names[i] for i in void)}); make all but one of them {IGNORE}."
        )
    names = tuple(readable(n) for i, n in enumerate(class_names) if i not in void)
    background = Threshold(score=0.5, label=void[0]) if void else None
    return Vocabulary(class_names=names, background=background)


def tabulate(
    vocabularies: Sequence[Vocabulary],
    frequencies: Sequence[Float[Tensor, "_"]],
    encoder: QueryEncoder,
    *,
    prompts: Sequence[str] = ("",),
    template: str,
    synonyms: bool,
    held_out: Sequence[str] = (),
) -> tuple[WordTable, TextStates]:
    """The words of all data sets, and the states of all sentences, computed once.

    Args:
        vocabularies: of the data sets.
        frequencies: share of each class in the known pixels of each data set.
        encoder: makes the states.
        prompts: sentences without words, the first rows of the table; the empty one is row 0.
        template: sentence at inference.
        synonyms: whether words are also said by their synonyms and in `TEMPLATES`.
        held_out: words that are left out of the table, so that nothing is learned of them.

    Raises:
        InputError: if a word is unknown to the encoder or too long.
    """
    rows = {prompt: i for i, prompt in enumerate(prompts)}
    sentences = []
    templates = tuple(dict.fromkeys((template, *TEMPLATES))) if synonyms else (template,)
    for vocabulary in vocabularies:
        more = synonyms_of(vocabulary.class_names) if synonyms else {}
        said = replace(vocabulary, synonyms=more, templates=templates)
        encoder(said)  # refuses words that it does not know
        ways = [
            [t.replace("{}", w) for w in (name, *more.get(name, ())) for t in templates]
            for name in said.class_names
            if name not in held_out
        ]
        sentences.append(
            tuple(tuple(rows.setdefault(s, len(rows)) for s in found) for found in ways)
        )
    most = max(map(len, sentences))
    ids = torch.full((len(sentences), most), -1)
    weights = torch.zeros(len(sentences), most)
    for i, (vocabulary, frequency) in enumerate(zip(vocabularies, frequencies, strict=True)):
        named = zip(class_ids(vocabulary), vocabulary.class_names, strict=True)
        own = [label for label, name in named if name not in held_out]
        ids[i, : len(own)] = torch.tensor(own)
        weights[i, : len(own)] = frequency[own].clamp(min=1e-6).rsqrt().float()
    table = WordTable(ids=ids, weights=weights, sentences=tuple(sentences))
    return table, encoder.encode(list(rows))


def class_ids(vocabulary: Vocabulary) -> list[int]:
    """The data set's class of each word."""
    names = vocabulary.label_names
    return [i for i, n in enumerate(names) if vocabulary.background is None or n != "background"]


def class_shares(masks: Sequence[UInt8[Tensor, "_ _"]], num_classes: int) -> Float[Tensor, "k"]:
    """Share of the known pixels that each class has."""
    counts = torch.zeros(IGNORE + 1)
    for mask in masks:
        counts += torch.bincount(mask.flatten().long(), minlength=IGNORE + 1)
    return counts[:num_classes] / counts[:IGNORE].sum().clamp(min=1)


def occurring(masks: Mask, ids: Int64[Tensor, "b k"]) -> Asked:
    """Which classes a mask has a known pixel of; never where the class is -1."""
    counts = torch.stack([torch.bincount(m.flatten(), minlength=IGNORE + 1) for m in masks])
    return (counts.gather(1, ids.clamp(min=0)) > 0) & (ids >= 0)


def ask(
    there: Asked,
    table: WordTable,
    sources: Int64[Tensor, "b"],
    *,
    present: int,
    absent: int,
    generator: torch.Generator,
) -> Asked:
    """Words for each crop: 1 to `present` that occur, and `absent` that do not.

    Those that occur are drawn by their weights, the others evenly, from the words of the crop's
    data set alone: of others nobody knows whether they are there.
    """
    asked = torch.zeros_like(there)
    for row, occurs, source in zip(asked, there, sources, strict=True):
        count = min(int(occurs.sum()), 1 + int(torch.randint(present, (), generator=generator)))
        if count:
            weights = table.weights[source] * occurs
            row[torch.multinomial(weights, count, generator=generator)] = True
        missing = (~occurs & (table.ids[source] >= 0)).nonzero().flatten()
        row[missing[torch.randperm(len(missing), generator=generator)[:absent]]] = True
    return asked


def hardest(presence: Float[Tensor, "b k"], candidates: Bool[Tensor, "b k"], count: int) -> Asked:
    """The candidates that are most taken for present, at most `count` in each crop."""
    scores = presence.masked_fill(~candidates, -torch.inf)
    best = scores.topk(min(count, scores.shape[1]), dim=1).indices
    return torch.zeros_like(candidates).scatter(1, best, True) & candidates
