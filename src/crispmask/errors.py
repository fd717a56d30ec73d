"""What users are told: one exception for input that they can mend, and warnings."""

import sys
import warnings

INSIDE = ("crispmask", "torch", "jaxtyping")
"""Packages through which a call passes before it warns."""


class InputError(ValueError):
    """What came in cannot be used.

    The message is one sentence that says what is needed, what came and what to do; the command
    line prints it and exits with 2.
    """


def warn(message: str) -> None:
    """Warn whoever called the package: the warning points at the line of their own code."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back and frame.f_globals["__name__"].partition(".")[0] in INSIDE:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
