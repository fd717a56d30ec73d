"""The ceiling of a codec is exact where it must be, and lower where something is really lost."""

from pathlib import Path

import pytest
import torch

from crispmask.data.catalog import shared_data
from crispmask.data.earth import earth
from crispmask.data.sample import Sample
from crispmask.evaluate.codec_ceiling import codec_ceiling
from crispmask.models.latents import LatentCodec
from crispmask.models.mask_images import (
    BinaryCodec,
    BitCodec,
    MaskImageCodec,
    OverlayCodec,
    PaletteCodec,
    ResizeCodec,
    fill_unknown,
    masks_of,
)
from crispmask.shapes import IGNORE

pytest.importorskip("diffusers")


def samples() -> list[Sample]:
    """Blocks of classes with holes, on sides that are no multiples of anything."""
    rng = torch.Generator().manual_seed(0)
    out = []
    for i, size in enumerate(((21, 30), (24, 17))):
        mask = torch.randint(5, (6, 8), generator=rng).repeat_interleave(4, 0)
        mask = mask.repeat_interleave(4, 1)[: size[0], : size[1]].clone()
        mask[3:9, 5:9] = IGNORE
        image = torch.rand(3, *size, generator=rng) * 0.5
        out.append(Sample(image, mask, str(i)))
    return out


@pytest.mark.parametrize(
    "codec",
    [BinaryCodec(), OverlayCodec(), PaletteCodec(), BitCodec()],
    ids=lambda codec: type(codec).__name__,
)
def test_pictures_lose_nothing(codec: MaskImageCodec) -> None:
    got = codec_ceiling(samples(), 5, codec)
    assert got.miou == 1
    assert got.boundary_f == 1


def test_resizing_loses_what_it_cannot_hold() -> None:
    fine = codec_ceiling(samples(), 5, ResizeCodec(stride=1))
    coarse = codec_ceiling(samples(), 5, ResizeCodec(stride=8))
    assert fine.miou == 1
    assert 0.1 < coarse.miou < 0.9
    assert coarse.boundary_f < 1


def test_pictures_that_are_alike_go_through_the_vae_once_and_come_back_in_place() -> None:
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    vae = LatentCodec(AutoencoderTiny(num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4))
    codec, sample = BinaryCodec(), samples()[1]  # 24 x 17, padded to 24 x 24
    got = codec_ceiling([sample], 5, codec, latents=vae)
    mask = torch.cat([fill_unknown(sample.mask[None]), torch.zeros(1, 24, 7).long()], 2)
    mask[..., 17:] = mask[..., 16:17]
    pictures = codec.encode(masks_of(mask, 5), torch.zeros(1, 3, 24, 24))
    decoded = torch.stack([vae.decode(vae.encode(one[None]))[0] for one in pictures[0]])
    pred = codec.decode_logits(decoded[None], torch.zeros(1, 3, 24, 24), 5).argmax(1)[0, :, :17]
    known = sample.mask != IGNORE
    for k, iou in enumerate(got.iou):
        said, true = (pred == k) & known, sample.mask == k
        want = (said & true).sum() / (said | true).sum()
        assert iou == pytest.approx(want.item(), nan_ok=True)


def test_taef2_is_read_as_it_was_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = shared_data()
    if shared is None or not (shared / "taef2").is_dir():
        pytest.skip("taef2/ is not in the shared data")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    from taef2 import load_taef2

    codec = LatentCodec(load_taef2(shared / "taef2"))
    assert (codec.channels, codec.stride) == (32, 8)
    image = 2 * earth("val")[0].image[None, :, :64, :64] - 1
    error = (codec.decode(codec.encode(image)).clamp(-1, 1) - image).square().mean()
    assert error < 4 * 10**-2.6  # 26 dB; other groups in its norms give less
