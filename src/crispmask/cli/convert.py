"""``crispmask convert ddps``: official checkpoints as models of this package."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from crispmask.errors import InputError
from crispmask.models.convert import convert_ddps
from crispmask.models.ddps_file import Weights


@dataclass(frozen=True, kw_only=True)
class ConvertArguments:
    """Convert an official .pth of DDPS with SegFormer into a base segmenter and a refiner.

    Writes OUTPUT/base, OUTPUT/refiner and OUTPUT/conversion.json, which says where each tensor of
    the file went. Files that hold Python code are refused, none is run.

    Example: crispmask convert ddps segformer_b2_multistep.pth ddps-b2 --classes ade20k.txt

    Attributes:
        checkpoint: the official file.
        output: folder to write, which must not exist yet.
        classes: text file with the names of the classes 1, 2, ..., one per line, without void.
        weights: ema takes the copies called ema_... where the file has them, model never
            (docs/convert.md says when that is right).
        json: print the whole report as one JSON object in the last line, all else on stderr.
    """

    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    output: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUTPUT")]
    classes: Path | None = None
    weights: Weights = "ema"
    json: bool = False


def convert(args: ConvertArguments) -> int:
    """Convert and show where everything went."""
    names = None if args.classes is None else read_names(args.classes)
    report = convert_ddps(args.checkpoint, args.output, class_names=names, weights=args.weights)
    console = Console(stderr=args.json, markup=False)
    console.print(report.table())
    console.print(
        f"{report.backbone}, {report.num_classes} classes with void, {report.num_steps} time "
        f"steps; base and refiner are in {args.output}",
        soft_wrap=True,
    )
    if args.json:
        print(json.dumps(report.to_json()))
    return 0


def read_names(path: Path) -> list[str]:
    """The lines of a text file that are not empty.

    Raises:
        InputError: if it is no text.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} must be a text file in UTF-8, one class name a line.") from error
    return [line.strip() for line in lines if line.strip()]
