"""What the training of a `TextSegmenter` is told."""

from dataclasses import dataclass
from typing import Literal

from crispmask.data.transforms import AugmentConfig
from crispmask.models.text_config import CLOSED_CODES, MaskCode
from crispmask.models.vocabulary import TEMPLATE
from crispmask.train.loop_config import LoopConfig


@dataclass(frozen=True, kw_only=True)
class TextTrainConfig:
    """A run that fine-tunes a latent diffusion model to segment by words.

    Attributes:
        data: one or more data sets, each as `open_split` takes it. Each crop is of one of them,
            all equally often, and is asked for the words of that one alone.
        backbone: folder as diffusers saves it: Stable Diffusion 1.x, 2.x, Marigold, or one that
            ``crispmask train latent-earth-pretrain`` left. Or a trained text segmenter, a bundled
            name (text-earth) or a folder, from whose weights the run goes on, heads included;
            mask_code, template, pathway and steps must be as it was trained.
        loop: steps and rates.
        augment: crops and colours; sides of the crop are multiples of the network's stride.
            ``short_side`` also becomes the size at which the model sees images.
        mask_code: how masks become pictures; "palette" and "bits" are for one closed set.
        steps: "one" call from zeros, or "many" from noise, at random times.
        present: words that occur in a crop and are asked of it, 1 to so many.
        absent: words that do not occur and are asked of it; half of them, rounded down, are those
            that the alignment head takes most for present.
        template: sentence that a word is put into, {} being the word.
        synonyms: say a class by one of its synonyms and in one of several sentences, at random;
            names alone are scored.
        held_out: words that are never asked; their pixels are unknown in training. What is found of
            them later is found by the words alone.
        foreign: words of which nothing is in any image of the run, so that the model learns that
            words can be wrong; some of them are scored on every batch, none is drawn.
        drop_prompt: share of the queries without words, whose mask is that of all words together;
            only guidance needs some.
        corrupt: share of the masks that are damaged before they are noised, the target being
            whole ("many" only).
        pathway: False leaves out the second way for words.
        from_scratch: random weights for the U-Net, to learn what its pretraining is worth.
        fraction: share of the training images, the same for a seed; a smaller share is a part of
            a larger one.
        lora_rank: rank of low-rank updates of the attention, in place of the whole U-Net, which 0
            trains (needs extra "text"). On a backbone as diffusers saves it ``conv_in`` is trained
            in full, too, and the result is a whole model; on a trained segmenter it is an
            adapter: updates and heads alone, loaded with the segmenter, which must stay.
        gradient_checkpointing: less memory, a third more time.
        unet_rate_factor: learning rate of the U-Net over that of the new parts.
        latent_weight: weight of the squared error of latents.
        bce_weight: weight of the cross-entropy of pixels.
        dice_weight: weight of the soft Dice loss of words that occur.
        align_weight: weight of the cross-entropy of words and cells, each word for itself.
        compete_weight: weight of the cross-entropy of cells over all words of the data set.
        presence_weight: weight of the cross-entropy of presence.
    """

    data: tuple[str, ...]
    backbone: str
    loop: LoopConfig
    augment: AugmentConfig
    mask_code: MaskCode = "binary"
    steps: Literal["one", "many"] = "one"
    present: int = 3
    absent: int = 2
    template: str = TEMPLATE
    synonyms: bool = False
    held_out: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    drop_prompt: float = 0.0
    corrupt: float = 0.3
    pathway: bool = True
    from_scratch: bool = False
    fraction: float = 1.0
    lora_rank: int = 0
    gradient_checkpointing: bool = False
    unet_rate_factor: float = 1.0
    latent_weight: float = 1.0
    bce_weight: float = 1.0
    dice_weight: float = 1.0
    align_weight: float = 0.5
    compete_weight: float = 0.0
    presence_weight: float = 0.1

    def __post_init__(self) -> None:
        if not self.data or len(set(self.data)) < len(self.data):
            raise ValueError(f"data needs one or more different data sets, got {self.data}.")
        if self.mask_code in CLOSED_CODES and len(self.data) > 1:
            raise ValueError(
                f"mask_code={self.mask_code!r} gives each class of one list a colour, got "
                f"{len(self.data)} data sets; use binary."
            )
        if self.held_out and self.mask_code in CLOSED_CODES:
            raise ValueError(
                f"mask_code={self.mask_code!r} gives each class a colour and cannot hold words "
                "out; use binary."
            )
        for name in ("present", "absent"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("drop_prompt", "corrupt"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}.")
        for name in ("fraction", "unet_rate_factor"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {getattr(self, name)}.")
        if self.lora_rank < 0:
            raise ValueError(f"lora_rank must be at least 0, got {self.lora_rank}.")
        if self.from_scratch and self.lora_rank:
            raise ValueError("from_scratch needs lora_rank=0: random weights must all be trained.")
        for name in ("latent", "bce", "dice", "align", "compete", "presence"):
            if getattr(self, f"{name}_weight") < 0:
                value = getattr(self, f"{name}_weight")
                raise ValueError(f"{name}_weight must be at least 0, got {value}.")
