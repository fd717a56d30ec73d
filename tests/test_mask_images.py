"""Masks as pictures: nothing is lost without a VAE, nor to moderate noise; void does not bleed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crispmask.errors import InputError
from crispmask.models.mask_images import (
    PALETTE,
    BinaryCodec,
    BitCodec,
    MaskImageCodec,
    OverlayCodec,
    PaletteCodec,
    ResizeCodec,
    fill_unknown,
    known_latents,
    masks_of,
)
from crispmask.shapes import IGNORE

FULL_SIZE: list[MaskImageCodec] = [BinaryCodec(), OverlayCodec(), PaletteCodec(), BitCodec()]


def name(codec: object) -> str:
    return type(codec).__name__


def draw(seed: int, queries: int, size: tuple[int, int] = (6, 10)) -> torch.Tensor:
    return torch.randint(queries, (2, *size), generator=torch.Generator().manual_seed(seed))


def image_like(mask: torch.Tensor, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(len(mask), 3, *mask.shape[1:], generator=rng) * 0.5  # no paint in it


@pytest.mark.parametrize("codec", FULL_SIZE, ids=name)
@pytest.mark.parametrize("queries", [1, 2, 7, 16])
def test_nothing_is_lost_without_a_vae(codec: MaskImageCodec, queries: int) -> None:
    mask = draw(queries, queries)
    image = image_like(mask)
    pictures = codec.encode(masks_of(mask, queries), image)
    assert pictures.shape == (2, codec.num_passes(queries), 3, 6, 10)
    assert -1 <= pictures.min() <= pictures.max() <= 1
    logits = codec.decode_logits(pictures, image, queries)
    assert logits.shape == (2, queries, 6, 10)
    assert torch.equal(logits.argmax(1), mask)


@pytest.mark.parametrize("codec", [BinaryCodec(), OverlayCodec()], ids=name)
def test_single_masks_may_overlap_or_be_empty(codec: MaskImageCodec) -> None:
    masks = torch.rand(2, 3, 6, 10, generator=torch.Generator().manual_seed(0)) < 0.5
    masks[:, 1] = False
    image = image_like(masks[:, 0])
    logits = codec.decode_logits(codec.encode(masks, image), image, 3)
    assert torch.equal(logits > 0, masks)


@pytest.mark.parametrize("codec", [PaletteCodec(), BitCodec()], ids=name)
def test_closed_sets_refuse_masks_that_overlap(codec: MaskImageCodec) -> None:
    masks = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
    with pytest.raises(InputError, match="exactly one query"):
        codec.encode(masks, torch.zeros(1, 3, 4, 4))


MARGINS = (  # how far each channel may be off without a pixel being misread
    (BinaryCodec(), 9, 0.99),
    (OverlayCodec(), 9, 0.3),  # paint and plain differ by 0.7 or more in two channels
    (PaletteCodec(), 8, 0.99),
    (PaletteCodec(), 16, 0.49),  # half the least distance
    (BitCodec(), 100, 0.99),
)


@pytest.mark.parametrize(("codec", "queries", "margin"), MARGINS)
@given(seed=st.integers(0, 2**32), share=st.floats(0, 1))
@settings(max_examples=25)
def test_errors_below_the_margin_change_no_label(
    codec: MaskImageCodec, queries: int, margin: float, seed: int, share: float
) -> None:
    mask = draw(seed, queries)
    image = image_like(mask, seed)
    pictures = codec.encode(masks_of(mask, queries), image)
    rng = torch.Generator().manual_seed(seed + 1)
    error = (2 * torch.rand(pictures.shape, generator=rng) - 1) * margin * share
    logits = codec.decode_logits(pictures + error, image, queries)
    if isinstance(codec, BinaryCodec | OverlayCodec):
        assert torch.equal(logits > 0, masks_of(mask, queries))
    else:
        assert torch.equal(logits.argmax(1), mask)


def test_binary_logits_are_kappa_times_the_mean() -> None:
    pictures = torch.randn(2, 4, 3, 5, 5)
    logits = BinaryCodec(kappa=3).decode_logits(pictures, torch.rand(2, 3, 5, 5), 4)
    torch.testing.assert_close(logits, pictures.sum(2))


def test_logits_are_gaussian_log_likelihoods() -> None:
    codec, picture = PaletteCodec(kappa=2 / 0.3**2), torch.randn(1, 1, 3, 4, 4).double()
    logits = codec.decode_logits(picture, torch.rand(1, 3, 4, 4).double(), 16)
    normal = torch.distributions.Normal(torch.tensor(PALETTE).double().T.view(1, 3, 16, 1, 1), 0.3)
    want = normal.log_prob(picture[:, 0, :, None]).sum(1)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(logits.log_softmax(1), want.log_softmax(1))


def test_colours_are_far_apart() -> None:
    colours = torch.tensor(PALETTE)
    apart = torch.pdist(colours)
    assert len(colours) == 16
    assert apart.min() == 1
    assert torch.pdist(colours[:8]).min() == 2
    assert colours.abs().max() == 1


def test_more_queries_than_colours() -> None:
    with pytest.raises(InputError, match="16 queries, got 17"):
        PaletteCodec().num_passes(17)


@pytest.mark.parametrize(
    ("queries", "passes"), [(1, 1), (2, 1), (8, 1), (9, 2), (64, 2), (65, 3), (150, 3), (847, 4)]
)
def test_passes_of_bits(queries: int, passes: int) -> None:
    assert BitCodec().num_passes(queries) == passes


def test_resizing_keeps_what_fills_a_latent() -> None:
    codec = ResizeCodec(stride=4, channels=5)
    coarse = draw(0, 3, (4, 6))
    mask = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2)
    image = image_like(mask)
    latents = codec.encode(masks_of(mask, 3), image)
    assert latents.shape == (2, 3, 5, 4, 6)
    assert torch.equal(latents[:, :, 0] > 0, masks_of(coarse, 3))
    assert torch.equal(latents.abs(), torch.ones_like(latents))
    logits = codec.decode_logits(latents, image, 3)
    centres = logits[..., 1::4, 1::4]
    assert torch.equal(centres.argmax(1), coarse)
    half = torch.zeros(1, 8, 8, dtype=torch.long)
    half[:, :, 2:] = 1
    grey = codec.encode(masks_of(half, 2), image_like(half))
    torch.testing.assert_close(grey[0, 1, 0], torch.tensor([[0.0, 1.0], [0.0, 1.0]]))


def test_resizing_needs_whole_blocks() -> None:
    with pytest.raises(InputError, match="multiples of 8, got 12x16"):
        ResizeCodec().encode(torch.zeros(1, 1, 12, 16, dtype=torch.bool), torch.zeros(1, 3, 12, 16))


def test_opacity_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="opacity"):
        OverlayCodec(opacity=0)


@given(st.integers(0, 2**32), st.floats(0.1, 0.9))
@settings(max_examples=20)
def test_unknown_pixels_take_the_nearest_known_label(seed: int, share: float) -> None:
    mask = draw(seed, 4, (7, 9))
    rng = torch.Generator().manual_seed(seed)
    mask = mask.where(torch.rand(mask.shape, generator=rng) > share, IGNORE)
    mask[0, 0, 0] = mask[1, 3, 3] = 2
    before = mask.clone()
    filled = fill_unknown(mask)
    assert torch.equal(mask, before)
    known = mask != IGNORE
    assert torch.equal(filled[known], mask[known])
    for b, y, x in (~known).nonzero().tolist():
        places = known[b].nonzero()
        far = (places - torch.tensor([y, x])).square().sum(1)
        nearest = {int(mask[b, i, j]) for i, j in places[far == far.min()].tolist()}
        assert int(filled[b, y, x]) in nearest


def test_a_mask_of_which_nothing_is_known() -> None:
    mask = torch.full((1, 8, 8), IGNORE)
    assert torch.equal(fill_unknown(mask), torch.zeros_like(mask))
    assert not known_latents(mask, 4).any()


def test_latents_near_the_unknown_do_not_count() -> None:
    mask = torch.zeros(1, 32, 32, dtype=torch.long)
    assert known_latents(mask, 4).all()
    mask[0, 13, 18] = IGNORE  # block 3, 4
    want = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    want[0, 0, 3, 4] = False
    assert torch.equal(known_latents(mask, 4, ring=0), want)
    want[0, 0, 2:5, 3:6] = False
    assert torch.equal(known_latents(mask, 4), want)
    with pytest.raises(InputError, match="multiples of 4, got 30x32"):
        known_latents(mask[:, :30], 4)
