"""The type checker that `conftest` wraps around every function of the package."""

from collections.abc import Callable
from typing import Any

from beartype import beartype
from beartype.roar import BeartypeDecorHintException


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """`beartype`, leaving alone the few functions whose hints it cannot read (`Self`, say)."""
    try:
        return beartype(function)
    except BeartypeDecorHintException:
        return function
