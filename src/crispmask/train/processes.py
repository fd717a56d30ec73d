"""The processes of a run: one, or as many as a launcher started."""

import os

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env


def this_process() -> PartialState:
    """What accelerate knows of this process; to be called before anything else of it is.

    On a machine without a GPU accelerate takes launched processes for single ones unless it is told
    that they compute on the CPU.
    """
    launched = "LOCAL_RANK" in os.environ and not torch.cuda.is_available()
    return PartialState(cpu=launched or parse_flag_from_env("ACCELERATE_USE_CPU"))


def own_share(count: int) -> range:
    """Indices of the images that this process takes of so many."""
    state = PartialState()
    return range(state.process_index, count, state.num_processes)
