"""What a process shows while it works: progress bars, log lines, and nothing of other libraries.

Bars are drawn on a terminal, where asked for, and only for steps of over two seconds; away from a
terminal there are none, but a log line every minute.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

logger = logging.getLogger(__name__)

_SECONDS_BEFORE_A_BAR = 2
_SECONDS_BETWEEN_LINES = 60.0
_visible: ContextVar[bool] = ContextVar("lpft_progress_visible", default=False)


@contextmanager
def timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Add the time that this context takes to the seconds of ``part``."""
    started = perf_counter()
    yield
    seconds[part] = seconds.get(part, 0.0) + perf_counter() - started


@contextmanager
def visible_progress(visible: bool = True) -> Iterator[None]:
    """Within this context, long steps draw a bar on standard error, or log a line a minute."""
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
    """A tqdm bar over ``items`` (or to be updated by hand), hidden unless progress is visible.

    Where standard error is no terminal, a log line a minute says what share is done and how long
    the rest will take.
    """
    if _visible.get() and not sys.stderr.isatty():
        return tqdm(
            items,
            desc=description,
            total=total,
            unit=unit,
            delay=_SECONDS_BETWEEN_LINES,
            mininterval=_SECONDS_BETWEEN_LINES,
            miniters=1,
            file=_Lines(),
            bar_format="{desc}: {percentage:.0f} %, about {remaining} left"
            if total is not None or hasattr(items, "__len__")
            else "{desc}: {n_fmt} done",
            leave=False,
        )
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


class _Lines:
    """A stream that hands what tqdm draws to the log, line by line."""

    def write(self, text: str) -> None:
        line = text.strip()
        if line:
            logger.info("%s", line)

    def flush(self) -> None:
        """Every line was logged at once."""


def share_the_machine() -> None:
    """Let torch's threads sleep while they wait for each other, unless the user chose otherwise.

    Where another process is busy, spinning threads wait for one that is not scheduled: a step of
    fine-tuning took up to ten times longer (docs/log.md). Must be set before torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def quiet_libraries() -> None:
    """Silence other libraries: their load reports, progress bars and deprecation warnings."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    warnings.simplefilter("ignore")


def log_to_stderr(level: int = logging.INFO) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LevelPrefix())
    logger = logging.getLogger("lpft")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(level)


class _LevelPrefix(logging.Formatter):
    """Prefix ``warning: ...`` and so on for everything above plain progress."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"
