"""Complete runs of the latent model and of the segmenter of words behind it."""

from dataclasses import replace

from crispmask.data.transforms import AugmentConfig
from crispmask.train.latent_config import GeneratorConfig, LatentVaeConfig
from crispmask.train.loop_config import LoopConfig
from crispmask.train.text_config import TextTrainConfig

NOWHERE_FROM_AFAR = (
    *("dog", "cat", "elephant", "zebra", "umbrella", "handbag", "suitcase", "bottle", "wine glass"),
    *("cup", "fork", "knife", "bowl", "banana", "sandwich", "pizza", "cake", "chair", "bed"),
    *("toilet", "television", "laptop", "keyboard", "telephone", "oven", "sink", "refrigerator"),
    *("book", "clock", "vase", "scissors", "teddy bear", "toothbrush", "curtain", "lamp", "guitar"),
    *("face", "liver", "tooth", "kidney", "tumour", "cell nucleus"),
)
"""Words of nothing that an image of the Earth from afar shows."""


def latent_earth_vae() -> LatentVaeConfig:
    """A small VAE of Earth tiles and their masks, 8 channels at an eighth of the size."""
    return LatentVaeConfig(
        data="earth",
        loop=LoopConfig(
            steps=1600,
            batch_size=16,
            learning_rate=3e-3,
            weight_decay=0.0,
            eval_every=800,
            eval_images=40,
        ),
        augment=AugmentConfig(crop=(64, 64), scale=(0.9, 1.5), hue=0.01),
        channels=8,
    )


def latent_earth_pretrain() -> GeneratorConfig:
    """A small U-Net that draws Earth tiles from captions, behind ``runs/latent-earth-vae``."""
    return GeneratorConfig(
        data="earth",
        vae="runs/latent-earth-vae",
        loop=LoopConfig(
            steps=3000,
            batch_size=16,
            learning_rate=1e-3,
            ema_decay=0.998,
            eval_every=500,
            eval_images=40,
            save_every=500,
        ),
        augment=AugmentConfig(crop=(128, 128), scale=(1.0, 1.5), hue=0.01),
        widths=(48, 96, 128),
    )


def latent_camvid_vae() -> LatentVaeConfig:
    """As `latent_earth_vae`, on CamVid at half its size."""
    config = latent_earth_vae()
    augment = AugmentConfig(crop=(64, 64), scale=(0.9, 1.5), short_side=180)
    return replace(config, data="camvid", augment=augment)


def latent_camvid_pretrain() -> GeneratorConfig:
    """As `latent_earth_pretrain`, on CamVid at half its size: ``runs/latent-camvid-vae``."""
    config = latent_earth_pretrain()
    augment = AugmentConfig(crop=(128, 128), scale=(0.9, 1.5), short_side=180)
    return replace(config, data="camvid", vae="runs/latent-camvid-vae", augment=augment)


def own_text() -> TextTrainConfig:
    """A segmenter of words: ``--backbone FOLDER --data DATA ...``, Stable Diffusion by default.

    Rates as those of Marigold and its relatives: 3e-5 for the U-Net, 3e-4 for what is new.
    """
    return TextTrainConfig(
        data=("data",),
        backbone="backbone",
        loop=LoopConfig(
            steps=20_000,
            batch_size=4,
            learning_rate=3e-4,
            betas=(0.9, 0.999),
            weight_decay=0.01,
            warmup_steps=500,
            ema_decay=0.999,
            eval_every=1000,
            save_every=1000,
        ),
        augment=AugmentConfig(crop=(512, 512)),
        unet_rate_factor=0.1,
        gradient_checkpointing=True,
    )


def earth_text() -> TextTrainConfig:
    """A segmenter of words behind ``runs/latent-earth-pretrain``, on Earth tiles."""
    return TextTrainConfig(
        data=("earth",),
        backbone="runs/latent-earth-pretrain",
        loop=LoopConfig(
            steps=1000,
            batch_size=4,
            learning_rate=1e-3,
            weight_decay=0.01,
            warmup_steps=50,
            ema_decay=0.99,
        ),
        augment=AugmentConfig(crop=(128, 128), scale=(0.9, 1.5), hue=0.01),
        foreign=NOWHERE_FROM_AFAR,
        compete_weight=1.0,
    )


def camvid_text() -> TextTrainConfig:
    """As `earth_text`, on CamVid behind ``runs/latent-camvid-pretrain``; images at 320 x 240."""
    return replace(
        earth_text(),
        data=("camvid",),
        backbone="runs/latent-camvid-pretrain",
        foreign=(),  # streets show dogs and handbags
        augment=AugmentConfig(crop=(192, 256), scale=(0.8, 1.6), short_side=240),
    )
