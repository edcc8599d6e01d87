"""The tables of a group of runs: methods, calibration, features, paired differences, confusion."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from lpft.report.table import Columns, from_columns
from lpft.report.text import say
from lpft.results.exhibits import Cell, Column, Estimate, Table, Text
from lpft.results.formats import counted, decimals_for, rate, whole
from lpft.results.groups import (
    Group,
    Selector,
    Setting,
    Spread,
    feature,
    head,
    method_name,
    metric_name,
    score,
)
from lpft.results.judging import FEW_SEEDS, Judgement, chance_note
from lpft.results.pairing import Comparison, Differences, Match, Rates
from lpft.results.run import Run

_MOST_CLASSES = 12  # in a confusion matrix; of more the commonest confusions are listed instead
_MOST_CONFUSIONS = 15


def methods(group: Group) -> Table:
    """The main table: every setting's scores in and out of distribution."""
    settings, split = group.settings, group.id_split
    columns: Columns = [
        (Column("Method"), [setting.name for setting in settings]),
        (
            Column("rate", "Training", format="rate", full="learning rate"),
            [Estimate(setting.first.learning_rate) for setting in settings],
        ),
        (
            Column("batch", "Training", format="count", full="batch size"),
            [Estimate(setting.first.batch_size) for setting in settings],
        ),
        (
            Column("runs", "Training", full="seeds"),
            [Text(_seeds(setting), runs=_folders(setting.runs)) for setting in settings],
        ),
    ]

    def add(column: Column, value: Selector) -> None:
        columns.append((column, _means(settings, value)))

    scored = dict.fromkeys(["validation", split]) if "validation" in group.splits else [split]
    for name in scored:
        column = Column(name, "Accuracy", digits=3, full=f"{name} accuracy")
        add(column, score(name, "accuracy"))
    for name in group.ood_splits:
        shown = name.removeprefix("ood/")
        column = Column(shown, "OOD accuracy", digits=3, full=f"{name} accuracy")
        add(column, score(name, "accuracy"))
    measures = [("macro_f1", "macro F1", False)]
    if group.metric not in ("accuracy", "macro_f1"):
        measures.insert(0, (group.metric, metric_name(group.metric), False))
    measures += [("nll", "NLL", False), ("brier", "Brier", False)]
    measures += [("ece", "ECE", False), ("ece", "ECE with T", True)]
    for metric, name, calibrated in measures:
        column = Column(name, f"On {split}", digits=3, full=f"{split} {name}")
        add(column, score(split, metric, calibrated))
    change, norm = feature(group.feature_split, "feature_difference"), head("norm")
    add(_sized("feature change", "Model", settings, change), change)
    add(_sized("head norm", "Model", settings, norm), norm)
    note = say("methods_note", group=group)
    return from_columns("methods", f"Methods on {group.title}", columns, note)


def calibration(group: Group) -> Table:
    """Every split's calibration before and after its one temperature."""
    rows = [(setting, split) for setting in group.settings for split in group.splits]
    columns = _names_of_rows(rows)
    spreads = [setting.spread(lambda run: run.temperature) for setting, _ in rows]
    columns.append((Column("T", digits=3), [_mean(spread) for spread in spreads]))
    for metric, name in (
        ("ece", "ECE"),
        ("mce", "MCE"),
        ("nll", "NLL"),
        ("brier", "Brier"),
        ("confidence", "Mean confidence"),
    ):
        for calibrated, when in ((False, "before"), (True, "after")):
            spreads = [s.spread(score(split, metric, calibrated)) for s, split in rows]
            columns.append((Column(when, name, digits=3), [_mean(spread) for spread in spreads]))
    title = "Calibration before and after temperature scaling"
    return from_columns("calibration", title, columns, say("calibration_note"), headers=2)


def features(group: Group) -> Table:
    """CS, Diff and FDR of every split, beside their pre-trained values."""
    splits = dict.fromkeys(split for run in group.runs for split in run.features)
    rows = [(setting, split) for setting in group.settings for split in splits]
    columns = _names_of_rows(rows)
    for column, key, pretrained in (
        (Column("pre-trained", "CS", digits=3), "cosine_similarity", True),
        (Column("after", "CS", digits=3), "cosine_similarity", False),
        (Column("Diff"), "feature_difference", False),
        (Column("pre-trained", "FDR"), "fisher_ratio", True),
        (Column("after", "FDR"), "fisher_ratio", False),
    ):
        spreads = [s.spread(feature(split, key, pretrained)) for s, split in rows]
        if column.name == "Diff":
            column = Column("Diff", digits=decimals_for(s.mean for s in spreads if s is not None))
        columns.append((column, [_mean(spread) for spread in spreads]))
    return from_columns("features", "Features by split", columns, say("features_note"), headers=2)


def head_norms(group: Group) -> Table:
    """The head's norm at the start and the end of training, and its bias."""
    settings = group.settings
    start, end = (_means(settings, head(name)) for name in ("norm_at_start", "norm"))
    digits = decimals_for(cell.value for cell in (*start, *end) if isinstance(cell, Estimate))
    columns: Columns = [
        (Column("Method"), [_label(setting) for setting in settings]),
        (Column("start", "Head norm", digits=digits), start),
        (Column("end", "Head norm", digits=digits), end),
        (_sized("Bias norm", "", settings, head("bias_norm")), _means(settings, head("bias_norm"))),
    ]
    return from_columns("head", "Norms of the head", columns, say("head_note"))


def feature_change(comparisons: Sequence[Comparison], *, shared: bool) -> Table | None:
    """Feature change of matched pairs at own rates or at shared ones; None without a pair."""
    rows: list[tuple[Match, float | None]] = []
    for comparison in comparisons:
        if shared:
            rows += [(match, comparison.remaining(match)) for match in comparison.shared]
        elif comparison.own is not None:
            rows.append((comparison.own, None))
    if not rows:
        return None
    matches = [match for match, _ in rows]
    digits, above = _change_digits(comparisons), f"Feature change ({matches[0].split})"
    changes = [(None, None) if m.change is None else m.change for m in matches]
    columns: Columns = [
        (
            Column("Pair"),
            [" and ".join(map(method_name, match.pairing.methods)) for match in matches],
        )
    ]
    if shared:
        columns.append((Column("Rate, batch"), [_rates(match.rates[0]) for match in matches]))
    else:
        for side, name in enumerate(("random head", "LP head")):
            texts = [_rates(match.rates[side]) for match in matches]
            columns.append((Column(name, "Rate, batch"), texts))
    columns += [
        (Column("Runs", full="seeds"), [_pair_seeds(match) for match in matches]),
        *(
            (Column(name, above, digits=digits), [_mean(change[side]) for change in changes])
            for side, name in enumerate(("random head", "LP head"))
        ),
        *_judged([match.judgement for match in matches], digits, ("smaller", "larger")),
        (Column("Ratio", digits=2), [Estimate(match.ratio) for match in matches]),
    ]
    if shared:
        column = Column("Share of own-rate difference left", format="percent", digits=0)
        columns.append((column, [Estimate(remaining) for _, remaining in rows]))
    judged = sum(match.judgement is not None for match in matches)
    note = say("feature_change_note", judged=judged, chance=chance_note(judged))
    where = "a shared rate and batch size" if shared else "each method's own rate"
    name = "feature-change-shared" if shared else "feature-change-own"
    return from_columns(name, f"Feature change at {where}", columns, note)


def score_differences(differences: Differences, group: Group) -> Table | None:
    """The setting that validation chooses beside the best one of each other method."""
    if differences.chosen is None or not differences.scores:
        return None
    contrasts = differences.scores
    judgements = [contrast.judgement for contrast in contrasts]
    columns: Columns = [
        (Column("On"), [contrast.where for contrast in contrasts]),
        (Column("Against"), [_label(contrast.other) for contrast in contrasts]),
        *_judged(judgements, 3, ("higher", "lower")),
    ]
    chosen = differences.chosen.label
    note = say(
        "differences_note",
        chosen=chosen,
        metric=metric_name(group.metric),
        chosen_here=group.id_split == "validation",
        chance=chance_note(sum(judgement.effect.value is not None for judgement in judgements)),
    )
    title = f"{chosen} against each other method"
    return from_columns("differences", title, columns, note, headers=2)


def confusion(setting: Setting, group: Group) -> Table:
    """Rows of the ID split by true and predicted class, all seeds together, and the recall.

    Of many classes the commonest confusions in place of the matrix.
    """
    classes, counts = setting.first.classes, confusion_counts(setting, group.id_split)
    if len(classes) > _MOST_CLASSES:
        return _commonest_confusions(setting.label, classes, counts)
    totals = counts.sum(axis=1)
    columns: Columns = [(Column("true"), classes)]
    for place, name in enumerate(classes):
        cells = []
        for true, (count, total) in enumerate(zip(counts[:, place], totals, strict=True)):
            share = float(count / total) if total else 0.0
            cells.append(Estimate(float(count), shade=share if true == place else -share))
        columns.append((Column(name, "predicted", format="count", source="ours"), cells))
    right = [(int(counts[place, place]), int(total)) for place, total in enumerate(totals)]
    recalls = [Estimate(hits / total if total else None) for hits, total in right]
    columns.append((Column("recall", digits=2), recalls))
    return from_columns("", setting.label, columns, "")


def confusion_counts(setting: Setting, split: str) -> NDArray[np.int64]:
    """Rows [C, C] of a split by true and predicted class, of all seeds together."""
    classes = len(setting.first.classes)
    counts = np.zeros((classes, classes), dtype=np.int64)
    for run in setting.runs:
        if split in run.predictions:
            predictions = run.predictions[split]
            np.add.at(counts, (predictions.labels, predictions.logits.argmax(axis=1)), 1)
    return counts


def _commonest_confusions(label: str, classes: Sequence[str], counts: NDArray[np.int64]) -> Table:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSIONS]
    pairs = [divmod(int(place), len(classes)) for place in order]
    pairs = [pair for pair in pairs if wrong[pair]]
    columns: Columns = [
        (Column("True"), [classes[true] for true, _ in pairs]),
        (Column("Predicted"), [classes[predicted] for _, predicted in pairs]),
        (Column("Rows", format="count"), [Estimate(float(wrong[pair])) for pair in pairs]),
    ]
    return from_columns("", f"{label}: commonest confusions of {len(classes)} classes", columns, "")


def _names_of_rows(rows: Sequence[tuple[Setting, str]]) -> Columns:
    return [
        (Column("Method"), [_label(setting) for setting, _ in rows]),
        (Column("Split"), [split for _, split in rows]),
    ]


def _label(setting: Setting) -> Text:
    """A setting's label, which leads to how its runs were made."""
    return Text(setting.label, runs=_folders(setting.runs))


def _folders(runs: Iterable[Run]) -> tuple[str, ...]:
    return tuple(str(run.folder.resolve()) for run in runs)


def _seeds(setting: Setting) -> str:
    return ", ".join([f"seed {setting.first.seed}", *(str(run.seed) for run in setting.runs[1:])])


def _pair_seeds(match: Match) -> Text:
    text = ", ".join(f"seed {first.seed}" for first, _ in match.pairing.runs)
    return Text(text, runs=_folders(match.pairing.paired_runs))


def _rates(value: Rates) -> str:
    return f"{rate(value.learning_rate)}, {whole(value.batch_size)}"


def _mean(spread: Spread | None) -> Cell:
    return None if spread is None else Estimate(spread.mean, spread.sd)


def _means(settings: Iterable[Setting], value: Selector) -> list[Cell]:
    return [_mean(setting.spread(value)) for setting in settings]


def _sized(name: str, above: str, settings: Iterable[Setting], value: Selector) -> Column:
    """A column of norms or distances, with decimals that suit their size."""
    spreads = [setting.spread(value) for setting in settings]
    digits = decimals_for(spread.mean for spread in spreads if spread is not None)
    return Column(name, above, digits=digits, full=name)


def _change_digits(comparisons: Sequence[Comparison]) -> int:
    """The same decimals at own and at shared rates, so that the two tables compare at a glance."""
    matches = [m for c in comparisons for m in (c.own, *c.shared) if m is not None]
    return decimals_for(
        spread.mean for match in matches if match.change is not None for spread in match.change
    )


def _judged(judgements: Sequence[Judgement | None], digits: int, words: tuple[str, str]) -> Columns:
    """The difference with its interval, what it means in ``words``, and what could be detected."""
    return [
        (
            Column("Difference", digits=digits, format="effect"),
            [None if judgement is None else _effect(judgement) for judgement in judgements],
        ),
        (Column("Reading"), [_reading(judgement, words) for judgement in judgements]),
        (
            Column("Detectable", digits=digits),
            [Estimate(None if j is None else j.detectable) for j in judgements],
        ),
    ]


def _effect(judgement: Judgement) -> Cell:
    found = judgement.effect
    return Estimate(found.value, count=found.count, low=found.low, high=found.high)


def _reading(judgement: Judgement | None, words: tuple[str, str]) -> Cell:
    if judgement is None or judgement.effect.value is None:
        return None
    readings = {"holds": words[0], "does not hold": words[1], "cannot tell": "cannot tell"}
    reading, seeds = readings[judgement.verdict], judgement.effect.count
    few = "" if seeds is None or seeds >= FEW_SEEDS else f" ({counted(seeds, 'seed')})"
    return Text(f"{reading}{few}", value=reading)
