"""``kernels.json`` and the tensors beside it: what ``lpft ntk`` writes, as one class; heat maps."""

from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from itertools import pairwise
from math import isclose
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator
from safetensors import SafetensorError, safe_open

from lpft.errors import InputError
from lpft.ntk.statistics import FTRatio, class_order, ft_ratio
from lpft.results.exhibits import Panel
from lpft.results.folder import UnreadFolder, folders_with, read_folders
from lpft.results.groups import method_name, model_name
from lpft.results.schema import (
    Fingerprints,
    Number,
    Part,
    Record,
    UnusableRecord,
    check_schema,
    number,
    plain,
    read_json,
    validated,
)

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

_ROUNDING = 1.01  # room for lower precision, as of a kernel in bfloat16
_HEAT_MAPS = "train/heat_map/"
_LABELS = {"train": "train/labels", "eval": "eval/labels"}


class Accuracies(NamedTuple):
    """Kernel regression by one solver, fractions; ``constant`` is what a constant answer scores."""

    train: float | None
    test: float | None
    constant: float | None


def _descending(values: Any) -> NDArray[np.float64]:
    known = [number(value) for value in values] if isinstance(values, list | np.ndarray) else [None]
    if not all(value is not None and value >= 0 for value in known):
        raise ValueError("expected a list of numbers from 0 up")
    return np.sort(np.array(known, dtype=np.float64))[::-1]


class KernelStatistics(Part):
    """Statistics of one NC x NC kernel; ``singular_values`` are divided by the largest."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    rank: Number = None
    rank_tolerance: Number = None
    frobenius_norm: Number = None
    trace: Number = None
    largest_singular_value: Number = None
    singular_values: Annotated[
        NDArray[np.float64], BeforeValidator(_descending), PlainSerializer(np.ndarray.tolist)
    ]
    by_solver: dict[str, dict[str, Any]] | None = Field(None, alias="regression")

    @cached_property
    def regression(self) -> Mapping[str, Accuracies]:
        """By solver; the paper's protocol counts entries of one-hot targets, and texts beside."""
        by_solver = self.by_solver or {}
        accuracies = {
            solver: Accuracies(*(number(fit.get(f"{of}_accuracy")) for of in Accuracies._fields))
            for solver, fit in by_solver.items()
        }
        paper = by_solver.get(PAPER, {})
        texts = [number(paper.get(f"{split}_text_accuracy")) for split in ("train", "test")]
        if texts != [None, None]:
            accuracies[PAPER_TEXTS] = Accuracies(texts[0], texts[1], None)
        return accuracies

    def same_matrix(self, other: "KernelStatistics") -> bool:
        """Whether both can be of one matrix: all but the regression agrees, up to rounding."""
        names = ("rank", "frobenius_norm", "trace", "largest_singular_value")
        pairs = [(getattr(self, name), getattr(other, name)) for name in names]
        return all(a == b or (None not in (a, b) and isclose(a, b, rel_tol=1e-9)) for a, b in pairs)


class Share(Part):
    """What a layer, or a kind of parameter, adds to F."""

    trace: Number = None
    frobenius_norm: Number = None


class FirstOrderError(Part):
    """Relative error of the predicted change after one step of a rate; None where nothing moved."""

    rate: float
    logits: Number = None
    features: Number = None


class Trajectory(Part):
    """Training of one set of texts: error of the linear model's change, and the NLL of both."""

    error: list[Number]
    real: list[Number] = Field(alias="nll")
    linearized: list[Number] = Field(alias="linearized_nll")


class Linearized(Part):
    """Many steps of one rate, with the values of each number of ``steps``."""

    rate: Number = None
    steps: list[int]
    train: Trajectory | None = None
    eval: Trajectory | None = None

    @model_validator(mode="after")
    def _as_many_values_as_steps(self) -> Self:
        for name in ("train", "eval"):
            losses: Trajectory | None = getattr(self, name)
            columns = () if losses is None else (losses.error, losses.real, losses.linearized)
            if any(len(column) != len(self.steps) for column in columns):
                raise ValueError(
                    f"{name} does not have a value for each of {len(self.steps)} steps"
                )
        return self


class Dynamics(Part):
    """Training as the kernel predicts it, beside real training, on ``rows`` texts of each set.

    ``linearized`` is None where the real training failed.
    """

    rows: Mapping[str, int] = Field(default_factory=dict)
    largest_stable_rate: Number = None
    first_order: list[FirstOrderError] = Field(default_factory=list)
    linearized: Linearized | None = None

    @property
    def rate(self) -> float | None:
        return None if self.linearized is None else self.linearized.rate

    @property
    def steps(self) -> list[int]:
        return [] if self.linearized is None else self.linearized.steps

    @property
    def trajectories(self) -> dict[str, Trajectory]:
        """By set of texts, ``train`` and ``eval``."""
        sets = {name: getattr(self.linearized, name, None) for name in ("train", "eval")}
        return {name: losses for name, losses in sets.items() if losses is not None}


class MethodRecord(Part):
    """The kernels of one method; ``heat_maps`` [N, N] are in the order of the data.

    ``parameter_set`` is what F is over: everything, an adapter's factors, or nothing.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)
    method: str = Field(exclude=True)
    head_start: str | None = None
    head_rank: Number = None
    head_norm: Number = None
    parameter_set: str | None = None
    parameters: Number = None
    ft_ratio: Number = None
    kernels: dict[str, KernelStatistics] = Field(min_length=1)
    layers: Mapping[str, Share] = Field(default_factory=dict)
    kinds: Mapping[str, Share] = Field(default_factory=dict)
    certificate: Mapping[str, Number] = Field(default_factory=dict)
    products_error: Number = None
    dynamics: Dynamics | None = None
    heat_maps: dict[str, NDArray[np.float64]] = Field(default_factory=dict, exclude=True)

    @property
    def name(self) -> str:
        return method_name(self.method)

    def check_parts(self) -> None:
        """Refuse parts with a larger trace than F, to which each adds squared gradients."""
        total = self.kernels[FT].trace if FT in self.kernels else None
        for name, share in {**self.layers, **self.kinds}.items():
            if total is None or share.trace is None or 0 <= share.trace <= _ROUNDING * total:
                continue
            raise UnusableRecord(
                f"{KernelRecord.FILE}: {self.method}: the trace of {name} is {share.trace:g}, "
                "outside 0 and that of F"
            )


class PathPoint(Part):
    """The kernel at one epoch of a training, beside that of its start.

    ``drift``, ``frobenius_norm`` and the alignments are by kernel, ``layers`` and ``kinds`` the
    drift of each part of F, ``linearization_error`` that of the linear model's change of logits by
    set of texts; ``feature_difference`` is Diff(F) from the start, of the training texts.
    """

    epoch: float
    head_norm: Number = None
    feature_difference: Number = None
    drift: Mapping[str, Number] = Field(default_factory=dict)
    frobenius_norm: Mapping[str, Number] = Field(default_factory=dict)
    alignment_with_start: Mapping[str, Number] = Field(default_factory=dict)
    alignment_with_labels: Mapping[str, Number] = Field(default_factory=dict)
    linearization_error: Mapping[str, Number] = Field(default_factory=dict)
    layers: Mapping[str, Number] = Field(default_factory=dict)
    kinds: Mapping[str, Number] = Field(default_factory=dict)
    certificate: Mapping[str, Number] = Field(default_factory=dict)


class KernelPath(Part):
    """The kernels of a run's start and epochs, and whether it trained in the kernel regime.

    ``answer`` is ``yes``, ``no`` or ``unknown`` by :func:`lpft.ntk.statistics.kernel_regime`,
    ``until`` the last epoch within it; ``limits`` are those of the rule, ``largest`` what stands
    against them. ``kept_epoch`` is that of the run's own weights.
    """

    answer: Literal["yes", "no", "unknown"]
    until: Number = None
    largest: Mapping[str, Number] = Field(default_factory=dict)
    limits: Mapping[str, Number] = Field(default_factory=dict)
    kept_epoch: Number = None
    points: list[PathPoint] = Field(min_length=1)


class Alignment(Part):
    """CKA of every pair of named kernels; None where one of them does not vary."""

    kernels: list[str]
    values: list[list[Number]]

    @model_validator(mode="after")
    def _square(self) -> Self:
        names = len(self.kernels)
        if [len(row) for row in self.values] != [names] * names:
            raise ValueError(f"there is no value for each pair of its {names} kernels")
        return self


class KernelData(Part):
    """The texts of kernels: ``rows`` of ``train`` and ``eval``, which are of ``eval_split``."""

    name: str
    classes: list[bool | int | str] = Field(min_length=1)
    rows: Mapping[str, int] = Field(default_factory=dict)
    validation_rows: int | None = None
    eval_split: str | None = None


def _with_names(methods: Any) -> Any:
    """Methods as they lie on disk, each with its name."""
    if not isinstance(methods, dict):
        return methods
    return {
        name: {**method, "method": name, "heat_maps": {}} if isinstance(method, dict) else method
        for name, method in methods.items()
    }


class KernelRecord(Record):
    """``kernels.json``: the kernels of one or more methods on the texts of one data set.

    ``folder`` and ``name`` say where it lies; ``labels`` and each method's heat maps are those of
    the tensors beside it, as far as they can be used: ``problems`` says which cannot.
    """

    FILE = "kernels.json"
    SCHEMA = 1
    WRITER = "lpft ntk"
    model_config = ConfigDict(arbitrary_types_allowed=True)

    schema_number: int = Field(SCHEMA, alias="schema")
    data: KernelData
    model: str
    pooling: str | None = None
    rule: str = Field(alias="kernel")
    dtype: str | None = None
    seed: Number = None
    max_length: Number = None
    config: Mapping[str, Any] = Field(default_factory=dict)
    fingerprints: Fingerprints = Fingerprints()
    by_name: Annotated[dict[str, MethodRecord], BeforeValidator(_with_names)] = Field(
        alias="methods", min_length=1
    )
    alignment: Annotated[Alignment | None, BeforeValidator(lambda value: value or None)] = None
    path: KernelPath | None = None
    plan: Mapping[str, Any] = Field(default_factory=dict)
    timings: Mapping[str, Number] = Field(default_factory=dict)
    environment: Mapping[str, Any] = Field(default_factory=dict)

    folder: Path = Field(default=Path(), exclude=True)
    name: str = Field(default="", exclude=True)
    labels: dict[str, NDArray[np.int64]] = Field(default_factory=dict, exclude=True)
    problems: tuple[str, ...] = Field(default=(), exclude=True)

    @classmethod
    def open(cls, folder: Path, name: str) -> "KernelRecord":
        """The record in ``folder`` with texts that can be printed, its heat maps and labels.

        Raises:
            UnusableRecord: it is missing, damaged or of another schema.
        """
        content = read_json(folder / cls.FILE, printable=True)
        check_schema(content, cls.FILE, cls.SCHEMA, cls.WRITER)
        own = {"folder": folder, "name": name, "labels": {}, "problems": ()}
        kernels = validated(cls, {**content, **own}, cls.FILE)
        problems: list[str] = []
        methods = kernels.by_name.copy()
        labels: dict[str, NDArray[np.int64]] = {}
        for key, method in kernels.by_name.items():
            method.check_parts()
            try:
                heat_maps, of_method = _tensors(folder, key, len(kernels.classes))
            except UnusableRecord as problem:
                problems.append(plain(problem))
                continue
            methods[key] = method.model_copy(update={"heat_maps": heat_maps})
            labels = of_method | labels
        return kernels.model_copy(
            update={"by_name": methods, "labels": labels, "problems": tuple(problems)}
        )

    @property
    def methods(self) -> tuple[MethodRecord, ...]:
        return tuple(self.by_name.values())

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(map(str, self.data.classes))

    @property
    def title(self) -> str:
        rule = RULE_NAMES.get(self.rule, self.rule)
        return f"{self.data.name} · {model_name(self.model)} · {rule}"

    @property
    def size(self) -> int | None:
        """NC, the rows of each kernel of training samples."""
        return self.data.rows["train"] * len(self.classes) if "train" in self.data.rows else None

    @cached_property
    def pretrain(self) -> tuple[tuple[tuple[MethodRecord, ...], KernelStatistics], ...]:
        """Each different P with the methods that have it: one, where all have a head bias."""
        different: list[tuple[list[MethodRecord], KernelStatistics]] = []
        for method in self.methods:
            if PRETRAIN in method.kernels:
                own = method.kernels[PRETRAIN]
                same = [owners for owners, statistics in different if own.same_matrix(statistics)]
                if same:
                    same[0].append(method)
                else:
                    different.append(([method], own))
        return tuple((tuple(owners), statistics) for owners, statistics in different)

    def owners_name(self, owners: tuple[MethodRecord, ...]) -> str:
        """``all methods``, or the methods' names."""
        if len(owners) == len(self.methods) > 1:
            return "all methods"
        return ", ".join(method.name for method in owners)

    @property
    def solvers(self) -> tuple[str, ...]:
        """Solvers of kernel regression that some kernel has, the paper's protocol first."""
        solvers = dict.fromkeys(
            solver
            for method in self.methods
            for statistics in method.kernels.values()
            for solver in statistics.regression
        )
        first = tuple(solver for solver in FIRST_SOLVERS if solver in solvers)
        return (*first, *(solver for solver in solvers if solver not in first))

    @property
    def commonest_class(self) -> float | None:
        """The share of the evaluated samples that training's commonest class has."""
        if not {"train", "eval"} <= self.labels.keys():
            return None
        commonest = np.bincount(self.labels["train"]).argmax()
        return float(np.mean(self.labels["eval"] == commonest))


def find_kernels(
    directory: Path,
) -> tuple[tuple[KernelRecord, ...], tuple[UnreadFolder, ...]]:
    """Read every ``kernels.json`` at or below ``directory``, ordered by title, then by folder.

    What is not of ``lpft ntk``, or damaged, comes back as :class:`UnreadFolder` with its reason.
    Hidden folders are not searched.
    """
    folders = folders_with(KernelRecord.FILE, directory)
    kernels, unread = read_folders(folders, directory, "kernels", KernelRecord.open)
    return tuple(sorted(kernels, key=lambda record: (record.title, record.name))), unread


def _tensors(
    folder: Path, method: str, classes: int
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.int64]]]:
    """Heat maps and labels of one method's file.

    Raises:
        UnusableRecord: it is missing, damaged, or does not fit the record's classes.
    """
    name = f"{method}.safetensors"
    path = folder / name
    if path.name != name:
        raise UnusableRecord(f"{name} is not the name of a file beside {KernelRecord.FILE}")
    try:
        if not path.is_file():
            raise UnusableRecord(f"{name} does not exist, so there is no heat map of it")
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
    for split, indices in labels.items():
        if not _are_classes(indices, classes):
            raise UnusableRecord(f"{name}: {_LABELS[split]} does not hold class indices")
    samples = len(labels["train"]) if "train" in labels else None
    for key, values in heat_maps.items():
        if values.shape != (samples, samples) or not np.isfinite(values).all():
            raise UnusableRecord(
                f"{name}: {_HEAT_MAPS}{key} is not a finite matrix over the rows of train/labels"
            )
    return (
        {key: np.asarray(values, dtype=np.float64) for key, values in heat_maps.items()},
        {split: np.asarray(values, dtype=np.int64) for split, values in labels.items()},
    )


def _are_classes(indices: NDArray[Any], classes: int) -> bool:
    if indices.ndim != 1 or not indices.size or not np.issubdtype(indices.dtype, np.integer):
        return False
    return bool(indices.min() >= 0 and indices.max() < classes)


def read_ft_ratio(folder: Path, method: str) -> FTRatio:
    """The FT ratio, text by text, of a method's start among the training texts of a folder.

    Raises:
        InputError: the method's file is missing or damaged.
    """
    path = folder / f"{method}.safetensors"
    try:
        with safe_open(path, framework="numpy") as tensors:
            names = (PRETRAIN, FT, "labels", "logits")
            arrays = [tensors.get_tensor(f"train/{name}") for name in names]
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"'{path}' cannot be read ({error}): remove '{folder}', and compute its kernels again"
        ) from error
    return ft_ratio(*arrays)


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


def heat_map_panels(
    kernels: KernelRecord, most: int, names: Collection[str] = (PRETRAIN, FT, NTK)
) -> tuple[Panel, ...]:
    """Trace norms of P once, then of F and of P + F of every method, samples sorted by class.

    Only kernels in ``names`` are drawn.

    A map of more than ``most`` samples a side has means over square blocks of :func:`block_size`
    samples, which never mix classes. Maps of one kernel are a strip.
    """
    labels = kernels.labels.get("train")
    if labels is None:
        return ()
    order = class_order(labels)
    size = block_size(len(labels), most)
    block_starts = np.concatenate(
        [np.arange(first, end, size) for first, end in pairwise(order.boundaries)]
    )
    counts = np.diff(np.append(block_starts, len(labels)))
    firsts = np.searchsorted(block_starts, order.boundaries[:-1])
    class_names = [kernels.classes[label] for label in order.classes]
    panels = []
    for kernel, title, values in _maps(kernels):
        if kernel not in names:
            continue
        in_order = order.sort(values)
        sums = np.add.reduceat(
            np.add.reduceat(in_order, block_starts, axis=0), block_starts, axis=1
        )
        panels.append(
            Panel(
                title=title,
                x="training text",
                y="training text",
                matrix=tuple(map(tuple, (sums / np.outer(counts, counts)).tolist())),
                bounds=tuple(
                    (name, int(first)) for name, first in zip(class_names, firsts, strict=True)
                ),
                strip=kernel_name(kernel),
            )
        )
    return tuple(panels)


def block_size(samples: int, most: int) -> int:
    """Samples a side of a block, so that a map has about ``most`` blocks a side."""
    return -(-samples // most)


def _maps(kernels: KernelRecord) -> Iterator[tuple[str, str, NDArray[np.float64]]]:
    """Kernel, title and trace norms of every map: P once, then F and P + F of every method."""
    for owners, _ in kernels.pretrain:
        title = "P" if len(kernels.pretrain) == 1 else f"P: {kernels.owners_name(owners)}"
        maps = [method.heat_maps[PRETRAIN] for method in owners if PRETRAIN in method.heat_maps]
        if maps:
            yield PRETRAIN, title, maps[0]
    for method in kernels.methods:
        for kernel in (FT, NTK):
            if kernel in method.heat_maps:
                title = f"{method.name}: {kernel_name(kernel)}"
                yield kernel, title, method.heat_maps[kernel]
