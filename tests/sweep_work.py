"""Tasks for executors: functions that a new process can import."""

import os
import signal
import threading
import time
from pathlib import Path


def describe(task: str) -> tuple[str, int, dict[str, str | None], int]:
    """What a worker is: its task, process, thread variables, and torch's threads."""
    import torch

    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    variables = {name: os.environ.get(name) for name in names}
    return task, os.getpid(), variables, torch.get_num_threads()


def die_if_told(task: str) -> str:
    """As the kernel ends a process when memory runs out."""
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def meet(task: tuple[Path, int]) -> bool:
    """Whether this many tasks were at work at the same time."""
    folder, expected = task
    (folder / str(os.getpid())).touch()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if len(list(folder.iterdir())) >= expected:
            return True
        time.sleep(0.01)
    return False


def wait_for_interruption(path: Path) -> None:
    """Say that the work began, and how it ended."""
    try:
        path.write_text(f"began {os.getpid()}")
        while True:
            time.sleep(0.01)
    except KeyboardInterrupt:
        path.write_text(f"interrupted {os.getpid()}")
        raise


def interrupt_once_begun(path: Path, signal_number: int) -> None:
    """Send this process a signal as soon as the work that writes ``path`` has begun."""

    def send() -> None:
        while not path.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal_number)

    threading.Thread(target=send, daemon=True).start()
