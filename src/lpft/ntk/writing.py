"""One line where a folder cannot be written."""

from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

from lpft.errors import InputError


@contextmanager
def writing(what: str, place: object) -> Iterator[None]:
    """Within this context ``what`` is written to ``place``.

    Raises:
        InputError: that fails, for want of room or of permission.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        strerror = error.strerror if isinstance(error, OSError) else None
        reason = error if strerror is None else strerror
        raise InputError(
            f"{what} cannot be written to '{place}' ({reason}): make room there, or name another "
            "folder"
        ) from error
