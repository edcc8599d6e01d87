"""Tables of training as the kernel predicts it, beside real training."""

from lpft.report.grid import Cell, Column, Table, from_columns, text_cells
from lpft.report.numbers import counted, fixed, scientific, significant, whole
from lpft.results.kernels import Dynamics, KernelRecord, Trajectory


def first_order(kernels: KernelRecord) -> Table | None:
    """Relative error of the first-order change of logits and features, by rate."""
    rows = [(name, step) for name, found in _dynamics(kernels) for step in found.first_order]
    if not rows:
        return None
    columns: list[tuple[Column, list[Cell]]] = [
        (Column("Method", numeric=False), text_cells([name for name, _ in rows])),
        (Column("Rate"), [_scientific(step.rate) for _, step in rows]),
        (Column("logits", "Relative error"), [_scientific(step.logits) for _, step in rows]),
        (Column("features", "Relative error"), [_scientific(step.features) for _, step in rows]),
    ]
    note = (
        f"One step of gradient descent on the summed loss of {_texts(kernels, 'train')}: the "
        f"change that the first order predicts for {_texts(kernels, 'eval')} against the real one, "
        "in float64. The error falls with the rate, until rounding is larger than the change. "
        "Features without an error do not move."
    )
    return from_columns(
        "first-order", "One step beside its first order", columns, note=note, spanning=True
    )


def linearized(kernels: KernelRecord) -> Table | None:
    """Error and losses of training in the kernel's linear model, by number of steps."""
    rows = [
        (name, step, place, found)
        for name, found in _dynamics(kernels)
        for place, step in enumerate(found.steps)
        if found.trajectories
    ]
    if not rows:
        return None
    columns: list[tuple[Column, list[Cell]]] = [
        (Column("Method", numeric=False), text_cells([name for name, *_ in rows])),
        (Column("Rate"), [_scientific(found.rate) for *_, found in rows]),
        (Column("Steps"), [Cell(whole(step), step) for _, step, *_ in rows]),
    ]
    for split, above in (("train", "Training texts"), ("eval", "Evaluated texts")):
        known = [(found.trajectories.get(split), place) for *_, place, found in rows]
        errors = [_at(trajectory, "error", place) for trajectory, place in known]
        columns.append((Column("error", above), [_error(value) for value in errors]))
        for name, key in (("NLL", "real"), ("linear NLL", "linearized")):
            values = [_at(trajectory, key, place) for trajectory, place in known]
            columns.append((Column(name, above), [Cell(fixed(v), v) for v in values]))
    note = (
        f"Gradient descent on {_texts(kernels, 'train')} beside the same training of the model "
        "that is linear in its parameters, which the kernel at the start decides. Error: relative, "
        "of the change of logits since the start; NLL: mean, in nats, before any temperature."
    )
    return from_columns(
        "linearized", "Training beside the linear model", columns, note=note, spanning=True
    )


def _dynamics(kernels: KernelRecord) -> list[tuple[str, Dynamics]]:
    return [(m.name, m.dynamics) for m in kernels.methods if m.dynamics is not None]


def _texts(kernels: KernelRecord, split: str) -> str:
    """``8 training texts``; of the first method, as all have the same."""
    named = {"train": "training", "eval": kernels.eval_split or "evaluated"}
    rows = _dynamics(kernels)[0][1].rows.get(split)
    return counted(0 if rows is None else int(rows), f"{named[split]} text")


def _at(trajectory: Trajectory | None, key: str, place: int) -> float | None:
    if trajectory is None:
        return None
    values: tuple[float | None, ...] = getattr(trajectory, key)
    return values[place]


def _error(value: float | None) -> Cell:
    return Cell(significant(value, 2), value)


def _scientific(value: float | None) -> Cell:
    return Cell(scientific(value, 1), value)
