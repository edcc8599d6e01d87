"""Out of memory: fewer rows are computed at once, which is logged in one line and recorded."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from lpft.errors import InputError, named

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FewerRows:
    """``during`` what memory ran out, and how many ``rows`` were computed at once from then on."""

    during: str
    rows: int


_recorded: ContextVar[list[FewerRows] | None] = ContextVar("fewer_rows", default=None)


@contextmanager
def recorded_reductions() -> Iterator[list[FewerRows]]:
    """The reductions within this context, the last one of each step of the work."""
    reductions: list[FewerRows] = []
    token = _recorded.set(reductions)
    try:
        yield reductions
    finally:
        _recorded.reset(token)


def record_reduction(during: str, rows: int) -> None:
    """Record that at most this many rows are computed at once from now on."""
    reductions = _recorded.get()
    if reductions is not None:
        reductions[:] = [reduction for reduction in reductions if reduction.during != during]
        reductions.append(FewerRows(during, rows))


def fewer_rows(during: str, rows: int, *, parts_of: int | None = None) -> int:
    """How many rows to compute at once after memory ran out with ``rows``: half of them.

    With ``parts_of``, the batch size of a training, it is the largest divisor of that which is at
    most half, so that a step still takes the whole batch, in equal parts.

    Raises:
        InputError: it was one row.
    """
    if rows == 1:
        raise InputError(
            f"the model does not fit in memory: {during} failed with one text at a time; lower "
            f"{named('max_length')}, use a smaller {named('model')}, or free memory"
        )
    half = rows // 2
    parts = ""
    if parts_of is not None:
        half = max(part for part in range(1, half + 1) if parts_of % part == 0)
        parts = f", in {parts_of // half} parts of each batch, which stays {parts_of}"
    logger.warning("out of memory in %s with %d texts at once: now %d%s", during, rows, half, parts)
    record_reduction(during, half)
    return half
