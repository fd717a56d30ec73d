"""Complete runs by name; each is a function that returns a config.

Those of DDPS as published and of words lie apart.
"""

from collections.abc import Callable
from dataclasses import replace

from crispmask.data.transforms import AugmentConfig
from crispmask.paper_recipes import paper_ade_b0, paper_ade_b2, paper_city_b0, paper_city_b2
from crispmask.text_recipes import (
    camvid_text,
    earth_text,
    latent_camvid_pretrain,
    latent_camvid_vae,
    latent_earth_pretrain,
    latent_earth_vae,
    own_text,
)
from crispmask.train.configs import RefinerTrainConfig, SegmenterTrainConfig, TrainConfig
from crispmask.train.evidence import EvidenceConfig
from crispmask.train.loop_config import LoopConfig
from crispmask.train.masks_config import CodecTrainConfig, PriorTrainConfig


def camvid_base_start() -> SegmenterTrainConfig:
    """EfficientNet-Lite0 + FPN on CamVid, working at 240 x 180: cross-entropy alone."""
    return SegmenterTrainConfig(
        data="camvid",
        scale=0.5,
        loop=LoopConfig(
            steps=1200, learning_rate=1e-3, ema_decay=0.99, eval_every=300, save_every=300
        ),
        augment=AugmentConfig(crop=(320, 448), scale=(0.6, 1.6)),
    )


def camvid_base() -> SegmenterTrainConfig:
    """`camvid_base_start` trained on, alike: at its start it had not converged."""
    config = camvid_base_start()
    loop = replace(config.loop, steps=1000, learning_rate=5e-4, seed=1, eval_every=250)
    return replace(config, init="runs/camvid-base-start", loop=loop)


def camvid_base_dice() -> SegmenterTrainConfig:
    """`camvid_base` with Dice, as the refiner is trained: a stronger base."""
    return replace(camvid_base(), dice_weight=1.0)


def camvid_segformer() -> SegmenterTrainConfig:
    """A small SegFormer on CamVid, from random weights: a base of another kind."""
    config = camvid_base_start()
    augment = replace(config.augment, crop=(192, 256))
    return replace(config, network="segformer", imagenet=False, scale=1.0, augment=augment)


def camvid_base_longer() -> SegmenterTrainConfig:
    """`camvid_base_dice` trained on for about as long as a refiner trains.

    A step of the base takes as long as 2.6 steps of the refiner.
    """
    config = camvid_base_dice()
    return replace(config, init="runs/camvid-base-dice", loop=replace(config.loop, seed=2))


def camvid_refiner() -> RefinerTrainConfig:
    """The refiner behind ``runs/camvid-base``.

    It learns from an earlier state of that base, which is about as good on its training images as
    the final base is on others (68.8 and 66.9 mIoU); what the final base says of images that it
    has learned would teach it to change too little.
    """
    return RefinerTrainConfig(
        data="camvid",
        base="runs/camvid-base-start",
        loop=LoopConfig(
            steps=3000, batch_size=4, learning_rate=1.5e-3, eval_every=500, save_every=250
        ),
        augment=AugmentConfig(crop=(256, 320), scale=(0.9, 1.1)),
        widths=(48, 96, 128),
        patch_size=4,
        condition_dropout=0.0,
        dice_weight=1.0,
    )


def camvid_control() -> RefinerTrainConfig:
    """As `camvid_refiner`, without the mask input."""
    return replace(camvid_refiner(), state_input=False)


def camvid_evidence() -> RefinerTrainConfig:
    """A refiner that a person's clicks and strokes correct, behind ``runs/camvid-base``.

    It goes on from ``runs/camvid-control``: one that reads clicks from its first step on needs
    longer to be as good where there are none.
    """
    return _with_clicks(camvid_refiner(), "runs/camvid-control")


def _with_clicks(config: RefinerTrainConfig, control: str) -> RefinerTrainConfig:
    return replace(config, init=control, process="absorbing", evidence=EvidenceConfig())


def camvid_evidence_control() -> RefinerTrainConfig:
    """As `camvid_evidence`, with the clicks as further input and no noisy mask."""
    return replace(camvid_evidence(), state_input=False)


def earth_base() -> SegmenterTrainConfig:
    """EfficientNet-Lite0 + FPN on Earth tiles."""
    return SegmenterTrainConfig(
        data="earth",
        loop=LoopConfig(
            steps=300, learning_rate=1e-3, ema_decay=0.98, eval_every=150, save_every=150
        ),
        augment=AugmentConfig(crop=(128, 128), scale=(0.9, 1.5), hue=0.01),
    )


def earth_segformer() -> SegmenterTrainConfig:
    """A small SegFormer on Earth tiles, from random weights: a base of another kind."""
    config = earth_base()
    loop = replace(config.loop, steps=600, ema_decay=0.99, eval_every=200, save_every=200)
    return replace(config, network="segformer", imagenet=False, loop=loop)


def earth_refiner() -> RefinerTrainConfig:
    """The refiner behind ``runs/earth-base``."""
    return RefinerTrainConfig(
        data="earth",
        base="runs/earth-base",
        fold_bases=tuple(f"runs/earth-base-fold-{i}" for i in range(5)),
        loop=LoopConfig(steps=3200, learning_rate=1.5e-3, eval_every=800, save_every=200),
        augment=AugmentConfig(
            crop=(128, 128),
            scale=(0.9, 1.25),
            brightness=0.4,
            contrast=0.4,
            saturation=0.5,
            hue=0.03,
        ),
        condition_dropout=0.0,
        dice_weight=3.0,
    )


def earth_control() -> RefinerTrainConfig:
    """As `earth_refiner`, without the mask input."""
    return replace(earth_refiner(), state_input=False)


def earth_evidence() -> RefinerTrainConfig:
    """As `camvid_evidence`, on Earth tiles: it goes on from ``runs/earth-control``."""
    config = _with_clicks(earth_refiner(), "runs/earth-control")
    return replace(config, loop=replace(config.loop, steps=1600))


def earth_evidence_control() -> RefinerTrainConfig:
    """As `earth_evidence`, with the clicks as further input and no noisy mask."""
    return replace(earth_evidence(), state_input=False)


def own_base() -> SegmenterTrainConfig:
    """EfficientNet-Lite0 + FPN on your own images: ``--data DIR``."""
    augment = AugmentConfig(crop=(320, 320))
    return replace(camvid_base_start(), data="data", scale=1.0, augment=augment)


def own_refiner() -> RefinerTrainConfig:
    """The refiner on your own images behind ``runs/base``: ``--data DIR --base FOLDER``."""
    return replace(
        camvid_refiner(), data="data", base="runs/base", augment=AugmentConfig(crop=(192, 192))
    )


def own_evidence() -> RefinerTrainConfig:
    """A refiner that clicks and strokes correct, on your own images: ``--data DIR --base FOLDER``.

    It goes on from a control, ``crispmask train refiner --no-state-input --output runs/control``.
    """
    return _with_clicks(own_refiner(), "runs/control")


def own_prior() -> PriorTrainConfig:
    """A prior over masks, without images: ``--data MASKS``, a folder of label files."""
    return PriorTrainConfig(
        data="data",
        loop=LoopConfig(
            steps=1000, learning_rate=1.5e-3, eval_every=500, eval_images=20, save_every=250
        ),
    )


def own_codec() -> CodecTrainConfig:
    """A codec of masks, for ``--codec`` of a refiner: ``--data MASKS``, a folder of label files."""
    return CodecTrainConfig(
        data="data",
        loop=LoopConfig(
            steps=1500,
            batch_size=8,
            learning_rate=3e-3,
            weight_decay=0.0,
            eval_every=500,
            eval_images=0,
            save_every=250,
        ),
    )


def camvid_codec() -> CodecTrainConfig:
    """`own_codec` on the masks of CamVid."""
    return replace(own_codec(), data="camvid")


def earth_codec() -> CodecTrainConfig:
    """`own_codec` on the masks of the Earth tiles."""
    return replace(own_codec(), data="earth")


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "earth-base": earth_base,
    "earth-segformer": earth_segformer,
    "earth-refiner": earth_refiner,
    "earth-control": earth_control,
    "camvid-base-start": camvid_base_start,
    "camvid-base": camvid_base,
    "camvid-base-dice": camvid_base_dice,
    "camvid-base-longer": camvid_base_longer,
    "camvid-segformer": camvid_segformer,
    "camvid-refiner": camvid_refiner,
    "camvid-control": camvid_control,
    "earth-evidence": earth_evidence,
    "earth-evidence-control": earth_evidence_control,
    "camvid-evidence": camvid_evidence,
    "camvid-evidence-control": camvid_evidence_control,
    "base": own_base,
    "refiner": own_refiner,
    "evidence": own_evidence,
    "paper-ade-b2": paper_ade_b2,
    "paper-ade-b0": paper_ade_b0,
    "paper-city-b2": paper_city_b2,
    "paper-city-b0": paper_city_b0,
    "prior": own_prior,
    "earth-codec": earth_codec,
    "camvid-codec": camvid_codec,
    "codec": own_codec,
    "latent-earth-vae": latent_earth_vae,
    "latent-earth-pretrain": latent_earth_pretrain,
    "latent-camvid-vae": latent_camvid_vae,
    "latent-camvid-pretrain": latent_camvid_pretrain,
    "text-earth": earth_text,
    "text-camvid": camvid_text,
    "text": own_text,
}
