"""The text pathway: nothing until its gates open, then words, at every block."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from crispmask.nn.block_features import block_features, level_strides, level_widths
from crispmask.nn.text_pathway import TextAdapter, TextPathway, TextPathwayConfig
from tiny_unets import LAYOUTS, TEXT_WIDTH, tiny_unet

Inputs = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=list(LAYOUTS))
def unet(request: pytest.FixtureRequest) -> Any:
    return tiny_unet(request.param)


def open_gate(adapter: Any, gate: float) -> None:
    torch.nn.init.constant_(adapter.gate, gate)


def pathway_of(unet: Any, *, gate: float = 0.0) -> TextPathway:
    config = TextPathwayConfig(
        block_widths=tuple(unet.config.block_out_channels), text_width=20, width=16, heads=2
    )
    pathway = TextPathway(config)
    for adapter in pathway.adapters.values():
        open_gate(adapter, gate)
    return pathway


def inputs(*, batch: int = 2, size: tuple[int, int] = (16, 8)) -> Inputs:
    """Latents, the U-Net's own token states and those of the pathway, of another encoder."""
    return (
        torch.randn(batch, 8, *size),
        torch.randn(batch, 5, TEXT_WIDTH),
        torch.randn(batch, 7, 20),
    )


def call(unet: Any, x: Tensor, own: Tensor) -> Tensor:
    t = torch.full((len(x),), 999)
    result: Tensor = unet(x, t, encoder_hidden_states=own).sample
    return result


@pytest.mark.parametrize("size", [(16, 8), (10, 7)])
def test_closed_gates_change_nothing(unet: Any, size: tuple[int, int]) -> None:
    x, own, states = inputs(size=size)
    pathway = pathway_of(unet)
    with torch.no_grad():
        plain = call(unet, x, own)
        with block_features(unet) as untouched:
            call(unet, x, own)
        with pathway.attached(unet, states) as features:
            same = call(unet, x, own)
    assert torch.equal(same, plain)
    assert features.keys() == untouched.keys()
    assert all(torch.equal(features[name], untouched[name]) for name in features)


def test_open_gates_change_the_output_and_nothing_stays_behind(unet: Any) -> None:
    x, own, states = inputs()
    pathway = pathway_of(unet, gate=0.5)
    with torch.no_grad():
        plain = call(unet, x, own)
        with pathway.attached(unet, states):
            changed = call(unet, x, own)
        with pytest.raises(ZeroDivisionError), pathway.attached(unet, states):
            1 / 0  # noqa: B018
        after = call(unet, x, own)
    assert not torch.allclose(changed, plain, atol=1e-4)
    assert torch.equal(after, plain)
    assert not any(module._forward_hooks for module in unet.modules())


def test_names_widths_and_strides_are_those_of_the_blocks(unet: Any) -> None:
    x, own, _ = inputs()
    with torch.no_grad(), block_features(unet) as features:
        call(unet, x, own)
    widths = level_widths(unet.config.block_out_channels)
    strides = level_strides(unet.config.block_out_channels)
    assert list(features) == [n for n in widths if n != "mid" or unet.mid_block is not None]
    for name, level in features.items():
        stride = strides[name]
        assert level.shape == (2, widths[name], x.shape[2] // stride, x.shape[3] // stride)


def test_gates_have_a_gradient_while_they_are_closed(unet: Any) -> None:
    x, own, states = inputs()
    pathway = pathway_of(unet)
    with pathway.attached(unet, states) as features:
        call(unet, x, own).square().mean().backward()  # type: ignore[no-untyped-call]
    for name in features:
        adapter: Any = pathway.adapters[name]
        gradient = adapter.gate.grad
        assert gradient is not None
        assert gradient != 0


def test_the_text_matters_at_each_block_alone() -> None:
    unet = tiny_unet("two levels")
    x, own, states = inputs()
    for name in pathway_of(unet).adapters:
        pathway = pathway_of(unet)
        open_gate(pathway.adapters[name], 1.0)
        with torch.no_grad(), pathway.attached(unet, states):
            first = call(unet, x, own)
        with torch.no_grad(), pathway.attached(unet, states.flip(0)):
            second = call(unet, x, own)
        assert not torch.allclose(first, second, atol=1e-5), name


def test_the_last_skip_of_a_down_block_is_changed_with_its_output() -> None:
    unet = tiny_unet("SD 1")
    x, own, states = inputs()
    answers: list[Any] = []
    pathway = pathway_of(unet, gate=0.5)
    with torch.no_grad(), pathway.attached(unet, states) as features:
        seen = unet.down_blocks[1].register_forward_hook(lambda m, a, out: answers.append(out))
        call(unet, x, own)
        seen.remove()
    output, skips = answers[0]
    assert len(skips) == 2
    assert output is features["down_1"]
    assert skips[-1] is output
    assert skips[0].shape[-2:] == (8, 4)  # from before the downsampling, untouched


@pytest.mark.parametrize("name", ["SD 1", "SD 2"])
def test_texts_of_different_length_are_as_if_alone(name: str) -> None:
    unet = tiny_unet(name)
    x, own, states = inputs(batch=3)
    lengths = (7, 1, 4)
    tokens = torch.arange(7) < torch.tensor(lengths)[:, None]
    pathway = pathway_of(unet, gate=0.7)
    with torch.no_grad():
        with pathway.attached(unet, states.where(tokens[..., None], 1e4), tokens):
            together = call(unet, x, own)
        for i, n in enumerate(lengths):
            with pathway.attached(unet, states[i : i + 1, :n]):
                alone = call(unet, x[i : i + 1], own[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    unet = tiny_unet("SD 1").train()
    x, own, states = inputs()
    pathway = pathway_of(unet, gate=0.5)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            unet.enable_gradient_checkpointing()
        pathway.zero_grad()
        unet.zero_grad()
        with pathway.attached(unet, states):
            out = call(unet, x, own)
        # the hooks are gone by now
        out.square().mean().backward()  # type: ignore[no-untyped-call]
        parameters = [*pathway.parameters(), unet.conv_in.weight]
        gradients.append([p.grad.clone() for p in parameters if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) == len(parameters)
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=1e-4, atol=1e-6)


def test_the_adapter_is_plain_attention() -> None:
    """Against softmax written out, head by head and text by text."""
    adapter = TextAdapter(12, 20, width=8, heads=2)
    torch.nn.init.constant_(adapter.gate, 0.3)
    x, states = torch.randn(2, 12, 3, 5), torch.randn(2, 6, 20)
    tokens = torch.tensor([[True] * 6, [True, True, False, False, False, False]])
    with torch.no_grad():
        got = adapter(x, states, tokens)
        for i, n in enumerate((6, 2)):
            pixels = x[i].flatten(1).T  # h*w c
            normed = F.layer_norm(pixels, (12,), adapter.norm.weight, adapter.norm.bias)
            q, (k, v) = adapter.query(normed), adapter.key_value(states[i, :n]).chunk(2, dim=1)
            heads = [
                (q[:, a] @ k[:, a].T / 2).softmax(1) @ v[:, a]  # 2: root of 4 channels a head
                for a in (slice(0, 4), slice(4, 8))
            ]
            want = pixels + torch.tanh(torch.tensor(0.3)) * adapter.out(torch.cat(heads, 1))
            torch.testing.assert_close(got[i].flatten(1).T, want)


def test_a_saved_pathway_is_the_same(tmp_path: Path) -> None:
    unet = tiny_unet("SD 1")
    x, own, states = inputs()
    pathway = pathway_of(unet, gate=0.5)
    save_file(pathway.state_dict(), tmp_path / "model.safetensors")
    loaded = TextPathway(pathway.config)
    loaded.load_state_dict(load_file(tmp_path / "model.safetensors"))
    with torch.no_grad():
        with pathway.attached(unet, states):
            first = call(unet, x, own)
        with loaded.attached(unet, states):
            second = call(unet, x, own)
    assert torch.equal(first, second)


def test_what_does_not_fit_is_refused() -> None:
    unet, other = tiny_unet("SD 1"), tiny_unet("two levels")
    x, own, states = inputs()
    pathway = pathway_of(unet)
    none = torch.zeros(2, 7, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"made for a U-Net of widths \(8, 16, 16, 24\)"):
        pathway.attached(other, states)
    with pytest.raises(ValueError, match="need 20 channels, got 19"):
        pathway.attached(unet, states[..., 1:])
    with pytest.raises(ValueError, match=r"shape \(2, 7\) of the states"):
        pathway.attached(unet, states, none[:, 1:])
    with pytest.raises(ValueError, match="each text needs a token"):
        pathway.attached(unet, states, none)
    with (
        pytest.raises(ValueError, match="2 rows but there are 1 texts"),
        pathway.attached(unet, states[:1]),
    ):
        call(unet, x, own)
    assert not any(module._forward_hooks for module in unet.modules())
    with pytest.raises(ValueError, match="multiple of the heads, got 6 and 4"):
        TextPathwayConfig(block_widths=(8,), text_width=4, width=6)
    with pytest.raises(ValueError, match="must be positive"):
        TextPathwayConfig(block_widths=(), text_width=4)


def test_sizes_at_stable_diffusions_widths() -> None:
    config = TextPathwayConfig(block_widths=(320, 640, 1280, 1280), text_width=768)
    with torch.device("meta"):
        pathway = TextPathway(config)
    assert len(pathway.adapters) == 9
    assert sum(p.numel() for p in pathway.parameters()) == 7_823_753


def test_diffusers_is_not_imported_by_the_module() -> None:
    for module in (block_features, TextPathway):
        path = inspect.getsourcefile(inspect.unwrap(module))
        assert path is not None
        assert "import diffusers" not in Path(path).read_text(encoding="utf-8")
        assert "from diffusers" not in Path(path).read_text(encoding="utf-8")
