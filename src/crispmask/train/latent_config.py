"""What the two runs that pretrain a small latent diffusion model are told."""

from dataclasses import dataclass

from crispmask.data.transforms import AugmentConfig
from crispmask.train.loop_config import LoopConfig

UNET_GROUPS = 8
"""Groups of channels that are normalised together."""


@dataclass(frozen=True, kw_only=True)
class LatentVaeConfig:
    """A run that trains a small `AutoencoderTiny` on images and on masks drawn in black and white.

    It has no posterior; noise on its latents, with a penalty on their size, keeps them smooth.

    Attributes:
        data: "earth", "camvid:FOLDER", or a folder with train/, val/ and classes.txt.
        loop: steps and rates.
        augment: crops and colours. With a short side, images are resized to it for the validation
            scores, too.
        width: channels of all layers.
        blocks: residual blocks of the encoder at full size, at half of it, and so on; the decoder
            has the same in turn. Each level but the first halves height and width.
        channels: of the latents.
        mask_share: share of the crops that are shown as the mask of one class.
        l1_weight: of the absolute error, beside the squared one.
        noise: standard deviation of what is added to latents before they are decoded.
        latent_weight: of the mean square of the latents.
    """

    data: str
    loop: LoopConfig
    augment: AugmentConfig
    width: int = 32
    blocks: tuple[int, ...] = (0, 1, 1, 2)
    channels: int = 4
    mask_share: float = 0.5
    l1_weight: float = 0.1
    noise: float = 0.05
    latent_weight: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("width", "channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if len(self.blocks) < 2 or min(self.blocks) < 0:
            raise ValueError(
                f"blocks needs at least two levels, none of them negative, got {self.blocks}."
            )
        if not 0 <= self.mask_share <= 1:
            raise ValueError(f"mask_share must lie in [0, 1], got {self.mask_share}.")
        for name in ("l1_weight", "noise", "latent_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}.")
        stride = 2 ** (len(self.blocks) - 1)
        if any(side % stride for side in self.augment.crop):
            raise ValueError(
                f"sides of crop must be multiples of {stride}, got {self.augment.crop[0]}x"
                f"{self.augment.crop[1]}."
            )


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """A run that trains a U-Net to draw the latents of crops from captions, as v-prediction.

    Captions are made from the masks of the crops and read by MiniLM. Crops, their latents and
    captions are drawn before the first step and held in memory.

    Attributes:
        data: as `LatentVaeConfig`.
        vae: folder of a run of `LatentVaeConfig`; the run keeps a copy.
        loop: steps and rates; ``batch_size`` counts crops.
        augment: crops and colours.
        crops: of each training image, each with one caption.
        widths: channels per level of the U-Net; all but the first attend to the words.
        depth: residual blocks per level on the way down; one more on the way up.
        heads: of the attention.
        drop_caption: share of the crops whose caption is replaced by the empty one.
        cache: folder that keeps the latents of crops, so that a run that is resumed, or another of
            the same data, VAE, crops and seed, need not encode them again.
    """

    data: str
    vae: str
    loop: LoopConfig
    augment: AugmentConfig
    crops: int = 16
    widths: tuple[int, ...] = (64, 128, 128)
    depth: int = 1
    heads: int = 4
    drop_caption: float = 0.1
    cache: str | None = None

    def __post_init__(self) -> None:
        if not self.widths or any(w < 1 or w % UNET_GROUPS for w in self.widths):
            raise ValueError(f"widths must be multiples of {UNET_GROUPS}, got {self.widths}.")
        for name in ("crops", "depth", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if len(self.widths) < 2 or any(width % self.heads for width in self.widths[1:]):
            raise ValueError(
                f"widths needs at least two levels, multiples of {self.heads} heads, got "
                f"{self.widths}."
            )
        if not 0 <= self.drop_caption < 1:
            raise ValueError(f"drop_caption must lie in [0, 1), got {self.drop_caption}.")
