"""The type checker that `conftest` wraps around every function of the package."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintException

CONFIG = BeartypeConf(is_pep484_tower=True)  # an int is a float, as for mypy


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """`beartype`, leaving alone the few functions whose hints it cannot read (`Self`, say)."""
    try:
        return beartype(conf=CONFIG)(function)
    except BeartypeDecorHintException:
        return function
