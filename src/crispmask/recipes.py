"""Complete runs by name; each is a function that returns a config."""

from collections.abc import Callable
from dataclasses import replace

from crispmask.data.transforms import AugmentConfig
from crispmask.train.configs import (
    LoopConfig,
    PriorTrainConfig,
    RefinerTrainConfig,
    SegmenterTrainConfig,
    TrainConfig,
)


def camvid_base() -> SegmenterTrainConfig:
    """EfficientNet-Lite0 + FPN on CamVid, working at 240 x 180."""
    return SegmenterTrainConfig(
        data="camvid",
        scale=0.5,
        loop=LoopConfig(
            steps=1200, learning_rate=1e-3, ema_decay=0.99, eval_every=300, save_every=300
        ),
        augment=AugmentConfig(crop=(320, 448), scale=(0.6, 1.6)),
    )


def camvid_base_longer() -> SegmenterTrainConfig:
    """`camvid_base` trained on for as many steps as the refiner takes, each of which costs more."""
    config = camvid_base()
    loop = replace(config.loop, steps=1000, learning_rate=5e-4, seed=1, eval_every=500)
    return replace(config, init="runs/camvid-base", loop=loop, dice_weight=1.0)


def camvid_refiner() -> RefinerTrainConfig:
    """The refiner behind ``runs/camvid-base``."""
    return RefinerTrainConfig(
        data="camvid",
        base="runs/camvid-base",
        loop=LoopConfig(
            steps=1000, batch_size=4, learning_rate=1.5e-3, eval_every=250, save_every=250
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


def earth_base() -> SegmenterTrainConfig:
    """EfficientNet-Lite0 + FPN on Earth tiles."""
    return SegmenterTrainConfig(
        data="earth",
        loop=LoopConfig(
            steps=300, learning_rate=1e-3, ema_decay=0.98, eval_every=150, save_every=150
        ),
        augment=AugmentConfig(crop=(128, 128), scale=(0.9, 1.5), hue=0.01),
    )


def earth_refiner() -> RefinerTrainConfig:
    """The refiner behind ``runs/earth-base``."""
    return RefinerTrainConfig(
        data="earth",
        base="runs/earth-base",
        fold_bases=tuple(f"runs/earth-base-fold-{i}" for i in range(5)),
        loop=LoopConfig(steps=500, learning_rate=1.5e-3, eval_every=250, save_every=250),
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


def own_base() -> SegmenterTrainConfig:
    """EfficientNet-Lite0 + FPN on your own images: ``--data DIR``."""
    return replace(camvid_base(), data="data", scale=1.0, augment=AugmentConfig(crop=(320, 320)))


def own_refiner() -> RefinerTrainConfig:
    """The refiner on your own images behind ``runs/base``: ``--data DIR --base FOLDER``."""
    return replace(
        camvid_refiner(), data="data", base="runs/base", augment=AugmentConfig(crop=(192, 192))
    )


def own_prior() -> PriorTrainConfig:
    """A prior over masks, without images: ``--data MASKS``, a folder of label files."""
    return PriorTrainConfig(
        data="data",
        loop=LoopConfig(
            steps=1000, learning_rate=1.5e-3, eval_every=500, eval_images=20, save_every=250
        ),
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "earth-base": earth_base,
    "earth-refiner": earth_refiner,
    "earth-control": earth_control,
    "camvid-base": camvid_base,
    "camvid-base-longer": camvid_base_longer,
    "camvid-refiner": camvid_refiner,
    "camvid-control": camvid_control,
    "base": own_base,
    "refiner": own_refiner,
    "prior": own_prior,
}
