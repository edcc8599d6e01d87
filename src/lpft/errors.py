"""The one exception that means "the input is wrong", shown to users without a traceback."""


class InputError(ValueError):
    """What is wrong, what was expected and what to do, in one or two lines.

    The command line prints the message after ``error: `` and exits with status 2.
    """
