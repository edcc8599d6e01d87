"""Sentences computed from the numbers: what was run, and what the results do and do not show.

No sentence here states a result that was not looked up in the runs of the report, and none takes
a difference for more than its rows and seeds can carry. Feature change is read in honesty.py.
"""

from collections.abc import Sequence

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
from lpft.report.settings import Group, Setting, method_name
from lpft.report.summary import RunSummary
from lpft.report.values import Value, metric_name, score

FEW_SEEDS = 5  # below this many a verdict needs all seeds to agree


def what_was_run(group: Group) -> str:
    """One sentence: methods, model, data with its rows, seeds."""
    first = group.runs[0]
    methods = dict.fromkeys(method_name(setting.method) for setting in group.settings)
    rows = [
        f"{whole(first.rows[split])} {name}"
        for split, name in (("train", "training"), ("validation", "validation"), ("test", "test"))
        if split in first.rows
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
    """Best and worst score in distribution, how sure the first place is; the same OOD."""
    sentences = _in_distribution(group)
    if group.ood_splits:
        where = f"Out of distribution (mean over {counted(len(group.ood_splits), 'set')})"
        sentences += _range_and_lead(group.settings, where, "accuracy", _mean_accuracy(group))
    return sentences


def _in_distribution(group: Group) -> list[str]:
    split = group.id_split
    counts = [rows for rows in (s.rows(split) for s in group.settings) if rows is not None]
    if not counts:
        return []
    rows = whole(counts[0])
    where = f"In distribution ({split}, {rows} rows)"
    value = score(split, group.metric)
    sentences = _range_and_lead(group.settings, where, metric_name(group.metric), value)
    if sentences and group.metric == "accuracy":
        top = _ranked(group.settings, value)[0][1].mean
        low, high = wilson(top, counts[0])
        sentences.append(
            f"With {rows} rows an accuracy of {fixed(top)} has a 95 % interval from {fixed(low)} "
            f"to {fixed(high)}."
        )
    return sentences


def _mean_accuracy(group: Group) -> Value:
    def mean(run: RunSummary) -> float | None:
        scores = [run.score(split, "accuracy") for split in group.ood_splits]
        known = [value for value in scores if value is not None]
        return sum(known) / len(known) if len(known) == len(scores) else None

    return mean


def _ranked(settings: Sequence[Setting], value: Value) -> list[tuple[Setting, Spread]]:
    scored = [(setting, setting.spread(value)) for setting in settings]
    known = [(setting, spread) for setting, spread in scored if spread is not None]
    return sorted(known, key=lambda pair: -pair[1].mean)


def _range_and_lead(settings: Sequence[Setting], where: str, name: str, value: Value) -> list[str]:
    ranked = _ranked(settings, value)
    if not ranked:
        return []
    (best, top), (worst, low) = ranked[0], ranked[-1]
    if len(ranked) == 1:
        return [f"{where} {name} is {with_sd(top)} for {best.label}."]
    return [
        f"{where} {name} goes from {with_sd(low)} for {worst.label} to {with_sd(top)} for "
        f"{best.label}.",
        _lead(best, ranked[1][0], value),
    ]


def _lead(best: Setting, second: Setting, value: Value) -> str:
    """How sure the first place is, from the seeds that both settings have."""
    others = {run.seed: value(run) for run in second.runs}
    leads = []
    for run in best.runs:
        mine, theirs = value(run), others.get(run.seed)
        if mine is not None and theirs is not None:
            leads.append(mine - theirs)
    if not leads:
        return f"{best.label} and {second.label}, the next, have no seed in common."
    mean = sum(leads) / len(leads)
    lead = f"{best.label} leads {second.label}, the next, by {fixed(mean)}"
    if mean <= 0:
        lead = f"{best.label} and {second.label} do not differ on the seeds they share"
    return f"{lead}; {verdict(leads, 'ahead')}."


def verdict(differences: Sequence[float], word: str) -> str:
    """What the signs of paired differences, one per seed, allow to say.

    ``word`` says what a positive difference means (``ahead``, ``smaller``).
    """
    seeds, spread = len(differences), Spread.of(differences)
    if spread is None:
        return "no seed in common: nothing can be said"
    if spread.sd is None:
        return "one seed: cannot tell it from chance"
    positive = sum(difference > 0 for difference in differences)
    negative = sum(difference < 0 for difference in differences)
    if positive == seeds:
        return f"{word} in all {seeds} seeds"
    if negative == seeds:
        return f"{word} in none of {seeds} seeds"
    told = f"{word} in {positive} of {seeds} seeds"
    if seeds >= FEW_SEEDS and abs(spread.mean) > 2 * spread.sd / seeds**0.5:
        return f"{told}, the mean difference beyond twice its standard error"
    return f"{told}: cannot tell"


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
    kept = [run for run in group.runs if run.temperature_reason is not None]
    if kept:
        runs = counted(len(kept), "run")
        sentences.append(f"It stayed 1 in {runs}; the reasons are under Calibration.")
    return sentences


def read_head(group: Group) -> list[str]:
    """Head norms at the start and the end of fine-tuning, random heads beside LP heads."""
    fine_tuned = [run for run in group.runs if run.method != "lp"]
    parts = []
    for from_lp, name in ((False, "random heads"), (True, "heads from linear probing")):
        runs = [run for run in fine_tuned if run.method.startswith("lp-") == from_lp]
        starts = [run.head_norm("norm_at_start") for run in runs]
        ends = [run.head_norm("norm") for run in runs]
        if runs and None not in starts and None not in ends:
            parts.append(f"{name} start at {_range(starts)} and end at {_range(ends)}")
    return [f"Norm of the head's weights: {'; '.join(parts)}."] if parts else []


def _range(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    low, high = significant(min(known)), significant(max(known))
    return low if low == high else f"{low} to {high}"


def change_digits(values: Sequence[float]) -> int:
    """Decimals for feature changes in a sentence."""
    return min(2, decimals_for(values)) if max(values, default=0) >= 0.1 else 4
