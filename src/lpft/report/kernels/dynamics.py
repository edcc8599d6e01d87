"""What ``kernels.json`` says of training as the kernel predicts it, beside real training."""

from collections.abc import Mapping
from dataclasses import dataclass

from lpft.report.numbers import number
from lpft.results.schema import Record, UnusableRecord, numbers, section

Values = tuple[float | None, ...]


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
