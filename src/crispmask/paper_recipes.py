"""DDPS as it was published (Lai et al. 2023), as functions that return a config."""

from dataclasses import replace

from crispmask.data.transforms import AugmentConfig
from crispmask.train.configs import RefinerTrainConfig
from crispmask.train.loop_config import LoopConfig


def paper_ade_b2() -> RefinerTrainConfig:
    """DDPS on ADE20K behind SegFormer-B2, on 8 processes: see docs/reproduce.md.

    80,000 steps with pure noise, then 160,000 on the network's own first prediction; 100 official
    time steps.
    """
    return RefinerTrainConfig(
        data="ade20k:ADEChallengeData2016",
        base="segformer-b2-ade",
        loop=LoopConfig(
            steps=240_000,
            batch_size=4,
            learning_rate=1.5e-4,
            halvings=8,
            restart=1 / 3,
            betas=(0.9, 0.96),
            weight_decay=0.045,
            decay_all=True,
            warmup_steps=1000,
            ema_decay=0.99,
            ema_every=25,
            clip_norm=0.0,
            eval_every=16_000,
            eval_images=0,
            save_every=4000,
            workers=4,
        ),
        augment=AugmentConfig(
            crop=(512, 512),
            scale=(0.5, 2.0),
            short_side=512,
            dominance=0.75,
            contrast=0.35,
            saturation=0.35,
            hue=0.035,
        ),
        in_memory=False,
        conditioning="features",
        stride=4,
        widths=(256, 256, 256),
        depth=2,
        linear_attention=True,
        patch_size=1,
        embed_dim=16,
        embed_trained=False,
        stem_kernel=7,
        head_channels=256,
        dropout=0.1,
        time_scale=99.0,
        first_stage=1 / 3,
        noise_share=1 / 100,
        condition_dropout=0.0,
        hard_labels=0.0,
    )


def paper_ade_b0() -> RefinerTrainConfig:
    """As `paper_ade_b2`, behind SegFormer-B0 and half as wide."""
    return replace(paper_ade_b2(), base="segformer-b0-ade", widths=(128, 128, 128))


def paper_city_b2() -> RefinerTrainConfig:
    """DDPS on Cityscapes behind SegFormer-B2, on 8 processes: as `paper_ade_b2`, 20 time steps."""
    config = paper_ade_b2()
    return replace(
        config,
        data="cityscapes:cityscapes",
        base="segformer-b2-city",
        loop=replace(config.loop, batch_size=2),
        augment=replace(config.augment, crop=(1024, 1024), short_side=0),
        time_scale=19.0,
        noise_share=1 / 20,
    )


def paper_city_b0() -> RefinerTrainConfig:
    """As `paper_city_b2`, behind SegFormer-B0 and half as wide."""
    return replace(paper_city_b2(), base="segformer-b0-city", widths=(128, 128, 128))
