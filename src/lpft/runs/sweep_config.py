"""The configuration of a sweep: tasks x models x methods x seeds, with settings for some or all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from lpft.data import find_task
from lpft.errors import InputError
from lpft.model.loading import MINILM
from lpft.results.folder import read_record
from lpft.results.sweep import run_name
from lpft.runs.sweep_yaml import Override, SweepDescription, parse_sweep, told
from lpft.settings import without_effect
from lpft.settings.configs import RunConfig, make_config, read_config

RUNS = "runs"
"""Folder of a sweep's runs: ``runs/<task>/<method>-<model>-seed<k>/``."""

SEARCH = "search"
"""Folder of a sweep's grid search, laid out as the sweep's own."""

_NOTHING_KEPT = {"save_model": False, "save_features": False}

PLANNED = ("learning_rate", "batch_size", "epochs")
"""Settings that the plan of a sweep shows."""

_SEARCHED = "best of the search"
_NOT_OF_FILES = ("data_dir", "template")
_NOT_OF_TASKS = ("text_columns", "label_column", "column_names")


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
        taken = {**self.settings, **({} if point is None else point), "seed": seed}
        return make_config(taken, folder / f"{self.name}{note}-seed{seed}")

    def takes(self, name: str) -> bool:
        """Whether a setting has an effect on the runs."""
        if name in without_effect(self.method):
            return False
        if name == "revision":
            return not (self.model == MINILM or Path(self.model).is_dir())
        task = self.settings.get("task")
        if task is None:
            return name not in _NOT_OF_FILES
        embedded = find_task(task).embedded is not None
        return name not in _NOT_OF_TASKS and not (name == "data_dir" and embedded)


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
        found: dict[str, list[Point]] = {}
        for cell in self.cells:
            for settings in self.grid.points(cell):
                note = "".join(f"-{name.replace('_', '-')}{v}" for name, v in settings.items())
                config = cell.config(
                    folder / SEARCH / RUNS, self.grid.seed, {**settings, **_NOTHING_KEPT}, note
                )
                found.setdefault(cell.name, []).append(Point(settings, config))
        return found


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
    with told(f"'{path}'"):
        described = parse_sweep(values)
        cells = _bare_cells(described)
        grid = None
        if described.grid is not None:
            grid = Grid(described.grid, described.grid_seed)
            with told("grid"):
                _check_taken(cells, list(described.grid))
        with told("settings"):
            _check_taken(cells, list(described.settings))
        cells = [
            replace(cell, settings={**_taken(cell, described.settings), **cell.settings})
            for cell in cells
        ]
        for number, override in enumerate(described.overrides, start=1):
            with told(f"overrides {number}"):
                cells = _overridden(cells, override)
        for cell in cells:
            with told(f"{cell.task} with {cell.method}"):
                for point in [{}] if grid is None else [{}, *grid.points(cell)]:
                    cell.config(Path(), described.seeds[0], point)
    return SweepConfig(tuple(cells), described.seeds, grid)


def _bare_cells(described: SweepDescription) -> list[Cell]:
    labels = _labels(described.models)
    return [
        Cell(
            task,
            model,
            method,
            f"{task}/{method}-{labels[model]}",
            {**data, "model": model, "method": method},
        )
        for task, data in described.tasks.items()
        for model in described.models
        for method in described.methods
    ]


def _taken(cell: Cell, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if cell.takes(name)}


def _overridden(cells: Sequence[Cell], override: Override) -> list[Cell]:
    matching = [cell for cell in cells if override.matches(cell.task, cell.model, cell.method)]
    _check_taken(matching, list(override.settings))
    return [
        replace(cell, settings={**cell.settings, **_taken(cell, override.settings)})
        if cell in matching
        else cell
        for cell in cells
    ]


def _check_taken(cells: Sequence[Cell], names: Sequence[str]) -> None:
    """Refuse settings that not one of the cells takes."""
    for name in names:
        if not any(cell.takes(name) for cell in cells):
            methods = ", ".join(dict.fromkeys(cell.method for cell in cells))
            tasks = ", ".join(dict.fromkeys(cell.task for cell in cells))
            raise InputError(f"{name} has no effect with {methods} on {tasks}: leave it out")


def _labels(models: Sequence[str]) -> dict[str, str]:
    """A model's last part, or all of it where two end in the same."""
    short = {model: model.rstrip("/").rpartition("/")[2] for model in models}
    if len(set(short.values())) == len(short):
        return short
    return {model: model.strip("/").replace("/", "--") for model in models}


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
        "state": None if record is None else record["status"],
    }
