"""``crispmask train``: a recipe, its fields overridable, run."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from accelerate import PartialState

from crispmask.cli.output import check_output
from crispmask.recipes import RECIPES
from crispmask.train import TrainConfig, train

DESCRIPTION = """\
Train by a recipe; each of its fields can be changed.

Example: crispmask train earth-refiner --loop.steps 500 --output runs/short
"""


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """What to train and where to.

    Attributes:
        config: the recipe's settings.
        output: folder to write to.
        resume: go on from the last checkpoint in the output folder.
    """

    config: Annotated[
        TrainConfig,
        tyro.conf.arg(name=""),
        tyro.conf.AvoidSubcommands,
    ]
    output: Path
    resume: bool = False


def train_arguments(recipe: str = "") -> Any:
    """A type that tyro turns into a subcommand per recipe; help on ``recipe`` has an example."""
    defaults = {
        name: TrainArguments(config=make(), output=Path("runs") / name)
        for name, make in RECIPES.items()
    }
    descriptions = {name: inspect.getdoc(make) or name for name, make in RECIPES.items()}
    if recipe in RECIPES:
        own = "--data DIR " if RECIPES[recipe]().data in ("data", ("data",)) else ""
        command = f"crispmask train {recipe} {own}--loop.seed 1 --output runs/{recipe}-1"
        descriptions[recipe] += f"\n\nExample: {command}"
    return tyro.extras.subcommand_type_from_defaults(defaults, descriptions)


def run_recipe(args: TrainArguments) -> int:
    """Train and say where the model is."""
    check_output(args.output)
    folder = train(args.config, args.output, resume=args.resume)
    state = PartialState()
    if state.is_main_process:
        print(f"trained model in {folder}")
    state.destroy_process_group()
    return 0
