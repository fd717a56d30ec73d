"""MaskRefiner: it starts at its base, counts its calls, and repeats itself."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crispmask.data.transforms import block_mean, pad_to_multiple
from crispmask.diffusion.categorical import AbsorbingDiffusion, UniformDiffusion
from crispmask.diffusion.mixed import MixedDiffusion
from crispmask.diffusion.schedules import cosine
from crispmask.errors import InputError
from crispmask.models.inference import autocast
from crispmask.models.probabilities import SMOOTHING, entropy, log_smoothed
from crispmask.models.refiner import MaskRefiner
from crispmask.models.refiner_config import (
    Conditioning,
    ProcessName,
    RefinerConfig,
    Sampling,
    condition_channels,
    num_states,
)
from crispmask.models.refiner_parts import RefinerOutput
from crispmask.models.segmenters import BaseOutput, FPNSegmenter, SegmenterConfig
from crispmask.models.text_answer import TextAnswer
from crispmask.nn.fpn import FPNConfig
from crispmask.nn.mask_codec import MaskCodecConfig
from crispmask.nn.unet import MaskUNetConfig
from crispmask.shapes import IGNORE

NAMES = ("land", "water", "cloud")


def config(
    *,
    conditioning: Conditioning = "probs",
    process: ProcessName = "uniform",
    stride: int = 2,
    patch_size: int = 1,
    state_input: bool = True,
    residual: bool = True,
    holes: float = 0.0,
) -> RefinerConfig:
    features = 8 if conditioning == "features" else 0
    network = MaskUNetConfig(
        num_classes=3,
        cond_channels=condition_channels(conditioning, 3, stride=stride, feature_channels=features),
        num_states=num_states(3, process),
        widths=(8, 16),
        patch_size=patch_size,
        state_input=state_input,
    )
    return RefinerConfig(
        class_names=NAMES,
        network=network,
        conditioning=conditioning,
        stride=stride,
        process=process,
        residual=residual,
        feature_channels=features,
        condition_dropout=0.1,
        holes=holes,
    )


def refiner(settings: RefinerConfig | None = None, *, trained: bool = True) -> MaskRefiner:
    """A refiner whose answer depends on all of its input, or one that was never trained."""
    torch.manual_seed(0)
    model = MaskRefiner(settings or config())
    if trained:
        nn.init.normal_(model.network.classifier.weight, std=0.5)
        if model.config.network.state_input:  # heed the state, as a trained network does
            nn.init.normal_(model.network.stem_state.weight)
    return model


@pytest.fixture
def image() -> Tensor:
    return torch.rand(3, 3, 33, 47, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def base(image: Tensor) -> BaseOutput:
    logits = torch.randn(3, 3, 33, 47, generator=torch.Generator().manual_seed(2))
    return BaseOutput.from_logits(3 * logits)


def same(first: RefinerOutput, second: RefinerOutput) -> bool:
    return torch.allclose(first.probs, second.probs, atol=1e-5)


# the untrained refiner


def test_untrained_refiner_gives_its_base(image: Tensor, base: BaseOutput) -> None:
    model = refiner(trained=False)
    for steps, scale in ((1, 1.0), (3, 1.0)):
        output = model(image, base, num_inference_steps=steps, guidance_scale=scale)
        smoothed = (1 - SMOOTHING) * base.probs + SMOOTHING / 3
        assert torch.allclose(output.probs, smoothed, atol=1e-6)
        assert torch.equal(output.labels, base.labels)
    assert (output.probs - base.probs).abs().max() <= SMOOTHING


def test_untrained_refiner_knows_what_it_does_not_know(image: Tensor) -> None:
    labels = torch.ones(3, 33, 47, dtype=torch.long)
    labels[:, :10] = IGNORE
    output = refiner(trained=False)(image, labels)
    assert torch.equal(output.labels[:, 10:], labels[:, 10:])
    assert torch.allclose(output.uncertainty[:, :10], torch.ones(()), atol=1e-6)
    assert output.uncertainty.max() <= 1
    assert output.uncertainty[:, 10:].max() < 0.06


# calls


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_steps_are_calls(image: Tensor, base: BaseOutput, steps: int, scale: float) -> None:
    model = refiner()
    sizes: list[int] = []
    model.network.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
    output = model(
        image, base, num_inference_steps=steps, guidance_scale=scale, eta=0.5, keep_trace=True
    )
    assert sizes == [3 if scale == 1 else 6] * steps  # guidance doubles the batch
    assert output.num_calls == steps
    assert [tuple(mask.shape) for mask in output.trace] == [(3, 18, 24)] * steps
    assert model(image, base, num_inference_steps=steps).trace == ()


def test_stem_is_computed_once(image: Tensor, base: BaseOutput) -> None:
    model = refiner()
    count: list[int] = []
    model.network.stem.register_forward_hook(lambda *_: count.append(1))
    model(image, base, num_inference_steps=4)
    assert len(count) == 1


def test_output_is_a_distribution(image: Tensor, base: BaseOutput) -> None:
    output = refiner()(image, base, num_inference_steps=2)
    assert output.probs.shape == (3, 3, 33, 47)
    assert torch.allclose(output.probs.sum(1), torch.ones(3, 33, 47), atol=1e-5)
    assert torch.equal(output.labels, output.probs.argmax(1))
    assert output.uncertainty.shape == (3, 33, 47)
    assert output.uncertainty.min() >= 0
    assert not torch.equal(output.labels, base.labels)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("process", ["uniform", "absorbing"])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_the_void_class_is_never_answered(
    image: Tensor,
    base: BaseOutput,
    residual: bool,
    process: Literal["uniform", "absorbing"],
    scale: float,
) -> None:
    settings = replace(config(residual=residual, process=process), void_class=1, temperature=50.0)
    model = refiner(settings)
    assert model.network.classifier.bias is not None
    nn.init.constant_(model.network.classifier.bias, 0.0)
    model.network.classifier.bias.data[1] = 100.0
    first: list[Tensor] = []
    model.network.register_forward_hook(lambda _, __, out: first.append(out.argmax(1)))
    output = model(image, base, num_inference_steps=3, guidance_scale=scale, keep_trace=True)
    assert (output.probs[:, 1] == 0).all()
    assert torch.allclose(output.probs.sum(1), torch.ones(()), atol=1e-5)
    assert (first[0] == 1).all()  # the network itself is free to say so
    for labels in (output.labels, *output.trace):
        assert (labels != 1).all()


def test_a_void_class_is_one_of_the_classes() -> None:
    with pytest.raises(ValueError, match="void_class must be one of the 3 classes, got 3"):
        replace(config(), void_class=3)


def test_entropy_is_normalised() -> None:
    probs = torch.tensor([[1.0, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]]).view(3, 3, 1, 1)
    expected = [0, 1, np.log(2) / np.log(3)]
    assert entropy(probs).flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_logits_are_upsampled_between_pixel_centres(image: Tensor, base: BaseOutput) -> None:
    """One call by hand: pool, add the network's change, resize the change, softmax."""
    settings = config(stride=2, state_input=False)
    model = refiner(settings)
    whole, probs = image[:, :, :32, :40], base.probs[:, :, :32, :40]
    pooled = probs.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))  # b k 16 20
    colours = nn.functional.pixel_unshuffle(4 * whole - 2, 2)
    stem = model.network.condition(torch.cat([colours, pooled], dim=1))
    x_t = torch.zeros(3, 16, 20, dtype=torch.long)
    model.eval()
    delta = model.network(x_t, stem, torch.ones(3))
    up = nn.functional.interpolate(delta, scale_factor=2.0, mode="bilinear")
    expected = (log_smoothed(probs) + up).softmax(1)
    found = model(whole, BaseOutput(probs))
    assert torch.allclose(found.probs, expected, atol=1e-4)


@pytest.mark.parametrize("tiles", [True, False])
def test_bf16_needs_matrix_tiles_on_a_cpu(tiles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: tiles)
    with autocast(torch.device("cpu")):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if tiles else torch.float32)


# guidance


def test_guidance_scale_1_is_off(image: Tensor, base: BaseOutput) -> None:
    model = refiner()
    plain = model(image, base, num_inference_steps=2)
    assert torch.equal(
        plain.probs, model(image, base, num_inference_steps=2, guidance_scale=1.0).probs
    )
    almost = model(image, base, num_inference_steps=1, guidance_scale=1.0001)
    assert torch.allclose(almost.probs, model(image, base).probs, atol=1e-2)


@pytest.mark.parametrize("conditioning", ["probs", "features"])
def test_guidance_scale_0_sees_nothing(
    image: Tensor, base: BaseOutput, conditioning: Literal["probs", "features"]
) -> None:
    settings = config(conditioning=conditioning, residual=conditioning == "probs")
    model = refiner(settings)
    features = torch.randn(3, 8, 9, 12)
    given = BaseOutput(base.probs, features)
    other = BaseOutput(base.probs.flip(-1), features.flip(-1))
    trace = model(image, given, guidance_scale=0.0, keep_trace=True).trace
    assert torch.equal(
        trace[0], model(1 - image, other, guidance_scale=0.0, keep_trace=True).trace[0]
    )
    assert not same(model(image, given, guidance_scale=3.0), model(image, given))


# randomness


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("process", ["uniform", "absorbing"])
def test_same_seed_same_result(
    image: Tensor, base: BaseOutput, eta: float, process: Literal["uniform", "absorbing"]
) -> None:
    model = refiner(config(process=process))

    def run(seed: int) -> RefinerOutput:
        output: RefinerOutput = model(image, base, num_inference_steps=3, eta=eta, seed=seed)
        return output

    before = torch.random.get_rng_state()
    first = run(7)
    assert torch.equal(first.probs, run(7).probs)
    assert not same(first, run(8))
    assert torch.equal(torch.random.get_rng_state(), before)  # the global generator is not used


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_batch_equals_singles_of_the_same_name(image: Tensor, base: BaseOutput, eta: float) -> None:
    model = refiner()
    names = ["a", "b", "c"]
    together = model(image, base, num_inference_steps=3, eta=eta, names=names)
    for i in (2, 0, 1):
        alone = model(image[i], base.probs[i], num_inference_steps=3, eta=eta, names=[names[i]])
        assert torch.allclose(together.probs[i], alone.probs[0], atol=1e-4)
    renamed = model(image, base, num_inference_steps=3, eta=eta, names=["c", "a", "b"])
    assert not same(together, renamed)
    assert same(model(image, base), model(image, base, names=["0", "1", "2"]))


def test_eta_changes_the_path(image: Tensor, base: BaseOutput) -> None:
    model = refiner()
    results = [model(image, base, num_inference_steps=4, eta=eta) for eta in (0.0, 1.0)]
    assert not same(*results)


def test_dropout_is_off(image: Tensor, base: BaseOutput) -> None:
    settings = config()
    model = refiner(replace(settings, network=replace(settings.network, dropout=0.5)))
    model.train()
    assert torch.equal(model(image, base).probs, model(image, base).probs)
    assert model.training


# the state


def test_a_refiner_reads_its_state_and_a_control_does_not(image: Tensor, base: BaseOutput) -> None:
    model, control = refiner(), refiner(config(state_input=False))
    assert not same(model(image, base, seed=0), model(image, base, seed=1))
    assert torch.equal(
        control(image, base, seed=0).probs,
        control(image, base, seed=1, num_inference_steps=3).probs,
    )


def test_control_differs_by_the_state_alone() -> None:
    full, control = refiner(), refiner(config(state_input=False))
    assert set(full.state_dict()) - set(control.state_dict()) == {
        "network.embed.weight",
        "network.stem_state.weight",
    }
    assert not set(control.state_dict()) - set(full.state_dict())


def test_processes() -> None:
    assert refiner().process == UniformDiffusion(3)
    absorbing = replace(config(process="absorbing"), schedule="cosine")
    assert refiner(absorbing).process == AbsorbingDiffusion(3, cosine)
    assert refiner(config(process="mixed")).process == MixedDiffusion(3)


# what the denoiser is told


def depends_on(model: MaskRefiner, image: Tensor, base: BaseOutput) -> tuple[bool, bool, bool]:
    """Whether the network's change depends on the image, the base's labels, its confidence."""
    sharp = BaseOutput(probs=(base.probs**3) / (base.probs**3).sum(1, keepdim=True))
    moved = BaseOutput(probs=base.probs.roll(1, 1))

    def change(pixels: Tensor, output: BaseOutput) -> Tensor:
        seen = model.visible(output)
        condition = model.condition(pixels[..., :32, :40], BaseOutput(seen.probs[..., :32, :40]))
        x_t = torch.zeros(3, 16, 20, dtype=torch.long)
        with torch.inference_mode():
            return model.denoise(x_t, condition, torch.ones(3))

    plain = change(image, base)
    pairs = ((1 - image, base), (image, moved), (image, sharp))
    first, second, third = (not torch.allclose(plain, change(*p), atol=1e-5) for p in pairs)
    return first, second, third


@pytest.mark.parametrize(
    ("conditioning", "expected"),
    [
        ("probs", (True, True, True)),
        ("logits", (False, True, True)),
        ("mask", (False, True, False)),
        ("none", (False, False, False)),
    ],
)
def test_conditions(
    image: Tensor, base: BaseOutput, conditioning: Conditioning, expected: tuple[bool, bool, bool]
) -> None:
    model = refiner(config(conditioning=conditioning, residual=conditioning != "none"))
    assert depends_on(model, image, base) == expected
    assert model(image, base, num_inference_steps=2).probs.shape == base.probs.shape


def test_the_mask_condition_hides_the_confidence(image: Tensor, base: BaseOutput) -> None:
    model = refiner(config(conditioning="mask"))
    assert same(model(image, base), model(image, base.labels))


def coded() -> RefinerConfig:
    codec = MaskCodecConfig(num_classes=3, levels=(3, 3), stride=4, width=8)
    network = MaskUNetConfig(
        num_classes=9, cond_channels=condition_channels("probs", 3, stride=4), widths=(8, 16)
    )
    return RefinerConfig(class_names=NAMES, network=network, stride=4, residual=False, codec=codec)


def test_a_mask_of_codes(image: Tensor, base: BaseOutput, tmp_path: Path) -> None:
    model = refiner(coded())
    states: list[Tensor] = []
    model.network.register_forward_hook(lambda _, args, __: states.append(args[0]))
    out = model(image, base, num_inference_steps=2, start="base")
    assert out.probs.shape == base.probs.shape
    assert [s.shape for s in states] == [(3, 10, 12)] * 2  # 33 x 47 padded to 40 x 48, stride 4
    assert max(int(s.max()) for s in states) < 9
    assert model.codec is not None
    assert not any(p.requires_grad for p in model.codec.parameters())
    model.save_pretrained(tmp_path)
    again = MaskRefiner.from_pretrained(tmp_path)
    assert torch.equal(again(image, base).probs, model(image, base).probs)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"residual": True}, "residual=True"),
        ({"stride": 2}, "multiples|agree|condition"),
        ({"void_class": 0}, "no void class"),
        ({"codec": MaskCodecConfig(num_classes=4, levels=(3, 3))}, "must agree"),
    ],
)
def test_codecs_that_do_not_fit(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        replace(coded(), **fields)


# the chain


@pytest.mark.parametrize("steps", [1, 3])
def test_a_chain_may_start_from_the_base(image: Tensor, base: BaseOutput, steps: int) -> None:
    model = refiner()
    states: list[tuple[Tensor, Tensor]] = []
    model.network.register_forward_hook(lambda _, args, __: states.append((args[0], args[2])))
    out = model(image, base, num_inference_steps=steps, start="base")
    assert out.num_calls == len(states) == steps
    assert [t[0].item() for _, t in states] == pytest.approx(
        [(steps - i) / (steps + 1) for i in range(steps)]
    )
    pooled, _ = pad_to_multiple(base.probs, 4)
    labels = block_mean(pooled, 2).argmax(1)
    kept = (states[0][0] == labels).float().mean().item()
    survival = 1 / (steps + 1)
    assert kept == pytest.approx(survival + (1 - survival) / 3, abs=0.06)
    with pytest.raises((InputError, TypeError), match="end"):
        Sampling(start="end")  # type: ignore[arg-type]


def test_the_last_calls_can_be_averaged(image: Tensor, base: BaseOutput) -> None:
    model = refiner()
    plain = model(image, base, num_inference_steps=4)
    mean = model(image, base, num_inference_steps=4, average_last=3)
    assert not same(plain, mean)
    assert mean.uncertainty.mean() > plain.uncertainty.mean() - 0.01
    control = refiner(config(state_input=False))
    assert same(
        control(image, base, num_inference_steps=4),
        control(image, base, num_inference_steps=4, average_last=4),
    )


# what comes in


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (8, 8), (33, 47)])
@pytest.mark.parametrize(("stride", "patch_size"), [(1, 1), (2, 2), (4, 1)])
def test_any_size(size: tuple[int, int], stride: int, patch_size: int) -> None:
    model = refiner(config(stride=stride, patch_size=patch_size))
    labels = torch.randint(3, size, generator=torch.Generator().manual_seed(0))
    output = model(torch.rand(3, *size), labels, num_inference_steps=2, keep_trace=True)
    assert output.probs.shape == (1, 3, *size)
    assert output.trace[0].shape == (
        1,
        *(
            -(-s // (stride * model.network.config.stride)) * model.network.config.stride
            for s in size
        ),
    )
    assert torch.equal(
        refiner(model.config, trained=False)(torch.rand(3, *size), labels).labels[0], labels
    )


def test_bases_of_all_kinds_agree(image: Tensor, tmp_path: Path) -> None:
    labels = torch.randint(3, (33, 47), generator=torch.Generator().manual_seed(0))
    one_hot = nn.functional.one_hot(labels, 3).movedim(-1, 0).float()
    np.save(tmp_path / "labels.npy", labels.numpy())
    model = refiner()
    expected = model(image[0], labels)
    for given in (one_hot, 200 * one_hot - 100, labels.numpy(), tmp_path / "labels.npy"):
        assert same(model(image[0], given), expected)


def test_images_of_all_kinds_agree() -> None:
    array = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    labels = np.zeros((16, 24), dtype=np.uint8)
    model = refiner()
    assert same(model(array, labels), model(array / 255, labels))


def test_half_precision_bases(image: Tensor, base: BaseOutput) -> None:
    model = refiner()
    halved = model(image, BaseOutput(base.probs.half()))
    assert halved.probs.dtype == torch.float32
    assert torch.allclose(halved.probs, model(image, base).probs, atol=1e-2)


def test_features_of_a_base() -> None:
    network = FPNConfig(num_classes=3, channels=8)
    segmenter = FPNSegmenter(SegmenterConfig(class_names=NAMES, network=network, scale=0.5))
    model = refiner(config(conditioning="features", residual=False))
    image = torch.rand(2, 3, 33, 47)
    output = model(image, segmenter(image), num_inference_steps=2)
    assert output.probs.shape == (2, 3, 33, 47)
    assert not same(output, model(image, segmenter(image.flip(0)), num_inference_steps=2))


def test_features_stay_in_place_when_the_image_is_padded() -> None:
    """Padding belongs to the right and the bottom: what is left of it must not move."""
    model = refiner(config(conditioning="features", residual=False, stride=4, patch_size=2))
    found: list[Tensor] = []
    model.network.stem.register_forward_hook(lambda _, args, __: found.append(args[0]))
    features = torch.randn(1, 8, 9, 9)
    model(torch.rand(1, 3, 36, 36), BaseOutput(torch.full((1, 3, 36, 36), 1 / 3), features))
    seen = nn.functional.pixel_shuffle(found[0], 2)  # 36 is padded to 48, 12 positions
    assert seen.shape == (1, 8, 12, 12)
    assert torch.allclose(seen[..., :9, :9], features, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (torch.zeros(32, 47, dtype=torch.long), "got 1 of 33x47 and 1 of 32x47; resize"),
        (torch.zeros(2, 33, 47, dtype=torch.long), "got 1 of 33x47 and 2 of 33x47"),
        (torch.full((4, 33, 47), 0.25), r"3 classes, got \(4, 33, 47\)"),
        (torch.full((33, 47), 9), "from 0 to 2"),
    ],
)
def test_bases_that_do_not_fit(image: Tensor, given: Tensor, match: str) -> None:
    with pytest.raises(InputError, match=match):
        refiner()(image[0], given)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps must be 1 to 1000, got 0"),
        ({"eta": 1.5}, "eta must be between 0 and 1, got 1.5"),
        ({"names": ["a", "b"]}, "3 images need as many names, got 2"),
    ],
)
def test_options_that_cannot_be(
    image: Tensor, base: BaseOutput, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(InputError, match=match):
        refiner()(image, base, **options)


def test_a_misspelt_estimate_is_refused() -> None:
    with pytest.raises((InputError, TypeError), match="smaple"):
        Sampling(estimate="smaple")  # type: ignore[arg-type]


def test_features_that_are_missing_or_of_another_base(image: Tensor, base: BaseOutput) -> None:
    model = refiner(config(conditioning="features", residual=False))
    with pytest.raises(InputError, match="the base output has none"):
        model(image, base)
    with pytest.raises(InputError, match="reads 8 feature channels, the base gives 5"):
        model(image, BaseOutput(base.probs, torch.zeros(3, 5, 9, 12)))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"class_names": NAMES[:2]}, "2 names, the network 3 classes"),
        ({"stride": 3}, "stride must be 1, 2 or 4, got 3"),
        ({"stride": 1}, "condition has 6 channels, the network cond_channels=15; set it to 6"),
        ({"feature_channels": 8}, 'belongs to conditioning "features"'),
        ({"conditioning": "features"}, "must then be positive, got 0"),
        ({"process": "absorbing"}, "has 4 states, the network has num_states=3"),
        ({"condition_dropout": 1.0}, r"must lie in \[0, 1\), got 1.0"),
    ],
)
def test_configs_that_cannot_be(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        replace(config(), **fields)


@pytest.mark.parametrize("field", ["conditioning", "process", "schedule"])
def test_words_that_a_config_does_not_know(field: str) -> None:
    fields: dict[str, Any] = {field: "hope"}
    with pytest.raises((ValueError, TypeError), match="hope"):
        replace(config(), **fields)


def test_guidance_without_condition_dropout_warns(image: Tensor, base: BaseOutput) -> None:
    model = refiner(replace(config(), condition_dropout=0.0))
    with pytest.warns(UserWarning, match="trained without condition dropout"):
        model(image, base, guidance_scale=2.0)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.5])
def test_answer_is_the_softmax_of_its_logits(
    base: BaseOutput, residual: bool, temperature: float
) -> None:
    model = refiner(replace(config(), residual=residual, temperature=temperature))
    delta = 12 * torch.randn(3, 3, 20, 28, generator=torch.Generator().manual_seed(3))
    logits = model.answer_logits(delta, base.probs)
    expected = (logits / temperature).softmax(1)
    assert torch.allclose(model.answer_probs(delta, base.probs), expected, atol=1e-6)
    if residual:  # an image without its condition has a uniform base
        keep = torch.tensor([True, False, True])
        bare = model.answer_logits(delta, base.probs, keep=keep)
        uniform = torch.full_like(base.probs, 1 / 3)
        assert torch.allclose(bare[0], logits[0])
        expected = model.answer_logits(delta, uniform)[1].softmax(0)
        assert torch.allclose(bare[1].softmax(0), expected, atol=1e-6)


def test_probabilities_too_small_to_write_are_still_a_distribution(base: BaseOutput) -> None:
    model = refiner(replace(config(), temperature=0.001))
    delta = torch.randn(3, 3, 20, 28, generator=torch.Generator().manual_seed(3))
    probs = model.answer_probs(delta, base.probs)
    torch.testing.assert_close(probs.sum(1), torch.ones_like(probs[:, 0]))
    assert torch.equal(probs.argmax(1), model.answer_logits(delta, base.probs).argmax(1))


def test_temperature_changes_no_label(image: Tensor, base: BaseOutput) -> None:
    plain = refiner()
    warm = refiner(replace(config(), temperature=2.0))
    before, after = plain(image, base), warm(image, base)
    assert torch.equal(before.labels, after.labels)
    assert after.uncertainty.mean() > before.uncertainty.mean()
    with pytest.raises(ValueError, match="temperature must be positive"):
        replace(config(), temperature=0.0)


# bases that say which class each map is


def named_base(base: BaseOutput, names: tuple[str, ...]) -> TextAnswer:
    """The maps of a base under these names, as a segmenter of words answers."""
    return TextAnswer.from_probs(
        base.probs,
        kept=tuple(range(len(names))),
        label_names=names,
        presence=torch.ones(len(base.probs), len(names)),
        num_calls=1,
    )


def test_named_maps_may_stand_in_any_order(image: Tensor, base: BaseOutput) -> None:
    model = refiner()
    wanted = model(image, base).probs
    torch.testing.assert_close(model(image, named_base(base, NAMES)).probs, wanted)
    turned = BaseOutput(probs=base.probs[:, [2, 0, 1]])
    answer = model(image, named_base(turned, ("Cloud", "land", "water")))
    torch.testing.assert_close(answer.probs, wanted)


def test_maps_of_other_names_are_refused(image: Tensor, base: BaseOutput) -> None:
    with pytest.raises(InputError, match="answers in land, sea, cloud; the model's classes are"):
        refiner()(image, named_base(base, ("land", "sea", "cloud")))


def test_a_refiner_without_holes_warns_of_missing_pixels(image: Tensor, base: BaseOutput) -> None:
    missing = torch.zeros(len(image), *image.shape[-2:], dtype=torch.bool)
    missing[:, :4] = True
    with pytest.warns(UserWarning, match="trained without holes"):
        refiner()(image, base, missing=missing)
    with warnings.catch_warnings(action="error"):
        refiner(config(holes=0.5))(image, base, missing=missing)
        refiner()(image, base, missing=torch.zeros_like(missing))


def test_weights_of_another_precision(image: Tensor, base: BaseOutput) -> None:
    for model in (refiner().half(), refiner().double()):
        with pytest.raises(InputError, match=r"must be float32, got torch\.float.*call \.float"):
            model(image, base)


def test_features_of_a_base_know_what_is_missing(image: Tensor, base: BaseOutput) -> None:
    model = refiner(config(conditioning="features"))
    seen = BaseOutput(probs=base.probs, features=torch.rand(len(image), 8, 9, 12))
    missing = torch.ones(image.shape[-2:], dtype=torch.bool)
    with pytest.raises(InputError, match="give missing pixels to one that reads probabilities"):
        model(image, seen, missing=missing)
