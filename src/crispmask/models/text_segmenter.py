"""TextSegmenter: a pretrained latent diffusion model repurposed to draw the masks of words.

The architecture is that of DiGSeg (Wang et al. 2026, "Diffusion Model as a Generalist Segmentation
Learner") as far as its abstract tells; what it leaves open is argued in docs/text.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crispmask.diffusion.gaussian import (
    Latents,
    Scheduler,
    Steps,
    check_scheduler,
    shared_noise,
)
from crispmask.errors import InputError
from crispmask.models.backbone import Backbone, load_backbone
from crispmask.models.latents import LatentCodec, VaeLatents
from crispmask.models.mask_images import (
    BinaryCodec,
    BitCodec,
    MaskImageCodec,
    OverlayCodec,
    PaletteCodec,
    QueryLogits,
    ResizeCodec,
)
from crispmask.models.text_config import Decode, TextSegmenterConfig
from crispmask.models.text_folder import (
    CONFIG,
    TextParts,
    find_segmenter,
    read_heads,
    read_segmenter,
    write_segmenter,
)
from crispmask.models.text_states import QueryEncoder, TextStates
from crispmask.nn.block_features import block_features
from crispmask.nn.heads import AlignHead, AlignHeadConfig, LightDecoder, LightDecoderConfig
from crispmask.nn.text_pathway import TextPathway, TextPathwayConfig
from crispmask.shapes import Generators, Image


@dataclass(frozen=True, kw_only=True)
class Call:
    """What one call of the denoiser gives.

    Attributes:
        output: as the scheduler's prediction type says.
        features: outputs of the blocks behind the text pathway, by the names of `level_widths`.
    """

    output: Latents
    features: dict[str, Tensor]


class TextSegmenter(nn.Module):
    """Segments an image by words that are given with it.

    The U-Net of a latent diffusion model sees the image's latents beside those of a mask, and the
    words through its own cross-attention and through a pathway beside it. It is trained to turn
    noise, or zeros, into the latents of the mask of one query. U-Net, pathway, `align` and
    `decoder` are trained; the VAE and the text encoder are frozen, and the text encoder is no part
    of the state.

    Attributes:
        config: sizes and ways of answering.
        unet: diffusers' `UNet2DConditionModel`, widened for the image's latents.
        codec: the VAE.
        words: the text encoder; it stays on the device it is on.
        pathway: the second way of the text into the U-Net; None for none.
        align: compares pixels with words.
        decoder: light decoder of mask logits.
        scheduler: of `mask_scheduler`.
        mask_codec: what masks look like as pictures.
        stride: sides of images must be multiples of it for `look`.
    """

    def __init__(
        self,
        config: TextSegmenterConfig,
        *,
        unet: nn.Module,
        vae: nn.Module,
        words: QueryEncoder,
        scheduler: Scheduler,
    ) -> None:
        """Put the parts together; the heads are new.

        Raises:
            InputError: if a part does not fit another one.
        """
        super().__init__()
        check_scheduler(scheduler)
        self.config = config
        self.unet: Any = unet
        self.codec = LatentCodec(vae)
        self.words = words
        self.scheduler = scheduler
        self.pathway = None if config.pathway is None else TextPathway(config.pathway)
        self.align = AlignHead(config.align)
        self.decoder = LightDecoder(config.decoder)
        self.mask_codec = _mask_codec(config, self.codec)
        widths = unet.config["block_out_channels"]  # type: ignore[index]
        self.stride = self.codec.stride * 2 ** (len(widths) - 1)
        _check_fit(config, unet, self.codec, words)

    @classmethod
    def from_backbone(cls, backbone: Backbone, **changes: Any) -> Self:
        """A segmenter on a pretrained backbone, with new heads of its sizes.

        Args:
            backbone: of `load_backbone`.
            changes: other values of `TextSegmenterConfig` than those that the backbone suggests.
        """
        unet: Any = backbone.unet
        widths = tuple(unet.config["block_out_channels"])
        vae = LatentCodec(backbone.vae)
        text_width = backbone.words.width
        suggested: dict[str, Any] = {
            # a backbone with CLIP brings its files, one with a BERT means the MiniLM package
            "words": "folder" if backbone.words.reads_padding else "minilm",
            "pathway": TextPathwayConfig(block_widths=widths, text_width=text_width),
            "align": AlignHeadConfig(block_widths=widths, text_width=text_width),
            "decoder": LightDecoderConfig(
                latent_channels=vae.channels, feature_channels=widths[0], factor=vae.stride
            ),
        }
        return cls(
            TextSegmenterConfig(**{**suggested, **changes}),
            unet=backbone.unet,
            vae=backbone.vae,
            words=backbone.words,
            scheduler=backbone.scheduler,
        )

    @classmethod
    def from_pretrained(cls, name: str | Path) -> Self:
        """The segmenter of a bundled name or a folder, in evaluation mode, offline.

        Args:
            name: a folder that `save_pretrained` wrote, or one of Stable Diffusion 1.x or 2.x or
                Marigold as diffusers saves it, whose heads are new and must be trained.

        Raises:
            InputError: if there is none, or a part is missing, damaged or of another model.
        """
        folder = find_segmenter(name)
        if (folder / "model_index.json").is_file() and not (folder / CONFIG).is_file():
            return cls.from_backbone(load_backbone(folder)).eval()
        config, parts = read_segmenter(folder)
        model = cls(
            config,
            unet=parts.unet,
            vae=parts.vae,
            words=parts.words,
            scheduler=parts.scheduler,
        )
        model.heads.load_state_dict(read_heads(folder, model.heads.state_dict()))
        return model.eval()

    def save_pretrained(self, folder: Path | str, *, half: bool = False) -> None:
        """Write a folder that `from_pretrained` reads: it appears whole or not at all.

        Args:
            folder: new, or one in which the files of a segmenter are replaced.
            half: store the weights in fp16, half the size; they are loaded as float32.
        """
        parts = TextParts(
            unet=self.unet, vae=self.codec.vae, words=self.words, scheduler=self.scheduler
        )
        write_segmenter(Path(folder), self.config, parts, self.heads.state_dict(), half=half)

    @property
    def heads(self) -> nn.ModuleDict:
        """What is trained beside the U-Net: the pathway, if there is one, align and decoder."""
        heads: dict[str, nn.Module] = {"align": self.align, "decoder": self.decoder}
        if self.pathway is not None:
            heads["pathway"] = self.pathway
        return nn.ModuleDict(heads)

    @property
    def last_step(self) -> int:
        """The step of pure noise, T - 1: that of the first call."""
        return int(self.scheduler.config["num_train_timesteps"]) - 1

    def look(self, images: Image) -> VaeLatents:
        """Latents of images whose sides are multiples of `stride`."""
        return self.codec.encode(2 * images - 1)

    def start(self, z_image: Latents, *, generator: Generators = None) -> Latents:
        """The state of the first call for each image: zeros or noise, as the model is trained."""
        if self.config.start == "zeros":
            return torch.zeros_like(z_image)
        n, c, h, w = z_image.shape
        noise = shared_noise((n, c, h, w), queries=1, generator=generator, device=z_image.device)
        return noise.to(z_image)

    def call(self, z_image: Latents, z_t: Latents, step: Steps, states: TextStates) -> Call:
        """One call of the denoiser for n rows, which are images x queries.

        The U-Net attends to the padding of CLIP's sentences, as Stable Diffusion was trained; that
        of other sentences is masked. The pathway sees no padding.

        Args:
            z_image: of `look`.
            z_t: the noisy latents of the masks.
            step: of the scheduler, for each row.
            states: a text for each row.
        """
        tokens = states.tokens.to(z_image)
        mask = states.mask.to(z_image.device)
        features = (
            block_features(self.unet)
            if self.pathway is None
            else self.pathway.attached(self.unet, tokens, mask)
        )
        with features as found:
            output = self.unet(
                torch.cat([z_image, z_t.to(z_image)], dim=1),
                step,
                encoder_hidden_states=tokens,
                encoder_attention_mask=None if self.words.reads_padding else mask,
            ).sample
        return Call(output=output, features=dict(found))

    def mask_logits(
        self,
        z_0: VaeLatents,
        features: dict[str, Tensor],
        image: Image,
        *,
        decode: Decode | None = None,
    ) -> Float[Tensor, "n 1 h w"]:
        """Logits of the masks of n queries at the size of the image, differentiable.

        Args:
            z_0: clean latents of the masks.
            features: of the call that gave them.
            image: what `look` has seen, one for each row.
            decode: "light" or "vae"; the model's own by default.

        Raises:
            InputError: if the mask code draws all classes at once; see `closed_logits`.
        """
        if self.config.closed:
            raise InputError(
                f'mask_code="{self.config.mask_code}" draws all classes at once; use closed_logits.'
            )
        z_0 = z_0.to(image)
        if (decode or self.config.decode) == "light":
            last = max(name for name in features if name.startswith("up_"))
            logits: Tensor = self.decoder(z_0, features[last], image)
            return logits
        return self.mask_codec.decode_logits(self._pictures(z_0)[:, None], image, 1)

    def closed_logits(self, z_0: VaeLatents, image: Image, num_queries: int) -> QueryLogits:
        """Logits of all classes of a closed mask code, b k h w.

        Args:
            z_0: clean latents of the pictures, those of an image are neighbours.
            image: b 3 h w.
            num_queries: classes.
        """
        pictures = self._pictures(z_0.to(image)).unflatten(0, (len(image), -1))  # b p c h w
        return self.mask_codec.decode_logits(pictures, image, num_queries)

    def _pictures(self, z_0: VaeLatents) -> Float[Tensor, "n picture_c picture_h picture_w"]:
        return z_0 if self.config.mask_code == "resize" else self.codec.decode(z_0)


def _mask_codec(config: TextSegmenterConfig, codec: LatentCodec) -> MaskImageCodec:
    codes: dict[str, MaskImageCodec] = {
        "binary": BinaryCodec(),
        "overlay": OverlayCodec(),
        "palette": PaletteCodec(),
        "bits": BitCodec(),
        "resize": ResizeCodec(stride=codec.stride, channels=codec.channels),
    }
    return codes[config.mask_code]


def _check_fit(
    config: TextSegmenterConfig, unet: Any, codec: LatentCodec, words: QueryEncoder
) -> None:
    """Raise `InputError` unless the parts can work together."""
    widths, channels = tuple(unet.config["block_out_channels"]), unet.config["out_channels"]
    facts: Sequence[tuple[str, object, str, object]] = (
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
