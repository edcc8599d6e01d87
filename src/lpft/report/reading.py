"""Sentences computed from the numbers: what was run, and what the results do and do not show.

No sentence here states a result that was not looked up in the runs of the report, and none takes
a difference for more than its rows and seeds can carry. Feature change is read in honesty.py.
"""

from collections.abc import Mapping, Sequence

from lpft.report.numbers import (
    Spread,
    counted,
    decimals_for,
    fixed,
    joined,
    significant,
    whole,
    wilson,
    with_sd,
)
from lpft.results.exhibits import VerdictName
from lpft.results.groups import Group, Selector, Setting, method_name, metric_name, score
from lpft.results.judging import FEW_SEEDS, Judgement
from lpft.results.pairing import Differences, ScoreContrast
from lpft.results.run import Run
from lpft.settings import METHODS


def what_was_run(group: Group) -> str:
    """One sentence: methods, model, data with its rows, seeds."""
    first = group.runs[0]
    methods = dict.fromkeys(method_name(setting.method) for setting in group.settings)
    rows = [
        f"{whole(first.data.rows[split])} {name}"
        for split, name in (("train", "training"), ("validation", "validation"), ("test", "test"))
        if split in first.data.rows
    ]
    parts = [f"{joined(rows)} texts"] if rows else []
    parts.append(f"{len(first.classes)} classes")
    if group.ood_splits:
        ood = [split.removeprefix("ood/") for split in group.ood_splits]
        parts.append(f"out of distribution: {joined(ood)}")
    seeds = sorted({run.seed for run in group.runs})
    return (
        f"{counted(len(group.runs), 'finished run')} of {joined(list(methods))} on {group.data} "
        f"({'; '.join(parts)}) with {group.model}, {group.pooling} pooling and the "
        f"{group.protocol} split; {'seed' if len(seeds) == 1 else 'seeds'} "
        f"{joined([str(seed) for seed in seeds])}."
    )


def read_accuracy(group: Group) -> list[str]:
    """Best and worst score in distribution, and out of it."""
    sentences = _in_distribution(group)
    if group.ood_splits:
        where = f"Out of distribution (mean over {counted(len(group.ood_splits), 'set')})"
        name = metric_name(group.metric)
        sentences += _range_of(group.settings, where, name, _mean_score(group))
    return sentences


def _in_distribution(group: Group) -> list[str]:
    split = group.id_split
    counts = [rows for rows in (s.rows(split) for s in group.settings) if rows is not None]
    if not counts:
        return []
    rows = whole(counts[0])
    where = f"In distribution ({split}, {rows} rows)"
    value = score(split, group.metric)
    sentences = _range_of(group.settings, where, metric_name(group.metric), value)
    if sentences and group.metric == "accuracy":
        top = _ranked(group.settings, value)[0][1].mean
        low, high = wilson(top, counts[0])
        sentences.append(
            f"With {rows} rows an accuracy of {fixed(top)} has a 95 % interval from {fixed(low)} "
            f"to {fixed(high)}."
        )
    return sentences


def _mean_score(group: Group) -> Selector:
    def mean(run: Run) -> float | None:
        scores = [run.score(split, run.metric) for split in group.ood_splits]
        known = [value for value in scores if value is not None]
        return sum(known) / len(known) if len(known) == len(scores) else None

    return mean


def _ranked(settings: Sequence[Setting], value: Selector) -> list[tuple[Setting, Spread]]:
    scored = [(setting, setting.spread(value)) for setting in settings]
    known = [(setting, spread) for setting, spread in scored if spread is not None]
    return sorted(known, key=lambda pair: -pair[1].mean)


def _range_of(settings: Sequence[Setting], where: str, name: str, value: Selector) -> list[str]:
    ranked = _ranked(settings, value)
    if not ranked:
        return []
    (best, top), (worst, low) = ranked[0], ranked[-1]
    if len(ranked) == 1:
        return [f"{where} {name} is {with_sd(top)} for {best.label}."]
    return [
        f"{where} {name} goes from {with_sd(low)} for {worst.label} to {with_sd(top)} for "
        f"{best.label}."
    ]


def read_differences(differences: Differences, group: Group) -> list[str]:
    """What can be said of the setting that validation chooses beside each other method."""
    if differences.chosen is None:
        return []
    chosen = differences.chosen.label
    sentences = [f"{chosen} has the best {metric_name(group.metric)} on validation."]
    for where in dict.fromkeys(contrast.where for contrast in differences.scores):
        found = [contrast for contrast in differences.scores if contrast.where == where]
        sentences.append(_beside_others(where, found))
    return [*sentences, *differences.problems]


def _beside_others(where: str, found: Sequence[ScoreContrast]) -> str:
    told: dict[VerdictName, list[str]] = {}
    for contrast in found:
        told.setdefault(contrast.judgement.verdict, []).append(contrast.other.label)
    parts = [f"{said} {joined(told[name])}" for name, said in _SAID.items() if name in told]
    most = max(_seeds(contrast.judgement) for contrast in found)
    few = f" ({counted(most, 'seed')})" if most < FEW_SEEDS else ""
    return f"On {where} it {'; it '.join(parts)}{few}."


_SAID: Mapping[VerdictName, str] = {
    "holds": "is above",
    "does not hold": "is below",
    "cannot tell": "cannot be told from",
}


def _seeds(judgement: Judgement) -> int:
    return 0 if judgement.effect.count is None else judgement.effect.count


def read_calibration(group: Group) -> list[str]:
    """Where one temperature lowered ECE, in and out of distribution, and where it stayed 1."""
    before, after = (score(group.id_split, "ece", calibrated=c) for c in (False, True))
    changes = []
    for setting in group.settings:
        first, second = setting.spread(before), setting.spread(after)
        if first is not None and second is not None:
            changes.append((first.mean - second.mean, setting, first, second))
    if not changes:
        return []
    noun = "setting" if any(setting.position for setting in group.settings) else "method"
    lower = sum(change[0] > 0 for change in changes)
    text = (
        f"One temperature per run, fitted on validation, lowers ECE on {group.id_split} for "
        f"{lower if lower else 'none'} of {counted(len(changes), noun)}"
    )
    if lower:
        _, setting, first, second = max(changes, key=lambda change: change[0])
        text += f", most for {setting.label} (from {with_sd(first)} to {with_sd(second)})"
    sentences = [f"{text}."]
    cases = [
        (run.score(split, "ece"), run.score(split, "ece", calibrated=True))
        for run in group.runs
        for split in group.ood_splits
    ]
    known = [(old, new) for old, new in cases if old is not None and new is not None]
    if known:
        fewer = sum(new < old for old, new in known)
        sentences.append(
            "Out of distribution, where it was not fitted, it lowers ECE in "
            f"{fewer} of {counted(len(known), 'case')} (one run on one set)."
        )
    kept = [run for run in group.runs if run.record.calibration.reason is not None]
    if kept:
        runs = counted(len(kept), "run")
        sentences.append(f"It stayed 1 in {runs}; the reasons are under Calibration.")
    return sentences


def read_head(group: Group) -> list[str]:
    """Head norms at the start and the end of fine-tuning, random heads beside LP heads."""
    fine_tuned = [run for run in group.runs if run.method != "lp"]
    parts = []
    for from_lp, name in ((False, "random heads"), (True, "heads from linear probing")):
        runs = [run for run in fine_tuned if _from_lp(run.method) == from_lp]
        starts = [run.head_norm("norm_at_start") for run in runs]
        ends = [run.head_norm("norm") for run in runs]
        if runs and None not in starts and None not in ends:
            parts.append(f"{name} start at {_range(starts)} and end at {_range(ends)}")
    return [f"Norm of the head's weights: {'; '.join(parts)}."] if parts else []


def _from_lp(method: str) -> bool:
    return method in METHODS and METHODS[method].head_start == "lp"


def _range(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    low, high = significant(min(known)), significant(max(known))
    return low if low == high else f"{low} to {high}"


def change_digits(values: Sequence[float]) -> int:
    """Decimals for feature changes in a sentence."""
    return min(2, decimals_for(values)) if max(values, default=0) >= 0.1 else 4
