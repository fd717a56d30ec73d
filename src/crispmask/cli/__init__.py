"""The command line: ``crispmask COMMAND ...``, one module per command, imported when it is run."""

import contextlib
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, TextIO, TypeVar

import tyro

from crispmask.errors import InputError

HELP = """\
usage: crispmask COMMAND ...

Diffusion models for semantic segmentation: refine the masks you have.

commands:
  demo        refine held-out satellite tiles with the bundled weights and measure the gain
  refine      refine the masks of any segmenter: label PNGs, .npy or .npz scores, whole folders
  segment     segment images by words: "water, forest, city"
  train       train a base segmenter, a refiner, a prior over masks, a codec or a latent
              diffusion model by a recipe
  evaluate    measure a model on a data set; writes report.html and report.json
  evaluate-words
              measure a segmenter of words: names, synonyms, words that are not there; writes
              report.html and report.json
  calibrate   fit temperature and gate of a refiner to held-out images, so that it does no harm
  data check  look over a folder of images and labels before training on it
  data suspects
              rank the regions whose label may be wrong; writes suspects.html and suspects.json
  prior sample, prior complete, prior regions
              draw masks from a prior, fill the holes of masks, rank unlikely regions
  convert     make a base and a refiner of an official DDPS checkpoint

example:
  crispmask refine photo.jpg --base mask.png --model earth-small --output refined

`crispmask COMMAND --help` says more.
"""

Arguments = TypeVar("Arguments")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, or 2 after one sentence on stderr.

    1 means that whoever read the output stopped before its end, 130 an interruption.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            status = _run(list(sys.argv[1:] if argv is None else argv))
            sys.stdout.flush()
            return status
    except InputError as error:
        message = str(error)
    except BrokenPipeError:  # as of `crispmask train --help | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        message = f"{reason}." if error.filename is None else f"{error.filename}: {reason}."
    except KeyboardInterrupt:
        print("crispmask: interrupted.", file=sys.stderr)
        return 130
    print(f"crispmask: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning as one sentence, without the line of code that it came from."""
    print(f"crispmask: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _run(argv: list[str]) -> int:
    match argv:
        case [] | ["-h" | "--help", *_] | ["data" | "prior" | "convert", "-h" | "--help"]:
            print(HELP, end="")
        case ["--version"]:
            print(version("crispmask"))
        case ["demo", *rest]:
            from crispmask.cli.demo import DemoArguments, demo

            return _call(demo, DemoArguments, rest, "crispmask demo")
        case ["refine", *rest]:
            from crispmask.cli.refine import RefineArguments, refine

            return _call(refine, RefineArguments, rest, "crispmask refine")
        case ["segment", *rest]:
            from crispmask.cli.segment import SegmentArguments, segment

            return _call(segment, SegmentArguments, rest, "crispmask segment")
        case ["train", *rest]:
            from crispmask.cli.train import DESCRIPTION, run_recipe, train_arguments

            arguments = train_arguments(rest[0] if rest else "")
            return _call(run_recipe, arguments, rest, "crispmask train", DESCRIPTION)
        case ["evaluate", *rest]:
            from crispmask.cli.evaluate import EvaluateArguments, run_evaluation

            return _call(run_evaluation, EvaluateArguments, rest, "crispmask evaluate")
        case ["evaluate-words", *rest]:
            from crispmask.cli.evaluate_words import EvaluateWordsArguments, evaluate_by_words

            return _call(
                evaluate_by_words, EvaluateWordsArguments, rest, "crispmask evaluate-words"
            )
        case ["calibrate", *rest]:
            from crispmask.cli.calibrate import CalibrateArguments, run_calibration

            return _call(run_calibration, CalibrateArguments, rest, "crispmask calibrate")
        case ["data", "check", *rest]:
            from crispmask.cli.data import CheckArguments, check

            return _call(check, CheckArguments, rest, "crispmask data check")
        case ["data", "suspects", *rest]:
            from crispmask.cli.suspects import SuspectsArguments, suspects

            return _call(suspects, SuspectsArguments, rest, "crispmask data suspects")
        case ["data", *_]:
            raise InputError(
                "crispmask data has two commands, check and suspects; run "
                "`crispmask data check DIR`."
            )
        case ["prior", "sample" | "complete" | "regions" as verb, *rest]:
            from crispmask.cli import prior

            kinds: dict[str, tuple[Callable[[Any], int], Any]] = {
                "sample": (prior.sample, prior.SampleArguments),
                "complete": (prior.complete, prior.CompleteArguments),
                "regions": (prior.regions, prior.RegionsArguments),
            }
            return _call(*kinds[verb], rest, f"crispmask prior {verb}")
        case ["prior", *_]:
            raise InputError(
                "crispmask prior has three commands, sample, complete and regions; run "
                "`crispmask prior sample MODEL --output DIR`."
            )
        case ["convert", "ddps", *rest]:
            from crispmask.cli.convert import ConvertArguments, convert

            return _call(convert, ConvertArguments, rest, "crispmask convert ddps")
        case ["convert", *_]:
            raise InputError(
                "crispmask convert reads one kind of file, ddps; run `crispmask convert ddps "
                "CHECKPOINT OUTPUT`."
            )
        case [command, *_]:
            raise InputError(
                f"there is no command {command!r}, only demo, refine, segment, train, "
                "evaluate, evaluate-words, calibrate, data check, data suspects, prior sample, "
                "prior complete, prior regions and convert ddps; `crispmask --help` describes them."
            )
    return 0


def _call(
    command: Callable[[Arguments], int],
    arguments: Any,
    argv: list[str],
    prog: str,
    description: str | None = None,
) -> int:
    """Parse ``argv`` by the fields of type ``arguments``, then run ``command``.

    tyro draws a box around what it has to say of a mistake; here that becomes one sentence.
    """
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            parsed: Arguments = tyro.cli(
                arguments,
                args=argv,
                prog=prog,
                description=description,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if stop.code:
            raise InputError(_sentence(stderr.getvalue(), prog)) from None
        return 0  # --help
    except ValueError as error:  # from a config that checks itself
        raise InputError(f"{error} See `{prog} --help`.") from error
    return command(parsed)


def _sentence(box: str, prog: str) -> str:
    """What stands in tyro's box: its first part, and the first option that it suggests.

    Without UTF-8 the box is a title and parts with dashes between them.
    """
    inside = [line.strip("│ ") for line in box.splitlines() if line[:1] not in "╭╰"]
    parts = [" ".join(part.split()) for part in re.split(r"(?m)^[─-]{3,}$", "\n".join(inside))]
    message, further, *_ = [*(parts if "│" in box else parts[1:]), "", ""]
    message = re.sub(r"^Error parsing (\w[\w.-]*: )?", "", message).rstrip(".")
    missing = re.match(r"Missing from [^:]*: (.*)", message)
    if missing:  # NAME help (required) NAME help (required) ...
        names = [part.split()[0] for part in missing[1].split("(required)") if part.strip()]
        message = f"needed but not given: {', '.join(names)}"
    suggested = re.match(r"Perhaps you meant: (--[\w.-]+)", further)
    if suggested:
        message += f" (did you mean {suggested[1]}?)"
    return f"{message}; see `{prog} --help`."
