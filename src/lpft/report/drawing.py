"""What all figures share: size and dress of axes, legends, and saving without global state."""

import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from lpft.report.numbers import MINUS, plain
from lpft.report.palette import GRID, INK, MUTED, PAPER, Style

TEXT, SMALL = 9.0, 8.0  # points

# Text stays text in SVG and PDF; ids that do not change from one call to the next.
_RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lpft",
    "pdf.fonttype": 42,
    "axes.unicode_minus": True,
    "font.family": ["DejaVu Sans"],
    "mathtext.default": "regular",
}


@contextmanager
def _settings() -> Iterator[None]:
    with mpl.rc_context(_RC), warnings.catch_warnings():
        # Class names may be in any script; the page shows them, whatever this font has.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, on Agg, known to nothing but its caller."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Axes, *, title: str = "", x: str = "", y: str = "") -> None:
    """Quiet axes: two spines, a faint grid, small muted numbers; labels as plain text."""
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(MUTED)
        axes.spines[side].set_linewidth(0.6)
    axes.grid(True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SMALL, colors=MUTED, labelcolor=MUTED, length=2.5, width=0.6)
    if title:
        axes.set_title(
            _lines(title), fontsize=TEXT, color=INK, loc="left", weight="bold", parse_math=False
        )
    axes.set_xlabel(_lines(x), fontsize=SMALL, color=MUTED, parse_math=False)
    axes.set_ylabel(_lines(y), fontsize=SMALL, color=MUTED, parse_math=False)


def _lines(text: str) -> str:
    """A printable text that keeps its line breaks."""
    return "\n".join(plain(line) for line in text.split("\n"))


def line_of(style: Style, **more: Any) -> dict[str, Any]:
    """Keywords that draw a line with markers in a style."""
    return {
        "color": style.colour,
        "marker": style.marker,
        "markersize": 4.2,
        "markerfacecolor": style.colour if style.filled else PAPER,
        "markeredgecolor": style.colour,
        "markeredgewidth": 1.0,
        "linewidth": 1.4,
        "linestyle": _line_style(style.dashes),
        **more,
    }


def _line_style(dashes: tuple[float, ...] | None) -> str | tuple[float, tuple[float, ...]]:
    if dashes is None:
        return "None"
    return (0, dashes) if dashes else "solid"


def legend(figure: Figure, styles: Mapping[str, Style], top: float) -> None:
    """A legend along the top edge; ``top`` is the part of the height that it has."""
    names = [shortened(name, 40) for name in styles]
    box = figure.legend(
        [Line2D([], [], **line_of(style)) for style in styles.values()],
        names,
        loc="upper left",
        bbox_to_anchor=(0.0, 1.0 - top, 1.0, top),
        ncols=_legend_columns(names, figure.get_figwidth()),
        fontsize=SMALL,
        frameon=False,
        labelcolor=INK,
        handlelength=2.6,
    )
    for text in box.get_texts():
        text.set_parse_math(False)


def _legend_columns(names: Sequence[str], width: float) -> int:
    """Columns of equal width that fit in ``width`` inches, at about 0.07 inches a letter."""
    column = 0.6 + 0.07 * max(map(len, names))
    return max(1, min(len(names), int(width / column)))


def legend_height(styles: Mapping[str, Style], width: float) -> float:
    """Inches that :func:`legend` needs at this width."""
    names = [shortened(name, 40) for name in styles]
    return 0.1 + 0.2 * math.ceil(len(names) / _legend_columns(names, width))


def swatch(style: Style) -> Figure:
    """A style's line and marker alone, for the legends of the page."""
    figure = new_figure(0.42, 0.16)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.plot([0.08, 0.92], [0, 0], **line_of(style, marker="None"))
    axes.plot([0.5], [0], **line_of(style))
    axes.set_xlim(0, 1)
    return figure


def saved(figure: Figure, kind: str) -> bytes:
    """The figure as ``png`` (200 dpi, white), ``pdf`` (white) or ``svg`` (transparent)."""
    out = io.BytesIO()
    # No dates or versions: the same runs give the same bytes.
    unsaid = {
        "png": ("Software",),
        "pdf": ("CreationDate", "Producer", "Creator"),
        "svg": ("Date", "Creator", "Format", "Type"),
    }[kind]
    with _settings():
        figure.savefig(
            out,
            format=kind,
            dpi=200,
            facecolor="none" if kind == "svg" else PAPER,
            metadata=dict.fromkeys(unsaid),
        )
    return out.getvalue()


def sheet(count: int, columns: int, width: float, height: float) -> tuple[int, int, Figure]:
    """A figure with room for ``count`` panels of ``width`` x ``height`` inches: rows, columns."""
    columns = max(1, min(columns, count))
    rows = math.ceil(count / columns)
    return rows, columns, new_figure(columns * width, rows * height)


def names_as_ticks(axes: Axes, positions: Sequence[float], names: Sequence[str]) -> None:
    """Names along the y axis from the top down, never read as mathematics."""
    lines = ("\n".join(shortened(line) for line in name.split("\n")) for name in names)
    axes.set_yticks(list(positions), list(lines), parse_math=False)
    axes.tick_params(axis="y", length=0, labelsize=TEXT, labelcolor=INK)
    axes.set_ylim(max(positions) + 0.5, min(positions) - 0.5)


def banded_rows(axes: Axes, names: Sequence[str]) -> None:
    """Rows 0, 1, ... from the top down with their names, every other one on a band."""
    for position in range(0, len(names), 2):
        axes.axhspan(position - 0.5, position + 0.5, color=GRID, alpha=0.35, linewidth=0)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    names_as_ticks(axes, range(len(names)), names)


def row_places(count: int, position: int) -> list[float]:
    """Where ``count`` points lie in a row, above one another."""
    step = 0.72 / max(count, 1)
    return [position + (order - (count - 1) / 2) * step for order in range(count)]


def point_with_interval(
    axes: Axes, value: float, interval: tuple[float, float] | None, y: float, style: Style
) -> None:
    """A value along x with the line of its interval, at height ``y``."""
    if interval is not None:
        axes.plot(interval, [y, y], color=style.colour, linewidth=1.1)
    axes.plot([value], [y], **line_of(style, linestyle="None", markersize=5))


def tick_text(value: float, _position: int | None = None) -> str:
    """A number beside an axis: 0.001, 250, 5e6."""
    mantissa, _, exponent = f"{value:.6g}".partition("e")
    text = f"{mantissa}e{int(exponent)}" if exponent else mantissa
    return text.replace("-", MINUS)


def thinned(count: int, most: int) -> NDArray[np.int64]:
    """Places of at most ``most`` of ``count`` points, evenly apart, both ends kept."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def name_width(names: Sequence[str]) -> float:
    """Inches that the longest of some names needs beside the y axis, at about 0.08 a letter."""
    return 0.25 + 0.08 * max(len(shortened(name)) for name in names)


def shortened(name: str, letters: int = 28) -> str:
    """A name that fits into a figure; the tables have it whole."""
    text = plain(name)
    return text if len(text) <= letters else f"{text[: letters - 1]}…"
