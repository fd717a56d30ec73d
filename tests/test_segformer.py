"""SegFormer as a base: sizes that were published, its contract, and what it says without a head."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from crispmask.errors import InputError
from crispmask.models.segformer import SIZES, SegformerBase, SegformerBaseConfig, mit

TINY = SegformerBaseConfig(
    class_names=("land", "water", "cloud"),
    widths=(8, 16, 40, 64),
    depths=(1, 2, 1, 1),
    neck_channels=12,
)


@pytest.fixture
def model() -> SegformerBase:
    torch.manual_seed(0)
    return SegformerBase(TINY)


@pytest.mark.parametrize(
    ("size", "millions"),
    [("b0", 3.32), ("b1", 13.15), ("b2", 24.20), ("b3", 44.08), ("b4", 60.84), ("b5", 81.44)],
)
def test_backbones_have_the_published_size(size: str, millions: float) -> None:
    """Parameters of the ImageNet models without their classifiers, which table 1 rounds."""
    with torch.device("meta"):
        backbone = SegformerBase(mit(size, class_names=("a", "b"))).backbone
    parameters = sum(p.numel() for p in backbone.parameters())
    assert parameters / 1e6 == pytest.approx(millions, abs=0.01)


def test_the_sizes_are_the_six() -> None:
    assert list(SIZES) == ["b0", "b1", "b2", "b3", "b4", "b5"]
    with pytest.raises(InputError, match="b0, b1, b2, b3, b4, b5, got 'b9'"):
        mit("b9", class_names=("a", "b"))


@pytest.mark.parametrize("size", [(64, 96), (37, 53), (1, 1), (33, 16)])
def test_any_size_gives_probabilities_and_stride_4_features(
    model: SegformerBase, size: tuple[int, int]
) -> None:
    h, w = size
    out = model(torch.rand(2, 3, h, w))
    assert out.probs.shape == (2, 3, h, w)
    torch.testing.assert_close(out.probs.sum(1), torch.ones(2, h, w))
    assert out.features is not None
    assert out.features.shape == (2, 12, -(-h // 4), -(-w // 4))


def test_without_a_classifier_all_classes_are_equally_likely() -> None:
    model = SegformerBase(replace(TINY, classifier=False))
    out = model(torch.rand(1, 3, 32, 32))
    assert (out.probs == 1 / 3).all()
    assert out.features is not None
    with pytest.raises(InputError, match="without a classifier"):
        model.logits(torch.rand(1, 3, 32, 32))


def test_every_parameter_is_trained(model: SegformerBase) -> None:
    logits, _ = model.logits(torch.rand(2, 3, 32, 32))
    torch.autograd.backward(logits.square().sum())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # a key's bias adds the same to all scores of a softmax: it changes nothing
        assert parameter.grad.abs().sum() > 0 or name.endswith("k_proj.bias"), name


def test_calling_it_changes_neither_mode_nor_statistics(model: SegformerBase) -> None:
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    first, second = (model(torch.full((1, 3, 32, 32), 0.3)).probs for _ in range(2))
    assert torch.equal(first, second)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_row_of_a_batch_equals_a_batch_of_one(model: SegformerBase) -> None:
    images = torch.rand(3, 3, 32, 48)
    torch.testing.assert_close(model(images).probs[1:2], model(images[1:2]).probs)


def test_saved_and_loaded_it_answers_the_same(model: SegformerBase, tmp_path: Path) -> None:
    image = torch.rand(1, 3, 40, 32)
    model.save_pretrained(tmp_path / "base")
    for folder in (tmp_path, tmp_path / "base"):
        loaded = SegformerBase.from_pretrained(folder)
        assert loaded.config == TINY
        assert torch.equal(loaded(image).probs, model(image).probs)


def test_layer_norms_follow_the_config() -> None:
    model = SegformerBase(replace(TINY, norm_eps=1e-3))
    norms = [m for m in model.backbone.modules() if isinstance(m, nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-3}


def test_without_transformers_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'crispmask\[hf\]'"):
        SegformerBase(TINY)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"class_names": ("a",)}, "at least 2 names"),
        ({"widths": (8, 16, 40)}, "widths needs a positive number per stage"),
        ({"depths": (1, 0, 1, 1)}, "depths needs a positive number"),
        ({"widths": (8, 15, 40, 64)}, "multiples of heads"),
        ({"neck_channels": 0}, "neck_channels must be at least 1"),
        ({"dropout": 1.0}, "drop_path and dropout"),
    ],
)
def test_a_config_checks_itself(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **fields)  # type: ignore[arg-type]
