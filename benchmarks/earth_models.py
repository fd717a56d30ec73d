"""The models that the Earth benchmarks share, and what they say of a split."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from crispmask.atomic import write_atomic
from crispmask.data.earth import EarthDataset
from crispmask.models.refiner import MaskRefiner
from crispmask.models.segmenters import BaseOutput, FPNSegmenter
from crispmask.provenance import provenance
from crispmask.shapes import Image, Mask, Probs

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True)
class Models:
    """A base and its refiners, one per seed."""

    base: FPNSegmenter
    refiners: tuple[MaskRefiner, ...]

    def flipped(self, image: Image) -> BaseOutput:
        """The base averaged with its answer to the mirrored image."""
        mirrored: Probs = self.base(image.flip(-1)).probs.flip(-1)
        return BaseOutput(probs=(self.base(image).probs + mirrored) / 2)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a base and the refiners behind it say of a split; tiles in the place of a batch."""

    truth: Mask
    base: Probs
    refined: tuple[Float[Tensor, "b k h w"], ...]


def options(description: str | None) -> argparse.ArgumentParser:
    """Where models and results are."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--runs",
        type=Path,
        help="folder with earth-base and earth-refiner-0, -1, ... of train_first_light.sh; "
        "without it the bundled models are used",
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser


def load(runs: Path | None) -> Models:
    """The models in a folder of runs, or the bundled ones."""
    if runs is None:
        base = FPNSegmenter.from_pretrained("earth-small")
        return Models(base=base, refiners=(MaskRefiner.from_pretrained("earth-small"),))
    folders = sorted(runs.glob("earth-refiner-[0-9]"))
    return Models(
        base=FPNSegmenter.from_pretrained(runs / "earth-base"),
        refiners=tuple(MaskRefiner.from_pretrained(folder) for folder in folders),
    )


@torch.inference_mode()
def answers(models: Models, data: EarthDataset, *, flip: bool) -> Answers:
    """Of the base, or of base + flip, and of each refiner in one call behind it."""
    truth, base, refined = [], [], []
    for sample in (data[i] for i in range(len(data))):
        image = sample.image[None]
        output = models.flipped(image) if flip else models.base(image)
        truth.append(sample.mask)
        base.append(output.probs[0])
        outs = [
            refiner(image, output, seed=seed, names=[sample.name]).probs[0]
            for seed, refiner in enumerate(models.refiners)
        ]
        refined.append(torch.stack(outs))
    by_seed = torch.stack(refined, dim=1)  # seeds b k h w
    return Answers(truth=torch.stack(truth), base=torch.stack(base), refined=tuple(by_seed))


def save(name: str, results: Mapping[str, Any], folder: Path) -> None:
    """Write and print results with what they need beside them."""
    whole = dict(results) | {"provenance": dict(provenance())}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{name}.json", json.dumps(whole, indent=1) + "\n")
    print(json.dumps(whole, indent=1))
