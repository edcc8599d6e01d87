"""A group of runs on the page: its sentences, tables and figures, and how each run was made."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpft.analysis.metrics import metric_name
from lpft.paper import run_bugs
from lpft.report import figures
from lpft.report.page import (
    Answer,
    Block,
    Chapter,
    Details,
    Facts,
    Folder,
    Items,
    Note,
    Rows,
    Section,
    Tables,
    named_sections,
    relative_link,
)
from lpft.report.table import Columns, Trace, from_columns
from lpft.report.text import (
    read_feature_change,
    read_head,
    read_unpaired,
    say,
    summarise_feature_change,
    what_was_run,
)
from lpft.results.differences import Comparison, Differences, Match
from lpft.results.exhibits import Cell, Column, Estimate, Table, Text
from lpft.results.formats import counted, decimals_for, rate, seconds, whole
from lpft.results.groups import (
    Group,
    Selector,
    Setting,
    Spread,
    feature,
    head,
    method_name,
    model_name,
    score,
)
from lpft.results.judging import FEW_SEEDS, Judgement, chance_note
from lpft.results.run import Run
from lpft.results.schema import plain

_MOST_CLASSES = 12  # in a confusion matrix; of more, the most frequent confusions are listed
_MOST_CONFUSIONS = 15

FactSections = tuple[tuple[str, Facts], ...]


def group_chapter(
    group: Group,
    differences: Differences,
    anchors: Mapping[str, str],
    trace: Trace,
    answer: Answer | None,
) -> Chapter:
    """What the page shows of a group, whose runs differ as ``differences`` says.

    ``anchors`` has the place in the page of each run, by its name.
    """
    comparisons, slug = differences.comparisons, group.slug
    changes = [" ".join(summarise_feature_change(comparison)) for comparison in comparisons]
    changes += read_unpaired(group, comparisons)
    summary_rows = (
        ("Feature change", f"#{slug}-change", tuple(filter(None, changes))),
        ("Head norm", f"#{slug}-features", tuple(filter(None, [read_head(group)]))),
    )
    binary = any(len(run.classes) == 2 for run in group.runs)
    return Chapter(
        kind="runs",
        slug=slug,
        title=group.title,
        data=group.data,
        model=group.model,
        summary=(what_was_run(group), Rows(tuple(row for row in summary_rows if row[-1]))),
        sections=named_sections(slug, _sections(group, differences, anchors)),
        runs=len(group.runs),
        trace=trace,
        bugs=tuple(run_bugs(group.protocol, group.model, binary=binary)),
        answer=answer,
    )


def _sections(
    group: Group, differences: Differences, anchors: Mapping[str, str]
) -> Iterator[tuple[str, str, tuple[Block | None, ...]]]:
    """Anchor, title and blocks of each section."""
    compared = score_differences(differences, group)
    problems = tuple(Note(problem, warns=True) for problem in differences.problems)
    blocks: tuple[Block | None, ...] = (methods(group), compared, *problems)
    yield "results", "Results in and out of distribution", (*blocks, figures.accuracy(group))

    comparisons = differences.comparisons
    sentences = [" ".join(read_feature_change(comparison)) for comparison in comparisons]
    sentences += read_unpaired(group, comparisons)
    blocks = (
        *(sentences if sentences else [say("no_pairs")]),
        figures.feature_change(comparisons),
        *(feature_change(comparisons, shared=shared) for shared in (False, True)),
    )
    yield "change", "Feature change, and how much of it is the learning rate", blocks

    stayed = ((run, run.record.calibration.reason) for run in group.runs)
    reasons = tuple(
        (run.name, f"#{anchors[run.name]}", f": {reason}") for run, reason in stayed if reason
    )
    blocks = (Items(reasons, "reasons") if reasons else None, calibration(group))
    yield "calibration", "Calibration before and after temperature scaling", blocks

    blocks = (head_norms(group), features(group), figures.norms(group))
    yield "features", "Features and head", blocks

    several = any(len(setting.runs) > 1 for setting in group.settings)
    matrices = Tables(tuple(confusion(setting, group) for setting in group.settings))
    note = Note(say("confusion_note", several_seeds=several))
    yield "confusion", f"Confusion on {group.id_split}", (note, matrices)


def methods(group: Group) -> Table:
    """The main table: every setting's scores in and out of distribution."""
    settings, split = group.settings, group.id_split
    columns: Columns = [
        (Column("Method"), [setting.name for setting in settings]),
        (
            Column("rate", "Training", format="rate", full="learning rate"),
            [setting.first.learning_rate for setting in settings],
        ),
        (
            Column("batch", "Training", format="count", full="batch size"),
            [setting.first.batch_size for setting in settings],
        ),
        (
            Column("runs", "Training", full="seeds"),
            [
                Text(f"seed {', '.join(map(str, setting.seeds))}", runs=setting.folders)
                for setting in settings
            ],
        ),
    ]
    scored = dict.fromkeys(["validation", split] if "validation" in group.splits else [split])
    measures = [
        *((name, "Accuracy", f"{name} accuracy", score(name, "accuracy")) for name in scored),
        *(
            (name.removeprefix("ood/"), "OOD accuracy", f"{name} accuracy", score(name, "accuracy"))
            for name in group.ood_splits
        ),
    ]
    task_metric = [] if group.metric in ("accuracy", "macro_f1") else [group.metric]
    shown = (*task_metric, "macro_f1", "nll", "brier", "ece")
    on = f"On {split}"
    measures += [
        (metric_name(key), on, f"{split} {metric_name(key)}", score(split, key)) for key in shown
    ]
    measures.append(("ECE with T", on, f"{split} ECE with T", score(split, "ece", calibrated=True)))
    for name, above, full, value in measures:
        columns.append((Column(name, above, digits=3, full=full), _spreads(settings, value)))
    change = feature(group.feature_split, "feature_difference")
    for name, value in (("feature change", change), ("head norm", head("norm"))):
        spreads = _spreads(settings, value)
        columns.append((Column(name, "Model", digits=_size(spreads), full=name), spreads))
    title = f"Methods on {group.title}"
    return from_columns("methods", title, columns, say("methods_note", group=group))


def calibration(group: Group) -> Table:
    """Every split's calibration before and after its one temperature."""
    rows = [(setting, split) for setting in group.settings for split in group.splits]
    columns = _names_of_rows(rows)
    columns.append(
        (Column("T", digits=3), [s.spread(lambda run: run.temperature) for s, _ in rows])
    )
    for metric in ("ece", "mce", "nll", "brier", "confidence"):
        name = "Mean confidence" if metric == "confidence" else metric_name(metric)
        for calibrated, when in ((False, "before"), (True, "after")):
            spreads = [s.spread(score(split, metric, calibrated)) for s, split in rows]
            columns.append((Column(when, name, digits=3), spreads))
    title = "Calibration before and after temperature scaling"
    return from_columns("calibration", title, columns, say("calibration_note"), headers=2)


def features(group: Group) -> Table:
    """CS, Diff and FDR of every split, beside their pre-trained values."""
    splits = dict.fromkeys(split for run in group.runs for split in run.features)
    rows = [(setting, split) for setting in group.settings for split in splits]

    def spreads(key: str, pretrained: bool = False) -> list[Spread | None]:
        return [s.spread(feature(split, key, pretrained)) for s, split in rows]

    change = spreads("feature_difference")
    columns = [
        *_names_of_rows(rows),
        (Column("pre-trained", "CS", digits=3), spreads("cosine_similarity", True)),
        (Column("after", "CS", digits=3), spreads("cosine_similarity")),
        (Column("Diff", digits=_size(change)), change),
        (Column("pre-trained", "FDR"), spreads("fisher_ratio", True)),
        (Column("after", "FDR"), spreads("fisher_ratio")),
    ]
    return from_columns("features", "Features by split", columns, say("features_note"), headers=2)


def head_norms(group: Group) -> Table:
    """The head's norm at the start and the end of training, and its bias."""
    start, end, bias = (
        _spreads(group.settings, head(name)) for name in ("norm_at_start", "norm", "bias_norm")
    )
    digits = _size([*start, *end])
    columns: Columns = [
        (Column("Method"), [_label(setting) for setting in group.settings]),
        (Column("start", "Head norm", digits=digits), start),
        (Column("end", "Head norm", digits=digits), end),
        (Column("Bias norm", digits=_size(bias)), bias),
    ]
    return from_columns("head", "Norms of the head", columns, say("head_note"))


def feature_change(comparisons: Sequence[Comparison], *, shared: bool) -> Table | None:
    """Feature change of matched pairs at own rates or at shared ones; None without a pair."""
    both = [(comparison, match) for comparison in comparisons for match in comparison.matches]
    rows = [(comparison, m) for comparison, m in both if m.shared == shared]
    if not rows:
        return None
    matches = [match for _, match in rows]
    # The same decimals at own and at shared rates, so that the two tables compare at a glance.
    changes = [match.change for _, match in both if match.change is not None]
    digits = _size([spread for change in changes for spread in change])
    judged = sum(match.judgement is not None for match in matches)
    columns = [
        *_pairs(matches, shared=shared),
        *_changes(matches, digits),
        *_judged([match.judgement for match in matches], digits, ("smaller", "larger")),
        (Column("Ratio", digits=2), [match.ratio for match in matches]),
    ]
    if shared:
        column = Column("Remaining share of the own-rate difference", format="percent", digits=0)
        columns.append((column, [comparison.remaining(match) for comparison, match in rows]))
    note = say("feature_change_note", judged=judged, chance=chance_note(judged))
    where = "a shared rate and batch size" if shared else "each method's own rate"
    name = "feature-change-shared" if shared else "feature-change-own"
    return from_columns(name, f"Feature change at {where}", columns, note)


_HEADS = ("random head", "LP head")


def _pairs(matches: Sequence[Match], *, shared: bool) -> Columns:
    """What is compared: the two methods, at which rates, and the runs."""

    def rates(heading: Column, side: int) -> tuple[Column, list[str]]:
        of_side = [match.rates[side] for match in matches]
        return heading, [f"{rate(r.learning_rate)}, {whole(r.batch_size)}" for r in of_side]

    columns: Columns = [
        (Column("Pair"), [" and ".join(map(method_name, m.pairing.methods)) for m in matches])
    ]
    if shared:
        columns.append(rates(Column("Rate, batch"), 0))
    else:
        columns += [rates(Column(name, "Rate, batch"), side) for side, name in enumerate(_HEADS)]
    runs = [
        Text(
            ", ".join(f"seed {seed}" for seed in match.pairing.seeds),
            runs=tuple(str(run.folder.resolve()) for run in match.pairing.paired_runs),
        )
        for match in matches
    ]
    return [*columns, (Column("Runs", full="seeds"), runs)]


def _changes(matches: Sequence[Match], digits: int) -> Columns:
    """How far features move from either head."""
    above = f"Feature change ({matches[0].split})"
    return [
        (
            Column(name, above, digits=digits),
            [None if match.change is None else match.change[side] for match in matches],
        )
        for side, name in enumerate(_HEADS)
    ]


def score_differences(differences: Differences, group: Group) -> Table | None:
    """The setting that validation chooses beside the best one of each other method."""
    if differences.chosen is None or not differences.scores:
        return None
    contrasts, chosen = differences.scores, differences.chosen.label
    judgements = [contrast.judgement for contrast in contrasts]
    columns: Columns = [
        (Column("On"), [contrast.where for contrast in contrasts]),
        (Column("Against"), [_label(contrast.other) for contrast in contrasts]),
        *_judged(judgements, 3, ("higher", "lower")),
    ]
    note = say(
        "differences_note",
        chosen=chosen,
        metric=metric_name(group.metric),
        chosen_here=group.id_split == "validation",
        chance=chance_note(sum(judgement.effect.value is not None for judgement in judgements)),
    )
    title = f"{chosen} compared with each other method"
    return from_columns("differences", title, columns, note, headers=2)


def _judged(judgements: Sequence[Judgement | None], digits: int, words: tuple[str, str]) -> Columns:
    """The difference with its interval, what it means in ``words``, and what could be detected."""
    effects = [None if judgement is None else judgement.effect for judgement in judgements]
    return [
        (
            Column("Difference", digits=digits, format="effect"),
            [None if e is None else replace(e, sd=None, runs=()) for e in effects],
        ),
        (Column("Reading"), [_reading(judgement, words) for judgement in judgements]),
        (
            Column("Detectable", digits=digits),
            [None if judgement is None else judgement.detectable for judgement in judgements],
        ),
    ]


def _reading(judgement: Judgement | None, words: tuple[str, str]) -> Cell:
    if judgement is None or judgement.effect.value is None:
        return None
    readings = {"holds": words[0], "does not hold": words[1], "cannot tell": "cannot tell"}
    reading, seeds = readings[judgement.verdict], judgement.effect.count
    few = "" if seeds is None or seeds >= FEW_SEEDS else f" ({counted(seeds, 'seed')})"
    return Text(f"{reading}{few}", value=reading)


def confusion(setting: Setting, group: Group) -> Table:
    """Rows of the ID split by true and predicted class, all seeds together, and the recall.

    With many classes, the most frequent confusions instead of the matrix.
    """
    classes, counts = setting.first.classes, confusion_counts(setting, group.id_split)
    if len(classes) > _MOST_CLASSES:
        return _commonest_confusions(setting.label, classes, counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    signs = np.where(np.eye(len(classes), dtype=bool), 1, -1)
    columns: Columns = [(Column("true"), classes)]
    for place, name in enumerate(classes):
        shaded = zip(counts[:, place], (signs * shares)[:, place], strict=True)
        cells = [Estimate(float(count), shade=float(shade)) for count, shade in shaded]
        columns.append((Column(name, "predicted", format="count"), cells))
    recalls = [
        float(share) if total else None
        for share, total in zip(np.diag(shares), counts.sum(axis=1), strict=True)
    ]
    columns.append((Column("recall", digits=2), recalls))
    return from_columns("", setting.label, columns, "")


def confusion_counts(setting: Setting, split: str) -> NDArray[np.int64]:
    """Rows [C, C] of a split by true and predicted class, of all seeds together."""
    classes = len(setting.first.classes)
    counts = np.zeros((classes, classes), dtype=np.int64)
    for run in setting.runs:
        if split in run.predictions:
            predictions = run.predictions[split].known()
            np.add.at(counts, (predictions.labels, predictions.logits.argmax(axis=1)), 1)
    return counts


def _commonest_confusions(label: str, classes: Sequence[str], counts: NDArray[np.int64]) -> Table:
    wrong = counts * ~np.eye(len(classes), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSIONS]
    pairs = [divmod(int(place), len(classes)) for place in order]
    pairs = [pair for pair in pairs if wrong[pair]]
    columns: Columns = [
        (Column("True"), [classes[true] for true, _ in pairs]),
        (Column("Predicted"), [classes[predicted] for _, predicted in pairs]),
        (Column("Rows", format="count"), [float(wrong[pair]) for pair in pairs]),
    ]
    title = f"{label}: most frequent confusions of {len(classes)} classes"
    return from_columns("", title, columns, "")


def _names_of_rows(rows: Sequence[tuple[Setting, str]]) -> Columns:
    return [
        (Column("Method"), [_label(setting) for setting, _ in rows]),
        (Column("Split"), [split for _, split in rows]),
    ]


def _label(setting: Setting) -> Text:
    """A setting's label, which leads to how its runs were made."""
    return Text(setting.label, runs=setting.folders)


def _spreads(settings: Iterable[Setting], value: Selector) -> list[Spread | None]:
    return [setting.spread(value) for setting in settings]


def _size(spreads: Iterable[Spread | None]) -> int:
    """Decimals that suit the size of norms or distances."""
    return decimals_for(spread.mean for spread in spreads if spread is not None)


def run_sections(
    groups: Sequence[Group], anchors: Mapping[str, str], page_folder: Path
) -> tuple[tuple[Section, ...], FactSections]:
    """How every run was made, and what all of several have in common."""
    all_facts = [(run, group, run_facts(run)) for group in groups for run in group.runs]
    shared: FactSections = ()
    if len(all_facts) > 1:
        first, *others = (facts for *_, facts in all_facts)
        shared = _filtered(first, lambda line: all(line in _lines(other) for other in others))
    common = _lines(shared)
    return tuple(
        _run_section(
            run,
            group,
            anchors[run.name],
            page_folder,
            Details(
                "Settings of this run" if shared else "Configuration, data, versions and timings",
                _filtered(facts, lambda line: line not in common),
            ),
        )
        for run, group, facts in all_facts
    ), shared


def _run_section(
    run: Run, group: Group, anchor: str, page_folder: Path, details: Details
) -> Section:
    lead = (f"{method_name(run.method)} on {run.data.name}", f"#{group.slug}", f", seed {run.seed}")
    records = ("run.json", "metrics.json", "features.json", "history.jsonl")
    return Section(
        run.name,
        (
            Folder(relative_link(run.folder, page_folder), records, lead),
            *([details] if details.sections else []),
        ),
        anchor,
        "run",
    )


def run_facts(run: Run) -> FactSections:
    """All that is known of a run, under its headings."""
    configuration = {key: value for key, value in run.config.items() if key != "output_dir"}
    sections: FactSections = (
        (
            "Configuration",
            (*facts(configuration), ("configuration hash", _recorded(run.record.config_hash))),
        ),
        (
            "Data",
            (
                ("name", run.data.name),
                ("classes", ", ".join(run.classes)),
                *((split, counted(rows, "row")) for split, rows in run.data.rows.items()),
                ("licence", _recorded(run.data.licence)),
            ),
        ),
        ("Sources", facts(run.data.sources)),
        ("Fingerprints", tuple((name, value[:12]) for name, value in run.fingerprints.items())),
        (
            "Environment",
            (
                ("device", _recorded(run.record.device)),
                ("commit", _recorded(run.record.commit)),
                *run.record.versions.items(),
            ),
        ),
        ("Linear probe", facts(run.record.probe or {})),
        ("Time", tuple((name, seconds(value)) for name, value in run.record.timings.items())),
    )
    return tuple((heading, lines) for heading, lines in sections if lines)


def facts(record: Mapping[str, Any]) -> Facts:
    """Keys and values of a record in words."""
    return tuple((plain(key), _fact(value)) for key, value in record.items())


def _fact(value: object) -> str:
    """A value in words; of a path on someone's machine only its last part, as run.json has all."""
    if value is None or value in ([], {}):
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{plain(key)}: {_fact(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_fact(item) for item in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    text = plain(value)
    return f"…/{model_name(text)}" if PurePath(text).is_absolute() else text


def _recorded(value: str | None) -> str:
    return "not recorded" if value is None else value


def _lines(sections: FactSections) -> set[tuple[str, str, str]]:
    return {(heading, *line) for heading, lines in sections for line in lines}


def _filtered(
    sections: FactSections, keeps: Callable[[tuple[str, str, str]], bool]
) -> FactSections:
    return tuple(
        (heading, remaining)
        for heading, lines in sections
        if (remaining := tuple(line for line in lines if keeps((heading, *line))))
    )
