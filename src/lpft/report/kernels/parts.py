"""What F is made of: shares of its trace by kind of parameter and by layer, as bars."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from lpft.report.drawing import SMALL, dress, new_figure, sheet, shortened
from lpft.report.kernels.tables import trace_shares
from lpft.report.numbers import fixed, plain
from lpft.report.palette import INK, MUTED, Style, method_styles
from lpft.results.kernels import KernelRecord, MethodRecord

WIDTH = 2.75  # inches of a panel
_LETTERS = 17  # of a part's name
_ROW = 0.17  # inches of a bar
_EDGES = 0.75  # inches above and below the bars
_GAP = 0.6  # bars between kinds and layers

Parts = list[tuple[float, str, float]]


def parts_panel(kernels: KernelRecord, method: MethodRecord) -> Figure | None:
    """One method's shares; None where nothing was recorded or F is 0."""
    parts = _parts(method)
    if not parts:
        return None
    figure = new_figure(WIDTH, _height(kernels))
    _draw(figure, (0.0, 0.0, 1.0, 1.0), kernels, method)
    return figure


def parts_sheet(kernels: KernelRecord) -> Figure | None:
    """The shares of all methods side by side, for papers."""
    methods = [method for method in kernels.methods if _parts(method)]
    if not methods:
        return None
    rows, columns, figure = sheet(len(methods), 2, WIDTH, _height(kernels))
    for position, method in enumerate(methods):
        row, column = divmod(position, columns)
        place = (column / columns, 1 - (row + 1) / rows, 1 / columns, 1 / rows)
        _draw(figure, place, kernels, method)
    return figure


def _parts(method: MethodRecord) -> Parts:
    """Place, name and share of every bar, kinds above layers."""
    kinds, layers = trace_shares(method, "kind"), trace_shares(method, "layer")
    gap = len(kinds) + _GAP if kinds else 0.0
    return [
        *((float(place), name, share) for place, (name, share) in enumerate(kinds.items())),
        *((gap + place, name, share) for place, (name, share) in enumerate(layers.items())),
    ]


def _bars(kernels: KernelRecord) -> float:
    """How many bars the method with most of them has, with the gap between kinds and layers."""
    return max((parts[-1][0] + 1 for m in kernels.methods if (parts := _parts(m))), default=0.0)


def _height(kernels: KernelRecord) -> float:
    return _EDGES + _ROW * _bars(kernels)


def _draw(
    figure: Figure,
    place: tuple[float, float, float, float],
    kernels: KernelRecord,
    method: MethodRecord,
) -> None:
    left, bottom, width, height = place
    total = _height(kernels)
    axes = figure.add_axes(
        (
            left + 0.4 * width,
            bottom + 0.42 / total * height,
            0.55 * width,
            (1 - _EDGES / total) * height,
        )
    )
    parts = _parts(method)
    style = _styles(kernels)[method.method]
    axes.barh(
        [y for y, _, _ in parts],
        [100 * share for _, _, share in parts],
        height=0.72,
        color=style.colour,
        linewidth=0,
    )
    for y, _, share in parts:
        axes.annotate(
            f"{fixed(100 * share, 1)}",
            (100 * max(share, 0.0), y),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL,
            color=MUTED,
        )
    dress(axes, title=plain(method.name), x="share of the trace of F (%)")
    axes.grid(False, axis="y")
    names = [shortened(name, _LETTERS) for _, name, _ in parts]
    axes.set_yticks([y for y, _, _ in parts], names, parse_math=False)
    axes.tick_params(axis="y", length=0, labelsize=SMALL, labelcolor=INK)
    axes.set_ylim(_bars(kernels) - 0.5, -0.5)
    most = max(share for m in kernels.methods for _, _, share in _parts(m))
    axes.set_xlim(0, 118 * most)


def _styles(kernels: KernelRecord) -> Mapping[str, Style]:
    return method_styles([method.method for method in kernels.methods])
