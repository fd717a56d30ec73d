"""``crispmask data suspects``: labels that are worth a second look."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from crispmask.cli.output import check_output
from crispmask.data.catalog import palette_for
from crispmask.data.class_names import common_names
from crispmask.data.folder import FolderDataset, find_class_names
from crispmask.errors import InputError
from crispmask.evaluate.suspects import (
    Judges,
    evidence_of,
    fit_trust,
    picture_of,
    ranked,
    suspects_of,
)
from crispmask.models.bases import load_base
from crispmask.models.prior import MaskPrior
from crispmask.provenance import provenance
from crispmask.report.suspects import SuspectReport

FITTED = 200
"""Images, spread over the data set, from which it is learned how to read the judges."""

PICTURES = 50
"""Suspects that are shown; the others are in the JSON file."""


@dataclass(frozen=True, kw_only=True)
class SuspectsArguments:
    """Rank the regions of a data set whose label may be wrong.

    A segmenter compares each connected region with the image, a prior with the other labels; one
    of them is enough, and a good segmenter finds more alone. Writes OUTPUT/suspects.json and, with
    pictures of the first 50, OUTPUT/suspects.html. Nothing is corrected.

    Example: crispmask data suspects my-data/train --base runs/base --output found

    Attributes:
        folder: holds images/ and labels/, matched by name without ending.
        output: folder to write to.
        prior: bundled name, folder or hub id of a mask prior.
        base: bundled name, folder or hub id of a base segmenter.
        min_area: smallest region that is looked at, in pixels.
        seed: of the prior's noise.
        json: print what suspects.json holds as one line, all else on stderr.
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    output: Path
    prior: str | None = None
    base: str | None = None
    min_area: int = 100
    seed: int = 0
    json: bool = False

    def __post_init__(self) -> None:
        if self.prior is None and self.base is None:
            raise InputError("--prior, --base or both are needed: something must judge the labels.")
        if self.min_area < 1:
            raise InputError(f"--min-area must be at least 1, got {self.min_area}.")


def suspects(args: SuspectsArguments) -> int:
    """Rank the regions and show the first."""
    check_output(args.output)
    prior = None if args.prior is None else MaskPrior.from_pretrained(args.prior)
    base = None if args.base is None else load_base(args.base)
    names = common_names(
        {
            f"the base {args.base}": None if base is None else base.config.class_names,
            f"the prior {args.prior}": None if prior is None else prior.config.class_names,
            f"the data in {args.folder}": find_class_names(args.folder),
        }
    )
    data = FolderDataset(args.folder / "images", args.folder / "labels", class_names=names)
    judges = Judges(base=base, prior=prior, seed=args.seed)
    console = Console(stderr=True, markup=False)
    quiet = not console.is_terminal
    evidence = []
    first = range(0, len(data), -(-len(data) // FITTED))
    for i in track(first, "learning to read the judges", console=console, disable=quiet):
        sample = data[i]
        evidence.append(evidence_of(sample, judges.opinions(sample), min_area=args.min_area))
    trust = fit_trust(evidence)
    unsorted = []
    for i in track(range(len(data)), "looking", console=console, disable=quiet):
        sample = data[i]
        unsorted += suspects_of(sample, judges.opinions(sample), trust, min_area=args.min_area)
    found = ranked(unsorted)
    doubted = [suspect for suspect in found if suspect.score > 0]
    number = {name: i for i, name in enumerate(data.names)}
    pictures = []
    for suspect in track(doubted[:PICTURES], "drawing", console=console, disable=quiet):
        sample = data[number[suspect.image]]
        pictures.append(picture_of(suspect, sample, judges.opinions(sample), trust))
    report = SuspectReport(
        title=f"Doubtful labels in {args.folder.name}",
        class_names=names,
        palette=palette_for(names),
        suspects=tuple(doubted),
        pictures=tuple(pictures),
        protocol={
            "data": f"{len(data)} images, {len(found)} regions of {args.min_area} pixels or more",
            "judged by": ", ".join(
                f"{kind} {name}"
                for kind, name in (("base", args.base), ("prior", args.prior))
                if name
            ),
            **provenance(),
        },
    )
    _, page = report.write(args.output)
    shown = Console(stderr=args.json, soft_wrap=True, markup=False)
    shown.print(_table(report))
    shown.print(f"{len(doubted)} of {len(found)} regions are doubted; look at {page}")
    if args.json:
        print(json.dumps(report.to_json()))
    return 0


def _table(report: SuspectReport) -> Table:
    table = Table("image", "row", "column", "pixels", "labelled", "rather", "score", box=None)
    for suspect in report.suspects[:10]:
        table.add_row(
            suspect.image,
            *map(str, (suspect.box[0], suspect.box[1], suspect.area)),
            report.class_names[suspect.label],
            suspect.correction(report.class_names),
            f"{suspect.score:.1f}",
        )
    return table
