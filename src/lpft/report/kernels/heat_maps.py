"""Heat maps of kernels (figures 8 and 9 of the paper): trace norms, samples sorted by class."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lpft.report.drawing import SMALL, TEXT, new_figure, shortened
from lpft.report.numbers import plain, scientific
from lpft.report.palette import INK, MUTED, PAPER
from lpft.results.kernels import FT, NTK, PRETRAIN, KernelRecord, kernel_name

# Even in lightness, and the same to colour-blind readers; 64 of its colours keep images small.
COLOURS = mpl.colormaps["cividis"].resampled(64)
MOST_PIXELS = 256
CLIPPED = (1.0, 99.0)  # percentiles at the ends of the colours, so that a diagonal hides no blocks
PANEL = (2.75, 2.75)  # inches
_LETTER = 0.068  # inches of a letter beside the map
_SIDE = 2.1  # inches of the map


@dataclass(frozen=True)
class HeatMap:
    """One kernel's trace norms, sorted by class; ``pooled`` samples a side are one pixel."""

    kernel: str
    title: str
    values: NDArray[np.float64]
    classes: tuple[str, ...]
    boundaries: tuple[int, ...]
    column: int
    row: int
    x: str = ""
    y: str = ""

    @property
    def pooled(self) -> int:
        return -(-len(self.values) // MOST_PIXELS)


def heat_maps(kernels: KernelRecord) -> tuple[HeatMap, ...]:
    """P once, then F and P + F of every method: each has a column, and each kernel a row."""
    labels = kernels.labels.get("train")
    if labels is None:
        return ()
    from lpft.ntk.statistics import (
        class_order,
    )  # may load torch, which runs alone need not wait for

    order = class_order(labels)
    classes = tuple(kernels.classes[label] for label in order.classes)
    found = []
    for row, (owners, _) in enumerate(kernels.pretrain):
        title = "P" if len(kernels.pretrain) == 1 else f"P: {kernels.owners_name(owners)}"
        maps = [m.heat_maps[PRETRAIN] for m in owners if PRETRAIN in m.heat_maps]
        found += [(PRETRAIN, title, values, 0, row) for values in maps[:1]]
    for column, method in enumerate(kernels.methods, start=1):
        for row, name in enumerate((FT, NTK)):
            if name in method.heat_maps:
                title = f"{method.name}: {kernel_name(name)}"
                found.append((name, title, method.heat_maps[name], column, row))
    return tuple(
        HeatMap(name, title, order.sort(values), classes, order.boundaries, column, row)
        for name, title, values, column, row in found
    )


def heat_map_panel(heat_map: HeatMap) -> Figure:
    """One heat map with its colours' scale."""
    figure = new_figure(*PANEL)
    _draw(figure, (0.0, 0.0, 1.0, 1.0), heat_map)
    return figure


def heat_map_sheet(maps: Sequence[HeatMap]) -> Figure | None:
    """All heat maps, a column per method, for papers; None without one."""
    if not maps:
        return None
    columns, rows = max(m.column for m in maps) + 1, max(m.row for m in maps) + 1
    width, height = PANEL
    figure = new_figure(columns * width, rows * height)
    for found in maps:
        place = (found.column / columns, 1 - (found.row + 1) / rows, 1 / columns, 1 / rows)
        _draw(figure, place, found)
    return figure


def pixels(values: NDArray[np.float64], pooled: int) -> NDArray[np.float64]:
    """Means over ``pooled`` x ``pooled`` entries; at the far edges over those that are left."""
    starts = np.arange(0, len(values), pooled)
    sums = np.add.reduceat(np.add.reduceat(values, starts, axis=0), starts, axis=1)
    counts = np.diff(np.append(starts, len(values)))
    return sums / np.outer(counts, counts)


def _draw(figure: Figure, place: tuple[float, float, float, float], heat_map: HeatMap) -> None:
    left, bottom, width, height = place
    side, tall = _SIDE / PANEL[0], _SIDE / PANEL[1]
    axes = figure.add_axes(
        (left + 0.12 * width, bottom + 0.12 * height, side * width, tall * height)
    )
    scale = figure.add_axes(
        (left + (0.12 + side + 0.02) * width, bottom + 0.12 * height, 0.025 * width, tall * height)
    )
    drawn = pixels(heat_map.values, heat_map.pooled)
    low, high = np.percentile(drawn, CLIPPED)
    count = len(heat_map.values)
    axes.imshow(
        drawn,
        cmap=COLOURS,
        vmin=low,
        vmax=high,
        interpolation="none",
        extent=(0, count, count, 0),
        aspect="auto",
    )
    _mark_classes(axes, heat_map)
    axes.set_xlabel(plain(heat_map.x), fontsize=SMALL, color=MUTED, parse_math=False)
    if not heat_map.classes:
        axes.set_ylabel(plain(heat_map.y), fontsize=SMALL, color=MUTED, parse_math=False)
    axes.set_title(
        plain(heat_map.title), fontsize=TEXT, color=INK, loc="left", weight="bold", parse_math=False
    )
    _draw_scale(scale, low, high)


def _mark_classes(axes: Axes, heat_map: HeatMap) -> None:
    """Lines between classes, light on dark so that they show on any colour, and the names."""
    count = len(heat_map.values)
    for boundary in heat_map.boundaries[1:-1]:
        for colour, width in ((INK, 1.6), (PAPER, 0.7)):
            axes.axhline(boundary, color=colour, linewidth=width)
            axes.axvline(boundary, color=colour, linewidth=width)
    spans = zip(heat_map.boundaries[:-1], heat_map.boundaries[1:], strict=True)
    for name, (start, end) in zip(heat_map.classes, spans, strict=True):
        letters = int(_SIDE * (end - start) / count / _LETTER) - 1
        if letters >= 3:
            axes.text(
                -0.02 * count,
                (start + end) / 2,
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


def _draw_scale(axes: Axes, low: float, high: float) -> None:
    """The colours from the lowest to the highest value, with these numbers at its ends."""
    axes.imshow(np.linspace(1, 0, 128)[:, None], cmap=COLOURS, aspect="auto", interpolation="none")
    axes.set_axis_off()
    for value, y, side in ((high, 1.02, "bottom"), (low, -0.02, "top")):
        axes.text(
            1.0,
            y,
            scientific(value, 1),
            transform=axes.transAxes,
            ha="right",
            va=side,
            fontsize=SMALL,
            color=MUTED,
        )
