"""The numbers by which methods are compared: of each run, on its samples and on draws of them.

All runs that are compared see the same draws, so that their differences are paired by sample.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpft.analysis import calibration_error_of_draws
from lpft.analysis.comparison import Resampled, Rows, Statistic, resample
from lpft.analysis.metrics import answer_f1, matthews_correlation, scores_of_groups
from lpft.data.examples import Groups
from lpft.errors import InputError, named
from lpft.results.run import Predictions, Run, read_feature_changes

DRAW_SEED = 20240527
"""The seed of every bootstrap, so that the same runs always have the same intervals."""
PER_CENT = 100.0

ByRun = Mapping[Path, Resampled]
"""A number of each run with its draws, by the run's folder."""


@dataclass(frozen=True)
class Samples:
    """N samples of one run, and a statistic of them.

    ``ids`` [N], ``labels`` [N], the ``fingerprint`` of their texts and ``clusters`` [N] are the
    same in all runs that can be compared, as far as they are known; samples of one cluster are not
    independent, and drawn together.
    """

    ids: ArrayLike
    statistic: Statistic
    labels: ArrayLike | None = None
    fingerprint: str | None = None
    clusters: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Quantity:
    """What is compared between methods: multiplied by ``factor`` and shown with ``digits``."""

    name: str
    samples: Callable[[Run, str], Samples]
    factor: float = 1.0
    digits: int | None = None

    def on_draws(self, runs: Sequence[Run], split: str, generator: np.random.Generator) -> ByRun:
        """The quantity of each run's split, as :func:`resample_runs` gives it.

        Raises:
            InputError: a run lacks what it takes, or two have different samples.
        """
        return resample_runs(runs, lambda run: self.samples(run, split), generator=generator)


def task_score() -> Quantity:
    """The task's own metric, in per cent."""
    return Quantity("test score", _of_predictions(_task_metric), factor=PER_CENT, digits=2)


def calibration_error(*, calibrated: bool) -> Quantity:
    """ECE in per cent, with or without the run's temperature."""

    def error(run: Run, predictions: Predictions) -> Statistic:
        probabilities = predictions.probabilities(run.temperature if calibrated else 1.0)
        return calibration_error_of_draws(probabilities, predictions.labels)

    name = "ECE with T" if calibrated else "ECE without T"
    return Quantity(name, _of_predictions(error), factor=PER_CENT, digits=2)


def feature_change() -> Quantity:
    """Diff(F), the mean of how far each text's features moved."""

    def samples(run: Run, split: str) -> Samples:
        frame = read_feature_changes(run.folder, split)
        changes = frame["feature_difference"].to_numpy(dtype=np.float64)
        return Samples(
            ids=frame["id"].to_numpy(dtype=np.str_),
            statistic=lambda rows: float(changes[rows].mean()),
            fingerprint=run.fingerprints.get(f"data/{split}"),
            clusters=clusters_of(run, split),
        )

    return Quantity("feature change", samples)


def _of_predictions(
    statistic: Callable[[Run, Predictions], Statistic],
) -> Callable[[Run, str], Samples]:
    """A statistic of a split's logits and labels."""

    def samples(run: Run, split: str) -> Samples:
        if split not in run.predictions:
            raise InputError(
                f"{run.name} has no predictions of {split}, unlike other runs on its task: "
                f"remove its folder, and continue with {named('resume=True')} to train it again"
            )
        predictions = run.predictions[split].known()
        return Samples(
            ids=predictions.ids,
            labels=predictions.labels,
            statistic=statistic(run, predictions),
            fingerprint=run.fingerprints.get(f"data/{split}"),
            clusters=predictions.clusters,
        )

    return samples


def _task_metric(run: Run, predictions: Predictions) -> Statistic:
    if run.metric not in (*_OF_ROWS, *_OF_GROUPS):
        raise InputError(
            f"'{run.folder}' is scored by {run.metric}, which is not compared: expected one of "
            f"{', '.join((*_OF_ROWS, *_OF_GROUPS))}"
        )
    if run.metric in _OF_GROUPS and predictions.groups is None:
        raise InputError(
            f"predictions of '{run.folder}' do not say which rows answer one question together: "
            f"remove the folder, and continue with {named('resume=True')} to train it again"
        )
    return metric_of_rows(predictions, run.metric)


_OF_ROWS = ("accuracy", "matthews_correlation")
_OF_GROUPS = ("answer_f1", "exact_match", "token_f1", "choice_accuracy")


def metric_of_rows(predictions: Predictions, metric: str) -> Statistic:
    """A task's metric as a function of the rows that are drawn."""
    predicted, labels = predictions.logits.argmax(axis=1), predictions.labels
    if metric == "accuracy":
        right = (predicted == labels).astype(np.float64)
        return lambda rows: float(right[rows].mean())
    if metric == "matthews_correlation":
        return lambda rows: matthews_correlation(labels[rows], predicted[rows])
    groups = predictions.groups
    assert groups is not None, "rows of such a metric have groups"
    if metric == "answer_f1":
        answers, positive = predicted == groups.positive, labels == groups.positive
        return lambda rows: answer_f1(answers[rows], positive[rows])
    return _mean_over_groups(predictions, groups, metric)


def _mean_over_groups(predictions: Predictions, groups: Groups, metric: str) -> Statistic:
    """The mean over the drawn groups: each of n rows stands for 1 / n of its group."""
    of_groups = scores_of_groups(predictions.logits, predictions.labels, groups)[metric]
    _, members, sizes = np.unique(groups.index, return_inverse=True, return_counts=True)
    shares: NDArray[np.float64] = (1 / sizes)[members]
    earned = of_groups[members] * shares

    def statistic(rows: Rows) -> float:
        return float(earned[rows].sum() / shares[rows].sum())

    return statistic


def judged_split(runs: Iterable[Run]) -> str:
    """The in-distribution split that methods are judged on: test, or validation without one."""
    return "test" if all("test" in run.predictions for run in runs) else "validation"


def feature_split(runs: Iterable[Run]) -> str:
    """The split whose feature change is compared: test, or train without one."""
    return "test" if all("test" in run.features for run in runs) else "train"


def clusters_of(run: Run, split: str) -> NDArray[np.int64] | None:
    """Numbers that samples share where they are not independent, None where nothing is known."""
    predictions = run.predictions.get(split)
    return None if predictions is None else predictions.clusters


def resample_runs(
    runs: Sequence[Run], read: Callable[[Run], Samples], *, generator: np.random.Generator
) -> ByRun:
    """The statistic that ``read`` gives of each run, on all samples and on draws of them.

    Raises:
        InputError: two runs have different samples.
    """
    samples = {run.folder: (run.name, read(run)) for run in runs}
    if not samples:
        return {}
    for field in ("labels", "fingerprint", "clusters"):
        values = {name: getattr(sample, field) for name, sample in samples.values()}
        same_samples({name: np.atleast_1d(v) for name, v in values.items() if v is not None})
    clusters = (sample.clusters for _, sample in samples.values() if sample.clusters is not None)
    return resample(
        {folder: sample.statistic for folder, (_, sample) in samples.items()},
        same_samples({name: sample.ids for name, sample in samples.values()}),
        generator=generator,
        clusters=next(clusters, None),
    )


def same_samples(by_name: Mapping[str, ArrayLike]) -> int:
    """How many samples there are, which must be the same under every name; 0 without names.

    Raises:
        InputError: two have different samples.
    """
    known = [(name, np.asarray(values)) for name, values in by_name.items()]
    for name, values in known:
        if not np.array_equal(values, known[0][1]):
            raise InputError(
                f"{name} and {known[0][0]} were tested on different samples: expected the same "
                "data in all runs of a task; start again in another folder"
            )
    return len(known[0][1]) if known else 0
