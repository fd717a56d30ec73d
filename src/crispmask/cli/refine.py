"""``crispmask refine``: better masks from masks."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro
from jaxtyping import Bool, Int64
from rich.console import Console
from rich.progress import track
from torch import Tensor

from crispmask.cli.device import on_device
from crispmask.cli.matching import Paths, expand, match, match_some
from crispmask.cli.output import check_kept, check_output, write_labels, write_picture, write_share
from crispmask.data.catalog import palette_for
from crispmask.data.decoded import read_foreground
from crispmask.data.folder import IMAGE_SUFFIXES, LABEL_SUFFIXES
from crispmask.data.sample import overlay, read_image
from crispmask.data.strokes import KNOWN_SUFFIXES, read_known
from crispmask.diffusion.samplers import check_order
from crispmask.errors import InputError, warn
from crispmask.metrics.conformal import label_sets
from crispmask.models.ensemble import EnsembleOutput, over_seeds
from crispmask.models.inputs import as_base_output, check_same_size
from crispmask.models.refiner import MaskRefiner
from crispmask.models.refiner_config import Sampling
from crispmask.models.refiner_parts import RefinerOutput
from crispmask.models.segmenters import BaseOutput
from crispmask.predict import refine_windows
from crispmask.shapes import Image

BASE_SUFFIXES = (*LABEL_SUFFIXES, ".npy", ".npz")

PARTS = ("labels", "overlays", "uncertainty", "disagreement", "label-sets")
"""Folders of the output; the last three are written if asked for."""


@dataclass(frozen=True, kw_only=True)
class RefineArguments:
    """Refine the masks that a segmenter already gives.

    Writes OUTPUT/labels/NAME.png and OUTPUT/overlays/NAME.png for each image; every input is read
    and checked before the first file is written.

    Example: crispmask refine photo.jpg --base mask.png --model earth-small --output refined

    Attributes:
        images: image files, or folders of images.
        base: label PNGs, or .npy / .npz files of labels, logits or probabilities (classes first),
            or folders of these; several are matched with the images by name without ending.
        known: labels that are certain: label PNGs with 255 where unknown, strokes and polygons as
            GeoJSON or COCO (see docs/evidence.md), or folders of these; matched like bases, a COCO
            file by the file names inside. Images without any are refined plainly.
        missing: where neither image nor base is to be believed, under a cloud for instance:
            pictures that are white there and black elsewhere, or folders of these, matched like
            ``known``. A model that was trained with holes fills them.
        model: bundled name such as earth-small, or a folder.
        output: folder to write to.
        sampling: options of the chain of calls.
        ensemble_size: seeds to average over, the first of which is --seed.
        uncertainty: also write OUTPUT/uncertainty/NAME.png, 0 certain to 255 a uniform guess, and,
            with several seeds, OUTPUT/disagreement/NAME.png on the same scale: the part of the
            uncertainty that differs from seed to seed.
        label_sets: also write OUTPUT/label-sets/NAME.png, how many labels a pixel must keep for
            the coverage that `crispmask calibrate --coverage` promised.
        device: where the network runs: cpu, cuda, cuda:1, mps.
    """

    images: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="IMAGE...")]
    base: tuple[Path, ...]
    known: Paths = None
    missing: Paths = None
    model: str
    output: Path
    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = field(default_factory=Sampling)
    ensemble_size: int = 1
    uncertainty: bool = False
    label_sets: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.images or not self.base:
            raise InputError("at least one image and one --base are needed.")
        if self.ensemble_size < 1:
            raise InputError(f"--ensemble-size must be at least 1, got {self.ensemble_size}.")


def refine(args: RefineArguments) -> int:
    """Refine each image's mask and write the results."""
    check_output(args.output)
    pairs = match(expand(args.images, IMAGE_SUFFIXES), args.base, suffixes=BASE_SUFFIXES)
    images = [image for image, _ in pairs]
    known = match_some(images, args.known, suffixes=KNOWN_SUFFIXES, what="known labels")
    missing = match_some(images, args.missing, suffixes=LABEL_SUFFIXES, what="missing pixels")
    read = [*images, *(base for _, base in pairs), *known.values(), *missing.values()]
    check_kept(read, [args.output / part / f"{i.stem}.png" for i in images for part in PARTS])
    refiner = on_device(MaskRefiner.from_pretrained(args.model), args.device)
    check_order(args.sampling.order, refiner.process, args.sampling.eta)
    threshold = refiner.config.label_threshold
    if args.label_sets and threshold is None:
        raise InputError(
            f"--label-sets needs a model with a coverage, {args.model} has none; run `crispmask "
            "calibrate` with --coverage on it."
        )
    if known and refiner.codec is not None:
        raise InputError(
            f"--known needs a model whose state is one of labels, {args.model} diffuses the codes "
            "of a learned codec; use one without codec."
        )
    class_names = refiner.config.class_names
    palette = palette_for(class_names)
    console = Console(stderr=True, markup=False)
    files = [
        Files(image=image, base=base, known=known.get(image), missing=missing.get(image))
        for image, base in pairs
    ]
    for one in track(
        files, "checking", console=console, transient=True, disable=not console.is_terminal
    ):
        read_inputs(one, class_names)
    for one in track(files, "refining", console=console):
        name, inputs = one.image.stem, read_inputs(one, class_names)
        out = refine_one(refiner, inputs, args, name=name)
        labels = out.labels[0].cpu()
        write_labels(labels, args.output / "labels" / f"{name}.png")
        seen = overlay(inputs.image[0], labels, palette)
        write_picture(seen, args.output / "overlays" / f"{name}.png")
        if args.uncertainty:
            write_share(out.uncertainty[0], args.output / "uncertainty" / f"{name}.png")
            if args.ensemble_size > 1:
                write_share(out.disagreement[0], args.output / "disagreement" / f"{name}.png")
        if args.label_sets and threshold is not None:
            count = label_sets(out.probs, threshold).sum(1)[0]
            write_labels(count, args.output / "label-sets" / f"{name}.png")
    console.print(f"{len(pairs)} refined masks in {args.output}", soft_wrap=True)
    return 0


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of one image."""

    image: Path
    base: Path
    known: Path | None
    missing: Path | None


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the refiner is given for one image.

    Attributes:
        image: of which some pixels may be missing.
        base: of the image's size.
        known: labels that are certain.
        missing: pixels of which neither image nor base says anything.
    """

    image: Image
    base: BaseOutput
    known: Int64[Tensor, "h w"] | None
    missing: Bool[Tensor, "h w"] | None


def read_inputs(files: Files, class_names: Sequence[str]) -> Inputs:
    """What the files say.

    Raises:
        InputError: if one cannot be read or they do not fit each other.
    """
    image = read_image(files.image)[None]
    base = as_base_output(files.base, num_classes=len(class_names))
    try:
        check_same_size(image, base)
    except InputError as error:
        raise InputError(f"{files.image} and {files.base}: {error}") from error
    size, known, missing = image.shape[-2:], None, None
    if files.known is not None:
        known = read_known(
            files.known, size=size, class_names=class_names, image_name=files.image.stem
        )
    if files.missing is not None:
        missing = read_foreground(files.missing) > 0
        if missing.shape != size:
            raise InputError(
                f"missing pixels must have the size of their image, {files.missing} is "
                f"{'x'.join(map(str, missing.shape))} (height x width) and {files.image} "
                f"{'x'.join(map(str, size))}; draw them on the image itself."
            )
        if not missing.any():
            warn(f"{files.missing} hides no pixel: it is white nowhere.")
    return Inputs(image=image, base=base, known=known, missing=missing)


def refine_one(
    refiner: MaskRefiner, inputs: Inputs, args: RefineArguments, *, name: str
) -> EnsembleOutput:
    """One image, window by window, averaged over the seeds."""

    def with_seed(seed: int) -> RefinerOutput:
        sampling = replace(args.sampling, seed=seed)
        return refine_windows(
            refiner,
            inputs.image,
            inputs.base,
            sampling=sampling,
            known=inputs.known,
            missing=inputs.missing,
            name=name,
        )

    first = args.sampling.seed
    return over_seeds(with_seed, range(first, first + args.ensemble_size))
