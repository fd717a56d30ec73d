"""``crispmask evaluate``: a base and its refiners over a data set."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from crispmask.cli.device import on_device
from crispmask.cli.output import check_output
from crispmask.data.class_names import common_names
from crispmask.data.source import Split, open_data
from crispmask.data.wide_labels import WideLabelDataset
from crispmask.errors import InputError
from crispmask.evaluate import LabelledImages, evaluate, refiner_rows
from crispmask.models.bases import load_base
from crispmask.models.checkpoint import find_model
from crispmask.models.refiner import MaskRefiner


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """Measure a base segmenter, its refiners and the honest comparisons on a data set.

    Prints the table and writes OUTPUT/report.html and OUTPUT/report.json.

    Example: crispmask evaluate runs/refiner DIR/val --base runs/base --output report

    Attributes:
        model: bundled name such as earth-small; a folder with base/, refiner/ and control/, further
            seeds in refiner-1/, control-1/ and so on; the folder of a segmenter alone; or, with
            --base, that of a refiner.
        data: earth (its test blocks), earth:val, fields, camvid:FOLDER/val and the like, or a
            folder with images/ and labels/. Names in a classes.txt, there or above it, must be
            the model's.
        base: bundled name, folder or hub id of the base that the refiner MODEL stands behind.
        control: folder of its control, trained alike with --no-state-input; needs --base.
        output: folder to write to.
        json: print the whole report as one JSON object in the last line, all else on stderr.
        limit: images at most, spread evenly over the data set.
        device: where the networks run: cpu, cuda, cuda:1, mps.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    base: str | None = None
    control: str | None = None
    output: Path
    json: bool = False
    limit: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.control is not None and self.base is None:
            raise InputError("--control belongs to a refiner behind --base; name its base, too.")


def run_evaluation(args: EvaluateArguments) -> int:
    """Evaluate and show the report."""
    check_output(args.output)
    if args.base is None:
        folder = find_model(args.model)
        _check_no_refiner(folder)
        refiners, controls = (
            seeds(folder, part, device=args.device) for part in ("refiner", "control")
        )
    else:
        folder = find_model(args.base, part="base")
        refiners, controls = (
            [on_device(MaskRefiner.from_pretrained(name), args.device) for name in names]
            for names in ((args.model,), (args.control,) if args.control else ())
        )
    _check_alike(refiners, controls)
    names = refiners[0].config.class_names if refiners else None
    segmenter = on_device(load_base(folder, class_names=names), args.device)
    dataset = open_known(args.data, segmenter.config.class_names)
    rows = refiner_rows(
        refiners,
        controls,
        flip_segmenter=segmenter,
        num_classes=len(segmenter.config.class_names),
        steps=(1, 3, 10) if refiners else (),
    )
    title = f"{args.model} on {args.data}"
    report = evaluate(dataset, segmenter, rows, title=title, limit=args.limit)
    _, page = report.write(args.output)
    console = Console(stderr=args.json, markup=False)
    console.print(report.table())
    console.print(f"look at {page}", soft_wrap=True)
    if args.json:
        print(json.dumps(report.to_json()))
    return 0


def _check_alike(refiners: Sequence[MaskRefiner], controls: Sequence[MaskRefiner]) -> None:
    """Refuse models that cannot stand in one table."""
    named = {
        f"{part} {number}": model.config.class_names
        for part, models in (("refiner", refiners), ("control", controls))
        for number, model in enumerate(models)
    }
    if named:
        common_names(named)
    if any(control.config.network.state_input for control in controls):
        raise InputError(
            "a control reads no mask, this one does; train it with --no-state-input, or evaluate "
            "it as a refiner."
        )


def _check_no_refiner(folder: Path) -> None:
    """Say what to do where a refiner is given without the base that it stands behind."""
    config = folder / "config.json"
    if config.is_file() and f'"{MaskRefiner.__name__}"' in config.read_text():
        raise InputError(
            f"{folder} holds a refiner; say with --base which base it stands behind, or give a "
            "folder with base/ and refiner/."
        )


def seeds(folder: Path, part: str, *, device: str = "cpu") -> list[MaskRefiner]:
    """The models in PART/, PART-1/, PART-2/ and so on, in this order; all else is no seed."""
    found = [
        (int(match[1] or 0), path)
        for path in folder.iterdir()
        if path.is_dir() and (match := re.fullmatch(rf"{part}(?:-(\d+))?", path.name))
    ]
    return [on_device(MaskRefiner.from_pretrained(path), device) for _, path in sorted(found)]


def open_known(name: str, class_names: Sequence[str], *, split: Split = "test") -> LabelledImages:
    """As `open_data`, for a model that knows these classes.

    Raises:
        InputError: if there is no such data set, or its classes are not these.
    """
    dataset = open_data(name, split=split, class_names=class_names)
    common_names({"the model": tuple(class_names), f"the data {name}": tuple(dataset.class_names)})
    if isinstance(dataset, WideLabelDataset):
        raise InputError(
            f"{name} has labels of 16 bits, which evaluate-words alone can count; give a data set "
            "with labels of 8 bits."
        )
    return dataset
