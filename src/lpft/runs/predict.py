"""Labels and probabilities of new texts by a saved classifier, and where the texts come from."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import file_digest
from itertools import chain, islice
from pathlib import Path
from typing import Any, NoReturn, TextIO

from lpft.data import Text, choose_text_columns, texts_from_table
from lpft.data.reading import (
    Row,
    decode_error,
    has_value,
    iter_rows,
    value_of,
)
from lpft.data.tables import columns_of_training, require_column, table_of, unreadable
from lpft.errors import InputError, named
from lpft.export.onnx_classifier import is_onnx_export, open_onnx
from lpft.progress import visible_progress
from lpft.results.saved import SavedClassifier, columns_error, open_saved
from lpft.settings import Backend, Device, OutputSettings
from lpft.settings.commands import InvalidRows
from lpft.settings.values import Layout

ROWS_AT_ONCE = 1000
"""Texts of a file that are sorted by length and computed together, at most."""
CHARACTERS_AT_ONCE = 4_000_000
"""Characters of such texts, after which no more are added."""
LINES_AT_ONCE = 32
"""Lines of another program that are waited for."""
MOST_NAMES = 10_000
"""Columns that rows of JSON may have altogether, to be named in the first line of a CSV file."""

Prediction = dict[str, Any]
"""``{"label": name, "probabilities": {name: p}}`` with p = softmax(f / T).

At a threshold t also ``"abstained"``, whether max p is below t; the label is there all the same.
"""


def open_backend(
    folder: Path, backend: Backend | None = None, device: Device = "auto"
) -> SavedClassifier:
    """A trained classifier, computed by the library ``backend``.

    ``folder`` is a run's, or that of an export as an ONNX graph, which None computes by ONNX.

    Raises:
        InputError: the folder has no trained classifier or is damaged, the backend cannot compute
            it, or its extra is missing.
    """
    exported = is_onnx_export(folder)
    if backend == "onnx" or (backend is None and exported):
        if device not in ("auto", "cpu"):
            raise InputError(
                f"{named('backend')} onnx computes on the CPU: leave out {named('device')} {device}"
            )
        return open_onnx(folder)
    if exported:
        raise InputError(
            f"'{folder}' is an export as an ONNX graph: leave out {named('backend')} {backend}, or "
            "name the run"
        )
    return open_saved(folder, device)


def predict_texts(
    saved: SavedClassifier,
    texts: Iterable[Text | None],
    at_once: int = ROWS_AT_ONCE,
    *,
    abstain_below: float | None = None,
    top_k: int | None = None,
) -> Iterator[Prediction]:
    """The prediction of each text, in their order, read and computed ``at_once`` at a time.

    Args:
        abstain_below: the threshold at which a prediction says whether the classifier abstains.
        top_k: how many classes it has, the most probable first; all in their own order if None.
    """
    remaining, first = iter(texts), 1
    while chunk := list(islice(remaining, at_once)):
        yield from predict_together(
            saved, chunk, first=first, abstain_below=abstain_below, top_k=top_k
        )
        first += len(chunk)


def predict_together(
    saved: SavedClassifier,
    texts: Sequence[Text | None],
    *,
    first: int = 1,
    abstain_below: float | None = None,
    top_k: int | None = None,
    done: Callable[[int], object] | None = None,
) -> list[Prediction]:
    """As :func:`predict_texts`, all at once; that of None has the same keys, without values.

    ``first`` is the number of the first text for messages; ``done`` is called with the number of
    texts of each batch.
    """
    keys = ("label", "probabilities", *(() if abstain_below is None else ("abstained",)))
    predictions: list[Prediction] = [dict.fromkeys(keys) for _ in texts]
    known = [row for row, text in enumerate(texts) if text is not None]
    if not known:
        return predictions
    with visible_progress(done is None):
        logits = saved.logits(
            [text for text in texts if text is not None],
            rows=[first + row for row in known],
            done=done,
        )
    classes = saved.classes
    table = saved.predicted(logits)
    names = [str(name) for name in classes]
    largest = table.argmax(axis=1).tolist()
    for index, (row, values) in enumerate(zip(known, table.tolist(), strict=True)):
        prediction = predictions[row]
        prediction["label"] = classes[largest[index]]
        probabilities = dict(zip(names, values, strict=True))
        prediction["probabilities"] = most_probable(probabilities, top_k)
        if abstain_below is not None:
            prediction["abstained"] = values[largest[index]] < abstain_below
    return predictions


def most_probable(probabilities: dict[str, float], top_k: int | None) -> dict[str, float]:
    """The ``top_k`` largest, of equal ones the first class first; all if None."""
    if top_k is None:
        return probabilities
    ordered = sorted(probabilities.items(), key=lambda item: -item[1])
    return dict(ordered[:top_k])


def threshold_of(saved: SavedClassifier, settings: OutputSettings) -> float | None:
    """The confidence to abstain below: as wanted, or else the classifier's own, if any.

    For a target it is chosen on the run's own validation predictions.

    Raises:
        InputError: there are no validation predictions, or they cannot promise the accuracy.
    """
    if not settings.threshold:
        return saved.abstain_below
    if settings.abstain_below is not None:
        return settings.abstain_below
    from lpft.analysis import choose_threshold  # SciPy's statistics take half a second to load

    rows = saved.validation()
    chosen = choose_threshold(rows.logits, rows.labels, saved.temperature, **settings.threshold)
    if chosen.abstain_below is None:
        raise InputError(
            f"{named('target_accuracy')} {settings.target_accuracy:g}: {chosen.reason}"
        )
    return chosen.abstain_below


@dataclass(frozen=True, slots=True)
class InputRow:
    """A row of the input: its text, or None and the ``reason`` why it has none.

    ``columns`` are all of its values in a file; ``error`` is the message where it may not occur.
    """

    text: Text | None
    reason: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


class InputFile:
    """The rows of a CSV, TSV, JSON or Parquet file, which is read from end to end before the first.

    So that whatever is wrong with one of them is said before any prediction.

    Args:
        text_columns: as the user names them; None for those of training.
        invalid: with ``"error"`` a row without a text is an error, with None too, for commands
            that leave no choice.
        columns: those that it must have besides, by name or path.

    Attributes:
        names: its columns, in the order in which they occur, at most 10,000.
        count: how many rows it has.

    Raises:
        InputError: the file or a row of it cannot be read, a column is missing, or a row has no
            text and must have one.
    """

    def __init__(
        self,
        saved: SavedClassifier,
        path: Path,
        text_columns: Sequence[str] | None,
        layout: Layout,
        *,
        invalid: InvalidRows | None = None,
        columns: Sequence[str] = (),
    ) -> None:
        self.path, self.layout, self._paired = path, layout, saved.paired
        rows = iter_rows(path, **vars(layout))
        self._state = _file_state(path)
        beginning = list(islice(rows, ROWS_AT_ONCE))
        names = dict.fromkeys(name for row in beginning for name in row)
        table = table_of(beginning, list(names), range(len(beginning)))
        if text_columns is None:
            self.text_columns = columns_of_training(table, saved.text_columns, path)
        else:
            self.text_columns = choose_text_columns(table, text_columns, saved.label_column, path)
        if (len(self.text_columns) == 2) != saved.paired:
            raise columns_error(saved, path, self.text_columns)
        self.count, missing, wrong = 0, set(columns), dict[int, Row]()
        for number, row in enumerate(chain(beginning, rows)):
            if not row.keys() <= names.keys() and len(names) < MOST_NAMES:
                names |= dict.fromkeys(row)
            if missing:
                missing = {name for name in missing if not has_value(row, name)}
            if invalid in (None, "error") and any(
                unreadable(value_of(row, column)) is not None for column in self.text_columns
            ):
                wrong[number] = {name: value_of(row, name) for name in self.text_columns}
                if len(wrong) == ROWS_AT_ONCE:
                    break
            self.count = number + 1
        if wrong:
            self._refuse(wrong, choice=invalid is not None)
        for column in columns:
            if column in missing:
                advice = f"; expected the names of columns after {named('keep_columns')}"
                require_column(table, column, path, advice)
        self.names = list(names)
        self.check_unchanged()

    def rows(self, start: int = 0) -> Iterator[InputRow]:
        """Its rows again, from number ``start`` on."""
        for row in islice(iter_rows(self.path, **vars(self.layout)), start, None):
            parts = [value_of(row, column) for column in self.text_columns]
            reasons = [
                f"column '{column}': {reason}"
                for column, part in zip(self.text_columns, parts, strict=True)
                if (reason := unreadable(part)) is not None
            ]
            if reasons:
                yield InputRow(None, "; ".join(reasons), row)
            else:
                yield InputRow((parts[0], parts[1]) if self._paired else parts[0], None, row)

    def sha256(self) -> str:
        """The hash of its bytes."""
        with self.path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()

    def check_unchanged(self) -> None:
        """Refuse a file that has been written since it was first read.

        Raises:
            InputError: it has.
        """
        if _file_state(self.path) != self._state:
            raise InputError(
                f"{self.path} was changed while it was read: expected one file from beginning to "
                "end: predict again once it is complete, from a copy if it keeps growing"
            )

    def _refuse(self, wrong: Mapping[int, Row], *, choice: bool) -> NoReturn:
        table = table_of(list(wrong.values()), self.text_columns, list(wrong))
        try:
            texts_from_table(table, self.text_columns, self.path)
        except InputError as error:
            if not choice:
                raise
            raise InputError(
                f"{error.args[0]}, or give {named('invalid_rows')} mark or skip"
            ) from error
        raise AssertionError("each of these rows has no text")


def _file_state(path: Path) -> tuple[int, ...] | None:
    """The numbers that change when a file is written; None if it is gone."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def argument_texts(saved: SavedClassifier, texts: Sequence[str]) -> list[Text]:
    """Texts of the command line; for a model of pairs, each two of them are a pair.

    Raises:
        InputError: an odd number of texts for a model of pairs.
    """
    if not saved.paired:
        return list(texts)
    if len(texts) % 2:
        raise InputError(
            "the model was trained on pairs: expected an even number of texts after "
            f"{named('text')}, found {len(texts)}"
        )
    return list(zip(texts[::2], texts[1::2], strict=True))


def line_rows(saved: SavedClassifier, lines: TextIO) -> Iterator[InputRow]:
    """One text per line, or for a model of pairs two with a tab between them.

    A line that is empty, is not of the input's encoding, or is no pair where pairs are expected
    has no text. ``lines`` decodes what is not of its encoding by ``surrogateescape``, so that its
    line can be named.
    """
    encoding = str(lines.encoding).upper().removesuffix("-SIG")
    for number, line in _numbered(lines):
        text = line.rstrip("\r\n")
        parts = text.split("\t") if saved.paired else [text]
        if _is_undecoded(text):
            reason = f"is not {encoding}: expected {encoding} text, or another {named('encoding')}"
        elif not all(part.strip() for part in parts):
            empty = "has an empty text" if text.strip() else "is empty"
            reason = f"{empty}: expected a text per line"
        elif saved.paired and len(parts) != 2:
            fields = "1 field" if len(parts) == 1 else f"{len(parts)} fields"
            reason = (
                f"has {fields}: the model was trained on pairs, so expected two texts "
                "with a tab between them"
            )
        else:
            yield InputRow((parts[0], parts[1]) if saved.paired else text)
            continue
        # the reason stands in the output, where settings have no options' names
        yield InputRow(None, str(InputError(reason)), error=f"line {number} of the input {reason}")


def _is_undecoded(text: str) -> bool:
    undecoded = not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text)
    return undecoded or "\0" in text


def _numbered(lines: TextIO) -> Iterator[tuple[int, str]]:
    try:
        yield from enumerate(lines, start=1)
    except UnicodeError as error:
        undecoded = decode_error(error, "the input", lines.encoding)
        raise InputError(
            f"the input is not {undecoded.encoding}, as its byte-order mark or {named('encoding')} "
            "says: expected UTF-8 text, or its own encoding"
        ) from error


def in_chunks(rows: Iterable[InputRow], at_once: int) -> Iterator[list[InputRow]]:
    """Rows to compute together: ``at_once``, or fewer where their texts are long."""
    chunk: list[InputRow] = []
    characters = 0
    for row in rows:
        chunk.append(row)
        texts = row.text if isinstance(row.text, tuple) else (row.text or "",)
        characters += sum(map(len, texts))
        if len(chunk) == at_once or characters >= CHARACTERS_AT_ONCE:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
