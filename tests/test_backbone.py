"""Folders of Stable Diffusion and Marigold are loaded whole, widened exactly, or refused."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

from backbone_layouts import (
    Layout,
    tiny_tokenizer,
    tiny_unet,
    tiny_vae,
    write_backbone,
    write_full_size,
)
from crispmask.diffusion.gaussian import check_scheduler
from crispmask.errors import InputError
from crispmask.models.backbone import load_backbone
from crispmask.models.latent_unet import load_unet, widen_input
from crispmask.models.text_segmenter import TextSegmenter

LAYOUTS: tuple[Layout, ...] = ("sd1", "sd2", "marigold")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {x: write_backbone(tmp_path_factory.mktemp(x), x) for x in LAYOUTS}


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A Stable Diffusion 1.x folder to be spoiled."""
    return Path(shutil.copytree(folders["sd1"], tmp_path / "copy"))


def run(unet: Any, channels: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(2, channels, 8, 8, generator=rng)
    text = torch.randn(2, 5, unet.config.cross_attention_dim, generator=rng)
    with torch.no_grad():
        out: torch.Tensor = unet(x, torch.tensor([999, 3]), encoder_hidden_states=text).sample
    return out


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_is_loaded_whole(folders: dict[str, Path], layout: Layout) -> None:
    folder = folders[layout]
    parts = load_backbone(folder)
    assert equal(parts.vae, AutoencoderKL.from_pretrained(folder / "vae"))
    assert equal(parts.words.encoder, CLIPTextModel.from_pretrained(folder / "text_encoder"))
    text = parts.words.tokenizer("a cat").input_ids
    assert text == tiny_tokenizer()("a cat").input_ids
    assert parts.words.encoder(torch.tensor([text])).last_hidden_state.isfinite().all()
    check_scheduler(parts.scheduler)
    assert parts.scheduler.config["prediction_type"] == "v_prediction"
    assert parts.trained_prediction == ("epsilon" if layout == "sd1" else "v_prediction")
    unet: Any = parts.unet
    assert unet.config.in_channels == unet.conv_in.in_channels == 8
    plain = UNet2DConditionModel.from_pretrained(folder / "unet")
    if layout == "marigold":
        assert equal(unet, plain)
    else:
        wide, old = unet.state_dict(), plain.state_dict()
        assert torch.equal(wide["conv_in.weight"][:, :4], old["conv_in.weight"])
        assert not wide["conv_in.weight"][:, 4:].any()
        rest = [k for k in old if k != "conv_in.weight"]
        assert all(torch.equal(wide[k], old[k]) for k in rest)
    for part in (parts.unet, parts.vae, parts.words.encoder):
        assert not part.training
        assert {weight.dtype for weight in part.parameters()} == {torch.float32}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_widened_unet_is_saved_and_loaded_equal(
    folders: dict[str, Path], layout: Layout, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unet: Any = load_backbone(folders[layout], init="half").unet
    unet.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        again: Any = load_unet(tmp_path)
    assert not caplog.records
    assert equal(again, unet)
    assert again.config.in_channels == 8
    assert again.config["_input_order"] == "image, mask"
    assert torch.equal(run(again, 8), run(unet, 8))
    again.save_pretrained(tmp_path / "twice")
    assert equal(load_unet(tmp_path / "twice"), unet)


def test_each_init_shows_the_network_what_it_knew() -> None:
    torch.manual_seed(0)
    old = tiny_unet("sd1").eval()
    rng = torch.Generator().manual_seed(0)
    x, other = torch.randn(2, 2, 4, 8, 8, generator=rng)
    text, step = torch.randn(2, 5, 16, generator=rng), torch.tensor([999, 3])

    def answer(unet: Any, latents: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            out: torch.Tensor = unet(latents, step, encoder_hidden_states=text).sample
        return out

    want = answer(old, x)
    inputs = {
        "half": torch.cat([x, x], 1),
        "image_only": torch.cat([x, other], 1),
        "mask_only": torch.cat([other, x], 1),
    }
    for init, latents in inputs.items():
        new = tiny_unet("sd1").eval()
        new.load_state_dict(old.state_dict())
        widen_input(new, init=init)  # type: ignore[arg-type]
        assert torch.equal(new.conv_in.bias, old.conv_in.bias)
        torch.testing.assert_close(answer(new, latents), want, rtol=1e-4, atol=1e-5)
        before = new.conv_in.weight
        widen_input(new, init=init)  # type: ignore[arg-type]
        assert new.conv_in.weight is before  # widened once


def test_the_widened_input_is_trained() -> None:
    unet: Any = tiny_unet("sd1")
    widen_input(unet, init="image_only")
    out = unet(torch.randn(1, 8, 8, 8), 999, encoder_hidden_states=torch.randn(1, 3, 16)).sample
    out.square().mean().backward()
    assert unet.conv_in.weight.grad[:, 4:].abs().sum() > 0
    assert all(parameter.requires_grad for parameter in unet.parameters())


@pytest.mark.parametrize(("width", "kind"), [(9, "an inpainting"), (5, "a depth"), (6, "got 6")])
def test_unets_of_other_widths_are_refused_by_name(width: int, kind: str) -> None:
    with pytest.raises(InputError, match=kind):
        widen_input(tiny_unet("sd1", in_channels=width), init="half")


def test_eight_channels_of_unknown_order_are_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="nothing says that the image comes first"):
        load_unet(folders["marigold"] / "unet", pipeline="StableDiffusionInstructPix2PixPipeline")


def test_names_of_old_files_are_understood(folders: dict[str, Path], copy: Path) -> None:
    """Stable Diffusion 1.x was published with other names in its VAE and its text encoder."""
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    rename = {}
    for key, tensor in load_file(path).items():
        name = key
        for new_name, old_name in old.items():
            name = name.replace(f"attentions.0.{new_name}.", f"attentions.0.{old_name}.")
        rename[name] = tensor
    assert any("query" in name for name in rename)
    save_file(rename, path, metadata={"format": "pt"})
    path = copy / "text_encoder" / "model.safetensors"
    text = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in load_file(path).items()}
    text["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    save_file(text, path, metadata={"format": "pt"})
    want, got = load_backbone(folders["sd1"]), load_backbone(copy)
    assert equal(got.vae, want.vae)
    assert equal(got.words.encoder, want.words.encoder)


def test_half_precision_files_become_float32(copy: Path) -> None:
    files = (("unet", "diffusion_pytorch_model"), ("text_encoder", "model"))
    for part, stem in files:
        path = copy / part / f"{stem}.safetensors"
        half = {k: v.half() for k, v in load_file(path).items()}
        save_file(half, copy / part / f"{stem}.fp16.safetensors", metadata={"format": "pt"})
        path.unlink()
    parts = load_backbone(copy)
    for model in (parts.unet, parts.words.encoder):
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    stored = load_file(copy / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    assert torch.equal(
        parts.unet.state_dict()["conv_out.weight"], stored["conv_out.weight"].float()
    )


def edit(path: Path, **changes: Any) -> None:
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, **changes}))


def drop_tensor(path: Path) -> None:
    state = load_file(path)
    del state["conv_out.weight"]
    save_file(state, path, metadata={"format": "pt"})


def pickled(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(".bin"))


def without_words(folder: Path) -> None:
    for part in ("tokenizer", "text_encoder"):
        shutil.rmtree(folder / part)


def other_latents(folder: Path) -> None:
    shutil.rmtree(folder / "vae")
    tiny_vae(latent_channels=6).save_pretrained(folder / "vae")


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "--local-dir"),
    "no index": (lambda f: (f / "model_index.json").unlink(), "model_index.json cannot be read"),
    "no vae": (lambda f: shutil.rmtree(f / "vae"), "incomplete vae;"),
    "no unet": (lambda f: shutil.rmtree(f / "unet"), "incomplete unet;"),
    "no scheduler": (lambda f: shutil.rmtree(f / "scheduler"), "incomplete scheduler;"),
    "no words": (without_words, "incomplete text_encoder, tokenizer;"),
    "no weights": (
        lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").unlink(),
        "has no diffusion_pytorch_model.safetensors",
    ),
    "pickle": (pickled, r"pickle \(\.bin\) only"),
    "empty weights": (
        lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b""),
        "vae cannot be loaded",
    ),
    "a tensor less": (
        lambda f: drop_tensor(f / "unet" / "diffusion_pytorch_model.safetensors"),
        "do not fit its config.json: 1 tensors.*conv_out.weight",
    ),
    "another size": (
        lambda f: edit(f / "unet" / "config.json", block_out_channels=[8, 24]),
        r"unet cannot be loaded .* got torch.Size\(\[16\]\)\); a file",
    ),
    "text width": (
        lambda f: edit(f / "unet" / "config.json", cross_attention_dim=24),
        "text of width 24, its text encoder gives 16",
    ),
    "latent size": (other_latents, "latents of 4 channels, its VAE makes 6"),
    "vocabulary": (
        lambda f: edit(f / "text_encoder" / "config.json", vocab_size=20),
        "has 54 tokens, its text encoder knows 20",
    ),
    "inpainting": (
        lambda f: edit(f / "unet" / "config.json", in_channels=9),
        "got 9 .an inpainting U-Net",
    ),
    "sdxl": (
        lambda f: edit(f / "model_index.json", text_encoder_2=["transformers", "CLIPTextModel"]),
        "text_encoder_2",
    ),
    "more conditions": (
        lambda f: edit(f / "unet" / "config.json", addition_embed_type="text_time"),
        "conditions besides text",
    ),
    "another u-net": (
        lambda f: edit(f / "unet" / "config.json", _class_name="UNet3DConditionModel"),
        "got UNet3DConditionModel",
    ),
    "another vae": (lambda f: edit(f / "vae" / "config.json", _class_name="VQModel"), "VQModel"),
    "another text encoder": (
        lambda f: edit(f / "text_encoder" / "config.json", architectures=["T5EncoderModel"]),
        "got T5EncoderModel",
    ),
    "another prediction": (
        lambda f: edit(f / "scheduler" / "scheduler_config.json", prediction_type="flow"),
        "got 'flow'",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_what_is_wrong_is_said_in_one_sentence(copy: Path, case: str) -> None:
    spoil, match = SPOILED[case]
    spoil(copy)
    with pytest.raises(InputError, match=match) as caught:
        load_backbone(copy)
    assert "\n" not in str(caught.value)


def count(part: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in part.parameters())


@pytest.mark.parametrize(
    ("layout", "unet", "text_encoder", "heads", "side", "flops"),
    [
        ("sd1", 859_520_964, 123_060_480, 9_448_629, 512, 0.80e12),
        ("sd2", 865_910_724, 340_387_840, 10_693_813, 768, 2.15e12),
    ],
)
def test_the_published_sizes(
    tmp_path: Path,
    layout: Any,
    unet: int,
    text_encoder: int,
    heads: int,
    side: int,
    flops: float,
) -> None:
    parts = load_backbone(write_full_size(tmp_path, layout), weights=False)
    widened = 4 * 320 * 3 * 3
    assert count(parts.unet) == unet + widened
    assert count(parts.vae) == 83_653_863
    assert count(parts.words.encoder) == text_encoder
    network: Any = parts.unet
    width = network.config.cross_attention_dim
    assert network.conv_in.weight.shape == (320, 8, 3, 3)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        latents = torch.empty(1, 8, side // 8, side // 8)
        text = torch.empty(1, 77, width)
        out = network(latents, torch.empty(1), encoder_hidden_states=text).sample
        model = TextSegmenter.from_backbone(parts, class_names=("water", "forest"))
    assert out.shape == (1, 4, side // 8, side // 8)
    assert counter.get_total_flops() == pytest.approx(flops, rel=0.02)
    assert count(model.heads) == heads  # the pathway, alignment, presence and light decoder
