"""Checks tensor shapes while the tests run, and keeps them quick and repeatable."""

import torch
from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook("crispmask", "beartype.beartype")

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

torch.set_num_threads(1)  # tensors of a test are small, and pytest-xdist uses the cores
