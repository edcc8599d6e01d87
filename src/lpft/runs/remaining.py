"""How long the runs of a sweep that are left will take, by those that were timed."""

import json
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from lpft.settings.configs import RunConfig, taken_by


class Pace:
    """Mean seconds of runs by their kind: what decides their length, or else the method alone."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = defaultdict(list)

    def add(self, config: RunConfig, seconds: float) -> None:
        """Take note of a run that was finished."""
        for kind in _kinds(config):
            self._seconds[kind].append(seconds)

    def left(self, configs: Sequence[RunConfig], workers: int) -> str:
        """A clause that says what ``configs`` will take, and how far that is known."""
        if not configs:
            return "none left"
        expected = [self._expected(config) for config in configs]
        known = [seconds for seconds in expected if seconds is not None]
        if len(known) < len(expected):
            return f"{len(configs)} left, too early to say how long they take"
        about = duration(max(sum(known) / workers, *known))
        untimed = {_kinds(config)[0] for config in configs} - set(self._seconds)
        if untimed:
            return f"perhaps {about} left (kinds of run not timed yet: {len(untimed)})"
        return f"about {about} left"

    def _expected(self, config: RunConfig) -> float | None:
        for kind in _kinds(config):
            if kind in self._seconds:
                return fmean(self._seconds[kind])
        return None


def duration(seconds: float) -> str:
    """``41 s``, ``12 min`` or ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _kinds(config: RunConfig) -> tuple[str, str]:
    """From the most to the least special."""
    known = taken_by("train")
    settings = {name: v for name, v in config.flat().items() if not known[name].same_time}
    return json.dumps(settings), config.training.method
