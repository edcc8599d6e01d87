"""Figures that compare settings: accuracy in and out of distribution, feature change of pairs."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from lpft.report.drawing import (
    SMALL,
    banded_rows,
    dress,
    legend,
    legend_height,
    line_of,
    name_width,
    names_as_ticks,
    new_figure,
    point_with_interval,
    row_places,
)
from lpft.report.numbers import decimals_for, fixed, rate, whole, wilson
from lpft.report.palette import INK, MUTED, Style, styles
from lpft.results.groups import Group, method_name, score
from lpft.results.pairing import Comparison, Match


def accuracy_figure(group: Group, *, with_legend: bool) -> Figure:
    """Accuracy of every setting on the ID set and on each OOD set, with an interval each."""
    splits = [group.id_split, *group.ood_splits]
    names, looks = [setting.label for setting in group.settings], styles(group.settings)
    row = 0.34 + 0.13 * len(names)
    top = legend_height(looks, 6.6) if with_legend else 0.08
    height = top + row * len(splits) + 0.5
    figure = new_figure(6.6, height)
    left = name_width(splits) / 6.6
    axes = figure.add_axes((left, 0.44 / height, 0.97 - left, 1 - (0.44 + top) / height))
    for position, split in enumerate(splits):
        places = row_places(len(names), position)
        for y, setting in zip(places, group.settings, strict=True):
            spread = setting.spread(score(split, "accuracy"))
            rows = setting.rows(split)
            if spread is None or rows is None:
                continue
            if spread.sd is None:
                interval = wilson(spread.mean, rows)
            else:
                interval = spread.mean - spread.sd, spread.mean + spread.sd
            point_with_interval(axes, spread.mean, interval, y, looks[setting.label])
    dress(axes, x="accuracy")
    banded_rows(axes, splits)
    if with_legend:
        legend(figure, looks, top / height)
    return figure


def feature_change_figure(comparisons: Sequence[Comparison], group: Group) -> Figure | None:
    """Feature change of each matched pair, own rates above shared ones; None without a pair."""
    matches: list[tuple[str, Match]] = []
    for comparison in comparisons:
        pair = " and ".join(method_name(method) for method in comparison.methods)
        if comparison.own is not None:
            matches.append((f"{pair}\neach at its own rate", comparison.own))
        for match in comparison.shared:
            shared = f"rate {rate(match.rates[0].learning_rate)}"
            shared += f", batch {whole(match.rates[0].batch_size)}"
            matches.append((f"{pair}\nboth at {shared}", match))
    drawn = [(name, m, m.change) for name, m in matches if m.change is not None]
    if not drawn:
        return None
    looks: dict[str, Style] = {}
    for setting in group.settings:
        looks.setdefault(setting.method, styles((setting,))[setting.label])
    farthest = max(spread.mean for *_, change in drawn for spread in change)
    digits = decimals_for([farthest])
    height = 0.62 + 0.6 * len(drawn)
    figure = new_figure(6.6, height)
    axes = figure.add_axes((0.29, 0.46 / height, 0.67, 1 - 0.54 / height))
    for position, (_, match, change) in enumerate(drawn):
        ends = [change[0].mean, change[1].mean]
        axes.plot(ends, [position] * 2, color=MUTED, linewidth=1.2, zorder=1)
        # Labels on either side of the line never meet, however near the two values are.
        for method, spread, side in zip(match.methods, change, (1, -1), strict=True):
            axes.errorbar(
                [spread.mean],
                [position],
                xerr=None if spread.sd is None else [spread.sd],
                **line_of(looks[method], linestyle="None", markersize=7),
            )
            axes.annotate(
                f"{method_name(method)} {fixed(spread.mean, digits)}",
                (spread.mean, position),
                xytext=(0, 7 * side),
                textcoords="offset points",
                ha="center" if spread.mean > 0.1 * farthest else "left",
                va="bottom" if side > 0 else "top",
                fontsize=SMALL,
                color=INK,
                parse_math=False,
            )
    split = drawn[0][1].split
    dress(axes, x=f"feature change: mean L2 distance from pre-trained features ({split})")
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_xlim(0, farthest * 1.16)
    names_as_ticks(axes, range(len(drawn)), [name for name, *_ in drawn])
    return figure
