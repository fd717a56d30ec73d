"""What a training run is told; those of masks alone, of latents and of words lie apart."""

from dataclasses import dataclass
from typing import Literal

from crispmask.data.transforms import AugmentConfig
from crispmask.models.refiner_config import Conditioning, ProcessName
from crispmask.nn.unet import MaskUNetConfig
from crispmask.train.evidence import EvidenceConfig
from crispmask.train.latent_config import GeneratorConfig, LatentVaeConfig
from crispmask.train.loop_config import LoopConfig
from crispmask.train.masks_config import CodecTrainConfig, PriorTrainConfig
from crispmask.train.text_config import TextTrainConfig


@dataclass(frozen=True, kw_only=True)
class SegmenterTrainConfig:
    """A run that trains a base segmenter.

    Attributes:
        data: "earth", "camvid:FOLDER", or a folder with train/, val/ and classes.txt.
        loop: steps and rates.
        augment: crops and colours; crop sides in pixels of the image.
        network: "fpn", EfficientNet-Lite0 with a feature pyramid, or "segformer", a SegFormer half
            as wide as the one with MiT-B0 (needs extra "hf").
        scale: factor by which images are resized before the network sees them ("fpn" only).
        channels: width of the feature pyramid, or of what SegFormer fuses its stages to.
        dice_weight: weight of the soft Dice loss beside the cross-entropy.
        imagenet: True starts the encoder from ImageNet weights (needs extra "train-base"; "fpn"
            only), False from random ones.
        init: folder of a trained segmenter to go on from, instead; its network, scale and channels
            hold.
        folds: parts that the data is divided into; 0 uses all of it.
        fold: the part that is left out.
        labelled: share of the training images that are used, evenly spread.
    """

    data: str
    loop: LoopConfig
    augment: AugmentConfig
    network: Literal["fpn", "segformer"] = "fpn"
    scale: float = 1.0
    channels: int = 64
    dice_weight: float = 0.0
    imagenet: bool = True
    init: str | None = None
    folds: int = 0
    fold: int = 0
    labelled: float = 1.0

    def __post_init__(self) -> None:
        if self.folds and not (self.folds >= 2 and 0 <= self.fold < self.folds):
            raise ValueError(
                f"folds must be at least 2 and fold one of 0 to folds - 1, got fold {self.fold} "
                f"of {self.folds}."
            )
        if not 0 < self.labelled <= 1:
            raise ValueError(f"labelled must lie in (0, 1], got {self.labelled}.")
        if not 0 < self.scale <= 4:
            raise ValueError(f"scale must lie in (0, 4], got {self.scale}.")
        if self.channels < 1 or not self.dice_weight >= 0:
            raise ValueError(
                "channels must be at least 1 and dice_weight at least 0, got "
                f"{self.channels} and {self.dice_weight}."
            )
        if self.augment.short_side:
            raise ValueError(
                "augment.short_side would train at another size than the model is asked at; use "
                f"scale, got {self.augment.short_side}."
            )
        if self.network == "segformer" and (self.imagenet or self.scale != 1):
            raise ValueError(
                'network="segformer" starts from random weights and sees images at their size: it '
                f"needs imagenet=False and scale=1, got {self.imagenet} and {self.scale}."
            )


@dataclass(frozen=True, kw_only=True)
class RefinerTrainConfig:
    """A run that trains a `MaskRefiner` on the outputs of a frozen base segmenter.

    Two stages, as in DDPS: the first shows pure noise only, the second noises the network's own
    first prediction at random times.

    Attributes:
        data: "earth", "camvid:FOLDER", "ade20k:FOLDER", "cityscapes:FOLDER", or a folder with
            train/, val/ and classes.txt.
        base: bundled name or folder of the trained base segmenter; also a SegFormer as transformers
            keeps it.
        init: folder or bundled name of a trained refiner to go on from: of the same classes and
            sizes; it may be a control, or one that reads no evidence.
        fold_bases: folders of bases that were trained without fold 0, 1, ...; each training image
            is then shown with the output of the base that has not seen it. Needed where the
            base is much better on its training images than on others; at least 5.
        loop: steps and rates, of both stages together.
        augment: crops and colours; crop sides in pixels of the image.
        in_memory: True holds all images and the base's outputs for them in memory; with False
            images are read for each crop, and the base sees the crop, as in the paper.
        conditioning: what the denoiser is told: "probs" (any segmenter), "features" (the paper),
            "logits", "mask" or "none".
        stride: pixels of the image per pixel of the diffused mask.
        codec: folder of a trained codec, whose codes are diffused instead of labels; it stays as it
            is, and the refiner keeps a copy. Needs its stride.
        process: how labels are corrupted: "uniform", "absorbing" or "mixed".
        schedule: survival of a label over time.
        noise_target: mask that is noised for training: the network's own "first" prediction (the
            paper), the "truth", the "base" prediction, or the truth "damaged" as whole
            segments, borders and patches go wrong.
        widths: channels of the denoiser per level.
        depth: residual blocks of the denoiser before each skip.
        linear_attention: attend at every level of the denoiser, as the paper.
        patch_size: state pixels per position inside the denoiser.
        state_input: False trains the control: the same network without the mask input.
        embed_dim: channels of the label table.
        embed_trained: True learns the label table, False keeps it random, as the paper.
        stem_kernel: side of the first convolution.
        head_channels: width of the layer before the classifier; 0 leaves that layer out.
        dropout: share of channels dropped before the classifier while training.
        time_scale: number that stands for a clean mask in the time embedding.
        first_stage: share of the steps in the first stage; 0 trains in one stage.
        noise_share: share of pure-noise draws (t = 1) in the second stage.
        condition_dropout: share of images whose condition is removed; guidance needs some.
        dice_weight: weight of the soft Dice loss beside the cross-entropy; it moves the answer
            towards rare classes, as mIoU counts them.
        vlb_weight: weight of the variational bound's term of a step of 1/20 (D3PM's hybrid loss);
            needs noise on the truth.
        hard_labels: share of images whose base probabilities are replaced by one-hot labels, so
            that the refiner also serves segmenters that give labels only.
        evidence: clicks and strokes that are shown as known labels; None trains without.
        holes: share of the crops with a hole, a rectangle or clouds, of which image and base say
            nothing of their own.
        labelled: share of the training images that are shown with image and base, evenly spread;
            of the others the refiner sees the masks alone, in half of the crops.
        other_masks: False leaves the images that are not labelled out altogether.
    """

    data: str
    base: str
    loop: LoopConfig
    augment: AugmentConfig
    init: str | None = None
    fold_bases: tuple[str, ...] = ()
    in_memory: bool = True
    conditioning: Conditioning = "probs"
    stride: int = 2
    codec: str | None = None
    process: ProcessName = "uniform"
    schedule: Literal["linear", "cosine"] = "linear"
    noise_target: Literal["first", "truth", "base", "damaged"] = "first"
    widths: tuple[int, ...] = (32, 48, 64)
    depth: int = 1
    linear_attention: bool = False
    patch_size: int = 2
    state_input: bool = True
    embed_dim: int = 8
    embed_trained: bool = True
    stem_kernel: int = 3
    head_channels: int = 0
    dropout: float = 0.0
    time_scale: float = 100.0
    first_stage: float = 0.5
    noise_share: float = 0.25
    condition_dropout: float = 0.1
    dice_weight: float = 0.0
    vlb_weight: float = 0.0
    hard_labels: float = 0.15
    evidence: EvidenceConfig | None = None
    holes: float = 0.0
    labelled: float = 1.0
    other_masks: bool = True

    def __post_init__(self) -> None:
        self.network(num_classes=2, cond_channels=1)  # checks its sizes, before any data is read
        if self.stride not in (1, 2, 4):
            raise ValueError(f"stride must be 1, 2 or 4, got {self.stride}.")
        if not 0 <= self.condition_dropout < 1:
            raise ValueError(f"condition_dropout must lie in [0, 1), got {self.condition_dropout}.")
        if 0 < len(self.fold_bases) < 5:
            raise ValueError(
                f"fold_bases needs at least 5 bases, got {len(self.fold_bases)}: bases trained on "
                "much less data are too weak to learn from."
            )
        if self.evidence and (self.codec or self.conditioning in ("features", "none")):
            raise ValueError(
                "evidence needs the base's probabilities and a state of labels: set conditioning "
                'to "probs", "logits" or "mask" and leave codec out.'
            )
        if self.augment.short_side and self.in_memory:
            raise ValueError(
                "augment.short_side needs in_memory=False: the base has seen the images at their "
                f"size, got {self.augment.short_side}."
            )
        if self.holes and self.conditioning == "features":
            raise ValueError(
                "holes need the base's probabilities: its features know what is under a hole. Set "
                'conditioning to "probs", "logits" or "mask".'
            )
        if (self.fold_bases or self.labelled < 1) and not self.in_memory:
            raise ValueError("fold_bases and labelled need in_memory: images differ in kind.")
        if self.noise_target == "base" and self.conditioning == "features":
            raise ValueError(
                'noise_target="base" needs the base\'s probabilities, which are not kept with '
                'conditioning="features".'
            )
        if self.vlb_weight and self.noise_target != "truth":
            raise ValueError(
                'vlb_weight needs noise_target="truth": without noise on the truth the term bounds '
                "nothing."
            )
        for name in ("dice_weight", "vlb_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}.")
        for name in ("first_stage", "noise_share", "hard_labels", "holes", "labelled"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}.")

    def network(
        self, *, num_classes: int, cond_channels: int, num_states: int = 0
    ) -> MaskUNetConfig:
        """The denoiser of this run, for a number of classes or codes and of condition channels."""
        return MaskUNetConfig(
            num_classes=num_classes,
            cond_channels=cond_channels,
            num_states=num_states,
            widths=self.widths,
            depth=self.depth,
            linear_attention=self.linear_attention,
            patch_size=self.patch_size,
            embed_dim=self.embed_dim,
            embed_trained=self.embed_trained,
            stem_kernel=self.stem_kernel,
            head_channels=self.head_channels,
            dropout=self.dropout,
            time_scale=self.time_scale,
            state_input=self.state_input,
            evidence=self.evidence is not None,
        )


TrainConfig = (
    SegmenterTrainConfig
    | RefinerTrainConfig
    | PriorTrainConfig
    | CodecTrainConfig
    | LatentVaeConfig
    | GeneratorConfig
    | TextTrainConfig
)
