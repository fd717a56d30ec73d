"""Windows: cover everything, blend to one, and change nothing where one window is enough."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crispmask.errors import InputError
from crispmask.models.refiner import MaskRefiner, RefinerConfig, condition_channels
from crispmask.models.segmenters import BaseOutput
from crispmask.nn.unet import MaskUNetConfig
from crispmask.predict import refine_windows, taper, windows

K = 3


def network() -> MaskUNetConfig:
    channels = condition_channels("probs", K, stride=2)
    return MaskUNetConfig(num_classes=K, cond_channels=channels, widths=(8, 16))


@pytest.fixture(scope="module")
def refiner() -> MaskRefiner:
    torch.manual_seed(0)
    model = MaskRefiner(RefinerConfig(class_names=("a", "b", "c"), network=network()))
    torch.nn.init.normal_(model.network.classifier.weight)
    return model.eval()


@given(st.integers(1, 90), st.integers(1, 90), st.integers(4, 40), st.data())
def test_windows_cover_every_pixel_with_weight(
    h: int, w: int, window: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, window - 1))
    weight = torch.zeros(h, w)
    for top, left in windows(h, w, window=window, overlap=overlap):
        part = weight[top : top + window, left : left + window]
        part += taper(*part.shape, overlap=overlap)
    assert weight.min() > 0


def test_an_image_of_one_window_is_refined_as_it_is(refiner: MaskRefiner) -> None:
    image, base = torch.rand(1, 3, 20, 28), BaseOutput(probs=torch.rand(1, K, 20, 28).softmax(1))
    plain = refiner(image, base, num_inference_steps=2)
    assert torch.equal(
        refine_windows(refiner, image, base, num_inference_steps=2).probs, plain.probs
    )


def test_windows_give_probabilities_and_repeat_themselves(refiner: MaskRefiner) -> None:
    image, base = torch.rand(1, 3, 96, 96), BaseOutput(probs=torch.rand(1, K, 96, 96).softmax(1))
    out = refine_windows(refiner, image, base, window=64, overlap=32)
    torch.testing.assert_close(out.probs.sum(1), torch.ones(1, 96, 96))
    assert out.num_calls == 4
    again = refine_windows(refiner, image, base, window=64, overlap=32)
    assert torch.equal(out.probs, again.probs)


def test_windows_of_a_network_without_context_equal_the_whole_image() -> None:
    """An untrained refiner answers each pixel alone, so blending must change nothing."""
    untrained = MaskRefiner(
        RefinerConfig(class_names=("a", "b", "c"), network=network(), condition_dropout=0.1)
    )
    image, base = torch.rand(1, 3, 70, 96), BaseOutput(probs=torch.rand(1, K, 70, 96).softmax(1))
    out = refine_windows(untrained, image, base, window=48, overlap=20)
    torch.testing.assert_close(out.probs, untrained(image, base).probs)


@pytest.mark.parametrize(("batch", "overlap", "message"), [(2, 8, "one image"), (1, 64, "overlap")])
def test_messages(refiner: MaskRefiner, batch: int, overlap: int, message: str) -> None:
    image = torch.rand(batch, 3, 96, 96)
    base = BaseOutput(probs=torch.full((batch, K, 96, 96), 1 / K))
    with pytest.raises(InputError, match=message):
        refine_windows(refiner, image, base, window=64, overlap=overlap)
