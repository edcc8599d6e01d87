"""Texts as a Python program gives them: in lists, arrays and tables, single or as pairs."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpft.data.examples import Text
from lpft.data.labels import is_missing, show
from lpft.errors import InputError

logger = logging.getLogger(__name__)


def text_list(texts: Any, name: str = "texts") -> list[Text]:
    """A Python program's texts as a list, pairs as tuples of two.

    A pandas, polars or pyarrow table (or an array) of one column holds texts, of two columns pairs.
    Pairs may also be lists of two. What the items are is for :func:`check_texts` to say.

    Args:
        texts: N texts or pairs, in their order.
        name: what to call them in messages.

    Raises:
        InputError: they are one string, a table of more columns, another table or mapping (which
            lists its column names), have no order, are an array of another shape, or are no
            collection.
    """
    kind = type(texts).__name__
    if isinstance(texts, str | bytes):
        raise InputError(f"the {name} are one string: expected a list of texts, such as [text]")
    columns = _columns(texts)
    if columns is not None and len(columns) not in (1, 2):
        names = ", ".join(text_columns(texts) or ())
        raise InputError(
            f"the {name} are a {kind} with {len(columns)} columns ({names}): expected the text "
            "column alone, or for pairs two columns: select them"
        )
    if columns is not None:
        texts = columns[0] if len(columns) == 1 else zip(*columns, strict=True)
    elif hasattr(texts, "to_pylist") and not hasattr(texts, "columns"):  # a column of pyarrow
        texts = texts.to_pylist()
    elif isinstance(texts, Mapping) or hasattr(texts, "columns") or hasattr(texts, "column_names"):
        raise InputError(
            f"the {name} are a {kind}, which lists its column names: expected a list of texts: "
            "take one column, or for pairs list(zip(first, second)) of two"
        )
    if not isinstance(texts, Iterable) or isinstance(texts, set | frozenset):
        raise InputError(f"the {name} are a {kind}: expected a list of texts, such as [text]")
    if isinstance(texts, np.ndarray) and texts.ndim != 1:
        if texts.ndim != 2 or texts.shape[1] not in (1, 2):
            raise InputError(
                f"the {name} are an array of shape {texts.shape}: expected N texts, or N x 2 for "
                "pairs"
            )
        texts = texts[:, 0] if texts.shape[1] == 1 else texts
    return [
        (text[0], text[1]) if isinstance(text, list | np.ndarray) and len(text) == 2 else text
        for text in texts
    ]


def text_columns(texts: Any) -> tuple[str, ...] | None:
    """The names of a table's columns or of a column of one; None for texts without a name."""
    if _columns(texts) is not None:
        names = texts.column_names if hasattr(texts, "column_names") else texts.columns
        return tuple(str(name) for name in names)
    name = getattr(texts, "name", None)
    return (name,) if isinstance(name, str) and name and hasattr(texts, "to_numpy") else None


def check_columns(texts: Any, trained: Sequence[str] | None, name: str = "texts") -> None:
    """Compare a table's columns with those of training, ``trained``.

    Others are taken, as tables call the same thing by many names, but with a warning.

    Raises:
        InputError: a column of training is in the other's place.
    """
    names = text_columns(texts)
    if names is None or trained is None or names == tuple(trained):
        return
    if len(names) == len(trained) == 2 and (names[0] == trained[1] or names[1] == trained[0]):
        raise InputError(
            f"the {name} have the columns {', '.join(names)}: expected {', '.join(trained)}, "
            "in the order of training"
        )
    if _columns(texts) is not None:  # a single column says less: programs rename it at will
        logger.warning(
            "the %s are read from %s, and training read %s",
            name,
            " and ".join(f"'{column}'" for column in names),
            " and ".join(f"'{column}'" for column in trained),
        )


def _columns(table: Any) -> list[list[Any]] | None:
    """The columns of a pandas, polars or pyarrow table; None for anything else."""
    if hasattr(table, "columns") and hasattr(table, "iloc"):
        return [table.iloc[:, number].tolist() for number in range(table.shape[1])]
    if hasattr(table, "get_columns"):
        return [column.to_list() for column in table.get_columns()]
    if hasattr(table, "column_names") and hasattr(table, "columns"):
        return [column.to_pylist() for column in table.columns]
    return None


def check_texts(
    texts: Sequence[Any],
    name: str = "texts",
    *,
    paired: bool | None = None,
    rows: Sequence[int] | NDArray[np.int64] | None = None,
) -> None:
    """Check that all texts are strings that a tokenizer can read, or all are pairs of such.

    Args:
        texts: N of them.
        name: what to call them in messages.
        paired: whether those of training are pairs; None where the first of these decides.
        rows: their numbers for messages, 1 to N by default.

    Raises:
        InputError: one is missing, empty, no string, not valid Unicode, or of the other kind.
    """
    of = "" if name == "texts" else f" of the {name}"
    as_others = "as the first one is" if paired is None else "as those of training are"
    numbers = range(1, len(texts) + 1) if rows is None else rows
    for row, text in zip(numbers, texts, strict=True):
        parts = text if isinstance(text, tuple) else (text,)
        if paired is None:
            paired = isinstance(text, tuple)
        if isinstance(text, tuple) and len(text) != 2:
            raise InputError(
                f"text {row}{of} is a tuple of {len(text)}: expected a string, or a tuple of two "
                "for a pair"
            )
        if isinstance(text, str | tuple) and isinstance(text, tuple) != paired:
            expected, found = ("a pair", "a single text") if paired else ("a single text", "a pair")
            raise InputError(f"text {row}{of} is {found}: expected {expected}, {as_others}")
        for part in parts:
            _check_string(part, f"text {row}{of}")


def _check_string(part: Any, where: str) -> None:
    if isinstance(part, str):
        if not part.strip():
            raise InputError(f"{where} is empty: give it a text or leave the row out")
        try:
            part.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{where} is not valid Unicode: it was decoded wrongly; expected UTF-8"
            ) from error
    elif is_missing(part):
        raise InputError(f"{where} is missing ({part}): give it a text or leave the row out")
    else:
        raise InputError(
            f"{where} is {show([part])}: expected a string, or a tuple of two for a pair"
        )
