"""Class labels: from whatever a file or a caller holds to class names and class indices."""

import numbers
import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lpft.data.examples import Label
from lpft.errors import InputError

_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.0+)?")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_SHOWN = 5
_CLASSES_SHOWN = 20
_LONGEST = 60
"""Characters of a value in a message."""

_ENOUGH_ROWS = 20
"""From which number of rows on classes that hardly recur are a mistake."""


def show(values: Sequence[object], most: int = _SHOWN) -> str:
    """The first few different values of a list, each cut, in one line for a message."""
    shown = list(dict.fromkeys(_cut(repr(value)) for value in values))
    listed = ", ".join(shown[:most])
    return f"{listed} and {len(shown) - most} more" if len(shown) > most else listed


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."


def show_rows(rows: Sequence[int]) -> str:
    """Row numbers for a message, counted from 1 as a reader of the file counts them."""
    shown = ", ".join(str(row + 1) for row in rows[:_SHOWN])
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return f"row{'s' if len(rows) > 1 else ''} {shown}{more}"


def is_missing(value: object) -> bool:
    """Whether a value is None, NaN (pandas' NA and NaT too) or blank text."""
    if isinstance(value, str):
        return not value.strip()
    # NaN and NaT differ from themselves; comparing NA gives NA, which has no truth value
    return value is None or type(value).__name__ == "NAType" or bool(np.all(value != value))


def looks_numeric(value: object) -> bool:
    """Whether a value is text that spells a number, such as ``"3"`` or ``"-0.5"``."""
    return isinstance(value, str) and _NUMBER.fullmatch(value.strip()) is not None


def read_labels(
    values: Sequence[object], source: str, rows: Sequence[int] | None = None
) -> list[Label]:
    """Labels as strings and integers.

    Integral numbers of any type (2, 2.0, NumPy's) become int, booleans "True" and "False", text
    loses the blanks around it.

    Args:
        values: N raw labels.
        source: what to call them in messages (a file and column).
        rows: row numbers from 0 for messages, 0 to N - 1 by default.

    Raises:
        InputError: a label is missing, is a list (multi-label) or a number that is not whole
            (regression), or all are text spelling numbers and one of these is not whole.
    """
    rows = range(len(values)) if rows is None else rows
    check_single_class(values, source)
    missing = [row for row, value in zip(rows, values, strict=True) if is_missing(value)]
    if missing:
        raise InputError(
            f"{source}: no label in {show_rows(missing)}; expected one in every row: "
            "fill it in or remove the row"
        )
    continuous = [value for value in values if _is_fraction(value)]
    if not continuous and all(looks_numeric(value) for value in values):
        continuous = [value for value in values if not float(str(value)).is_integer()]
    if continuous:
        raise InputError(
            f"{source}: regression is not supported: found {show(continuous)}, expected classes "
            "(strings or integers): if these numbers are classes, give them names"
        )
    return [_read_label(value) for value in values]


def check_single_class(values: Sequence[object], source: str) -> None:
    """Check that no label is a collection.

    Raises:
        InputError: one is (multi-label).
    """
    lists = [value for value in values if _is_collection(value)]
    if lists:
        raise InputError(
            f"{source}: multi-label is not supported: found {show(lists[:1])}, expected one class "
            "per row (a string or an integer)"
        )


def integers_where_all_are(labels: list[Label]) -> list[Label]:
    """Labels as integers if every one is or spells an integer ("1", "1.0"), else as they are.

    Files of text cannot say which of their labels are numbers; "01" stays text, or else "01" and
    "1" would become one class.
    """
    integers = [_as_integer(label) for label in labels]
    whole = [integer for integer in integers if integer is not None]
    return list(whole) if len(whole) == len(labels) else labels


def infer_classes(labels: Sequence[Label], source: str) -> tuple[Label, ...]:
    """The distinct labels, sorted: by value if all are integers, otherwise by name as strings.

    Raises:
        InputError: there are fewer than 2, or more than half as many as rows.
    """
    distinct = set(labels)
    whole = [label for label in distinct if isinstance(label, int)]
    classes: tuple[Label, ...]
    if len(whole) == len(distinct):
        classes = tuple(sorted(whole))
    else:
        classes = tuple(sorted({str(label) for label in distinct}))
    if len(classes) < 2:
        raise InputError(
            f"{source}: found only the class {show(classes)} in {len(labels)} rows, "
            "expected at least 2 classes to tell apart"
        )
    if len(labels) >= _ENOUGH_ROWS and 2 * len(classes) > len(labels):
        raise InputError(
            f"{source}: found {len(classes)} different labels in {len(labels)} rows, expected "
            "classes that recur: is it the column of the classes?"
        )
    return classes


def encode_labels(
    labels: Sequence[Label], classes: Sequence[Label], source: str
) -> NDArray[np.int64]:
    """Class indices of N labels, matched by name: "1", 1 and "1.0" name the class 1.

    Raises:
        InputError: a label is none of the classes.
    """
    index = {str(label): position for position, label in enumerate(classes)}
    whole = all(isinstance(label, int) and not isinstance(label, bool) for label in classes)
    names = [str(_as_integer(label)) if whole else str(label) for label in labels]
    unseen = [label for label, name in zip(labels, names, strict=True) if name not in index]
    if unseen:
        raise InputError(
            f"{source}: found the label {show(list(dict.fromkeys(unseen)))} in {len(unseen)} of "
            f"{len(labels)} rows, expected one of the classes {show(classes, _CLASSES_SHOWN)}"
        )
    return np.array([index[name] for name in names], dtype=np.int64)


def official_names(
    values: Sequence[object],
    codes: Mapping[str, str],
    classes: Sequence[str],
    source: str,
    task: str,
) -> list[str]:
    """Class names of N labels as a task's official files write them.

    Args:
        values: N raw labels; whole numbers may be written as ``0.0``, as pandas writes a column
            that lacks a label.
        codes: class names by the way in which the source writes them (``"0"``); empty where it
            writes the names themselves.
        classes: the task's.
        source: what to call the labels in messages.
        task: its name, for messages.

    Raises:
        InputError: the codes are of other classes, labels are hidden (-1), or one is unknown.
    """
    named = list(dict.fromkeys(codes.values()))
    if named and set(named) != set(classes):
        raise InputError(
            f"{source}: its classes are {', '.join(named)}, expected {task}'s: {', '.join(classes)}"
        )
    known = codes if codes else {name: name for name in classes}
    expected = known if len(known) == len(classes) else classes
    written = [_written(value, known) for value in values]
    unknown = [value for value in written if value not in known]
    if "-1" in unknown:
        raise InputError(
            f"{source}: the labels are hidden (-1), as in official test sets; "
            "expected a labelled split: take the training or validation set"
        )
    if unknown:
        raise InputError(
            f"{source}: found the label {show(list(dict.fromkeys(unknown)))} in "
            f"{len(unknown)} of {len(written)} rows, expected {' or '.join(expected)}: "
            f"is this {task}?"
        )
    return [known[value] for value in written]


def _is_collection(value: object) -> bool:
    return isinstance(value, list | tuple | set | frozenset | dict | np.ndarray)


def _is_fraction(value: object) -> bool:
    # is_integer is False for the infinities
    return isinstance(value, numbers.Real) and not float(value).is_integer()


def _read_label(value: object) -> Label:
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return int(float(value))
    return str(value).strip()


def _written(value: object, known: Mapping[str, str]) -> str:
    text = str(value).strip()
    integer = None if text in known else _as_integer(text)
    return text if integer is None else str(integer)


def _as_integer(label: Label) -> int | None:
    if isinstance(label, int):
        return label
    return int(label.partition(".")[0]) if _INTEGER.fullmatch(label) else None
