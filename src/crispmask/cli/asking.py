"""Options of the commands that ask a text segmenter for words."""

import importlib.util
from dataclasses import dataclass, replace
from typing import Any, Literal

from crispmask.cli.device import on_device
from crispmask.errors import InputError
from crispmask.models.text_folder import find_segmenter, is_backbone
from crispmask.models.text_segmenter import TextSegmenter
from crispmask.models.vocabulary import Threshold, Vocabulary


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How words are asked for.

    Attributes:
        num_inference_steps: calls of the network for each word; more than one only helps a model
            that was trained for it.
        top: words at most that are drawn, the best of the ranking.
        exact: draw all words.
        decode: what draws the masks, the light decoder or the VAE; by default the model's own.
        guidance_scale: how far the answer is led away from --negative; 1 is off.
        negative: words to be led away from.
        seed: of the noise, for models that start from noise.
        flip: average with the answer for the mirror image.
        ensemble_size: seeds to average over, the first of which is --seed.
        chunk: words that go through the network at once; fewer need less memory.
        tile: side in pixels of windows in which larger images are drawn, too; 0 for none.
        background_threshold: where the best word has a lower chance than this, in (0, 1), a pixel
            becomes background; 0 is no background. By default `segment` takes 0.4 for words of your
            own, and a class list has the background that belongs to it, if any.
        device: where the networks run: cpu, cuda, cuda:1, mps.
    """

    num_inference_steps: int = 1
    top: int = 32
    exact: bool = False
    decode: Literal["light", "vae"] | None = None
    guidance_scale: float = 1.0
    negative: str = ""
    seed: int = 0
    flip: bool = False
    ensemble_size: int = 1
    chunk: int = 8
    tile: int = 0
    background_threshold: float | None = None
    device: str = "cpu"

    @property
    def options(self) -> dict[str, Any]:
        """Options of `TextSegmenter.bound`."""
        return {
            "num_inference_steps": self.num_inference_steps,
            "top": None if self.exact else self.top,
            "decode": self.decode,
            "guidance_scale": self.guidance_scale,
            "negative": self.negative,
            "seed": self.seed,
            "flip": self.flip,
            "ensemble_size": self.ensemble_size,
            "chunk": self.chunk,
            "tile": self.tile,
        }

    def with_background(self, vocabulary: Vocabulary) -> Vocabulary:
        """The vocabulary with the background that is asked for, where its own was, if it had one.

        Raises:
            InputError: if the threshold is out of range.
        """
        score, policy = self.background_threshold, vocabulary.background
        if score is None:
            return vocabulary
        if score == 0:
            return replace(vocabulary, background=None)
        label = None if policy is None else policy.label
        return replace(vocabulary, background=Threshold(score=score, label=label))


def in_own_sentence(vocabulary: Vocabulary, segmenter: TextSegmenter) -> Vocabulary:
    """The vocabulary in the sentence that the segmenter was trained with."""
    return replace(vocabulary, templates=(segmenter.config.template,))


def load_segmenter(name: str, *, device: str = "cpu") -> TextSegmenter:
    """A trained segmenter, loaded without progress bars and notes of other libraries.

    Raises:
        InputError: as `TextSegmenter.from_pretrained`; or if the folder is a backbone, whose heads
            would be new; or there is no such device.
    """
    folder = find_segmenter(name)
    if is_backbone(folder):
        raise InputError(
            f"{folder} is a backbone, which has learned nothing of masks yet; train it first: "
            f"crispmask train text --backbone {folder} --data DATA --output FOLDER."
        )
    if importlib.util.find_spec("transformers") is not None:
        from transformers.utils import logging

        their_log: Any = logging
        their_log.disable_progress_bar()
        their_log.set_verbosity_error()  # that MiniLM comes with a pooler that is not used
    if importlib.util.find_spec("diffusers") is not None:
        from diffusers.utils import logging as diffusers_log

        quiet: Any = diffusers_log.set_verbosity_error
        quiet()  # that an AutoencoderTiny's config says one thing twice
    return on_device(TextSegmenter.from_pretrained(folder), device)
