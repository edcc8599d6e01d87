"""A statistic of each run on draws of its samples, the same draws in all runs that are compared."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpft.analysis.resampling import Resampled, Statistic, resample
from lpft.errors import InputError
from lpft.results.schema import Run

DRAW_SEED = 20240527
"""Of every bootstrap, so that the same runs always have the same intervals."""

ByRun = Mapping[Path, Resampled]
"""By the run's folder."""


@dataclass(frozen=True)
class Samples:
    """N samples of one run, and a statistic of them.

    ``ids`` [N], ``labels`` [N] and the ``fingerprint`` of their texts tell them from other data, as
    far as they are known; samples of one number in ``clusters`` [N] are not independent, and drawn
    together.
    """

    ids: ArrayLike
    statistic: Statistic
    labels: ArrayLike | None = None
    fingerprint: str | None = None
    clusters: NDArray[np.int64] | None = None


def judged_split(runs: Iterable[Run]) -> str:
    """The in-distribution split that methods are judged on: test, or validation without one."""
    return "test" if all("test" in run.predictions for run in runs) else "validation"


def feature_split(runs: Iterable[Run]) -> str:
    """The split whose feature change is compared: test, or train without one."""
    return "test" if all("test" in run.features for run in runs) else "train"


def data_fingerprint(run: Run, split: str) -> str | None:
    """The hash of a split's texts and labels, None where the run recorded none."""
    return run.fingerprints.get(f"data/{split}")


def clusters_of(run: Run, split: str) -> NDArray[np.int64] | None:
    """Numbers that samples share where they are not independent, None where nothing is known."""
    predictions = run.predictions.get(split)
    return None if predictions is None else predictions.clusters


def resample_runs(
    runs: Sequence[Run],
    read: Callable[[Run], Samples],
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
    named = {known[folder].name: of_run for folder, of_run in samples.items()}
    number = same_samples({name: one.ids for name, one in named.items()})
    labels = {name: one.labels for name, one in named.items() if one.labels is not None}
    texts = {name: [one.fingerprint] for name, one in named.items() if one.fingerprint is not None}
    clusters = {name: one.clusters for name, one in named.items() if one.clusters is not None}
    for identities in (labels, texts, clusters):
        if identities:
            same_samples(identities)
    return resample(
        {folder: of_run.statistic for folder, of_run in samples.items()},
        number,
        generator=generator,
        clusters=next(iter(clusters.values()), None),
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
