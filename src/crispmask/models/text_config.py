"""What a `TextSegmenter` is made of, and how it answers."""

from dataclasses import dataclass
from typing import Literal

from crispmask.models.vocabulary import TEMPLATE
from crispmask.nn.heads import AlignHeadConfig, LightDecoderConfig
from crispmask.nn.text_pathway import TextPathwayConfig

WordsFrom = Literal["folder", "minilm"]
MaskCode = Literal["binary", "overlay", "palette", "bits", "resize"]
Start = Literal["zeros", "noise"]
Decode = Literal["light", "vae"]

CLOSED_CODES = ("palette", "bits")
"""Codes of closed sets: pictures of all classes at once, in which no query is asked for."""


@dataclass(frozen=True, kw_only=True)
class TextSegmenterConfig:
    """What a `TextSegmenter` is made of.

    Attributes:
        class_names: words that it was trained on; empty if unknown. A closed mask code answers
            these, in this order.
        words: where the text encoder comes from: text_encoder/ and tokenizer/ in the model's
            folder, or the MiniLM package.
        mask_code: how masks look as pictures, see `models.mask_images`. "palette" and "bits" are
            closed sets; the others draw one query per pass.
        start: state of the first call; "noise" for a model trained for several steps.
        image_size: short side, in pixels, that images are resized to; 0 leaves them as they are.
        template: sentence that a word is put into, with {} for the word.
        pathway: second way of the text into the U-Net; None has none.
        align: head that compares pixels with words.
        decoder: light decoder of mask logits.
        decode: what draws the masks, the light decoder or the VAE's.
        align_weight: of the pixel-word score in the score of a query.
        presence_weight: of the log-probability that the word is in the image, likewise.
        temperature: the scores are divided by it before the softmax over classes.
        floor: score of a query at which a pixel is as likely background; see `Threshold`.
        guided: whether prompts were dropped in training, which guidance needs.
    """

    class_names: tuple[str, ...] = ()
    words: WordsFrom
    mask_code: MaskCode = "binary"
    start: Start = "zeros"
    image_size: int = 0
    template: str = TEMPLATE
    pathway: TextPathwayConfig | None
    align: AlignHeadConfig
    decoder: LightDecoderConfig
    decode: Decode = "light"
    align_weight: float = 1.0
    presence_weight: float = 1.0
    temperature: float = 1.0
    floor: float = 0.0
    guided: bool = False

    def __post_init__(self) -> None:
        if self.closed and self.decode != "vae":
            raise ValueError(
                f'mask_code="{self.mask_code}" draws all classes as one picture, which the light '
                'decoder cannot read; it needs decode="vae".'
            )
        if self.template.count("{}") != 1:
            raise ValueError(
                f"template needs {{}} once, where the word goes, got {self.template!r}."
            )
        if self.image_size < 0:
            raise ValueError(f"image_size must be at least 0, got {self.image_size}.")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}.")

    @property
    def closed(self) -> bool:
        """Whether the mask code draws all classes at once."""
        return self.mask_code in CLOSED_CODES


def pass_prompts(num_passes: int) -> tuple[str, ...]:
    """Prompts of the passes of a closed mask code: the empty one, then "2", "3" and so on.

    All passes see the same image and begin with the same state, so the prompt must say which
    digits are asked for.
    """
    return ("", *(str(i) for i in range(2, num_passes + 1)))
