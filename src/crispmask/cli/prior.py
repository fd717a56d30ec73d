"""``crispmask prior``: draw masks, fill holes, and say which regions are unlikely."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from jaxtyping import UInt8
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from crispmask.atomic import write_atomic
from crispmask.cli.device import on_device
from crispmask.cli.matching import expand
from crispmask.cli.output import check_kept, check_output, write_labels, write_picture
from crispmask.data.catalog import palette_for
from crispmask.data.folder import LABEL_SUFFIXES
from crispmask.data.sample import Palette, colorize, read_mask
from crispmask.diffusion.samplers import timesteps
from crispmask.errors import InputError
from crispmask.models.prior import MaskPrior

COLUMNS = 4
"""Samples in a row of the picture."""

Masks = Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="MASK...")]
Model = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]


@dataclass(frozen=True, kw_only=True)
class SampleArguments:
    """Draw masks from a prior.

    Writes OUTPUT/labels/000.png, 001.png, ... and all of them in colour as OUTPUT/samples.png.

    Example: crispmask prior sample runs/prior --output drawn --count 8

    Attributes:
        model: folder or hub id of a mask prior.
        output: folder to write to.
        count: number of masks.
        size: height and width; by default a square of as many pixels as the prior was trained on.
        num_inference_steps: calls of the network, 1 to 1000; more is better.
        seed: of the noise; mask i depends on it and on i alone.
        device: where the network runs: cpu, cuda, cuda:1, mps.
    """

    model: Model
    output: Path
    count: int = 12
    size: tuple[int, int] | None = None
    num_inference_steps: int = 50
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        timesteps(self.num_inference_steps)  # checks the number
        if self.count < 1 or min(self.size or (1, 1)) < 1:
            raise InputError(
                f"--count and --size must be at least 1, got {self.count} and {self.size}."
            )


@dataclass(frozen=True, kw_only=True)
class CompleteArguments:
    """Fill the unknown pixels (255) of masks.

    Writes OUTPUT/labels/NAME.png, and OUTPUT/pictures/NAME.png with the mask before and after in
    colour, unknown pixels black. Known pixels stay as they are.

    Example: crispmask prior complete runs/prior holes/ --output filled

    Attributes:
        model: folder or hub id of a mask prior.
        masks: label PNGs, or folders of these.
        output: folder to write to.
        num_inference_steps: calls of the network, 1 to 1000; below ten little of what is known is
            seen.
        seed: of the noise; another one fills in something else.
        device: where the network runs: cpu, cuda, cuda:1, mps.
    """

    model: Model
    masks: Masks
    output: Path
    num_inference_steps: int = 50
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        timesteps(self.num_inference_steps)


@dataclass(frozen=True, kw_only=True)
class RegionsArguments:
    """Rank the connected regions of masks by how unlikely their labels are, given the others.

    Prints the least plausible and writes OUTPUT/regions.json with all of them: label, area in
    pixels, box (top, left, bottom, right) and the mean of -log2 p(label) in bits.

    Example: crispmask prior regions runs/prior my-data/train/labels --output scored

    Attributes:
        model: folder or hub id of a mask prior.
        masks: label PNGs, or folders of these.
        output: folder to write to.
        min_area: smallest region that is listed, in pixels.
        seed: of the noise.
        device: where the network runs: cpu, cuda, cuda:1, mps.
    """

    model: Model
    masks: Masks
    output: Path
    min_area: int = 1
    seed: int = 0
    device: str = "cpu"


def sample(args: SampleArguments) -> int:
    """Draw masks and write them."""
    check_output(args.output)
    prior = on_device(MaskPrior.from_pretrained(args.model), args.device)
    masks = prior.sample(
        args.count,
        size=args.size,
        num_inference_steps=args.num_inference_steps,
        seed=args.seed,
    )
    for i, mask in enumerate(masks):
        write_labels(mask, args.output / "labels" / f"{i:03}.png")
    palette = palette_for(prior.config.class_names)
    write_picture(grid(masks, palette), args.output / "samples.png")
    _say(f"{args.count} masks in {args.output}, look at {args.output / 'samples.png'}")
    return 0


def complete(args: CompleteArguments) -> int:
    """Fill each mask and write it."""
    check_output(args.output)
    prior = on_device(MaskPrior.from_pretrained(args.model), args.device)
    palette = palette_for(prior.config.class_names)
    given = dict(_read(args.masks, prior))
    parts = ("labels", "pictures")
    check_kept(given, [args.output / part / f"{path.stem}.png" for path in given for part in parts])
    for path, mask in track(given.items(), "filling", console=Console(stderr=True, markup=False)):
        filled = prior.complete(
            mask[None], num_inference_steps=args.num_inference_steps, seed=args.seed
        )[0]
        write_labels(filled, args.output / "labels" / f"{path.stem}.png")
        pair = np.concatenate([colorize(mask, palette), colorize(filled, palette)], axis=1)
        write_picture(pair, args.output / "pictures" / f"{path.stem}.png")
    _say(f"{len(given)} masks in {args.output}")
    return 0


def regions(args: RegionsArguments) -> int:
    """Rank the regions of all masks."""
    check_output(args.output)
    prior = on_device(MaskPrior.from_pretrained(args.model), args.device)
    given = dict(_read(args.masks, prior))
    names = prior.config.class_names
    found: list[dict[str, Any]] = [
        {"mask": path.name, "class": names[region.label], **asdict(region)}
        for path, mask in track(
            given.items(), "looking", console=Console(stderr=True, markup=False)
        )
        for region in prior.regions(mask, seed=args.seed)
        if region.area >= args.min_area
    ]
    found.sort(key=lambda region: -region["bits"])
    args.output.mkdir(parents=True, exist_ok=True)
    write_atomic(args.output / "regions.json", json.dumps(found, indent=1) + "\n")
    table = Table("mask", "class", "row", "column", "pixels", "bits", box=None)
    for region in found[:10]:
        top, left, *_ = region["box"]
        cells = (region["mask"], region["class"], top, left, region["area"])
        table.add_row(*map(str, cells), f"{region['bits']:.1f}")
    Console(soft_wrap=True, markup=False).print(table)
    _say(f"{len(found)} regions in {args.output / 'regions.json'}")
    return 0


def grid(masks: Tensor, palette: Palette) -> UInt8[np.ndarray, "h w 3"]:
    """Masks of one size in colour, `COLUMNS` in a row, white between them."""
    tiles = [
        np.pad(colorize(mask, palette), ((2, 2), (2, 2), (0, 0)), constant_values=255)
        for mask in masks
    ]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % min(COLUMNS, len(tiles)))
    columns = min(COLUMNS, len(tiles))
    rows = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
    return np.concatenate(rows)


def _read(paths: tuple[Path, ...], prior: MaskPrior) -> Iterator[tuple[Path, Tensor]]:
    """Each mask with its file, ids checked.

    Raises:
        InputError: if there is none, two share a name, or one cannot be read or holds an id that is
            neither a class of the prior nor 255.
    """
    files = expand(paths, LABEL_SUFFIXES)
    if not files:
        raise InputError("at least one mask is needed.")
    stems = [path.stem for path in files]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise InputError(f"masks must differ in name, got {twice[0]!r} more than once.")
    for path in files:
        yield path, read_mask(path, len(prior.config.class_names))


def _say(text: str) -> None:
    Console(stderr=True, soft_wrap=True, markup=False).print(text)
