"""Norms, loss, accuracy and feature change along training, as small multiples."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lpft.report.drawing import dress, legend, legend_height, line_of, new_figure, sheet
from lpft.report.numbers import number
from lpft.report.palette import styles
from lpft.results.groups import Group
from lpft.results.run import Run

MOST_POINTS = 150  # of a curve: more cannot be told apart at this size
PANEL = (2.65, 1.95)  # inches

# What history.jsonl records, the event that records it, and its name with unit.
QUANTITIES = (
    ("loss", "training", "Training loss (nats)"),
    ("validation_loss", "evaluation", "Validation loss (nats)"),
    ("validation_accuracy", "evaluation", "Validation accuracy"),
    ("feature_difference", "evaluation", "Feature change"),
    ("head_norm", "evaluation", "Head norm"),
    ("bias_norm", "evaluation", "Bias norm"),
    ("logit_norm", "evaluation", "Logit norm"),
)
_FROM_ZERO = ("head_norm", "bias_norm", "logit_norm", "feature_difference")

Curve = list[tuple[float, float]]


def curve(run: Run, quantity: str) -> Curve:
    """(epoch, value) of one quantity; long records become means over equal stretches."""
    event = next(event for name, event, _ in QUANTITIES if name == quantity)
    points = []
    for row in run.history:
        epoch, value = number(row.get("epoch")), number(row.get(quantity))
        if row.get("event") == event and epoch is not None and value is not None:
            points.append((epoch, value))
    if len(points) <= MOST_POINTS:
        return points
    stretches = np.array_split(np.array(points), MOST_POINTS)
    return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in stretches]


def recorded(group: Group) -> tuple[tuple[str, str], ...]:
    """The quantities that some run of the group recorded, with their names."""
    return tuple(
        (quantity, name)
        for quantity, _, name in QUANTITIES
        if any(curve(run, quantity) for run in group.runs)
    )


def curve_panel(group: Group, quantity: str) -> Figure:
    """One quantity of all runs of a group, a line per run."""
    figure = new_figure(*PANEL)
    _draw(figure.add_axes((0.16, 0.21, 0.81, 0.65)), group, quantity)
    return figure


def curve_sheet(group: Group) -> Figure | None:
    """All recorded quantities in one figure with its legend, for papers."""
    quantities = recorded(group)
    if not quantities:
        return None
    width, height = PANEL
    rows, columns, figure = sheet(len(quantities), 4, width, height)
    top = legend_height(styles(group.settings), columns * width)
    total = rows * height + top
    figure.set_size_inches(columns * width, total)
    for position, (quantity, _) in enumerate(quantities):
        row, column = divmod(position, columns)
        bottom = (rows - row - 1) * height
        place = (column + 0.16) / columns, (bottom + 0.21 * height) / total
        _draw(figure.add_axes((*place, 0.81 / columns, 0.65 * height / total)), group, quantity)
    legend(figure, styles(group.settings), top / total)
    return figure


def _draw(axes: Axes, group: Group, quantity: str) -> None:
    looks = styles(group.settings)
    for setting in group.settings:
        curves = [curve(run, quantity) for run in setting.runs]
        for points in curves:
            if points:
                _line(axes, points, line_of(looks[setting.label]), len(curves))
    title = next(name for found, _, name in QUANTITIES if found == quantity)
    dress(axes, title=title, x="epoch")
    axes.margins(x=0.03)
    if quantity in _FROM_ZERO:
        axes.set_ylim(0, 1.08 * max(axes.get_ylim()[1], 1e-12))


def _line(axes: Axes, points: Sequence[tuple[float, float]], look: dict, runs: int) -> None:
    epochs, values = zip(*points, strict=True)
    dense = len(points) > 25
    look.update(
        markersize=3.6,
        markevery=max(1, len(points) // 6) if dense else 1,
        linewidth=1.3 if runs == 1 else 0.8,
        alpha=1.0 if runs == 1 else 0.75,
    )
    axes.plot(epochs, values, clip_on=False, **look)
