"""JSON that users give, checked as it is read."""

import json
from collections.abc import Sequence
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, TypeVar

import numpy as np

from crispmask.data.drawing import Points
from crispmask.errors import InputError

T = TypeVar("T")

KINDS = {dict: "an object", list: "a list", int: "a whole number", str: "a text"}

LARGEST = 1e9
"""Largest coordinate and radius; it leaves room for computing with them."""


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: if it is missing or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read as JSON ({error}); it is missing, damaged or cut short: "
            "export it again."
        ) from error


def member(owner: Any, key: str, kind: type[T], source: str) -> T:
    """A member of a JSON object.

    Args:
        owner: the object.
        key: name of the member.
        kind: one of `KINDS`.
        source: of the object, for messages.

    Raises:
        InputError: if it is not there or of another kind.
    """
    value = owner.get(key) if isinstance(owner, dict) else None
    if not isinstance(value, kind):
        raise InputError(
            f"{source} needs {key!r} with {KINDS[kind]}, got {shortened(value)}; correct it or "
            "export the file again."
        )
    return value


def as_label(value: Any, class_names: Sequence[str], source: str) -> int:
    """Id of a class, given by name or as the id itself.

    Raises:
        InputError: if it is neither.
    """
    if isinstance(value, str) and value in class_names:
        return class_names.index(value)
    if type(value) is int and 0 <= value < len(class_names):  # True is no id
        return value
    names = ", ".join(class_names[:12]) + (", ..." if len(class_names) > 12 else "")
    raise InputError(
        f"{source} needs one of the model's classes ({names}) or an id from 0 to "
        f"{len(class_names) - 1}, got {shortened(value)}; rename it or remove it."
    )


def as_points(positions: Any, source: str, *, least: int = 1) -> Points:
    """Positions [x, y] as an array; further coordinates are left out, as GeoJSON allows.

    Raises:
        InputError: if they are not positions, or fewer than ``least``.
    """
    if (
        not isinstance(positions, list)
        or len(positions) < least
        or not all(_is_position(position) for position in positions)
    ):
        raise InputError(
            f"{source} needs at least {least} positions [x, y] in pixels here, got "
            f"{shortened(positions)}; correct it or export the file again."
        )
    return np.array([position[:2] for position in positions], dtype=np.float64)


def is_number(value: Any, *, low: float, high: float = LARGEST) -> bool:
    """Whether a value is a number from ``low`` to ``high``; NaN is not."""
    return type(value) in (int, float) and low <= value <= high  # True is no number


def _is_position(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) >= 2
        and all(is_number(number, low=-LARGEST) for number in value[:2])
    )
