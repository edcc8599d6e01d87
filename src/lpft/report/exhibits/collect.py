"""Find and read the experiments below a folder; what cannot be used is listed with its reason."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lpft.report.exhibits.checks import check_shapes
from lpft.report.numbers import plain
from lpft.results.exhibits import RECORD, SCHEMA, ExperimentRecord, read_experiment
from lpft.results.folder import UnreadFolder, folders_with, read_folders
from lpft.results.schema import UnusableRecord, Values, check_schema, read_json

_BREAKS = re.compile(r"[\t\n\r]+")  # as in the message of an error


@dataclass(frozen=True)
class FoundExperiment:
    """An experiment with the folder of its record; ``name`` is its path below the report's."""

    folder: Path
    name: str
    record: ExperimentRecord


def find_experiments(
    directory: Path,
) -> tuple[tuple[FoundExperiment, ...], tuple[UnreadFolder, ...]]:
    """Read every ``experiment.json`` at or below ``directory``, ordered by the experiments' names.

    What is of another schema, or damaged, comes back as :class:`UnreadFolder` with its reason.
    Hidden folders are not searched.
    """
    found, unread = read_folders(folders_with(RECORD, directory), directory, "experiment", _read)
    return tuple(sorted(found, key=_order)), unread


def _read(folder: Path, name: str) -> FoundExperiment:
    record = read_json(folder / RECORD)
    check_schema(record, RECORD, SCHEMA, "lpft reproduce")
    return FoundExperiment(folder, name, parse_experiment(record))


def parse_experiment(record: Values) -> ExperimentRecord:
    """The experiment of a JSON object, its texts printable and numbers that are not finite absent.

    Raises :class:`~lpft.results.schema.UnusableRecord`, which says what is wrong.
    """
    try:
        experiment = read_experiment(_clean(record))
        check_shapes(experiment)
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
        place = "/".join(map(str, first["loc"]))
        raise UnusableRecord(f"{RECORD}: {problem.title}: {place}: {first['msg']}") from problem
    except KeyError as problem:
        raise UnusableRecord(f"{RECORD}: {problem.args[0]} is not there") from problem
    except (TypeError, ValueError, RecursionError) as problem:
        raise UnusableRecord(f"{RECORD}: {problem}") from problem
    return experiment


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return plain(_BREAKS.sub(" ", value))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {plain(key): _clean(item) for key, item in value.items()}
    return value


def _order(found: FoundExperiment) -> tuple[list[tuple[int, str]], str]:
    """By name, with figure2 before figure10."""
    parts = re.findall(r"\d+|\D+", found.record.name)
    return [(int(part) if part.isdecimal() else -1, part) for part in parts], found.name
