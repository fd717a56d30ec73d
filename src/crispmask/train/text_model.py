"""The segmenter that a `TextTrainConfig` begins with, and how what was trained is saved."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from crispmask.errors import InputError
from crispmask.models.backbone import Backbone, load_backbone
from crispmask.models.latent_unet import InputInit, widen_input
from crispmask.models.text_adapter import TextAdapterConfig, write_adapter
from crispmask.models.text_config import CLOSED_CODES
from crispmask.models.text_folder import is_segmenter
from crispmask.models.text_segmenter import TextSegmenter
from crispmask.models.vocabulary import Vocabulary
from crispmask.train.lora import add_lora, low_rank_factors, merge_lora
from crispmask.train.text_config import TextTrainConfig


def new_text_segmenter(
    config: TextTrainConfig, vocabularies: Sequence[Vocabulary]
) -> TextSegmenter:
    """The backbone with new heads, or a trained segmenter; what of it is not trained is frozen.

    Raises:
        InputError: if the backbone cannot be used, or does not fit the settings, the crop or the
            words.
    """
    names = tuple(
        dict.fromkeys(
            name
            for words in vocabularies
            for name in words.class_names
            if name not in config.held_out
        )
    )
    trained = is_segmenter(config.backbone)
    model = (_continued if trained else _on_backbone)(config, names)
    _check(config, model, vocabularies)
    if model.config.closed:
        model.decoder.requires_grad_(False)  # cannot read such pictures
    if config.lora_rank:
        add_lora(model.unet, config.lora_rank, new_input=not trained)
    if config.gradient_checkpointing:
        model.unet.enable_gradient_checkpointing()
    return model


def with_random_unet(backbone: Backbone) -> Backbone:
    """The same parts, the U-Net with random weights as diffusers draws them."""
    old: Any = backbone.unet
    fresh = type(old).from_config(old.config)
    widen_input(fresh, init="half")  # has the width already; only noted in its config
    return replace(backbone, unet=fresh)


def save_trained(
    config: TextTrainConfig, base_sha256: str | None, model: TextSegmenter, folder: Path
) -> None:
    """Write the whole model, or an adapter if low rank was trained on a segmenter.

    Args:
        config: of the run.
        base_sha256: `fingerprint` of the segmenter that the run began with; None for a backbone.
        model: what was trained; low-rank updates are merged into it.
        folder: of the run.
    """
    if not config.lora_rank:
        model.save_pretrained(folder)
        return
    factors = low_rank_factors(model.unet)
    merge_lora(model.unet)
    if base_sha256 is None:
        model.save_pretrained(folder)
        return
    adapter = TextAdapterConfig(
        base=config.backbone,
        base_sha256=base_sha256,
        rank=config.lora_rank,
        segmenter=model.config,
    )
    write_adapter(folder, adapter, factors, model.heads.state_dict())


def _on_backbone(config: TextTrainConfig, names: tuple[str, ...]) -> TextSegmenter:
    init: InputInit = "image_only" if config.steps == "one" else "half"
    backbone = load_backbone(Path(config.backbone), init=init)
    if config.from_scratch:
        backbone = with_random_unet(backbone)
    changes: dict[str, Any] = {} if config.pathway else {"pathway": None}
    return TextSegmenter.from_backbone(
        backbone,
        class_names=names,
        mask_code=config.mask_code,
        template=config.template,
        decode="vae" if config.mask_code in CLOSED_CODES else "light",
        start="zeros" if config.steps == "one" else "noise",
        image_size=config.augment.short_side,
        guided=config.drop_prompt > 0,
        **changes,
    )


def _continued(config: TextTrainConfig, names: tuple[str, ...]) -> TextSegmenter:
    """A trained segmenter, heads included.

    Its own words stay among its class names, behind the new ones: it has been trained on them, and
    to report them as unseen would be wrong. A closed mask code has a colour for each of the new
    ones alone.
    """
    model = TextSegmenter.from_pretrained(config.backbone)
    _check_same(config, model)
    own = () if model.config.closed else model.config.class_names
    model.config = replace(
        model.config,
        class_names=tuple(dict.fromkeys(names + own)),
        image_size=config.augment.short_side,
        guided=config.drop_prompt > 0,
    )
    return model


def _check_same(config: TextTrainConfig, model: TextSegmenter) -> None:
    """Refuse settings that say another thing than what a trained segmenter is."""
    own = model.config
    needed = {
        "mask_code": own.mask_code,
        "template": own.template,
        "pathway": own.pathway is not None,
        "steps": "one" if own.start == "zeros" else "many",
        "from_scratch": False,
    }
    wrong = [
        f"{name}={value!r}, got {getattr(config, name)!r}"
        for name, value in needed.items()
        if getattr(config, name) != value
    ]
    if wrong:
        raise InputError(
            f"{config.backbone} is a trained segmenter and goes on as what it is, which needs "
            f"{'; '.join(wrong)}; change that, or begin with a backbone that has no heads."
        )
    if seen := sorted(set(config.held_out) & set(own.class_names)):
        raise InputError(
            f"held_out must name words that the model never learned, but {config.backbone} was "
            f"trained on {', '.join(seen)}; begin with another one, or name others."
        )


def _check(
    config: TextTrainConfig, model: TextSegmenter, vocabularies: Sequence[Vocabulary]
) -> None:
    """Refuse crops that the network cannot take, and closed codes for what is no word."""
    if any(side % model.stride for side in config.augment.crop):
        raise InputError(
            f"sides of augment.crop must be multiples of {model.stride} for this backbone, got "
            f"{config.augment.crop[0]}x{config.augment.crop[1]}."
        )
    if not model.config.closed:
        return
    model.mask_codec.num_passes(len(model.config.class_names))  # refuses too many
    if vocabularies[0].background is not None:
        raise InputError(
            f"mask_code={config.mask_code!r} needs a word for every class, but {config.data[0]} "
            "has one that says what a thing is not; use binary, or name it in classes.txt."
        )
