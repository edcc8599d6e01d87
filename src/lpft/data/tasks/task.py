"""A row of the table of tasks, and how ``lpft tasks`` shows it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lpft.data.examples import Text, TextData
from lpft.data.releases import HubSource, RawSplit, Release


@dataclass(frozen=True)
class Template:
    """One way in which a row becomes the classifier's input."""

    description: str
    build: Callable[[Mapping[str, Any]], Text]


@dataclass(frozen=True)
class Grouping:
    """How a task's rows answer questions together.

    Attributes:
        noun: what a group is (``question``).
        unfold: from the source's rows to one row per candidate answer, with the columns ``group``
            and ``id`` and those of ``credits``.
        credits: where one row of a group is chosen: columns with what choosing each row earns,
            which are named as the metrics that they give.
        positive: the class that says that a row answers its question.
    """

    noun: str
    unfold: Callable[[RawSplit], RawSplit]
    credits: tuple[str, ...] = ()
    positive: str = "True"


@dataclass(frozen=True)
class Task:
    """A published classification task.

    Attributes:
        name: what users call it.
        title: its full name and what is to be told apart.
        benchmark: the collection that it is part of.
        classes: class names in the dataset's official order.
        fields: the columns with its text, which releases may call otherwise.
        templates: the inputs that can be made of a row; the first is the default.
        licence: of the data, as its owners state it.
        url: its page.
        metric: the published one, a key of a split's metrics.
        releases: layouts of its official files; the first one found is read.
        hub: where the Hugging Face Hub keeps it.
        ood: the out-of-distribution sets that some source of it has.
        grouping: where its rows answer questions together.
        cluster: the column that is equal for rows that are not independent, such as questions on
            one passage; None where rows are, but for those of a group.
        incomplete: its files are known to have rows without text or label, which are left out and
            counted; otherwise such a row is an error.
        embedded: loads it from within this package.
        notes: facts that a report must repeat.
    """

    name: str
    title: str
    benchmark: str
    classes: tuple[str, ...]
    fields: tuple[str, ...]
    templates: tuple[Template, ...]
    licence: str
    url: str
    metric: str = "accuracy"
    releases: tuple[Release, ...] = ()
    hub: HubSource | None = None
    ood: tuple[str, ...] = ()
    grouping: Grouping | None = None
    cluster: str | None = None
    incomplete: bool = False
    embedded: Callable[[], TextData] | None = None
    notes: tuple[str, ...] = ()


def single(field: str) -> Template:
    """One field as a single text."""
    return Template(field, lambda row: row[field])


def pair(first: str, second: str) -> Template:
    """Two fields as a pair of texts."""
    return Template(f"pair: {first}, {second}", lambda row: (row[first], row[second]))


def describe_task(task: Task) -> dict[str, Any]:
    """What a task is, ready for JSON.

    ``files`` has the layouts of its official files: names of the benchmark's folder, of the task's
    folder in it, and the paths in that by split.
    """
    hub = task.hub
    return {
        "name": task.name,
        "title": task.title,
        "benchmark": task.benchmark,
        "classes": list(task.classes),
        "metric": task.metric,
        "templates": [template.description for template in task.templates],
        "grouped_by": None if task.grouping is None else task.grouping.noun,
        "ood": list(task.ood),
        "files": [
            {
                "layout": release.layout,
                "benchmark_folders": list(release.benchmarks),
                "folders": list(release.folders),
                "paths": dict(release.files),
                "url": release.url,
                "notes": list(release.notes),
            }
            for release in task.releases
        ],
        "hub": None if hub is None else hub.id,
        "hub_config": None if hub is None else hub.config,
        "hub_revision": None if hub is None else hub.revision,
        "hub_notes": [] if hub is None else list(hub.notes),
        "url": task.url,
        "licence": task.licence,
        "notes": list(task.notes),
    }


def format_task(description: dict[str, Any]) -> str:
    """The same for people: a line for each fact, one below the other where there are several."""
    facts: dict[str, list[str]] = {
        "name": [description["name"]],
        "title": [description["title"]],
        "benchmark": [description["benchmark"]],
        "classes": [", ".join(description["classes"])],
        "metric": [description["metric"] + _grouped(description["grouped_by"])],
        "templates": [f"{n}: {text}" for n, text in enumerate(description["templates"])],
        "ood": [", ".join(description["ood"])] if description["ood"] else [],
        "files": [_paths(layout) for layout in description["files"]],
        "from": list(dict.fromkeys(layout["url"] for layout in description["files"])),
        "hub": [_hub(description)] if description["hub"] is not None else [],
        "url": [description["url"]],
        "licence": [description["licence"]],
        "paper": _paper_rows(description["paper_rows"]),
        "notes": [
            *description["notes"],
            *(note for layout in description["files"] for note in layout["notes"]),
            *(f"on the Hub: {note}" for note in description["hub_notes"]),
        ],
    }
    lines = []
    for name, values in facts.items():
        first, *others = values if values else ["-"]
        lines += [f"{name + ':':<11}{first}", *(" " * 11 + other for other in others)]
    return "\n".join(lines)


def _grouped(noun: str | None) -> str:
    return "" if noun is None else f" (rows are grouped by {noun})"


def _paths(layout: dict[str, Any]) -> str:
    place = f"{layout['benchmark_folders'][0]}/{layout['folders'][0]}"
    return f"{layout['layout']}: {place}/ with {', '.join(layout['paths'].values())}"


def _hub(description: dict[str, Any]) -> str:
    return f"{description['hub']} ({description['hub_config']}) at {description['hub_revision']}"


def _paper_rows(rows: dict[str, int | None] | None) -> list[str]:
    if rows is None:
        return []
    counts = (f"{split} {count}" for split, count in rows.items() if count is not None)
    return [f"published counts: {', '.join(counts)}"]
