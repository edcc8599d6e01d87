"""A method with and without the LP start, on the same seeds and samples: a table of differences."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from lpft.analysis import expected_calibration_error
from lpft.analysis.resampling import Rows, Statistic, without_samples
from lpft.experiments.claims.samples import ByRun, resample_runs
from lpft.experiments.claims.sides import all_runs, pairings, pairs_in
from lpft.experiments.claims.verdicts import Measured, Outcome, Part, judge
from lpft.experiments.recipe import Found
from lpft.experiments.recipes.cells import PER_CENT, Place
from lpft.report.collect import Predictions, RunSummary
from lpft.report.exhibits.record import Estimate, ExhibitColumn, TableExhibit
from lpft.report.numbers import joined
from lpft.runs.features import read_feature_changes

_READINGS = {"holds": "higher", "does not hold": "lower", "cannot tell": "cannot tell"}
_DRAW_SEED = 20240527

NOTE = (
    "Difference: mean over seeds of the method with the LP start minus the one with a "
    "random head, paired by seed and sample, with a 95 % interval of a bootstrap over both. "
    "Detectable: the smallest true difference that a paired t-test at 5 % finds with 80 % power "
    "with so many seeds of this spread. Reading: the interval's side of zero; below five seeds "
    "every seed on every data set must have the same sign as well, and one seed never tells."
)
NOTE_ON_RATES = (
    "At each method's own rates a difference mixes the head's effect with that of learning rate "
    "and batch size; at shared ones (those of the method with the LP start) the head alone differs."
)


OnDraws = Callable[[Sequence[RunSummary], str, np.random.Generator], ByRun]
"""A number of each run's split, on its samples and on draws of them."""


@dataclass(frozen=True)
class Quantity:
    """What is compared between methods: multiplied by ``factor`` and shown with ``digits``."""

    name: str
    on_draws: OnDraws
    factor: float = 1.0
    digits: int | None = None


def task_score() -> Quantity:
    """The task's own metric, in per cent; samples are drawn where single texts are scored."""

    def on_draws(runs: Sequence[RunSummary], split: str, generator: np.random.Generator) -> ByRun:
        if all(run.metric in _SCORES for run in runs):
            return by_text(runs, split, generator)
        scores = {run.folder: run.score(split, run.metric) for run in runs}
        return {
            folder: without_samples(value) for folder, value in scores.items() if value is not None
        }

    by_text = _of_predictions(lambda run, predictions: _SCORES[run.metric](predictions))
    return Quantity("test score", on_draws, factor=PER_CENT, digits=2)


def accuracy() -> Quantity:
    """Accuracy in per cent, whatever the task's own metric."""
    return Quantity(
        "accuracy",
        _of_predictions(lambda _, predictions: _accuracy(predictions)),
        factor=PER_CENT,
        digits=2,
    )


def calibration_error(*, calibrated: bool) -> Quantity:
    """ECE in per cent, with or without the run's temperature."""

    def error(run: RunSummary, predictions: Predictions) -> Statistic:
        probabilities = predictions.probabilities(run.temperature if calibrated else 1.0)
        labels = predictions.labels
        return lambda rows: expected_calibration_error(probabilities[rows], labels[rows])

    name = "ECE with T" if calibrated else "ECE without T"
    return Quantity(name, _of_predictions(error), factor=PER_CENT, digits=2)


def feature_change() -> Quantity:
    """Diff(F), the mean of how far each text's features moved."""

    def on_draws(runs: Sequence[RunSummary], split: str, generator: np.random.Generator) -> ByRun:
        def read(run: RunSummary) -> tuple[ArrayLike, Statistic]:
            frame = read_feature_changes(run.folder, split)
            changes = frame["feature_difference"].to_numpy(dtype=np.float64)
            return frame["id"].to_numpy(), lambda rows: float(changes[rows].mean())

        return resample_runs(runs, read, generator=generator)

    return Quantity("feature change", on_draws)


def _of_predictions(statistic: Callable[[RunSummary, Predictions], Statistic]) -> OnDraws:
    def on_draws(runs: Sequence[RunSummary], split: str, generator: np.random.Generator) -> ByRun:
        def read(run: RunSummary) -> tuple[ArrayLike, Statistic]:
            predictions = run.predictions[split]
            return predictions.labels, statistic(run, predictions)

        return resample_runs(runs, read, generator=generator)

    return on_draws


def contrast_table(
    found: Found, quantity: Quantity, *, name: str, where: Sequence[Place]
) -> tuple[TableExhibit | None, tuple[str, ...]]:
    """A row per data set, pair of methods and choice of rates; one sentence per pair and rates.

    None where no two methods of a pair have a seed in common.

    Raises:
        InputError: two runs were tested on different samples.
    """
    generator = np.random.default_rng(_DRAW_SEED)
    measured = [one for place in where for one in _measured(found, quantity, place, generator)]
    outcomes = judge(measured, generator=generator)
    if not outcomes:
        return None, ()
    rows = [
        (
            one.task,
            one.subject,
            one.rates,
            replace(outcome.effect, sd=None),
            _detectable(outcome),
            _READINGS[outcome.verdict],
        )
        for one, outcome in zip(measured, outcomes, strict=True)
    ]
    table = TableExhibit(
        name=name,
        title=f"With and without the LP start: {quantity.name}",
        columns=(
            *(ExhibitColumn(heading, source="names") for heading in ("Data", "Pair", "Rates")),
            ExhibitColumn("Difference", digits=quantity.digits),
            ExhibitColumn("Detectable", digits=quantity.digits),
            ExhibitColumn("Reading"),
        ),
        rows=tuple(rows),
        note=f"{NOTE} {NOTE_ON_RATES}",
        headers=3,
    )
    return table, tuple(_sentences(quantity, measured, outcomes))


def _measured(
    found: Found, quantity: Quantity, place: Place, generator: np.random.Generator
) -> list[Measured]:
    """Every pair of methods at every choice of rates, at one place."""
    compared = [
        pairing
        for pair in pairs_in(found.scope.methods)
        for pairing in pairings(found, place.task, pair)
        if pairing.seeds
    ]
    by_run = quantity.on_draws(all_runs(compared), place.split, generator)
    return [
        Measured(
            part=Part(quantity.name),
            task=place.label,
            subject=f"{pairing.second.name} against {pairing.first.name}",
            rates=pairing.rates,
            unit="",
            effects=tuple(
                (after - before) * quantity.factor for before, after in pairing.statistics(by_run)
            ),
            runs=pairing.run_names,
            told="",
        )
        for pairing in compared
    ]


def _detectable(outcome: Outcome) -> Estimate | None:
    if outcome.detectable is None:
        return None
    return Estimate(outcome.detectable, count=outcome.effect.count, runs=outcome.effect.runs)


def _sentences(
    quantity: Quantity, measured: Sequence[Measured], outcomes: Sequence[Outcome]
) -> list[str]:
    """For each pair and choice of rates on which data sets what can be said."""
    told: dict[tuple[str, str], dict[str, list[str]]] = {}
    for one, outcome in zip(measured, outcomes, strict=True):
        readings = told.setdefault((one.subject, one.rates), {})
        readings.setdefault(_READINGS[outcome.verdict], []).append(one.task)
    return [
        f"{quantity.name[0].upper()}{quantity.name[1:]}, {subject} at {rates} rates: "
        + "; ".join(f"{reading} on {joined(tasks)}" for reading, tasks in readings.items())
        + "."
        for (subject, rates), readings in told.items()
    ]


def _accuracy(predictions: Predictions) -> Statistic:
    right = (predictions.logits.argmax(axis=1) == predictions.labels).astype(np.float64)
    return lambda rows: float(right[rows].mean())


def _matthews(predictions: Predictions) -> Statistic:
    """Gorodkin's correlation of C classes from counts, as scikit-learn's but for every draw fast.

    ``(c s - sum_k p_k t_k) / sqrt((s^2 - sum_k p_k^2) (s^2 - sum_k t_k^2))`` with c right of s
    samples, p_k predicted and t_k labelled k; 0 where labels or predictions are of one class.
    """
    classes = predictions.logits.shape[1]
    pairs = predictions.labels * classes + predictions.logits.argmax(axis=1)

    def correlation(rows: Rows) -> float:
        counts = np.bincount(pairs[rows], minlength=classes**2).reshape(classes, classes)
        labelled, predicted = counts.sum(axis=1), counts.sum(axis=0)
        of_labels = len(rows) ** 2 - labelled @ labelled
        of_predictions = len(rows) ** 2 - predicted @ predicted
        if of_labels == 0 or of_predictions == 0:
            return 0.0
        shared = np.trace(counts) * len(rows) - predicted @ labelled
        return float(shared / np.sqrt(float(of_labels) * float(of_predictions)))

    return correlation


_SCORES: dict[str, Callable[[Predictions], Statistic]] = {
    "accuracy": _accuracy,
    "matthews_correlation": _matthews,
}
