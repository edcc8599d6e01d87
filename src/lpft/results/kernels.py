"""``kernels.json`` and the tensors beside it: methods, their kernels, numbers that may lack."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from lpft.errors import InputError
from lpft.ntk.statistics import FTRatio, ft_ratio
from lpft.results.collect import UnreadFolder, folders_with, read_folders
from lpft.results.groups import method_name, model_name
from lpft.results.schema import (
    Record,
    UnusableRecord,
    check_schema,
    number,
    numbers,
    plain,
    read_record,
    section,
    text,
    texts,
)

KERNEL_RECORD = "kernels.json"
SCHEMA = 1
_ROUNDING = 1.01  # room for lower precision, as of a kernel in bfloat16
_HEAT_MAPS = "train/heat_map/"
_LABELS = {"train": "train/labels", "eval": "eval/labels"}


Values = tuple[float | None, ...]


PRETRAIN, FT, NTK = "pretrain_effective", "ft_effective", "ntk"
KERNEL_NAMES = {PRETRAIN: "P", FT: "F", NTK: "P + F"}
RULE_NAMES = {"sgd": "SGD", "signgd": "SignGD", "asymmetric": "asymmetric SignGD"}
PAPER, PAPER_TEXTS, LOGISTIC = "paper", "paper per text", "kernel_logistic_regression"
SOLVER_NAMES = {
    PAPER: "Paper's protocol",
    PAPER_TEXTS: "Paper's protocol, per text",
    "logistic": "Logistic regression on rows",
    "svc": "SVC",
    "svr": "SVR",
    "lstsq": "Least squares",
    "asymmetric": "Asymmetric least squares",
}
FIRST_SOLVERS = (PAPER, PAPER_TEXTS, LOGISTIC)
"""Those whose accuracies the table of statistics has."""


_ARRAYS = ("pretrain_effective", "ft_effective", "labels", "logits")


@dataclass(frozen=True)
class Accuracies:
    """Kernel regression by one solver, fractions; ``constant`` is what a constant answer scores."""

    train: float | None
    test: float | None
    constant: float | None


@dataclass(frozen=True)
class KernelStatistics:
    """Statistics of one NC x NC kernel; ``singular_values`` are divided by the largest."""

    rank: float | None
    rank_tolerance: float | None
    frobenius_norm: float | None
    trace: float | None
    largest_singular_value: float | None
    singular_values: NDArray[np.float64]
    regression: Mapping[str, Accuracies]

    def same_matrix(self, other: "KernelStatistics") -> bool:
        """Whether both can be of one matrix: all but the regression agrees, up to rounding."""
        pairs = (
            (self.rank, other.rank),
            (self.frobenius_norm, other.frobenius_norm),
            (self.trace, other.trace),
            (self.largest_singular_value, other.largest_singular_value),
        )
        return all(
            one == two or (one is not None and two is not None and isclose(one, two, rel_tol=1e-9))
            for one, two in pairs
        )


@dataclass(frozen=True)
class Share:
    """What a layer, or a kind of parameter, adds to F."""

    trace: float | None
    frobenius_norm: float | None


@dataclass(frozen=True)
class FirstOrderError:
    """Relative error of the predicted change after one step of a rate; None where nothing moved."""

    rate: float
    logits: float | None
    features: float | None


@dataclass(frozen=True)
class Trajectory:
    """Training of one set of texts: error of the linear model's change, and the NLL of both."""

    error: Values
    real: Values
    linearized: Values


@dataclass(frozen=True)
class Dynamics:
    """One step at several rates, and many steps of one rate on ``rows`` texts of each set.

    ``trajectories`` are by set of texts (``train`` and ``eval``), each with a value for each of
    ``steps``; without any where the real training failed.
    """

    rows: Mapping[str, float]
    first_order: tuple[FirstOrderError, ...]
    rate: float | None
    steps: tuple[int, ...]
    trajectories: Mapping[str, Trajectory]


@dataclass(frozen=True)
class MethodRecord:
    """The kernels of one method; ``heat_maps`` [N, N] are in the order of the data.

    ``parameter_set`` is what F is over: everything, an adapter's factors, or nothing.
    """

    method: str
    head_start: str | None
    head_rank: float | None
    head_norm: float | None
    parameters: float | None
    ft_ratio: float | None
    kernels: Mapping[str, KernelStatistics]
    layers: Mapping[str, Share]
    kinds: Mapping[str, Share]
    certificate: Mapping[str, float]
    products_error: float | None
    heat_maps: Mapping[str, NDArray[np.float64]]
    parameter_set: str | None = None
    dynamics: Dynamics | None = None

    @property
    def name(self) -> str:
        return method_name(self.method)


@dataclass(frozen=True)
class Alignment:
    """CKA of every pair of named kernels; None where one of them does not vary."""

    kernels: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class KernelRecord:
    """One ``kernels.json`` with the heat maps and labels of the files beside it.

    ``problems`` says which of these files could not be used.
    """

    folder: Path
    name: str
    data_name: str
    classes: tuple[str, ...]
    rows: Mapping[str, int]
    eval_split: str | None
    model: str
    rule: str
    dtype: str | None
    seed: float | None
    max_length: float | None
    methods: tuple[MethodRecord, ...]
    alignment: Alignment | None
    config: Record
    plan: Record
    timings: Mapping[str, float]
    environment: Record
    labels: Mapping[str, NDArray[np.int64]]
    problems: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        rule = RULE_NAMES.get(self.rule, self.rule)
        return f"{self.data_name} · {model_name(self.model)} · {rule}"

    @property
    def size(self) -> int | None:
        """NC, the rows of each kernel of training samples."""
        return self.rows["train"] * len(self.classes) if "train" in self.rows else None

    @cached_property
    def pretrain(self) -> tuple[tuple[tuple[MethodRecord, ...], KernelStatistics], ...]:
        """Each different P with the methods that have it: one, where all have a head bias."""
        found: list[tuple[list[MethodRecord], KernelStatistics]] = []
        for method in self.methods:
            statistics = method.kernels.get(PRETRAIN)
            if statistics is None:
                continue
            same = next((owners for owners, s in found if s.same_matrix(statistics)), None)
            if same is None:
                found.append(([method], statistics))
            else:
                same.append(method)
        return tuple((tuple(owners), statistics) for owners, statistics in found)

    def owners_name(self, owners: tuple[MethodRecord, ...]) -> str:
        """``all methods``, or the methods' names."""
        if len(owners) == len(self.methods) > 1:
            return "all methods"
        return ", ".join(method.name for method in owners)

    @property
    def solvers(self) -> tuple[str, ...]:
        """Solvers of kernel regression that some kernel has, the paper's protocol first."""
        found = dict.fromkeys(
            solver
            for method in self.methods
            for statistics in method.kernels.values()
            for solver in statistics.regression
        )
        first = tuple(solver for solver in FIRST_SOLVERS if solver in found)
        return (*first, *(solver for solver in found if solver not in first))

    def commonest_class(self, split: str) -> float | None:
        """The share of a split's samples that training's commonest class has."""
        train, labels = self.labels.get("train"), self.labels.get(split)
        if train is None or labels is None:
            return None
        return float(np.mean(labels == np.bincount(train).argmax()))


def kernel_name(kernel: str) -> str:
    """``P``, ``F``, ``P + F``; one that the paper does not have keeps its own name."""
    return KERNEL_NAMES.get(kernel, kernel.replace("_", " "))


def solver_name(solver: str) -> str:
    """A solver in words."""
    return SOLVER_NAMES.get(solver, solver.replace("_", " ").capitalize())


def aligned_name(name: str) -> str:
    """A kernel of the alignment matrix: ``P``, ``FT: F``."""
    method, separator, kernel = name.rpartition("/")
    return f"{method_name(method)}: {kernel_name(kernel)}" if separator else kernel_name(name)


def find_kernels(
    directory: Path,
) -> tuple[tuple[KernelRecord, ...], tuple[UnreadFolder, ...]]:
    """Read every ``kernels.json`` at or below ``directory``, ordered by title, then by folder.

    What is not of ``lpft ntk``, or damaged, comes back as :class:`UnreadFolder` with its reason.
    Hidden folders are not searched.
    """
    folders = folders_with(KERNEL_RECORD, directory)
    found, unread = read_folders(folders, directory, "kernels", _read)
    return tuple(sorted(found, key=lambda kernels: (kernels.title, kernels.name))), unread


def _read(folder: Path, name: str) -> KernelRecord:
    return _with_tensors(parse_kernels(read_record(folder / KERNEL_RECORD), folder, name))


def parse_kernels(record: Record, folder: Path, name: str) -> KernelRecord:
    """The record of ``kernels.json`` (schema 1) without the tensors beside it.

    Raises :class:`~lpft.results.schema.UnusableRecord`, which says what is wrong.
    """
    check_schema(record, KERNEL_RECORD, SCHEMA, "lpft ntk")
    for key in ("model", "kernel"):
        if not isinstance(record.get(key), str):
            raise UnusableRecord(f"{KERNEL_RECORD}: {key} is {record.get(key)!r}, expected a text")
    data = section(record, "data", KERNEL_RECORD, required=("name", "classes"))
    methods = section(record, "methods", KERNEL_RECORD)
    if not methods:
        raise UnusableRecord(f"{KERNEL_RECORD}: no methods")
    return KernelRecord(
        folder=folder,
        name=name,
        data_name=plain(data["name"]),
        classes=texts(data, "classes", KERNEL_RECORD),
        rows={split: int(rows) for split, rows in numbers(data, "rows", KERNEL_RECORD).items()},
        eval_split=text(data, "eval_split"),
        model=plain(record["model"]),
        rule=plain(record["kernel"]),
        dtype=text(record, "dtype"),
        seed=number(record.get("seed")),
        max_length=number(record.get("max_length")),
        methods=tuple(_method(plain(key), section(methods, key, KERNEL_RECORD)) for key in methods),
        alignment=_alignment(section(record, "alignment", KERNEL_RECORD)),
        config=section(record, "config", KERNEL_RECORD),
        plan=section(record, "plan", KERNEL_RECORD),
        timings=numbers(record, "timings", KERNEL_RECORD),
        environment=section(record, "environment", KERNEL_RECORD),
        labels={},
    )


def _method(method: str, record: Record) -> MethodRecord:
    where = f"{KERNEL_RECORD}: {method}"
    kernels = section(record, "kernels", where)
    if not kernels:
        raise UnusableRecord(f"{where} has no kernels")
    found = {
        plain(key): _statistics(section(kernels, key, where), f"{where}/{plain(key)}")
        for key in kernels
    }
    return MethodRecord(
        method=method,
        head_start=text(record, "head_start"),
        head_rank=number(record.get("head_rank")),
        head_norm=number(record.get("head_norm")),
        parameters=number(record.get("parameters")),
        ft_ratio=number(record.get("ft_ratio")),
        kernels=found,
        layers=_shares(record, "layers", where, found.get(FT)),
        kinds=_shares(record, "kinds", where, found.get(FT)),
        certificate=numbers(record, "certificate", where),
        products_error=number(record.get("products_error")),
        heat_maps={},
        parameter_set=text(record, "parameter_set"),
        dynamics=parse_dynamics(record, where),
    )


def _statistics(record: Record, where: str) -> KernelStatistics:
    listed = record.get("singular_values")
    values = [number(value) for value in listed] if isinstance(listed, list) else [None]
    known = [value for value in values if value is not None and value >= 0]
    if len(known) < len(values):
        raise UnusableRecord(f"{where}: singular_values is not a list of numbers from 0 up")
    return KernelStatistics(
        rank=number(record.get("rank")),
        rank_tolerance=number(record.get("rank_tolerance")),
        frobenius_norm=number(record.get("frobenius_norm")),
        trace=number(record.get("trace")),
        largest_singular_value=number(record.get("largest_singular_value")),
        singular_values=np.sort(np.array(known, dtype=np.float64))[::-1],
        regression=_regression(section(record, "regression", where)),
    )


def _regression(record: Record) -> dict[str, Accuracies]:
    read: dict[str, Accuracies] = {}
    for solver, found in record.items():
        if isinstance(found, Mapping):
            keys = ("train_accuracy", "test_accuracy", "constant_accuracy")
            read[plain(solver)] = Accuracies(*(number(found.get(key)) for key in keys))
    paper = record.get(PAPER)
    if isinstance(paper, Mapping):
        train, test = (number(paper.get(f"{split}_text_accuracy")) for split in ("train", "test"))
        if train is not None or test is not None:
            read[PAPER_TEXTS] = Accuracies(train, test, None)
    return read


def _shares(
    record: Record, key: str, where: str, whole: KernelStatistics | None
) -> dict[str, Share]:
    """Parts of F; none has a larger trace than F, as each adds squared gradients to it."""
    outer = section(record, key, where)
    inner = {plain(name): section(outer, name, f"{where}/{key}") for name in outer}
    shares = {
        name: Share(number(share.get("trace")), number(share.get("frobenius_norm")))
        for name, share in inner.items()
    }
    if whole is None or whole.trace is None:
        return shares
    for name, share in shares.items():
        if share.trace is not None and not 0 <= share.trace <= _ROUNDING * whole.trace:
            raise UnusableRecord(
                f"{where}: the trace of {name} is {share.trace:g}, outside 0 and that of F"
            )
    return shares


def _alignment(record: Record) -> Alignment | None:
    if not record:
        return None
    names = texts(record, "kernels", f"{KERNEL_RECORD}: alignment")
    listed = record.get("values")
    rows = [row for row in listed if isinstance(row, list)] if isinstance(listed, list) else []
    if [len(row) for row in rows] != [len(names)] * len(names):
        raise UnusableRecord(
            f"{KERNEL_RECORD}: alignment has no value for each pair of its {len(names)} kernels"
        )
    return Alignment(names, tuple(tuple(number(value) for value in row) for row in rows))


def _with_tensors(kernels: KernelRecord) -> KernelRecord:
    """The same with labels and heat maps, as far as the tensors can be read."""
    methods: list[MethodRecord] = []
    labels: dict[str, NDArray[np.int64]] = {}
    problems: list[str] = []
    for method in kernels.methods:
        try:
            heat_maps, found = _tensors(kernels, method.method)
        except UnusableRecord as problem:
            problems.append(plain(problem))
            methods.append(method)
            continue
        methods.append(replace(method, heat_maps=heat_maps))
        for split, classes in found.items():
            labels.setdefault(split, classes)
    return replace(kernels, methods=tuple(methods), labels=labels, problems=tuple(problems))


def _tensors(
    kernels: KernelRecord, method: str
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.int64]]]:
    """Heat maps and labels of one method's file."""
    name = f"{method}.safetensors"
    path = kernels.folder / name
    if path.name != name:
        raise UnusableRecord(f"{name} is not the name of a file beside {KERNEL_RECORD}")
    try:
        if not path.is_file():
            raise UnusableRecord(f"{name} is not there, so there is no heat map of it")
        with safe_open(path, framework="numpy") as tensors:
            names = set(tensors.keys())
            labels: dict[str, Any] = {
                split: tensors.get_tensor(key) for split, key in _LABELS.items() if key in names
            }
            heat_maps: dict[str, Any] = {
                plain(key.removeprefix(_HEAT_MAPS)): tensors.get_tensor(key)
                for key in sorted(names)
                if key.startswith(_HEAT_MAPS)
            }
    except (OSError, SafetensorError, TypeError, ValueError) as problem:
        raise UnusableRecord(f"{name} cannot be read: {problem}") from problem
    for split, found in labels.items():
        if not _are_classes(found, len(kernels.classes)):
            raise UnusableRecord(f"{name}: {_LABELS[split]} does not hold class indices")
    samples = len(labels["train"]) if "train" in labels else None
    for key, values in heat_maps.items():
        if values.shape != (samples, samples) or not np.isfinite(values).all():
            raise UnusableRecord(
                f"{name}: {_HEAT_MAPS}{key} is not a finite matrix over the rows of train/labels"
            )
    return (
        {key: np.asarray(values, dtype=np.float64) for key, values in heat_maps.items()},
        {split: np.asarray(found, dtype=np.int64) for split, found in labels.items()},
    )


def _are_classes(labels: NDArray[Any], classes: int) -> bool:
    whole = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer) and labels.size > 0
    return bool(whole and labels.min() >= 0 and labels.max() < classes)


def parse_dynamics(method: Record, where: str) -> Dynamics | None:
    """A method's ``dynamics``; None where it has none.

    Raises :class:`~lpft.results.schema.UnusableRecord`, which says what is wrong.
    """
    found = section(method, "dynamics", where)
    if not found:
        return None
    place = f"{where}/dynamics"
    steps = found.get("first_order", [])
    if not isinstance(steps, list) or not all(
        isinstance(step, Mapping) and number(step.get("rate")) is not None for step in steps
    ):
        raise UnusableRecord(f"{place}: first_order is not a list of steps with rates")
    linearized = section(found, "linearized", place)
    listed = _numbers(linearized, "steps", place)
    return Dynamics(
        rows=numbers(found, "rows", place),
        first_order=tuple(
            FirstOrderError(
                float(step["rate"]), number(step.get("logits")), number(step.get("features"))
            )
            for step in steps
        ),
        rate=number(linearized.get("rate")),
        steps=tuple(int(step) for step in listed if step is not None),
        trajectories={
            name: _trajectory(section(linearized, name, place), len(listed), f"{place}/{name}")
            for name in ("train", "eval")
            if name in linearized
        },
    )


def _trajectory(record: Record, steps: int, where: str) -> Trajectory:
    columns = [_numbers(record, key, where) for key in ("error", "nll", "linearized_nll")]
    if any(len(column) != steps for column in columns):
        raise UnusableRecord(f"{where} does not have a value for each of {steps} steps")
    return Trajectory(*columns)


def _numbers(record: Record, key: str, where: str) -> Values:
    values = record.get(key, [])
    if not isinstance(values, list):
        raise UnusableRecord(f"{where}: {key} is not a list")
    return tuple(number(value) for value in values)


def read_ft_ratio(folder: Path, method: str) -> FTRatio:
    """The FT ratio of a method's start among the training texts of a folder of kernels.

    Raises:
        InputError: the method's file is missing or damaged.
    """
    path = folder / f"{method}.safetensors"
    try:
        with safe_open(path, framework="numpy") as tensors:
            arrays = [tensors.get_tensor(f"train/{name}") for name in _ARRAYS]
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"'{path}' cannot be read ({error}): remove '{folder}', and compute its kernels again"
        ) from error
    return ft_ratio(*arrays)
