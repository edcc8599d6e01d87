"""Errors that whoever runs the program can mend, shown to users without a traceback."""

import errno


class InputError(ValueError):
    """What is wrong, what was expected and what to do, in one or two lines.

    The command line prints the message after ``error: `` and exits with status 2.
    """


def one_line(error: BaseException) -> str:
    """A library's message to quote in ours: without line breaks, at most 200 characters."""
    return " ".join(str(error).split())[:200]


_UNUSABLE_PATHS = (
    errno.EACCES,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)


def explain(error: Exception) -> str | None:
    """What is wrong and what to do, in one or two lines; None for an unexpected error."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError) and error.errno in _UNUSABLE_PATHS:
        place = "the output" if error.filename is None else f"'{error.filename}'"
        return f"{place} cannot be used ({error.strerror}): make room or name another path"
    if _out_of_memory(error):
        advice = "lower --batch-size, --max-length or --memory, or use a smaller --model"
        return f"the model does not fit in memory: {advice}"
    return None


def unexpected(error: Exception) -> str:
    """The kind and the message of an error that :func:`explain` does not know."""
    return f"unexpected {type(error).__name__}: {error}"


def _out_of_memory(error: Exception) -> bool:
    """Whether torch or NumPy found no memory; torch on CPUs has no exception class for it."""
    name = type(error).__name__
    return name in ("OutOfMemoryError", "MemoryError", "_ArrayMemoryError") or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )
