"""What trainings on masks alone are told."""

from dataclasses import dataclass
from typing import Literal

from crispmask.data.transforms import AugmentConfig
from crispmask.diffusion.samplers import MAX_STEPS
from crispmask.models.refiner_config import ProcessName
from crispmask.nn.mask_codec import MaskCodecConfig
from crispmask.nn.unet import MaskUNetConfig
from crispmask.train.loop_config import LoopConfig


@dataclass(frozen=True, kw_only=True)
class PriorTrainConfig:
    """A run that trains a `MaskPrior` on masks, without images.

    Attributes:
        data: folder of label files, of labels/, or of train/ and val/ with either; classes.txt
            may name the classes. Or "camvid:FOLDER", or "earth".
        loop: steps and rates.
        crop: height and width of the crops, in pixels of the resized masks.
        zoom: range of the random zoom.
        flip: probability of a left-right flip.
        pixels: masks are resized to about so many pixels first, in their own proportions.
        process: how labels are corrupted: "uniform", "absorbing" or "mixed".
        schedule: survival of a label over time.
        widths: channels of the network per level.
        depth: residual blocks of the network before each skip.
        patch_size: pixels of the mask per position inside the network.
        hide: share of the crops of which a part is hidden as a whole: a rectangle, or some of the
            regions. That is how holes are filled and labels judged later.
        vlb_weight: weight of the variational bound's term of a step of 1/20 beside the
            cross-entropy (D3PM's hybrid loss).
        eval_steps: steps of the chain whose bound is the validation score.
    """

    data: str
    loop: LoopConfig
    crop: tuple[int, int] = (96, 128)
    zoom: tuple[float, float] = (0.9, 1.4)
    flip: float = 0.5
    pixels: int = 96 * 128
    process: ProcessName = "absorbing"
    schedule: Literal["linear", "cosine"] = "linear"
    widths: tuple[int, ...] = (32, 48, 64)
    depth: int = 1
    patch_size: int = 2
    hide: float = 0.5
    vlb_weight: float = 0.0
    eval_steps: int = 20

    def __post_init__(self) -> None:
        AugmentConfig(crop=self.crop, scale=self.zoom, flip=self.flip)  # checks these
        network = MaskUNetConfig(
            num_classes=2,
            cond_channels=1,
            widths=self.widths,
            depth=self.depth,
            patch_size=self.patch_size,
        )
        if any(side % network.stride for side in self.crop):
            raise ValueError(
                f"sides of crop must be multiples of {network.stride}, got "
                f"{self.crop[0]}x{self.crop[1]}."
            )
        if not 0 <= self.hide <= 1:
            raise ValueError(f"hide must lie in [0, 1], got {self.hide}.")
        if not self.vlb_weight >= 0:  # nor NaN
            raise ValueError(f"vlb_weight must be at least 0, got {self.vlb_weight}.")
        if not 1 <= self.eval_steps <= MAX_STEPS:
            raise ValueError(f"eval_steps must be 1 to {MAX_STEPS}, got {self.eval_steps}.")


@dataclass(frozen=True, kw_only=True)
class CodecTrainConfig:
    """A run that trains a `CodecModel` on masks, without images; they are held in memory.

    Attributes:
        data: folder of label files, of labels/, or of train/ and val/ with either; classes.txt
            may name the classes. Or "camvid:FOLDER", or "earth".
        loop: steps and rates.
        crop: height and width of the crops, in pixels of the masks.
        zoom: range of the random zoom.
        flip: probability of a left-right flip.
        levels: values of each channel of a code, odd numbers; their product is the number of codes.
        stride: pixels of the mask per code, along each side: 2 or 4.
        width: channels of the convolutions.
    """

    data: str
    loop: LoopConfig
    crop: tuple[int, int] = (128, 128)
    zoom: tuple[float, float] = (0.8, 1.25)
    flip: float = 0.5
    levels: tuple[int, ...] = (5, 5, 5)
    stride: int = 4
    width: int = 32

    def __post_init__(self) -> None:
        AugmentConfig(crop=self.crop, scale=self.zoom, flip=self.flip)  # checks these
        MaskCodecConfig(num_classes=2, levels=self.levels, stride=self.stride, width=self.width)
        if self.stride not in (2, 4):
            raise ValueError(f"stride must be 2 or 4, as of a refiner, got {self.stride}.")
