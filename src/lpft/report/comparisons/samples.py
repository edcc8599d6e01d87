"""A statistic of each run on draws of its samples, the same draws in all runs that are compared."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpft.analysis.resampling import Resampled, Statistic, resample
from lpft.errors import InputError
from lpft.report.collect import RunSummary

ByRun = Mapping[Path, Resampled]
"""By the run's folder."""


@dataclass(frozen=True)
class Samples:
    """N samples of one run, and a statistic of them.

    ``identity`` [N] tells them apart from those of other data (ids or labels); samples of one
    number in ``clusters`` [N] are not independent, and drawn together.
    """

    identity: ArrayLike
    statistic: Statistic
    clusters: NDArray[np.int64] | None = None


def judged_split(runs: Iterable[RunSummary]) -> str:
    """The in-distribution split that methods are judged on: test, or validation without one."""
    return "test" if all("test" in run.predictions for run in runs) else "validation"


def feature_split(runs: Iterable[RunSummary]) -> str:
    """The split whose feature change is compared: test, or train without one."""
    return "test" if all("test" in run.features for run in runs) else "train"


def resample_runs(
    runs: Sequence[RunSummary],
    read: Callable[[RunSummary], Samples],
    *,
    generator: np.random.Generator,
) -> ByRun:
    """The statistic that ``read`` gives of each run, on all samples and on draws of them.

    Raises:
        InputError: two runs have different samples.
    """
    known = {run.folder: run for run in runs}
    samples = {folder: read(run) for folder, run in known.items()}
    if not samples:
        return {}
    first = next(iter(samples.values()))
    return resample(
        {folder: of_run.statistic for folder, of_run in samples.items()},
        same_samples({known[folder].name: of_run.identity for folder, of_run in samples.items()}),
        generator=generator,
        clusters=first.clusters,
    )


def same_samples(identities: Mapping[str, ArrayLike]) -> int:
    """How many samples there are, the same in all of what ``identities`` names.

    Raises:
        InputError: two have different samples.
    """
    first, *others = ((name, np.asarray(identity)) for name, identity in identities.items())
    for name, identity in others:
        if not np.array_equal(identity, first[1]):
            raise InputError(
                f"{name} and {first[0]} were tested on different samples: expected the same data "
                "in all runs of a task; start again in another folder"
            )
    return len(first[1])
