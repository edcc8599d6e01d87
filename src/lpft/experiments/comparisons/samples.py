"""A statistic of each run on draws of its test samples, the same draws in all runs of a task."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from lpft.analysis.resampling import Resampled, Statistic, resample
from lpft.errors import InputError
from lpft.report.collect import RunSummary

ByRun = Mapping[Path, Resampled]
"""By the run's folder."""

ReadSamples = Callable[[RunSummary], tuple[ArrayLike, Statistic]]
"""What tells a run's N samples apart (ids or labels), and a statistic of them."""


def judged_split(runs: Iterable[RunSummary]) -> str:
    """The in-distribution split that claims are judged on: test, or validation without one."""
    return "test" if all("test" in run.predictions for run in runs) else "validation"


def resample_runs(
    runs: Iterable[RunSummary], read: ReadSamples, *, generator: np.random.Generator
) -> ByRun:
    """The statistic that ``read`` gives of each run, on all samples and on draws of them.

    Raises:
        InputError: two runs have different samples.
    """
    names: dict[Path, str] = {}
    samples: dict[Path, np.ndarray] = {}
    statistics: dict[Path, Statistic] = {}
    for run in runs:
        if run.folder not in names:
            names[run.folder] = run.name
            found, statistics[run.folder] = read(run)
            samples[run.folder] = np.asarray(found)
    if not names:
        return {}
    first, *others = names
    for other in others:
        if not np.array_equal(samples[first], samples[other]):
            raise InputError(
                f"{names[other]} and {names[first]} were tested on different samples: expected the "
                "same data in all runs of a task; start again in another folder"
            )
    return resample(statistics, len(samples[first]), generator=generator)
