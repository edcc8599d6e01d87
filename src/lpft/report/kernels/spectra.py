"""Spectra of kernels (figures 2 and 7 of the paper): singular values over the largest."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lpft.report.drawing import (
    SMALL,
    dress,
    legend,
    legend_height,
    line_of,
    new_figure,
    thinned,
)
from lpft.report.palette import MUTED, REFERENCE, Style, method_styles
from lpft.results.kernels import FT, NTK, KernelRecord, KernelStatistics, kernel_name

MOST_POINTS = 240  # of a spectrum: more cannot be told apart at this size
PANEL = (3.6, 2.7)  # inches
_BELOW = 1e-2  # how far below the rank tolerance the axis goes: further down is rounding
_NO_TOLERANCE = 1e-6

Spectra = list[tuple[str, KernelStatistics, Style]]


def spectra_of(kernels: KernelRecord, kernel: str) -> Spectra:
    """The spectra of one panel: P as the reference, then one kernel of every method."""
    looks = method_styles([method.method for method in kernels.methods])
    lines: Spectra = [
        ("P" if len(kernels.pretrain) == 1 else f"P ({kernels.owners_name(owners)})", s, REFERENCE)
        for owners, s in kernels.pretrain
    ]
    for method in kernels.methods:
        if kernel in method.kernels:
            lines.append((method.name, method.kernels[kernel], looks[method.method]))
    return [line for line in lines if line[1].singular_values.any()]


def drawn_kernels(kernels: KernelRecord) -> tuple[str, ...]:
    """The kernels that have a panel: F and P + F, where some method has a spectrum of them."""
    found = {name: spectra_of(kernels, name) for name in (FT, NTK)}
    return tuple(
        name
        for name, lines in found.items()
        if any(style is not REFERENCE for _, _, style in lines)
    )


def spectrum_panel(kernels: KernelRecord, kernel: str) -> Figure:
    """One kernel's spectra of all methods."""
    figure = new_figure(*PANEL)
    _draw(figure.add_axes((0.16, 0.16, 0.81, 0.72)), kernels, kernel)
    return figure


def spectrum_sheet(kernels: KernelRecord) -> Figure | None:
    """F and P + F side by side with a legend, for papers; None without a spectrum."""
    names = drawn_kernels(kernels)
    if not names:
        return None
    looks = legend_styles(kernels)
    width, height = PANEL
    top = legend_height(looks, width * len(names))
    total = height + top
    figure = new_figure(width * len(names), total)
    for position, name in enumerate(names):
        left, bottom = (position + 0.16) / len(names), 0.16 * height / total
        place = (left, bottom, 0.81 / len(names), 0.72 * height / total)
        _draw(figure.add_axes(place), kernels, name)
    legend(figure, looks, top / total)
    return figure


def legend_styles(kernels: KernelRecord) -> dict[str, Style]:
    """Names of the lines with their styles."""
    lines = [line for name in drawn_kernels(kernels) for line in spectra_of(kernels, name)]
    return {name: style for name, _, style in lines}


def _draw(axes: Axes, kernels: KernelRecord, kernel: str) -> None:
    lines = spectra_of(kernels, kernel)
    tolerance = max((t for _, s, _ in lines if (t := _tolerance(s)) is not None), default=None)
    bottom = _BELOW * (_NO_TOLERANCE if tolerance is None else tolerance)
    for _, statistics, style in lines:
        values = statistics.singular_values / statistics.singular_values[0]
        places = thinned(len(values), MOST_POINTS)
        shown = places[values[places] >= bottom]
        axes.plot(shown + 1, values[shown], **line_of(style, marker="None", linewidth=1.3))
        rank = None if statistics.rank is None else int(statistics.rank)
        if rank is not None and 0 < rank <= len(values):
            axes.plot([rank], [max(values[rank - 1], bottom)], **line_of(style), clip_on=False)
    if tolerance is not None:
        axes.axhline(tolerance, color=MUTED, linewidth=0.8, linestyle=(0, (4, 2)))
        axes.annotate(
            "rank tolerance",
            (1, tolerance),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 3),
            textcoords="offset points",
            ha="right",
            fontsize=SMALL,
            color=MUTED,
        )
    axes.set_yscale("log")
    title = f"Spectra of {kernel_name(kernel)}, with P"
    dress(axes, title=title, x="k-th singular value", y="over the largest")
    exponents = range(0, int(np.floor(np.log10(bottom))) - 1, -2)
    names = ["1" if exponent == 0 else f"1e−{-exponent}" for exponent in exponents]
    axes.set_yticks([10.0**exponent for exponent in exponents], names)
    axes.minorticks_off()
    axes.set_ylim(bottom, 1.6)
    axes.set_xlim(left=0)


def _tolerance(statistics: KernelStatistics) -> float | None:
    """The rank tolerance over the largest singular value, None where it was not recorded."""
    tolerance, largest = statistics.rank_tolerance, statistics.largest_singular_value
    if tolerance is None or largest is None or not 0 < tolerance < largest:
        return None
    return tolerance / largest
