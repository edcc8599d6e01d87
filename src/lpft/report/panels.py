"""Draw a figure: a drawing per panel for the page, and all panels on one sheet for papers.

Lines with bands, points with intervals, clouds of points, bars, heat maps, reliability diagrams.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from textwrap import wrap
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.gridspec import SubplotSpec
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from lpft.report.drawing import (
    GRID,
    INK,
    MUTED,
    PAPER,
    SANS,
    SERIF,
    SMALL,
    TEXT,
    VENUES,
    Style,
    dress,
    inline_svg,
    label_axes,
    legend,
    legend_height,
    line_of,
    new_canvas,
    scale,
    series_styles,
    settings,
    settle,
    shortened,
    swatch,
)
from lpft.results.exhibits import MOST_POINTS, Figure, FigureKind, Panel, Series, thinned
from lpft.results.formats import fixed, scientific
from lpft.results.schema import plain
from lpft.settings import Venue

# Even in lightness, and the same to colour-blind readers.
COLOURS = mpl.colormaps["cividis"].resampled(64)
CLIPPED = (1.0, 99.0)  # percentiles at the ends of the colours, so that a diagonal hides no blocks
_PANEL, _SMALL_PANEL = (3.6, 2.7), (2.65, 2.05)  # inches
_MAP, _DIAGRAM = (2.75, 2.75), (2.5, 2.3)
_ROWS_ALONE = 6.6  # inches that named rows have where they are the only panel
_ROWS_BESIDE_NAMES = 2.2
_MANY = 4  # panels from which they are small
_ROW, _SERIES, _FRAME = 0.2, 0.14, 0.75  # inches of a named row, of a series in it, around all
_WIDEST = 10.6  # inches of a sheet of small panels, and of
_WIDEST_LARGE = 7.6  # one of large ones
_SMALLEST, _NARROWEST = 0.7, 1.3  # of a panel's size, and inches, on a sheet of a given width
_PAGE = 8.0  # inches of height, which leave room for a caption
_SPARSE = 25  # points up to which each has its marker
_CLOUD = 150  # points from which a cloud has small markers
_LETTERS = 34  # of a title or a label beside a small panel

Styles = Mapping[str, Style]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Drawing:
    """A figure as the page shows it.

    ``strips`` has the drawings of each row that scrolls, or all in one; ``layout`` is how the page
    arranges them. ``undrawn`` names the panels without numbers, ``off_axes`` says that logarithmic
    axes leave some values out.
    """

    strips: tuple[tuple[str, tuple[Markup, ...]], ...]
    layout: str
    legend: tuple[tuple[str, Markup], ...]
    undrawn: tuple[str, ...]
    off_axes: bool


def draw(figure: Figure, name: str) -> Drawing:
    """The panels as SVG; ``name`` is unique in the page."""
    strips: dict[str, list[Markup]] = {}
    for place, (panel, canvas) in enumerate(panel_canvases(figure)):
        svg = inline_svg(
            canvas,
            f"{name}-panel-{place}",
            f"{figure.title}: {panel.title}" if panel.title else figure.title,
            f"{' against '.join(filter(None, (panel.y, panel.x)))}; the values are in "
            f"{figure.values_in}.",
        )
        strips.setdefault(panel.strip, []).append(svg)
    return Drawing(
        strips=tuple((strip, tuple(drawings)) for strip, drawings in strips.items()),
        layout=_layout(figure),
        legend=tuple(
            (label, inline_svg(swatch(style), f"{name}-key-{place}"))
            for place, (label, style) in enumerate(legend_styles(figure).items())
        ),
        undrawn=tuple(p.title for p in figure.panels if not _has_values(_on_axes(p))),
        off_axes=any(_on_axes(panel) != panel for panel in figure.panels),
    )


def panel_canvases(figure: Figure) -> Iterator[tuple[Panel, Canvas]]:
    """Every panel that has something to draw, on a canvas of its own without a legend."""
    styles = series_styles(figure)
    for panel in drawn_panels(figure):
        canvas = new_canvas(*_size(figure, panel))
        _DRAW[figure.kind](canvas, canvas.add_gridspec(1, 1)[0], panel, styles)
        settle(canvas)
        yield panel, canvas


def sheet(figure: Figure, venue: Venue | None = None) -> Canvas | None:
    """All panels on one canvas with its legend; None where there is nothing to draw.

    With a ``venue`` of :data:`VENUES` the canvas has its width, and its texts the venue's font at
    their final size; panels are smaller, and more beside one another where a page is too low.
    """
    panels = drawn_panels(figure)
    if not panels:
        return None
    fonts = SANS if venue is None else SERIF
    with settings(fonts=fonts):
        canvas = _sheet(figure, panels, None if venue is None else VENUES[venue])
    settle(canvas, fonts)
    return canvas


def _sheet(figure: Figure, panels: Sequence[Panel], full: float | None) -> Canvas:
    """The sheet before its labels have found their room; ``full`` is the width it must have."""
    sizes = [_size(figure, panel) for panel in panels]
    width, height = max(size[0] for size in sizes), max(size[1] for size in sizes)
    styles, keys = series_styles(figure), legend_styles(figure)
    if full is None:
        widest = _WIDEST if _has_small_panels(figure) else _WIDEST_LARGE
        positions = _places(panels, max(1, int(widest / width)), wrapped=False)
        rows, columns = (1 + max(position[axis] for position in positions) for axis in (0, 1))
        full = columns * width
    else:
        most = max(1, int(full / (_SMALLEST * width)))
        while True:
            positions = _places(panels, most, wrapped=True)
            rows, columns = (1 + max(position[axis] for position in positions) for axis in (0, 1))
            # Named rows keep their height; the others keep their shape.
            smaller = 1.0 if panels[0].ticks else min(1.0, full / columns / width)
            if rows * height * smaller <= _PAGE or full / (most + 1) < _NARROWEST:
                break
            most += 1
        height *= smaller
    top = legend_height(keys, full)
    total = rows * height + top
    canvas = new_canvas(full, total, top / total)
    grid = canvas.add_gridspec(rows, columns)
    for panel, (row, column) in zip(panels, positions, strict=True):
        _DRAW[figure.kind](canvas, grid[row, column], panel, styles)
    if keys:
        legend(canvas, keys, top / total)
    return canvas


def _places(panels: Sequence[Panel], most: int, *, wrapped: bool) -> list[tuple[int, int]]:
    """Row and column of each panel; a strip has rows of its own, one alone unless wrapped."""
    strips: dict[str, list[int]] = {}
    for number, panel in enumerate(panels):
        strips.setdefault(panel.strip, []).append(number)
    positions, first = {}, 0
    for strip, numbers in strips.items():
        length = most if wrapped or not strip else len(numbers)
        for position, number in enumerate(numbers):
            row, column = divmod(position, length)
            positions[number] = (first + row, column)
        first += math.ceil(len(numbers) / length)
    return [positions[number] for number in range(len(panels))]


def drawn_panels(figure: Figure) -> tuple[Panel, ...]:
    """The panels that have something to draw, with what their axes can show."""
    return tuple(panel for panel in map(_on_axes, figure.panels) if _has_values(panel))


def legend_styles(figure: Figure) -> dict[str, Style]:
    """The styles of the labels that are drawn; kinds without lines have none in the legend."""
    if figure.kind in ("heat", "bars", "reliability"):
        return {}
    drawn = {
        series.label
        for panel in drawn_panels(figure)
        for series in panel.series
        if any(value is not None for value in series.y)
    }
    styles = {label: style for label, style in series_styles(figure).items() if label in drawn}
    if figure.kind == "lines":
        return styles
    return {label: replace(style, dashes=None) for label, style in styles.items()}


def _has_values(panel: Panel) -> bool:
    drawn = any(value is not None for series in panel.series for value in series.y)
    return drawn or panel.matrix is not None


def _on_axes(panel: Panel) -> Panel:
    """The panel without the points that its axes do not have: 0 and below on logarithmic ones."""
    along_x = panel.x_scale == "log" and not panel.ticks
    along_y = panel.y_scale == "log"

    def shown(series: Series) -> tuple[float | None, ...]:
        return tuple(
            None if y is None or (along_x and x <= 0) or (along_y and y <= 0) else y
            for x, y in zip(series.x, series.y, strict=True)
        )

    return replace(panel, series=tuple(replace(one, y=shown(one)) for one in panel.series))


def _has_small_panels(figure: Figure) -> bool:
    """Whether panels are small multiples: many of them, but no clouds with their named points."""
    if figure.kind in ("heat", "bars", "reliability"):
        return True
    return figure.kind != "scatter" and len(drawn_panels(figure)) >= _MANY


def _size(figure: Figure, panel: Panel) -> tuple[float, float]:
    """Width and height of a panel in inches; named rows need a height of their own."""
    if figure.kind == "bars":
        return _MAP[0], _FRAME + 0.17 * len(panel.ticks)
    if figure.kind == "points" and panel.ticks:
        longest = max(len(shortened(line)) for name in panel.ticks for line in name.split("\n"))
        width = max(_PANEL[0], 0.25 + 0.08 * longest + _ROWS_BESIDE_NAMES)
        if len(drawn_panels(figure)) == 1:
            width = max(width, _ROWS_ALONE)
        lines = max(1 + name.count("\n") for name in panel.ticks)
        row = max(_ROW + _SERIES * len(panel.series), 0.17 * lines)
        return width, _FRAME + len(panel.ticks) * row
    if figure.kind in ("heat", "reliability"):
        return _MAP if figure.kind == "heat" else _DIAGRAM
    return _SMALL_PANEL if _has_small_panels(figure) else _PANEL


def _layout(figure: Figure) -> str:
    """The style sheet's class for what holds the drawings."""
    panels = drawn_panels(figure)
    if any(panel.strip for panel in panels):
        return "strip"
    if _has_small_panels(figure):
        return "panels"
    if len(panels) == 1 and panels[0].ticks:
        return "wide"
    by_count = {1: "single", 3: "three"}
    return f"panels {by_count.get(len(panels), 'pair')}"


def _draw_lines(canvas: Canvas, spec: SubplotSpec, panel: Panel, styles: Styles) -> None:
    """A line per series, with a band between its low and high values."""
    axes = canvas.add_subplot(spec)
    times = Counter(series.label for series in panel.series)
    for series in panel.series:
        style = styles[series.label]
        marked = () if series.marked is None else series.marked
        indices = np.union1d(thinned(len(series.x), MOST_POINTS), marked).astype(np.int64)
        x, y = _values(series.x)[indices], _values(series.y)[indices]
        band = _band(series)
        if band is not None:
            low, high = band[0][indices], band[1][indices]
            axes.fill_between(x, low, high, color=style.colour, alpha=0.16, linewidth=0)
        markers: Any = max(1, len(indices) // 6) if len(indices) > _SPARSE else 1
        if series.marked is not None:
            markers = [int(place) for place in np.searchsorted(indices, marked)]
        width, alpha = (1.3, 1.0) if times[series.label] == 1 else (0.8, 0.75)
        look = line_of(style, markersize=3.8, markevery=markers, linewidth=width, alpha=alpha)
        axes.plot(x, y, **look)
    if panel.level is not None:
        height, name = panel.level
        axes.axhline(height, color=MUTED, linewidth=0.8, linestyle=(0, (4, 2)))
        axes.annotate(
            name,
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 3),
            textcoords="offset points",
            ha="right",
            fontsize=SMALL,
            color=MUTED,
        )
    _scale(axes, panel)
    _name_points(axes, panel)
    _dress(axes, panel.title, panel.x, panel.y)
    axes.margins(x=0.03)
    if panel.from_zero:
        axes.set_ylim(0, 1.08 * max(axes.get_ylim()[1], 1e-12))


def _draw_points(canvas: Canvas, spec: SubplotSpec, panel: Panel, styles: Styles) -> None:
    """Values with intervals: a row for each named position, or points along a numeric x."""
    axes = canvas.add_subplot(spec)
    if panel.ticks:
        _draw_rows(axes, panel, styles)
    else:
        _draw_markers(axes, panel, styles, lambda _: {"markersize": 5})


def _draw_cloud(canvas: Canvas, spec: SubplotSpec, panel: Panel, styles: Styles) -> None:
    """Every point of every series; those with texts are larger, outlined and named."""
    size = 2.6 if sum(len(series.x) for series in panel.series) > _CLOUD else 4.0
    small = {"markersize": size, "alpha": 0.75, "markeredgewidth": 0.6}
    large = {"markersize": 7.5, "markeredgecolor": INK, "markeredgewidth": 1.1}
    in_front = sorted(panel.series, key=lambda series: bool(series.texts))
    axes = canvas.add_subplot(spec)
    panel = replace(panel, series=tuple(in_front))
    _draw_markers(axes, panel, styles, lambda series: large if series.texts else small)


def _draw_markers(
    axes: Axes, panel: Panel, styles: Styles, look_of: Callable[[Series], dict[str, Any]]
) -> None:
    for series in panel.series:
        style, band, x = styles[series.label], _band(series), _values(series.x)
        if band is not None:
            axes.vlines(x, *band, color=style.colour, linewidth=1.1)
        axes.plot(x, _values(series.y), **line_of(style, linestyle="None", **look_of(series)))
    _scale(axes, panel)
    _name_points(axes, panel)
    _dress(axes, panel.title, panel.x, panel.y)


def _draw_rows(axes: Axes, panel: Panel, styles: Styles) -> None:
    """Named positions from the top down and values along x: names stay level and whole."""
    step = 0.72 / max(len(panel.series), 1)
    for order, series in enumerate(panel.series):
        style, band = styles[series.label], _band(series)
        height = _values(series.x) + (order - (len(panel.series) - 1) / 2) * step
        values = _values(series.y)
        if band is not None:
            axes.hlines(height, *band, color=style.colour, linewidth=1.1)
        axes.plot(values, height, **line_of(style, linestyle="None", markersize=5))
        for value, y, text in zip(values, height, series.texts, strict=False):
            if np.isfinite(value):
                _name_point(axes, text, (value, y), (7, -3), "left")
    scale(axes, "x", panel.y_scale)
    _dress(axes, panel.title, panel.y, panel.x)
    for position in range(0, len(panel.ticks), 2):
        axes.axhspan(position - 0.5, position + 0.5, color=GRID, alpha=0.35, linewidth=0)
    _name_rows(axes, panel.ticks, TEXT)
    low, high = axes.get_xlim()
    if panel.from_zero:
        axes.set_xlim(0, 1.2 * high)
    elif low < 0 < high:
        axes.axvline(0, color=MUTED, linewidth=0.8, zorder=1)


def _name_rows(axes: Axes, names: Sequence[str], size: float, letters: int = 28) -> None:
    """Rows 0, 1, ... from the top down with their names, never read as mathematics."""
    lines = ["\n".join(shortened(line, letters) for line in name.split("\n")) for name in names]
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_yticks(range(len(names)), lines, parse_math=False)
    axes.tick_params(axis="y", length=0, labelsize=size, labelcolor=INK)
    axes.set_ylim(len(names) - 0.5, -0.5)


def _draw_bars(canvas: Canvas, spec: SubplotSpec, panel: Panel, styles: Styles) -> None:
    """A bar and its number for each named row; an empty name is a gap."""
    axes = canvas.add_subplot(spec)
    for series in panel.series:
        known = [(x, y) for x, y in zip(series.x, series.y, strict=True) if y is not None]
        positions, values = zip(*known, strict=True)
        axes.barh(positions, values, height=0.72, color=styles[series.label].colour, linewidth=0)
        for position, value in known:
            axes.annotate(
                fixed(value, 1),
                (max(value, 0.0), position),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=SMALL,
                color=MUTED,
            )
    _dress(axes, panel.title, panel.y, panel.x)
    _name_rows(axes, panel.ticks, SMALL, letters=17)
    axes.set_xlim(0, 1.18 * axes.get_xlim()[1])


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
        offset = (-6 if to_the_left else 6, 4)
        _name_point(axes, text, (x, y), offset, "right" if to_the_left else "left")


def _name_point(
    axes: Axes, text: str, point: tuple[float, float], offset: tuple[float, float], side: str
) -> None:
    axes.annotate(
        shortened(text, 20),
        point,
        xytext=offset,
        textcoords="offset points",
        ha=side,
        fontsize=SMALL,
        color=INK,
        bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
        parse_math=False,
    )


def _draw_heat_map(canvas: Canvas, spec: SubplotSpec, panel: Panel, _styles: Styles) -> None:
    """A matrix with its classes along the left, and its colours' scale on the right."""
    parts = spec.subgridspec(1, 2, width_ratios=(1, 0.035), wspace=0.02)
    axes, side = canvas.add_subplot(parts[0]), canvas.add_subplot(parts[1])
    matrix = np.asarray(panel.matrix, dtype=np.float64)
    low, high = np.percentile(matrix, CLIPPED)
    axes.imshow(
        matrix,
        cmap=COLOURS,
        vmin=low,
        vmax=high,
        interpolation="none",
        extent=(0, len(matrix), len(matrix), 0),
        aspect="auto",
    )
    label_axes(axes, _two_lines(axes, panel.title), panel.x, "" if panel.bounds else panel.y)
    _mark_classes(axes, panel, len(matrix))
    side.imshow(np.linspace(1, 0, 128)[:, None], cmap=COLOURS, aspect="auto", interpolation="none")
    side.set_axis_off()
    for value, y, where in ((high, 1.02, "bottom"), (low, -0.02, "top")):
        # Above and below there is room already: the scale stands close to its map.
        text = side.text(1.0, y, scientific(value, 1), fontsize=SMALL, color=MUTED)
        text.set(transform=side.transAxes, ha="right", va=where, in_layout=False)


def _mark_classes(axes: Axes, panel: Panel, count: int) -> None:
    """Lines between classes, light on dark so that they show on any colour, and the names."""
    ends = [*(first for _, first in panel.bounds), count]
    for boundary in ends[1:-1]:
        for colour, width in ((INK, 1.6), (PAPER, 0.7)):
            axes.axhline(boundary, color=colour, linewidth=width)
            axes.axvline(boundary, color=colour, linewidth=width)
    for (name, _), (first, end) in zip(panel.bounds, pairwise(ends), strict=True):
        # About 31 beside the whole map on the page.
        letters = int(31 * _cell_width(axes) / _MAP[0] * (end - first) / count) - 1
        if letters >= 3:
            axes.text(
                -0.02 * count,
                (first + end) / 2,
                shortened(name, letters),
                rotation=90,
                ha="right",
                va="center",
                fontsize=SMALL,
                color=MUTED,
                parse_math=False,
            )
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(MUTED)
        spine.set_linewidth(0.6)


def _draw_reliability(canvas: Canvas, spec: SubplotSpec, panel: Panel, styles: Styles) -> None:
    """Accuracy against confidence by bin, with intervals, beside the diagonal of equal values."""
    axes = canvas.add_subplot(spec)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
    _draw_markers(axes, panel, styles, lambda _: {"markersize": 4.5})
    low = min((min(s.x) for s in panel.series if s.x), default=0.0)
    start = max(0.0, np.floor(10 * low - 0.5) / 10)
    axes.set_xlim(start, 1.02)
    axes.set_ylim(-0.02, 1.05)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(_per_cent))
        axis.set_major_locator(MaxNLocator(4))


def _per_cent(value: float, _place: int | None = None) -> str:
    return "" if value > 1 else f"{100 * value:.0f} %"


_DRAW: Mapping[FigureKind, Callable[[Canvas, SubplotSpec, Panel, Styles], None]] = {
    "lines": _draw_lines,
    "points": _draw_points,
    "scatter": _draw_cloud,
    "heat": _draw_heat_map,
    "bars": _draw_bars,
    "reliability": _draw_reliability,
}


def _dress(axes: Axes, title: str, x: str, y: str) -> None:
    dress(axes, *(_two_lines(axes, text) for text in (title, x, y)))


def _two_lines(axes: Axes, text: str) -> str:
    """A text that is too long for its panel on two lines; what is left over is cut off."""
    margin = 0.45  # inches of the panel that its numbers take
    share = (_cell_width(axes) - margin) / (_SMALL_PANEL[0] - margin)
    letters = min(_LETTERS, int(_LETTERS * share))
    first, *rest = wrap(plain(text), letters) or [""]
    return "\n".join([first, *([shortened(" ".join(rest), letters)] if rest else [])])


def _cell_width(axes: Axes) -> float:
    """Inches of a panel with its labels."""
    spec, canvas = axes.get_subplotspec(), axes.get_figure(root=True)
    assert spec is not None, "panels stand in a grid"
    assert canvas is not None
    return canvas.get_figwidth() / spec.get_topmost_subplotspec().get_gridspec().ncols


def _scale(axes: Axes, panel: Panel) -> None:
    scale(axes, "x", panel.x_scale)
    scale(axes, "y", panel.y_scale)


def _values(numbers: Sequence[float | None]) -> Values:
    return np.array([np.nan if n is None else n for n in numbers], dtype=np.float64)


def _band(series: Series) -> tuple[Values, Values] | None:
    if series.low is None or series.high is None:
        return None
    return _values(series.low), _values(series.high)
