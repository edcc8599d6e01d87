"""What the page's templates show of a group of runs, computed before they are rendered."""

from dataclasses import dataclass

from markupsafe import Markup

from lpft.report import tables
from lpft.report.comparison_tables import feature_change, score_differences
from lpft.report.confusion import Confusion, confusion
from lpft.report.curves import curve_panel, recorded
from lpft.report.drawing import swatch
from lpft.report.figures import accuracy_figure, feature_change_figure
from lpft.report.grid import Table
from lpft.report.honesty import read_feature_change, read_unpaired, summarise_feature_change
from lpft.report.palette import styles
from lpft.report.reading import (
    read_accuracy,
    read_calibration,
    read_differences,
    read_head,
    what_was_run,
)
from lpft.report.reliability import reliability_panel
from lpft.report.svg import inline_svg
from lpft.results.groups import Group, Setting
from lpft.results.pairing import Differences

MOST_DIAGRAMS = 12  # settings whose reliability the page shows; of more it has the files alone

Legend = tuple[tuple[str, Markup], ...]


@dataclass(frozen=True)
class Reading:
    """Sentences of the summary under one heading, with a link to what they are computed from."""

    name: str
    anchor: str
    paragraphs: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Diagrams:
    """The reliability diagrams of a setting, one for each split; ``stem`` names their files."""

    label: str
    stem: str
    panels: tuple[Markup, ...]


@dataclass(frozen=True)
class GroupView:
    """A group with its sentences, tables and drawings."""

    group: Group
    what: str
    notes: tuple[str, ...]
    readings: tuple[Reading, ...]
    methods: Table
    differences: Table | None
    change_sentences: tuple[tuple[str, ...], ...]
    feature_change: tuple[Table, ...]
    calibration: Table
    features: Table
    head: Table
    accuracy: Markup
    accuracy_legend: Legend
    change: Markup | None
    reliability: tuple[Diagrams, ...]
    temperatures: tuple[tuple[str, str], ...]
    curves: tuple[Markup, ...]
    curves_legend: Legend
    confusions: tuple[Confusion, ...]

    @property
    def tables(self) -> tuple[Table, ...]:
        """All tables, for files."""
        differences = () if self.differences is None else (self.differences,)
        others = (*self.feature_change, self.calibration, self.features, self.head)
        return (self.methods, *differences, *others)


def view_group(group: Group, differences: Differences) -> GroupView:
    """Everything the page shows of a group, whose runs differ as ``differences`` says."""
    comparisons = differences.comparisons
    change = feature_change_figure(comparisons, group)
    own, shared = (feature_change(comparisons, shared=s) for s in (False, True))
    unpaired = [(sentence,) for sentence in read_unpaired(group, comparisons)]
    short = [tuple(summarise_feature_change(comparison)) for comparison in comparisons]
    full = [tuple(read_feature_change(comparison)) for comparison in comparisons]
    readings = (
        Reading(
            "Accuracy",
            f"{group.slug}-results",
            (tuple(read_accuracy(group)), tuple(read_differences(differences, group))),
        ),
        Reading("Feature change", f"{group.slug}-change", (*short, *unpaired)),
        Reading("Calibration", f"{group.slug}-calibration", (tuple(read_calibration(group)),)),
        Reading("Head norm", f"{group.slug}-features", (tuple(read_head(group)),)),
    )
    return GroupView(
        group=group,
        what=what_was_run(group),
        notes=tuple(dict.fromkeys(note for run in group.runs for note in run.data.notes)),
        readings=tuple(reading for reading in readings if any(reading.paragraphs)),
        methods=tables.methods(group),
        differences=score_differences(differences, group),
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
            (run.name, run.record.calibration.reason)
            for run in group.runs
            if run.record.calibration.reason is not None
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


def _reliability(group: Group) -> tuple[Diagrams, ...]:
    drawn = len(group.settings) <= MOST_DIAGRAMS
    return tuple(
        Diagrams(
            setting.label,
            f"{group.slug}-reliability-{setting.slug}",
            _panels(setting, group) if drawn else (),
        )
        for setting in group.settings
    )


def _panels(setting: Setting, group: Group) -> tuple[Markup, ...]:
    style = styles(group.settings)[setting.label]
    drawn = (
        (place, split, reliability_panel(setting, split, style))
        for place, split in enumerate(group.splits)
    )
    return tuple(
        inline_svg(
            figure,
            f"{group.slug}-{setting.slug}-bins-{place}",
            f"Reliability of {setting.label} on {split}",
            "Accuracy against confidence in 15 bins before and after temperature scaling; ECE is "
            "in the table of calibration.",
        )
        for place, split, figure in drawn
        if figure is not None
    )
