"""The mask codec: codes are whole, decoding a code is decoding its latent, and it learns."""

import pytest
import torch

from crispmask.diffusion.losses import cross_entropy
from crispmask.nn.mask_codec import MaskCodec, MaskCodecConfig
from crispmask.shapes import IGNORE


def codec(**changes: object) -> MaskCodec:
    torch.manual_seed(0)
    return MaskCodec(MaskCodecConfig(num_classes=4, **{"width": 8, **changes}))  # type: ignore[arg-type]


def blobs(count: int = 4, size: int = 32) -> torch.Tensor:
    noise = torch.randn(count, 4, size // 8, size // 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(noise, size=(size, size), mode="bilinear")
    return smooth.argmax(1)


@pytest.mark.parametrize(("levels", "stride"), [((5, 5, 5), 4), ((3, 7), 2)])
def test_codes_decode_to_the_latent_they_stand_for(levels: tuple[int, ...], stride: int) -> None:
    model = codec(levels=levels, stride=stride)
    for part in model.encoder:
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.normal_(part.weight, std=0.5)
    mask = blobs()
    mask[0, :8] = IGNORE
    codes = model.encode(mask)
    assert codes.shape == (4, 32 // stride, 32 // stride)
    assert 0 <= codes.min() <= codes.max() < model.config.num_codes
    assert len(set(codes.flatten().tolist())) > 5
    torch.testing.assert_close(model.table()[codes].movedim(-1, 1), model.latent(mask))
    one_hot = torch.nn.functional.one_hot(codes, model.config.num_codes).movedim(-1, 1).float()
    torch.testing.assert_close(model.decode(one_hot), model(mask))


def test_each_code_has_its_own_latent() -> None:
    table = codec(levels=(3, 5)).table()
    assert table.shape == (15, 2)
    assert len({tuple(row) for row in table.tolist()}) == 15
    assert table.min() == -1
    assert table.max() == 1


def test_a_codec_learns_masks_it_has_not_seen() -> None:
    model = codec()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    masks = blobs(12)
    before = (model(masks[8:]).argmax(1) == masks[8:]).float().mean()
    for _ in range(120):
        loss = cross_entropy(model(masks[:8]), masks[:8])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    after = (model(masks[8:]).argmax(1) == masks[8:]).float().mean()
    assert after > 0.85 > before


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"levels": (4, 5)}, "odd numbers"),
        ({"levels": (7, 7, 7)}, "343 codes"),
        ({"stride": 3}, "power of two"),
    ],
)
def test_codecs_that_cannot_be(changes: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        codec(**changes)


def test_sides_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="multiples of 4, got 30x32"):
        codec().encode(torch.zeros(1, 30, 32, dtype=torch.long))
