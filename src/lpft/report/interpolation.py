"""The classifiers between linear probing and fine-tuning on the page and in a terminal."""

from collections.abc import Iterator
from pathlib import Path
from textwrap import fill

from lpft.report import figures
from lpft.report.page import Block, Chapter, Details, Folder, named_sections, relative_link
from lpft.report.runs import facts
from lpft.report.table import TERMINAL_WIDTH, Columns, from_columns, to_text
from lpft.report.text import say
from lpft.results.exhibits import Column, Figure, Panel, Series, Table
from lpft.results.folder import Interpolation
from lpft.results.groups import method_name, model_name
from lpft.results.schema import InterpolationRecord, PointRecord, number

_QUANTITIES = (("accuracy", "accuracy"), ("nll", "NLL with T"), ("ece", "ECE with T"))
"""Metrics along the path, and their names; all but the first are calibrated."""


def interpolation_chapter(
    interpolation: Interpolation, slug: str, title: str, page_folder: Path
) -> Chapter:
    """What the page shows of one ``interpolation.json``; ``title`` tells it from others."""
    record = interpolation.record
    return Chapter(
        kind="interpolation",
        slug=slug,
        title=title,
        data=record.data.name,
        model=model_name(str(record.config.get("model"))),
        summary=(summary(record), say("interpolation_cost", record=record)),
        sections=named_sections(slug, _sections(interpolation, page_folder)),
    )


def title_of(record: InterpolationRecord) -> str:
    """The data, the method and the seed of the run."""
    return f"{record.data.name} · {_ends(record)[1]}, seed {record.config.get('seed')}"


def _sections(
    interpolation: Interpolation, page_folder: Path
) -> Iterator[tuple[str, str, tuple[Block | None, ...]]]:
    """Anchor, title and blocks of each section."""
    record = interpolation.record
    yield "curves", "Along the path", (along_the_path(record), in_and_out(record), points(record))
    folder = Folder(
        relative_link(interpolation.folder, page_folder), (record.FILE, "metrics.json", "README.md")
    )
    details = Details(
        "Settings of the run, data and versions",
        (
            ("Run", facts({"name": record.run, **record.config})),
            ("Data", facts(record.data.sources)),
            ("Environment", facts({"device": record.device, **record.versions})),
        ),
    )
    yield "made", "The chosen classifier, and how it was made", (say("point_use"), folder, details)


def summary(record: InterpolationRecord) -> str:
    """What was chosen by which rule, and how it compares with both ends."""
    first, last = record.points[0], record.points[-1]
    splits = [record.id_split, *record.ood_splits]
    if record.id_split != "validation":
        splits.insert(0, "validation")
    return say(
        "interpolation",
        record=record,
        ends=_ends(record),
        scores=[
            (split, *(_value(point, split, "accuracy") for point in (first, record.point, last)))
            for split in splits
        ],
    )


def points(record: InterpolationRecord) -> Table:
    """A row for each point: its temperature, and every set's accuracy, NLL and ECE."""
    splits = dict.fromkeys(["validation", record.id_split, *record.ood_splits])
    columns: Columns = [
        (Column("alpha"), [_name(point, record) for point in record.points]),
        (Column("T", digits=3), [point.temperature for point in record.points]),
    ]
    for metric, name in _QUANTITIES:
        above = name.capitalize() if metric == "accuracy" else name
        for split in splits:
            values = [_value(point, split, metric) for point in record.points]
            column = Column(split.removeprefix("ood/"), above, digits=3, full=f"{split} {name}")
            columns.append((column, values))
    note = say("points_note", record=record, ends=_ends(record))
    return from_columns("points", "Points of the path", columns, note)


def along_the_path(record: InterpolationRecord) -> Figure:
    """Accuracy, NLL and ECE over alpha, a line for each set, with a marker at the chosen point."""
    alphas = tuple(point.alpha for point in record.points)
    chosen = alphas.index(record.chosen)
    splits = dict.fromkeys(["validation", record.id_split, *record.ood_splits])
    panels = []
    for metric, name in _QUANTITIES:
        lines = []
        for split in splits:
            values = tuple(_value(point, split, metric) for point in record.points)
            lines.append(Series(split, alphas, values, marked=(chosen,)))
        panels.append(Panel(name, "alpha", "", tuple(lines)))
    return _figure("path", "Along the path", panels, record)


def in_and_out(record: InterpolationRecord) -> Figure | None:
    """Accuracy out of distribution over that in distribution, a curve through all points."""
    panels = []
    for split in record.ood_splits:
        x = tuple(_value(point, record.id_split, "accuracy") for point in record.points)
        y = tuple(_value(point, split, "accuracy") for point in record.points)
        known = [place for place, pair in enumerate(zip(x, y, strict=True)) if None not in pair]
        if len(known) < len(x):
            continue
        path = tuple(float(value) for value in x if value is not None)
        positions = {"LP": 0, "chosen": record.points.index(record.point), _ends(record)[1]: -1}
        ends = tuple(Series(name, (path[at],), (y[at],)) for name, at in positions.items())
        names = tuple(f"{point.alpha:g}" for point in record.points)
        panels.append(
            Panel(
                split.removeprefix("ood/"),
                f"accuracy on {record.id_split}",
                "accuracy",
                (Series("between", path, y, texts=names), *ends),
            )
        )
    return _figure("id-ood", "In and out of distribution", panels, record) if panels else None


def _figure(name: str, title: str, panels: list[Panel], record: InterpolationRecord) -> Figure:
    values_in, ends = "the table of points", _ends(record)
    return figures.figure(name, title, "lines", panels, values_in, record=record, ends=ends)


def format_interpolation(record: InterpolationRecord) -> str:
    """What a terminal shows: the choice, every point, and what choosing costs."""
    parts = (summary(record), say("interpolation_cost", record=record))
    first, second = (fill(text, TERMINAL_WIDTH, break_on_hyphens=False) for text in parts)
    return "\n\n".join([first, to_text(points(record), TERMINAL_WIDTH), second])


def _ends(record: InterpolationRecord) -> tuple[str, str]:
    return "LP", method_name(str(record.config.get("method")))


def _name(point: PointRecord, record: InterpolationRecord) -> str:
    ends = _ends(record)
    remarks = [
        *([ends[0]] if point.alpha == 0 else []),
        *([ends[1]] if point.alpha == 1 else []),
        *(["chosen"] if point.alpha == record.chosen else []),
    ]
    return f"{point.alpha:g}" + (f" ({', '.join(remarks)})" if remarks else "")


def _value(point: PointRecord, split: str, metric: str) -> float | None:
    values = point.splits.get(split, {})
    if metric != "accuracy":
        values = values.get("calibrated", {})
    return number(values.get(metric))
