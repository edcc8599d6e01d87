"""What the page's templates show of a group and of a run, computed before they are rendered."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from lpft.report import tables
from lpft.report.collect import RunSummary
from lpft.report.confusion import Confusion, confusion
from lpft.report.curves import curve_panel, recorded
from lpft.report.drawing import swatch
from lpft.report.figures import accuracy_figure, feature_change_figure
from lpft.report.grid import Table
from lpft.report.honesty import read_feature_change, read_unpaired, summarise_feature_change
from lpft.report.numbers import plain, seconds, slug
from lpft.report.pairs import compare
from lpft.report.palette import styles
from lpft.report.reading import read_accuracy, read_calibration, read_head, what_was_run
from lpft.report.records import UnreadFolder
from lpft.report.reliability import reliability_panel
from lpft.report.settings import Group, Setting, method_name, model_name
from lpft.report.svg import inline_svg

Legend = tuple[tuple[str, Markup], ...]


@dataclass(frozen=True)
class Reading:
    """Sentences of the summary under one heading, with a link to what they are computed from."""

    name: str
    anchor: str
    paragraphs: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class GroupView:
    """A group with its sentences, tables and drawings."""

    group: Group
    what: str
    notes: tuple[str, ...]
    readings: tuple[Reading, ...]
    methods: Table
    change_sentences: tuple[tuple[str, ...], ...]
    feature_change: tuple[Table, ...]
    calibration: Table
    features: Table
    head: Table
    accuracy: Markup
    accuracy_legend: Legend
    change: Markup | None
    reliability: tuple[tuple[str, tuple[Markup, ...]], ...]
    temperatures: tuple[tuple[str, str], ...]
    curves: tuple[Markup, ...]
    curves_legend: Legend
    confusions: tuple[Confusion, ...]

    @property
    def tables(self) -> tuple[Table, ...]:
        """All tables, for files."""
        return (self.methods, *self.feature_change, self.calibration, self.features, self.head)


@dataclass(frozen=True)
class RunView:
    """How one run was made."""

    run: RunSummary
    anchor: str
    href: str
    method: str
    setting: str
    group: str
    configuration: tuple[tuple[str, str], ...]
    timings: tuple[tuple[str, str], ...]
    sources: tuple[tuple[str, str], ...]
    probe: tuple[tuple[str, str], ...]
    fingerprints: tuple[tuple[str, str], ...]


def view_group(group: Group) -> GroupView:
    """Everything the page shows of a group."""
    comparisons = compare(group)
    change = feature_change_figure(comparisons, group)
    own, shared = (tables.feature_change(comparisons, shared=s) for s in (False, True))
    unpaired = [(sentence,) for sentence in read_unpaired(group, comparisons)]
    short = [tuple(summarise_feature_change(comparison)) for comparison in comparisons]
    full = [tuple(read_feature_change(comparison)) for comparison in comparisons]
    readings = (
        Reading("Accuracy", f"{group.slug}-results", (tuple(read_accuracy(group)),)),
        Reading("Feature change", f"{group.slug}-change", (*short, *unpaired)),
        Reading("Calibration", f"{group.slug}-calibration", (tuple(read_calibration(group)),)),
        Reading("Head norm", f"{group.slug}-features", (tuple(read_head(group)),)),
    )
    return GroupView(
        group=group,
        what=what_was_run(group),
        notes=tuple(dict.fromkeys(note for run in group.runs for note in run.data_notes)),
        readings=tuple(reading for reading in readings if any(reading.paragraphs)),
        methods=tables.methods(group),
        change_sentences=(*full, *unpaired),
        feature_change=tuple(table for table in (own, shared) if table is not None),
        calibration=tables.calibration(group),
        features=tables.features(group),
        head=tables.head_norms(group),
        accuracy_legend=_legend(group, "results"),
        accuracy=inline_svg(
            accuracy_figure(group, with_legend=False),
            f"{group.slug}-accuracy-figure",
            "Accuracy in and out of distribution",
            f"Accuracy of each method on {', '.join((group.id_split, *group.ood_splits))}; the "
            "values are in the table of methods.",
        ),
        change=None
        if change is None
        else inline_svg(
            change,
            f"{group.slug}-change-figure",
            "Feature change of matched pairs",
            "Feature change with a random head and with an LP head, at own and at shared rates; "
            "the values are in the tables of feature change.",
        ),
        reliability=_reliability(group),
        temperatures=tuple(
            (run.name, run.temperature_reason)
            for run in group.runs
            if run.temperature_reason is not None
        ),
        curves=tuple(
            inline_svg(
                curve_panel(group, quantity),
                f"{group.slug}-{quantity.replace('_', '-')}",
                f"{name} along training",
                f"{name} by epoch, one line per run.",
            )
            for quantity, name in recorded(group)
        ),
        curves_legend=_legend(group, "training"),
        confusions=tuple(confusion(setting, group) for setting in group.settings),
    )


def _legend(group: Group, where: str) -> Legend:
    """Labels of settings with their line and marker; ``where`` keeps the drawings' ids apart."""
    looks = styles(group.settings)
    return tuple(
        (
            setting.label,
            inline_svg(swatch(looks[setting.label]), f"{group.slug}-{where}-key-{position}"),
        )
        for position, setting in enumerate(group.settings)
    )


def _reliability(group: Group) -> tuple[tuple[str, tuple[Markup, ...]], ...]:
    looks = styles(group.settings)
    shown = []
    for setting in group.settings:
        panels = []
        for position, split in enumerate(group.splits):
            figure = reliability_panel(setting, split, looks[setting.label])
            if figure is not None:
                panels.append(
                    inline_svg(
                        figure,
                        f"{group.slug}-{setting.slug}-bins-{position}",
                        f"Reliability of {setting.label} on {split}",
                        "Accuracy against confidence in 15 bins before and after temperature "
                        "scaling; ECE is in the table of calibration.",
                    )
                )
        shown.append((setting.label, tuple(panels)))
    return tuple(shown)


@dataclass(frozen=True)
class UnreadView:
    """A folder that is not in the numbers, with its place in the page and the way to it."""

    folder: UnreadFolder
    anchor: str
    href: str


def view_runs(groups: Sequence[Group], page_folder: Path, taken: set[str]) -> tuple[RunView, ...]:
    """How every run was made; ``taken`` holds the page's anchors, and gets theirs."""
    return tuple(
        _view_run(run, setting, slug(f"run {run.name}", taken), group, page_folder)
        for group in groups
        for setting in group.settings
        for run in setting.runs
    )


def view_unread(
    unread: Sequence[UnreadFolder], page_folder: Path, taken: set[str]
) -> tuple[UnreadView, ...]:
    """Folders that are not in the numbers; ``taken`` as for :func:`view_runs`."""
    return tuple(
        UnreadView(
            found, slug(f"unread {found.name}", taken), relative_link(found.folder, page_folder)
        )
        for found in unread
    )


def _view_run(
    run: RunSummary, setting: Setting, anchor: str, group: Group, page_folder: Path
) -> RunView:
    """How a run was made, with the way from the page to its folder."""
    configuration = {key: value for key, value in run.config.items() if key != "output_dir"}
    timings = tuple((name, seconds(value)) for name, value in run.timings.items())
    return RunView(
        run=run,
        anchor=anchor,
        href=relative_link(run.folder, page_folder),
        method=method_name(run.method),
        setting=setting.label,
        group=group.slug,
        configuration=facts(configuration),
        timings=timings,
        sources=facts(run.data_sources),
        probe=facts(run.probe),
        fingerprints=tuple((name, value[:12]) for name, value in run.fingerprints.items()),
    )


def facts(record: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
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


def relative_link(target: Path, page_folder: Path) -> str:
    """A URL from the page to a file or folder; any byte that a file name may have is quoted."""
    relative = os.path.relpath(target.resolve(), page_folder.resolve())
    return quote(os.fsencode(relative.replace(os.sep, "/")))
