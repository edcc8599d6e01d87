"""Read folders of kernels: the only file of the report that knows how kernels lie on disk."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from lpft.report.kernels.dynamics import parse_dynamics
from lpft.report.kernels.summary import (
    FT,
    PAPER,
    PAPER_TEXTS,
    Accuracies,
    Alignment,
    KernelStatistics,
    KernelSummary,
    MethodKernels,
    Share,
)
from lpft.report.numbers import number, plain
from lpft.results.collect import UnreadFolder, folders_with, read_folders
from lpft.results.schema import (
    Record,
    UnusableRecord,
    check_schema,
    numbers,
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


def find_kernels(
    directory: Path,
) -> tuple[tuple[KernelSummary, ...], tuple[UnreadFolder, ...]]:
    """Read every ``kernels.json`` at or below ``directory``, ordered by title, then by folder.

    What is not of ``lpft ntk``, or damaged, comes back as :class:`UnreadFolder` with its reason.
    Hidden folders are not searched.
    """
    folders = folders_with(KERNEL_RECORD, directory)
    found, unread = read_folders(folders, directory, "kernels", _read)
    return tuple(sorted(found, key=lambda kernels: (kernels.title, kernels.name))), unread


def _read(folder: Path, name: str) -> KernelSummary:
    return _with_tensors(parse_kernels(read_record(folder / KERNEL_RECORD), folder, name))


def parse_kernels(record: Record, folder: Path, name: str) -> KernelSummary:
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
    return KernelSummary(
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


def _method(method: str, record: Record) -> MethodKernels:
    where = f"{KERNEL_RECORD}: {method}"
    kernels = section(record, "kernels", where)
    if not kernels:
        raise UnusableRecord(f"{where} has no kernels")
    found = {
        plain(key): _statistics(section(kernels, key, where), f"{where}/{plain(key)}")
        for key in kernels
    }
    return MethodKernels(
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


def _with_tensors(kernels: KernelSummary) -> KernelSummary:
    """The same with labels and heat maps, as far as the tensors can be read."""
    methods: list[MethodKernels] = []
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
    kernels: KernelSummary, method: str
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
