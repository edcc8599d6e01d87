"""The configuration of a sweep: tasks x models x methods x seeds, with settings for some or all."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
)

from lpft.data import find_task
from lpft.errors import InputError, meant_choice
from lpft.results.folder import read_record
from lpft.results.resume import run_name
from lpft.settings import MINILM, DataSettings, TrainingSettings
from lpft.settings.configs import RunConfig, command_settings, deciding, make_config, read_config
from lpft.settings.fields import Decides
from lpft.settings.methods import get_method

RUNS = "runs"
"""Folder of a sweep's runs: ``runs/<task>/<method>-<model>-seed<k>/``."""

SEARCH = "search"
"""Folder of a sweep's grid search, laid out as the sweep's own."""

_NOTHING_KEPT = {"save_model": False, "save_features": False, "keep_checkpoints": False}

PLANNED = ("learning_rate", "batch_size", "epochs")
"""Settings that the plan of a sweep shows."""

_SEARCHED = "best of the search"


@dataclass(frozen=True)
class Cell:
    """One task with one model and one method; ``settings`` are all of its runs' but the seed.

    ``name`` begins the names of its runs' folders: ``<task>/<method>-<model>``.
    """

    task: str
    model: str
    method: str
    name: str
    settings: Mapping[str, Any]

    def config(
        self, folder: Path, seed: int, point: Mapping[str, Any] | None = None, note: str = ""
    ) -> RunConfig:
        """The run of a seed below ``folder``, at a point of a grid where one is given.

        Raises:
            InputError: a setting's value is wrong, or settings contradict each other.
        """
        settings = {**self.settings, **({} if point is None else point), "seed": seed}
        return make_config(settings, folder / f"{self.name}{note}-seed{seed}")

    def takes(self, name: str) -> bool:
        """Whether a setting has an effect on the runs."""
        item = command_settings("train")[name]
        if not get_method(self.method).takes(item):
            return False
        if name == "revision":
            return not (self.model == MINILM or Path(self.model).is_dir())
        task = self.settings.get("task")
        if task is None:
            return item.needs != "task"
        embedded = find_task(task).embedded is not None
        return item.needs != "files" and not (name == "data_dir" and embedded)


@dataclass(frozen=True)
class Grid:
    """Values of settings whose products are tried on one seed."""

    values: Mapping[str, tuple[Any, ...]]
    seed: int

    def points(self, cell: Cell) -> list[dict[str, Any]]:
        """The products of the values that the cell takes, the first setting's varying slowest."""
        names = [name for name in self.values if cell.takes(name)]
        if not names:
            return []
        values = (self.values[name] for name in names)
        return [dict(zip(names, chosen, strict=True)) for chosen in product(*values)]

    def tried(self, cell: Cell, folder: Path) -> list["Point"]:
        """The runs that try these points, in the search of the sweep in ``folder``."""
        points = []
        for settings in self.points(cell):
            note = "".join(f"-{name.replace('_', '-')}{v}" for name, v in settings.items())
            config = cell.config(
                folder / SEARCH / RUNS, self.seed, {**settings, **_NOTHING_KEPT}, note
            )
            points.append(Point(settings, config))
        return points


@dataclass(frozen=True)
class Point:
    """One point of a cell's grid, and the run that tries it, which keeps no weights."""

    settings: Mapping[str, Any]
    config: RunConfig


@dataclass(frozen=True)
class SweepConfig:
    """Every cell of a sweep, the seeds that each is run with, and what is searched before."""

    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    grid: Grid | None

    def runs(self, folder: Path) -> list[RunConfig]:
        """All runs of the sweep in ``folder``, with the settings of their cells alone."""
        return [cell.config(folder / RUNS, seed) for cell in self.cells for seed in self.seeds]

    def points(self, folder: Path) -> dict[str, list[Point]]:
        """What the grid search of the sweep in ``folder`` tries, by the names of its cells."""
        if self.grid is None:
            return {}
        points = {cell.name: self.grid.tried(cell, folder) for cell in self.cells}
        return {name: tried for name, tried in points.items() if tried}


def read_sweep_config(path: Path) -> SweepConfig:
    """The sweep that a YAML file describes.

    A setting that a method or a task does not take (``lora_rank`` of ``ft``, ``data_dir`` of user
    files) is left out there, and refused where nothing that it is given for takes it. ``settings``
    are below what a data set of ``tasks`` says itself, ``overrides`` on top of both, later ones on
    top of earlier ones.

    Raises:
        InputError: the file cannot be read; a key, task, method or setting is unknown; a list is
            empty or names something twice; a value is wrong, or a setting has no effect.
    """
    values = read_config(path)
    with _at(f"'{path}'"):
        file = _parse(values)
        for method in file.methods:
            get_method(method)
        cells = _bare_cells(_tasks(file.tasks), file.models, file.methods)
        with _at("grid"):
            grid = None if file.grid is None else _grid(file.grid, file.seeds[0])
            _check_applicable(cells, () if grid is None else grid.values)
        with _at("settings"):
            _check_shared(file.settings, grid)
            _check_applicable(cells, file.settings)
        cells = [
            replace(cell, settings={**_applicable(cell, file.settings), **cell.settings})
            for cell in cells
        ]
        for number, override in enumerate(file.overrides, start=1):
            with _at(f"overrides {number}"):
                cells = _overridden(cells, override, grid)
        for cell in cells:
            with _at(f"{cell.task} with {cell.method}"):
                for point in [{}] if grid is None else [{}, *grid.points(cell)]:
                    cell.config(Path(), file.seeds[0], point)
    return SweepConfig(tuple(cells), tuple(file.seeds), grid)


def plan_records(sweep: SweepConfig, folder: Path) -> list[dict[str, Any]]:
    """Every run in the order in which it is trained, those of the search first.

    ``state`` is that of a run that exists already; a setting still to be searched says so in place
    of a value.
    """
    points = sweep.points(folder)
    tried = [point.config for group in points.values() for point in group]
    records = [_planned(config, folder, {}) for config in tried]
    searched = {} if sweep.grid is None else dict.fromkeys(sweep.grid.values, _SEARCHED)
    for cell in sweep.cells:
        open_choices = {name: text for name, text in searched.items() if cell.takes(name)}
        records += [
            _planned(cell.config(folder / RUNS, seed), folder, open_choices) for seed in sweep.seeds
        ]
    return records


def _planned(config: RunConfig, folder: Path, open_choices: Mapping[str, str]) -> dict[str, Any]:
    record = read_record(config.output_dir)
    flat = {**config.flat(), **open_choices}
    return {
        "run": run_name(folder, config.output_dir),
        **{name: flat[name] for name in ("model", "method", "seed", *PLANNED)},
        "state": None if record is None else record.status,
    }


# What the YAML file holds, key by key; the description of a key is what errors say it must be.


def _listed(value: Any) -> Any:
    """One thing needs no list."""
    return value if isinstance(value, list) else [value]


def _underscored(value: Any) -> Any:
    """Dashes and underscores in the names of settings are the same."""
    if not isinstance(value, dict):
        return value
    return {str(name).replace("-", "_"): item for name, item in value.items()}


def _counted(value: Any) -> Any:
    """A number of seeds as these seeds."""
    counts = isinstance(value, int) and not isinstance(value, bool)
    return list(range(value)) if counts else value


def _distinct(values: list[Any], info: ValidationInfo) -> list[Any]:
    _check_distinct(str(info.field_name), values)
    return values


_Items = Annotated[list[Any], BeforeValidator(_listed), Field(min_length=1)]
_Names = Annotated[
    list[str], BeforeValidator(_listed), Field(min_length=1), AfterValidator(_distinct)
]
_Seed = Annotated[int, Field(ge=0, lt=2**32)]
_Seeds = Annotated[
    list[_Seed], BeforeValidator(_counted), Field(min_length=1), AfterValidator(_distinct)
]
_Named = Annotated[dict[str, Any], BeforeValidator(_underscored)]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    tasks: _Items = Field(description="a list of tasks, by name or as mappings")
    models: _Names = Field(
        [TrainingSettings.fields()["model"].default], description="a name, or a list of names"
    )
    methods: _Names = Field(description="a name, or a list of names")
    seeds: _Seeds = Field([0], description="how many seeds, or a list of seeds from 0 to 2**32 - 1")
    settings: _Named = Field({}, description="a mapping of settings of lpft train to their values")
    overrides: list[Any] = Field([], description="a list of mappings with match")
    grid: _Named | None = Field(
        None, description="a mapping of settings to lists, such as learning_rate: [1e-5]"
    )


def _parse(values: dict[str, Any]) -> _File:
    try:
        return _File.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    key, cause = str(first["loc"][0]), first.get("ctx", {}).get("error")
    if first["type"] == "extra_forbidden":
        raise _unknown("key", key, list(_File.model_fields))
    if isinstance(cause, InputError):
        raise cause
    expected = _File.model_fields[key].description
    if first["type"] == "missing":
        raise InputError(f"{key} is missing: expected {expected}")
    raise InputError(f"{key} {values[key]!r} must be {expected}")


def _tasks(entries: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Data settings by name, of tasks by name and of data with its settings."""
    tasks: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if isinstance(entry, str):
            name, data = entry, {"task": entry}
        elif isinstance(entry, dict):
            data = _underscored(entry)
            name = data.pop("name", None)
            if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
                raise InputError(
                    f"tasks: name {name!r} must be a name of letters, digits, dots and dashes, "
                    "which the folder of its runs has too"
                )
            _check_known(f"setting of the data '{name}'", data, list(DataSettings.fields()))
        else:
            raise InputError(
                f"tasks: {entry!r} must be a task's name, or a mapping with name and train_file"
            )
        if "task" in data:
            find_task(str(data["task"]))
        else:
            data = {"data_name": name, **data}
        if name in tasks:
            raise InputError(f"tasks names {name} twice: give each data set a name of its own")
        tasks[name] = data
    return tasks


def _bare_cells(
    tasks: Mapping[str, Mapping[str, Any]], models: Sequence[str], methods: Sequence[str]
) -> list[Cell]:
    """Every cell with the settings of its data alone."""
    # a model's last part names it, or all of it where two end in the same
    labels = {model: model.rstrip("/").rpartition("/")[2] for model in models}
    if len(set(labels.values())) < len(labels):
        labels = {model: model.strip("/").replace("/", "--") for model in models}
    return [
        Cell(
            task,
            model,
            method,
            f"{task}/{method}-{labels[model]}",
            {**data, "model": model, "method": method},
        )
        for task, data in tasks.items()
        for model in models
        for method in methods
    ]


def _grid(values: Mapping[str, Any], first_seed: int) -> Grid:
    """The values of each searched setting, and the seed of the search."""
    values = dict(values)
    seed = TrainingSettings.read({"seed": values.pop("seed", first_seed)}).seed
    if not values:
        raise InputError("it names no setting: expected lists, such as learning_rate: [1e-5, 5e-5]")
    searchable = [n for n in deciding(Decides.RUN) if n in TrainingSettings.fields()]
    _check_known("setting to search", values, [n for n in searchable if n not in _AXES])
    grid = {}
    for name, listed in values.items():
        if not isinstance(listed, list) or not listed:
            raise InputError(f"{name} {listed!r} must be a list of values to try")
        grid[name] = tuple(getattr(TrainingSettings.read({name: value}), name) for value in listed)
        _check_distinct(name, grid[name])
    return Grid(grid, seed)


_MATCHED = ("task", "model", "method")
_AXES = {"task": "tasks", "model": "models", "method": "methods", "seed": "seeds"}
_OF_ONE_DATA_SET = ("train_file", "validation_file", "test_file", "ood", "data_name")


def _check_shared(settings: Mapping[str, Any], grid: Grid | None) -> None:
    """Refuse what belongs to an axis, to one data set or to the grid among settings for several."""
    for name in settings:
        if name in _AXES:
            raise InputError(f"{name} is set by {_AXES[name]}: name it there")
        if name in _OF_ONE_DATA_SET:
            raise InputError(f"{name} belongs to one data set: name it in a mapping of tasks")
        if grid is not None and name in grid.values:
            raise InputError(f"{name} is searched by grid: leave it out here or there")
    _check_known("setting", settings, list(command_settings("train")))


def _overridden(cells: Sequence[Cell], override: Any, grid: Grid | None) -> list[Cell]:
    """The cells, with the settings of an override in those that it matches."""
    if not isinstance(override, dict):
        raise InputError(f"{override!r} must be a mapping with match and settings")
    settings = _underscored(override)
    match = settings.pop("match", None)
    if not isinstance(match, dict) or not match:
        raise InputError(f"match {match!r} must be a mapping, such as {{task: cb}}")
    _check_known("axis of match", match, _MATCHED)
    matching = list(cells)
    for axis, names in match.items():
        present = list(dict.fromkeys(getattr(cell, axis) for cell in cells))
        if names == []:
            raise InputError(f"match: {axis} is empty: expected some of {', '.join(present)}")
        _check_known(f"{axis} in match", _listed(names), present)
        matching = [cell for cell in matching if getattr(cell, axis) in _listed(names)]
    if not settings:
        raise InputError("it has no setting: expected some beside match")
    _check_shared(settings, grid)
    _check_applicable(matching, settings)
    return [
        replace(cell, settings={**cell.settings, **_applicable(cell, settings)})
        if cell in matching
        else cell
        for cell in cells
    ]


def _applicable(cell: Cell, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if cell.takes(name)}


def _check_applicable(cells: Sequence[Cell], names: Iterable[str]) -> None:
    """Refuse settings that not one of the cells takes."""
    for name in names:
        if not any(cell.takes(name) for cell in cells):
            methods = ", ".join(dict.fromkeys(cell.method for cell in cells))
            tasks = ", ".join(dict.fromkeys(cell.task for cell in cells))
            raise InputError(f"{name} has no effect with {methods} on {tasks}: leave it out")


def _check_distinct(name: str, values: Sequence[Any]) -> None:
    repeated = [value for index, value in enumerate(values) if value in values[:index]]
    if repeated:
        raise InputError(f"{name} names {repeated[0]} twice")


def _check_known(what: str, names: Iterable[Any], choices: Sequence[str]) -> None:
    for name in names:
        if name not in choices:
            raise _unknown(what, name, choices)


def _unknown(what: str, name: Any, choices: Sequence[str]) -> InputError:
    hint = meant_choice(str(name), choices)
    few = len(choices) <= 10
    expected = f"expected some of {', '.join(choices)}" if few else "see lpft train --help"
    return InputError(f"unknown {what} '{name}'{hint}: {expected}")


@contextmanager
def _at(where: str) -> Iterator[None]:
    """Let errors of the input begin with the place where it is wrong."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
