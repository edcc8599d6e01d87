"""The methods of a group in one list, and what a practitioner asks of the run to be used."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import log_softmax

from lpft.analysis.calibration import calibration_error_by_chance
from lpft.analysis.comparison import wilson
from lpft.analysis.metrics import per_class
from lpft.analysis.selection import Choice
from lpft.analysis.trust import RiskCoverage, risk_coverage
from lpft.data.examples import UNSEEN
from lpft.results.differences import Differences
from lpft.results.exhibits import Estimate
from lpft.results.groups import Group, Setting, Spread, method_name, score
from lpft.results.judging import Judgement
from lpft.results.quantities import DRAW_SEED
from lpft.results.run import Predictions, Run
from lpft.settings.methods import METHODS

MAJORITY = "Most frequent class"
"""The baseline that always answers the class that is most frequent in the evaluated rows."""

_DRAWS = 400


@dataclass(frozen=True)
class Entry:
    """One row: a method with its best setting on validation, or a baseline without one.

    ``accuracy`` is the mean over seeds, with the 95 % Wilson interval of the rows of ``split``;
    ``new_domains`` the mean over OOD sets; ``calibration_error`` ECE as shipped, with temperature;
    ``score`` the task's own metric, where that is not accuracy. ``texts_per_second`` is of
    evaluation. ``judgement`` is on the chosen entry's score less this one's, in distribution, in
    per cent; None of the chosen one, and where nothing could be compared.
    """

    name: str
    split: str
    accuracy: Estimate
    setting: Setting | None = None
    judgement: Judgement | None = None
    new_domains: float | None = None
    score: float | None = None
    calibration_error: float | None = None
    seconds: float | None = None
    texts_per_second: float | None = None


@dataclass(frozen=True)
class Leaderboard:
    """The entries of a group, the chosen one first, then the others by accuracy.

    ``choice`` says how validation chose; None of a single method, or where the best is in front.
    """

    group: Group
    entries: tuple[Entry, ...]
    choice: Choice | None

    @property
    def chosen(self) -> Entry:
        return self.entries[0]

    @property
    def baseline(self) -> Entry:
        """The entry of the most frequent class."""
        return next(entry for entry in self.entries if entry.name == MAJORITY)

    @cached_property
    def run(self) -> Run:
        """The run to be used: of the chosen setting's the best on validation, of equals the first.

        It is the one that ``lpft train`` chose, where the runs are its candidates.
        """
        if self.group.chosen_run is not None:
            return self.group.chosen_run
        assert self.chosen.setting is not None
        runs = self.chosen.setting.runs
        scores = [run.score("validation", run.metric) for run in runs]
        return runs[int(np.argmax([-1.0 if value is None else value for value in scores]))]

    @property
    def left_out(self) -> dict[str, list[str]]:
        """Names of the methods that ``lpft train`` decided not to train, by the reason."""
        chosen = self.group.chosen_run
        by_reason: dict[str, list[str]] = {}
        if chosen is not None and chosen.selection is not None:
            for decision in chosen.selection.decision:
                # A candidate's folder is its method, with the seed where there are several.
                method = decision.folder.partition("-seed")[0]
                if decision.reason is not None and method in METHODS:
                    names = by_reason.setdefault(decision.reason, [])
                    names += [name for name in [method_name(method)] if name not in names]
        return by_reason

    @cached_property
    def accuracy(self) -> Estimate:
        """Accuracy of the run to use, with its Wilson interval."""
        return _accuracy((self.run,), self.chosen.split)


def leaderboard(group: Group, differences: Differences) -> Leaderboard | None:
    """The leaderboard of a group; None where no method has a score on validation."""
    chosen, split = differences.chosen, group.id_split
    if chosen is None or split not in group.splits:
        return None
    where = differences.scores[0].where if differences.scores else split
    judged = [(chosen, None)] + [
        (contrast.other, contrast.judgement)
        for contrast in differences.scores
        if contrast.where == where
    ]
    missing = [s for s in differences.best if s not in [setting for setting, _ in judged]]
    entries = [_entry(group, setting, judgement) for setting, judgement in judged]
    entries += [_entry(group, setting, None) for setting in missing]
    first, *others = entries
    others += _probe_entry(group, entries)
    others.sort(key=lambda entry: -(entry.accuracy.value or 0.0))
    return Leaderboard(group, (first, *others, _majority(group)), differences.choice)


def _entry(group: Group, setting: Setting, judgement: Judgement | None) -> Entry:
    split = group.id_split

    def mean(value: Callable[[Run], float | None]) -> float | None:
        spread = setting.spread(value)
        return None if spread is None else spread.mean

    return Entry(
        name=setting.name if setting.position == 0 else setting.label,
        split=split,
        accuracy=_accuracy(setting.runs, split),
        setting=setting,
        judgement=judgement,
        new_domains=mean(lambda run: in_new_domains(run, group.ood_splits)),
        score=None if group.metric == "accuracy" else mean(score(split, group.metric)),
        calibration_error=mean(score(split, "ece", calibrated=True)),
        seconds=mean(lambda run: run.record.timings.get("total")),
        texts_per_second=mean(_texts_per_second),
    )


def _accuracy(runs: Sequence[Run], split: str) -> Estimate:
    spread = Spread.of(run.score(split, "accuracy") for run in runs)
    rows = next((known_rows(run, split) for run in runs if split in run.predictions), 0)
    if spread is None or not rows:
        return Estimate(None)
    low, high = wilson(spread.mean, rows)
    return Estimate(spread.mean, spread.sd, spread.count, float(low), float(high))


def known_rows(run: Run, split: str) -> int:
    """Rows of a split whose class the model knows."""
    return int((run.predictions[split].labels != UNSEEN).sum())


def in_new_domains(run: Run, splits: Sequence[str]) -> float | None:
    """The mean accuracy over OOD sets that have one; None without any."""
    known = [value for split in splits if (value := run.score(split, "accuracy")) is not None]
    return float(np.mean(known)) if known else None


def _texts_per_second(run: Run) -> float | None:
    """Texts that were evaluated after training, by the time this took; None of linear probing.

    Its features were there before, and those of validation texts are there after fine-tuning.
    """
    seconds = run.record.timings.get("evaluation")
    known = run.method in METHODS and not METHODS[run.method].fine_tunes
    texts = sum(rows for split, rows in run.data.rows.items() if split != "validation")
    return None if known or not seconds or not texts else texts / seconds


def _probe_entry(group: Group, entries: Sequence[Entry]) -> list[Entry]:
    """LP by its score on validation, as the start of another method, where it was not run alone."""
    if any(entry.setting is not None and entry.setting.method == "lp" for entry in entries):
        return []
    for run in group.runs:
        if not run.method.startswith("lp-") or "validation" not in run.predictions:
            continue
        scored = (row.get("validation_accuracy") for row in run.history if row.get("epoch") == 0)
        value = next((value for value in scored if value is not None), None)
        if value is not None:
            low, high = wilson(float(value), known_rows(run, "validation"))
            accuracy = Estimate(float(value), low=float(low), high=float(high))
            return [Entry(f"LP (start of {method_name(run.method)})", "validation", accuracy)]
    return []


def _majority(group: Group) -> Entry:
    run = next(run for run in group.runs if group.id_split in run.predictions)
    labels = run.predictions[group.id_split].labels
    known = labels[labels != UNSEEN]
    share = float(np.bincount(known).max() / len(known)) if len(known) else None
    return Entry(MAJORITY, group.id_split, Estimate(share))


@dataclass(frozen=True)
class ClassScores:
    """Precision, recall, F1 (None where they are 0/0) and support of one class on one split."""

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


def class_scores(run: Run, split: str) -> tuple[ClassScores, ...]:
    """The scores of every class, from the predictions of a split."""
    known = run.predictions[split].known()
    scores = per_class(known.labels, known.logits.argmax(axis=1), run.classes)
    return tuple(ClassScores(name, **values) for name, values in scores.items())


def accuracy_over_coverage(run: Run, split: str) -> RiskCoverage:
    """How right a run is on the rows in which, with temperature, it is most confident."""
    predictions = run.predictions[split]
    top = predictions.probabilities(run.temperature).max(axis=1)
    return risk_coverage(top, predictions.logits.argmax(axis=1) == predictions.labels)


@dataclass(frozen=True)
class Trust:
    """How far stated confidence is from how often a run is right; fractions.

    ``error`` is ECE with temperature, ``chance`` what perfect probabilities would exceed in 5 % of
    samples with as many rows, ``confidence`` the mean stated, ``accuracy`` how often it is right.
    ``nll_before`` and ``nll_after`` are without and with temperature; ``harmed`` is whether it
    raised the NLL by more than 1.96 standard errors of the paired difference.
    """

    error: float
    chance: float
    confidence: float
    accuracy: float
    nll_before: float
    nll_after: float
    harmed: bool

    @property
    def holds(self) -> bool:
        """Whether the rows show no fault of the probabilities beyond chance."""
        return self.error <= self.chance


def trust(run: Run, split: str) -> Trust | None:
    """Whether the probabilities of a split can be trusted; None without rows of known classes."""
    predictions: Predictions = run.predictions[split]
    known = predictions.labels != UNSEEN
    error = run.score(split, "ece", calibrated=True)
    if not known.any() or error is None:
        return None
    probabilities = predictions.probabilities(run.temperature)[known]
    right = probabilities.argmax(axis=1) == predictions.labels[known]
    chance = calibration_error_by_chance(
        probabilities, draws=_DRAWS, generator=np.random.default_rng(DRAW_SEED)
    )
    before, after = (
        -log_softmax(predictions.logits[known] / temperature, axis=1)[
            np.arange(len(right)), predictions.labels[known]
        ]
        for temperature in (1.0, run.temperature)
    )
    rise = after - before
    standard_error = rise.std(ddof=1) / np.sqrt(len(rise)) if len(rise) > 1 else np.inf
    return Trust(
        error,
        chance,
        confidence=float(probabilities.max(axis=1).mean()),
        accuracy=float(right.mean()),
        nll_before=float(before.mean()),
        nll_after=float(after.mean()),
        harmed=bool(rise.mean() > 1.96 * standard_error),
    )
