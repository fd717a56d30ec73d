"""``crispmask data check``: look before training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from crispmask.data.check import check_folder
from crispmask.data.folder import find_class_names
from crispmask.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CheckArguments:
    """Read every image and label of a folder and say what is in it and what is wrong with it.

    Ends with 2 if there is a problem. Ids are checked if there is a classes.txt (a name a line) in
    the folder or the one above.

    Example: crispmask data check my-data/train

    Attributes:
        folder: holds images/ and labels/, matched by name without ending.
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]


def check(args: CheckArguments) -> int:
    """Print what is in the folder."""
    parts = [part for part in ("train", "val", "test") if (args.folder / part).is_dir()]
    if parts and not (args.folder / "images").is_dir():
        raise InputError(
            f"{args.folder} has no images/ but {', '.join(parts)}; check each of them: `crispmask "
            f"data check {args.folder / parts[0]}`."
        )
    report = check_folder(
        args.folder / "images", args.folder / "labels", find_class_names(args.folder)
    )
    print(report.summary())
    if report.problems:
        raise InputError(
            f"{args.folder} has {len(report.problems)} problems to mend, the first: "
            f"{report.problems[0]}"
        )
    return 0
