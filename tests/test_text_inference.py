"""How a text segmenter answers: against a slow version, call by call, and what it refuses."""

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from crispmask import MaskRefiner, TextSegmenter
from crispmask.data.sample import Sample
from crispmask.data.transforms import pad_to_multiple
from crispmask.errors import InputError
from crispmask.evaluate.open_vocabulary import WordsProtocol, evaluate_words
from crispmask.models.text_answer import TextAnswer
from crispmask.models.text_views import blended, scene
from crispmask.models.vocabulary import CHANCE, Rivals, Threshold, Vocabulary
from tiny_text import Spy, image_file, picture, tiny_segmenter, unweighted, watched

WORDS = ("cat", "dog", "bird", "cow", "fish")
PLAIN = ("{}",)


@pytest.fixture(scope="module")
def model() -> TextSegmenter:
    """Starts from zeros, as a model of one step."""
    return tiny_segmenter()


@pytest.fixture(scope="module")
def noisy() -> TextSegmenter:
    """Starts from noise and was trained with dropped prompts."""
    return tiny_segmenter(start="noise", guided=True)


@torch.no_grad()
def slow_scores(
    model: TextSegmenter, image: Tensor, vocabulary: Vocabulary, *, decode: Any = None
) -> tuple[Tensor, Tensor]:
    """Scores of all queries, one by one and in one step from zeros, and presence logits."""
    h, w = image.shape[-2:]
    small = image
    if model.config.image_size:
        scale = model.config.image_size / min(h, w)
        size = (round(h * scale), round(w * scale))
        small = F.interpolate(image, size, mode="bilinear", antialias=scale < 1).clamp(0, 1)
    padded, (sh, sw) = pad_to_multiple(small, model.stride)
    z = model.codec.encode(2 * padded - 1)
    last = torch.tensor([model.last_step])
    ranked = model.call(z, torch.zeros_like(z), last, model.words.encode([""]))
    pixels = model.align.pixels(ranked.features)
    scores, presence = [], []
    for query in vocabulary.queries:
        states = model.words(Vocabulary(class_names=(query,), templates=vocabulary.templates))
        call = model.call(z, torch.zeros_like(z), last, states)
        mask = model.mask_logits(-call.output, call.features, padded, decode=decode)
        align = model.align.scores(pixels, model.align.words(states.pooled))
        there = model.align.presence(align)
        both = mask + model.config.align_weight * F.interpolate(
            align, padded.shape[-2:], mode="bilinear"
        )
        full = F.interpolate(both[..., :sh, :sw], (h, w), mode="bilinear")
        scores.append(full + model.config.presence_weight * F.logsigmoid(there)[..., None, None])
        presence.append(there)
    return torch.cat(scores, 1), torch.cat(presence, 1)


@pytest.mark.parametrize("image_size", [0, 10, 24])
@pytest.mark.parametrize("decode", ["light", "vae"])
def test_one_step_is_that_of_a_slow_version(image_size: int, decode: Any) -> None:
    """Padding, resizing before the argmax, all three terms, temperature, synonyms by max."""
    model = tiny_segmenter(
        image_size=image_size, temperature=2.0, align_weight=0.7, presence_weight=1.5
    )
    words = Vocabulary(
        class_names=("cat", "dog", "bird"),
        synonyms={"cat": ("kitten", "puss"), "bird": ("crow",)},
        templates=PLAIN,
    )
    answer = model(picture(), words, decode=decode)
    scores, there = slow_scores(model, picture(), words, decode=decode)
    classes = torch.stack([scores[:, :3].amax(1), scores[:, 3], scores[:, 4:].amax(1)], dim=1)
    torch.testing.assert_close(answer.probs, (classes / 2).softmax(1), rtol=1e-4, atol=1e-5)
    assert torch.equal(answer.labels, answer.probs.argmax(1))
    assert answer.labels.shape == (1, 18, 14)
    presence = torch.stack([there[:, :3].amax(1), there[:, 3], there[:, 4:].amax(1)], dim=1)
    torch.testing.assert_close(answer.presence, presence.sigmoid())
    p = answer.probs.double()
    entropy = -(p * p.log()).sum(1) / math.log(3)
    torch.testing.assert_close(answer.uncertainty.double(), entropy, rtol=1e-4, atol=1e-5)
    assert answer.label_names == ("cat", "dog", "bird")


@pytest.mark.parametrize(("steps", "top", "kept"), [(1, None, 5), (1, 2, 2), (3, 4, 4)])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_number_of_calls_is_exact(
    noisy: TextSegmenter, steps: int, top: int | None, kept: int, scale: float
) -> None:
    with watched(noisy) as spy:
        answer = noisy(
            picture(), WORDS, num_inference_steps=steps, top=top, guidance_scale=scale, chunk=2
        )
    assert len(answer.kept) == kept
    assert spy.rows == answer.num_calls == 1 + kept * steps * (1 if scale == 1 else 2)


@torch.no_grad()
def slow_order(model: TextSegmenter) -> list[int]:
    """`WORDS`, the likeliest at any pixel first, before a mask is drawn."""
    padded, _ = pad_to_multiple(picture(), model.stride)
    z, last = model.codec.encode(2 * padded - 1), torch.tensor([model.last_step])
    seen = model.call(z, torch.zeros_like(z), last, model.words.encode([""]))
    states = model.words(Vocabulary(class_names=tuple(WORDS), templates=PLAIN))
    near = model.align.scores(model.align.pixels(seen.features), model.align.words(states.pooled))
    there = F.logsigmoid(model.align.presence(near))[..., None, None]
    config = model.config
    scores = config.align_weight * near + config.presence_weight * there
    chance = (scores / config.temperature).softmax(1).amax((0, 2, 3))
    return [int(word) for word in chance.argsort(descending=True)]


@pytest.mark.parametrize("chunk", [2, 64])
def test_the_best_of_the_ranking_are_drawn_as_in_the_exact_answer(
    model: TextSegmenter, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crispmask.models.text_inference.CHUNK", chunk)
    exact, some = model(picture(), WORDS, top=None), model(picture(), WORDS, top=3)
    assert torch.equal(model(picture(), WORDS, top=5).kept_probs, exact.kept_probs)
    assert exact.kept == (0, 1, 2, 3, 4)
    assert set(some.kept) == set(slow_order(model)[:3])
    left = exact.probs[:, list(some.kept)]
    torch.testing.assert_close(some.kept_probs, left / left.sum(1, keepdim=True))
    assert torch.equal(some.presence, exact.presence)  # of all classes
    assert not some.probs[:, [i for i in range(5) if i not in some.kept]].any()


def test_pinned_words_are_always_drawn(model: TextSegmenter) -> None:
    order = slow_order(model)
    answer = model(picture(), WORDS, top=1, pinned=[WORDS[order[-1]]])
    assert answer.kept == tuple(sorted((order[0], order[-1])))
    with pytest.raises(InputError, match="'horse' is not"):
        model(picture(), WORDS, pinned=["horse"])


def test_only_the_classes_asked_for_are_answered(model: TextSegmenter) -> None:
    exact = model(picture(), WORDS)
    for pinned in ((), ("dog",)):
        some = model(picture(), WORDS, among=[0, 3], pinned=pinned)
        assert some.kept == (0, 3)
        left = exact.probs[:, [0, 3]]
        torch.testing.assert_close(some.kept_probs, left / left.sum(1, keepdim=True))
    alone = model(picture(), WORDS, among=[2])
    assert (alone.labels == 2).all()
    assert not alone.uncertainty.any()
    for among, match in (([5], "0 to 4"), ([], "at least one")):
        with pytest.raises(InputError, match=match):
            model(picture(), WORDS, among=among)


def test_all_queries_of_an_image_share_the_noise(noisy: TextSegmenter) -> None:
    with watched(noisy) as spy:
        first = noisy(picture(), WORDS, seed=3, chunk=2)
    states = torch.cat(spy.inputs)[:, 4:]  # the ranking, then five queries in three chunks
    assert states.std() > 0.5
    assert all(torch.equal(state, states[0]) for state in states)
    looks = torch.cat(spy.inputs)[:, :4]
    assert all(torch.equal(look, looks[0]) for look in looks)
    assert torch.equal(noisy(picture(), WORDS, seed=3, chunk=2).probs, first.probs)
    assert not torch.allclose(noisy(picture(), WORDS, seed=4).probs, first.probs)


def test_chunks_do_not_change_the_answer(noisy: TextSegmenter) -> None:
    one, *others = (
        noisy(picture(), WORDS, num_inference_steps=2, chunk=n).probs for n in (1, 3, 8)
    )
    for other in others:
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)


def test_guidance(noisy: TextSegmenter, model: TextSegmenter) -> None:
    negative = noisy.words.encode(["sky"]).tokens[0]

    def asked(spy: Spy) -> int:
        """Rows with the negative prompt."""
        return sum(bool(torch.equal(row, negative)) for texts in spy.texts for row in texts)

    with watched(noisy) as spy:
        plain = noisy(picture(), WORDS, negative="sky")
    assert asked(spy) == 0
    with watched(noisy) as spy:
        guided = noisy(picture(), WORDS, negative="sky", guidance_scale=2.0)
    assert asked(spy) == 5
    other = noisy(picture(), WORDS, guidance_scale=2.0)
    assert not torch.allclose(guided.probs, plain.probs)
    assert not torch.allclose(guided.probs, other.probs)
    bare = unweighted(noisy)
    nothing = bare(picture(), WORDS, guidance_scale=0.0, decode="vae")  # all draw the negative
    torch.testing.assert_close(nothing.kept_probs, torch.full_like(nothing.kept_probs, 0.2))
    with pytest.warns(UserWarning, match="without dropped prompts"):
        model(picture(), WORDS, guidance_scale=2.0)


def test_flips_and_seeds_average_probabilities(noisy: TextSegmenter) -> None:
    bare = unweighted(noisy)  # the ranking is that of the first member
    there, back = bare(picture(), WORDS), bare(picture().flip(-1), WORDS)
    both = bare(picture(), WORDS, flip=True)
    torch.testing.assert_close(both.probs, (there.probs + back.probs.flip(-1)) / 2)
    assert both.num_calls == 1 + 2 * 5
    single = [bare(picture(), WORDS, seed=seed).probs for seed in (7, 8)]
    pair = bare(picture(), WORDS, seed=7, ensemble_size=2)
    torch.testing.assert_close(pair.probs, (single[0] + single[1]) / 2)
    assert torch.equal(pair.labels, pair.probs.argmax(1))
    assert pair.num_calls == 1 + 2 * 5


def test_the_align_map_of_a_mirror_image_is_turned_back(model: TextSegmenter) -> None:
    """What the ranking adds lies in the same place in both halves of a flipped pair."""
    config = replace(model.config, align_weight=1000.0)
    strong = unweighted(model)
    strong.config = config
    one, both = strong(picture(), WORDS), strong(picture(), WORDS, flip=True)
    assert (one.labels == both.labels).float().mean() > 0.95


@pytest.mark.parametrize("label", [None, 0, 2])
def test_backgrounds_are_those_of_the_vocabulary(model: TextSegmenter, label: int | None) -> None:
    rivals = Rivals(words=("sky", "wall"), label=label)
    words = Vocabulary(class_names=("cat", "dog", "cow"), templates=PLAIN, background=rivals)
    scores, _ = slow_scores(model, picture(), words)
    answer = model(picture(), words)
    assert answer.label_names == words.label_names
    assert torch.equal(answer.labels, words.labels(scores))
    assert torch.equal(answer.labels, answer.probs.argmax(1))
    assert answer.presence.shape == (1, 3)

    best = scores[:, :3].amax(1).sigmoid()
    fitted = Threshold(score=best.quantile(0.5).item(), label=label)  # between two pixels
    words = replace(words, background=fitted)
    answer = model(picture(), words, top=None)
    assert torch.equal(answer.labels, words.labels(scores[:, :3].sigmoid()))
    assert torch.equal(answer.labels, answer.probs.argmax(1))
    background = answer.label_names.index("background")
    assert 0.4 < (answer.labels == background).float().mean() < 0.6
    told = model(picture(), words, among=[])
    assert (told.labels == background).all()


def test_a_threshold_is_a_chance_over_the_floor(model: TextSegmenter) -> None:
    words = Vocabulary(
        class_names=("cat", "dog", "cow"), templates=PLAIN, background=Threshold(score=0.3)
    )
    best = slow_scores(model, picture(), words)[0][:, :3].amax(1)
    other = copy(model)
    other.config = replace(model.config, temperature=4.0, floor=best.median().item() + 2)
    chance = ((best - other.config.floor) / 4).sigmoid()
    answer = other(picture(), words, top=None)
    assert 0 < (chance < 0.3).float().mean() < 1
    assert torch.equal(answer.labels == 3, chance < 0.3)


def test_a_single_word_is_told_from_the_rest(model: TextSegmenter) -> None:
    words = Vocabulary(class_names=("cat",), templates=PLAIN, background=Threshold(score=CHANCE))
    for texts in (["cat"], "cat", {"cat": ()}):
        answer = model(picture(), texts)
        assert answer.label_names == ("cat", "background")
        assert torch.equal(answer.probs, model(picture(), words).probs)
    alone = model(picture(), replace(words, background=None))
    assert alone.label_names == ("cat",)  # a vocabulary is taken at its word
    assert (alone.probs == 1).all()


def test_the_best_rival_is_always_drawn(model: TextSegmenter) -> None:
    words = Vocabulary(
        class_names=("cat", "dog"), templates=PLAIN, background=Rivals(words=("sky", "wall"))
    )
    answer = model(picture(), words, top=1)
    assert 2 in answer.kept
    assert answer.num_calls <= 1 + 2


@pytest.mark.parametrize(("code", "passes"), [("palette", 1), ("bits", 2)])
def test_closed_codes_draw_all_words_at_once(code: Any, passes: int) -> None:
    names = tuple("abcdefghij")
    model = tiny_segmenter(mask_code=code, decode="vae", class_names=names)
    with watched(model) as spy:
        answer = model(picture(), names, top=1)
    assert spy.rows == answer.num_calls == 1 + passes
    empty = model.words.encode([""]).tokens[0]
    assert torch.equal(spy.texts[0][0], empty)
    assert torch.equal(spy.texts[1][0], empty)
    assert answer.kept == tuple(range(10))
    bare = unweighted(model)
    padded, _ = pad_to_multiple(picture(), model.stride)
    with torch.no_grad():
        z = model.look(padded)
        prompts = model.words.encode(["", "2"][:passes])
        step = torch.full((passes,), model.last_step)
        z = z.expand(passes, -1, -1, -1)
        output = model.call(z, torch.zeros_like(z), step, prompts).output
        logits = model.closed_logits(-output, padded, 10)[..., :18, :14]
    torch.testing.assert_close(bare(picture(), names).probs, logits.softmax(1))
    some = bare(picture(), names, among=[1, 4])
    torch.testing.assert_close(some.kept_probs, logits[:, [1, 4]].softmax(1))
    words = Vocabulary(class_names=names, templates=PLAIN, background=Threshold(score=0.5))
    with watched(model) as spy:
        assert model(picture(), words, among=[]).num_calls == 1
    assert spy.rows == 1
    with pytest.raises(InputError, match="in their order"):
        model(picture(), names[::-1])
    with pytest.raises(InputError, match="light decoder cannot"):
        model(picture(), names, decode="light")


def test_windows_of_what_depends_on_pixels_alone_leave_no_seam(model: TextSegmenter) -> None:
    """Whole and windows agree exactly with what the pixels say, at the borders, too."""
    image = picture(40, 28)
    for mirrored in (False, True):
        seen = scene(model, image, tile=16, overlap=1 / 3, mirrored=mirrored)
        assert len(seen.windows) == 3 * 2
        assert min(seen.whole.image.shape[-2:]) == 16
        maps = [view.image.mean(1, keepdim=True) for view in seen.views]
        tiled = 2 * seen.merge(maps) - seen.enlarge(maps[0])
        torch.testing.assert_close(tiled, image.mean(1, keepdim=True))


def test_windows_that_disagree_are_blended_without_a_jump() -> None:
    """Neighbours of value 0 and 1 that share 16 pixels: no step beyond the slope of the ramp."""
    parts = [(0, left, torch.full((1, 1, 32, 32), value)) for left, value in ((0, 0.0), (16, 1.0))]
    merged = blended(parts, size=(32, 48))
    assert torch.equal(merged[..., :16], torch.zeros(1, 1, 32, 16))
    assert torch.equal(merged[..., 32:], torch.ones(1, 1, 32, 16))
    steps = merged.diff(dim=-1)
    assert steps.min() >= 0
    assert steps.max() < 3 / 16


def test_tiles_see_more_calls_and_the_ranking_sees_the_whole(noisy: TextSegmenter) -> None:
    image = picture(24, 24)
    sized = unweighted(noisy, image_size=16)
    with watched(sized) as spy:
        tiled = sized(image, WORDS, tile=16, overlap=0.5)
    assert len(scene(sized, image, tile=16, overlap=0.5, mirrored=False).windows) == 4
    assert spy.rows == tiled.num_calls == 1 + 5 * (1 + 4)
    plain = sized(image, WORDS)
    assert torch.equal(tiled.presence, plain.presence)
    assert not torch.allclose(tiled.probs, plain.probs)
    fitting = sized(image, WORDS, tile=24)
    assert torch.equal(fitting.probs, plain.probs)  # an image that fits one window is not tiled
    large = [x for x in spy.inputs if len(x) == 5][1:]  # those of the windows
    right, left = large[1][0, 4:, :, :4], large[0][0, 4:, :, 4:]
    assert torch.equal(right, left)  # windows see one noise where they overlap


def test_images_are_encoded_and_texts_computed_once() -> None:
    model = tiny_segmenter()
    encoded: list[int] = []
    texts: list[int] = []
    model.codec.vae.encoder.register_forward_pre_hook(lambda _, args: encoded.append(len(args[0])))
    model.words.encoder.register_forward_pre_hook(lambda *_: texts.append(1))
    ask = model.bound(WORDS, chunk=1, num_inference_steps=2)
    before = len(texts)
    ask(picture())
    ask(picture(seed=1))
    assert encoded == [1, 1]
    assert len(texts) == before
    model(picture(), WORDS)
    assert len(texts) == before


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Elements of the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor):
                self.numel = max(self.numel, value.numel())
        return out


def test_memory_does_not_grow_with_the_words() -> None:
    """No tensor holds a map at full size of every word, unless it is asked for."""
    model = tiny_segmenter(image_size=8)
    words = [a + b for a in "abcdefghij" for b in "klmnopqrst"]  # 100
    image = picture(64, 64)
    ask = model.bound(words, top=3, chunk=2)
    with Largest() as largest:  # type: ignore[no-untyped-call]
        answer: TextAnswer = ask(image)
    assert largest.numel <= 3 * 64 * 64 * 3
    with Largest() as largest:  # type: ignore[no-untyped-call]
        assert answer.probs.shape == (1, 100, 64, 64)
    assert largest.numel == 100 * 64 * 64


def test_any_image_will_do(model: TextSegmenter, tmp_path: Path) -> None:
    path = image_file(tmp_path)
    labels = model(path, "cat, dog").labels
    assert labels.shape == (1, 24, 32)
    assert torch.equal(model(str(path), ["cat", "dog"]).labels, labels)


def test_a_refiner_takes_the_answer_as_its_base(model: TextSegmenter, tiny_models: Path) -> None:
    refiner = MaskRefiner.from_pretrained(tiny_models)
    answer = model(picture(), ["land", "water", "cloud"], top=2)
    assert len(answer.kept) == 2
    refined = refiner(picture(), answer)
    assert torch.equal(refined.probs, refiner(picture(), answer.probs).probs)
    with pytest.raises(InputError, match="answers in land, water; the model's classes are land"):
        refiner(picture(), model(picture(), ["land", "water"]))


class Pictures:
    """Two images whose labels are cat, dog and the background."""

    class_names = ("background", "cat", "dog")

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Sample:
        rng = torch.Generator().manual_seed(index)
        mask = torch.randint(index + 1, 3, (10, 12), generator=rng)
        return Sample(picture(10, 12, seed=index)[0], mask, str(index))


def test_it_is_evaluated_as_a_segmenter_of_words(model: TextSegmenter) -> None:
    words = Vocabulary(
        class_names=("cat", "dog"), templates=PLAIN, background=Threshold(score=0.1, label=0)
    )
    protocol = WordsProtocol(data="two", vocabulary=words, trained_on=(), image_size="as they are")
    result = evaluate_words(Pictures(), model.bound(words), protocol)
    assert result.presence is not None
    assert result.oracle_presence is not None
    samples = [Pictures()[i] for i in range(2)]
    right = [(model(s.image, words).labels[0] == s.mask).float().mean().item() for s in samples]
    assert result.scores.accuracy == pytest.approx(sum(right) / 2)


REFUSED: dict[str, tuple[Any, str]] = {
    "none": ([], "give at least one word"),
    "an empty text": ("", "give at least one word"),
    "twice": (["cat", "Cat"], "stands in places 1 and 2"),
    "blank": (["cat", "  "], "needs a letter"),
    "too long": (["abcdefghijk"], "takes 12 tokens"),
    "too many": ([f"a{i}" for i in range(1001)], "1,001"),
    "another script": (["вода"], "Cyrillic"),
    "no words": ([1, 2], "must be words or"),
    "background": (["cat", "background"], "Rivals"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_texts_that_cannot_be_asked_for(model: TextSegmenter, case: str) -> None:
    texts, match = REFUSED[case]
    with watched(model) as spy, pytest.raises(InputError, match=match) as caught:
        model(picture(), texts)
    assert "\n" not in str(caught.value)
    assert spy.rows == 0


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "top": ({"top": 0}, "top must be at least 1"),
    "chunk": ({"chunk": 0}, "chunk must be at least 1"),
    "steps": ({"num_inference_steps": 0}, "must be 1 to 1000"),
    "overlap": ({"tile": 16, "overlap": 1.0}, "overlap a share"),
    "tile": ({"tile": 6}, "multiple of 4, got 6; take 8"),
    "seeds": ({"ensemble_size": 2}, "starts from zeros"),
    "negative": ({"negative": "a" * 40}, "takes 12 tokens"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_cannot_be(model: TextSegmenter, case: str) -> None:
    options, match = OPTIONS[case]
    with pytest.raises(InputError, match=match):
        model(picture(), WORDS, **options)


def test_images_that_cannot_be(model: TextSegmenter) -> None:
    bad: Sequence[tuple[Any, str]] = (
        (torch.rand(3, 1, 9), "at least 2x2 pixels.*got 1x9"),
        (torch.rand(2, 3, 8, 8), "one image.*batch of 2"),
        (torch.rand(8, 8), "must have shape"),
        (Path("no such file.png"), "does not exist"),
    )
    for image, match in bad:
        with pytest.raises(InputError, match=match):
            model(image, WORDS)


def test_half_precision_on_a_cpu_is_refused() -> None:
    model = tiny_segmenter().half()
    with pytest.raises(InputError, match=r"fp16; use segmenter.float\(\)"):
        model(picture(), WORDS)
