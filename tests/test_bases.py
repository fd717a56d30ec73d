"""Any base from its folder: our classes, and SegFormer as transformers keeps it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from crispmask.errors import InputError
from crispmask.models.bases import load_base
from crispmask.models.segformer import SegformerBase, SegformerBaseConfig
from crispmask.models.segmenters import FPNSegmenter
from published_layouts import transformers_segformer

NAMES = ("land", "water", "cloud")
TINY = SegformerBaseConfig(
    class_names=NAMES, widths=(8, 16, 40, 64), depths=(1, 1, 1, 1), neck_channels=12
)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return transformers_segformer(tmp_path_factory.mktemp("segformer"), 3)


def test_a_segformer_of_transformers_answers_as_there(theirs: Path, tmp_path: Path) -> None:
    from transformers import SegformerForSemanticSegmentation

    original: Any = SegformerForSemanticSegmentation.from_pretrained(theirs)
    original.eval()
    read: list[Tensor] = []
    original.decode_head.classifier.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    base, image = load_base(theirs, class_names=NAMES), torch.rand(2, 3, 64, 96)
    assert isinstance(base, SegformerBase)
    with torch.no_grad():
        logits = original((image - base.mean) / base.std).logits
    expected = F.interpolate(logits, scale_factor=4.0, mode="bilinear").softmax(1)
    for model in (base, saved(base, tmp_path)):
        out = model(image)
        torch.testing.assert_close(out.probs, expected)
        torch.testing.assert_close(out.features, read[0])
        assert model.feature_channels == 12
        assert not model.training


def saved(base: SegformerBase, folder: Path) -> SegformerBase:
    """The same through our own files."""
    base.save_pretrained(folder / "base")
    loaded = load_base(folder, class_names=NAMES)
    assert isinstance(loaded, SegformerBase)
    return loaded


def test_our_own(tiny_models: Path) -> None:
    base = load_base(tiny_models, class_names=NAMES)
    assert isinstance(base, FPNSegmenter)
    assert base.feature_channels == 8
    with pytest.raises(InputError, match="knows the classes land, water, cloud, the data a, b, c"):
        load_base(tiny_models, class_names=("a", "b", "c"))


def test_a_base_without_a_classifier_fits_any_data(tmp_path: Path) -> None:
    SegformerBase(replace(TINY, classifier=False)).save_pretrained(tmp_path)
    base = load_base(tmp_path, class_names=("a", "b"))
    assert base(torch.rand(1, 3, 32, 32)).probs.shape == (1, 2, 32, 32)


def test_names_are_the_models_own_unless_given(theirs: Path, tiny_models: Path) -> None:
    assert load_base(tiny_models).config.class_names == NAMES
    assert load_base(theirs).config.class_names == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_bases_that_are_refused(theirs: Path, tiny_models: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tells 3 classes apart, the data 2"):
        load_base(theirs, class_names=("a", "b"))
    with pytest.raises(InputError, match="holds a MaskRefiner, needed as a base is one of FPN"):
        load_base(tiny_models / "refiner", class_names=NAMES)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json cannot be read"):
        load_base(tmp_path, class_names=NAMES)
    config = json.loads((theirs / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="holds no SegFormer that transformers reads"):
        load_base(tmp_path, class_names=NAMES)


def test_a_pickle_of_weights_is_refused(theirs: Path, tmp_path: Path) -> None:
    weights = load_file(theirs / "model.safetensors")
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((theirs / "config.json").read_text())
    with pytest.raises(InputError, match=r"as a pickle \(\.bin\), which can run code"):
        load_base(tmp_path, class_names=NAMES)


def test_other_layouts_are_refused(theirs: Path, tmp_path: Path) -> None:
    for file in theirs.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((theirs / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    with pytest.raises(InputError, match="hidden_act gelu to be read, got relu"):
        load_base(tmp_path, class_names=NAMES)


def test_a_backbone_alone_is_no_base(tmp_path: Path) -> None:
    from transformers import SegformerConfig, SegformerModel

    sizes: dict[str, Any] = {
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [8, 16, 40, 64],
        "num_labels": 3,
    }
    SegformerModel(SegformerConfig(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"lacks .* tensors of a SegFormer with a decoder"):
        load_base(tmp_path, class_names=NAMES)
