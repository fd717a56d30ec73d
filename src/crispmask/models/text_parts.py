"""The networks that a `TextSegmenter` is built from, and whether they fit each other."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from crispmask.diffusion.gaussian import Scheduler
from crispmask.errors import InputError
from crispmask.models.backbone import Backbone
from crispmask.models.latents import LatentCodec
from crispmask.models.mask_images import (
    BinaryCodec,
    BitCodec,
    MaskImageCodec,
    OverlayCodec,
    PaletteCodec,
    ResizeCodec,
)
from crispmask.models.text_config import TextSegmenterConfig
from crispmask.models.text_states import QueryEncoder
from crispmask.nn.heads import AlignHeadConfig, LightDecoderConfig
from crispmask.nn.text_pathway import TextPathwayConfig


@dataclass(frozen=True, kw_only=True)
class TextParts:
    """What a text segmenter is built from, heads aside."""

    unet: nn.Module
    vae: nn.Module
    words: QueryEncoder
    scheduler: Scheduler


def suggested_config(backbone: Backbone) -> dict[str, Any]:
    """What a `TextSegmenterConfig` on this backbone must or should say.

    Heads are as wide as the U-Net has use for: behind one of 48 channels a decoder of 128 took half
    of the time of a training step.
    """
    unet: Any = backbone.unet
    widths = tuple(unet.config["block_out_channels"])
    vae, text_width = LatentCodec(backbone.vae), backbone.words.width
    return {
        # a backbone with CLIP brings its files, one with a BERT means the MiniLM package
        "words": "folder" if backbone.words.reads_padding else "minilm",
        "pathway": TextPathwayConfig(
            block_widths=widths, text_width=text_width, width=min(256, 4 * _power_of_two(widths[0]))
        ),
        "align": AlignHeadConfig(block_widths=widths, text_width=text_width),
        "decoder": LightDecoderConfig(
            latent_channels=vae.channels,
            feature_channels=widths[0],
            factor=vae.stride,
            width=min(128, _power_of_two(widths[0])),
        ),
    }


def _power_of_two(width: int) -> int:
    """The largest up to `width`, 8 at least."""
    return max(8, 1 << (width.bit_length() - 1))


def make_mask_codec(config: TextSegmenterConfig, codec: LatentCodec) -> MaskImageCodec:
    """The codec of this config for the latents of a VAE."""
    codes: dict[str, MaskImageCodec] = {
        "binary": BinaryCodec(),
        "overlay": OverlayCodec(),
        "palette": PaletteCodec(),
        "bits": BitCodec(),
        "resize": ResizeCodec(stride=codec.stride, channels=codec.channels),
    }
    return codes[config.mask_code]


def check_fit(
    config: TextSegmenterConfig, unet: Any, codec: LatentCodec, words: QueryEncoder
) -> None:
    """Raise `InputError` unless the parts can work together."""
    widths, channels = tuple(unet.config["block_out_channels"]), unet.config["out_channels"]
    facts: tuple[tuple[str, object, str, object], ...] = (
        ("the U-Net's input", unet.config["in_channels"], "two latents", 2 * channels),
        ("the U-Net's latents", channels, "those of the VAE", codec.channels),
        ("the U-Net's text", unet.config["cross_attention_dim"], "the encoder's", words.width),
        ("the align head", config.align.block_widths, "the U-Net", widths),
        ("the align head's text", config.align.text_width, "the encoder's", words.width),
        ("the decoder's latents", config.decoder.latent_channels, "the VAE's", codec.channels),
        ("the decoder's features", config.decoder.feature_channels, "the U-Net's", widths[0]),
        ("the decoder's factor", config.decoder.factor, "the VAE's", codec.stride),
    )
    if config.pathway is not None:
        facts = (
            *facts,
            ("the text pathway", config.pathway.block_widths, "the U-Net", widths),
            ("the pathway's text", config.pathway.text_width, "the encoder's", words.width),
        )
    for what, given, other, needed in facts:
        if given != needed:
            raise InputError(
                f"the parts of a text segmenter must fit: {what} is of width {given}, {other} "
                f"{needed}; take all parts from one model."
            )
