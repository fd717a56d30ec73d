"""The one exception for input that a user can mend."""


class InputError(ValueError):
    """What came in cannot be used.

    The message is one sentence that says what is needed, what came and what to do; the command
    line prints it and exits with 2.
    """
