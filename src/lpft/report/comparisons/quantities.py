"""What methods are compared by, as a number of each run on its samples and on draws of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpft.analysis import expected_calibration_error
from lpft.analysis.grouped import answer_f1, scores_of_groups
from lpft.analysis.metrics import matthews_correlation
from lpft.analysis.resampling import Rows, Statistic
from lpft.data.groups import Groups
from lpft.errors import InputError
from lpft.report.collect import Predictions, RunSummary
from lpft.report.comparisons.samples import ByRun, Samples, resample_runs
from lpft.runs.features import read_feature_changes
from lpft.runs.groups import read_groups

PER_CENT = 100.0
POSITIVE = "True"
"""The class that says that a row answers its question, where rows do so together."""

OnDraws = Callable[[Sequence[RunSummary], str, np.random.Generator], ByRun]
"""A number of each run's split, on its samples and on draws of them."""

Scored = Callable[[Predictions, Groups | None], Statistic]


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
        _of_predictions(lambda run, predictions, groups: _SCORES[run.metric](predictions, groups)),
        factor=PER_CENT,
        digits=2,
    )


def accuracy() -> Quantity:
    """Accuracy in per cent, whatever the task's own metric."""
    return Quantity(
        "accuracy",
        _of_predictions(lambda _, predictions, groups: _accuracy(predictions, groups)),
        factor=PER_CENT,
        digits=2,
    )


def calibration_error(*, calibrated: bool) -> Quantity:
    """ECE in per cent, with or without the run's temperature."""

    def error(run: RunSummary, predictions: Predictions, _: Groups | None) -> Statistic:
        probabilities = predictions.probabilities(run.temperature if calibrated else 1.0)
        labels = predictions.labels
        return lambda rows: expected_calibration_error(probabilities[rows], labels[rows])

    name = "ECE with T" if calibrated else "ECE without T"
    return Quantity(name, _of_predictions(error), factor=PER_CENT, digits=2)


def feature_change() -> Quantity:
    """Diff(F), the mean of how far each text's features moved."""

    def on_draws(runs: Sequence[RunSummary], split: str, generator: np.random.Generator) -> ByRun:
        def read(run: RunSummary) -> Samples:
            frame = read_feature_changes(run.folder, split)
            changes = frame["feature_difference"].to_numpy(dtype=np.float64)
            groups = _groups(run, split)
            return Samples(
                identity=frame["id"].to_numpy(),
                statistic=lambda rows: float(changes[rows].mean()),
                clusters=None if groups is None else groups.index,
            )

        return resample_runs(runs, read, generator=generator)

    return Quantity("feature change", on_draws)


def _of_predictions(
    statistic: Callable[[RunSummary, Predictions, Groups | None], Statistic],
) -> OnDraws:
    """Of the split's logits and labels; answers to one question are drawn together."""

    def on_draws(runs: Sequence[RunSummary], split: str, generator: np.random.Generator) -> ByRun:
        def read(run: RunSummary) -> Samples:
            if split not in run.predictions:
                raise InputError(
                    f"{run.name} has no predictions of {split}, unlike other runs on its task: "
                    "remove its folder, and go on with --resume to train it again"
                )
            predictions, groups = run.predictions[split], _groups(run, split)
            return Samples(
                identity=predictions.labels,
                statistic=statistic(run, predictions, groups),
                clusters=None if groups is None else groups.index,
            )

        return resample_runs(runs, read, generator=generator)

    return on_draws


def _groups(run: RunSummary, split: str) -> Groups | None:
    """The questions that a split's rows answer together, None where each is its own."""
    if POSITIVE not in run.classes or split not in run.predictions:
        return None
    groups = read_groups(run.folder, split, run.classes.index(POSITIVE))
    if groups is None and run.metric in _OF_GROUPS:
        raise InputError(
            f"predictions of '{run.folder}' do not say which rows answer one question together: "
            "remove the folder, and go on with --resume to train it again"
        )
    return groups


def _accuracy(predictions: Predictions, _: Groups | None) -> Statistic:
    right = (predictions.logits.argmax(axis=1) == predictions.labels).astype(np.float64)
    return lambda rows: float(right[rows].mean())


def _matthews(predictions: Predictions, _: Groups | None) -> Statistic:
    called, labels = predictions.logits.argmax(axis=1), predictions.labels
    return lambda rows: matthews_correlation(labels[rows], called[rows])


def _answer_f1(predictions: Predictions, groups: Groups | None) -> Statistic:
    assert groups is not None, "rows of such a metric have groups"
    called = predictions.logits.argmax(axis=1) == groups.positive
    positive = predictions.labels == groups.positive
    return lambda rows: answer_f1(called[rows], positive[rows])


def _mean_over_groups(metric: str) -> Scored:
    """The mean over the drawn groups: each of n rows stands for 1 / n of its group."""

    def scored(predictions: Predictions, groups: Groups | None) -> Statistic:
        assert groups is not None, "rows of such a metric have groups"
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
