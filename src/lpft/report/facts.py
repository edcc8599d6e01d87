"""A record's keys and values in words."""

from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from lpft.report.numbers import plain
from lpft.results.groups import model_name

Facts = tuple[tuple[str, str], ...]
"""Names and what is said of each."""

Sections = tuple[tuple[str, Facts], ...]
"""Facts under their headings."""


def facts(record: Mapping[str, Any]) -> Facts:
    """Keys and values of a record in words."""
    return tuple((plain(key), _fact(value)) for key, value in record.items())


def shared_facts(every: Iterable[Sections]) -> Sections:
    """The facts that all have; the order is that of the first."""
    first, *others = every
    return tuple(
        (heading, kept)
        for heading, lines in first
        if (kept := tuple(x for x in lines if all(_says(other, heading, x) for other in others)))
    )


def without(sections: Sections, left_out: Sections) -> Sections:
    """The facts that are not among those left out."""
    return tuple(
        (heading, kept)
        for heading, lines in sections
        if (kept := tuple(line for line in lines if not _says(left_out, heading, line)))
    )


def _says(sections: Sections, heading: str, line: tuple[str, str]) -> bool:
    return any(name == heading and line in lines for name, lines in sections)


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
