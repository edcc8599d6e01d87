"""Figure exhibits: a drawing per panel for the page, all panels on one sheet for papers."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lpft.report.drawing import legend, legend_height, name_width, new_figure
from lpft.report.exhibits.axes import Looks, draw_cloud, draw_lines, draw_points, on_axes
from lpft.report.exhibits.styles import series_styles
from lpft.report.kernels.heat_maps import HeatMap, heat_map_panel, heat_map_sheet
from lpft.report.palette import Style
from lpft.results.exhibits import Figure as FigureExhibit
from lpft.results.exhibits import FigureKind, Panel

PANEL = (3.6, 2.7)  # inches
SMALL_PANEL = (2.7, 2.15)
_MANY = 4  # panels from which they are small
_ROW, _SERIES = 0.2, 0.14  # inches of a named position, and of each series in it
_FRAME = 0.75  # inches above and below the rows
_BESIDE_NAMES = 2.2  # inches beside the rows' names
_MAPS_IN_A_ROW = 4
_WIDEST = 7.6  # inches of a sheet

_DRAW: Mapping[FigureKind, Callable[[Axes, Panel, Looks], None]] = {
    "lines": draw_lines,
    "points": draw_points,
    "scatter": draw_cloud,
}


def drawn_panels(figure: FigureExhibit) -> tuple[Panel, ...]:
    """The panels that have something to draw, with what their axes can show."""
    return tuple(panel for panel in map(on_axes, figure.panels) if _has_values(panel))


def has_small_panels(figure: FigureExhibit) -> bool:
    """Whether panels are small multiples: many of them, but no clouds with their named points."""
    return figure.kind == "heat" or (
        figure.kind != "scatter" and len(drawn_panels(figure)) >= _MANY
    )


def undrawn(figure: FigureExhibit) -> tuple[str, ...]:
    """The titles of panels that have nothing to draw."""
    return tuple(panel.title for panel in figure.panels if not _has_values(on_axes(panel)))


def leaves_points_out(figure: FigureExhibit) -> bool:
    """Whether a logarithmic axis cannot show some of the values."""
    return any(on_axes(panel) != panel for panel in figure.panels)


def exhibit_panels(figure: FigureExhibit) -> tuple[Figure, ...]:
    """One drawing per panel that has something to draw, without a legend."""
    if figure.kind == "heat":
        return tuple(heat_map_panel(heat_map) for heat_map in heat_maps_of(figure))
    looks = series_styles(figure)
    panels = drawn_panels(figure)
    drawings = []
    for panel in panels:
        drawing = _canvas(*_size(figure, panel))
        _DRAW[figure.kind](drawing.add_subplot(), panel, looks)
        drawings.append(drawing)
    return tuple(drawings)


def exhibit_sheet(figure: FigureExhibit) -> Figure | None:
    """All panels on one figure with its legend; None where there is nothing to draw."""
    if figure.kind == "heat":
        return heat_map_sheet(heat_maps_of(figure))
    panels = drawn_panels(figure)
    if not panels:
        return None
    sizes = [_size(figure, panel) for panel in panels]
    width, height = max(size[0] for size in sizes), max(size[1] for size in sizes)
    columns = min(len(panels), max(1, int(_WIDEST / width)))
    rows = ceil(len(panels) / columns)
    looks = legend_styles(figure)
    top = legend_height(looks, columns * width)
    total = rows * height + top
    sheet = _canvas(columns * width, total, top / total)
    for place, panel in enumerate(panels, start=1):
        _DRAW[figure.kind](sheet.add_subplot(rows, columns, place), panel, series_styles(figure))
    legend(sheet, looks, top / total)
    return sheet


def legend_styles(figure: FigureExhibit) -> dict[str, Style]:
    """The styles of the labels that are drawn; kinds without lines have none in the legend."""
    drawn = {
        series.label
        for panel in drawn_panels(figure)
        for series in panel.series
        if any(value is not None for value in series.y)
    }
    looks = {label: look for label, look in series_styles(figure).items() if label in drawn}
    if figure.kind == "lines":
        return looks
    return {label: replace(look, dashes=None) for label, look in looks.items()}


def heat_maps_of(figure: FigureExhibit) -> tuple[HeatMap, ...]:
    """The matrices of a figure, a few in a row."""
    maps = []
    for place, panel in enumerate(drawn_panels(figure)):
        row, column = divmod(place, _MAPS_IN_A_ROW)
        matrix = np.array(panel.matrix, dtype=np.float64)
        firsts = [first for _, first in panel.bounds]
        maps.append(
            HeatMap(
                kernel="",
                title=panel.title,
                values=matrix,
                classes=tuple(name for name, _ in panel.bounds),
                boundaries=(*firsts, len(matrix)) if firsts else (),
                column=column,
                row=row,
                x=panel.x,
                y=panel.y,
            )
        )
    return tuple(maps)


def _has_values(panel: Panel) -> bool:
    drawn = any(value is not None for series in panel.series for value in series.y)
    return drawn or panel.matrix is not None


def _canvas(width: float, height: float, top: float = 0.0) -> Figure:
    """A figure that makes room for its labels below the part ``top`` of its height."""
    drawing = new_figure(width, height)
    drawing.set_layout_engine(
        "constrained", rect=(0, 0, 1, 1 - top), w_pad=0.06, h_pad=0.06, wspace=0.04, hspace=0.04
    )
    return drawing


def _size(figure: FigureExhibit, panel: Panel) -> tuple[float, float]:
    """Width and height in inches; rows of named points need a height of their own."""
    if figure.kind == "points" and panel.ticks:
        width = max(PANEL[0], name_width(panel.ticks) + _BESIDE_NAMES)
        return width, _FRAME + len(panel.ticks) * (_ROW + _SERIES * len(panel.series))
    return SMALL_PANEL if has_small_panels(figure) else PANEL
