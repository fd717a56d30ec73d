"""The parts of a text segmenter: its folder, one call, and masks of latents."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from backbone_layouts import Layout, tiny_unet, tiny_vae, write_backbone
from crispmask import TextSegmenter
from crispmask.errors import InputError
from crispmask.models.backbone import load_backbone
from crispmask.models.text_config import TextSegmenterConfig, pass_prompts
from crispmask.models.text_states import QueryEncoder, TextStates
from crispmask.nn.heads import AlignHeadConfig, LightDecoderConfig
from tiny_text import TEXT, WIDTHS, small_heads, tiny_backbone, tiny_segmenter


@pytest.fixture(scope="module")
def model() -> TextSegmenter:
    return tiny_segmenter()


@pytest.fixture(scope="module")
def saved(model: TextSegmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """A saved segmenter to be spoiled."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def picture(seed: int = 0, rows: int = 1) -> torch.Tensor:
    return torch.rand(rows, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def first_call(model: TextSegmenter, *words: str) -> Any:
    """Latents, state, step and texts of a first call with a row for each word."""
    z_image = model.look(picture(rows=len(words)))
    step = torch.full((len(words),), model.last_step)
    return z_image, model.start(z_image), step, model.words.encode(words)


@pytest.mark.parametrize("layout", ["sd1", "marigold"])
def test_a_diffusers_folder_becomes_a_segmenter(tmp_path: Path, layout: Layout) -> None:
    folder = write_backbone(tmp_path, layout)
    model = TextSegmenter.from_pretrained(folder)
    want = load_backbone(folder)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.unet.parameters(), want.unet.parameters(), strict=True)
    )
    assert not model.training
    assert model.config.words == "folder"
    assert model.stride == 4  # twice the VAE's
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"unet", "pathway", "align", "decoder"}
    parts = {name.split(".")[0] for name in model.state_dict()}
    assert parts == trained | {"codec"}  # the text encoder is no part of the state
    model.train()
    assert not model.codec.vae.training


@pytest.mark.parametrize("pathway", ["closed gates", "none"])
def test_an_untrained_call_is_the_plain_unet(pathway: str) -> None:
    model = tiny_segmenter(gate=0.0, **({"pathway": None} if pathway == "none" else {}))
    z_image, z_t, step, states = first_call(model, "cat", "dog")
    z_t = torch.randn(z_t.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        call = model.call(z_image, z_t, step, states)
        plain = model.unet(torch.cat([z_image, z_t], 1), step, states.tokens).sample
    assert torch.equal(call.output, plain)
    assert set(call.features) == {"down_0", "down_1", "mid", "up_0", "up_1"}


def test_open_gates_let_the_text_in(model: TextSegmenter) -> None:
    z_image, z_t, step, states = first_call(model, "cat", "dog")
    with torch.no_grad():
        call = model.call(z_image, z_t, step, states)
        plain = model.unet(torch.cat([z_image, z_t], 1), step, states.tokens).sample
    assert not torch.equal(call.output, plain)


def test_padding_is_seen_as_the_encoder_was_trained(model: TextSegmenter) -> None:
    """CLIP's by the U-Net, other encoders' by nothing."""
    z_image, z_t, step, _ = first_call(model, "cat")
    rng = torch.Generator().manual_seed(0)
    tokens, pooled = torch.randn(1, 6, TEXT, generator=rng), torch.ones(1, TEXT)
    mask = torch.tensor([[True, True, True, True, False, False]])
    other = torch.cat([tokens[:, :4], -tokens[:, 4:]], dim=1)

    def output(network: TextSegmenter, states: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        texts = TextStates(tokens=states, mask=seen, pooled=pooled)
        with torch.no_grad():
            return network.call(z_image, z_t, step, texts).output

    assert not torch.allclose(output(model, tokens, mask), output(model, other, mask))
    bert = tiny_segmenter()
    bert.words.reads_padding = False
    want = output(bert, tokens, mask)
    torch.testing.assert_close(output(bert, other, mask), want)
    torch.testing.assert_close(output(bert, tokens[:, :4], mask[:, :4]), want)


def test_the_first_state_is_as_trained(model: TextSegmenter) -> None:
    z_image = model.look(picture(rows=2))
    assert not model.start(z_image).any()
    noisy = tiny_segmenter(start="noise")
    one = noisy.start(z_image, generator=torch.Generator().manual_seed(3))
    again = noisy.start(z_image, generator=torch.Generator().manual_seed(3))
    assert torch.equal(one, again)
    assert one.std() > 0.5


def test_a_loss_on_masks_reaches_all_that_is_trained_and_nothing_else(
    model: TextSegmenter,
) -> None:
    model.zero_grad()
    z_image, z_t, step, states = first_call(model, "cat", "dog")
    call = model.call(z_image, z_t, step, states)
    logits = model.mask_logits(-call.output, call.features, picture(rows=2))
    assert logits.shape == (2, 1, 16, 16)
    drawn = model.mask_logits(-call.output, call.features, picture(rows=2), decode="vae")
    assert drawn.shape == logits.shape
    align = model.align
    scores = align.scores(align.pixels(call.features), align.words(states.pooled))
    loss = logits.square().mean() + drawn.square().mean() + scores.square().mean()
    (loss + align.presence(scores).sum()).backward()  # type: ignore[no-untyped-call]
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(p.grad is None for p in model.codec.parameters())
    model.zero_grad()
    model.mask_logits(z_image.requires_grad_(), {}, picture(rows=2), decode="vae").sum().backward()  # type: ignore[no-untyped-call]
    assert z_image.grad is not None  # the frozen decoder lets gradients through


def test_resized_masks_need_no_vae() -> None:
    model = tiny_segmenter(mask_code="resize", decode="vae")
    z_0 = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    logits = model.mask_logits(z_0, {}, picture(rows=2))
    want = F.interpolate(8 * z_0.mean(1, keepdim=True), scale_factor=2, mode="bilinear")
    torch.testing.assert_close(logits, want)


def test_closed_codes_draw_all_classes_at_once() -> None:
    model = tiny_segmenter(mask_code="bits", decode="vae")
    z_0 = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    image = picture(rows=2)
    with torch.no_grad():
        logits = model.closed_logits(z_0, image, 10)  # 4 digits, so 2 pictures of each image
        pictures = model.codec.decode(z_0).reshape(2, 2, 3, 16, 16)
    torch.testing.assert_close(logits, model.mask_codec.decode_logits(pictures, image, 10))
    with pytest.raises(InputError, match="closed_logits"):
        model.mask_logits(z_0, {}, image)
    assert pass_prompts(1) == ("",)
    assert len(set(pass_prompts(3))) == 3


def test_a_saved_segmenter_is_loaded_equal(model: TextSegmenter, saved: Path) -> None:
    again = TextSegmenter.from_pretrained(saved)
    assert again.config == model.config
    assert not again.training
    one, other = model.state_dict(), again.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    before, after = model(picture(), ["cat", "dog"]), again(picture(), ["cat", "dog"])
    torch.testing.assert_close(before.kept_probs, after.kept_probs)
    torch.testing.assert_close(before.presence, after.presence)


def test_half_precision_files_are_loaded_as_float32(model: TextSegmenter, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "half", half=True)
    again = TextSegmenter.from_pretrained(tmp_path / "half")
    state = again.state_dict()
    for name, value in model.state_dict().items():
        assert state[name].dtype == value.dtype == torch.float32
        torch.testing.assert_close(state[name], value.half().float(), rtol=0, atol=0)
    encoder = load_file(tmp_path / "half" / "text_encoder" / "model.safetensors")
    assert {value.dtype for value in encoder.values()} == {torch.float16}
    assert {p.dtype for p in again.words.encoder.parameters()} == {torch.float32}
    assert {p.dtype for p in model.parameters()} == {torch.float32}  # that one stays as it was


def test_a_folder_appears_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_segmenter()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    model.save_pretrained(tmp_path / "run")
    (tmp_path / "run" / "unet" / "old").write_text("")
    model.align.bias.data.fill_(7.0)
    model.save_pretrained(tmp_path / "run")  # in the place of the first
    assert (tmp_path / "run" / "run.json").read_text() == "{}"
    assert not (tmp_path / "run" / "unet" / "old").exists()
    assert TextSegmenter.from_pretrained(tmp_path / "run").align.bias == 7

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(type(model.scheduler), "save_pretrained", full)
    model.align.bias.data.fill_(8.0)
    for name in ("run", "new"):
        with pytest.raises(OSError, match="no space"):
            model.save_pretrained(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert TextSegmenter.from_pretrained(tmp_path / "run").align.bias == 7


def test_minilm_is_taken_from_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_segmenter(words="minilm")
    model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model" / "text_encoder").exists()
    monkeypatch.setattr(QueryEncoder, "minilm", lambda: model.words)
    again = TextSegmenter.from_pretrained(tmp_path / "model")
    assert again.words is model.words


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def drop_tensor(path: Path) -> None:
    state = load_file(path)
    del state["align.bias"]
    save_file(state, path)


def other_vae(folder: Path) -> None:
    shutil.rmtree(folder / "vae")
    tiny_vae(latent_channels=6).save_pretrained(folder / "vae")


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "--local-dir"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json cannot be read"),
    "another model": (
        lambda f: edit(f / "config.json", model="MaskRefiner"),
        "MaskRefiner, needed",
    ),
    "unknown field": (lambda f: edit(f / "config.json", colour=1), "'colour'"),
    "no u-net": (lambda f: shutil.rmtree(f / "unet"), "has no unet;"),
    "no words": (lambda f: shutil.rmtree(f / "tokenizer"), "has no tokenizer;"),
    "no heads": (lambda f: (f / "heads.safetensors").unlink(), "heads.safetensors cannot be read"),
    "empty heads": (
        lambda f: (f / "heads.safetensors").write_bytes(b""),
        "heads.safetensors cannot be read",
    ),
    "a tensor less": (lambda f: drop_tensor(f / "heads.safetensors"), "1 tensors.*align.bias"),
    "no vae weights": (
        lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").unlink(),
        "has no diffusion_pytorch_model.safetensors",
    ),
    "another vae": (other_vae, "of width 4, those of the VAE 6"),
    "another kind of vae": (lambda f: edit(f / "vae" / "config.json", _class_name="VQ"), "got VQ"),
    "leading steps": (
        lambda f: edit(f / "scheduler" / "scheduler_config.json", timestep_spacing="leading"),
        "timestep_spacing='trailing'",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_what_is_wrong_is_said_in_one_sentence(copy: Path, case: str) -> None:
    spoil, match = SPOILED[case]
    spoil(copy)
    with pytest.raises(InputError, match=match) as caught:
        TextSegmenter.from_pretrained(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"align": AlignHeadConfig(block_widths=(8, 24), text_width=TEXT)}, "align head"),
        ({"align": AlignHeadConfig(block_widths=WIDTHS, text_width=9)}, "text is of width 9"),
        (
            {"decoder": LightDecoderConfig(latent_channels=4, feature_channels=8, factor=4)},
            "factor is of width 4, the VAE's 2",
        ),
    ],
)
def test_heads_of_other_sizes_are_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        tiny_segmenter(**changes)


def test_a_unet_that_was_not_widened_is_refused() -> None:
    parts = tiny_backbone()
    config = TextSegmenterConfig(words="folder", **small_heads())
    with pytest.raises(InputError, match="input is of width 4, two latents 8"):
        TextSegmenter(
            config,
            unet=tiny_unet("sd1"),
            vae=parts.vae,
            words=parts.words,
            scheduler=parts.scheduler,
        )


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"mask_code": "palette"}, 'needs decode="vae"'),
        ({"template": "a photo"}, "needs {} once"),
        ({"image_size": -1}, "image_size"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_configs_that_cannot_be_are_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        TextSegmenterConfig(words="folder", **{**small_heads(), **changes})
