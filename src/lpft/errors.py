"""Errors that the user can fix, shown without a traceback."""

import errno
import os
import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from textwrap import shorten


def named(setting: str) -> str:
    """A setting within a message of :class:`InputError`, in the language of whoever reads it.

    ``learning_rate`` is read in Python, ``--learning-rate`` on the command line; so are
    ``overwrite=True`` and ``--overwrite``, ``save_model=False`` and ``--no-save-model``.
    """
    return f"\N{SHIFT OUT}{setting}\N{SHIFT IN}"


_NAMED = re.compile("\N{SHIFT OUT}(.*?)\N{SHIFT IN}")


class InputError(ValueError):
    """What is wrong, what was expected and what to do, in one or two lines.

    The command line prints the message after ``error: `` and exits with status 2. Settings that
    the message names with :func:`named` are options there, and names of Python everywhere else.
    """

    def __str__(self) -> str:
        return self.spelled(lambda setting: setting)

    def spelled(self, spell: Callable[[str], str]) -> str:
        """The message with ``spell`` of each setting that it names."""
        return _NAMED.sub(lambda match: spell(match[1]), super().__str__())


def explain(error: Exception) -> InputError | None:
    """What is wrong and what to do, in one or two lines; None for an unexpected error."""
    if isinstance(error, InputError):
        return error
    if isinstance(error, OSError) and error.errno in _UNUSABLE_PATHS:
        place = "the output" if error.filename is None else f"'{error.filename}'"
        return InputError(
            f"{place} cannot be used ({error.strerror}): make room or name another path"
        )
    reason = write_failure(error)
    if reason is not None:
        return InputError(f"a file cannot be written ({reason}): make room or name another path")
    if out_of_memory(error):
        return InputError(
            f"the model does not fit in memory: lower {named('batch_size')}, "
            f"{named('max_length')} or {named('memory')}, or use a smaller {named('model')}"
        )
    return None


def unexpected(error: Exception) -> str:
    """The kind and the message of an error that :func:`explain` does not know."""
    return f"unexpected {type(error).__name__}: {error}"


def one_line(error: BaseException) -> str:
    """A library's message to quote in ours: without line breaks, at most 200 characters.

    A longer one ends with its last whole sentence, or where that is short with a whole word.
    """
    text = " ".join(str(error).split())
    if len(text) > _MAX_QUOTE:
        ends = [match.end() for match in re.finditer(r"[.!?](?= [A-Z])", text[: _MAX_QUOTE + 2])]
        if ends and ends[-1] >= _MAX_QUOTE // 3:
            text = text[: ends[-1]]
        else:
            text = shorten(text, _MAX_QUOTE, placeholder=" ...")
    return text if text.endswith("...") else text.removesuffix(".")


_MAX_QUOTE = 200


_UNUSABLE_PATHS = (
    errno.EACCES,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)


def out_of_memory(error: BaseException) -> bool:
    """Whether torch or NumPy ran out of memory; torch on CPUs has no exception class for it."""
    name = type(error).__name__
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return name in ("OutOfMemoryError", "MemoryError", "_ArrayMemoryError") or (
        isinstance(error, RuntimeError)
        and any(words in str(error) for words in ("allocate memory", "out of memory"))
    )


def write_failure(error: Exception, folder: Path | None = None) -> str | None:
    """Why a file could not be written, such as that the disk is full; None for other errors.

    Some libraries have no class of error for it. With ``folder`` an error that names a file
    elsewhere is another one.
    """
    file = getattr(error, "filename", None)
    if folder is not None and file is not None and not Path(file).is_relative_to(folder):
        return None
    if isinstance(error, OSError) and error.errno in _UNUSABLE_PATHS:
        return error.strerror
    message = str(error)
    is_write_error = type(error).__name__ == "SafetensorError" or any(
        words in message for words in ("PytorchStreamWriter", "inline_container", "iostream error")
    )
    if isinstance(error, OSError) and error.errno is None and "written" in message:
        return "the disk is full"  # NumPy's, which wrote a part of an array
    if not is_write_error:
        return None
    code = re.search(r"\(os error ([0-9]+)\)", message)
    if code is not None:
        return os.strerror(int(code[1])) if int(code[1]) in _UNUSABLE_PATHS else None
    return None if "erializing" in message else "the disk is full, or it may not be written"


_SYNONYMS = {
    "lr": "learning-rate",
    "bs": "batch-size",
    "max-len": "max-length",
    "max-seq-len": "max-length",
    "max-seq-length": "max-length",
    "num-epochs": "epochs",
    "num-train-epochs": "epochs",
    "output": "output-dir",
    "output-dir": "output",
}
"""What other programs call a setting, and what it may be called here."""


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The one of ``choices`` that may be meant by ``name``, or None.

    A synonym goes before a similar spelling; case, ``_`` for ``-`` and dashes before an option do
    not matter.
    """
    spellings = {_plain_name(choice): choice for choice in choices}
    meant = _plain_name(name)
    synonym = _SYNONYMS.get(meant)
    if synonym in spellings:
        return spellings[synonym]
    close = get_close_matches(meant, spellings, n=1)
    return spellings[close[0]] if close else None


def _plain_name(name: str) -> str:
    return name.lstrip("-").replace("_", "-").lower()


def meant_choice(name: str, choices: Iterable[str]) -> str:
    """`` (did you mean ...?)`` for a value that is none of ``choices``; nothing if none is near."""
    near = nearest(name, choices)
    return "" if near is None else f" (did you mean {near}?)"
