"""What a row of the table of tasks says."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lpft.data.examples import Text, TextData
from lpft.data.reading import Row
from lpft.data.releases import HubSource, Release


@dataclass(frozen=True)
class Template:
    """One way to make the classifier's input from a row."""

    description: str
    build: Callable[[Mapping[str, Any]], Text]


@dataclass(frozen=True)
class Grouping:
    """How a task's rows answer questions together.

    Attributes:
        noun: what a group is (``question``).
        unfold: from a row of the source, the source's way of writing the classes and its name for
            messages to a row for each candidate answer, with the class's name as ``label`` and the
            columns ``group`` and ``id`` and those of ``credits``.
        credits: where one row of a group is chosen: columns with what choosing each row earns,
            which are named as the metrics that they give.
    """

    noun: str
    unfold: Callable[[Row, Mapping[str, str], str], Iterator[Row]]
    credits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """A published classification task.

    Attributes:
        name: what users call it.
        title: its full name and the question that it asks.
        benchmark: the collection that it is part of.
        classes: class names in the dataset's official order.
        fields: the columns with its text, which releases may call otherwise.
        templates: the inputs that can be made of a row, the first by default; where there are none,
            the field, or the two fields as a pair.
        licence: of the data, as its owners state it.
        url: its page.
        metric: the published one, a key of a split's metrics.
        releases: layouts of its official files; the first whose training file exists is read.
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
    licence: str
    url: str
    templates: tuple[Template, ...] = ()
    metric: str = "accuracy"
    releases: tuple[Release, ...] = ()
    hub: HubSource | None = None
    ood: tuple[str, ...] = ()
    grouping: Grouping | None = None
    cluster: str | None = None
    incomplete: bool = False
    embedded: Callable[[], TextData] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.templates:
            template = single(*self.fields) if len(self.fields) == 1 else pair(*self.fields)
            object.__setattr__(self, "templates", (template,))


def single(field: str) -> Template:
    """One field as a single text."""
    return Template(field, lambda row: row[field])


def pair(first: str, second: str) -> Template:
    """Two fields as a pair of texts."""
    return Template(f"pair: {first}, {second}", lambda row: (row[first], row[second]))
