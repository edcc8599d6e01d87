"""Predictions of a whole input: the rows of the output, and a file of them that may be resumed.

The file grows under another name in the folder ``OUTPUT.partial`` beside it, and takes its own name
when it is complete. ``job.json`` in that folder records the input, model and options, and
how much of it is safe. The last digits of a prediction depend on the texts that are computed with
it; so a resumed job begins where a chunk of rows did, and ends with the same bytes.
"""

import csv
import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from io import BufferedIOBase, StringIO
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, ClassVar, Self, TextIO

from pydantic import BaseModel, ValidationError

from lpft import __version__
from lpft.data import Label
from lpft.data.labels import show_rows
from lpft.data.reading import value_of
from lpft.errors import InputError, named
from lpft.files import write_json
from lpft.progress import progress
from lpft.results.folder import locked
from lpft.results.formats import duration
from lpft.results.saved import SavedClassifier
from lpft.runs.predict import (
    MOST_NAMES,
    InputFile,
    InputRow,
    Prediction,
    in_chunks,
    predict_together,
)
from lpft.settings.commands import PredictionSettings

logger = logging.getLogger(__name__)

_OUTPUT_FORMATS = (".jsonl", ".csv")
_SECONDS_BETWEEN_RECORDS = 2.0
_SKIPPED_SHOWN = 10
_WORTH_A_LINE = 10_000
"""With at least this many rows on standard output, their rate is logged."""


class OutputRows:
    """The rows of the output, as lines of CSV or JSON.

    Before the prediction come the columns of the input that are kept; after it the ``reason`` of a
    marked row or, where rows are skipped, the number of the ``row``. A column with the name of one
    of these becomes ``input_<name>``.

    Args:
        columns: the names of the input's columns.

    Raises:
        InputError: there are fewer classes than the settings ask for, or too many columns for CSV.
    """

    def __init__(
        self,
        settings: PredictionSettings,
        classes: Sequence[Label],
        columns: Sequence[str] = (),
        *,
        abstain_below: float | None = None,
        output: Path | None = None,
    ) -> None:
        top_k = settings.top_k
        if top_k is not None and top_k > len(classes):
            raise InputError(
                f"{named('top_k')} {top_k}: the model has {len(classes)} classes: expected at most "
                "as many, or leave it out for all"
            )
        if output is not None and len(columns) >= MOST_NAMES and settings.copied_columns == "all":
            raise InputError(
                f"the rows of the input have {MOST_NAMES:,} different columns or more: name those "
                f"to keep with {named('keep_columns')}"
            )
        self.settings, self.abstain_below = settings, abstain_below
        self._csv = output is not None and output.suffix.lower() == ".csv"
        if not self._csv:
            probabilities = ["probabilities"]
        elif top_k is None:
            probabilities = [f"probability_{name}" for name in classes]
        else:
            pairs = [(f"class_{rank}", f"probability_{rank}") for rank in range(1, top_k + 1)]
            probabilities = [name for pair in pairs for name in pair]
        self._extra = {"error": None, "mark": "reason", "skip": "row"}[settings.invalid_rows]
        self._results = [
            *("label", *probabilities),
            *(() if abstain_below is None else ("abstained",)),
            *(() if self._extra is None else (self._extra,)),
        ]
        copied = columns if settings.copied_columns == "all" else settings.copied_columns
        self._copied = {column: self._free_name(column, copied) for column in copied}
        self._same_names = settings.copied_columns == "all" and all(
            name == column for column, name in self._copied.items()
        )
        # json.dumps would make one on every call; dates and other values of Parquet become text.
        self._encode = json.JSONEncoder(ensure_ascii=False, default=str, allow_nan=False).encode

    def _free_name(self, column: str, columns: Sequence[str]) -> str:
        name = column
        while name in (*self._results, "probabilities") or (name != column and name in columns):
            name = f"input_{name}"
        return name

    def header(self) -> str:
        """The first line of a CSV file; nothing of JSON."""
        return _csv_lines([[*self._copied.values(), *self._results]]) if self._csv else ""

    def lines(self, rows: Sequence[InputRow], predictions: Sequence[Prediction], first: int) -> str:
        """The lines of rows that are numbered from ``first`` on, without those to be skipped."""
        skip = self.settings.invalid_rows == "skip"
        written = [
            (row, prediction, row.reason if self._extra == "reason" else number)
            for number, (row, prediction) in enumerate(zip(rows, predictions, strict=True), first)
            if row.text is not None or not skip
        ]
        if self._csv:
            text = _csv_lines(self._cells(*one) for one in written)
            return text.encode(errors="backslashreplace").decode()
        return "".join(_utf8(self._line(self._entries(*one))) + "\n" for one in written)

    def _line(self, entries: dict[str, Any]) -> str:
        try:
            return self._encode(entries)
        except ValueError:  # JSON has no NaN, which Parquet has for what is missing
            return self._encode(_finite(entries))

    def _entries(
        self, row: InputRow, prediction: Prediction, extra: str | int | None
    ) -> dict[str, Any]:
        if self._same_names:
            columns = row.columns
        elif self.settings.copied_columns == "all":
            columns = {self._copied.get(name, name): value for name, value in row.columns.items()}
        else:
            columns = {name: value_of(row.columns, column) for column, name in self._copied.items()}
        return {**columns, **prediction, **({} if self._extra is None else {self._extra: extra})}

    def _cells(self, row: InputRow, prediction: Prediction, extra: str | int | None) -> list[Any]:
        cells = [_cell(value_of(row.columns, column)) for column in self._copied]
        results = [_cell(prediction["label"])]
        probabilities = prediction["probabilities"]
        if probabilities is None:
            results += [""] * (len(self._results) - 1)
        elif self.settings.top_k is None:
            results += probabilities.values()
        else:
            results += [cell for pair in probabilities.items() for cell in pair]
        if probabilities is not None and self.abstain_below is not None:
            results.append(_cell(prediction["abstained"]))
        if self._extra is not None:
            results = [*results[: len(self._results) - 1], _cell(extra)]
        return cells + results


def _finite(value: Any) -> Any:
    """A value with None in place of the numbers in it that are not finite."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _utf8(line: str) -> str:
    """A line of JSON in which half a surrogate pair, which UTF-8 cannot encode, is escaped."""
    if line.isascii():
        return line
    try:
        line.encode()
    except UnicodeEncodeError:
        return json.dumps(json.loads(line))
    return line


def _cell(value: Any) -> Any:
    """A value as a cell of CSV: what is neither text nor number is written as JSON."""
    if value is None:
        return ""
    return json.dumps(value, default=str) if isinstance(value, bool | dict | list) else value


def _csv_lines(rows: Iterable[Sequence[Any]]) -> str:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def predicted_chunks(
    saved: SavedClassifier,
    rows: Iterable[InputRow],
    at_once: int,
    output: OutputRows,
    *,
    first: int = 1,
    total: int | None = None,
) -> Iterator[tuple[str, list[InputRow]]]:
    """The lines of the output, and the rows of the input that they belong to, chunk by chunk.

    Args:
        first: the number of the first row.
        total: how many rows there are, where that is known.

    Raises:
        InputError: a row has no text and must have one.
    """
    with progress(description="predicting", total=total, unit=" rows") as bar:
        bar.n = bar.initial = first - 1
        for chunk in in_chunks(rows, at_once):
            texts = [row.text for row in chunk]
            for row in chunk:
                if row.text is None and output.settings.invalid_rows == "error":
                    raise InputError(row.error)
            predictions = predict_together(
                saved,
                texts,
                first=first,
                abstain_below=output.abstain_below,
                top_k=output.settings.top_k,
                done=bar.update,
            )
            bar.update(texts.count(None))
            yield output.lines(chunk, predictions, first), chunk
            first += len(chunk)


@dataclass(frozen=True)
class Counts:
    """How many rows of the input have been predicted or skipped; the first that were skipped."""

    rows: int = 0
    skipped: int = 0
    first_skipped: tuple[int, ...] = ()

    def plus(self, chunk: Sequence[InputRow]) -> "Counts":
        wrong = [number for number, row in enumerate(chunk, self.rows) if row.text is None]
        first = (*self.first_skipped, *wrong)[:_SKIPPED_SHOWN]
        return Counts(self.rows + len(chunk), self.skipped + len(wrong), first)

    def report(self, settings: PredictionSettings, seconds: float | None, before: int = 0) -> None:
        """Log what was skipped and, with the ``seconds`` of the rows after ``before``, the rate."""
        if self.skipped > 0 and settings.invalid_rows == "skip":
            rows = show_rows(self.first_skipped, self.skipped)
            logger.warning("no prediction for %s, which had no valid text", rows)
        if seconds is not None:
            rows_done = self.rows - before
            logger.info(
                "%s rows in %s: %s rows per second",
                f"{rows_done:,}",
                duration(seconds),
                f"{rows_done / max(seconds, 1e-6):,.0f}",
            )


def print_predictions(
    chunks: Iterable[tuple[str, list[InputRow]]], stream: TextIO, settings: PredictionSettings
) -> None:
    """Write the lines of predictions, each chunk as soon as it is there."""
    started, counts = perf_counter(), Counts()
    for text, rows in chunks:
        stream.write(text)
        stream.flush()
        counts = counts.plus(rows)
    seconds = perf_counter() - started
    counts.report(settings, seconds if counts.rows >= _WORTH_A_LINE else None)


# A file of predictions, which grows beside its place

_ROWS = "rows.unfinished"


class JobRecord(BaseModel):
    """``job.json``: which job the unfinished file belongs to, and how much of it is safe."""

    FILE: ClassVar = "job.json"

    input: str
    input_sha256: str | None = None
    """None for an input that cannot be read again, such as standard input."""
    model: str
    model_sha256: str | None = None
    options: dict[str, Any] = {}
    version: str = __version__
    replaces: bool = False
    """Whether the output may replace a file."""
    counts: Counts = Counts()
    """The rows whose predictions are in the first ``bytes``; ``sha256`` is the hash of these."""
    bytes: int = 0
    sha256: str = sha256().hexdigest()
    finished: bool = False

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """That of a folder; None where there is none.

        Raises:
            InputError: it is damaged.
        """
        path = folder / cls.FILE
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValidationError, OSError) as error:
            raise InputError(
                f"'{path}' is damaged, so the predictions beside it cannot be resumed: give "
                f"{named('overwrite=True')} to start again"
            ) from error

    def differences(self, other: Self) -> list[str]:
        """The differences between two jobs that change the result, in words."""
        words = []
        if self.input_sha256 != other.input_sha256:
            same = self.input == other.input
            words.append(
                f"the input '{self.input}' has changed"
                if same
                else f"the input was '{self.input}', and '{other.input}' has other contents"
            )
        if self.model_sha256 != other.model_sha256:
            if self.model != other.model:
                words.append(f"the model was that of '{self.model}', not of '{other.model}'")
            elif self.options.get("backend") == other.options.get("backend"):
                # each library has fingerprints of its own of one model
                words.append(f"the model in '{self.model}' has changed")
        words += [
            f"{named(name)} was {_in_words(self.options.get(name))}, now {_in_words(value)}"
            for name, value in other.options.items()
            if self.options.get(name) != value
        ]
        if self.version != other.version:
            words.append(f"lpft was {self.version}, now {other.version}")
        return words


def _in_words(value: Any) -> str:
    if value is None:
        return "not given"
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def unfinished_folder(path: Path) -> Path:
    """The folder in which an output grows."""
    return path.with_name(f"{path.name}.partial")


def check_prediction_output(
    path: Path, source: Path | None = None, *, resume: bool = False, overwrite: bool = False
) -> None:
    """Refuse an output before anything is computed.

    Args:
        source: the file that is read.

    Raises:
        InputError: the file or an unfinished job of it exists and is neither resumed nor replaced,
            it has another ending, it is the input, or its folder is missing.
    """
    if path.suffix.lower() not in _OUTPUT_FORMATS:
        raise InputError(f"'{path}' must end in one of {', '.join(_OUTPUT_FORMATS)}")
    if path.is_dir():
        raise InputError(f"'{path}' is a folder: name a file with {named('output')}")
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise InputError(f"'{path}' is the input itself: name another {named('output')}")
    if resume and overwrite:
        raise InputError(
            f"{named('resume=True')} and {named('overwrite=True')} contradict each other: give one"
        )
    folder = unfinished_folder(path)
    begun = (folder / JobRecord.FILE).exists()
    if begun and not (resume or overwrite):
        raise InputError(
            f"'{folder}' has predictions of a job that has not finished: give "
            f"{named('resume=True')} to go on with it, {named('overwrite=True')} to start again, "
            f"or another {named('output')}"
        )
    if path.exists() and not overwrite and not (resume and begun):
        raise InputError(
            f"'{path}' exists{' and is finished' if resume else ''}: give "
            f"{named('overwrite=True')} to replace it, or another {named('output')}"
        )
    if not path.parent.is_dir():
        raise InputError(
            f"the folder of '{path}' does not exist: make it, or name another {named('output')}"
        )


def save_predictions(
    saved: SavedClassifier,
    source: InputFile | Iterable[InputRow],
    at_once: int,
    output: OutputRows,
    path: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Write predictions to ``path``, whole or not at all.

    The predictions of a file by a stopped job stay in :func:`unfinished_folder`; with ``resume``
    it is continued.

    Raises:
        InputError: a row has no text and must have one, the file cannot be written or the input
            changes meanwhile, another process writes it, or the unfinished job is another one.
    """
    job = _job_of(saved, source, output)
    job.replaces = overwrite
    with _claimed(unfinished_folder(path)) as folder:
        record = JobRecord.read(folder) if resume else None
        if record is None:
            _refuse_others(folder)
            record = job
        elif words := record.differences(job):
            raise InputError(
                f"'{folder}' has predictions of another job ({'; '.join(words)}): resume it as it "
                f"was, or give {named('overwrite=True')} to start again"
            )
        if record.finished and path.exists() and not (folder / _ROWS).exists():
            _remove(folder)  # it was stopped after the file got its name, before this clean-up
            return
        _predict_into(folder, path, record, saved, source, at_once, output)


def _predict_into(
    folder: Path,
    path: Path,
    record: JobRecord,
    saved: SavedClassifier,
    source: InputFile | Iterable[InputRow],
    at_once: int,
    output: OutputRows,
) -> None:
    """Predict the rows that the record lacks, and give the file its name."""
    before, started = record.counts.rows, perf_counter()
    total = None
    rows: Iterable[InputRow]
    if isinstance(source, InputFile):
        total, rows = source.count, source.rows(before)
    else:
        rows = source
    with _writing(path):
        file = _GrowingFile(folder, record)
    try:
        if record.bytes == 0:
            with _writing(path):
                file.add(output.header(), [])
        chunks = predicted_chunks(saved, rows, at_once, output, first=before + 1, total=total)
        for text, chunk in chunks:
            if isinstance(source, InputFile):
                source.check_unchanged()
            with _writing(path):
                file.add(text, chunk)
                file.record_now_and_then()
        with _writing(path):
            file.record(finished=True)
            if path.exists() and not record.replaces:
                raise InputError(
                    f"'{path}' was written meanwhile: its predictions are complete in "
                    f"'{folder / _ROWS}': move one of the two, then give {named('resume=True')}"
                )
            file.close()
            (folder / _ROWS).replace(path)
            _remove(folder)
    except BaseException:
        file.stop()
        on_disk = file.record_on_disk
        if on_disk.counts.rows == 0 or on_disk.input_sha256 is None:
            _remove(folder)
        elif (folder / _ROWS).exists():
            logger.info("%s rows are kept in '%s' for --resume", f"{on_disk.counts.rows:,}", folder)
        raise
    file.counts.report(output.settings, perf_counter() - started, before)


class _GrowingFile:
    """The unfinished file, open for writing after the last byte of its record.

    ``record_on_disk`` is what a resumed job would find.
    """

    def __init__(self, folder: Path, record: JobRecord) -> None:
        path = folder / _ROWS
        if record.bytes > 0:
            digest = _hash_of(path, record.bytes)
            if digest.hexdigest() != record.sha256:
                raise InputError(
                    f"'{path}' is damaged: its first {record.bytes:,} bytes are not those that "
                    f"were written: give {named('overwrite=True')} to start again"
                )
            self._file: BufferedIOBase = path.open("r+b")
            self._file.truncate(record.bytes)
            self._file.seek(record.bytes)
        else:
            digest = sha256()
            write_json(folder / JobRecord.FILE, record.model_dump())
            self._file = path.open("wb")
        self._folder, self.record_on_disk = folder, record
        self._recorded = -_SECONDS_BETWEEN_RECORDS
        self._state = (digest, record.bytes, record.counts)

    @property
    def counts(self) -> Counts:
        return self._state[2]

    def add(self, text: str, chunk: Sequence[InputRow]) -> None:
        """Write the lines of these rows of the input."""
        data = text.encode()
        digest, length, counts = self._state
        digest = digest.copy()
        digest.update(data)
        self._file.write(data)
        # in one step: a write that was interrupted before it is cut off on resuming
        self._state = (digest, length + len(data), counts.plus(chunk))

    def record_now_and_then(self) -> None:
        """Sync to disk and record what has been written, every few seconds."""
        if monotonic() - self._recorded >= _SECONDS_BETWEEN_RECORDS:
            self.record()
            self._recorded = monotonic()

    def record(self, *, finished: bool = False) -> None:
        """Sync to disk and record what has been written."""
        self._file.flush()
        os.fsync(self._file.fileno())
        digest, length, counts = self._state
        written = {"counts": counts, "bytes": length, "sha256": digest.hexdigest()}
        record = self.record_on_disk.model_copy(update={**written, "finished": finished})
        write_json(self._folder / JobRecord.FILE, record.model_dump())
        self.record_on_disk = record

    def close(self) -> None:
        self._file.close()

    def stop(self) -> None:
        """Sync and record as much as the disk still takes."""
        if not self._file.closed:
            with suppress(OSError):
                self.record(finished=self.record_on_disk.finished)
            with suppress(OSError):
                self._file.close()


def _hash_of(path: Path, length: int) -> Any:
    """SHA-256 of the first bytes of a file; that of fewer where it is shorter or missing."""
    digest = sha256()
    with suppress(FileNotFoundError), path.open("rb") as file:
        while length > 0 and (block := file.read(min(length, 1 << 20))):
            digest.update(block)
            length -= len(block)
    return digest


def _job_of(
    saved: SavedClassifier, source: InputFile | Iterable[InputRow], output: OutputRows
) -> JobRecord:
    """Everything that determines the bytes of the output."""
    model = str(saved.folder.resolve())
    if not isinstance(source, InputFile):
        return JobRecord(input="standard input or texts", model=model)
    options = {
        "text_columns": list(source.text_columns),
        **vars(source.layout),
        "keep_columns": output.settings.copied_columns,
        "top_k": output.settings.top_k,
        "invalid_rows": output.settings.invalid_rows,
        "abstain_below": output.abstain_below,
        "device": saved.device_type,
        "backend": saved.backend,
    }
    return JobRecord(
        input=str(source.path.resolve()),
        input_sha256=source.sha256(),
        model=model,
        model_sha256=saved.fingerprint(),
        options=json.loads(json.dumps(options)),
    )


@contextmanager
def _claimed(folder: Path) -> Iterator[Path]:
    """The folder of an unfinished output, for this process alone."""
    try:
        with locked(folder, "predicting into", "output"):
            yield folder
    finally:
        with suppress(OSError):  # it is not empty where something is to be resumed
            folder.rmdir()


def _refuse_others(folder: Path) -> None:
    """Remove an older job's files; refuse a folder with other ones."""
    own = {".lock", JobRecord.FILE, _ROWS}
    others = sorted(path.name for path in folder.iterdir() if path.name not in own)
    others = [name for name in others if not name.endswith(".partial")]
    if others:
        raise InputError(
            f"'{folder}' contains files that are not those of unfinished predictions "
            f"({others[0]}): name another {named('output')}"
        )
    _remove(folder)


def _remove(folder: Path) -> None:
    """Remove the files of a job, its record last."""
    for path in folder.glob(f".{JobRecord.FILE}.*.partial"):
        path.unlink(missing_ok=True)
    for name in (_ROWS, JobRecord.FILE):
        (folder / name).unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"'{path}' cannot be written ({error.strerror}): make room or name another "
            f"{named('output')}"
        ) from error
