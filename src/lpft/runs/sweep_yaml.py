"""What a sweep's YAML file says, checked by itself: names, lists, settings."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from lpft.data import find_task
from lpft.errors import InputError
from lpft.settings import DataSettings, TrainingSettings, get_method
from lpft.settings.configs import deciding, taken_by
from lpft.settings.fields import Decides

KEYS = ("tasks", "models", "methods", "seeds", "settings", "overrides", "grid")
AXES = {"task": "tasks", "model": "models", "method": "methods", "seed": "seeds"}
MATCHED = ("task", "model", "method")

_DATA_SETTINGS = tuple(DataSettings.fields())
_OF_ONE_DATA_SET = ("train_file", "validation_file", "test_file", "ood", "data_name")
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MOST_SEED = 2**32
_MOST_LISTED = 10


@dataclass(frozen=True)
class Override:
    """Settings of the cells whose task, model and method are among those named (None: any)."""

    names: Mapping[str, tuple[str, ...]]
    settings: Mapping[str, Any]

    def matches(self, task: str, model: str, method: str) -> bool:
        cell = {"task": task, "model": model, "method": method}
        return all(cell[axis] in names for axis, names in self.names.items())


@dataclass(frozen=True)
class SweepDescription:
    """A sweep's YAML file; ``tasks`` are data settings by the name of their data."""

    tasks: Mapping[str, Mapping[str, Any]]
    models: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: Mapping[str, Any]
    overrides: tuple[Override, ...]
    grid: Mapping[str, tuple[Any, ...]] | None
    grid_seed: int


@contextmanager
def told(where: str) -> Iterator[None]:
    """Let errors of the input begin with the place where it is wrong."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def parse_sweep(values: Mapping[str, Any]) -> SweepDescription:
    """What the top level of the file holds, by its keys.

    Raises:
        InputError: a key, task, method or setting is unknown, a list is empty or names something
            twice, or something has another form than its key asks for.
    """
    _check_known(values, KEYS, "key")
    for key in ("tasks", "methods"):
        if key not in values:
            raise InputError(f"{key} is missing: expected a list, such as {key}: [a, b]")
    tasks = _tasks(values["tasks"])
    models = _names("models", values.get("models", TrainingSettings.fields()["model"].default))
    methods = _names("methods", values["methods"])
    for method in methods:
        get_method(method)
    seeds = _seeds(values.get("seeds", 1))
    with told("grid"):
        grid, grid_seed = _grid(values.get("grid"), seeds[0])
    with told("settings"):
        settings = _settings(values.get("settings", {}), grid)
    axes = {"task": tuple(tasks), "model": models, "method": methods}
    overrides = values.get("overrides", [])
    if not isinstance(overrides, list):
        raise InputError(f"overrides must be a list of mappings with match, found {overrides!r}")
    parsed = []
    for number, override in enumerate(overrides, start=1):
        with told(f"overrides {number}"):
            parsed.append(_override(override, axes, grid))
    return SweepDescription(tasks, models, methods, seeds, settings, tuple(parsed), grid, grid_seed)


def _tasks(value: Any) -> dict[str, dict[str, Any]]:
    """Data settings by name, of tasks by name and of data with its settings."""
    entries = value if isinstance(value, list) else [value]
    tasks: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if isinstance(entry, str):
            name, data = entry, dict[str, Any](task=entry)
        else:
            expected = "a task's name, or a mapping with name and train_file"
            data = _mapping("tasks: an entry", entry, expected)
            name = data.pop("name", None)
            if not isinstance(name, str) or not _SAFE_NAME.fullmatch(name):
                raise InputError(
                    f"tasks: name {name!r} must be a name of letters, digits, dots and dashes, "
                    "which the folder of its runs has too"
                )
            _check_known(data, _DATA_SETTINGS, f"setting of the data '{name}'")
        if "task" in data:
            find_task(str(data["task"]))
        else:
            data = {"data_name": name, **data}
        if name in tasks:
            raise InputError(f"tasks names {name} twice: give each data set a name of its own")
        tasks[name] = data
    if not tasks:
        raise InputError("tasks is empty: expected at least one, see lpft tasks")
    return tasks


def _names(key: str, value: Any) -> tuple[str, ...]:
    names = value if isinstance(value, list) else [value]
    if not names:
        raise InputError(f"{key} is empty: expected at least one")
    for name in names:
        if not isinstance(name, str):
            raise InputError(f"{key}: {name!r} must be a name")
    _check_distinct(key, names)
    return tuple(names)


def _seeds(value: Any) -> tuple[int, ...]:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return tuple(range(value))
    if not isinstance(value, list) or not value or not all(map(_is_seed, value)):
        raise InputError(
            f"seeds {value!r} must be how many seeds, or a list of seeds from 0 to 2**32 - 1"
        )
    _check_distinct("seeds", value)
    return tuple(value)


def _is_seed(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_SEED


def _grid(value: Any, first_seed: int) -> tuple[dict[str, tuple[Any, ...]] | None, int]:
    """The values of each searched setting, and the seed of the search."""
    if value is None:
        return None, first_seed
    given = _mapping("it", value, "a mapping of settings to lists, such as learning_rate: [1e-5]")
    seed = given.pop("seed", first_seed)
    if not _is_seed(seed):
        raise InputError(f"seed {seed!r} must be one seed from 0 to 2**32 - 1")
    training = TrainingSettings.fields()
    searchable = [name for name in deciding(Decides.RUN) if name in training and name not in AXES]
    _check_known(given, searchable, "setting to search")
    if not given:
        raise InputError("it names no setting: expected lists, such as learning_rate: [1e-5, 5e-5]")
    grid = {}
    for name, values in given.items():
        if not isinstance(values, list) or not values:
            raise InputError(f"{name} {values!r} must be a list of values to try")
        grid[name] = tuple(getattr(TrainingSettings.read({name: value}), name) for value in values)
        _check_distinct(name, grid[name])
    return grid, seed


def _settings(value: Any, grid: Mapping[str, Any] | None) -> dict[str, Any]:
    """Settings for several runs: all but those that belong to an axis or to one data set."""
    given = _mapping("it", value, "a mapping of settings of lpft train to their values")
    for name in given:
        if name in AXES:
            raise InputError(f"{name} is set by {AXES[name]}: name it there")
        if name in _OF_ONE_DATA_SET:
            raise InputError(f"{name} belongs to one data set: name it in a mapping of tasks")
        if grid is not None and name in grid:
            raise InputError(f"{name} is searched by grid: leave it out here or there")
    _check_known(given, list(taken_by("train")), "setting")
    return given


def _override(
    value: Any, axes: Mapping[str, Sequence[str]], grid: Mapping[str, Any] | None
) -> Override:
    expected = "a mapping with match, such as match: {task: cb}, and settings"
    given = _mapping("it", value, expected)
    if "match" not in given:
        raise InputError(f"match is missing: expected {expected}")
    match = _mapping("match", given.pop("match"), "a mapping, such as {task: cb}")
    _check_known(match, MATCHED, "axis of match")
    if not match:
        raise InputError("match is empty: settings for all runs belong under settings")
    names = {axis: _names(f"match: {axis}", match[axis]) for axis in match}
    for axis, chosen in names.items():
        for name in chosen:
            if name not in axes[axis]:
                raise InputError(
                    f"match: {axis} {name} is not in this sweep{_near(name, axes[axis])}: expected "
                    f"some of {', '.join(axes[axis])}"
                )
    if not given:
        raise InputError("it has no setting: expected some beside match")
    return Override(names, _settings(given, grid))


def _mapping(what: str, value: Any, expected: str) -> dict[str, Any]:
    """A mapping with underscores in place of dashes in its keys, to be changed at will."""
    if not isinstance(value, dict):
        raise InputError(f"{what} must be {expected}, found {value!r}")
    return {str(name).replace("-", "_"): item for name, item in value.items()}


def _check_known(given: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    for name in given:
        if name not in known:
            few = len(known) <= _MOST_LISTED
            expected = f"expected some of {', '.join(known)}" if few else "see lpft train --help"
            raise InputError(f"unknown {what} '{name}'{_near(name, known)}: {expected}")


def _near(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _check_distinct(key: str, values: Sequence[Any]) -> None:
    repeated = [value for place, value in enumerate(values) if value in values[:place]]
    if repeated:
        raise InputError(f"{key} names {repeated[0]} twice")
