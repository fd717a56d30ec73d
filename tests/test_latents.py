"""Latents are those of the VAE, deterministic and frozen; the cache gives back the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("diffusers")

from diffusers import AutoencoderKL, AutoencoderTiny

from crispmask.errors import InputError
from crispmask.models.latents import LatentCache, LatentCodec


def kl(**changes: Any) -> AutoencoderKL:
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "norm_num_groups": 4,
        "sample_size": 16,
        **changes,
    }
    return AutoencoderKL(**options)


def tiny(**changes: Any) -> AutoencoderTiny:
    torch.manual_seed(0)
    widths: dict[str, Any] = {
        "encoder_block_out_channels": (8, 8),
        "decoder_block_out_channels": (8, 8),
        "num_encoder_blocks": (1, 1),
        "num_decoder_blocks": (1, 1),
    }
    return AutoencoderTiny(**widths, **changes)


def pictures(count: int = 3, size: tuple[int, int] = (16, 24)) -> torch.Tensor:
    return 2 * torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(0)) - 1


def test_latents_are_the_scaled_and_shifted_mode() -> None:
    vae = kl(scaling_factor=0.3, shift_factor=0.1)
    codec, x = LatentCodec(vae), pictures()
    assert (codec.channels, codec.stride) == (4, 4)
    latents = codec.encode(x)
    assert latents.shape == (3, 4, 4, 6)
    torch.testing.assert_close(latents, 0.3 * (vae.encode(x).latent_dist.mean - 0.1))
    torch.testing.assert_close(codec.decode(latents), vae.decode(latents / 0.3 + 0.1).sample)


def test_a_tiny_autoencoder_has_no_posterior() -> None:
    vae = tiny(latent_channels=6)
    codec, x = LatentCodec(vae), pictures()
    assert (codec.channels, codec.stride) == (6, 2)
    latents = codec.encode(x)
    torch.testing.assert_close(latents, vae.encode(x).latents)
    torch.testing.assert_close(codec.decode(latents), vae.decode(latents).sample)


@pytest.mark.parametrize("make", [kl, tiny])
def test_a_batch_is_the_same_in_slices_and_one_by_one(make: Callable[[], nn.Module]) -> None:
    whole, sliced, x = LatentCodec(make()), LatentCodec(make(), slice_size=2), pictures()
    torch.testing.assert_close(sliced.encode(x), whole.encode(x))
    torch.testing.assert_close(sliced.encode(x[1:2]), whole.encode(x)[1:2])
    torch.testing.assert_close(sliced.decode(whole.encode(x)), whole.decode(whole.encode(x)))


def test_sides_are_padded_by_repetition_and_cut_again() -> None:
    codec, x = LatentCodec(kl()), pictures(size=(13, 18))
    padded = nn.functional.pad(x, (0, 2, 0, 3), mode="replicate")
    latents = codec.encode(x)
    torch.testing.assert_close(latents, codec.encode(padded))
    assert codec.decode(latents, (13, 18)).shape == x.shape


def test_nothing_is_trained_but_gradients_reach_the_latents() -> None:
    codec = LatentCodec(kl().train())
    codec.train()
    assert not any(module.training for module in codec.modules())
    assert not any(parameter.requires_grad for parameter in codec.parameters())
    latents = codec.encode(pictures().requires_grad_())
    assert not latents.requires_grad
    latents.requires_grad_()
    codec.decode(latents).sum().backward()  # type: ignore[no-untyped-call]
    assert latents.grad is not None
    assert latents.grad.abs().sum() > 0


def test_half_precision_inside_and_the_callers_outside() -> None:
    codec = LatentCodec(kl().bfloat16())
    assert codec.encode(pictures()).dtype == torch.float32


@pytest.mark.parametrize(
    ("vae", "match"),
    [
        (nn.Linear(2, 2), "got a Linear"),
        (kl(latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4), "latents_mean"),
    ],
)
def test_what_is_no_vae_of_this_kind(vae: nn.Module, match: str) -> None:
    with pytest.raises(InputError, match=match):
        LatentCodec(vae)


def test_the_hash_changes_with_weights_and_factors_only() -> None:
    assert LatentCodec(kl()).fingerprint() == LatentCodec(kl()).fingerprint()
    changed = kl()
    with torch.no_grad():
        changed.encoder.conv_in.bias[0] += 1e-3
    others = [changed, kl(scaling_factor=0.2), kl(shift_factor=0.1), tiny()]
    hashes = {LatentCodec(vae).fingerprint() for vae in [kl(), *others]}
    assert len(hashes) == 5


class Counting(LatentCodec):
    """Counts the pictures that are encoded."""

    count = 0

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        self.count += len(pictures)
        return super().encode(pictures)


def test_latents_are_computed_once(tmp_path: Path) -> None:
    codec, x = Counting(kl()), pictures()
    cache = LatentCache(codec, tmp_path)
    want = LatentCodec(kl()).encode(x)
    torch.testing.assert_close(cache(x[:2]), want[:2])
    assert codec.count == 2
    torch.testing.assert_close(cache(x), want)
    assert codec.count == 3
    again = LatentCache(codec, tmp_path)
    assert torch.equal(again(x.flip(0)), cache(x).flip(0))
    assert codec.count == 3
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 3  # no temporary file is left


def test_another_vae_or_picture_is_not_served_from_the_cache(tmp_path: Path) -> None:
    x = pictures()
    cache = LatentCache(LatentCodec(kl()), tmp_path)
    cache(x)
    changed = x.clone()
    changed[0, 0, 0, 0] += 0.1
    assert cache.path(changed[0]) != cache.path(x[0])
    assert cache.path(x[0]) != cache.path(x[0].transpose(1, 2))
    other = LatentCodec(kl(scaling_factor=1.0))
    torch.testing.assert_close(LatentCache(other, tmp_path)(x), other.encode(x))


@pytest.mark.parametrize("content", [b"", b"no tensors here"])
def test_a_damaged_file_is_written_again(tmp_path: Path, content: bytes) -> None:
    x = pictures(1)
    cache = LatentCache(LatentCodec(kl()), tmp_path)
    want = cache(x)
    cache.path(x[0]).write_bytes(content)
    torch.testing.assert_close(cache(x), want)
    assert cache.path(x[0]).stat().st_size > 100
