"""Class labels: from whatever a file or a Python program holds to class names and indices."""

import numbers
import re
from collections.abc import Iterator, Mapping, Sequence, ValuesView
from decimal import Decimal
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lpft.data.examples import UNSEEN, Label
from lpft.errors import InputError, named
from lpft.settings import ClassWeight

_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.0+)?")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_MAX_VALUES = 5
_MAX_CLASSES = 20
_MAX_CHARACTERS = 60
"""Characters of a value in a message."""

_ENOUGH_ROWS = 20
"""From this many rows on, classes that hardly recur are a mistake."""


def read_labels(
    values: Sequence[object], source: str, rows: Sequence[int] | None = None
) -> list[Label]:
    """Labels of a file as strings and integers.

    Integral numbers of any type (2, 2.0, NumPy's) become int, booleans "True" and "False", text
    loses the blanks around it.

    Args:
        values: N raw labels.
        source: what to call them in messages (a file and column).
        rows: row numbers from 0 for messages, 0 to N - 1 by default.

    Raises:
        InputError: a label is missing, is a list (multi-label), a number that is not whole
            (regression) or no valid Unicode, or all are text that spells numbers and one of these
            is not whole.
    """
    _check_labels(values, source, rows, "expected one in every row: fill it in or remove the row")
    if all(looks_numeric(value) for value in values):
        _check_whole([value for value in values if not float(str(value)).is_integer()], source)
    return [_plain_label(value) for value in values]


def _plain_label(value: object) -> Label:
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    return _integer(value) if isinstance(value, numbers.Real | Decimal) else str(value).strip()


def _integer(value: numbers.Real | Decimal) -> int:
    # not by float where it is an integer: large ones stay exact
    return int(value) if isinstance(value, numbers.Integral | Decimal) else int(float(value))


def label_list(labels: Any, name: str) -> list[Label]:
    """A Python program's labels or class names: all strings, all integers or all booleans.

    NumPy's scalars become Python's, whole floats (as of a table with missing values) integers;
    strings stay as they are, letter for letter. A table or array of one column is that column.

    Args:
        labels: N of them, in their order.
        name: what to call them in messages.

    Raises:
        InputError: they are no list, not flat (multi-label), one is missing, not whole (regression)
            or of another type, or types are mixed.
    """
    name = f"the {name}"
    values = _objects(labels)
    if values.ndim == 0:
        raise InputError(
            f"{name} are {show([labels])} ({type(labels).__name__}): expected a list of "
            "strings, integers or booleans"
        )
    if values.ndim > 1:
        raise InputError(
            f"{name} have shape {values.shape}: expected one class per text; multi-label is "
            "not supported"
        )
    items = values.tolist()
    _check_labels(items, name, None, "expected one everywhere: fill it in or leave the row out")
    typed = [_typed_label(value, name) for value in items]
    kinds = sorted({type(value).__name__ for value in typed})
    if len(kinds) > 1:
        raise InputError(
            f"{name} mix {' and '.join(kinds)}: expected all strings, all integers or all "
            "booleans: convert them to one type"
        )
    return typed


def class_weights(
    weight: ClassWeight | None, classes: Sequence[Label]
) -> dict[int, float] | Literal["balanced"] | None:
    """The setting ``class_weight`` with class indices in place of names; unnamed classes weigh 1.

    Raises:
        InputError: it names a class that is not one of ``classes``.
    """
    if weight is None or isinstance(weight, str):
        return weight
    names = [str(name) for name in classes]
    unknown = [name for name in weight if name not in names]
    if unknown:
        raise InputError(
            f"{named('class_weight')} names {show(unknown)}, which is no class of the data: "
            f"expected some of {show(names, _MAX_CLASSES)}"
        )
    return {index: weight.get(name, 1.0) for index, name in enumerate(names)}


def _objects(labels: Any) -> NDArray[np.object_]:
    """Labels as an object array; what is no collection becomes an array without dimensions."""
    if hasattr(labels, "detach"):  # a tensor, wherever it lies and of types that NumPy lacks too
        labels = np.array(labels.tolist(), dtype=object)
    if hasattr(labels, "__array__"):
        values = np.asarray(labels, dtype=object)
        return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if isinstance(labels, Iterator | ValuesView):
        labels = list(labels)
    return np.asarray(labels, dtype=object)


def _typed_label(value: Any, name: str) -> Label:
    if isinstance(value, str):
        return str.__str__(value)  # the text of a member of an Enum, not the member's name
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, numbers.Real):
        return _integer(value)
    advice = ": decode them" if isinstance(value, bytes) else ""
    raise InputError(
        f"{name}: found {show([value])} ({type(value).__name__}), expected strings, integers or "
        f"booleans{advice}"
    )


def _check_labels(
    values: Sequence[object], source: str, rows: Sequence[int] | None, advice: str
) -> None:
    """Refuse collections (multi-label), missing labels, halves of characters and fractions."""
    collections = (list, tuple, set, frozenset, dict, np.ndarray)
    multiple = [value for value in values if isinstance(value, collections)]
    if multiple:
        raise InputError(
            f"{source}: multi-label is not supported: found {show(multiple[:1])}, expected one "
            "class per row (a string or an integer)"
        )
    rows = range(len(values)) if rows is None else rows
    missing = [row for row, value in zip(rows, values, strict=True) if is_missing(value)]
    if missing:
        raise InputError(f"{source}: no label in {show_rows(missing)}; {advice}")
    damaged = [row for row, value in zip(rows, values, strict=True) if is_damaged(value)]
    if damaged:
        raise InputError(
            f"{source}: half of a surrogate pair in {show_rows(damaged)}, expected valid Unicode: "
            "the label was cut or decoded wrongly where it was written"
        )
    # is_integer is False for the infinities
    numeric = [value for value in values if isinstance(value, numbers.Real | Decimal)]
    _check_whole([value for value in numeric if not float(value).is_integer()], source)


def _check_whole(fractions: Sequence[object], source: str) -> None:
    if fractions:
        raise InputError(
            f"{source}: regression is not supported: found {show(fractions)}, expected classes "
            "(strings, integers or booleans): if these numbers are classes, give them names"
        )


def integers_where_all_are(labels: list[Label]) -> list[Label]:
    """Labels as integers if every one is or spells an integer ("1", "1.0"), else as they are.

    Files of text cannot say which of their labels are numbers; "01" stays text, or else "01" and
    "1" would become one class.
    """
    integers = [_as_integer(label) for label in labels]
    valid = [integer for integer in integers if integer is not None]
    return list(valid) if len(valid) == len(labels) else labels


def _as_integer(label: Label) -> int | None:
    if isinstance(label, int):
        return label
    return int(label.partition(".")[0]) if _INTEGER.fullmatch(label) else None


def infer_classes(labels: Sequence[Label], source: str) -> tuple[Label, ...]:
    """The distinct labels, sorted: by value if all are integers, otherwise by name as strings.

    Fewer than 2 are refused, and more than half as many as rows.
    """
    distinct = set(labels)
    integers = [label for label in distinct if isinstance(label, int)]
    names = sorted({str(label) for label in distinct})
    classes = tuple(sorted(integers)) if len(integers) == len(distinct) else tuple(names)
    if len(classes) < 2:
        raise InputError(
            f"{source}: found only the class {show(classes)} in {len(labels)} rows, "
            "expected at least 2 classes"
        )
    if len(labels) >= _ENOUGH_ROWS and 2 * len(classes) > len(labels):
        raise InputError(
            f"{source}: found {len(classes)} different labels in {len(labels)} rows, expected "
            "classes that recur: is this the label column?"
        )
    return classes


def encode_labels(
    labels: Sequence[Label],
    classes: Sequence[Label],
    source: str,
    rows: Sequence[int] | None = None,
    *,
    unseen_allowed: bool = False,
) -> NDArray[np.int64]:
    """Class indices of N labels, matched by name: "1", 1 and "1.0" name the class 1.

    Args:
        source: what to call the labels in messages.
        rows: row numbers from 0 for messages, 0 to N - 1 by default.
        unseen_allowed: whether other labels may occur, as :data:`UNSEEN`, unless they differ from
            a class in case and spacing only.

    Raises:
        InputError: a label is none of the classes, where that is not allowed.
    """
    index = {str(label): position for position, label in enumerate(classes)}
    integers = all(isinstance(label, int) and not isinstance(label, bool) for label in classes)
    names = [str(_as_integer(label)) if integers else str(label) for label in labels]
    unseen = [position for position, name in enumerate(names) if name not in index]
    if unseen_allowed:
        alike = {_plain_name(name) for name in index}
        unseen = [position for position in unseen if _plain_name(labels[position]) in alike]
    if unseen:
        numbers = unseen if rows is None else [rows[position] for position in unseen]
        raise InputError(
            f"{source}: found the label {show([labels[position] for position in unseen])} in "
            f"{show_rows(numbers)} of {len(labels)}, expected one of the classes "
            f"{show(classes, _MAX_CLASSES)}"
        )
    return np.array([index.get(name, UNSEEN) for name in names], dtype=np.int64)


def _plain_name(label: Label) -> str:
    """A class name without differences of case and spacing."""
    return " ".join(str(label).casefold().split())


def describe_unseen(labels: Sequence[Label], indices: NDArray[np.int64]) -> str | None:
    """A clause about the labels among these N that training lacks; None where there are none."""
    unseen = [label for label, index in zip(labels, indices, strict=True) if index == UNSEEN]
    if not unseen:
        return None
    return f"{len(unseen)} of {len(labels)} rows have classes that training lacks ({show(unseen)})"


def official_names(
    values: Sequence[object],
    codes: Mapping[str, str],
    classes: Sequence[str],
    source: str,
    task: str,
) -> list[str]:
    """Class names of N labels as a task's official files write them.

    ``codes`` has class names by the way in which the source writes them (``"0"``, which pandas
    writes as ``"0.0"`` in a column that lacks a label); it is empty where the source writes the
    names themselves. ``source`` and ``task`` are for messages.
    """
    names = list(dict.fromkeys(codes.values()))
    if names and set(names) != set(classes):
        raise InputError(
            f"{source}: its classes are {', '.join(names)}, expected {task}'s: {', '.join(classes)}"
        )
    names_by_code = codes if codes else {name: name for name in classes}
    texts = []
    for value in values:
        text = str(value).strip()
        integer = None if text in names_by_code else _as_integer(text)
        texts.append(text if integer is None else str(integer))
    unknown = [value for value in texts if value not in names_by_code]
    if "-1" in unknown:
        raise InputError(
            f"{source}: the labels are hidden (-1), as in official test sets; "
            "expected a labelled split: take the training or validation set"
        )
    if unknown:
        expected = names_by_code if len(names_by_code) == len(classes) else classes
        raise InputError(
            f"{source}: found the label {show(unknown)} in {len(unknown)} of {len(texts)} rows, "
            f"expected {' or '.join(expected)}: is this {task}?"
        )
    return [names_by_code[value] for value in texts]


def is_missing(value: object) -> bool:
    """Whether a value is None, NaN (pandas' NA and NaT too) or blank text."""
    if isinstance(value, str):
        return not value.strip()
    # NaN and NaT differ from themselves; comparing NA gives NA, which has no truth value
    return value is None or type(value).__name__ == "NAType" or bool(np.all(value != value))


def is_damaged(value: object) -> bool:
    """Whether a value is text with half of a surrogate pair in it, which UTF-8 cannot have."""
    return (
        isinstance(value, str)
        and not value.isascii()
        and value != value.encode(errors="ignore").decode()
    )


def looks_numeric(value: object) -> bool:
    """Whether a value is text that spells a number, such as ``"3"`` or ``"-0.5"``."""
    return isinstance(value, str) and _NUMBER.fullmatch(value.strip()) is not None


def show(values: Sequence[object], most: int = _MAX_VALUES) -> str:
    """The first few distinct values of a list, shortened, in one line for a message."""
    distinct = list(dict.fromkeys(cut(repr(value)) for value in values))
    text = ", ".join(distinct[:most])
    return f"{text} and {len(distinct) - most} more" if len(distinct) > most else text


def cut(text: str) -> str:
    """A text in one line for a message, at most 60 characters of it."""
    line = " ".join(text.split())
    return line if len(line) <= _MAX_CHARACTERS else f"{line[: _MAX_CHARACTERS - 3]}..."


def show_rows(rows: Sequence[int], total: int | None = None) -> str:
    """Row numbers for a message, counted from 1 as a reader of the file counts them.

    ``total`` is how many there are, where ``rows`` are the first of them.
    """
    total = len(rows) if total is None else total
    text = ", ".join(str(row + 1) for row in rows[:_MAX_VALUES])
    more = f" and {total - _MAX_VALUES} more" if total > _MAX_VALUES else ""
    return f"row{'s' if total > 1 else ''} {text}{more}"
