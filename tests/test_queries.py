"""Which words are asked of which crop, and masks that are damaged on purpose."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from backbone_layouts import tiny_text_encoder, tiny_tokenizer
from crispmask.errors import InputError
from crispmask.models.text_states import QueryEncoder
from crispmask.models.vocabulary import Vocabulary
from crispmask.shapes import IGNORE
from crispmask.train import queries
from crispmask.train.corrupt import corrupted
from crispmask.train.queries import (
    NO_WORD,
    WordTable,
    ask,
    class_ids,
    class_shares,
    hardest,
    occurring,
    tabulate,
    words_of,
)


@pytest.fixture(scope="module")
def encoder() -> QueryEncoder:
    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return QueryEncoder(tiny_text_encoder("sd1", len(tokenizer)), tokenizer)


def table(ids: list[list[int]], weights: list[list[float]] | None = None) -> WordTable:
    tensor = torch.tensor(ids)
    return WordTable(
        ids=tensor,
        weights=torch.tensor(weights) if weights else (tensor >= 0).float(),
        sentences=tuple(tuple((1,) for i in row if i >= 0) for row in ids),
    )


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# words of a data set


def test_a_background_is_no_word() -> None:
    words = words_of("loveda", ("background", "building", "road"))
    assert words.class_names == ("building", "road")
    assert words.label_names == ("background", "building", "road")
    assert class_ids(words) == [1, 2]
    assert class_ids(words_of("two", ("lesion", "skin"))) == [0, 1]
    with pytest.raises(InputError, match=r"odd has 2 classes .* \(void, other\); make all but one"):
        words_of("odd", ("void", "tree", "other"))


def test_a_table_of_two_data_sets(encoder: QueryEncoder) -> None:
    sets = [words_of("a", ("sky", "tree", "road")), words_of("b", ("background", "tree"))]
    shares = [torch.tensor([0.64, 0.36, 0.0]), torch.tensor([0.75, 0.25])]
    found, states = tabulate(
        sets, shares, encoder, prompts=("", "b"), template="a {}", synonyms=False
    )
    assert found.ids.tolist() == [[0, 1, 2], [1, -1, -1]]
    assert found.weights[0, :2].tolist() == pytest.approx([1 / 0.8, 1 / 0.6])
    assert found.weights[1].tolist() == pytest.approx([2.0, 0.0, 0.0])
    assert found.sentences == (((2,), (3,), (4,)), ((3,),))  # both trees are said alike
    expected = encoder.encode(["", "b", "a sky", "a tree", "a road"])
    assert torch.equal(states.tokens, expected.tokens)
    assert torch.equal(states.pooled, expected.pooled)
    assert found.say(rng()).tolist() == [[2, 3, 4], [3, NO_WORD, NO_WORD]]


def test_words_are_said_in_all_ways(encoder: QueryEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "TEMPLATES", ("{}", "o {}"))
    monkeypatch.setattr(queries, "synonyms_of", lambda names: {"car": ("auto",)})
    words = words_of("a", ("car", "sky"))
    found, states = tabulate(
        [words], [torch.tensor([0.5, 0.5])], encoder, template="a {}", synonyms=True
    )
    said = [["a car", "car", "o car", "a auto", "auto", "o auto"], ["a sky", "sky", "o sky"]]
    (own,) = found.sentences
    for rows, sentences in zip(own, said, strict=True):
        assert torch.equal(states.pooled[list(rows)], encoder.encode(sentences).pooled)
    generator = rng()
    seen = {int(found.say(generator)[0, 0]) for _ in range(100)}
    assert seen == set(own[0])


@pytest.mark.parametrize("word", ["вода", "abcdefghijklm"])
def test_words_that_the_encoder_cannot_take(encoder: QueryEncoder, word: str) -> None:
    with pytest.raises(InputError, match=r"text encoder"):
        tabulate(
            [Vocabulary(class_names=(word,))],
            [torch.ones(1)],
            encoder,
            template="{}",
            synonyms=False,
        )


def test_shares_are_those_of_known_pixels() -> None:
    first = torch.tensor([[0, 0, IGNORE], [1, IGNORE, IGNORE]], dtype=torch.uint8)
    second = torch.full((1, 1), 1, dtype=torch.uint8)
    assert class_shares([first, second], 3).tolist() == [0.5, 0.5, 0.0]


# what is asked


def test_what_occurs() -> None:
    masks = torch.tensor([[[0, 2], [IGNORE, 2]], [[IGNORE, IGNORE], [IGNORE, IGNORE]]])
    ids = torch.tensor([[0, 1, 2, -1], [0, 1, 2, -1]])
    expected = [[True, False, True, False], [False] * 4]
    assert occurring(masks, ids).tolist() == expected


def test_numbers_of_words() -> None:
    """1 to `present` that occur, `absent` that do not, of the own data set alone."""
    words = table([[0, 1, 2, 3, 4, 5], [0, 1, -1, -1, -1, -1]])
    there = torch.tensor([[True, True, True, False, False, False], [False, True] + [False] * 4])
    sources = torch.tensor([0, 1])
    counts: Counter[int] = Counter()
    generator = rng()
    for _ in range(200):
        asked = ask(there, words, sources, present=2, absent=2, generator=generator)
        counts[int(asked[0, :3].sum())] += 1
        assert asked[0, 3:].sum() == 2
        assert asked[1].tolist() == [True, True] + [False] * 4
    assert counts.keys() == {1, 2}
    assert 60 < counts[1] < 140


def test_rare_words_are_asked_more_often() -> None:
    shares = torch.tensor([0.81, 0.16, 0.03])
    words = table([[0, 1, 2]], [shares.rsqrt().tolist()])
    there = torch.ones(1, 3, dtype=torch.bool)
    generator, count = rng(), 3000
    total = torch.zeros(3)
    for _ in range(count):
        total += ask(there, words, torch.tensor([0]), present=1, absent=1, generator=generator)[0]
    expected = shares.rsqrt() / shares.rsqrt().sum()
    assert (total / count - expected).abs().max() < 0.03


def test_a_crop_of_nothing_known_is_asked_for_absent_words() -> None:
    words = table([[0, 1]])
    none = torch.zeros(1, 2, dtype=torch.bool)
    asked = ask(none, words, torch.tensor([0]), present=3, absent=1, generator=rng())
    assert asked.sum() == 1


def test_the_hardest_candidates() -> None:
    presence = torch.tensor([[5.0, 4.0, 3.0, 2.0], [0.0, 1.0, 2.0, 3.0]])
    free = torch.tensor([[False, True, False, True], [False, False, False, False]])
    assert hardest(presence, free, 1).tolist() == [[False, True, False, False], [False] * 4]
    assert torch.equal(hardest(presence, free, 3), free)
    assert not hardest(presence, free, 0).any()


# damaged masks


def square() -> Tensor:
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[:, 8:24, 8:24] = True
    return mask


def test_a_share_of_the_masks_is_damaged() -> None:
    masks = square().expand(400, -1, -1)
    assert torch.equal(corrupted(masks, 0.0, rng()), masks)
    changed = (corrupted(masks, 0.3, rng()) != masks).flatten(1).any(1).float().mean()
    assert 0.2 < changed < 0.35  # a disc may fall where it changes nothing
    assert torch.equal(masks, square().expand(400, -1, -1))


def test_kinds_of_damage() -> None:
    """Masks grow, shrink, gain a piece and lose one; nothing changes far from an edge or disc."""
    found: Counter[Any] = Counter()
    masks = square().expand(200, -1, -1)
    for mask in corrupted(masks, 0.999, rng()):
        added, taken = (mask & ~masks[0]).sum().item(), (masks[0] & ~mask).sum().item()
        assert not (added and taken)
        found["more" if added else "less" if taken else "same"] += 1
    assert min(found["more"], found["less"]) > 60
