"""Draw the panels of a figure exhibit on axes: lines with bands, points with intervals, clouds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from lpft.report.drawing import (
    SMALL,
    banded_rows,
    dress,
    line_of,
    point_with_interval,
    row_places,
    shortened,
    thinned,
    tick_text,
)
from lpft.report.palette import GRID, INK, MUTED, PAPER, Style
from lpft.results.exhibits import Panel, Series

MOST_POINTS = 240  # of a line: more cannot be told apart at this size
_SPARSE = 25  # points up to which each has its marker
_LETTERS = 34  # of a title or a label beside a small panel
_CLOUD = 150  # points from which a cloud has small markers

Looks = Mapping[str, Style]
Values = NDArray[np.float64]


def draw_lines(axes: Axes, panel: Panel, looks: Looks) -> None:
    """A line per series, with a band between its low and high values."""
    for series in panel.series:
        look = looks[series.label]
        places = thinned(len(series.x), MOST_POINTS)
        x, y = _values(series.x)[places], _values(series.y)[places]
        band = _band(series)
        if band is not None:
            low, high = band[0][places], band[1][places]
            axes.fill_between(x, low, high, color=look.colour, alpha=0.16, linewidth=0)
        dense = len(places) > _SPARSE
        every = max(1, len(places) // 6) if dense else 1
        axes.plot(x, y, **line_of(look, markersize=3.8, markevery=every, linewidth=1.3))
    _scale(axes, panel)
    _dress(axes, panel.title, panel.x, panel.y)
    axes.margins(x=0.03)


def draw_points(axes: Axes, panel: Panel, looks: Looks) -> None:
    """Values with intervals: a row for each named position, or points along a numeric x."""
    if panel.ticks:
        _draw_rows(axes, panel, looks)
    else:
        _draw_bars(axes, panel, looks)


def draw_cloud(axes: Axes, panel: Panel, looks: Looks) -> None:
    """Every point of every series; those with texts are larger, outlined and named."""
    size = 2.6 if sum(len(series.x) for series in panel.series) > _CLOUD else 4.0
    for series in sorted(panel.series, key=lambda series: bool(series.texts)):
        look = looks[series.label]
        more: dict[str, Any] = {"markersize": size, "alpha": 0.75, "markeredgewidth": 0.6}
        if series.texts:
            more = {"markersize": 7.5, "markeredgecolor": INK, "markeredgewidth": 1.1}
        _errors(axes, series, look)
        x, y = _values(series.x), _values(series.y)
        axes.plot(x, y, **line_of(look, linestyle="None", **more))
    _scale(axes, panel)
    _name_points(axes, panel)
    _dress(axes, panel.title, panel.x, panel.y)


def on_axes(panel: Panel) -> Panel:
    """The panel without the points that its axes do not have: 0 and below on logarithmic ones."""
    along_x = panel.x_scale == "log" and not panel.ticks
    along_y = panel.y_scale == "log"

    def shown(series: Series) -> tuple[float | None, ...]:
        return tuple(
            None if y is None or (along_x and x <= 0) or (along_y and y <= 0) else y
            for x, y in zip(series.x, series.y, strict=True)
        )

    return replace(panel, series=tuple(replace(one, y=shown(one)) for one in panel.series))


def _draw_rows(axes: Axes, panel: Panel, looks: Looks) -> None:
    """Named positions from the top down and values along x: names stay level and whole."""
    offsets = row_places(len(panel.series), 0)
    for offset, series in zip(offsets, panel.series, strict=True):
        for place, (position, value) in enumerate(zip(series.x, series.y, strict=True)):
            if value is not None:
                interval = _interval(series, place)
                point_with_interval(axes, value, interval, position + offset, looks[series.label])
    _scale_along(axes, "x", panel.y_scale)
    _dress(axes, panel.title, panel.y, panel.x)
    banded_rows(axes, panel.ticks)
    low, high = axes.get_xlim()
    if low < 0 < high:
        axes.axvline(0, color=MUTED, linewidth=0.8, zorder=1)


def _draw_bars(axes: Axes, panel: Panel, looks: Looks) -> None:
    for series in panel.series:
        look = looks[series.label]
        _errors(axes, series, look)
        axes.plot(
            _values(series.x), _values(series.y), **line_of(look, linestyle="None", markersize=5)
        )
    _scale(axes, panel)
    _name_points(axes, panel)
    _dress(axes, panel.title, panel.x, panel.y)


def _errors(axes: Axes, series: Series, look: Style) -> None:
    band = _band(series)
    if band is not None:
        axes.vlines(_values(series.x), *band, color=look.colour, linewidth=1.1)


def _name_points(axes: Axes, panel: Panel) -> None:
    """Names beside their points, towards the middle of the axes."""
    axes.autoscale_view()
    to_axes = axes.transData + axes.transAxes.inverted()
    named = [
        (x, y, text)
        for series in panel.series
        for x, y, text in zip(series.x, series.y, series.texts, strict=False)
        if y is not None and text
    ]
    for x, y, text in named:
        to_the_left = to_axes.transform((x, y))[0] > 0.5
        axes.annotate(
            shortened(text, 20),
            (x, y),
            xytext=(-6 if to_the_left else 6, 4),
            textcoords="offset points",
            ha="right" if to_the_left else "left",
            fontsize=SMALL,
            color=INK,
            bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
            parse_math=False,
        )


def _dress(axes: Axes, title: str, x: str, y: str) -> None:
    dress(axes, title=_two_lines(title), x=_two_lines(x), y=_two_lines(y))


def _two_lines(text: str) -> str:
    """A long text on two lines; what is left over is cut off."""
    first, *rest = wrap(text, _LETTERS) or [""]
    return "\n".join([first, *([shortened(" ".join(rest), _LETTERS)] if rest else [])])


def _scale(axes: Axes, panel: Panel) -> None:
    _scale_along(axes, "x", panel.x_scale)
    _scale_along(axes, "y", panel.y_scale)


def _scale_along(axes: Axes, along: str, scale: str) -> None:
    """Ticks as plain numbers, without a factor above the axis; fewer decades, more ticks."""
    axis = axes.xaxis if along == "x" else axes.yaxis
    if scale == "log":
        (axes.set_xscale if along == "x" else axes.set_yscale)("log")
        low, high = axes.get_xlim() if along == "x" else axes.get_ylim()
        subs = (1.0,) if high >= 100 * low else (1.0, 2.0, 5.0)
        axis.set_major_locator(LogLocator(subs=subs, numticks=8))
        axis.set_minor_formatter(NullFormatter())
        axis.set_tick_params(which="minor", color=GRID, width=0.5, length=1.5)
    axis.set_major_formatter(FuncFormatter(tick_text))


def _values(numbers: Sequence[float | None]) -> Values:
    return np.array([np.nan if n is None else n for n in numbers], dtype=np.float64)


def _band(series: Series) -> tuple[Values, Values] | None:
    if series.low is None or series.high is None:
        return None
    return _values(series.low), _values(series.high)


def _interval(series: Series, place: int) -> tuple[float, float] | None:
    band = _band(series)
    if band is None or not np.isfinite([edge[place] for edge in band]).all():
        return None
    return float(band[0][place]), float(band[1][place])
