"""The models that runs start with."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import nn

from crispmask.errors import InputError
from crispmask.models.bases import Base, load_base
from crispmask.models.codec import CodecModel
from crispmask.models.refiner import MaskRefiner
from crispmask.models.refiner_config import RefinerConfig, condition_channels, num_states
from crispmask.models.segformer import SegformerBase, SegformerBaseConfig
from crispmask.models.segmenters import FPNSegmenter, SegmenterConfig
from crispmask.nn.efficientnet import imagenet_weights, load_imagenet
from crispmask.nn.fpn import FPNConfig
from crispmask.train.configs import RefinerTrainConfig, SegmenterTrainConfig

HALF_B0 = (16, 32, 80, 128)
"""Channels of the stages of a SegFormer, half those of MiT-B0."""


def new_segmenter(config: SegmenterTrainConfig, names: Sequence[str]) -> Base:
    """A segmenter as the run asks for it: trained before, or with weights drawn at random.

    Args:
        config: of the run.
        names: of the classes.

    Raises:
        InputError: if the trained one has other classes, or an extra is not installed.
    """
    if config.init:
        return load_base(config.init, class_names=names)
    if config.network == "segformer":
        return SegformerBase(
            SegformerBaseConfig(
                class_names=tuple(names),
                widths=HALF_B0,
                depths=(2, 2, 2, 2),
                neck_channels=config.channels,
            )
        )
    network = FPNConfig(num_classes=len(names), channels=config.channels)
    model = FPNSegmenter(
        SegmenterConfig(class_names=tuple(names), network=network, scale=config.scale)
    )
    if config.imagenet:
        load_imagenet(model.network.encoder, imagenet_weights())
    return model


def new_refiner(
    config: RefinerTrainConfig, names: Sequence[str], *, feature_channels: int
) -> MaskRefiner:
    """A refiner as the run asks for it: trained before, or with weights drawn at random.

    Args:
        config: of the run.
        names: of the classes.
        feature_channels: that the base gives.

    Raises:
        InputError: if the crops do not divide into the network's coarsest pixels, or the codec or
            the refiner to go on from does not fit.
    """
    k = len(names)
    codec = None if config.codec is None else _codec(config.codec, config.stride, names)
    codes = k if codec is None else codec.config.network.num_codes
    features = feature_channels if config.conditioning == "features" else 0
    cond = condition_channels(
        config.conditioning, k, stride=config.stride, feature_channels=features
    )
    network = config.network(
        num_classes=codes, cond_channels=cond, num_states=num_states(codes, config.process)
    )
    multiple = config.stride * network.stride
    if any(side % multiple for side in config.augment.crop):
        h, w = config.augment.crop
        raise InputError(f"sides of augment.crop must be multiples of {multiple}, got {h}x{w}.")
    refiner = MaskRefiner(
        RefinerConfig(
            class_names=tuple(names),
            network=network,
            conditioning=config.conditioning,
            stride=config.stride,
            process=config.process,
            schedule=config.schedule,
            residual=codec is None and config.conditioning in ("probs", "logits", "mask"),
            feature_channels=features,
            condition_dropout=config.condition_dropout,
            holes=config.holes,
            codec=None if codec is None else codec.config.network,
        )
    )
    if codec is not None:
        assert refiner.codec is not None
        refiner.codec.load_state_dict(codec.network.state_dict())
    if config.init:
        _go_on_from(config.init, refiner)
    return refiner


def _go_on_from(folder: str, refiner: MaskRefiner) -> None:
    """Give a refiner the weights of a trained one, and so its answers.

    What the trained one does not read - known labels, and for a control noisy mask and time -
    says nothing yet.
    """
    try:
        before = MaskRefiner.from_pretrained(folder)
    except InputError as error:
        raise InputError(
            f"no refiner to go on from: {error} Train one there first, or name one with --init."
        ) from error
    theirs, ours = before.config.network, refiner.config.network
    kinds = _kind(before.config), _kind(refiner.config)
    labels_read = theirs.state_input or theirs.evidence
    unread = () if labels_read else ("state_input", "process", "schedule", "num_states")
    differ = [k for k in kinds[0] if kinds[0][k] != kinds[1][k] and k not in unread]
    if theirs.evidence and not ours.evidence:
        differ.append("evidence")
    if differ:
        raise InputError(
            f"this run cannot go on from the refiner {folder}, which is of another kind: "
            f"{', '.join(differ)} differ; set them as they are in its config.json, or leave init "
            "out."
        )
    found = refiner.load_state_dict(before.state_dict(), strict=False)
    for name in found.missing_keys:
        if name != "network.embed.weight":  # stays random: what reads it begins at zero
            nn.init.zeros_(refiner.get_parameter(name))
    if ours.state_input and not theirs.state_input:
        refiner.network.ignore_time()


def _kind(config: RefinerConfig) -> dict[str, Any]:
    """What a refiner has in common with all that can go on from it."""
    kind: dict[str, Any] = dataclasses.asdict(config)
    network: dict[str, Any] = kind.pop("network")
    for fitted in ("temperature", "gate", "label_threshold", "condition_dropout", "holes"):
        del kind[fitted]
    for free in ("evidence", "dropout", "embed_trained"):
        del network[free]
    return kind | network


def _codec(folder: str, stride: int, names: Sequence[str]) -> CodecModel:
    model = CodecModel.from_pretrained(folder)
    if model.config.class_names != tuple(names):
        raise InputError(
            f"the codec {folder} knows the classes {', '.join(model.config.class_names)}, the data "
            f"{', '.join(names)}; train a codec on the masks of this data."
        )
    if model.config.network.stride != stride:
        raise InputError(
            f"the codec {folder} has a stride of {model.config.network.stride}, the run one of "
            f"{stride}; set stride={model.config.network.stride}."
        )
    return model
