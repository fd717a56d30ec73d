"""Diffusion models for semantic segmentation: refine the masks you have.

The public names below are imported when they are first used, so that ``import crispmask`` is quick.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from crispmask.errors import InputError

if TYPE_CHECKING:
    from crispmask.data.catalog import camvid
    from crispmask.data.earth import earth
    from crispmask.data.folder import FolderDataset
    from crispmask.data.sample import Sample, read_image, read_mask, write_mask
    from crispmask.data.strokes import read_known
    from crispmask.diffusion.categorical import AbsorbingDiffusion, UniformDiffusion
    from crispmask.diffusion.mixed import MixedDiffusion
    from crispmask.diffusion.samplers import sample_mask
    from crispmask.metrics.boundary import BoundaryIoU
    from crispmask.metrics.calibration import CalibrationError
    from crispmask.metrics.confusion import ConfusionMatrix
    from crispmask.models.inputs import as_base_output
    from crispmask.models.interactive import Correction
    from crispmask.models.prior import MaskPrior
    from crispmask.models.refiner import MaskRefiner
    from crispmask.models.refiner_config import RefinerConfig
    from crispmask.models.refiner_parts import RefinerOutput
    from crispmask.models.segmenters import BaseOutput, FPNSegmenter
    from crispmask.models.text_segmenter import TextSegmenter
    from crispmask.nn.unet import MaskUNet
    from crispmask.report import Report
    from crispmask.shapes import IGNORE

__version__ = version("crispmask")

_MODULES = {
    "data.catalog": ("camvid",),
    "data.earth": ("earth",),
    "data.folder": ("FolderDataset",),
    "data.sample": ("Sample", "read_image", "read_mask", "write_mask"),
    "data.strokes": ("read_known",),
    "diffusion.categorical": ("AbsorbingDiffusion", "UniformDiffusion"),
    "diffusion.mixed": ("MixedDiffusion",),
    "diffusion.samplers": ("sample_mask",),
    "metrics.boundary": ("BoundaryIoU",),
    "metrics.calibration": ("CalibrationError",),
    "metrics.confusion": ("ConfusionMatrix",),
    "models.inputs": ("as_base_output",),
    "models.interactive": ("Correction",),
    "models.prior": ("MaskPrior",),
    "models.refiner": ("MaskRefiner",),
    "models.refiner_config": ("RefinerConfig",),
    "models.refiner_parts": ("RefinerOutput",),
    "models.segmenters": ("BaseOutput", "FPNSegmenter"),
    "models.text_segmenter": ("TextSegmenter",),
    "nn.unet": ("MaskUNet",),
    "report": ("Report",),
    "shapes": ("IGNORE",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "IGNORE",
    "AbsorbingDiffusion",
    "BaseOutput",
    "BoundaryIoU",
    "CalibrationError",
    "ConfusionMatrix",
    "Correction",
    "FPNSegmenter",
    "FolderDataset",
    "InputError",
    "MaskPrior",
    "MaskRefiner",
    "MaskUNet",
    "MixedDiffusion",
    "RefinerConfig",
    "RefinerOutput",
    "Report",
    "Sample",
    "TextSegmenter",
    "UniformDiffusion",
    "__version__",
    "as_base_output",
    "camvid",
    "earth",
    "read_image",
    "read_known",
    "read_mask",
    "sample_mask",
    "write_mask",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'crispmask' has no attribute {name!r}")
    value = getattr(import_module(f"crispmask.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
