"""Tasks and outputs for tests on a Ray cluster, which its workers import."""

import os
import time
from pathlib import Path

from lpft.ntk.outputs import logits


def wait_for(path: Path) -> None:
    """Wait until there is such a file, at most three minutes."""
    deadline = time.monotonic() + 180
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


def begin_and_wait(task: tuple[Path, int]) -> tuple[int, int]:
    """Leave a file that says who began, wait for the file ``go``, and return task and process."""
    folder, number = task
    (folder / f"task-{number}-process-{os.getpid()}").touch()
    wait_for(folder / "go")
    return number, os.getpid()


def waiting_logits(module, batch):
    """The logits; half-way through the kernel's pieces every worker waits for the file ``go``."""
    folder = Path(os.environ["LPFT_TEST_PIECES"])
    if len(list(folder.glob("unit-*"))) >= 30:
        wait_for(folder / "go")
    return logits(module, batch)
