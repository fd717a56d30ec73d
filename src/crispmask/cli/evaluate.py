"""``crispmask evaluate``: a base and its refiners over a data set."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from crispmask.cli.output import check_output
from crispmask.data.class_names import common_names
from crispmask.data.folder import FolderDataset, find_class_names
from crispmask.data.source import Split, open_split
from crispmask.errors import InputError
from crispmask.evaluate import LabelledImages, evaluate, refiner_rows
from crispmask.models.bases import load_base
from crispmask.models.checkpoint import find_model
from crispmask.models.refiner import MaskRefiner


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """Measure a base segmenter, its refiners and the honest comparisons on a data set.

    Prints the table and writes OUTPUT/report.html and OUTPUT/report.json.

    Example: crispmask evaluate earth-small earth --output report

    Attributes:
        model: bundled name such as earth-small; a folder with base/, refiner/ and control/, further
            seeds in refiner-1/, control-1/ and so on; or the folder of a segmenter alone.
        data: earth (its test blocks), earth:val, camvid:FOLDER/val, or a folder with images/
            and labels/. Names in a classes.txt, there or above it, must be the model's.
        output: folder to write to.
        json: print the whole report as one JSON object in the last line, all else on stderr.
        limit: images at most, spread evenly over the data set.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    output: Path
    json: bool = False
    limit: int | None = None


def run_evaluation(args: EvaluateArguments) -> int:
    """Evaluate and show the report."""
    check_output(args.output)
    folder = find_model(args.model)
    refiners = [MaskRefiner.from_pretrained(path) for path in sorted(folder.glob("refiner*"))]
    names = refiners[0].config.class_names if refiners else None
    segmenter = load_base(folder, class_names=names)
    dataset = open_data(args.data, segmenter.config.class_names)
    controls = [MaskRefiner.from_pretrained(path) for path in sorted(folder.glob("control*"))]
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
    console = Console(stderr=args.json)
    console.print(report.table())
    console.print(f"look at {page}", soft_wrap=True)
    if args.json:
        print(json.dumps(report.to_json()))
    return 0


def open_data(name: str, class_names: Sequence[str], *, split: Split = "test") -> LabelledImages:
    """The data set of this name, or this split of it where the name says none.

    Raises:
        InputError: if there is none, or its classes are not `class_names`.
    """
    kind, _, rest = name.partition(":")
    dataset: LabelledImages
    if kind == "earth":
        dataset = open_split("earth", as_split(rest or split))
    elif kind == "camvid":
        folder = Path(rest)
        dataset = open_split(f"camvid:{folder.parent}", as_split(folder.name))
    else:
        folder = Path(name)
        names = find_class_names(folder) or class_names
        dataset = FolderDataset(folder / "images", folder / "labels", class_names=names)
    common_names({"the model": tuple(class_names), f"the data {name}": tuple(dataset.class_names)})
    return dataset


def as_split(name: str) -> Split:
    """The part of a data set that a user named.

    Raises:
        InputError: if there is none of this name.
    """
    match name:
        case "train" | "val" | "test":
            return name
    raise InputError(f"the parts of a data set are train, val and test, got {name!r}.")
