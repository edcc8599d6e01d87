"""Every setting of runs, kernels and experiments, once: name, type, default, help, choices, checks.

Importing this loads neither torch nor transformers.
"""

import json
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import Field, asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from hashlib import sha256
from math import isfinite
from os import PathLike
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from lpft.errors import InputError
from lpft.paper import KERNEL_SAMPLES, MODEL, SEEDS, published_hyperparameters

Pooling = Literal["first", "last", "mean"]
Precision = Literal["float32", "bfloat16", "float16"]
Device = Literal["auto", "cpu", "cuda", "mps"]
ClassWeight = Literal["balanced"]
SplitProtocol = Literal["paper", "stratified"]
KernelKind = Literal["sgd", "signgd", "asymmetric"]
LinearMethod = Literal["auto", "materialize", "token_gram", "sandwich"]
Products = Literal["exact", "tf32", "bfloat16"]
Granularity = Literal["layer", "kind"]
Solver = Literal["paper", "klr", "krr", "logistic", "svc", "svr", "lstsq", "asymmetric"]
ExportFormat = Literal["transformers", "onnx"]


@dataclass(frozen=True)
class Method:
    """One way to train a classifier.

    ``trained`` is ``head`` (nothing but linear probing), ``all``, or the name of an adapter in
    :data:`lpft.model.adapters.ADAPTERS`, whose factors train together with the head.
    """

    name: str
    head_start: Literal["random", "lp"]
    trained: str
    summary: str

    @property
    def fine_tunes(self) -> bool:
        return self.trained != "head"

    @property
    def adapter(self) -> str | None:
        return None if self.trained in ("head", "all") else self.trained


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("lp", "lp", "head", "linear probing: logistic regression on frozen features"),
        Method("ft", "random", "all", "fine-tuning of everything from a random head"),
        Method("lp-ft", "lp", "all", "linear probing, then fine-tuning of everything"),
        Method("lora", "random", "lora", "low-rank factors and a random head"),
        Method("lp-lora", "lp", "lora", "linear probing, then low-rank factors and the head"),
        Method("dora", "random", "dora", "weight-decomposed low-rank factors and a random head"),
        Method("lp-dora", "lp", "dora", "linear probing, then weight-decomposed factors"),
    )
}


def with_lp_head(name: str) -> str | None:
    """The method that trains what ``name`` does from an LP head; None where it does so itself.

    None too where there is no such method, or no method ``name``.
    """
    asked = METHODS.get(name)
    if asked is None or asked.head_start == "lp":
        return None
    return next(
        (m.name for m in METHODS.values() if m.head_start == "lp" and m.trained == asked.trained),
        None,
    )


def get_method(name: str) -> Method:
    """The row of ``name``.

    Raises:
        InputError: there is no such method.
    """
    if name not in METHODS:
        raise InputError(f"unknown method '{name}': expected one of {', '.join(METHODS)}")
    return METHODS[name]


def setting(default: Any, help_text: str, choices: tuple[str, ...] | None = None) -> Any:
    """A dataclass field with the help and choices that the command line shows."""
    return field(default=default, metadata={"help": help_text, "choices": choices})


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is made and trained; None means the default that :func:`resolve` fills in."""

    model: str = setting("minilm", "Hub id, model folder, or 'minilm' for the packaged one")
    revision: str | None = setting(
        None, "branch, tag or commit of a Hub model (default: its main branch)"
    )
    pooling: Pooling | None = setting(
        None, "token or average that is the feature (default: by model)", get_args(Pooling)
    )
    head_bias: bool = setting(True, "give the linear head a bias")
    max_length: int = setting(128, "tokens after which a text is cut")
    method: str = setting("lp-ft", "see lpft methods", tuple(METHODS))
    seed: int = setting(0, "of the random head, the adapter, the dropout and the order of batches")
    epochs: float | None = setting(None, "passes over the training rows (default: 10)")
    batch_size: int | None = setting(None, "rows per step (default: by task and method)")
    learning_rate: float | None = setting(
        None, "AdamW's at the start, decaying linearly to 0 (default: by task and method)"
    )
    weight_decay: float | None = setting(None, "AdamW's decoupled decay (default: 0)")
    head_scale: float | None = setting(
        None, "multiplies the head's weight just before fine-tuning (default: 1)"
    )
    lora_rank: int | None = setting(None, "rank r of the adapter's factors (default: 8)")
    lora_alpha: float | None = setting(None, "the factors are scaled by alpha / r (default: 8)")
    class_weight: ClassWeight | None = setting(
        None,
        "weigh classes by inverse frequency, in probing and fine-tuning alike (default: not)",
        get_args(ClassWeight),
    )
    device: Device = setting("auto", "where to compute", get_args(Device))
    precision: Precision = setting(
        "float32",
        "of the products in fine-tuning; evaluation and prediction are in float32",
        get_args(Precision),
    )
    report_to: str = setting("none", "trackers of Trainer: none, tensorboard, wandb, mlflow, ...")


_FINE_TUNING = {
    "epochs": 10.0,
    "batch_size": 16,
    "learning_rate": 2e-5,
    "weight_decay": 0.0,
    "head_scale": 1.0,
}
_ADAPTER = {"lora_rank": 8, "lora_alpha": 8.0, "learning_rate": 5e-4}


def without_effect(method: str) -> tuple[str, ...]:
    """The settings that a method does not take: of fine-tuning, of an adapter, or of both.

    Raises:
        InputError: there is no such method.
    """
    chosen = get_method(method)
    fine_tuning = () if chosen.fine_tunes else (*_FINE_TUNING, "precision", "report_to")
    factors = () if chosen.adapter is not None else ("lora_rank", "lora_alpha")
    return (*fine_tuning, *factors)


def resolve(
    settings: TrainingSettings, published: dict[str, float] | None = None
) -> TrainingSettings:
    """Fill in every None from ``published`` (a task's hyperparameters) or else the defaults.

    FT and LP-FT share one default rate and batch size, and so do LoRA and LP-LoRA, so that a
    difference between them is a difference of their heads.

    Raises:
        InputError: a setting is of another type or outside its range, or has no effect with the
            chosen method.
    """
    _check_types(settings)
    method = get_method(settings.method)
    defaults: dict[str, Any] = {}
    if method.fine_tunes:
        defaults |= _FINE_TUNING
    if method.adapter is not None:
        defaults |= _ADAPTER
    if published is not None:
        defaults |= published
    for name in without_effect(method.name):
        if getattr(settings, name) != getattr(TrainingSettings, name):
            raise InputError(
                f"--{name.replace('_', '-')} has no effect with --method {method.name} "
                f"({method.summary}): leave it out or choose another method"
            )
    filled = {name: value for name, value in defaults.items() if getattr(settings, name) is None}
    resolved = replace(settings, **filled)
    _check_ranges(resolved)
    return resolved


def check_settings(settings: TrainingSettings) -> None:
    """Check every setting by itself, whatever the method takes.

    Raises:
        InputError: one is of another type or outside its range.
    """
    _check_types(settings)
    get_method(settings.method)
    _check_ranges(settings)


_KINDS: dict[type, tuple[Any, str]] = {
    bool: (bool, "True or False"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: ((str, PathLike), "text"),
}
"""What a setting of a type may be, and how messages call it."""


def _check_types(settings: TrainingSettings) -> None:
    hints = get_type_hints(TrainingSettings)
    for item in fields(settings):
        value, kinds = getattr(settings, item.name), get_args(hints[item.name])
        kinds = kinds if kinds else (hints[item.name],)
        if value is None and type(None) in kinds:
            continue
        # a choice (Literal) is text
        kind = next((kind for kind in (bool, int, float) if kind in kinds), str)
        accepted, expected = _KINDS[kind]
        if not isinstance(value, accepted) or (kind is not bool and isinstance(value, bool)):
            raise InputError(
                f"--{item.name.replace('_', '-')} {value!r} is of type {type(value).__name__}: "
                f"expected {expected}{' or None' if type(None) in kinds else ''}"
            )


def _check_ranges(settings: TrainingSettings) -> None:
    for item in fields(settings):
        value, choices = getattr(settings, item.name), item.metadata["choices"]
        if choices is not None and value is not None and value not in choices:
            raise InputError(
                f"--{item.name.replace('_', '-')} {value} is unknown: expected one of "
                f"{', '.join(choices)}"
            )
    positive = ("max_length", "epochs", "batch_size", "learning_rate", "lora_rank", "lora_alpha")
    for name in positive:
        value = getattr(settings, name)
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"--{name.replace('_', '-')} {value} must be a number above 0")
    for name in ("weight_decay", "head_scale", "seed"):
        value = getattr(settings, name)
        if value is not None and not 0 <= value < float("inf"):
            raise InputError(f"--{name.replace('_', '-')} {value} must be a number of at least 0")
    if settings.seed >= 2**32:
        raise InputError(f"--seed {settings.seed} must be below 2**32")


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
class OutputSettings:
    """Which large files a run keeps."""

    save_model: bool = setting(True, "keep the trained weights in the run's folder")
    save_features: bool = setting(
        False, "keep every text's features before and after training, and the trained head"
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


StrengthRows = Literal["validation", "folds"]

TAKEN_BY: dict[str, tuple[str, ...]] = {
    "strength_by": ("klr", "krr"),
    "strength": ("klr", "krr"),
    "f0_scale": ("klr", "krr", "svr", "lstsq", "asymmetric"),
    "regularization": ("logistic", "svc", "svr", "lstsq", "asymmetric"),
    "gamma": ("asymmetric",),
    "mix": ("asymmetric",),
    "cost": ("svc", "svr"),
    "tube": ("svr",),
    "single_logit": ("logistic", "svc", "svr", "lstsq"),
}
"""The solvers that take each option; None of an option means the solver's own default."""

_ABOVE_ZERO = ("strength", "gamma", "cost")
_AT_LEAST_ZERO = ("regularization", "tube")


@dataclass(frozen=True)
class RegressionSettings:
    """What the solvers of kernel regression are told; :data:`TAKEN_BY` says which of them."""

    strength_by: StrengthRows = setting(
        "validation",
        "klr, krr: the texts that choose the strength lambda, folds of the training texts or the "
        "validation split; folds too where validation is what is predicted",
        get_args(StrengthRows),
    )
    strength: float | None = setting(
        None, "klr, krr: lambda itself, in units of the kernel (default: by --strength-by)"
    )
    f0_scale: float | None = setting(
        None,
        "klr, krr, svr, lstsq, asymmetric: what multiplies the logits f_0 that the fit starts from "
        "(default: 1 of klr and krr, else 0)",
    )
    regularization: float | None = setting(
        None,
        "logistic, svc, svr, lstsq, asymmetric: added to the diagonal of the training kernel, as a "
        "share of its largest singular value (default: 0)",
    )
    gamma: float | None = setting(
        None, "asymmetric: weight of the errors, in units of 1 / kernel (default: 1)"
    )
    mix: float | None = setting(
        None,
        "asymmetric: share of the function of source features, K(x, x_i), in the answer; the rest "
        "is that of target features (default: 0.5)",
    )
    cost: float | None = setting(
        None, "svc, svr: C of the slack variables, in units of 1 / kernel (default: 1)"
    )
    tube: float | None = setting(
        None, "svr: deviation that costs nothing, in units of the targets (default: 0.1)"
    )
    single_logit: bool = setting(
        False,
        "logistic, svc, svr, lstsq: of two classes the difference of the logits instead of both",
    )

    def of(self, solver: str) -> dict[str, Any]:
        """The keywords of :func:`lpft.ntk.regression.regress` that were given for ``solver``."""
        given = {name: getattr(self, name) for name in TAKEN_BY if name != "strength_by"}
        return {
            name: value
            for name, value in given.items()
            if solver in TAKEN_BY[name] and value is not None and value is not False
        }

    def wants_validation(self, solvers: Sequence[str]) -> bool:
        """Whether some solver chooses its strength on validation texts."""
        chooses = bool(set(solvers) & set(TAKEN_BY["strength_by"]))
        return chooses and self.strength is None and self.strength_by == "validation"


def check_regression(settings: RegressionSettings, solvers: Sequence[str], kernel: str) -> None:
    """Refuse options that no chosen solver takes, and values that none can take.

    Raises:
        InputError: the message names the option and what is expected.
    """
    for item in fields(RegressionSettings):
        value, option = getattr(settings, item.name), "--" + item.name.replace("_", "-")
        if value == item.default:
            continue
        takers = TAKEN_BY[item.name]
        if not set(solvers) & set(takers):
            raise InputError(
                f"{option} has no effect with --solver {','.join(solvers) or 'none'}: "
                f"it belongs to {', '.join(takers)}; choose such a solver, or leave it out"
            )
        _check_range(option, item.name, value)
    if settings.strength is not None and settings.strength_by != "validation":
        raise InputError("--strength and --strength-by exclude each other: leave one of them out")
    if settings.single_logit and kernel != "sgd":
        raise InputError(
            f"--single-logit has no kernel of signs: the sign of a difference of gradients is not "
            f"that of each; leave it out of --kernel {kernel}"
        )


def _check_range(option: str, name: str, value: Any) -> None:
    if isinstance(value, float) and not isfinite(value):
        raise InputError(f"{option} {value} must be a finite number")
    if name in _ABOVE_ZERO and value <= 0:
        raise InputError(f"{option} {value} must be a number above 0")
    if name in _AT_LEAST_ZERO and value < 0:
        raise InputError(f"{option} {value} must be a number of at least 0")
    if name == "mix" and not 0 <= value <= 1:
        raise InputError(f"{option} {value} must be a number from 0 to 1")


MODEL_SETTINGS = (
    "model",
    "revision",
    "pooling",
    "head_bias",
    "max_length",
    "seed",
    "head_scale",
    "lora_rank",
    "lora_alpha",
    "class_weight",
    "device",
)
"""The settings of a training that decide the kernel at its start."""

DATA_SETTINGS = tuple(name for name in setting_fields((DataSettings,)) if name != "ood")


@dataclass(frozen=True)
class KernelSettings:
    """Which kernels are computed, how, and what is predicted from them."""

    methods: tuple[str, ...] = setting(
        ("ft", "lora", "lp-ft", "lp-lora"),
        "methods of lpft methods, with commas, whose kernels at the start are computed",
    )
    max_samples: int = setting(
        250, "texts of a split at most, drawn with a fixed seed, each class in proportion"
    )
    kernel: KernelKind = setting(
        "sgd",
        "sgd: the NTK; signgd and asymmetric: with signs of gradients on both sides or one",
        get_args(KernelKind),
    )
    solver: tuple[str, ...] = setting(
        ("paper", "klr"),
        f"of kernel regression, with commas, of {', '.join(get_args(Solver))}; or none",
    )
    granularity: tuple[str, ...] = setting(
        ("layer", "kind"), "parts of F that are kept, with commas: layer, kind; or none"
    )
    linear_method: LinearMethod = setting(
        "auto",
        "how linear weights are contracted; auto takes the cheapest way for each",
        get_args(LinearMethod),
    )
    products: Products = setting(
        "exact",
        "precision of gradients' products; tf32 and bfloat16 are faster and report their error",
        get_args(Products),
    )
    dtype: Literal["float32", "float64"] = setting(
        "float32", "number format of passes and products; sums are float64", ("float32", "float64")
    )
    with_start: bool = setting(
        False, "of a trained run: also the kernel at the start of its training, and their alignment"
    )
    dynamics: int = setting(
        0,
        "training texts on which one step and some tens of steps of gradient descent are made, "
        "beside what the first-order change and the kernel's linear model predict; 0 for none",
    )
    memory: str | None = setting(
        None, "that the process may take in all, such as 6GB (default: half of what is free)"
    )


_OWN = (KernelSettings, RegressionSettings)

KERNEL_OPTIONS = (*DATA_SETTINGS, *MODEL_SETTINGS, *setting_fields(_OWN))
"""The settings that ``lpft ntk`` takes."""

OWNERS = (DataSettings, TrainingSettings, *_OWN)


@dataclass(frozen=True)
class KernelConfig:
    """Everything that decides the kernels of ``lpft ntk``, with the folder that they go to."""

    run: RunConfig
    kernels: KernelSettings
    regression: RegressionSettings
    output_dir: Path

    @property
    def wants_validation(self) -> bool:
        """Whether kernel regression chooses a strength on validation texts."""
        return self.regression.wants_validation(self.kernels.solver)

    def flat(self) -> dict[str, Any]:
        """All settings by their option's name, ready for JSON."""
        given = self.run.flat()
        names = (*DATA_SETTINGS, *MODEL_SETTINGS)
        own = asdict(self.kernels) | asdict(self.regression)
        return {name: given[name] for name in names} | plain(own)


def make_kernel_config(values: Mapping[str, Any], output_dir: Path | None = None) -> KernelConfig:
    """A resolved configuration from settings by name.

    Raises:
        InputError: as :func:`make_config`, an unknown method, solver or part, or
            an option of kernel regression that no chosen solver takes.
    """
    known = setting_fields(_OWN)
    own: dict[type, dict[str, Any]] = {owner: {} for owner in _OWN}
    for name, value in values.items():
        if name in known:
            own[known[name][0]][name] = convert(name, value, known[name][2])
    kernels = _check(KernelSettings(**own[KernelSettings]))
    regression = RegressionSettings(**own[RegressionSettings])
    check_regression(regression, kernels.solver, kernels.kernel)
    others = {name: value for name, value in values.items() if name not in known}
    # The settings of every method's start at once: a scaled head, and an adapter's factors.
    run = make_config({**others, "method": "lp-lora"})
    if output_dir is None:
        name = run.output_dir.name.replace("-lp-lora-seed", "-seed")
        output_dir = Path("kernels") / name
    return KernelConfig(run, kernels, regression, output_dir)


def _check(settings: KernelSettings) -> KernelSettings:
    for method in settings.methods:
        get_method(method)
    if len(set(settings.methods)) < len(settings.methods):
        raise InputError(f"--methods {','.join(settings.methods)} names one twice")
    if settings.max_samples < 2:
        raise InputError(f"--max-samples {settings.max_samples} must be at least 2")
    if settings.dynamics < 0:
        raise InputError(f"--dynamics {settings.dynamics} must be a number of texts, 0 or more")
    if settings.dynamics > 0 and settings.kernel != "sgd":
        raise InputError(
            f"--dynamics are those of gradient descent, not of --kernel {settings.kernel}: leave "
            "one of them out"
        )
    return replace(
        settings,
        solver=_some_of("solver", settings.solver, get_args(Solver)),
        granularity=_some_of("granularity", settings.granularity, get_args(Granularity)),
    )


def _some_of(name: str, given: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    if given == ("none",):
        return ()
    for part in given:
        if part not in known:
            raise InputError(
                f"--{name} {part} is unknown: expected some of {', '.join(known)}, or none"
            )
    return given


MOST_SEED = 2**32


@dataclass(frozen=True)
class ExperimentSettings:
    """How much of the paper's experiment is done; None means what the paper did."""

    model: str = setting(MODEL, "Hub id, model folder, or 'minilm' for the packaged one")
    tasks: tuple[str, ...] | None = setting(
        None, "tasks of lpft tasks, with commas (default: the paper's)"
    )
    methods: tuple[str, ...] | None = setting(
        None, "methods of lpft methods, with commas (default: the paper's)"
    )
    seeds: tuple[str, ...] = setting(
        (str(SEEDS),), "how many seeds (0, 1, ...), or the seeds themselves with commas"
    )
    kernel_samples: int | None = setting(
        None,
        "texts of a split at most whose kernel is computed "
        f"(default: by experiment, mostly {KERNEL_SAMPLES})",
    )
    save_model: bool = setting(False, "keep the trained weights of every run")


RUN_OPTIONS = (
    "revision",
    "data_dir",
    "template",
    "split_protocol",
    "max_train_samples",
    "max_validation_samples",
    "pooling",
    "head_bias",
    "max_length",
    "epochs",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "lora_rank",
    "lora_alpha",
    "class_weight",
    "device",
    "precision",
)
"""The settings of ``lpft train`` that ``lpft reproduce`` hands to every run."""

EXPERIMENT_OPTIONS = (*setting_fields((ExperimentSettings,)), *RUN_OPTIONS)
"""The settings that ``lpft reproduce`` takes."""

EXPERIMENT_OWNERS = (DataSettings, TrainingSettings, ExperimentSettings)


def experiment_settings(given: Mapping[str, Any]) -> ExperimentSettings:
    """The experiment's own settings among those that are given by name.

    Raises:
        InputError: a value of a wrong type, a name twice, or fewer than 2 texts of a kernel.
    """
    known = setting_fields((ExperimentSettings,))
    own = {
        name: convert(name, value, known[name][2]) for name, value in given.items() if name in known
    }
    settings = ExperimentSettings(**own)
    for option in ("tasks", "methods", "seeds"):
        _check_names(option, getattr(settings, option))
    if settings.kernel_samples is not None and settings.kernel_samples < 2:
        raise InputError(f"--kernel-samples {settings.kernel_samples} must be at least 2")
    return settings


def chosen_seeds(given: Sequence[str]) -> tuple[int, ...]:
    """``("3",)`` is the seeds 0, 1 and 2; ``("3", "7")`` these two; ``("3", "")`` the seed 3 alone.

    Raises:
        InputError: no seed, something that is no whole number, one outside 0 to 2^32 - 1, or one
            twice.
    """
    listed = ",".join(given)
    names = given[:-1] if given and not given[-1] else given
    try:
        numbers = tuple(int(name) for name in names)
    except ValueError as error:
        raise InputError(
            f"--seeds {listed} must be a number of seeds, or seeds with commas"
        ) from error
    if len(given) == 1:
        if numbers[0] < 1:
            raise InputError(f"--seeds {numbers[0]}: expected at least one seed")
        return tuple(range(numbers[0]))
    if not all(0 <= number < MOST_SEED for number in numbers):
        raise InputError(f"--seeds {listed}: expected seeds from 0 to 2**32 - 1")
    if len(set(numbers)) < len(numbers):
        raise InputError(f"--seeds {listed} names one twice")
    return numbers


def _check_names(option: str, names: Sequence[str] | None) -> None:
    if names is None:
        return
    listed = ",".join(names)
    if not any(names):
        raise InputError(f"--{option} '{listed}' names nothing: leave it out, or name some")
    if len(set(names)) < len(names):
        raise InputError(f"--{option} {listed} names one twice")


def default_folder(name: str, model: str | None, *, tiny: bool) -> Path:
    """``experiments/<name>-<model>``; of a tiny model that is not named, ``<name>-tiny``."""
    if model is None:
        model = "tiny" if tiny else ExperimentSettings.model
    return Path("experiments") / f"{name}-{model.rstrip('/').rpartition('/')[2]}"
