"""What methods are compared by: a number of each run on its samples and on draws of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpft.analysis import calibration_error_of_draws
from lpft.analysis.comparison import Resampled, Rows, Statistic, resample
from lpft.analysis.metrics import answer_f1, matthews_correlation, scores_of_groups
from lpft.data.examples import Groups
from lpft.errors import InputError
from lpft.results.run import Predictions, Run, read_feature_changes

DRAW_SEED = 20240527
"""Of every bootstrap, so that the same runs always have the same intervals."""

ByRun = Mapping[Path, Resampled]
"""By the run's folder."""


PER_CENT = 100.0

OnDraws = Callable[[Sequence[Run], str, np.random.Generator], ByRun]
"""A number of each run's split, on its samples and on draws of them."""

Scored = Callable[[Predictions], Statistic]


@dataclass(frozen=True)
class Quantity:
    """What is compared between methods: multiplied by ``factor`` and shown with ``digits``."""

    name: str
    on_draws: OnDraws
    factor: float = 1.0
    digits: int | None = None


def task_score() -> Quantity:
    """The task's own metric, in per cent."""
    return Quantity(
        "test score",
        _of_predictions(_of_metric),
        factor=PER_CENT,
        digits=2,
    )


def calibration_error(*, calibrated: bool) -> Quantity:
    """ECE in per cent, with or without the run's temperature."""

    def error(run: Run, predictions: Predictions) -> Statistic:
        probabilities = predictions.probabilities(run.temperature if calibrated else 1.0)
        return calibration_error_of_draws(probabilities, predictions.labels)

    name = "ECE with T" if calibrated else "ECE without T"
    return Quantity(name, _of_predictions(error), factor=PER_CENT, digits=2)


def feature_change() -> Quantity:
    """Diff(F), the mean of how far each text's features moved."""

    def on_draws(runs: Sequence[Run], split: str, generator: np.random.Generator) -> ByRun:
        def read(run: Run) -> Samples:
            frame = read_feature_changes(run.folder, split)
            changes = frame["feature_difference"].to_numpy(dtype=np.float64)
            return Samples(
                ids=frame["id"].to_numpy(dtype=np.str_),
                statistic=lambda rows: float(changes[rows].mean()),
                fingerprint=data_fingerprint(run, split),
                clusters=clusters_of(run, split),
            )

        return resample_runs(runs, read, generator=generator)

    return Quantity("feature change", on_draws)


def _of_predictions(
    statistic: Callable[[Run, Predictions], Statistic],
) -> OnDraws:
    """Of the split's logits and labels; rows that are not independent are drawn together."""

    def on_draws(runs: Sequence[Run], split: str, generator: np.random.Generator) -> ByRun:
        def read(run: Run) -> Samples:
            if split not in run.predictions:
                raise InputError(
                    f"{run.name} has no predictions of {split}, unlike other runs on its task: "
                    "remove its folder, and go on with --resume to train it again"
                )
            predictions = run.predictions[split]
            return Samples(
                ids=predictions.ids,
                labels=predictions.labels,
                statistic=statistic(run, predictions),
                fingerprint=data_fingerprint(run, split),
                clusters=predictions.clusters,
            )

        return resample_runs(runs, read, generator=generator)

    return on_draws


def _of_metric(run: Run, predictions: Predictions) -> Statistic:
    if run.metric not in _SCORES:
        raise InputError(
            f"'{run.folder}' is scored by {run.metric}, which is not compared: expected one of "
            f"{', '.join(_SCORES)}"
        )
    if run.metric in _OF_GROUPS and predictions.groups is None:
        raise InputError(
            f"predictions of '{run.folder}' do not say which rows answer one question together: "
            "remove the folder, and go on with --resume to train it again"
        )
    return _SCORES[run.metric](predictions)


def _accuracy(predictions: Predictions) -> Statistic:
    right = (predictions.logits.argmax(axis=1) == predictions.labels).astype(np.float64)
    return lambda rows: float(right[rows].mean())


def _matthews(predictions: Predictions) -> Statistic:
    called, labels = predictions.logits.argmax(axis=1), predictions.labels
    return lambda rows: matthews_correlation(labels[rows], called[rows])


def _answer_f1(predictions: Predictions) -> Statistic:
    groups = _groups(predictions)
    called = predictions.logits.argmax(axis=1) == groups.positive
    positive = predictions.labels == groups.positive
    return lambda rows: answer_f1(called[rows], positive[rows])


def _groups(predictions: Predictions) -> Groups:
    assert predictions.groups is not None, "rows of such a metric have groups"
    return predictions.groups


def _mean_over_groups(metric: str) -> Scored:
    """The mean over the drawn groups: each of n rows stands for 1 / n of its group."""

    def scored(predictions: Predictions) -> Statistic:
        groups = _groups(predictions)
        of_groups = scores_of_groups(predictions.logits, predictions.labels, groups)[metric]
        _, members, sizes = np.unique(groups.index, return_inverse=True, return_counts=True)
        shares: NDArray[np.float64] = (1 / sizes)[members]
        earned = of_groups[members] * shares

        def statistic(rows: Rows) -> float:
            return float(earned[rows].sum() / shares[rows].sum())

        return statistic

    return scored


_OF_GROUPS: dict[str, Scored] = {
    "answer_f1": _answer_f1,
    **{name: _mean_over_groups(name) for name in ("exact_match", "token_f1", "choice_accuracy")},
}
_SCORES: dict[str, Scored] = {
    "accuracy": _accuracy,
    "matthews_correlation": _matthews,
    **_OF_GROUPS,
}


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
