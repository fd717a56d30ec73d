"""The network of a text segmenter: one call of its denoiser, and masks of what that gives."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from crispmask.diffusion.gaussian import (
    Latents,
    Scheduler,
    Steps,
    check_scheduler,
    shared_noise,
)
from crispmask.errors import InputError
from crispmask.models.latents import LatentCodec, VaeLatents
from crispmask.models.mask_images import QueryLogits
from crispmask.models.text_config import Decode, TextSegmenterConfig
from crispmask.models.text_parts import check_fit, make_mask_codec
from crispmask.models.text_states import QueryEncoder, TextStates
from crispmask.nn.block_features import block_features
from crispmask.nn.heads import AlignHead, LightDecoder
from crispmask.nn.text_pathway import TextPathway
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


class TextDenoiser(nn.Module):
    """A denoising U-Net that sees an image and a text, with the heads that read it.

    U-Net, pathway, `align` and `decoder` are trained. The VAE is frozen, and so is the text
    encoder, which is no part of the state.

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
        self.mask_codec = make_mask_codec(config, self.codec)
        widths = unet.config["block_out_channels"]  # type: ignore[index]
        self.stride = self.codec.stride * 2 ** (len(widths) - 1)
        check_fit(config, unet, self.codec, words)

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

    def mask_latents(
        self, masks: Bool[Tensor, "m p h w"], images: Float[Tensor, "n 3 h w"]
    ) -> VaeLatents:
        """Latents of the pictures of masks, n in all; in the binary code all empty ones share one.

        Args:
            masks: one for each row of the network, or, of a closed code, those of all classes.
            images: of each row; the rows of an image are neighbours.
        """
        code, kind = self.mask_codec, self.config.mask_code
        if kind == "resize":
            return code.encode(masks, images)[:, 0]
        if kind != "binary":
            pictures = code.encode(masks, images[:: len(images) // len(masks)])  # m p 3 h w
            return self.codec.encode(pictures.flatten(0, 1))
        full = masks.flatten(1).any(1)
        distinct = torch.cat([torch.zeros_like(masks[:1]), masks[full]])
        pictures = code.encode(distinct, images[:1].expand(len(distinct), -1, -1, -1))[:, 0]
        place = full.long().cumsum(0) * full  # 0 is the empty mask
        return self.codec.encode(pictures)[place]

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
        pictures = self._pictures(z_0.to(image))
        pictures = pictures.reshape(len(image), -1, *pictures.shape[1:])  # b p c h w
        return self.mask_codec.decode_logits(pictures, image, num_queries)

    def _pictures(self, z_0: VaeLatents) -> Float[Tensor, "n picture_c picture_h picture_w"]:
        return z_0 if self.config.mask_code == "resize" else self.codec.decode(z_0)
