"""Masks of queries as pictures with three channels in [-1, 1], and back to logits.

A latent diffusion model sees masks through the encoder of its VAE, as if they were pictures. A
codec says which picture a mask is. All are used alike: `encode` turns the masks of k queries into
p pictures, one for each pass of the network; `decode_logits` turns pictures, usually noisy ones,
into a logit for each query. `ResizeCodec` alone needs no VAE: its pictures are latents.

Every logit is, up to a constant, a log-likelihood under Gaussian errors: of variance
``2 / kappa`` in each channel for colours and bits, and in the mean of the channels for single
masks.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional as F

from crispmask.errors import InputError
from crispmask.shapes import IGNORE, Image, Mask

QueryMasks = Bool[Tensor, "b k h w"]
"""Where each query is; unknown pixels are filled beforehand (`fill_unknown`)."""

QueryLogits = Float[Tensor, "b k h w"]
"""A score per query: log-odds of single masks, else to be compared by a softmax over queries."""

Pictures = Float[Tensor, "b p c h2 w2"]
"""What the network makes in p passes; c is 3 and the size that of the image, but for resizing."""

KAPPA = 8.0
"""Log-odds at a channel mean of 1; right if that mean errs by 0.5 (standard deviation)."""


class MaskImageCodec(Protocol):
    """Masks of queries to pictures and back."""

    @property
    def stride(self) -> int:
        """Pixels of the mask per element of a picture: 1 if a VAE is still to encode it."""
        ...

    def num_passes(self, num_queries: int) -> int:
        """How many pictures, so passes of the network, the masks of so many queries take."""
        ...

    def encode(self, masks: QueryMasks, image: Image) -> Pictures:
        """The pictures of masks."""
        ...

    def decode_logits(self, pictures: Pictures, image: Image, num_queries: int) -> QueryLogits:
        """Logits at the size of the image."""
        ...


@dataclass(frozen=True, kw_only=True)
class BinaryCodec:
    """A mask is a picture in black and white: ``2 m - 1`` in all channels, one query per pass.

    The only code that means the same for every list of queries, and the default.

    Attributes:
        kappa: ``logit = kappa * mean of the channels``.
    """

    kappa: float = KAPPA
    stride: ClassVar[int] = 1

    def num_passes(self, num_queries: int) -> int:
        """One pass for each query."""
        return num_queries

    def encode(self, masks: QueryMasks, image: Image) -> Pictures:
        """White where the query is, black elsewhere."""
        return _signs(masks, image.dtype)[:, :, None].expand(-1, -1, 3, -1, -1)

    def decode_logits(self, pictures: Pictures, image: Image, num_queries: int) -> QueryLogits:
        """Log-odds of each query, ``kappa`` times the mean of the channels."""
        return self.kappa * pictures.mean(2)


@dataclass(frozen=True, kw_only=True)
class OverlayCodec:
    """The image itself with the mask painted over it: ``(1 - opacity) image + opacity colour``.

    A picture near those that the VAE and the network know; one query per pass. The logit compares
    the distances to the painted and to the plain image, pixel by pixel.

    Attributes:
        colour: paint, RGB in [-1, 1].
        opacity: share of the paint, above 0 and at most 1. Where the image has the paint's own
            colour, nothing can be told apart.
        kappa: ``2 / variance`` of the error of a channel.
    """

    colour: tuple[float, float, float] = (1.0, -1.0, 1.0)
    opacity: float = 0.7
    kappa: float = KAPPA
    stride: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not 0 < self.opacity <= 1:
            raise ValueError(f"opacity must be above 0 and at most 1, got {self.opacity}.")

    def num_passes(self, num_queries: int) -> int:
        """One pass for each query."""
        return num_queries

    def encode(self, masks: QueryMasks, image: Image) -> Pictures:
        """The image, painted where the query is."""
        plain = _plain(image)  # b 1 3 h w
        return torch.where(masks[:, :, None], self._painted(plain), plain)

    def decode_logits(self, pictures: Pictures, image: Image, num_queries: int) -> QueryLogits:
        """Log-odds of painted against plain."""
        plain = _plain(image)
        away = (pictures - plain).square().sum(2)
        near = (pictures - self._painted(plain)).square().sum(2)
        return self.kappa / 4 * (away - near)

    def _painted(self, plain: Float[Tensor, "b 1 3 h w"]) -> Float[Tensor, "b 1 3 h w"]:
        colour = plain.new_tensor(self.colour).view(1, 1, 3, 1, 1)
        return (1 - self.opacity) * plain + self.opacity * colour


PALETTE = (
    *((r, g, b) for r in (-1.0, 1.0) for g in (-1.0, 1.0) for b in (-1.0, 1.0)),
    (0.0, 0.0, 0.0),
    *((s, 0.0, 0.0) for s in (-1.0, 1.0)),
    *((0.0, s, 0.0) for s in (-1.0, 1.0)),
    *((0.0, 0.0, s) for s in (-1.0, 1.0)),
    (0.0, 1.0, 1.0),
)
"""Sixteen colours: corners, centre and face centres of the cube, and the middle of an edge.

They are at least 1 apart, and the first eight 2.
"""


@dataclass(frozen=True, kw_only=True)
class PaletteCodec:
    """One pass for up to sixteen classes: a colour for each, read by the nearest colour, softly.

    For closed sets: each pixel must belong to exactly one query, and a colour means its place in
    the list. Where two colours blend, at borders, a third may be nearest.

    Attributes:
        kappa: ``2 / variance`` of the error of a channel.
    """

    kappa: float = KAPPA
    stride: ClassVar[int] = 1

    def num_passes(self, num_queries: int) -> int:
        """One pass.

        Raises:
            InputError: if there are more queries than colours.
        """
        if num_queries > len(PALETTE):
            raise InputError(
                f"a palette has colours for {len(PALETTE)} queries, got {num_queries}; "
                "use the binary codec, or bits for a closed set."
            )
        return 1

    def encode(self, masks: QueryMasks, image: Image) -> Pictures:
        """The colour of the query of each pixel."""
        self.num_passes(masks.shape[1])
        return self._colours(masks.shape[1], image)[_one_of(masks)].movedim(-1, 1)[:, None]

    def decode_logits(self, pictures: Pictures, image: Image, num_queries: int) -> QueryLogits:
        """Scores by the distance to each colour."""
        return _by_distance(pictures[:, 0], self._colours(num_queries, image), self.kappa)

    def _colours(self, count: int, like: Tensor) -> Float[Tensor, "k 3"]:
        return like.new_tensor(PALETTE)[:count]


@dataclass(frozen=True, kw_only=True)
class BitCodec:
    """The binary digits of the query's place in the list as channels, three digits per pass.

    For large closed sets: 150 classes take 3 passes. Each pixel must belong to exactly one query.

    Attributes:
        kappa: ``2 / variance`` of the error of a channel.
    """

    kappa: float = KAPPA
    stride: ClassVar[int] = 1

    def num_passes(self, num_queries: int) -> int:
        """A third of the digits, rounded up."""
        return max(1, math.ceil((num_queries - 1).bit_length() / 3))

    def encode(self, masks: QueryMasks, image: Image) -> Pictures:
        """-1 or 1 for each digit, the lowest first."""
        digits = self._codes(masks.shape[1], image)[_one_of(masks)].movedim(-1, 1)
        return torch.stack(torch.split(digits, 3, dim=1), dim=1)

    def decode_logits(self, pictures: Pictures, image: Image, num_queries: int) -> QueryLogits:
        """Scores by the distance to the digits of each query."""
        return _by_distance(pictures.flatten(1, 2), self._codes(num_queries, image), self.kappa)

    def _codes(self, count: int, like: Tensor) -> Float[Tensor, "k digits"]:
        ids = torch.arange(count, device=like.device)[:, None]
        digits = torch.arange(3 * self.num_passes(count), device=like.device)
        return _signs((ids >> digits) & 1 == 1, like.dtype)


@dataclass(frozen=True, kw_only=True)
class ResizeCodec:
    """The mask at the size of the latents, without a VAE: area averages of ``2 m - 1``.

    What is thinner than a latent becomes grey; nothing else is lost on the way. One query per
    pass.

    Attributes:
        stride: pixels per latent along each side.
        channels: channels of the latents, all alike.
        kappa: ``logit = kappa * mean of the channels``, bilinear between latents.
    """

    stride: int = 8
    channels: int = 4
    kappa: float = KAPPA

    def num_passes(self, num_queries: int) -> int:
        """One pass for each query."""
        return num_queries

    def encode(self, masks: QueryMasks, image: Image) -> Pictures:
        """Mean of ``2 m - 1`` in blocks of ``stride x stride`` pixels.

        Raises:
            InputError: if height or width is not a multiple of the stride.
        """
        h, w = masks.shape[-2:]
        if h % self.stride or w % self.stride:
            raise InputError(
                f"mask height and width must be multiples of {self.stride}, got {h}x{w}; "
                "pad with transforms.pad_to_multiple."
            )
        small = F.avg_pool2d(_signs(masks, image.dtype), self.stride)
        return small[:, :, None].expand(-1, -1, self.channels, -1, -1)

    def decode_logits(self, pictures: Pictures, image: Image, num_queries: int) -> QueryLogits:
        """Log-odds of each query, bilinearly at the size of the image."""
        small = self.kappa * pictures.mean(2)
        return F.interpolate(small, image.shape[-2:], mode="bilinear", align_corners=False)


def masks_of(mask: Mask, num_queries: int) -> QueryMasks:
    """One mask per class of a label map that has no unknown pixels."""
    classes = torch.arange(num_queries, device=mask.device).view(1, -1, 1, 1)
    return mask[:, None] == classes


def fill_unknown(mask: Mask) -> Mask:
    """The mask with each unknown pixel given the label of the nearest known one.

    A VAE looks further than a pixel: a hole of another value in the mask would change the latents
    around it. Where nothing is known, 0 is filled in; the whole of it then lies outside
    `known_latents`.
    """
    filled = mask.cpu().clone()
    for one in filled:
        unknown = (one == IGNORE).numpy()
        if unknown.all():
            one.zero_()
        elif unknown.any():
            where = distance_transform_edt(unknown, return_distances=False, return_indices=True)
            rows, columns = torch.from_numpy(where).long()
            one.copy_(one[rows, columns])
    return filled.to(mask.device)


def known_latents(
    mask: Mask, stride: int, *, ring: int = 1
) -> Bool[Tensor, "b 1 latent_h latent_w"]:
    """Latents whose pixels are all known, and those of ``ring`` latents around them, too.

    A loss on latents counts these only. The ring is for the VAE, whose latents depend on pixels
    outside their own block.

    Raises:
        InputError: if height or width is not a multiple of the stride.
    """
    h, w = mask.shape[-2:]
    if h % stride or w % stride:
        raise InputError(
            f"mask height and width must be multiples of {stride}, got {h}x{w}; "
            "pad with transforms.pad_to_multiple, and the padding with 255."
        )
    unknown = F.max_pool2d((mask == IGNORE)[:, None].float(), stride)
    return F.max_pool2d(unknown, 2 * ring + 1, stride=1, padding=ring) == 0


def _signs(flags: Bool[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    return 2 * flags.to(dtype) - 1


def _plain(image: Image) -> Float[Tensor, "b 1 3 h w"]:
    return (2 * image - 1)[:, None]


def _one_of(masks: QueryMasks) -> Mask:
    """The one query of each pixel."""
    if not (masks.sum(1) == 1).all():
        raise InputError(
            "palette and bits need each pixel in exactly one query, got some in none or several; "
            "use the binary codec for queries that overlap or leave pixels out."
        )
    return masks.int().argmax(1)


def _by_distance(
    picture: Float[Tensor, "b c h w"], codes: Float[Tensor, "k c"], kappa: float
) -> QueryLogits:
    """``-kappa / 4 |x - code|^2`` without the ``|x|^2`` that all codes share."""
    dots = torch.einsum("bchw,kc->bkhw", picture, codes)
    return kappa / 4 * (2 * dots - codes.square().sum(1).view(1, -1, 1, 1))
