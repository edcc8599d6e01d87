"""The configuration of a run: its data, training and folder; from options, YAML or a record."""

import json
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from lpft.choices import SplitProtocol
from lpft.errors import InputError
from lpft.paper import published_hyperparameters
from lpft.runs.output_settings import OutputSettings
from lpft.runs.store import read_record
from lpft.training.settings import TrainingSettings, resolve, setting


@dataclass(frozen=True)
class DataSettings:
    """Where the texts come from: a task by name, or files of the user's own."""

    task: str | None = setting(None, "a task of lpft tasks")
    data_dir: Path | None = setting(
        None,
        "folder of official release files: that of all benchmarks, of one, or of the task "
        "(default: the Hugging Face Hub)",
    )
    template: int = setting(0, "which of the task's input templates to use")
    train_file: Path | None = setting(None, "labelled texts: CSV, TSV, JSON Lines or Parquet")
    validation_file: Path | None = setting(
        None, "as --train-file (default: 10%% of each class of the training file)"
    )
    test_file: Path | None = setting(None, "as --train-file (default: no test split)")
    ood: dict[str, Path] = field(
        default_factory=dict,
        metadata={
            "help": "a labelled file of another distribution, under a name; may be repeated",
            "choices": None,
            "metavar": "NAME=FILE",
        },
    )
    text_columns: tuple[str, ...] | None = setting(
        None, "one column, or two with a comma for pairs (default: the only text column)"
    )
    label_column: str = setting("label", "column of the class names")
    column_names: tuple[str, ...] | None = setting(
        None,
        "names of all columns, with commas, of CSV and TSV files whose first line has none",
    )
    data_name: str | None = setting(
        None, "what data from files is called in records and reports (default: by --train-file)"
    )
    split_protocol: SplitProtocol | None = setting(
        None,
        "paper: the last tenth of the training rows is validation; stratified: a tenth of each "
        "class (default: paper for tasks, stratified for files)",
        get_args(SplitProtocol),
    )
    max_train_samples: int | None = setting(
        None, "train on this many rows at most, drawn by class with a fixed seed (default: all)"
    )
    max_validation_samples: int | None = setting(
        None,
        "choose the epoch and fit the temperature on this many rows at most, drawn alike "
        "(default: all)",
    )


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run's result, with the folder that it goes to."""

    data: DataSettings
    training: TrainingSettings
    output: OutputSettings
    output_dir: Path

    def flat(self) -> dict[str, Any]:
        """All settings by their option's name, ready for JSON; the output folder is left out."""
        merged = asdict(self.data) | asdict(self.training) | asdict(self.output)
        return {name: plain(value) for name, value in merged.items()}

    def hash(self) -> str:
        """SHA-256 of all settings that can change the result.

        Paths and the device's and tracker's names are left out, and so is what is kept: data and
        weights are compared by their own fingerprints.
        """
        flat = self.flat()
        deciding = {name: flat[name] for name in deciding_settings()}
        return sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def deciding_settings() -> list[str]:
    """The names of the settings that :meth:`RunConfig.hash` covers."""
    return [name for name in setting_fields() if name not in _NOT_HASHED]


_NOT_HASHED = frozenset(
    {"model", "data_dir", "train_file", "validation_file", "test_file", "ood", "column_names"}
    | {"device", "data_name", "report_to", "revision", "save_model", "save_features"}
)

RUN_OWNERS: tuple[type, ...] = (DataSettings, TrainingSettings, OutputSettings)
"""The dataclasses of a run's settings."""


def setting_fields(owners: tuple[type, ...] = RUN_OWNERS) -> dict[str, tuple[type, Field, Any]]:
    """Every setting by name: the dataclass that owns it, its field, and its type."""
    found: dict[str, tuple[type, Field, Any]] = {}
    for owner in owners:
        hints = get_type_hints(owner)
        for item in fields(owner):
            found[item.name] = (owner, item, hints[item.name])
    return found


def make_config(values: Mapping[str, Any], output_dir: Path | None = None) -> RunConfig:
    """A resolved configuration from settings by name; what is not named takes its default.

    Values may be text, as on a command line, or typed, as in YAML.

    Raises:
        InputError: an unknown name, a value of a wrong type or out of range, settings that
            contradict each other, or no data named.
    """
    known = setting_fields()
    chosen: dict[type, dict[str, Any]] = {owner: {} for owner in RUN_OWNERS}
    for name, value in values.items():
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else "see lpft train --help"
            raise InputError(f"unknown setting '{name}': {hint}")
        owner, _, kind = known[name]
        chosen[owner][name] = convert(name, value, kind)
    data = _check_data(DataSettings(**chosen[DataSettings]))
    training = TrainingSettings(**chosen[TrainingSettings])
    published = None
    if data.task is not None and data.split_protocol == "paper":
        published = published_hyperparameters(data.task, training.method)
    training = resolve(training, published)
    if Path(training.model).is_dir():
        training = replace(training, model=str(Path(training.model).resolve()))
    if output_dir is None:
        output_dir = default_output_dir(data, training)
    return RunConfig(data, training, OutputSettings(**chosen[OutputSettings]), output_dir)


def read_config(path: Path) -> dict[str, Any]:
    """Settings by name from a YAML file; dashes and underscores in names are the same, and
    ``no-head-bias: true`` is ``head-bias: false``.

    Raises:
        InputError: the file is missing, no YAML, no mapping, or names what is no setting.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"the configuration file '{path}' does not exist: expected a YAML file"
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"the configuration file '{path}' cannot be read ({reason}): expected YAML lines such "
            "as 'method: lp-ft'"
        ) from error
    if not isinstance(values, dict):
        raise InputError(f"'{path}' must hold 'name: value' lines, such as 'method: lp-ft'")
    settings = {str(name).replace("-", "_"): value for name, value in values.items()}
    for name in _ONLY_OPTIONS & settings.keys():
        raise InputError(
            f"'{path}': {name} is no setting of a run: give --{name} on the command line"
        )
    for name in [name for name in settings if name.startswith("no_")]:
        if isinstance(settings[name], bool) and name[3:] not in settings:
            settings[name[3:]] = not settings.pop(name)
    return settings


_ONLY_OPTIONS = frozenset({"overwrite", "json", "config", "debug"})


def collect_settings(
    given: Mapping[str, Any], config: Path | None, folder: Path | None, *, resume: bool
) -> tuple[dict[str, Any], Path | None, bool]:
    """Settings by name, the output folder, and whether its run is resumed.

    Settings are those of the record of a resumed run, then YAML, then options.

    Raises:
        InputError: the record or the YAML file cannot be read, or there is nothing to resume.
    """
    from_file = {} if config is None else read_config(config)
    named_folder = from_file.pop("output_dir", None)
    if folder is None and named_folder is not None:
        folder = convert("output_dir", named_folder, Path).expanduser()
    resume = convert("resume", from_file.pop("resume", resume), bool) or resume
    record = read_record(folder) if resume and folder is not None else None
    if record is None and resume and not (from_file or given):
        raise InputError(
            f"'{folder}' holds no run to go on with: name a run's folder with --output-dir, or "
            "give the data to begin one"
        )
    recorded = {} if record is None else record["config"]
    return {**recorded, **from_file, **given}, folder, resume


def default_output_dir(data: DataSettings, training: TrainingSettings) -> Path:
    """``runs/<data>-<model>-<method>-seed<seed>``."""
    source = data.task if data.task is not None else _stem(data.train_file)
    model = training.model.rstrip("/").rpartition("/")[2]
    return Path("runs") / f"{source}-{model}-{training.method}-seed{training.seed}"


def convert(name: str, value: Any, kind: Any) -> Any:
    """``value`` as the type of setting ``name``.

    Raises:
        InputError: it cannot be one.
    """
    option = "--" + name.replace("_", "-")
    if get_origin(kind) in (Union, UnionType):
        if value is None:
            return None
        kind = next(part for part in get_args(kind) if part is not type(None))
    if kind == dict[str, Path]:
        return _named_paths(option, value)
    if kind == tuple[str, ...]:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
            raise InputError(f"{option} {value!r} must be column names, with commas between them")
        return tuple(part.strip() for part in parts)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise InputError(
                f"{option} {value} is unknown: expected one of {', '.join(get_args(kind))}"
            )
        return value
    if kind is bool:
        if not isinstance(value, bool):
            raise InputError(f"{option} {value!r} must be true or false")
        return value
    expected = {int: "a whole number", float: "a number", Path: "a path", str: "text"}[kind]
    try:
        if isinstance(value, bool | dict | list):
            raise TypeError
        converted = kind(value)
        if kind is int and not isinstance(value, str) and converted != value:
            raise ValueError
    except (TypeError, ValueError) as error:
        raise InputError(f"{option} {value!r} must be {expected}") from error
    return converted


def _named_paths(option: str, value: Any) -> dict[str, Path]:
    if isinstance(value, Mapping):
        return {str(name): convert(option[2:], path, Path) for name, path in value.items()}
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list):
        raise InputError(f"{option} {value!r} must have the form NAME=FILE")
    named = {}
    for part in parts:
        name, equals, path = str(part).partition("=")
        if not (name and equals and path):
            raise InputError(f"{option} {part} must have the form NAME=FILE")
        if name in named:
            raise InputError(f"{option} names '{name}' twice: give each set a name of its own")
        named[name] = Path(path)
    return named


def _check_data(data: DataSettings) -> DataSettings:
    """Exactly one kind of data, with its protocol and absolute paths filled in."""
    files = ("train_file", "validation_file", "test_file", "ood", "data_name")
    columns = ("text_columns", "column_names")
    if data.task is not None:
        extra = [name for name in files + columns if getattr(data, name)]
        if data.label_column != DataSettings.label_column:
            extra.append("label_column")
        if extra:
            raise InputError(
                f"--task {data.task} brings its own data: leave out "
                f"{', '.join('--' + name.replace('_', '-') for name in extra)}, or the task"
            )
    elif data.train_file is None:
        raise InputError("no data is named: give --task NAME (see lpft tasks) or --train-file FILE")
    elif data.data_dir is not None or data.template != 0:
        raise InputError("--data-dir and --template belong to --task: leave them out")
    if data.data_name is not None and not data.data_name.strip():
        raise InputError("--data-name is empty: expected a name, or leave it out")
    for name in ("max_train_samples", "max_validation_samples"):
        most = getattr(data, name)
        if most is not None and most < 2:
            raise InputError(f"--{name.replace('_', '-')} {most} must be at least 2")
    protocol = data.split_protocol
    if protocol is None:
        protocol = "stratified" if data.task is None else "paper"
    return replace(
        data,
        split_protocol=protocol,
        data_dir=_absolute(data.data_dir),
        train_file=_absolute(data.train_file),
        validation_file=_absolute(data.validation_file),
        test_file=_absolute(data.test_file),
        ood={name: path.expanduser().resolve() for name, path in data.ood.items()},
    )


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().resolve()


def _stem(path: Path | None) -> str:
    assert path is not None
    return path.name.partition(".")[0]


def plain(value: Any) -> Any:
    """Paths as strings and tuples as lists, for JSON."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value
