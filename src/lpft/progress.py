"""Progress bars: on a terminal only, where asked for, and only for steps of over two seconds."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

_SECONDS_BEFORE_A_BAR = 2
_visible: ContextVar[bool] = ContextVar("lpft_progress_visible", default=False)


@contextmanager
def visible_progress(visible: bool = True) -> Iterator[None]:
    """Within this context, long steps draw a bar on standard error if that is a terminal."""
    token = _visible.set(visible)
    try:
        yield
    finally:
        _visible.reset(token)


def progress(
    items: Iterable[Item] | None = None,
    description: str | None = None,
    *,
    total: int | None = None,
    unit: str = "it",
) -> tqdm:
    """A tqdm bar over ``items`` (or to be updated by hand), hidden unless progress is visible."""
    return tqdm(
        items,
        desc=description,
        total=total,
        unit=unit,
        delay=_SECONDS_BEFORE_A_BAR,
        disable=None if _visible.get() else True,
        leave=False,
        dynamic_ncols=True,
    )
