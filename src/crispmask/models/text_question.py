"""What a `TextSegmenter` is asked: words and their text states, and how to answer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from crispmask.errors import InputError, warn
from crispmask.models.text_config import Decode, TextSegmenterConfig, pass_prompts
from crispmask.models.text_denoiser import TextDenoiser
from crispmask.models.text_states import TextStates
from crispmask.models.vocabulary import CHANCE, Threshold, Vocabulary


@dataclass(frozen=True, kw_only=True)
class TextSampling:
    """How to answer; `TextSegmenter.forward` says what each is.

    Raises:
        InputError: if a value is out of its range.
    """

    num_inference_steps: int = 1
    top: int | None = 32
    pinned: Sequence[str] = ()
    decode: Decode | None = None
    guidance_scale: float = 1.0
    negative: str = ""
    seed: int = 0
    flip: bool = False
    ensemble_size: int = 1
    tile: int = 0
    overlap: float = 1 / 3
    chunk: int = 8
    strength: float = 0.5

    def __post_init__(self) -> None:
        for name in ("top", "ensemble_size", "chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}.")
        if self.tile < 0 or not 0 <= self.overlap < 1:
            raise InputError(
                "tile must be at least 0 and overlap a share in [0, 1), got "
                f"{self.tile} and {self.overlap}."
            )
        if not 0 < self.strength <= 1:
            raise InputError(
                f"strength must lie in (0, 1], got {self.strength}: near 0 the start stays as it "
                "is, at 1 nothing is left of it."
            )


@dataclass(frozen=True, kw_only=True)
class Question:
    """A vocabulary with its text states, and how it is to be answered.

    Attributes:
        vocabulary: the words.
        states: of its queries.
        passes: of the prompts of a closed mask code's passes; None for other codes.
        empty: of the empty prompt, with which the ranking looks.
        negative: of what guidance leads away from.
        sampling: how to answer.
    """

    vocabulary: Vocabulary
    states: TextStates
    passes: TextStates | None
    empty: TextStates
    negative: TextStates
    sampling: TextSampling


def question(segmenter: TextDenoiser, texts: Any, sampling: TextSampling) -> Question:
    """What is asked, its text states computed once.

    Raises:
        InputError: if a text cannot be used, or the model cannot answer in this way.
    """
    config, words = segmenter.config, segmenter.words
    vocabulary = _vocabulary(texts, config)
    unknown = [word for word in sampling.pinned if word not in vocabulary.queries]
    if unknown:
        raise InputError(
            f"pinned words must be among the texts, but {unknown[0]!r} is not; add it to them."
        )
    if config.closed and sampling.decode == "light":
        raise InputError(
            f'this model draws all classes as one picture (mask_code="{config.mask_code}"), which '
            'the light decoder cannot read; leave decode at "vae".'
        )
    if sampling.ensemble_size > 1 and config.start == "zeros":
        raise InputError(
            f"this model starts from zeros and answers every seed alike, so ensemble_size must be "
            f"1, got {sampling.ensemble_size}; use flip=True."
        )
    if sampling.guidance_scale != 1 and not config.guided:
        warn(
            f"guidance_scale is {sampling.guidance_scale}, but this model was trained without "
            "dropped prompts and has no answer without a word to be guided from; leave it at 1."
        )
    prompts = None
    if config.closed:
        prompts = pass_prompts(segmenter.mask_codec.num_passes(len(vocabulary.queries)))
    return Question(
        vocabulary=vocabulary,
        states=words(vocabulary),
        passes=None if prompts is None else words.encode(prompts),
        empty=words.encode([""]),
        negative=words.encode([sampling.negative]),
        sampling=sampling,
    )


def _vocabulary(texts: Any, config: TextSegmenterConfig) -> Vocabulary:
    """Whatever a user gives as texts, in the model's own template unless it has one."""
    if isinstance(texts, Vocabulary):
        vocabulary = texts
    else:
        if not isinstance(texts, Iterable) or any(not isinstance(text, str) for text in texts):
            raise InputError(f"texts must be words or a vocabulary, got {texts!r:.80}.")
        given: Any = texts
        parsed = Vocabulary.parse(given) if isinstance(given, str) else Vocabulary.from_texts(given)
        vocabulary = replace(parsed, templates=(config.template,))
        if len(vocabulary.label_names) == 1 and not config.closed:  # it would be everywhere
            vocabulary = replace(vocabulary, background=Threshold(score=CHANCE))
    if config.closed and config.class_names not in ((), vocabulary.queries):
        raise InputError(
            f"this model draws its own {len(config.class_names)} classes as one picture (mask_code="
            f'"{config.mask_code}") and answers just these, in their order: '
            f"{', '.join(config.class_names)}; got {', '.join(vocabulary.queries)}."
        )
    return vocabulary
