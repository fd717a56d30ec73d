"""Pictures to the latents of a frozen VAE and back, and a cache of latents on disk."""

import hashlib
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from crispmask.atomic import write_atomic
from crispmask.data.transforms import pad_to_multiple
from crispmask.errors import InputError
from crispmask.models.mask_images import MaskImageCodec, QueryLogits, fill_unknown, masks_of
from crispmask.shapes import Image, Mask

Picture = Float[Tensor, "n 3 h w"]
"""Images (``2 image - 1``) or coded masks, in [-1, 1]."""

VaeLatents = Float[Tensor, "n c latent_h latent_w"]
"""Latents as the U-Net sees them: shifted and scaled to about unit variance."""

COARSEST = 8
"""Masks are padded to multiples of this, for codecs that resize."""


class LatentCodec(nn.Module):
    """A diffusers VAE as a deterministic, frozen pair of maps.

    ``encode`` gives ``scaling_factor * (mode - shift_factor)`` with the mode of the posterior and
    the factors of the VAE's own config; an `AutoencoderTiny` has no posterior, its latents are
    taken as they are. ``decode`` is the way back and lets gradients through to the latents. No
    parameter is trained, and `train` leaves the VAE in evaluation mode.

    Attributes:
        vae: the VAE.
        channels: of the latents.
        stride: pixels per latent along each side.
        slice_size: pictures that go through the VAE at a time.
    """

    def __init__(self, vae: nn.Module, *, slice_size: int = 8) -> None:
        """Take over a VAE.

        Raises:
            InputError: if it is no VAE of diffusers that works on single pictures, or one whose
                latents are normalised in another way.
        """
        super().__init__()
        config: Any = getattr(vae, "config", {})
        blocks = config.get("encoder_block_out_channels") or config.get("block_out_channels")
        if not blocks or "latent_channels" not in config or "scaling_factor" not in config:
            raise InputError(
                "latents need a VAE of diffusers such as AutoencoderKL or AutoencoderTiny, got a "
                f"{type(vae).__name__} whose config lacks latent_channels, scaling_factor or "
                "block_out_channels."
            )
        if config.get("latents_mean") is not None or config.get("latents_std") is not None:
            raise InputError(
                f"this {type(vae).__name__} normalises each channel (latents_mean, latents_std), "
                "which the U-Nets of Stable Diffusion 1.x and 2.x do not know; use their own VAE."
            )
        self.vae: Any = vae.eval().requires_grad_(False)
        self.channels = int(config["latent_channels"])
        self.stride: int = 2 ** (len(blocks) - 1)
        self.scale = float(config["scaling_factor"])
        self.shift = float(config.get("shift_factor") or 0.0)
        self.slice_size = slice_size

    def train(self, mode: bool = True) -> Self:
        """Nothing changes: the VAE stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, pictures: Picture) -> VaeLatents:
        """Latents of pictures of any size; sides are padded to multiples of the stride.

        The last row and column are repeated for that.
        """
        padded, _ = pad_to_multiple(pictures, self.stride)
        latents = [self._encode(part) for part in self._slices(padded)]
        return torch.cat(latents).to(pictures)

    def decode(self, latents: VaeLatents, size: tuple[int, int] | None = None) -> Picture:
        """Pictures of latents, cut to a height and width if given; not clipped to [-1, 1]."""
        h, w = size or (latents.shape[-2] * self.stride, latents.shape[-1] * self.stride)
        parts = self._slices(latents / self.scale + self.shift)
        pictures = torch.cat([self.vae.decode(part).sample for part in parts])
        return pictures[..., :h, :w].to(latents)

    def fingerprint(self) -> str:
        """Hash of the weights and of all that changes the latents."""
        digest = hashlib.sha256()
        digest.update(f"{type(self.vae).__name__} {self.stride} {self.scale} {self.shift}".encode())
        for name, weight in sorted(self.vae.state_dict().items()):
            digest.update(name.encode())
            _update(digest, weight)
        return digest.hexdigest()

    def _encode(self, pictures: Picture) -> VaeLatents:
        output = self.vae.encode(pictures)
        raw = output.latents if hasattr(output, "latents") else output.latent_dist.mode()
        latents: Tensor = (raw - self.shift) * self.scale
        return latents

    def _slices(self, x: Tensor) -> tuple[Tensor, ...]:
        weight = next(self.vae.parameters())
        parts: tuple[Tensor, ...] = torch.split(x.to(weight.device, weight.dtype), self.slice_size)
        return parts


@torch.no_grad()
def through_codec(
    mask: Mask,
    image: Image,
    num_classes: int,
    codec: MaskImageCodec,
    latents: LatentCodec | None = None,
) -> QueryLogits:
    """Logits of a true mask that was encoded and decoded: by a codec, and a VAE if given.

    Each class is a query; unknown pixels are filled before.

    Args:
        mask: of one image.
        image: of the same size, for codecs that draw on it.
        num_classes: number of classes of the mask.
        codec: masks to pictures.
        latents: pictures to latents; unused by codecs whose pictures are latents already.
    """
    padded, (h, w) = pad_to_multiple(fill_unknown(mask), COARSEST)
    image, _ = pad_to_multiple(image, COARSEST)
    pictures = codec.encode(masks_of(padded, num_classes), image)
    if latents is not None and codec.stride == 1:
        # all classes that are absent make one and the same picture: the VAE sees it once
        distinct, which = torch.unique(pictures[0], dim=0, return_inverse=True)
        size = (image.shape[-2], image.shape[-1])
        pictures = latents.decode(latents.encode(distinct), size)[which][None]
    return codec.decode_logits(pictures, image, num_classes)[..., :h, :w]


class LatentCache:
    """Latents of pictures, computed once and kept on disk, a file for each picture.

    Files lie in a folder named by the hash of the VAE and are named by the hash of the picture's
    values, so another VAE or a changed picture never meets old latents. A file appears whole or
    not at all; a damaged one is written again.

    Attributes:
        codec: makes the latents that are missing.
        folder: where the files of this codec lie.
    """

    def __init__(self, codec: LatentCodec, folder: Path | str) -> None:
        self.codec = codec
        self.folder = Path(folder) / codec.fingerprint()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, pictures: Picture) -> VaeLatents:
        """`LatentCodec.encode` of the pictures, from disk where they were seen before."""
        paths = [self.path(picture) for picture in pictures]
        found = [self._read(path) for path in paths]
        missing = [i for i, latents in enumerate(found) if latents is None]
        if missing:
            for i, latents in zip(missing, self.codec.encode(pictures[missing]), strict=True):
                write_atomic(paths[i], save({"latents": latents.cpu().contiguous()}))
                found[i] = latents
        return torch.stack([one.to(pictures) for one in found if one is not None])

    def path(self, picture: Float[Tensor, "3 h w"]) -> Path:
        """Where the latents of a picture lie, or would."""
        digest = hashlib.sha256()
        _update(digest, picture)
        return self.folder / f"{digest.hexdigest()}.safetensors"

    def _read(self, path: Path) -> Float[Tensor, "c latent_h latent_w"] | None:
        try:
            return load(path.read_bytes())["latents"]
        except (OSError, SafetensorError, KeyError):
            return None


def _update(digest: Any, tensor: Tensor) -> None:
    digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
