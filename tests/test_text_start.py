"""A text segmenter that goes on from labels: its first state, what comes back, what is refused."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from torch import Tensor

from crispmask import TextSegmenter
from crispmask.data.sample import write_mask
from crispmask.diffusion.gaussian import add_noise, inference_steps
from crispmask.errors import InputError
from crispmask.models.vocabulary import Rivals, Threshold, Vocabulary
from crispmask.shapes import IGNORE
from tiny_text import picture, tiny_segmenter, unweighted, watched

WORDS = ("cat", "dog", "bird")
PLAIN = ("{}",)
SIZE = (16, 12)


@pytest.fixture(scope="module")
def model() -> TextSegmenter:
    return tiny_segmenter(start="noise")


def blocks(h: int = 16, w: int = 12, *, classes: int = 3, side: int = 4) -> Tensor:
    """Labels of one class a block."""
    rng = torch.Generator().manual_seed(1)
    coarse = torch.randint(classes, (h // side, w // side), generator=rng)
    return coarse.repeat_interleave(side, 0).repeat_interleave(side, 1)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "several steps": {"num_inference_steps": 3},
    "few words": {"top": 2, "chunk": 1},
    "both sides, two seeds": {"flip": True, "ensemble_size": 2},
    "windows": {"tile": 8},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("code", ["binary", "overlay", "resize", "palette", "bits"])
def test_at_strength_one_nothing_is_left_of_the_start(code: Any, options: dict[str, Any]) -> None:
    closed: dict[str, Any] = {}
    if code in ("palette", "bits"):
        closed = {"decode": "vae", "class_names": WORDS}
    model = tiny_segmenter(start="noise", mask_code=code, **closed)
    plain = model(picture(*SIZE), WORDS, **options)
    begun = model(picture(*SIZE), WORDS, **options, start=blocks(), strength=1.0)
    assert torch.equal(begun.probs, plain.probs)
    assert begun.num_calls == plain.num_calls
    begun = model(picture(*SIZE), WORDS, **options, start=blocks(), strength=0.5)
    assert not torch.allclose(begun.probs, plain.probs)
    assert begun.num_calls == plain.num_calls


@pytest.mark.parametrize(("steps", "strength"), [(1, 0.5), (3, 0.3), (10, 0.01)])
def test_the_first_state_is_the_noised_mask_of_each_word(
    model: TextSegmenter, steps: int, strength: float
) -> None:
    options: dict[str, Any] = {"num_inference_steps": steps, "chunk": 2, "seed": 3}
    with watched(model) as spy:
        answer = model(picture(*SIZE), WORDS, start=blocks(), strength=strength, **options)
    assert spy.rows == answer.num_calls == 1 + 3 * steps
    grid = inference_steps(model.scheduler, steps, strength=strength)
    assert grid[0] == round(1000 * strength) - 1
    assert spy.steps == [999, *grid, *grid]  # the ranking, two words, one word
    noise = spy.inputs[0][:, 4:]
    first = torch.cat([spy.inputs[1], spy.inputs[1 + steps]])[:, 4:]
    for word, state in enumerate(first):
        picture_of = (2.0 * (blocks() == word) - 1).expand(1, 3, -1, -1)
        z_0 = model.codec.encode(picture_of)
        want = add_noise(model.scheduler, z_0, noise, torch.tensor([grid[0]]))
        torch.testing.assert_close(state[None], want)


def test_a_start_comes_back_from_a_low_strength() -> None:
    """Of a code without a VAE, the labels themselves; of the others, what the VAE keeps."""
    plain = unweighted(tiny_segmenter(start="noise", mask_code="resize", decode="vae"))
    options: dict[str, Any] = {"start": blocks(), "num_inference_steps": 10}
    near = plain(picture(*SIZE), WORDS, strength=0.01, **options)
    assert torch.equal(near.labels[0], blocks())
    far = plain(picture(*SIZE), WORDS, strength=1.0, **options)
    assert (far.labels[0] == blocks()).float().mean() < 0.6

    model = unweighted(tiny_segmenter(start="noise", decode="vae"))
    model.codec.scale = 100.0  # of a trained VAE latents are as large as the noise
    image = picture(*SIZE)
    masks = (blocks() == torch.arange(3).view(-1, 1, 1))[:, None]
    with torch.no_grad():
        images = image.expand(3, -1, -1, -1)
        z_0 = model.mask_latents(masks, images)
        kept = model.mask_logits(z_0, {}, images).movedim(0, 1).softmax(1)
    low, high = (
        (model(image, WORDS, strength=strength, **options).probs - kept).abs().mean()
        for strength in (0.01, 1.0)
    )
    assert low < 0.2 * high


def test_unknown_pixels_take_the_nearest_label(model: TextSegmenter) -> None:
    some = blocks()
    some[:, 8:] = IGNORE
    filled = torch.cat([blocks()[:, :8], blocks()[:, 7:8].expand(-1, 4)], dim=1)
    begun, want = (model(picture(*SIZE), WORDS, start=labels) for labels in (some, filled))
    assert torch.equal(begun.probs, want.probs)
    nothing = torch.full(SIZE, IGNORE)
    plain = model(picture(*SIZE), WORDS)
    assert torch.equal(model(picture(*SIZE), WORDS, start=nothing).probs, plain.probs)


@pytest.mark.parametrize("label", [None, 0])
def test_labels_are_those_of_the_answer(model: TextSegmenter, label: int | None) -> None:
    """Synonyms begin with the mask of their class, rivals with that of the background."""
    backgrounds = (Threshold(score=0.4, label=label), Rivals(words=("sky", "sea"), label=label))
    for background in backgrounds:
        words = Vocabulary(
            class_names=("cat", "dog"),
            synonyms={"cat": ("puss",)},
            templates=PLAIN,
            background=background,
        )
        answer = model(picture(*SIZE), words)
        with watched(model) as spy:
            model(picture(*SIZE), words, start=answer.labels, strength=0.01)
        states = spy.inputs[1][:, 4:]
        at = words.label_names.index
        labels = [at("cat"), at("cat"), at("dog"), *[at("background")] * (len(states) - 3)]
        masks = answer.labels[0] == torch.tensor(labels).view(-1, 1, 1)
        z_0 = model.mask_latents(masks[:, None], picture(*SIZE).expand(len(masks), -1, -1, -1))
        step = torch.full((len(masks),), 9)
        want = add_noise(model.scheduler, z_0, spy.inputs[0][:, 4:].expand_as(z_0), step)
        torch.testing.assert_close(states, want)


def test_flips_turn_the_start_and_seeds_share_it(model: TextSegmenter) -> None:
    bare = unweighted(model)
    there = bare(picture(*SIZE), WORDS, start=blocks())
    back = bare(picture(*SIZE).flip(-1), WORDS, start=blocks().flip(-1))
    both = bare(picture(*SIZE), WORDS, start=blocks(), flip=True)
    torch.testing.assert_close(both.probs, (there.probs + back.probs.flip(-1)) / 2)
    single = [bare(picture(*SIZE), WORDS, start=blocks(), seed=seed).probs for seed in (7, 8)]
    pair = bare(picture(*SIZE), WORDS, start=blocks(), seed=7, ensemble_size=2)
    torch.testing.assert_close(pair.probs, (single[0] + single[1]) / 2)


def test_windows_see_their_part_of_the_start() -> None:
    model = tiny_segmenter(start="noise", mask_code="resize", image_size=8)
    with watched(model) as spy:
        model(picture(8, 16), WORDS, start=blocks(8, 16), tile=8, overlap=0.5, strength=0.1)
    whole, *windows = spy.inputs[1:]
    assert whole.shape[-2:] == (4, 8)  # a latent is two pixels
    assert len(windows) == 3
    for left, right in pairwise(windows):
        assert torch.equal(left[:, 4:, :, 2:], right[:, 4:, :, :2])
    masks = blocks(8, 16) == torch.arange(3).view(-1, 1, 1)
    z_0 = model.mask_codec.encode(masks[:, None, :, 4:12], picture(8, 8).expand(3, -1, -1, -1))
    near = windows[1][:, 4:]
    assert ((near.mean(1) > 0) == (z_0[:, 0].mean(1) > 0)).float().mean() > 0.9


def test_a_start_is_resized_as_labels() -> None:
    """The model looks at half the size; the nearest pixel of blocks of two is the block's."""
    model = unweighted(
        tiny_segmenter(start="noise", mask_code="resize", decode="vae", image_size=12)
    )
    answer = model(picture(32, 24), WORDS, start=blocks(32, 24, side=8), strength=0.01)
    assert (answer.labels[0] == blocks(32, 24, side=8)).float().mean() > 0.9


def test_labels_of_any_kind(model: TextSegmenter, tmp_path: Path) -> None:
    write_mask(blocks(), tmp_path / "labels.png")
    want = model(picture(*SIZE), WORDS, start=blocks()).probs
    for start in (tmp_path / "labels.png", str(tmp_path / "labels.png"), blocks().numpy()):
        assert torch.equal(model(picture(*SIZE), WORDS, start=start).probs, want)
    ask = model.bound(WORDS, strength=0.5)
    assert torch.equal(ask(picture(*SIZE), start=blocks()).probs, want)
    assert torch.equal(ask(picture(*SIZE)).probs, model(picture(*SIZE), WORDS).probs)


BAD: dict[str, tuple[Any, str]] = {
    "the size": (blocks(12, 16), "start must have the size of the image, 1 of 16x12, got 1 of 12"),
    "two": (blocks().expand(2, -1, -1), "got 2 of 16x12"),
    "an id": (blocks() + 1, "ids from 0 to 2, or 255 for unknown, got 3"),
    "probabilities": (torch.rand(3, *SIZE), "start must be integers"),
    "a word": ("cat", "cat does not exist"),
}


@pytest.mark.parametrize("case", BAD)
def test_starts_that_cannot_be(model: TextSegmenter, case: str) -> None:
    start, match = BAD[case]
    with watched(model) as spy, pytest.raises(InputError, match=match) as caught:
        model(picture(*SIZE), WORDS, start=start)
    assert "\n" not in str(caught.value)
    assert spy.rows == 0


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.1, float("nan")])
def test_strengths_that_cannot_be(model: TextSegmenter, strength: float) -> None:
    with pytest.raises(InputError, match=r"strength must lie in \(0, 1\]"):
        model(picture(*SIZE), WORDS, start=blocks(), strength=strength)


def test_more_calls_than_steps_are_refused(model: TextSegmenter) -> None:
    with watched(model) as spy, pytest.raises(InputError, match=r"1 to 5, got 6.*strength 0\.005"):
        model(picture(*SIZE), WORDS, start=blocks(), strength=0.005, num_inference_steps=6)
    assert spy.rows == 0


def test_models_that_cannot_go_on_from_labels() -> None:
    with pytest.raises(InputError, match="from zeros and never saw one"):
        tiny_segmenter()(picture(*SIZE), WORDS, start=blocks())
    closed = tiny_segmenter(
        start="noise", mask_code="palette", decode="vae", class_names=("cat", "dog")
    )
    words = Vocabulary(class_names=("cat", "dog"), templates=PLAIN, background=Threshold(score=0.4))
    with pytest.raises(InputError, match=r"start holds background.*put 255 there"):
        closed(picture(*SIZE), words, start=blocks())
    assert closed(picture(*SIZE), words, start=blocks() % 2).labels.shape == (1, *SIZE)
    many = [a + b for a in "abcdefghijklmnop" for b in "abcdefghijklmnop"]
    with pytest.raises(InputError, match=r"at most 255 names.*got 256"):
        tiny_segmenter(start="noise")(picture(*SIZE), many, start=blocks())
