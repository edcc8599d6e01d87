"""A process beside the main one that does its tasks, and ends when it does."""

import _thread
import logging
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from types import FrameType
from typing import TypeVar

from lpft.progress import log_to_stderr, quiet_libraries, share_the_machine

Task = TypeVar("Task")
Done = TypeVar("Done")

SECONDS_TO_STOP = 30
"""For a task that is interrupted, to leave its folder in order."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

_idle, _stopping = threading.Event(), threading.Event()
_idle.set()


def prepare_worker(parent: Connection, threads: int) -> None:
    """Set up a new process: ``threads`` for its sums, warnings alone on standard error.

    A message from ``parent`` interrupts the task at work, as Ctrl-C would; the end of the main
    process does so too, and ends this one. Ctrl-C itself is left to the main process.
    """
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(threads)
    share_the_machine()
    quiet_libraries()
    log_to_stderr(logging.WARNING)
    signal.signal(signal.SIGINT, _interrupt_if_stopping)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    import torch

    # The variables come too late where the user's own main module has imported torch.
    torch.set_num_threads(threads)


def do_task(work: Callable[[Task], Done], task: Task) -> Done:
    """``work(task)``, in a worker."""
    _idle.clear()
    try:
        _interrupt_if_stopping()
        return work(task)
    finally:
        _idle.set()


def _end_with(parent: Connection) -> None:
    with suppress(EOFError, OSError):
        parent.recv()
        if _interrupted():
            # The pool ends this process. Should the main one die before, that is the end as well.
            parent.recv()
    _interrupted()
    os._exit(1)


def _interrupted() -> bool:
    """Interrupt the task at work, or the next; whether there is none in the end."""
    _stopping.set()
    if not _idle.is_set():
        _thread.interrupt_main()
    return _idle.wait(SECONDS_TO_STOP)


def _interrupt_if_stopping(
    signal_number: int | None = None, frame: FrameType | None = None
) -> None:
    del signal_number, frame
    if _stopping.is_set():
        raise KeyboardInterrupt
