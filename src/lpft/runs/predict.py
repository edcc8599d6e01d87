"""Labels and probabilities of new texts by a saved classifier, in a stream."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from scipy.special import softmax

from lpft.analysis import choose_threshold
from lpft.data import Label, Text, choose_text_columns, iter_tables, texts_from_table
from lpft.data.tables import columns_of_training
from lpft.data.tokens import tokenize
from lpft.errors import InputError, named
from lpft.files import replace_when_written
from lpft.model.inference import extract_features, head_logits
from lpft.results.saved import SavedClassifier, columns_error
from lpft.settings import OutputSettings

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
    texts: Iterable[Text],
    at_once: int = ROWS_AT_ONCE,
    *,
    abstain_below: float | None = None,
) -> Iterator[Prediction]:
    """The prediction of each text, in their order, read and computed ``at_once`` at a time.

    With ``abstain_below`` each says whether the classifier abstains.
    """
    classes = saved.classifier.model.config.classes
    temperature = saved.classifier.model.config.temperature
    remaining, first = iter(texts), 1
    while chunk := list(islice(remaining, at_once)):
        tokens = tokenize(
            saved.classifier.tokenizer,
            chunk,
            saved.classifier.max_length,
            rows=range(first, first + len(chunk)),
        )
        first += len(chunk)
        features = extract_features(
            saved.classifier.model,
            tokens,
            device=saved.device,
            description="predicting",
        )
        logits = head_logits(saved.classifier.model, features).astype("float64")
        for row in softmax(logits / temperature, axis=1):
            prediction: Prediction = {
                "label": classes[int(row.argmax())],
                "probabilities": {
                    str(name): float(p) for name, p in zip(classes, row, strict=True)
                },
            }
            if abstain_below is not None:
                prediction["abstained"] = bool(row.max() < abstain_below)
            yield prediction


def threshold_of(saved: SavedClassifier, asked: OutputSettings) -> float | None:
    """The confidence to abstain below: as asked, or else the classifier's own, if any.

    For a target it is chosen on the run's own validation predictions.

    Raises:
        InputError: there are no validation predictions, or they cannot promise the accuracy.
    """
    config = saved.classifier.model.config
    if not asked.threshold:
        return config.abstain_below
    if asked.abstain_below is not None:
        return asked.abstain_below
    rows = saved.validation()
    found = choose_threshold(rows.logits, rows.labels, config.temperature, **asked.threshold)
    if found.abstain_below is None:
        raise InputError(f"{named('target_accuracy')} {asked.target_accuracy:g}: {found.reason}")
    return found.abstain_below


def file_texts(
    saved: SavedClassifier,
    path: Path,
    text_columns: Sequence[str] | None,
    column_names: Sequence[str] | None,
) -> Iterator[Text]:
    """The texts of a CSV, TSV, JSON Lines or Parquet file, in its order, read as needed.

    Raises:
        InputError: the file or a row of it cannot be read; a text column is missing or empty.
    """
    for table in iter_tables(path, ROWS_AT_ONCE, column_names):
        if text_columns is None:
            columns = columns_of_training(table, saved.text_columns, path)
        else:
            columns = choose_text_columns(table, text_columns, saved.label_column, path)
        if (len(columns) == 2) != saved.paired:
            raise columns_error(saved, path, columns)
        yield from texts_from_table(table, columns, path)


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


def line_texts(saved: SavedClassifier, lines: TextIO) -> Iterator[Text]:
    """One text per line, or for a model of pairs two with a tab between them.

    ``lines`` decodes what is not UTF-8 by ``surrogateescape``, so that its line can be named.

    Raises:
        InputError: a line is empty, is not UTF-8, or is no pair where pairs are expected.
    """
    for number, line in _numbered(lines):
        text = line.rstrip("\r\n")
        if any("\udc80" <= character <= "\udcff" for character in text) or "\0" in text:
            raise InputError(f"line {number} of the input is not UTF-8: expected UTF-8 text")
        parts = text.split("\t") if saved.paired else [text]
        if not all(part.strip() for part in parts):
            empty = "has an empty text" if text.strip() else "is empty"
            raise InputError(f"line {number} of the input {empty}: expected a text per line")
        if saved.paired and len(parts) != 2:
            raise InputError(
                f"line {number} of the input has {len(parts)} fields: the model was trained "
                "on pairs, so expected two texts with a tab between them"
            )
        yield (parts[0], parts[1]) if saved.paired else text


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
    ``abstains`` below a threshold ``abstained``, true or false.
    """
    try:
        with (
            replace_when_written(path) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            if path.suffix.lower() == ".csv":
                writer = csv.writer(file, lineterminator="\n")
                last = ["abstained"] if abstains else []
                writer.writerow(["label", *(f"probability_{name}" for name in classes), *last])
                for row in rows:
                    more = [json.dumps(row[name]) for name in last]
                    writer.writerow([row["label"], *row["probabilities"].values(), *more])
            else:
                print_predictions(rows, file)
    except OSError as error:
        raise InputError(
            f"'{path}' cannot be written ({error.strerror}): name another {named('output')}"
        ) from error


def print_predictions(rows: Iterable[Prediction], stream: TextIO) -> None:
    """One JSON object per line, each written out as it comes."""
    for row in rows:
        stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        stream.flush()
