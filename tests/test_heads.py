"""Heads on a U-Net's features: scores of words, presence, light masks."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from crispmask.nn.block_features import block_features
from crispmask.nn.heads import AlignHead, AlignHeadConfig, LightDecoder, LightDecoderConfig
from tiny_unets import LAYOUTS, TEXT_WIDTH, tiny_unet

SD_WIDTHS = (320, 640, 1280, 1280)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def features_of(unet: Any, *, batch: int = 2) -> dict[str, Tensor]:
    x, text = torch.randn(batch, 8, 16, 8), torch.randn(batch, 5, TEXT_WIDTH)
    with torch.no_grad(), block_features(unet) as features:
        unet(x, torch.tensor(999), encoder_hidden_states=text)
    return features


def align_head(unet: Any) -> AlignHead:
    widths = tuple(unet.config.block_out_channels)
    head = AlignHead(AlignHeadConfig(block_widths=widths, text_width=12, width=16))
    torch.nn.init.normal_(head.weight)
    return head


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scores_are_weighted_cosines_of_each_level(layout: str) -> None:
    """Fusing levels before the words are known is the same as fusing their scores."""
    unet = tiny_unet(layout)
    features, head, texts = features_of(unet), align_head(unet), torch.randn(5, 12)
    got = head.scores(head.pixels(features), head.words(texts))
    want = head.bias.expand(2, 5, 16, 8)
    for (name, project), weight in zip(head.project.items(), head.weight.softmax(0), strict=True):
        p, u = project(features[name]), head.word(texts)
        cosine = torch.stack([F.cosine_similarity(p, v[None, :, None, None]) for v in u], 1)
        want = want + 10 * weight * F.interpolate(cosine, size=(16, 8), mode="bilinear")
    torch.testing.assert_close(got, want)


def test_levels_are_those_up_to_a_quarter_of_the_latent() -> None:
    with torch.device("meta"):
        head = AlignHead(AlignHeadConfig(block_widths=SD_WIDTHS, text_width=768))
        deep = AlignHead(AlignHeadConfig(block_widths=(8,) * 6, text_width=8))
    assert list(head.project) == ["up_0", "up_1", "up_2", "up_3"]
    assert list(deep.project) == ["up_2", "up_3", "up_4", "up_5"]
    assert sum(p.numel() for p in head.parameters()) < 2e6


@torch.no_grad()
def test_pooling_lies_between_mean_and_maximum_and_finds_a_small_thing() -> None:
    head = AlignHead(AlignHeadConfig(block_widths=(8,), text_width=4))
    scores = torch.full((1, 2, 32, 32), -8.0)
    scores[0, 1, :4, :8] = 6.0  # 3 % of the image
    pooled = head.presence(scores)[0]
    assert pooled[0] == pytest.approx(-8, abs=1e-3)
    assert pooled[1] == pytest.approx(6 + math.log(32 / 1024) / 5, abs=1e-3)
    wild = torch.randn(3, 4, 6, 5) * 9
    pooled = head.presence(wild)
    assert (pooled <= wild.amax((2, 3)) + 1e-5).all()
    assert (pooled >= wild.mean((2, 3))).all()
    want = (5 * wild.double()).exp().mean((2, 3)).log() / 5
    torch.testing.assert_close(pooled.double(), want, rtol=1e-4, atol=1e-4)


def test_ranking_in_chunks_is_ranking_at_once() -> None:
    unet = tiny_unet("SD 1")
    head = align_head(unet)
    pixels, words = head.pixels(features_of(unet)), head.words(torch.randn(70, 12))
    at_once = head.presence(head.scores(pixels, words))
    for chunk in (1, 32, 100):
        torch.testing.assert_close(head.rank(pixels, words, chunk=chunk), at_once)


def test_ranking_holds_score_maps_of_one_chunk_only(monkeypatch: pytest.MonkeyPatch) -> None:
    head = AlignHead(AlignHeadConfig(block_widths=(8,), text_width=4, width=16))
    pixels = torch.randn(1, 16, 8, 8)
    counts: list[int] = []
    scores = head.scores

    def counted(p: Tensor, w: Tensor) -> Tensor:
        counts.append(len(w))
        return scores(p, w)

    monkeypatch.setattr(head, "scores", counted)
    assert head.rank(pixels, head.words(torch.randn(1000, 4)), chunk=64).shape == (1, 1000)
    assert max(counts) == 64
    assert len(counts) == 16


def test_the_align_head_learns_what_a_word_means() -> None:
    """Two directions of the features, two words, one of them absent in half of the images."""
    head = AlignHead(AlignHeadConfig(block_widths=(6,), text_width=4, width=8))
    texts, colours = torch.eye(4)[:2], torch.randn(2, 6)
    step = torch.optim.Adam(head.parameters(), lr=0.05)
    for i in range(150):
        mask = torch.zeros(2, 2, 8, 8)  # b k h w
        mask[0, 0, :4], mask[0, 1, 4:], mask[1, i % 2] = 1, 1, 1
        x = torch.einsum("bkhw,kc->bchw", mask, colours) + 0.1 * torch.randn(2, 6, 8, 8)
        scores = head.scores(head.pixels({"up_0": x}), head.words(texts))
        present = mask.amax((2, 3))
        bce = F.binary_cross_entropy_with_logits
        loss = bce(scores, mask) + bce(head.presence(scores), present)
        step.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        step.step()
    assert ((scores > 0) == (mask > 0)).float().mean() > 0.99
    assert torch.equal(head.presence(scores) > 0, present > 0)


def test_every_parameter_of_the_align_head_has_a_gradient() -> None:
    unet = tiny_unet("SD 2")
    head = align_head(unet)
    pixels = head.pixels(features_of(unet))
    head.rank(pixels, head.words(torch.randn(3, 12))).square().sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


# light decoder


@pytest.mark.parametrize(("factor", "width"), [(2, 8), (4, 16), (8, 64)])
def test_the_light_decoder_answers_at_the_images_size(factor: int, width: int) -> None:
    config = LightDecoderConfig(latent_channels=4, feature_channels=8, factor=factor, width=width)
    decoder = LightDecoder(config)
    z_0, features = torch.randn(3, 4, 6, 5), torch.randn(3, 8, 6, 5)
    image = torch.rand(3, 3, 6 * factor, 5 * factor)
    logits = decoder(z_0, features, image)
    assert logits.shape == (3, 1, 6 * factor, 5 * factor)
    alone = decoder(z_0[1:2], features[1:2], image[1:2])
    torch.testing.assert_close(logits[1:2], alone, rtol=1e-4, atol=1e-5)
    logits.square().mean().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
    with pytest.raises(ValueError, match=f"so {6 * factor}x{5 * factor}, got"):
        decoder(z_0, features, image[..., 2:])


@pytest.mark.parametrize("source", ["latent", "features", "image"])
def test_the_light_decoder_uses_all_that_it_is_given(source: str) -> None:
    decoder = LightDecoder(LightDecoderConfig(latent_channels=4, feature_channels=8, width=16))
    inputs = {
        "latent": torch.randn(1, 4, 3, 3),
        "features": torch.randn(1, 8, 3, 3),
        "image": torch.rand(1, 3, 24, 24),
    }
    with torch.no_grad():
        first = decoder(*inputs.values())
        inputs[source] = inputs[source].flip(-1)
        second = decoder(*inputs.values())
    assert not torch.allclose(first, second, atol=1e-4)


def test_the_light_decoder_can_follow_single_pixels_of_the_image() -> None:
    """A checkerboard of pixels, which no latent and no map at half the size can hold."""
    decoder = LightDecoder(LightDecoderConfig(latent_channels=2, feature_channels=4, width=8))
    image = torch.rand(2, 3, 16, 16)
    mask = (image[:, :1] > 0.5).float()
    z_0, features = torch.zeros(2, 2, 2, 2), torch.zeros(2, 4, 2, 2)
    step = torch.optim.Adam(decoder.parameters(), lr=0.02)
    for _ in range(150):
        logits = decoder(z_0, features, image)
        loss = F.binary_cross_entropy_with_logits(logits, mask)
        step.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        step.step()
    assert ((logits > 0) == (mask > 0)).float().mean() > 0.97


def flops(module: Any, *inputs: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    return int(counter.get_total_flops())


def test_the_light_decoder_is_far_cheaper_than_that_of_stable_diffusion() -> None:
    import diffusers

    autoencoder: Any = diffusers.AutoencoderKL
    with torch.device("meta"):
        decoder = LightDecoder(LightDecoderConfig(latent_channels=4, feature_channels=320))
        vae = autoencoder(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
        ).eval()
        z_0, image = torch.empty(1, 4, 64, 64), torch.empty(1, 3, 512, 512)
        light = flops(decoder, z_0, torch.empty(1, 320, 64, 64), image)
        full = flops(vae.decode, z_0)
    assert 0.3e6 < sum(p.numel() for p in decoder.parameters()) < 1e6
    assert full == pytest.approx(2.51e12, rel=0.02)
    assert light * 10 < full
    assert light < 0.03e12


def test_configurations_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="power of two from 2, got 6"):
        LightDecoderConfig(latent_channels=4, feature_channels=8, factor=6)
    with pytest.raises(ValueError, match="power of two from 8, got 24"):
        LightDecoderConfig(latent_channels=4, feature_channels=8, width=24)
    with pytest.raises(ValueError, match="channels must be positive"):
        LightDecoderConfig(latent_channels=0, feature_channels=8)
    with pytest.raises(ValueError, match="sharpness must be positive, got 0"):
        AlignHeadConfig(block_widths=(8,), text_width=4, sharpness=0)
    with pytest.raises(ValueError, match="widths must be positive"):
        AlignHeadConfig(block_widths=(), text_width=4)
