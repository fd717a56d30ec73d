"""A small U-Net learns to draw latents from captions, and becomes a backbone."""

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusers import AutoencoderTiny, UNet2DConditionModel

from backbone_layouts import write_backbone
from crispmask.cli import main
from crispmask.data.sample import write_mask
from crispmask.data.transforms import AugmentConfig
from crispmask.diffusion.gaussian import check_scheduler, mask_scheduler
from crispmask.errors import InputError
from crispmask.models.backbone import load_backbone, load_text_to_image
from crispmask.models.latents import LatentCodec
from crispmask.models.text_states import MINILM, QueryEncoder
from crispmask.models.text_to_image import captioned, generate
from crispmask.shapes import IGNORE
from crispmask.train import GeneratorConfig, LatentVaeConfig, generator, train
from crispmask.train.captioned import CaptionBatch, CaptionedCrops, draw_captioned
from crispmask.train.generator import SCHEDULE, GeneratorObjective, generator_scores, v_errors
from tiny_latents import TEXT_WIDTH, loop, write_minilm, write_shapes

CROP = AugmentConfig(
    crop=(16, 16), scale=(1.0, 1.2), brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0
)


UNET = Path("unet", "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module", autouse=True)
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package of MiniLM, tiny."""
    folder = write_minilm(tmp_path_factory.mktemp("packages"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.delitem(sys.modules, MINILM, raising=False)
        yield folder / MINILM


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def vae(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = LatentVaeConfig(
        data=str(data),
        loop=loop(steps=5, learning_rate=1e-2),
        augment=CROP,
        width=8,
        blocks=(0, 1),
    )
    return train(config, tmp_path_factory.mktemp("runs") / "vae")


def config(data: Path, vae: Path, **changes: Any) -> GeneratorConfig:
    return GeneratorConfig(
        data=str(data),
        vae=str(vae),
        loop=loop(**changes),
        augment=CROP,
        crops=4,
        widths=(8, 16),
        heads=2,
    )


@pytest.fixture(scope="module")
def trained(data: Path, vae: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = config(data, vae, steps=60, batch_size=8, learning_rate=1e-2, ema_decay=0.9)
    return train(settings, tmp_path_factory.mktemp("runs") / "generator")


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# the run


def test_a_run_learns_and_leaves_its_record(trained: Path) -> None:
    lines = (trained / "log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    record = json.loads((trained / "run.json").read_text())
    assert record["settings"]["kind"] == "GeneratorConfig"
    assert (record["train_images"], record["train_crops"], record["val_crops"]) == (8, 32, 4)
    assert 4 < record["train_captions"] <= 32
    assert 0 < record["val_v_loss"] < 1
    gain = record["val_v_loss_other_caption"] - record["val_v_loss"]
    assert record["caption_gain"] == pytest.approx(gain)
    assert "pipeline_tag: text-to-image" in (trained / "README.md").read_text()
    assert f"| caption_gain | {record['caption_gain']:.4f} |" in (trained / "README.md").read_text()


def test_latents_of_a_data_set_are_kept_on_disk(
    data: Path, vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = config(data, vae, steps=3)
    cached = replace(plain, cache=str(tmp_path / "cache"))
    first = train(cached, tmp_path / "first")
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 8 * 4 + 4
    want = load_file(train(plain, tmp_path / "plain") / UNET)
    torch.testing.assert_close(load_file(first / UNET), want)
    monkeypatch.delattr(LatentCodec, "_encode")  # nothing is encoded again
    again = load_file(train(cached, tmp_path / "again") / UNET)
    torch.testing.assert_close(again, load_file(first / UNET), rtol=0, atol=0)


def test_a_resumed_run_is_the_same(
    data: Path, vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(data, vae, steps=5, save_every=2)
    straight = train(settings, tmp_path / "straight")
    count = 0

    def stopped(*args: Any, **options: Any) -> CaptionBatch:
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        return draw_captioned(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(generator, "draw_captioned", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(settings, tmp_path / "resumed")
    resumed = train(settings, tmp_path / "resumed", resume=True)
    for name in ("unet/diffusion_pytorch_model.safetensors", "checkpoint/state.safetensors"):
        ours, theirs = load_file(straight / name), load_file(resumed / name)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert (straight / "log.jsonl").read_text() == (resumed / "log.jsonl").read_text()


def test_the_command_takes_the_vae(data: Path, vae: Path, tmp_path: Path) -> None:
    command = f"train latent-earth-pretrain --data {data} --vae {vae} --output {tmp_path / 'run'} "
    command += "--widths 8 16 --heads 2 --crops 1 --augment.crop 16 16 --loop.steps 1"
    assert main(command.split()) == 0
    assert load_text_to_image(tmp_path / "run").channels == 4


# its folder as a backbone


def test_the_folder_is_a_backbone(trained: Path, vae: Path) -> None:
    index = json.loads((trained / "model_index.json").read_text())
    assert index["text_encoder"] == ["crispmask", "minilm"]
    assert not (trained / "text_encoder").exists()
    parts = load_backbone(trained, init="half")
    check_scheduler(parts.scheduler)
    assert parts.trained_prediction == "v_prediction"
    assert (parts.words.width, parts.words.reads_padding) == (TEXT_WIDTH, False)
    assert equal(parts.vae, AutoencoderTiny.from_pretrained(vae / "vae"))
    network: Any = parts.unet
    plain = UNet2DConditionModel.from_pretrained(trained / "unet")
    assert (plain.config.in_channels, network.config.in_channels) == (4, 8)
    wide, old = network.state_dict(), plain.state_dict()
    assert torch.equal(wide["conv_in.weight"][:, 4:], old["conv_in.weight"] / 2)
    assert all(torch.equal(wide[k], old[k]) for k in old if k != "conv_in.weight")


def test_shapes_need_no_weights(trained: Path, minilm: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "copy"))
    for path in folder.rglob("*.safetensors"):
        path.unlink()
    kept = minilm / "model" / "model.safetensors"
    away = kept.rename(tmp_path / "away")
    try:
        parts = load_backbone(folder, weights=False)
    finally:
        away.rename(kept)
    for part in (parts.unet, parts.vae, parts.words.encoder):
        assert all(weight.is_meta for weight in part.parameters())


def test_words_of_another_width(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "copy"))
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cross_attention_dim": 24}))
    with pytest.raises(InputError, match=f"text of width 24, its text encoder gives {TEXT_WIDTH}"):
        load_backbone(folder)


def test_minilm_must_be_installed(
    trained: Path, minilm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [p for p in sys.path if not (Path(p) / MINILM).is_dir()]
    monkeypatch.setattr(sys, "path", others)
    with pytest.raises(InputError, match="MiniLM text encoder is missing"):
        load_backbone(trained)


def test_parts_that_are_missing(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "copy"))
    shutil.rmtree(folder / "vae")
    with pytest.raises(InputError, match=r"needs unet, vae, scheduler, got .* incomplete vae;"):
        load_backbone(folder)


# one step


def crops() -> CaptionedCrops:
    rng = torch.Generator().manual_seed(0)
    captions = ("picture of disc", "photo of box and ground", "image of some ground", "a disc")
    return CaptionedCrops(torch.randn(4, 4, 8, 8, generator=rng), captions)


def test_a_share_of_the_captions_is_empty() -> None:
    words = QueryEncoder.minilm()
    batch = draw_captioned(
        crops(), words, batch_size=400, drop=0.25, generator=torch.Generator().manual_seed(0)
    )
    tokens = batch.states.mask.sum(1)
    empty = tokens == 2  # start and end
    assert 70 <= int(empty.sum()) <= 130
    for latents, count in zip(batch.latents, tokens.tolist(), strict=True):
        place = next(i for i, x in enumerate(crops().latents) if torch.equal(x, latents))
        own = words.encode([crops().captions[place]]).mask.sum().item()
        assert count in (2, own)
    full = draw_captioned(crops(), words, batch_size=50, drop=0.0, generator=torch.Generator())
    assert (full.states.mask.sum(1) > 2).all()


def test_times_are_spread_and_the_last_is_pure_noise() -> None:
    scheduler = mask_scheduler(SCHEDULE)
    words, some = QueryEncoder.minilm(), crops()
    unet = tiny_unet()
    seen: list[torch.Tensor] = []
    unet.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    batch = CaptionBatch(some.latents, words.encode(some.captions))
    objective = GeneratorObjective(unet, scheduler, reads_padding=False)
    loss = objective(batch, 0.0, torch.Generator().manual_seed(0))
    loss.backward()
    assert sorted((seen[0] // 250).tolist()) == [0, 1, 2, 3]
    assert all(weight.grad is not None for weight in unet.parameters())

    noise = torch.randn(some.latents.shape, generator=torch.Generator().manual_seed(1))
    states: list[torch.Tensor] = []

    def denoise(x_t: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        states.append(x_t)
        return -some.latents

    last = torch.full((4,), 999)
    assert (v_errors(denoise, scheduler, some.latents, noise, last) == 0).all()
    assert torch.equal(states[0], noise)


def tiny_unet() -> Any:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,
        norm_num_groups=8,
    )


def test_scores_say_whether_words_matter() -> None:
    scheduler, words, some = mask_scheduler(SCHEDULE), QueryEncoder.minilm(), crops()
    deaf = tiny_unet()
    for name, weight in deaf.named_parameters():
        if "attn2.to_out" in name:
            torch.nn.init.zeros_(weight)
    scores = generator_scores(deaf, some, words, scheduler)
    assert scores["caption_gain"] == 0
    assert scores["val_v_loss"] > 0
    hearing = tiny_unet()
    assert generator_scores(hearing, some, words, scheduler)["caption_gain"] != 0
    same = replace(some, captions=("a disc",) * 4)
    assert generator_scores(hearing, same, words, scheduler)["caption_gain"] == 0


def test_captions_are_learned() -> None:
    """Where a caption decides everything, that of another doubles the error."""
    scheduler, words, unet = mask_scheduler(SCHEDULE), QueryEncoder.minilm(), tiny_unet()
    signs = torch.tensor([1.0, 1.0, -1.0, -1.0]).view(4, 1, 1, 1)
    captions = ("picture of disc",) * 2 + ("picture of box",) * 2
    flat = CaptionedCrops(signs * torch.ones(4, 4, 4, 4), captions)
    objective = GeneratorObjective(unet, scheduler, reads_padding=False)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-2)
    for i in range(70):
        rng = torch.Generator().manual_seed(i)
        batch = draw_captioned(flat, words, batch_size=8, drop=0.1, generator=rng)
        objective(batch, 0.0, rng).backward()
        optimizer.step()
        optimizer.zero_grad()
    scores = generator_scores(unet, flat, words, scheduler)
    assert scores["caption_gain"] > scores["val_v_loss"]


def test_padding_is_not_attended_to() -> None:
    unet, words = tiny_unet().eval(), QueryEncoder.minilm()
    alone = words.encode(["disc"])
    padded = words.encode(["disc", "picture of a lot of ground and some box"])
    x, step = crops().latents[:1], torch.tensor([500])
    first = replace(
        padded, tokens=padded.tokens[:1], mask=padded.mask[:1], pooled=padded.pooled[:1]
    )
    with torch.no_grad():
        want = captioned(unet, alone, reads_padding=False)(x, step)
        torch.testing.assert_close(captioned(unet, first, reads_padding=False)(x, step), want)
        other = captioned(unet, first, reads_padding=True)(x, step)
    assert (other - want).abs().max() > 1e-6


# drawing


def test_pictures_take_the_exact_number_of_calls(trained: Path) -> None:
    parts = load_text_to_image(trained)
    calls: list[int] = []
    parts.unet.register_forward_pre_hook(lambda _, args: calls.append(int(args[1][0])))
    captions = ["picture of disc", "picture of box"]
    pictures = generate(parts, captions, num_inference_steps=3)
    assert calls == [999, 666, 332]
    assert pictures.shape == (2, 3, 16, 16)
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert torch.equal(pictures, generate(trained, captions, num_inference_steps=3))
    assert not torch.equal(pictures, generate(trained, captions, num_inference_steps=3, seed=1))
    calls.clear()
    guided = generate(parts, captions, num_inference_steps=3, guidance_scale=2.0)
    assert len(calls) == 6
    assert not torch.equal(guided, pictures)
    assert generate(parts, ["", ""], size=(24, 40), num_inference_steps=1).shape == (2, 3, 24, 40)


def test_models_that_cannot_draw(tmp_path: Path, trained: Path) -> None:
    for layout in ("sd1", "marigold"):
        folder = write_backbone(tmp_path / layout, layout)
        with pytest.raises(InputError, match="as many channels in as out, got one of"):
            generate(folder, ["a"])
    with pytest.raises(InputError, match="at least one sentence"):
        generate(trained, [])
    with pytest.raises(InputError, match="num_inference_steps must be 1 to 1000"):
        generate(trained, ["a"], num_inference_steps=0)


# bad input


def test_runs_that_cannot_start(data: Path, vae: Path, tmp_path: Path) -> None:
    good = config(data, vae)
    with pytest.raises(InputError, match=r"has no vae/config.json; train one"):
        train(replace(good, vae=str(tmp_path / "nowhere")), tmp_path / "run")
    other = Path(shutil.copytree(vae, tmp_path / "other"))
    path = other / "vae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"latent_channels": 6}))
    with pytest.raises(InputError, match="vae"):
        train(replace(good, vae=str(other)), tmp_path / "run")
    with pytest.raises(InputError, match=r"multiples of 4 \(VAE 2, U-Net 2\), got 18x16"):
        train(replace(good, augment=AugmentConfig(crop=(18, 16))), tmp_path / "run")
    unknown = Path(shutil.copytree(data, tmp_path / "unknown"))
    for label in (unknown / "train" / "labels").iterdir():
        write_mask(torch.full((16, 16), IGNORE), label)
    with pytest.raises(
        InputError, match=r"captions are made from masks.*give a data set with labels"
    ):
        train(replace(good, data=str(unknown)), tmp_path / "run")
    shutil.rmtree(unknown / "train" / "labels")
    with pytest.raises(InputError, match="labels does not exist"):
        train(replace(good, data=str(unknown)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"widths": (8,)}, "at least two levels"),
        ({"widths": (8, 12)}, "multiples of 8"),
        ({"widths": (8, 16), "heads": 3}, "multiples of 3 heads"),
        ({"drop_caption": 1.0}, "drop_caption must lie"),
        ({"crops": 0}, "crops must be at least 1"),
    ],
)
def test_configs_that_cannot_be(changes: dict[str, Any], match: str) -> None:
    fields: dict[str, Any] = {"data": "", "vae": "", "loop": loop(), "augment": CROP}
    with pytest.raises(ValueError, match=match):
        GeneratorConfig(**(fields | changes))
