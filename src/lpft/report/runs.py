"""A group of runs on the page: its sentences, tables and figures, and how each run was made."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from lpft.paper.reference_bugs import run_bugs
from lpft.report import figures
from lpft.report import run_tables as tables
from lpft.report.feature_change import (
    read_feature_change,
    read_unpaired,
    summarise_feature_change,
)
from lpft.report.page import (
    Block,
    Chapter,
    Details,
    Facts,
    FilesOf,
    Folder,
    Items,
    Note,
    Row,
    Rows,
    Section,
    Tables,
    relative_link,
)
from lpft.report.table import Trace
from lpft.report.text import say
from lpft.results.exhibits import Cell, Column
from lpft.results.formats import counted, seconds, whole, wilson
from lpft.results.groups import Group, Selector, method_name, metric_name, model_name, score
from lpft.results.judging import FEW_SEEDS
from lpft.results.pairing import Comparison, Differences, ScoreContrast
from lpft.results.run import Run
from lpft.results.schema import plain
from lpft.settings import METHODS

MOST_DIAGRAMS = 12  # settings whose reliability the page shows; of more it has the files alone
_MOST_CLASSES = 12  # in a confusion matrix; of more the commonest confusions are listed instead
_MOST_CONFUSIONS = 15

FactSections = tuple[tuple[str, Facts], ...]
Columns = list[tuple[Column, Sequence[Cell]]]


def group_chapter(
    group: Group, differences: Differences, anchors: Mapping[str, str], trace: Trace
) -> Chapter:
    """What the page shows of a group, whose runs differ as ``differences`` says.

    ``anchors`` has the place in the page of each run, by its name.
    """
    comparisons = differences.comparisons
    notes = dict.fromkeys(note for run in group.runs for note in run.data.notes)
    sections = (
        _results(group, differences),
        _feature_change(group, comparisons),
        _calibration(group, anchors),
        Section(
            "Features and head", (tables.head_norms(group), tables.features(group)), "features"
        ),
        Section("Along training", _training(group), "training"),
        Section(f"Confusion on {group.id_split}", _confusion(group), "confusion"),
    )
    return Chapter(
        kind="runs",
        slug=group.slug,
        title=group.title,
        data=group.data,
        model=group.model,
        summary=(what_was_run(group), Rows(_summary(group, differences))),
        notes=(Note(say("data_notes", notes=list(notes))),) if notes else (),
        sections=tuple(
            Section(each.title, each.blocks, f"{group.slug}-{each.anchor}") for each in sections
        ),
        runs=len(group.runs),
        trace=trace,
        bugs=tuple(
            run_bugs(
                group.protocol, group.model, binary=any(len(r.classes) == 2 for r in group.runs)
            )
        ),
    )


def _results(group: Group, differences: Differences) -> Section:
    compared = tables.score_differences(differences, group)
    shown = [tables.methods(group), *([compared] if compared is not None else [])]
    title = "Results in and out of distribution"
    return Section(title, (*shown, figures.accuracy(group)), "results")


def _feature_change(group: Group, comparisons: Sequence[Comparison]) -> Section:
    sentences = [" ".join(read_feature_change(comparison)) for comparison in comparisons]
    sentences += read_unpaired(group, comparisons)
    found = [
        figures.feature_change(comparisons),
        *(tables.feature_change(comparisons, shared=shared) for shared in (False, True)),
    ]
    return Section(
        "Feature change, and how much of it is the learning rate",
        (
            *(sentences if sentences else [say("no_pairs")]),
            *(block for block in found if block is not None),
        ),
        "change",
    )


def _calibration(group: Group, anchors: Mapping[str, str]) -> Section:
    stayed = [run for run in group.runs if run.record.calibration.reason is not None]
    reasons = Items(
        tuple(
            (run.name, f"#{anchors[run.name]}", f": {run.record.calibration.reason}")
            for run in stayed
        ),
        "reasons",
    )
    diagrams: list[Block] = []
    for setting in group.settings:
        figure = figures.reliability(setting, group)
        if len(group.settings) > MOST_DIAGRAMS:
            diagrams.append(FilesOf(figure))
        elif figure.panels:
            diagrams.append(Section(setting.label, (figure,)))
    return Section(
        "Calibration before and after temperature scaling",
        (
            *([reasons] if stayed else []),
            Note(say("reliability_note")),
            *diagrams,
            tables.calibration(group),
        ),
        "calibration",
    )


def _training(group: Group) -> tuple[Block, ...]:
    figure = figures.training(group)
    return ("The runs recorded no history.",) if figure is None else (figure,)


def _confusion(group: Group) -> tuple[Block, ...]:
    several = any(len(setting.runs) > 1 for setting in group.settings)
    note = Note(say("confusion_note", several_seeds=several))
    return note, Tables(tuple(tables.confusion(setting, group) for setting in group.settings))


def what_was_run(group: Group) -> str:
    """One sentence: methods, model, data with its rows, seeds."""
    first = group.runs[0]
    names = (("train", "training"), ("validation", "validation"), ("test", "test"))
    return say(
        "what_was_run",
        group=group,
        methods=list(dict.fromkeys(method_name(setting.method) for setting in group.settings)),
        rows=[
            f"{whole(first.data.rows[split])} {name}"
            for split, name in names
            if split in first.data.rows
        ],
        seeds=[str(seed) for seed in sorted({run.seed for run in group.runs})],
    )


def _summary(group: Group, differences: Differences) -> tuple[Row, ...]:
    changes = [
        " ".join(summarise_feature_change(comparison)) for comparison in differences.comparisons
    ]
    accuracy = (" ".join(read_accuracy(group)), " ".join(read_differences(differences, group)))
    rows = (
        ("Accuracy", "results", accuracy),
        ("Feature change", "change", (*changes, *read_unpaired(group, differences.comparisons))),
        ("Calibration", "calibration", (" ".join(read_calibration(group)),)),
        ("Head norm", "features", (read_head(group),)),
    )
    return tuple(
        Row(name, tuple(text for text in paragraphs if text), f"#{group.slug}-{anchor}")
        for name, anchor, paragraphs in rows
        if any(paragraphs)
    )


def read_accuracy(group: Group) -> list[str]:
    """Best and worst score in distribution, and out of it."""
    split, sentences = group.id_split, []
    rows = next((n for s in group.settings if (n := s.rows(split)) is not None), None)
    if rows is not None:
        value = score(split, group.metric)
        where = say("in_distribution", split=split, rows=rows)
        sentences = _score_range(group, where, value)
        if sentences and group.metric == "accuracy":
            spreads = [setting.spread(value) for setting in group.settings]
            top = max(spread.mean for spread in spreads if spread is not None)
            low, high = wilson(top, rows)
            sentences.append(say("accuracy_interval", rows=rows, value=top, low=low, high=high))
    if group.ood_splits:
        where = say("out_of_distribution", sets=len(group.ood_splits))
        sentences += _score_range(group, where, lambda run: _mean_score(run, group.ood_splits))
    return sentences


def _mean_score(run: Run, splits: Sequence[str]) -> float | None:
    scores = [run.score(split, run.metric) for split in splits]
    known = [value for value in scores if value is not None]
    return sum(known) / len(known) if len(known) == len(scores) else None


def _score_range(group: Group, where: str, value: Selector) -> list[str]:
    scored = [(setting.label, setting.spread(value)) for setting in group.settings]
    known = [(label, spread) for label, spread in scored if spread is not None]
    if not known:
        return []
    known.sort(key=lambda pair: -pair[1].mean)
    (best, top), (worst, low) = known[0], known[-1]
    metric = metric_name(group.metric)
    return [
        say("score_range", where=where, metric=metric, best=best, top=top, worst=worst, low=low)
    ]


def read_differences(differences: Differences, group: Group) -> list[str]:
    """What can be said of the setting that validation chooses beside each other method."""
    if differences.chosen is None:
        return []
    chosen, metric = differences.chosen.label, metric_name(group.metric)
    sentences = [say("best_on_validation", chosen=chosen, metric=metric)]
    for where in dict.fromkeys(contrast.where for contrast in differences.scores):
        contrasts = [contrast for contrast in differences.scores if contrast.where == where]
        sentences.append(_beside_others(where, contrasts))
    return [*sentences, *differences.problems]


def _beside_others(where: str, contrasts: Sequence[ScoreContrast]) -> str:
    def judged(verdict: str) -> list[str]:
        return [c.other.label for c in contrasts if c.judgement.verdict == verdict]

    counts = [contrast.judgement.effect.count for contrast in contrasts]
    seeds = max(0 if count is None else count for count in counts)
    return say(
        "beside_others",
        where=where,
        above=judged("holds"),
        below=judged("does not hold"),
        unclear=judged("cannot tell"),
        seeds=seeds,
        few=seeds < FEW_SEEDS,
    )


def read_calibration(group: Group) -> list[str]:
    """Where one temperature lowered ECE, in and out of distribution, and where it stayed 1."""
    before, after = (score(group.id_split, "ece", calibrated=c) for c in (False, True))
    changes = []
    for setting in group.settings:
        first, second = setting.spread(before), setting.spread(after)
        if first is not None and second is not None:
            changes.append((setting.label, first, second))
    if not changes:
        return []
    lower = sum(first.mean > second.mean for _, first, second in changes)
    most = max(changes, key=lambda change: change[1].mean - change[2].mean)
    sentences = [
        say(
            "temperature_in_distribution",
            split=group.id_split,
            lower=lower,
            total=len(changes),
            noun="setting" if any(setting.position for setting in group.settings) else "method",
            most=most if lower else None,
        )
    ]
    cases = [
        (run.score(split, "ece"), run.score(split, "ece", calibrated=True))
        for run in group.runs
        for split in group.ood_splits
    ]
    known = [(old, new) for old, new in cases if old is not None and new is not None]
    if known:
        fewer = sum(new < old for old, new in known)
        sentences.append(say("temperature_out_of_distribution", lower=fewer, total=len(known)))
    stayed = sum(run.record.calibration.reason is not None for run in group.runs)
    return [*sentences, *([say("temperature_stayed", runs=stayed)] if stayed else [])]


def read_head(group: Group) -> str:
    """Head norms at the start and the end of fine-tuning, random heads beside LP heads."""
    fine_tuned = [run for run in group.runs if run.method != "lp"]
    parts = []
    for from_lp, name in ((False, "random heads"), (True, "heads from linear probing")):
        runs = [run for run in fine_tuned if _from_lp(run.method) == from_lp]
        starts, ends = ([run.head_norm(norm) for run in runs] for norm in ("norm_at_start", "norm"))
        if runs and None not in starts and None not in ends:
            ranges = (say("number_range", values=values) for values in (starts, ends))
            parts.append((name, *ranges))
    return say("head_norms", parts=parts) if parts else ""


def _from_lp(method: str) -> bool:
    return method in METHODS and METHODS[method].head_start == "lp"


def run_sections(
    groups: Sequence[Group], anchors: Mapping[str, str], page_folder: Path
) -> tuple[tuple[Section, ...], FactSections]:
    """How every run was made, and what all of several have in common."""
    found = [(run, group, run_facts(run)) for group in groups for run in group.runs]
    shared: FactSections = ()
    if len(found) > 1:
        first, *others = (facts for *_, facts in found)
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
        for run, group, facts in found
    ), shared


def _run_section(
    run: Run, group: Group, anchor: str, page_folder: Path, details: Details
) -> Section:
    lead = (f"{method_name(run.method)} on {run.data_name}", f"#{group.slug}", f", seed {run.seed}")
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
                ("name", run.data_name),
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


def _filtered(sections: FactSections, keeps: Any) -> FactSections:
    return tuple(
        (heading, kept)
        for heading, lines in sections
        if (kept := tuple(line for line in lines if keeps((heading, *line))))
    )
