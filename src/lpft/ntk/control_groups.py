"""Limits of memory that Linux sets a process's control groups, as containers and queues do."""

from collections.abc import Iterator
from pathlib import Path

_OWN = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")
_FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Of versions 2 and 1: the limit, what is used, and what of that is cached files that may go."""


def free_below_limits(own: Path = _OWN, root: Path = _ROOT) -> int | None:
    """Bytes that are free below the nearest limit; None where none can be read.

    ``own`` lists the groups of this process, whose files lie below ``root``.
    """
    found = [_free(folder, *files) for folder, files in _groups(own, root)]
    return min((max(0, free) for free in found if free is not None), default=None)


def _groups(own: Path, root: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The groups that the process is in, outer ones too, with the names of their files."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        version = "memory" if "memory" in controllers.split(",") else controllers
        if version in _FILES:
            top = root / version
            inner = Path(path.lstrip("/"))
            # A container sees its own group as the topmost, whatever its path outside.
            for group in (inner, *inner.parents):
                yield top / group, _FILES[version]


def _free(folder: Path, limit: str, used: str, cached: str) -> int | None:
    try:
        free = int((folder / limit).read_text()) - int((folder / used).read_text())
        statistics = dict(
            line.split() for line in (folder / "memory.stat").read_text().splitlines()
        )
        return free + int(statistics[cached])
    except (OSError, ValueError, KeyError):  # no such group, or no limit ("max")
        return None
