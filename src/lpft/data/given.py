"""Texts and labels as a Python program gives them: checked, never converted."""

import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lpft.data.examples import Label, Text
from lpft.data.labels import check_single_class, is_missing, show, show_rows
from lpft.errors import InputError


def listed_texts(texts: Any, name: str = "texts") -> list[Text]:
    """The texts as a list, pairs as tuples of two.

    Pairs may also come as lists of two, or as the rows of an N x 2 array.

    Args:
        texts: N texts or pairs, in their order.
        name: what to call them in messages.

    Raises:
        InputError: they are one string, a table or mapping (which list their column names), have no
            order, are an array of another shape, or are no collection.
    """
    if isinstance(texts, str | bytes):
        raise InputError(f"the {name} are one string: expected a list of texts, such as [text]")
    if isinstance(texts, Mapping) or hasattr(texts, "columns"):
        raise InputError(
            f"the {name} are a {type(texts).__name__}, which lists its column names: expected a "
            "list of texts: take one column, or for pairs list(zip(first, second)) of two"
        )
    if not isinstance(texts, Iterable) or isinstance(texts, set | frozenset):
        raise InputError(
            f"the {name} are a {type(texts).__name__}: expected a list of texts, such as [text]"
        )
    if isinstance(texts, np.ndarray) and texts.ndim != 1 and texts.shape[1:] != (2,):
        raise InputError(
            f"the {name} are an array of shape {texts.shape}: expected N texts, or N x 2 for pairs"
        )
    return [
        (text[0], text[1]) if isinstance(text, list | np.ndarray) and len(text) == 2 else text
        for text in texts
    ]


def check_pairs(texts: Sequence[Text], name: str, *, paired: bool) -> None:
    """Check that all texts are pairs, or all single texts, as in training.

    Raises:
        InputError: one is not; it is counted from 1.
    """
    kind, other = (tuple, str) if paired else (str, tuple)
    for row, text in enumerate(texts, start=1):
        if isinstance(text, other):
            names = {str: "a single text", tuple: "a pair"}
            raise InputError(
                f"text {row} of the {name} is {names[other]}: expected {names[kind]}, as those of "
                "training are"
            )


def given_labels(labels: Any, name: str) -> list[Label]:
    """Labels or class names as given: all strings, all integers or all booleans.

    NumPy's scalars become Python's, whole floats (as of a table with missing values) integers;
    strings stay as they are, letter for letter.

    Args:
        labels: N of them, in their order.
        name: what to call them in messages.

    Raises:
        InputError: they are no list, not flat (multi-label), one is missing, not whole (regression)
            or of another type, or types are mixed.
    """
    values = np.asarray(labels, dtype=object)
    if values.ndim == 0:
        raise InputError(
            f"the {name} are {show([labels])} ({type(labels).__name__}): expected a list of "
            "strings, integers or booleans"
        )
    if values.ndim > 1:
        raise InputError(
            f"the {name} have shape {values.shape}: expected one class per text; multi-label is "
            "not supported"
        )
    listed = values.tolist()
    check_single_class(listed, f"the {name}")
    missing = [row for row, value in enumerate(listed) if is_missing(value)]
    if missing:
        raise InputError(
            f"the {name}: no label in {show_rows(missing)}; expected one everywhere: fill it in or "
            "leave the row out"
        )
    found = [_given_label(value, name) for value in listed]
    kinds = sorted({type(value).__name__ for value in found})
    if len(kinds) > 1:
        raise InputError(
            f"the {name} mix {' and '.join(kinds)}: expected all strings, all integers or all "
            "booleans: convert them to one type"
        )
    return found


def _given_label(value: object, name: str) -> Label:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        if float(value).is_integer():
            return int(float(value))
        raise InputError(
            f"the {name}: regression is not supported: found {show([value])}, expected classes "
            "(strings, integers or booleans): if these numbers are classes, give them names"
        )
    advice = ": decode them" if isinstance(value, bytes) else ""
    raise InputError(
        f"the {name}: found {show([value])} ({type(value).__name__}), expected strings, integers "
        f"or booleans{advice}"
    )
