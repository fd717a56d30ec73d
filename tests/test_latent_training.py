"""A small VAE is trained on crops and on masks, rescaled, and resumed exactly."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("diffusers")

from diffusers import AutoencoderTiny

from crispmask.cli import main
from crispmask.data.source import open_split
from crispmask.data.transforms import AugmentConfig
from crispmask.evaluate.codec_ceiling import codec_ceiling
from crispmask.models.latents import LatentCodec
from crispmask.models.mask_images import BinaryCodec
from crispmask.shapes import IGNORE
from crispmask.train import LatentVaeConfig, latents, train
from crispmask.train.batches import Batch, Stored, draw
from crispmask.train.latents import LatentVaeObjective, new_vae, sized, some_as_masks
from tiny_latents import loop, shapes, write_shapes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"))


def config(data: Path, **changes: Any) -> LatentVaeConfig:
    return LatentVaeConfig(
        data=str(data),
        loop=loop(**changes),
        augment=AugmentConfig(crop=(16, 16), scale=(1.0, 1.2), hue=0.0),
        width=16,
        blocks=(0, 1),
    )


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = config(
        data, steps=100, batch_size=8, learning_rate=1e-2, weight_decay=0.0, ema_decay=0.9
    )
    return train(settings, tmp_path_factory.mktemp("runs") / "vae")


def test_a_vae_learns_images_and_masks(data: Path, trained: Path) -> None:
    lines = (trained / "log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    record = json.loads((trained / "run.json").read_text())
    assert record["settings"]["kind"] == "LatentVaeConfig"
    assert (record["train_images"], record["val_images"]) == (8, 4)
    card = (trained / "README.md").read_text()
    for name in ("scaling_factor", "val_psnr", "val_mask_miou", "val_mask_mbiou_2px"):
        assert f"| {name} | {record[name]:.4f} |" in card
    codec = LatentCodec(AutoencoderTiny.from_pretrained(trained / "vae"))
    val_set = open_split(str(data), "val")
    samples = [val_set[i] for i in range(4)]
    images = 2 * torch.stack([sample.image for sample in samples]) - 1
    back = codec.decode(codec.encode(images)).clamp(-1, 1)
    psnr = 10 * torch.log10(4 / (back - images).square().mean()).item()
    assert record["val_psnr"] == pytest.approx(psnr, abs=1e-3)
    assert psnr > 12
    kept = codec_ceiling(samples, 3, BinaryCodec(), latents=codec)
    assert record["val_mask_miou"] == pytest.approx(kept.miou, abs=1e-4)
    assert kept.miou > 0.75


def test_latents_have_unit_variance(data: Path, trained: Path) -> None:
    codec = LatentCodec(AutoencoderTiny.from_pretrained(trained / "vae"))
    assert codec.scale == json.loads((trained / "run.json").read_text())["scaling_factor"]
    assert abs(codec.scale - 1) > 0.01
    train_set = open_split(str(data), "train")
    images = torch.stack([train_set[i].image for i in range(len(train_set))])
    assert codec.encode(2 * images - 1).std().item() == pytest.approx(1, abs=1e-3)


def test_a_resumed_run_is_the_same(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(data, steps=5, save_every=2)
    straight = train(settings, tmp_path / "straight")
    count = 0

    def stopped(*args: Any, **options: Any) -> Batch:
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        return draw(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(latents, "draw", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(settings, tmp_path / "resumed")
    resumed = train(settings, tmp_path / "resumed", resume=True)
    for name in ("vae/diffusion_pytorch_model.safetensors", "checkpoint/state.safetensors"):
        ours, theirs = load_file(straight / name), load_file(resumed / name)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    for name in ("log.jsonl", "vae/config.json"):
        assert (straight / name).read_text() == (resumed / name).read_text()


def batch() -> Batch:
    masks = shapes(40, seed=0)
    masks[:, 0] = IGNORE
    every = torch.ones(40, dtype=torch.bool)
    return Batch(images=torch.rand(40, 3, 16, 16), masks=masks, labelled=every)


def test_a_share_of_the_crops_is_shown_as_masks() -> None:
    crops = batch()
    pictures = some_as_masks(crops, 0.75, torch.Generator().manual_seed(0))
    assert torch.equal(pictures[30:], 2 * crops.images[30:] - 1)
    black = 0
    for picture, mask in zip(pictures[:30], crops.masks[:30], strict=True):
        wanted = [torch.zeros(16, 16).bool(), *(mask == i for i in torch.unique(mask)[:-1])]
        assert any(torch.equal(picture, (2.0 * m - 1).expand(3, -1, -1)) for m in wanted)
        black += int((picture == -1).all())
    assert 4 <= black <= 16  # a third
    assert torch.equal(some_as_masks(crops, 0.0, torch.Generator()), 2 * crops.images - 1)


def test_the_loss_is_what_it_says(data: Path) -> None:
    torch.manual_seed(0)
    settings = LatentVaeConfig(
        data="",
        loop=loop(),
        augment=AugmentConfig(crop=(16, 16)),
        width=8,
        blocks=(0, 1),
        mask_share=0.0,
        l1_weight=2.0,
        noise=0.3,
        latent_weight=0.5,
    )
    model: Any = new_vae(settings)
    crops = batch()
    got = LatentVaeObjective(model, settings)(crops, 0.0, torch.Generator().manual_seed(1))
    x = 2 * crops.images - 1
    z = model.encoder(x)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    error = model.decoder(z + 0.3 * noise) - x
    squares = error.square().mean() + 0.5 * z.square().mean()
    torch.testing.assert_close(got, squares + 2 * error.abs().mean())


def test_images_and_masks_at_a_short_side() -> None:
    item = Stored(torch.zeros(3, 32, 48).byte(), torch.ones(32, 48).byte())
    assert [tuple(x.shape) for x in sized(item, 16)] == [(1, 3, 16, 24), (1, 16, 24)]
    assert [tuple(x.shape) for x in sized(item, 0)] == [(1, 3, 32, 48), (1, 32, 48)]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"blocks": (1,)}, "at least two levels"),
        ({"blocks": (0, 1, 1), "augment": AugmentConfig(crop=(18, 16))}, "multiples of 4, got 18"),
        ({"width": 0}, "width must be at least 1"),
        ({"mask_share": 1.5}, "mask_share must lie"),
        ({"noise": -1.0}, "noise must be at least 0"),
        ({"channels": 0}, "channels must be at least 1"),
    ],
)
def test_configs_that_cannot_be(changes: dict[str, Any], match: str) -> None:
    fields: dict[str, Any] = {"data": "", "loop": loop(), "augment": AugmentConfig(crop=(16, 16))}
    with pytest.raises(ValueError, match=match):
        LatentVaeConfig(**(fields | changes))


def test_the_command_trains_a_vae(data: Path, tmp_path: Path) -> None:
    command = (
        f"train latent-camvid-vae --data {data} --output {tmp_path / 'vae'} --width 8 --blocks 0 1 "
    )
    command += "--loop.steps 1 --loop.batch-size 2 --augment.crop 16 16 --augment.short-side 16"
    assert main(command.split()) == 0
    assert AutoencoderTiny.from_pretrained(tmp_path / "vae" / "vae").config.latent_channels == 8
