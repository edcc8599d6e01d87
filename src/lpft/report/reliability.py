"""Reliability diagrams: accuracy against confidence before and after temperature scaling."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lpft.analysis.calibration import ReliabilityBins, reliability_bins
from lpft.report.drawing import SMALL, TEXT, dress, new_figure, sheet, shortened
from lpft.report.numbers import fixed
from lpft.report.palette import INK, MUTED, PAPER, Style
from lpft.results.groups import Group, Setting, score

BINS = 15
_BEFORE = (0, (3, 1.5))


def reliability(setting: Setting, split: str) -> tuple[ReliabilityBins, ReliabilityBins] | None:
    """Bins of the top probability before and after temperature, the rows of all seeds together."""
    runs = [run for run in setting.runs if split in run.predictions]
    if not runs:
        return None
    labels = np.concatenate([run.predictions[split].labels for run in runs])
    before, after = (
        np.concatenate([run.predictions[split].probabilities(t) for run, t in pairs])
        for pairs in ([(run, 1.0) for run in runs], [(run, run.temperature) for run in runs])
    )
    return reliability_bins(before, labels, bins=BINS), reliability_bins(after, labels, bins=BINS)


def reliability_panel(setting: Setting, split: str, style: Style) -> Figure | None:
    """One split's reliability diagram with the distribution of confidence under it."""
    bins = reliability(setting, split)
    if bins is None:
        return None
    figure = new_figure(2.3, 2.75)
    _draw_reliability(figure, (0.0, 0.0, 1.0, 1.0), setting, split, style, bins)
    return figure


def reliability_sheet(setting: Setting, group: Group, style: Style) -> Figure:
    """The diagrams of all splits of one setting side by side, for papers."""
    found = [(split, reliability(setting, split)) for split in group.splits]
    panels = [(split, bins) for split, bins in found if bins is not None]
    rows, columns, figure = sheet(len(panels), 4, 2.3, 2.75)
    for position, (split, bins) in enumerate(panels):
        row, column = divmod(position, columns)
        place = (column / columns, 1 - (row + 1) / rows, 1 / columns, 1 / rows)
        _draw_reliability(figure, place, setting, split, style, bins)
    return figure


def _draw_reliability(
    figure: Figure,
    place: tuple[float, float, float, float],
    setting: Setting,
    split: str,
    style: Style,
    bins: tuple[ReliabilityBins, ReliabilityBins],
) -> None:
    left, bottom, width, height = place
    side, across = left + 0.2 * width, 0.76 * width
    axes = figure.add_axes((side, bottom + 0.32 * height, across, 0.5 * height))
    strip = figure.add_axes((side, bottom + 0.13 * height, across, 0.14 * height))
    before, after = bins
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
    _draw_bins(axes, before, MUTED, "o", filled=False)
    _draw_bins(axes, after, style.colour, style.marker, filled=True)
    dress(axes, y="accuracy")
    dress(strip, x="confidence")
    ece = [setting.spread(score(split, "ece", calibrated=c)) for c in (False, True)]
    first, second = (fixed(None if spread is None else spread.mean) for spread in ece)
    axes.text(
        0,
        1.15,
        shortened(split, 24),
        transform=axes.transAxes,
        fontsize=TEXT,
        color=INK,
        weight="bold",
        parse_math=False,
    )
    axes.text(
        0,
        1.05,
        f"ECE {first} before, {second} after",
        transform=axes.transAxes,
        fontsize=SMALL,
        color=MUTED,
    )
    shares = [table.counts / table.counts.sum() for table in bins]
    strip.bar(
        after.edges[:-1],
        shares[1],
        np.diff(after.edges),
        align="edge",
        color=style.colour,
        alpha=0.5,
        linewidth=0,
    )
    strip.stairs(shares[0], before.edges, color=MUTED, linewidth=0.9, linestyle=_BEFORE)
    for part in (axes, strip):
        part.set_xlim(0, 1)
        part.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.tick_params(labelbottom=False)
    axes.set_ylim(-0.02, 1.02)
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    top = np.ceil(max(share.max() for share in shares) * 5) / 5
    strip.set_ylim(0, top)
    strip.set_yticks([0, top], ["0", f"{100 * top:.0f} %"])


def _draw_bins(
    axes: Axes, bins: ReliabilityBins, colour: str, marker: str, *, filled: bool
) -> None:
    """A point per bin that has rows, larger with more of them, on a thin line."""
    there = bins.counts > 0
    x, y = bins.confidence[there], bins.accuracy[there]
    axes.plot(
        x, y, color=colour, linewidth=0.9, alpha=0.7, linestyle="solid" if filled else _BEFORE
    )
    axes.scatter(
        x,
        y,
        s=4 + 70 * bins.counts[there] / bins.counts.sum(),
        marker=marker,
        facecolor=colour if filled else PAPER,
        edgecolor=colour,
        linewidth=0.9,
        zorder=3,
        clip_on=False,
    )
