"""``crispmask train``: a recipe, its fields overridable, run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from accelerate import PartialState

from crispmask.recipes import RECIPES
from crispmask.train import (
    CodecTrainConfig,
    PriorTrainConfig,
    RefinerTrainConfig,
    SegmenterTrainConfig,
    TextTrainConfig,
    train,
)

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
        SegmenterTrainConfig
        | RefinerTrainConfig
        | PriorTrainConfig
        | CodecTrainConfig
        | TextTrainConfig,
        tyro.conf.arg(name=""),
        tyro.conf.AvoidSubcommands,
    ]
    output: Path
    resume: bool = False


def train_arguments() -> Any:
    """A type that tyro turns into a subcommand per recipe."""
    defaults = {
        name: TrainArguments(config=recipe(), output=Path("runs") / name)
        for name, recipe in RECIPES.items()
    }
    descriptions = {name: recipe.__doc__ or name for name, recipe in RECIPES.items()}
    return tyro.extras.subcommand_type_from_defaults(defaults, descriptions)


def run_recipe(args: TrainArguments) -> int:
    """Train and say where the model is."""
    folder = train(args.config, args.output, resume=args.resume)
    state = PartialState()
    if state.is_main_process:
        print(f"trained model in {folder}")
    state.destroy_process_group()
    return 0
