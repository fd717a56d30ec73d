"""``crispmask data check``: look before training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from crispmask.data.check import check_folder
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
    names = [folder / "classes.txt" for folder in (args.folder, args.folder.absolute().parent)]
    found = next((path for path in names if path.is_file()), None)
    class_names = None
    if found:
        class_names = [line.strip() for line in found.read_text().splitlines() if line.strip()]
    report = check_folder(args.folder / "images", args.folder / "labels", class_names)
    print(report.summary())
    if report.problems:
        raise InputError(
            f"{args.folder} has {len(report.problems)} problems to mend, the first: "
            f"{report.problems[0]}"
        )
    return 0
