"""Checks tensor shapes while the tests run, and keeps them quick, repeatable and offline."""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook("crispmask", "shape_checker.check")

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

torch.set_num_threads(1)  # tensors of a test are small, and pytest-xdist uses the cores


@pytest.fixture(scope="session", autouse=True)
def full_precision() -> Iterator[None]:
    """float32 also on CPUs that compute in bf16, whose results depend on the batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
        yield


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with base/, refiner/ and control/ over three classes, weights drawn at random."""
    from crispmask.models.refiner import MaskRefiner
    from crispmask.models.refiner_config import RefinerConfig, condition_channels
    from crispmask.models.segmenters import FPNSegmenter, SegmenterConfig
    from crispmask.nn.fpn import FPNConfig
    from crispmask.nn.unet import MaskUNetConfig

    folder = tmp_path_factory.mktemp("tiny")
    names = ("land", "water", "cloud")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = FPNSegmenter(
            SegmenterConfig(class_names=names, network=FPNConfig(num_classes=3, channels=8))
        )
        base.save_pretrained(folder / "base")
        for part, state_input in (("refiner", True), ("control", False)):
            network = MaskUNetConfig(
                num_classes=3,
                cond_channels=condition_channels("probs", 3, stride=2),
                widths=(8, 16),
                state_input=state_input,
            )
            model = MaskRefiner(RefinerConfig(class_names=names, network=network))
            torch.nn.init.normal_(model.network.classifier.weight)
            model.save_pretrained(folder / part)
    return folder


@pytest.fixture(scope="session")
def tiny_words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a text segmenter, weights drawn at random; it knows words of ten letters."""
    from tiny_text import tiny_segmenter

    folder = tmp_path_factory.mktemp("words") / "tiny-words"
    tiny_segmenter(class_names=("water", "forest")).save_pretrained(folder)
    return folder
