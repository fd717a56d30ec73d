"""Models and trainings compute where they are: no tensor is left on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils import backend_registration

from backbone_layouts import write_backbone
from crispmask.data.sample import write_mask

SCRIPT = Path(__file__).parent / "run_on_other_device.py"

needs_python_backend = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch cannot make a device in Python",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of three classes, two images a split, a corner unknown."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "classes.txt").write_text("land\nwater\ncloud")
    generator = torch.Generator().manual_seed(0)
    for split in ("train", "val"):
        for part in ("images", "labels"):
            (folder / split / part).mkdir(parents=True)
        for i in range(2):
            pixels = torch.randint(256, (40, 48, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(folder / split / "images" / f"{i}.png")
            mask = torch.randint(3, (5, 6), generator=generator)
            mask = mask.repeat_interleave(8, 0).repeat_interleave(8, 1)
            mask[:4, :4] = 255
            write_mask(mask, folder / split / "labels" / f"{i}.png")
    return folder


@needs_python_backend
def test_all_is_computed_where_the_model_is(
    tiny_models: Path, tiny_words: Path, data: Path, tmp_path: Path
) -> None:
    backbone = write_backbone(tmp_path / "backbone", "sd1")
    folders = [str(path) for path in (tiny_models, tiny_words, backbone, data)]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *folders],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("all on one device\n")
