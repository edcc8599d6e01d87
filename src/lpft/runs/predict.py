"""Labels and probabilities of new texts by a saved classifier, in a stream."""

import csv
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, tee
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from scipy.special import softmax

from lpft.data import Label, Text, choose_text_columns, iter_tables, texts_from_table
from lpft.data.labels import show_rows
from lpft.data.tables import columns_of_training, numbered_rows, unreadable
from lpft.data.tokens import tokenize
from lpft.errors import InputError, named
from lpft.files import replace_when_written
from lpft.model.inference import extract_features, head_logits
from lpft.results.saved import SavedClassifier, columns_error
from lpft.settings import OutputSettings
from lpft.settings.files import Layout

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

InvalidRows = Literal["error", "mark", "skip"]
"""What to do with rows of the input that have no text."""

ROWS_AT_ONCE = 1000
"""Texts of a file that are sorted by length and computed together."""
LINES_AT_ONCE = 32
"""Lines of another program that are waited for."""
_OUTPUT_FORMATS = (".jsonl", ".csv")

Prediction = dict[str, Any]
"""``{"label": name, "probabilities": {name: p}}`` with p = softmax(f / T).

At a threshold t also ``"abstained"``, whether max p is below t; the label is there all the same.
"""


def predict_texts(
    saved: SavedClassifier,
    texts: Iterable[Text | None],
    at_once: int = ROWS_AT_ONCE,
    *,
    abstain_below: float | None = None,
) -> Iterator[Prediction]:
    """The prediction of each text, in their order, read and computed ``at_once`` at a time.

    That of None has the same keys, without values. With ``abstain_below`` each says whether the
    classifier abstains.
    """
    keys = ("label", "probabilities", *(() if abstain_below is None else ("abstained",)))
    classes = saved.classifier.model.config.classes
    temperature = saved.classifier.model.config.temperature
    remaining, first = iter(texts), 1
    while chunk := list(islice(remaining, at_once)):
        numbers = [number for number, text in enumerate(chunk, first) if text is not None]
        known = [text for text in chunk if text is not None]
        first += len(chunk)
        if not known:
            yield from (dict.fromkeys(keys) for _ in chunk)
            continue
        tokens = tokenize(
            saved.classifier.tokenizer, known, saved.classifier.max_length, rows=numbers
        )
        features = extract_features(
            saved.classifier.model,
            tokens,
            device=saved.device,
            description="predicting",
        )
        logits = head_logits(saved.classifier.model, features).astype("float64")
        predicted = iter(softmax(logits / temperature, axis=1))
        for text in chunk:
            if text is None:
                yield dict.fromkeys(keys)
                continue
            row = next(predicted)
            prediction: Prediction = {
                "label": classes[int(row.argmax())],
                "probabilities": {
                    str(name): float(p) for name, p in zip(classes, row, strict=True)
                },
            }
            if abstain_below is not None:
                prediction["abstained"] = bool(row.max() < abstain_below)
            yield prediction


def threshold_of(saved: SavedClassifier, wanted: OutputSettings) -> float | None:
    """The confidence to abstain below: as wanted, or else the classifier's own, if any.

    For a target it is chosen on the run's own validation predictions.

    Raises:
        InputError: there are no validation predictions, or they cannot promise the accuracy.
    """
    config = saved.classifier.model.config
    if not wanted.threshold:
        return config.abstain_below
    if wanted.abstain_below is not None:
        return wanted.abstain_below
    from lpft.analysis import choose_threshold  # SciPy's statistics take half a second to load

    rows = saved.validation()
    chosen = choose_threshold(rows.logits, rows.labels, config.temperature, **wanted.threshold)
    if chosen.abstain_below is None:
        raise InputError(f"{named('target_accuracy')} {wanted.target_accuracy:g}: {chosen.reason}")
    return chosen.abstain_below


@dataclass(frozen=True)
class InputRow:
    """A row of the input: its text, or None and the ``reason`` why it has none.

    ``columns`` are all of its values in a file; ``error`` is the message where it may not occur.
    """

    text: Text | None
    reason: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


def file_rows(
    saved: SavedClassifier,
    path: Path,
    text_columns: Sequence[str] | None,
    layout: Layout,
    *,
    invalid: InvalidRows,
) -> Iterator[InputRow]:
    """The rows of a CSV, TSV, JSON Lines or Parquet file, in its order, read as needed.

    With ``invalid="error"`` the whole file is checked before the first of them.

    Raises:
        InputError: the file or a row of it cannot be read; a text column is missing or, with
            ``invalid="error"``, has no text somewhere.
    """

    def tables() -> Iterator[tuple["pd.DataFrame", tuple[str, ...]]]:
        for table in iter_tables(path, ROWS_AT_ONCE, **vars(layout)):
            if text_columns is None:
                columns = columns_of_training(table, saved.text_columns, path)
            else:
                columns = choose_text_columns(table, text_columns, saved.label_column, path)
            if (len(columns) == 2) != saved.paired:
                raise columns_error(saved, path, columns)
            yield table, columns

    if invalid == "error":
        for table, columns in tables():
            texts_from_table(table, columns, path)
    for table, columns in tables():
        for _, values in numbered_rows(table):
            parts = tuple(values[column] for column in columns)
            reasons = [
                f"column '{column}': {reason}"
                for column, part in zip(columns, parts, strict=True)
                if (reason := unreadable(part)) is not None
            ]
            if reasons:
                yield InputRow(None, "; ".join(reasons), values)
            else:
                yield InputRow(parts if saved.paired else parts[0], None, values)


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

    A line that is empty, is not UTF-8, or is no pair where pairs are expected has no text.
    ``lines`` decodes what is not UTF-8 by ``surrogateescape``, so that its line can be named.
    """
    for number, line in _numbered(lines):
        text = line.rstrip("\r\n")
        parts = text.split("\t") if saved.paired else [text]
        if any("\udc80" <= character <= "\udcff" for character in text) or "\0" in text:
            reason = "is not UTF-8: expected UTF-8 text"
        elif not all(part.strip() for part in parts):
            empty = "has an empty text" if text.strip() else "is empty"
            reason = f"{empty}: expected a text per line"
        elif saved.paired and len(parts) != 2:
            reason = (
                f"has {len(parts)} fields: the model was trained on pairs, so expected two texts "
                "with a tab between them"
            )
        else:
            yield InputRow((parts[0], parts[1]) if saved.paired else text)
            continue
        yield InputRow(None, reason, error=f"line {number} of the input {reason}")


def predict_rows(
    saved: SavedClassifier,
    rows: Iterable[InputRow],
    at_once: int,
    *,
    invalid: InvalidRows,
    abstain_below: float | None = None,
) -> Iterator[Prediction]:
    """The prediction of each row of the input.

    What becomes of a row without a text: with ``invalid="error"`` it is an error; with ``mark`` it
    keeps its place, with an empty prediction; with ``skip`` it is left out, and a warning counts
    such rows. With ``mark`` and ``skip`` a prediction has the row's own columns too (those with one
    of the prediction's names as ``input_<name>``), with ``mark`` the ``reason`` last, and with
    ``skip`` the number of the ``row``.

    Raises:
        InputError: a row has no text, with ``invalid="error"``.
    """

    def texts(rows: Iterable[InputRow]) -> Iterator[Text | None]:
        for row in rows:
            if row.text is None and invalid == "error":
                raise InputError(row.error)
            yield row.text

    if invalid == "error":
        yield from predict_texts(saved, texts(rows), at_once, abstain_below=abstain_below)
        return
    of_text, of_output = tee(rows)  # which holds the rows of one chunk
    predictions = predict_texts(saved, texts(of_text), at_once, abstain_below=abstain_below)
    skipped = []
    for number, (row, prediction) in enumerate(zip(of_output, predictions, strict=True), start=1):
        last: dict[str, Any] = {"reason": row.reason} if invalid == "mark" else {"row": number}
        own = {*prediction, *last}
        columns = {f"input_{name}" if name in own else name: v for name, v in row.columns.items()}
        if row.text is None and invalid == "skip":
            skipped.append(number - 1)
            continue
        yield {**columns, **prediction, **last}
    if skipped:
        logger.warning("no prediction of %s, which had no text", show_rows(skipped))


def _numbered(lines: TextIO) -> Iterator[tuple[int, str]]:
    try:
        yield from enumerate(lines, start=1)
    except UnicodeDecodeError as error:
        raise InputError(
            f"the input is not {error.encoding}, as its byte-order mark says: expected UTF-8 text"
        ) from error


def check_prediction_output(path: Path, *, overwrite: bool) -> None:
    """Refuse an output before anything is computed.

    Raises:
        InputError: the file exists, has another ending, or its folder is missing.
    """
    if path.suffix.lower() not in _OUTPUT_FORMATS:
        raise InputError(f"'{path}' must end in one of {', '.join(_OUTPUT_FORMATS)}")
    if path.is_dir():
        raise InputError(f"'{path}' is a folder: name a file with {named('output')}")
    if path.exists() and not overwrite:
        raise InputError(
            f"'{path}' exists: give {named('overwrite=True')} to replace it, or another "
            f"{named('output')}"
        )
    if not path.parent.is_dir():
        raise InputError(
            f"the folder of '{path}' does not exist: make it, or name another {named('output')}"
        )


def save_predictions(
    path: Path, rows: Iterable[Prediction], classes: Sequence[Label], *, abstains: bool = False
) -> None:
    """Write predictions as CSV or JSON lines by the file's ending, whole or not at all.

    A CSV file has the columns ``label`` and ``probability_<class>``, and where the classifier
    ``abstains`` below a threshold ``abstained``, true or false; before and after them whatever else
    the first prediction has.
    """
    try:
        with (
            replace_when_written(path) as temporary,
            temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
        ):
            if path.suffix.lower() == ".csv":
                _write_csv(file, rows, [str(name) for name in classes], abstains=abstains)
            else:
                print_predictions(rows, file)
    except OSError as error:
        raise InputError(
            f"'{path}' cannot be written ({error.strerror}): name another {named('output')}"
        ) from error


def _write_csv(
    file: TextIO, rows: Iterable[Prediction], classes: Sequence[str], *, abstains: bool
) -> None:
    writer = csv.writer(file, lineterminator="\n")
    probabilities = [f"probability_{name}" for name in classes]
    own = ["label", *probabilities, *(["abstained"] if abstains else [])]
    names: list[str] | None = None
    for row in rows:
        predicted = row["probabilities"]
        values = {name: "" if value is None else value for name, value in row.items()}
        values |= dict(zip(probabilities, predicted.values(), strict=True)) if predicted else {}
        if abstains and predicted:
            values["abstained"] = json.dumps(row["abstained"])
        others = [name for name in row if name not in ("label", "probabilities", "abstained")]
        if names is None:
            before = [name for name in others if name not in ("reason", "row")]
            names = [*before, *own, *(name for name in others if name in ("reason", "row"))]
            writer.writerow(names)
        if not set(others) <= set(names):
            raise InputError(
                "the rows of the input have different columns, which a CSV file cannot hold: name "
                f"a .jsonl file with {named('output')}"
            )
        writer.writerow([values.get(name, "") for name in names])
    if names is None:
        writer.writerow(own)


def print_predictions(rows: Iterable[Prediction], stream: TextIO) -> None:
    """One JSON object per line, each written out as it comes."""
    for row in rows:
        # dates and other values of Parquet as text; half of a surrogate pair cannot be written
        line = json.dumps(row, ensure_ascii=False, default=str)
        if not line.isascii() and any("\ud800" <= letter <= "\udfff" for letter in line):
            line = json.dumps(row, default=str)
        stream.write(line + "\n")
        stream.flush()
