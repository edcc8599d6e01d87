"""The records of a run in JSON: one class for each file, which writes it and reads it.

Importing this loads neither torch nor NumPy: a run's folder is looked at before anything is read.
"""

import json
import math
import platform
import re
import subprocess
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cached_property
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from lpft import __version__
from lpft.files import write_json, write_text

if TYPE_CHECKING:
    import torch

Status = Literal["running", "interrupted", "failed", "finished"]
Values = Mapping[str, Any]
"""Numbers and sections of numbers, as JSON has them."""

_PACKAGES = ("torch", "transformers", "peft", "accelerate", "scikit-learn", "numpy")

HISTORY, ERRORS = "history.jsonl", "errors.jsonl"

_BREAKS = re.compile(r"[\t\n\r]+")

Kind = TypeVar("Kind")


class UnusableRecord(Exception):
    """A record cannot be used; the message says what is wrong with which file.

    ``state`` says it in a word: ``damaged``, ``foreign``, or how far an unfinished run got.
    """

    def __init__(self, reason: str, state: str = "damaged") -> None:
        super().__init__(reason)
        self.state = state


class MissingRecord(UnusableRecord):
    """There is no such file."""


class Part(BaseModel):
    """A part of a record; unknown keys are preserved."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)


class Record(Part):
    """A JSON file that its class writes and reads.

    Classes of records with a ``schema`` number say which they read.
    """

    FILE: ClassVar[str]
    SCHEMA: ClassVar[int | None] = None
    WRITER: ClassVar[str] = "lpft train"

    @classmethod
    def read(cls, folder: Path, *, printable: bool = False) -> Self:
        """The record in ``folder``; ``printable`` as for :func:`read_json`.

        Raises:
            UnusableRecord: it is missing, damaged, or of another schema.
        """
        content = read_json(folder / cls.FILE, printable=printable)
        if cls.SCHEMA is not None:
            check_schema(content, cls.FILE, cls.SCHEMA, cls.WRITER)
        return validated(cls, content, cls.FILE)

    def write(self, folder: Path) -> None:
        """Write the file whole, with the fields that are set."""
        write_json(folder / self.FILE, self.as_json())

    def as_json(self) -> dict[str, Any]:
        """The content of the file."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


def number(value: object) -> float | None:
    """A finite number as float; None for anything else, so that a gap stays a gap."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        real = float(value)
    except OverflowError:
        return None
    return real if math.isfinite(real) else None


def _finite(value: Any) -> Any:
    return None if number(value) is None else value


def _inside(name: str) -> str:
    if not is_inside(name):
        raise ValueError("a file outside its folder")
    return name


def is_inside(name: object) -> bool:
    """Whether a file's name in a record stays in the record's folder, whoever wrote it."""
    if not isinstance(name, str) or not name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


Number = Annotated[int | float | None, BeforeValidator(_finite)]
"""A finite number as it stands in a file, None for anything else."""


class DataRecord(Part):
    """What ``run.json`` says of the data that a run was trained on."""

    name: str = ""
    classes: list[bool | int | str] = Field(default_factory=list)
    rows: Mapping[str, int] = Field(default_factory=dict)
    train_class_rows: list[int] = Field(default_factory=list)
    """Training rows of each of ``classes``; none in older records."""
    sources: Mapping[str, Any] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    licence: str | None = None
    paired: bool = False


class Fingerprints(Part):
    """Hashes of the texts and labels of each split, and of the encoder that a run began with."""

    data: Mapping[str, str] = Field(default_factory=dict)
    encoder: str | None = None

    @cached_property
    def flat(self) -> dict[str, str]:
        """Every fingerprint by name, those of splits as ``data/<split>``."""
        encoder = {} if self.encoder is None else {"encoder": self.encoder}
        return encoder | {f"data/{split}": value for split, value in self.data.items()}


class Calibration(Part):
    """The temperature of a run, and why it stayed 1 where it did."""

    temperature: Number = None
    reason: str | None = None


class Checkpoint(Part):
    """The epoch of ``epochs`` that a fine-tuned run kept, and why.

    ``metric`` is the name of what was highest, ``score`` its value on validation;
    ``probe_won`` whether epoch 0, the start from linear probing, was kept; ``note`` says what else
    a reader should know of the choice.
    """

    epoch: Number = None
    epochs: Number = None
    metric: str = "accuracy"
    score: Number = None
    probe_won: bool = False
    note: str | None = None


class Validation(Part):
    """How a run was scored, its epoch chosen and its temperature fitted.

    ``kind`` is ``file``, ``held-out``, ``folds`` or ``paper``; ``rows`` how many were scored;
    ``folds`` how many there were, None for the other kinds.
    """

    kind: str
    rows: int
    folds: int | None = None


class PrecisionRecord(Part):
    """The precision that ``auto`` chose for fine-tuning, and why.

    ``logit_difference`` and ``gradient_difference`` are those of one batch from float32, relative,
    where they were measured; ``units`` what multiplies bfloat16 on the machine, if anything.
    """

    used: str
    reason: str
    units: str | None = None
    logit_difference: Number = None
    gradient_difference: Number = None


class FewerRowsRecord(Part):
    """``during`` what memory ran out, and how many ``rows`` were computed at once from then on."""

    during: str
    rows: int


class CandidateRecord(Part):
    """One of several runs on the same data, in ``folder`` below that of the chosen one.

    ``score`` is its accuracy on the ``rows`` validation rows that all candidates share, with its
    ``standard_error`` and 95 % ``interval``; ``reason`` says why there is none. ``settings`` are
    those that a search chose for it.
    """

    method: str
    seed: int
    folder: Annotated[str, AfterValidator(_inside)]
    settings: dict[str, Any] = Field(default_factory=dict)
    score: Number = None
    standard_error: Number = None
    interval: tuple[Number, Number] | None = None
    nll: Number = None
    rows: int | None = None
    seconds: Number = None
    reason: str | None = None


class StandingRecord(Part):
    """A method beside the best one, as :class:`lpft.analysis.selection.Standing`."""

    method: str
    score: Number = None
    difference: Number = None
    standard_error: Number = None
    eligible: bool = False


class Decision(Part):
    """Whether a run was trained, and why not where it was not."""

    folder: str
    train: bool
    reason: str | None = None


class Selection(Part):
    """How the run in a folder was chosen among ``candidates``, and from which settings.

    ``chosen`` is the folder of the chosen one, None as long as there is none; ``decision`` has the
    runs that were trained or left out, in order: what was decided stays when a run is resumed.
    """

    settings: dict[str, Any]
    rule: str
    chosen: str | None = None
    reason: str | None = None
    candidates: list[CandidateRecord] = Field(default_factory=list)
    standings: list[StandingRecord] = Field(default_factory=list)
    decision: list[Decision] = Field(default_factory=list)


class FindingRecord(Part):
    """A finding about the data of a run (:class:`lpft.data.checks.Finding`), without texts.

    ``rows`` has the numbers of at most 1,000 rows of a split, ``total`` how many there are;
    ``suggested`` the class that fits each of the rows better, of ``label-errors``.
    """

    level: str
    kind: str
    message: str
    rows: Mapping[str, list[int]] = Field(default_factory=dict)
    total: Mapping[str, int] = Field(default_factory=dict)
    suggested: Mapping[str, list[str]] = Field(default_factory=dict)


class RunRecord(Record):
    """``run.json``: what was run, on what, where, and how far it got."""

    FILE = "run.json"

    status: Status
    started: str = ""
    earlier: list[dict[str, Any]] = Field(default_factory=list)
    config: dict[str, Any]
    config_hash: str | None = None
    metric: str = "accuracy"
    data: DataRecord
    seeds: Mapping[str, int] = Field(default_factory=dict)
    fingerprints: Fingerprints | None = None
    findings: list[FindingRecord] = Field(default_factory=list)
    files: list[Annotated[str, AfterValidator(_inside)]] = Field(default_factory=list)
    versions: Mapping[str, str] = Field(default_factory=dict)
    commit: str | None = None
    device: str | None = None
    machine: str | None = None
    threads: int | None = None
    processes: int = 1
    calibration: Calibration = Calibration()
    checkpoint: Checkpoint | None = None
    validation: Validation | None = None
    undertrained: list[str] = Field(default_factory=list)
    probe: dict[str, Any] | None = None
    fewer_rows: list[FewerRowsRecord] = Field(default_factory=list)
    precision: PrecisionRecord | None = None
    timings: Mapping[str, Number] = Field(default_factory=dict)
    selection: Selection | None = None
    finished: str | None = None
    reason: str | None = None

    def updated(self, **changes: Any) -> "RunRecord":
        """A copy with other values of some fields."""
        return self.model_copy(update=changes)

    @property
    def began(self) -> bool:
        """Whether the run read its data and model; otherwise there is nothing to go on from."""
        return self.status != "failed" or self.fingerprints is not None


class RunMetrics(Record):
    """``metrics.json``: T, and the metrics of every split (:func:`lpft.analysis.split_metrics`)."""

    FILE = "metrics.json"
    temperature: float = Field(gt=0)
    splits: dict[str, dict[str, Any]]
    abstention: dict[str, Any] | None = None
    """The threshold to abstain below and what it was chosen for
    (:class:`lpft.analysis.Abstention`); absent where none was asked for."""


class PointRecord(Part):
    """The classifier with the weights ``(1 - alpha) theta_LP + alpha theta_FT``.

    ``temperature`` is its own, ``reason`` why that stayed 1 where it did; ``splits`` as in
    ``metrics.json``. ``difference`` is how much less of the validation rows it gets right than the
    best point, with the ``standard_error`` of that; ``eligible`` whether it is within one.
    """

    alpha: float = Field(ge=0, le=1)
    temperature: float = Field(gt=0)
    reason: str | None = None
    splits: dict[str, dict[str, Any]]
    difference: Number = None
    standard_error: Number = None
    eligible: bool = False


class InterpolationRecord(Record):
    """``interpolation.json``: the points between a run's linear probe and its trained weights.

    ``run`` is the name of the run's folder, ``config`` its settings, ``validation`` what chose the
    point ``chosen`` and fitted the temperatures, and ``own_validation`` whether these rows are the
    run's, which chose its epoch too; ``optimism`` is that of
    :class:`lpft.analysis.selection.PointChoice`. ``fingerprints`` are those of the data and of both
    ends, ``files`` those of the chosen classifier, which lies beside the record.
    """

    FILE = "interpolation.json"
    SCHEMA = 1
    WRITER = "lpft interpolate"

    schema_number: int = Field(SCHEMA, alias="schema")
    run: str
    config_hash: str | None = None
    config: dict[str, Any]
    data: DataRecord
    fingerprints: Fingerprints
    validation: Validation
    own_validation: bool = True
    head_scale: float = 1.0
    rule: str
    points: list[PointRecord] = Field(min_length=2)
    chosen: float
    reason: str
    optimism: Number = None
    files: list[Annotated[str, AfterValidator(_inside)]] = Field(default_factory=list)
    versions: Mapping[str, str] = Field(default_factory=dict)
    commit: str | None = None
    device: str | None = None
    finished: str = ""
    seconds: Number = None

    @property
    def point(self) -> PointRecord:
        """The chosen point."""
        return next(point for point in self.points if point.alpha == self.chosen)

    @property
    def id_split(self) -> str:
        """The split that says how good a point is in distribution: test, or else validation."""
        return "test" if "test" in self.points[0].splits else "validation"

    @property
    def ood_splits(self) -> tuple[str, ...]:
        return tuple(name for name in self.points[0].splits if name.startswith("ood/"))


class InfluentialRow(Part):
    """A training row that speaks for a prediction (``score`` above 0) or against it.

    ``row`` is its number in the user's file, from 1; ``score`` is the sum of the shares of the
    ``head``'s and the ``encoder``'s parameters.
    """

    row: int
    text: str | list[str]
    label: bool | int | str
    score: float
    head: float
    encoder: float


class ExplainedText(Part):
    """A prediction, and the training rows that speak most for it and against it."""

    text: str | list[str]
    label: bool | int | str
    probability: float
    supporting: list[InfluentialRow]
    opposing: list[InfluentialRow]


class DoubtfulLabel(Part):
    """A training row whose label looks wrong.

    ``margin`` is what kernel regression on the other rows gives its label, less the mean of the
    label's rows, in units of the target; ``suggested`` the classifier's most probable other class.
    """

    row: int
    text: str | list[str]
    label: bool | int | str
    suggested: bool | int | str
    margin: float


class ExplanationRecord(Record):
    """``explanations.json``: what ``lpft explain`` says of a run.

    ``labels`` are the doubtful ones, the most doubtful first; None where they were not asked for.
    ``rows`` are the training rows that were read, of ``rows_in_all``; ``parameters`` those of the
    encoder in the kernel.
    """

    FILE = "explanations.json"
    SCHEMA = 1
    WRITER = "lpft explain"

    schema_number: int = Field(SCHEMA, alias="schema")
    run: str
    method: str
    score: str
    rows: int
    rows_in_all: int
    parameters: int
    texts: list[ExplainedText]
    labels: list[DoubtfulLabel] | None = None
    plan: dict[str, Any] | None = None
    files: list[Annotated[str, AfterValidator(_inside)]] = Field(default_factory=list)
    versions: Mapping[str, str] = Field(default_factory=dict)
    commit: str | None = None
    device: str | None = None
    finished: str = ""
    seconds: Number = None


class ErrorRow(Part):
    """A row that a run's classifier gets wrong, one line of ``errors.jsonl``.

    ``row`` is its number in the user's file, from 1; ``label`` None for a class that training
    lacks, and then ``probability``, that of the label, too. ``text`` is cut, and None where texts
    must not leave; of a pair there are two.
    """

    split: str
    row: int
    id: str
    label: bool | int | str | None
    predicted: bool | int | str
    confidence: Number
    probability: Number = None
    text: str | tuple[str, str] | None = None


class RunFeatures(Record):
    """``features.json``: norms of the head, and the feature statistics of every split."""

    FILE = "features.json"
    head: Mapping[str, Number] = Field(default_factory=dict)
    splits: Mapping[str, dict[str, Any]] = Field(default_factory=dict)


def write_history(folder: Path, rows: Iterable[Values]) -> None:
    write_text(folder / HISTORY, "".join(json.dumps(row) + "\n" for row in rows))


def read_history(folder: Path) -> tuple[Values, ...]:
    """The rows that :func:`write_history` wrote.

    Raises:
        UnusableRecord: the file is missing or damaged.
    """
    lines = read_text(folder / HISTORY).splitlines()
    return tuple(
        parsed(line, f"{HISTORY} line {place}")
        for place, line in enumerate(lines, start=1)
        if line.strip()
    )


def write_errors(folder: Path, rows: Iterable[ErrorRow]) -> None:
    lines = (row.model_dump_json(exclude_unset=True) + "\n" for row in rows)
    write_text(folder / ERRORS, "".join(lines))


def read_errors(folder: Path) -> tuple[ErrorRow, ...]:
    """What :func:`write_errors` wrote, by split, the most confident first; none of older runs.

    Raises:
        UnusableRecord: the file is damaged.
    """
    try:
        lines = read_text(folder / ERRORS).split("\n")
    except MissingRecord:
        return ()
    named = ((f"{ERRORS} line {place}", line) for place, line in enumerate(lines, start=1))
    return tuple(validated(ErrorRow, parsed(line, where), where) for where, line in named if line)


def read_json(path: Path, *, printable: bool = False) -> dict[str, Any]:
    """The JSON object in a file; ``printable`` as for :func:`parsed`.

    Raises:
        UnusableRecord: the file is missing, or holds something else.
    """
    return parsed(read_text(path), path.name, printable=printable)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8.

    Raises:
        UnusableRecord: it is missing, or not such text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as problem:
        raise MissingRecord(f"{path.name} does not exist") from problem
    except (OSError, UnicodeDecodeError) as problem:
        raise UnusableRecord(f"{path.name} cannot be read: {problem}") from problem


def parsed(text: str, where: str, *, printable: bool = True) -> dict[str, Any]:
    """A JSON object from its text; ``where`` names its place in messages.

    ``printable``: its texts as :func:`plain` gives them, on one line each, and None for numbers
    that are not finite.

    Raises:
        UnusableRecord: it is something else.
    """
    try:
        value = json.loads(text)
        value = _printable(value) if printable else value
    except (ValueError, RecursionError) as problem:
        raise UnusableRecord(f"{where} is not JSON: {problem}") from problem
    if not isinstance(value, dict):
        raise UnusableRecord(f"{where} is not a JSON object")
    return value


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return plain(_BREAKS.sub(" ", value))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_printable(item) for item in value]
    if isinstance(value, dict):
        return {plain(key): _printable(item) for key, item in value.items()}
    return value


def plain(text: object) -> str:
    """Text from data with control characters and lone surrogates replaced.

    They are not allowed in XML (the figures) or cannot be written as UTF-8.
    """
    return "".join("\N{REPLACEMENT CHARACTER}" if _unprintable(c) else c for c in str(text))


def _unprintable(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Cn") or character in "\u2028\u2029"


def check_schema(record: Values, where: str, schema: int, writer: str) -> None:
    """Refuse a record of another schema; ``writer`` is the command whose records these are."""
    recorded = record.get("schema")
    if recorded != schema:
        reason = f"{where}: schema is {recorded!r}, expected {schema}, which {writer} writes"
        raise UnusableRecord(reason, "foreign")


def validated(kind: type[Kind], content: Any, where: str) -> Kind:
    """The object of a type that JSON content stands for.

    Raises:
        UnusableRecord: it stands for none; the message names the first place that is wrong.
    """
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
        place = "/".join(map(str, first["loc"]))
        raise UnusableRecord(f"{where}: {place}: {first['msg']}") from problem


def environment(device: "torch.device") -> dict[str, Any]:
    """Package versions, the commit of a source checkout, the device and the thread count."""
    import torch

    return {
        "versions": {"python": platform.python_version(), "lpft": __version__}
        | {package: version(package) for package in _PACKAGES},
        "commit": source_commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
    }


def source_commit() -> str | None:
    """The commit that the package runs from, ``-dirty`` if changed; None when installed."""
    folder = Path(__file__).resolve().parent
    try:
        inside = _git(folder, "ls-files", "--error-unmatch", Path(__file__).name)
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    assert inside
    return f"{commit}-dirty" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    result = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return result.stdout.strip()
