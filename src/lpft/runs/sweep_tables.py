"""What is shown of a sweep: its plan, the points that its search chose, and how its runs ended."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lpft.results.folder import read_record
from lpft.results.sweep import SweepResult, run_name
from lpft.runs.remaining import duration
from lpft.runs.sweep_config import RUNS, SweepConfig
from lpft.settings.configs import RunConfig

Table = tuple[list[str], list[list[Any]]]
"""Header and rows."""

_SEARCHED = "best of the search"
_PLANNED = ("learning_rate", "batch_size", "epochs")


def plan_records(sweep: SweepConfig, folder: Path) -> list[dict[str, Any]]:
    """Every run in the order in which it is trained, those of the search first.

    ``state`` is that of a run which is there already; a setting that is still to be searched has
    no value but says so.
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


def plan_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """The records of :func:`plan_records`, without what their names say."""
    header = ["run", *(name.replace("_", " ") for name in _PLANNED), "so far"]
    return header, [
        [record["run"], *(_cell(record[name]) for name in _PLANNED), _cell(record["state"])]
        for record in records
    ]


def choice_table(search: Mapping[str, Any]) -> Table:
    """What each cell's search chose, by ``search.json``."""
    header = ["task", "model", "method", "chosen on validation"]
    return header, [
        [cell["task"], cell["model"], cell["method"], describe_choice(cell)]
        for cell in search["cells"]
    ]


def describe_choice(cell: Mapping[str, Any]) -> str:
    """The chosen point of a cell of ``search.json`` in words."""
    if cell["chosen"] is None:
        return "nothing: no point of the grid could be trained"
    settings = ", ".join(f"{name} {value}" for name, value in cell["chosen"].items())
    best = max(point["score"] for point in cell["points"] if point["score"] is not None)
    tied = f", the first of {cell['tied']} that tie" if cell["tied"] > 1 else ""
    return f"{settings} ({cell['metric']} {best:.3f}{tied})"


def outcome_table(result: SweepResult) -> Table:
    """How each run ended."""
    header = ["run", "outcome", "time", "reason"]
    return header, [
        [
            run_name(result.folder, outcome.folder),
            "finished before" if outcome.state == "skipped" else outcome.state,
            "-" if outcome.seconds is None else duration(outcome.seconds),
            _cell(outcome.reason),
        ]
        for outcome in result.outcomes
    ]


def _planned(config: RunConfig, folder: Path, open_choices: Mapping[str, str]) -> dict[str, Any]:
    record = read_record(config.output_dir)
    flat = {**config.flat(), **open_choices}
    return {
        "run": run_name(folder, config.output_dir),
        **{name: flat[name] for name in ("model", "method", "seed", *_PLANNED)},
        "state": None if record is None else record["status"],
    }


def _cell(value: Any) -> Any:
    return "-" if value is None else value
