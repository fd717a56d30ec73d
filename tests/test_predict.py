"""Windows: cover everything, blend to one, and change nothing where one window is enough."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from crispmask.diffusion.categorical import image_generators
from crispmask.errors import InputError
from crispmask.models.refiner import MaskRefiner
from crispmask.models.refiner_config import RefinerConfig, Sampling, condition_channels
from crispmask.models.refiner_parts import RefinerOutput
from crispmask.models.segmenters import BaseOutput
from crispmask.models.windows import windows
from crispmask.nn.unet import MaskUNetConfig
from crispmask.predict import blend, refine_views, refine_windows, taper

K = 3


def network() -> MaskUNetConfig:
    channels = condition_channels("probs", K, stride=2)
    return MaskUNetConfig(num_classes=K, cond_channels=channels, widths=(8, 16))


@pytest.fixture(scope="module")
def refiner() -> MaskRefiner:
    torch.manual_seed(0)
    model = MaskRefiner(RefinerConfig(class_names=("a", "b", "c"), network=network(), holes=0.5))
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
        refine_windows(refiner, image, base, sampling=Sampling(num_inference_steps=2)).probs,
        plain.probs,
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


def test_windows_read_one_mask(refiner: MaskRefiner) -> None:
    """Each call's state is one mask for all windows, not one for each."""
    seen: list[torch.Tensor] = []
    hook = refiner.network.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    image, base = torch.rand(1, 3, 64, 96), BaseOutput(probs=torch.rand(1, K, 64, 96).softmax(1))
    sampling = Sampling(num_inference_steps=3)
    out = refine_windows(refiner, image, base, window=64, overlap=32, sampling=sampling)
    hook.remove()
    assert out.num_calls == len(seen) == 6
    for left, right in zip(seen[::2], seen[1::2], strict=True):
        assert torch.equal(left[..., 16:], right[..., :16])  # 32 shared pixels, stride 2


def test_no_window_looks_at_missing_pixels(refiner: MaskRefiner) -> None:
    image, base = torch.rand(1, 3, 64, 96), BaseOutput(probs=torch.rand(1, K, 64, 96).softmax(1))
    missing = torch.zeros(64, 96, dtype=torch.bool)
    missing[20:40, 30:60] = True  # across both windows
    other = image.where(~missing, 1 - image)
    out = refine_windows(refiner, image, base, window=64, overlap=32, missing=missing)
    hidden = refine_windows(refiner, other, base, window=64, overlap=32, missing=missing)
    assert torch.equal(out.probs, hidden.probs)
    plain = refine_windows(refiner, image, base, window=64, overlap=32)
    assert not torch.equal(out.probs, plain.probs)


def test_views_are_told_what_is_known_in_their_place(refiner: MaskRefiner) -> None:
    image = torch.rand(1, 3, 40, 56)
    known = torch.full((40, 56), 255)
    known[4:8, 6:10], known[20:30, 50:54] = 2, 1
    told: list[Tensor] = []

    def segmenter(view: Tensor) -> BaseOutput:
        return BaseOutput(probs=torch.full((1, K, *view.shape[-2:]), 1 / K))

    def refine(view: Tensor, base: BaseOutput, *, known: Tensor) -> RefinerOutput:
        told.append(known)
        out: RefinerOutput = refiner(view, base, known=known)
        return out

    probs = refine_views(segmenter, refine, image, scales=(1.0, 0.5), known=known)
    stands = known != 255
    assert (probs.argmax(1)[0] == known)[stands].all()
    assert (probs.amax(1)[0][stands] == 1).all()
    assert torch.equal(told[0][0], known)
    assert torch.equal(told[1][0], known.flip(-1))
    assert told[2].shape == (1, 20, 28)
    assert set(torch.unique(told[2]).tolist()) == {1, 2, 255}
    with pytest.raises(InputError, match="size of the images, 1 of 40x56"):
        refine_views(segmenter, refine, image, known=known[:-1])


def test_logits_are_blended_where_windows_overlap() -> None:
    left, right = torch.zeros(1, K, 1, 6), torch.ones(1, K, 1, 6)
    out = blend([(0, 0, left), (0, 4, right)], size=(1, 10), overlap=2)
    expected = torch.tensor([0.0] * 4 + [1 / 3, 2 / 3] + [1.0] * 4).expand(1, K, 1, 10)
    torch.testing.assert_close(out, expected)


def test_every_call_starts_from_what_all_windows_said_together(refiner: MaskRefiner) -> None:
    """The chain over windows is the chain of one denoiser, the blend of theirs."""
    image, base = torch.rand(1, 3, 64, 96), BaseOutput(probs=torch.rand(1, K, 64, 96).softmax(1))
    sampling = Sampling(num_inference_steps=3)
    out = refine_windows(refiner, image, base, window=64, overlap=32, sampling=sampling)
    with refiner.inferring(), torch.inference_mode():
        corners = (0, 32)
        conditions = [
            refiner.condition(image[..., c : c + 64], BaseOutput(probs=base.probs[..., c : c + 64]))
            for c in corners
        ]

        def together(parts: list[torch.Tensor]) -> torch.Tensor:
            placed = [(0, c // 2, part) for c, part in zip(corners, parts, strict=True)]
            return blend(placed, size=(32, 48), overlap=16)

        def denoise(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return together(
                [
                    refiner.state_logits(x_t[..., c // 2 : c // 2 + 32], condition, t)
                    for c, condition in zip(corners, conditions, strict=True)
                ]
            )

        log_base = together([condition.log_base for condition in conditions])
        generators = image_generators(0, ["0"])
        start = refiner.start(base, log_base, sampling, generators)
        logits = refiner.sample(denoise, start, sampling, generators).logits
        expected = refiner.answer_probs(refiner.change(logits, log_base), base.probs)
    torch.testing.assert_close(out.probs, expected)


def test_views_are_put_back_in_place() -> None:
    """With an answer that is a function of the pixel alone, all views agree."""

    def segmenter(image: torch.Tensor) -> BaseOutput:
        rises.append(bool(image[0, 0, 0, -1] > image[0, 0, 0, 0]))
        return BaseOutput(probs=torch.stack([image[:, 0], 1 - image[:, 0]], dim=1))

    def refine(image: torch.Tensor, base: BaseOutput) -> RefinerOutput:
        shapes.append(tuple(image.shape[-2:]))
        return RefinerOutput(probs=base.probs, trace=(), num_calls=1)

    shapes: list[tuple[int, ...]] = []
    rises: list[bool] = []
    ramp = torch.linspace(0, 1, 48).expand(1, 3, 40, 48)
    probs = refine_views(segmenter, refine, ramp)
    assert len(shapes) == 12
    assert shapes[0] == (20, 24)
    assert shapes[-1] == (70, 84)
    assert rises == [True, False] * 6  # every second view is the mirror image
    torch.testing.assert_close(probs[:, 0], ramp[:, 0], atol=0.02, rtol=0)
    plain = refine_views(segmenter, refine, ramp, scales=(1.0,), flip=False)
    assert torch.equal(plain[:, 0], ramp[:, 0])
    with pytest.raises(InputError, match="scales must be positive"):
        refine_views(segmenter, refine, ramp, scales=())


@pytest.mark.parametrize(
    ("batch", "overlap", "message"),
    [(2, 8, "one image"), (1, 64, "overlap"), (1, 30, "multiples of 4")],
)
def test_messages(refiner: MaskRefiner, batch: int, overlap: int, message: str) -> None:
    image = torch.rand(batch, 3, 96, 96)
    base = BaseOutput(probs=torch.full((batch, K, 96, 96), 1 / K))
    with pytest.raises(InputError, match=message):
        refine_windows(refiner, image, base, window=64, overlap=overlap)
