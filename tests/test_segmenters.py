"""Base outputs in every form that is taken or refused, images likewise, and the own segmenter."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from torch import Tensor, nn

from crispmask.data.sample import write_mask
from crispmask.errors import InputError
from crispmask.models.inference import evaluating
from crispmask.models.inputs import as_base_output, as_image, check_same_size
from crispmask.models.segmenters import BaseOutput, FPNSegmenter, SegmenterConfig, flip_average
from crispmask.nn.fpn import FPNConfig
from crispmask.shapes import IGNORE

LABELS = torch.tensor([[0, 1, 2], [2, 0, IGNORE]])
THIRD = 1 / 3
ONE_HOT = torch.tensor(
    [
        [[1, 0, 0], [0, 1, THIRD]],
        [[0, 1, 0], [0, 0, THIRD]],
        [[0, 0, 1], [1, 0, THIRD]],
    ]
)
LOGITS = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)) * 3
PROBS = LOGITS.softmax(0)


@dataclass
class ModelOutput:
    """What networks of other libraries answer."""

    logits: Tensor


def small(*, scale: float = 1.0) -> FPNSegmenter:
    torch.manual_seed(0)
    network = FPNConfig(num_classes=3, channels=8)
    model = FPNSegmenter(
        SegmenterConfig(class_names=("land", "water", "cloud"), network=network, scale=scale)
    )
    nn.init.normal_(model.network.classifier.weight)
    return model


# accepted


@pytest.mark.parametrize(
    "labels",
    [
        LABELS,
        LABELS[None],
        LABELS.to(torch.uint8),
        LABELS.to(torch.int16),
        LABELS.numpy(),
        LABELS.numpy().astype(np.uint16),
        LABELS.numpy().astype(">i4"),
        LABELS.tolist(),
        PILImage.fromarray(LABELS.numpy().astype(np.uint8)),
    ],
    ids=lambda labels: type(labels).__name__,
)
def test_labels(labels: Any) -> None:
    output = as_base_output(labels, num_classes=3)
    assert torch.equal(output.probs, ONE_HOT[None])
    assert output.features is None
    assert output.labels[0, :, :2].tolist() == [[0, 1], [2, 0]]


def test_labels_of_a_batch_and_of_two_classes() -> None:
    assert as_base_output(LABELS.repeat(4, 1, 1), num_classes=3).probs.shape == (4, 3, 2, 3)
    output = as_base_output(np.array([[True, False]]), num_classes=2)
    assert output.probs.tolist() == [[[[0, 1]], [[1, 0]]]]


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.float16])
def test_probabilities(kind: torch.dtype) -> None:
    output = as_base_output(PROBS.to(kind), num_classes=3)
    assert output.probs.dtype == torch.float32
    assert torch.allclose(output.probs[0], PROBS, atol=1e-3)
    assert torch.allclose(output.probs.sum(1), torch.ones(1, 4, 5), atol=1e-6)


@pytest.mark.parametrize(
    "logits",
    [
        LOGITS,
        LOGITS[None],
        LOGITS.numpy(),
        LOGITS.log_softmax(0),  # never above 0
        LOGITS.movedim(0, -1).contiguous().movedim(-1, 0),  # strides of h w k
        ModelOutput(LOGITS[None]),
    ],
    ids=["k h w", "b k h w", "array", "logarithms", "strided", "model output"],
)
def test_logits(logits: Any) -> None:
    output = as_base_output(logits, num_classes=3)
    assert torch.allclose(output.probs, PROBS[None], atol=1e-6)


def test_base_output_is_taken_as_it_is() -> None:
    given = BaseOutput(PROBS[None], torch.zeros(1, 8, 1, 2))
    assert as_base_output(given, num_classes=3) is given


def test_files(tmp_path: Path) -> None:
    write_mask(LABELS, tmp_path / "labels.png")
    np.save(tmp_path / "labels.npy", LABELS.numpy())
    np.save(tmp_path / "logits.npy", LOGITS.numpy())
    np.savez_compressed(tmp_path / "probs.npz", scores=PROBS.half().numpy())
    palette = PILImage.fromarray(LABELS.numpy().astype(np.uint8), mode="L").convert("P")
    palette.putdata(LABELS.flatten().tolist())
    palette.save(tmp_path / "palette.png")
    for name in ("labels.png", "labels.npy", "palette.png"):
        output = as_base_output(tmp_path / name, num_classes=3)
        assert torch.equal(output.probs, ONE_HOT[None]), name
    for name in ("logits.npy", "probs.npz"):
        output = as_base_output(str(tmp_path / name), num_classes=3)
        assert torch.allclose(output.probs, PROBS[None], atol=1e-3), name


def test_probabilities_are_scaled_to_one_exactly() -> None:
    output = BaseOutput.from_probs(PROBS[None] * 1.01)
    assert torch.allclose(output.probs, PROBS[None], atol=1e-6)


# refused


def spoiled(value: float) -> Tensor:
    logits = LOGITS.clone()
    logits[1, 2, 3] = value
    return logits


@pytest.mark.parametrize(
    ("base", "match"),
    [
        (spoiled(np.nan), "finite, got 1 NaN"),
        (spoiled(np.inf), "finite, got 1 NaN"),
        (spoiled(-np.inf).numpy(), "finite, got 1 NaN"),
        (BaseOutput(spoiled(np.nan)[None]), "finite, got 1 NaN"),
        (PROBS * 0.8, "sum to 1 over the classes.* off by 0.2"),
        (torch.full((3, 4, 5), 0.9), "off by 1.7"),
        (LABELS + 3, "ids from 0 to 2, or 255 for unknown, got 3, 4, 5"),
        (LABELS - 1, "got -1, 254 in 3 pixels"),
        (LABELS[0], r"shape \(h, w\) or \(batch, h, w\), got \(3,\)"),
        (LABELS[None, None], r"got \(1, 1, 2, 3\)"),
        (LABELS.double(), r"shape \(3, h, w\) or \(batch, 3, h, w\).* got \(2, 3\)"),
        (PROBS[None, None], r"got \(1, 1, 3, 4, 5\)"),
        (PROBS[:2], r"3 classes, got \(2, 4, 5\)"),
        (PROBS.movedim(0, -1), r"3 classes, got \(4, 5, 3\)"),
        (BaseOutput(PROBS[None, :2]), "model has 3 classes, the base gives 2"),
        (ModelOutput(PROBS[None, :2]), r"got \(1, 2, 4, 5\)"),
        (torch.zeros(3, 0, 5), r"empty, its shape is \(3, 0, 5\)"),
        (LOGITS.to(torch.complex64), "real numbers"),
        (np.array([["road"]]), "got ndarray of <U4"),
        (None, "got NoneType of object"),
        ({"road": 1}, "got dict of object"),
        (nn.Identity(), "got Identity of object"),
    ],
)
def test_bases_that_are_refused(base: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        as_base_output(base, num_classes=3)


def test_checks_of_the_constructors() -> None:
    with pytest.raises(InputError, match=r"minimum of -0\.5"):
        BaseOutput.from_probs(torch.tensor([1.5, -0.5]).view(1, 2, 1, 1))
    with pytest.raises(InputError, match="logits must be finite"):
        BaseOutput.from_logits(spoiled(np.inf)[None])
    with pytest.raises(InputError, match="got 7 in 1 pixels"):
        BaseOutput.from_labels(torch.tensor([[[0, 7, IGNORE]]]), num_classes=3)


@pytest.mark.parametrize("name", ["scores.npy", "scores.npz"])
@pytest.mark.parametrize("share", [0, 0.1, 0.6, 0.95])
def test_damaged_arrays(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    np.savez_compressed(path, PROBS) if name.endswith("z") else np.save(path, PROBS)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(InputError, match=name):
        as_base_output(path, num_classes=3)


def test_files_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.npy cannot be read"):
        as_base_output(tmp_path / "no.npy", num_classes=3)
    with pytest.raises(InputError, match=r"no\.png does not exist"):
        as_base_output(tmp_path / "no.png", num_classes=3)
    np.savez(tmp_path / "empty.npz")
    with pytest.raises(InputError, match=r"empty\.npz"):
        as_base_output(tmp_path / "empty.npz", num_classes=3)
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"objects\.npy"):
        as_base_output(tmp_path / "objects.npy", num_classes=3)
    write_mask(LABELS + 3, tmp_path / "high.png")
    with pytest.raises(InputError, match=r"high\.png needs ids from 0 to 2"):
        as_base_output(tmp_path / "high.png", num_classes=3)
    PILImage.new("RGB", (4, 4)).save(tmp_path / "colours.png")
    with pytest.raises(InputError, match="mode RGB"):
        as_base_output(tmp_path / "colours.png", num_classes=3)


# images


@pytest.mark.filterwarnings("error")
def test_images(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    picture = PILImage.fromarray(array)
    picture.save(tmp_path / "photo.png")
    expected = torch.from_numpy(array).movedim(-1, 0)[None].float() / 255
    same = [
        picture,
        tmp_path / "photo.png",
        str(tmp_path / "photo.png"),
        array,
        np.asarray(picture),  # not writable
        array[::-1][::-1],
        array / 255,
        expected[0],
        expected,
        (expected * 255).to(torch.uint8),
    ]
    for image in same:
        assert torch.allclose(as_image(image), expected, atol=1e-6)
    assert as_image(picture.convert("L")).shape == (1, 3, 4, 5)


@pytest.mark.parametrize(
    ("image", "match"),
    [
        (np.zeros((4, 5), np.uint8), r"\(h, w, 3\), got \(4, 5\)"),
        (np.zeros((4, 5, 4), np.uint8), r"\(h, w, 3\), got \(4, 5, 4\)"),
        (torch.zeros(4, 5, 3), r"\(batch, 3, h, w\), got \(4, 5, 3\)"),
        (torch.zeros(2, 1, 3, 4, 5), r"got \(2, 1, 3, 4, 5\)"),
        (torch.zeros(3, 0, 5), r"got \(3, 0, 5\)"),
        (torch.full((3, 4, 5), 200.0), "got 200 to 200"),
        (torch.full((3, 4, 5), torch.nan), "got nan to nan"),
        (np.full((4, 5, 3), 40_000, np.uint16), "got 4e.04 to 4e.04"),
        (torch.full((3, 4, 5), -1), "got -1 to -1"),
        (PILImage.new("I;16", (4, 5)), "mode I;16"),
        (PILImage.new("F", (4, 5)), "mode F"),
        ([[1]], "got list"),
        (None, "got NoneType"),
    ],
)
def test_images_that_are_refused(image: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        as_image(image)


def test_sizes_that_differ() -> None:
    image = torch.zeros(1, 3, 8, 6)
    check_same_size(image, BaseOutput(torch.zeros(1, 2, 8, 6)))
    for shape in ((1, 2, 6, 8), (2, 2, 8, 6), (1, 2, 8, 5)):
        with pytest.raises(InputError, match="got 1 of 8x6 and"):
            check_same_size(image, BaseOutput(torch.zeros(shape)))


# the own segmenter


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("size", [(1, 1), (33, 47), (64, 64)])
def test_segmenter_takes_any_size(size: tuple[int, int], scale: float) -> None:
    model = small(scale=scale)
    output = model(torch.rand(2, 3, *size))
    assert output.probs.shape == (2, 3, *size)
    assert torch.allclose(output.probs.sum(1), torch.ones(2, *size), atol=1e-5)
    seen = [max(1, round(side * scale)) for side in size]
    assert output.features is not None
    assert output.features.shape == (2, 8, *(-(-side // 4) for side in seen))


def test_segmenter_rows_do_not_see_each_other() -> None:
    model = small()
    images = torch.rand(3, 3, 33, 47)
    together = model(images).probs
    alone = torch.cat([model(image[None]).probs for image in images])
    assert torch.allclose(together, alone, atol=1e-5)
    assert together.std(0).max() > 1e-3


def test_segmenter_call_leaves_statistics_and_modes_alone() -> None:
    model = small()
    model.train()
    model.network.encoder.eval()  # as fine-tuning with fixed statistics does
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    first, second = model(torch.rand(2, 3, 32, 32)), model(torch.zeros(2, 3, 32, 32))
    assert not torch.equal(first.probs, second.probs)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert any(modes)
    assert not all(modes)


def test_segmenter_in_training_mode_answers_as_in_evaluation() -> None:
    model, image = small(), torch.rand(2, 3, 32, 32)
    assert torch.equal(model.train()(image).probs, model.eval()(image).probs)


def test_modes_come_back_also_after_an_error() -> None:
    model = small().train()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert all(module.training for module in model.modules())
    with pytest.raises(RuntimeError):
        model(torch.rand(1, 3, 32, 32).double())
    assert all(module.training for module in model.modules())


def test_segmenter_logits_have_gradients() -> None:
    model = small()
    logits, _ = model.logits(torch.rand(2, 3, 33, 47))
    logits.sum().backward()  # type: ignore[no-untyped-call]
    stem = model.network.encoder.stem[0].weight
    assert isinstance(stem, Tensor)
    assert stem.grad is not None


def test_flip_average_of_a_mirror_image_is_its_mirror_image() -> None:
    model, image = small(), torch.rand(1, 3, 32, 64)
    here, there = flip_average(model, image), flip_average(model, image.flip(-1))
    assert torch.allclose(here.probs, there.probs.flip(-1), atol=1e-5)
    assert here.features is not None
    assert torch.equal(here.features, model(image).features)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"class_names": ("land",)}, "1 names, the network 3 classes"),
        ({"scale": 0.0}, r"scale must lie in \(0, 4\]"),
        ({"scale": 5.0}, r"scale must lie in \(0, 4\]"),
    ],
)
def test_segmenter_configs_that_cannot_be(fields: dict[str, Any], match: str) -> None:
    given = {"class_names": ("a", "b", "c"), "network": FPNConfig(num_classes=3), **fields}
    with pytest.raises(ValueError, match=match):
        SegmenterConfig(**given)
