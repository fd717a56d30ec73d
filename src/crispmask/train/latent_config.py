"""What the two runs that pretrain a small latent diffusion model are told."""

from dataclasses import dataclass

from crispmask.data.transforms import AugmentConfig
from crispmask.train.loop_config import LoopConfig

VAE_GROUPS = 4
"""Groups of channels that are normalised together; few, so that flat pictures keep their value."""

UNET_GROUPS = 8


@dataclass(frozen=True, kw_only=True)
class LatentVaeConfig:
    """A run that trains a small `AutoencoderKL` on images and on masks drawn in black and white.

    Attributes:
        data: "earth", "camvid:FOLDER", or a folder with train/, val/ and classes.txt.
        loop: steps and rates.
        augment: crops and colours. With a short side, images are resized to it for the validation
            scores, too.
        widths: channels per level; each level but the last halves height and width.
        channels: of the latents.
        depth: residual blocks per level of the encoder; the decoder has one more.
        mask_share: share of the crops that are shown as the mask of one class.
        kl_weight: of the divergence from a standard normal, a mean over latent elements.
        edge_weight: of the error of the differences between neighbouring pixels.
    """

    data: str
    loop: LoopConfig
    augment: AugmentConfig
    widths: tuple[int, ...] = (16, 32, 32)
    channels: int = 4
    depth: int = 1
    mask_share: float = 0.5
    kl_weight: float = 1e-4
    edge_weight: float = 1.0

    def __post_init__(self) -> None:
        _check_widths(self.widths, VAE_GROUPS)
        for name in ("channels", "depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not 0 <= self.mask_share <= 1:
            raise ValueError(f"mask_share must lie in [0, 1], got {self.mask_share}.")
        for name in ("kl_weight", "edge_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}.")
        stride = 2 ** (len(self.widths) - 1)
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

    def __post_init__(self) -> None:
        _check_widths(self.widths, UNET_GROUPS)
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


def _check_widths(widths: tuple[int, ...], groups: int) -> None:
    if not widths or any(width < 1 or width % groups for width in widths):
        raise ValueError(f"widths must be multiples of {groups}, got {widths}.")
