"""Figure exhibits: the values that are drawn, their styles, axes and legends."""

from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from lpft.report.exhibits.figures import (
    exhibit_panels,
    exhibit_sheet,
    heat_maps_of,
    leaves_points_out,
    legend_styles,
    undrawn,
)
from lpft.report.exhibits.styles import series_styles
from lpft.report.palette import method_styles
from matplotlib.figure import Figure

from lpft.report.drawing import saved, tick_text
from lpft.results.exhibits import Figure as FigureExhibit
from lpft.results.exhibits import Panel, Series

from .experiment_folders import (
    heat_figure,
    lines_figure,
    points_figure,
    scatter_figure,
    small_multiples,
)

FIGURES = (lines_figure, small_multiples, points_figure, scatter_figure, heat_figure)


def drawn(figure: Figure) -> Figure:
    """The figure after its layout was found."""
    saved(figure, "png")
    return figure


@pytest.mark.parametrize("make", FIGURES)
def test_every_kind_is_drawn_and_saved_without_a_global_change(make) -> None:
    before = dict(mpl.rcParams)
    sheet = exhibit_sheet(make())
    assert sheet is not None
    assert saved(sheet, "pdf").startswith(b"%PDF")
    assert len(exhibit_panels(make())) == {"training": 5}.get(make().name, len(make().panels))
    assert dict(mpl.rcParams) == before


def test_lines_are_where_the_record_says_with_bands_between_low_and_high() -> None:
    figure = lines_figure()
    (panel,) = exhibit_panels(figure)
    axes = drawn(panel).axes[0]
    assert axes.get_xscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("scale of the head", "feature change (L2)")
    for line, series in zip(axes.lines, figure.panels[0].series, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), series.x)
        expected = [np.nan if y is None else y for y in series.y]
        np.testing.assert_array_equal(line.get_ydata(), expected)
    bands = axes.collections
    assert len(bands) == 2
    for band, series in zip(bands, figure.panels[0].series, strict=False):
        assert series.low is not None
        assert series.high is not None
        corners = band.get_paths()[0].vertices
        assert corners[:, 1].min() == pytest.approx(min(series.low))
        assert corners[:, 1].max() == pytest.approx(max(series.high))
    ticks = [text.get_text() for text in axes.get_xticklabels()]
    assert {"0.1", "1", "10", "100"} <= set(ticks)


def test_long_lines_are_thinned_but_keep_their_ends() -> None:
    axes = exhibit_panels(small_multiples())[1].axes[0]
    for line in axes.lines:
        assert len(line.get_xdata()) == 240
        assert (line.get_xdata()[0], line.get_xdata()[-1]) == (0, 399)


def test_named_points_are_rows_with_their_intervals() -> None:
    figure = points_figure()
    axes = drawn(exhibit_panels(figure)[0]).axes[0]
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == list(figure.panels[0].ticks)
    points = [line for line in axes.lines if len(line.get_xdata()) == 1]
    reaches = [tuple(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2]
    series = figure.panels[0].series
    expected = [y for one in series for y in one.y if y is not None]
    assert [float(point.get_xdata()[0]) for point in points] == expected
    # Three methods at four places: the fifth has no value; the last line is at 0.
    assert len(points) == 12
    assert reaches[:-1] == [(y - 0.9, y + 0.9) for y in expected]
    assert axes.lines[-1].get_xdata() == [0, 0]
    heights = [float(point.get_ydata()[0]) for point in points]
    assert [round(height) for height in heights[:4]] == [0, 1, 2, 3]
    assert len(set(heights)) == 12
    assert axes.yaxis_inverted()


def test_there_is_no_line_at_zero_where_all_values_are_on_one_side() -> None:
    panel = replace(points_figure().panels[0], series=points_figure().panels[0].series[:1])
    (axes,) = exhibit_panels(FigureExhibit("f", "F", "points", (panel,)))[0].axes
    assert all(len(set(line.get_xdata())) > 1 or len(line.get_xdata()) == 1 for line in axes.lines)


def test_points_without_names_stand_along_a_numeric_axis() -> None:
    series = Series("a", (1.0, 4.0), (2.0, 3.0), low=(1.5, 2.5), high=(2.5, 4.0))
    figure = FigureExhibit("f", "F", "points", (Panel("p", "x", "y", (series,)),))
    axes = exhibit_panels(figure)[0].axes[0]
    assert axes.lines[0].get_xdata().tolist() == [1.0, 4.0]
    assert axes.lines[0].get_linestyle() == "None"
    reaches = [segment[:, 1].tolist() for segment in axes.collections[0].get_segments()]
    assert reaches == [[1.5, 2.5], [2.5, 4.0]]


def test_named_points_of_a_cloud_are_drawn_last_and_labelled() -> None:
    figure = scatter_figure()
    axes = drawn(exhibit_panels(figure)[0]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["contradiction", "entailment", "neutral"]
    last = axes.lines[-1]
    assert last.get_xdata().tolist() == list(figure.panels[0].series[3].x)
    assert last.get_markersize() > axes.lines[0].get_markersize()
    assert {line.get_linestyle() for line in axes.lines} == {"None"}


def test_heat_maps_keep_the_matrix_and_the_classes() -> None:
    figure = heat_figure()
    maps = heat_maps_of(figure)
    assert [found.boundaries for found in maps] == [(0, 12, 32, 38), (0, 12, 32, 38), ()]
    np.testing.assert_array_equal(maps[1].values, figure.panels[1].matrix)
    axes = exhibit_panels(figure)[0].axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), figure.panels[0].matrix)
    assert [text.get_text() for text in axes.texts][1] == "entailment"
    bare = exhibit_panels(figure)[2].axes[0]
    assert (bare.get_xlabel(), bare.get_ylabel(), axes.get_ylabel()) == ("sample", "sample", "")


def test_methods_keep_their_colours_and_a_second_series_is_hollow() -> None:
    looks = series_styles(lines_figure())
    assert list(looks) == ["FT", "LP-FT", "FT (shared rate)"]
    own = method_styles(["ft", "lp-ft"])
    assert (looks["FT"], looks["LP-FT"]) == (own["ft"], own["lp-ft"])
    second = looks["FT (shared rate)"]
    assert (second.colour, second.filled) == (looks["FT"].colour, False)
    assert second.dashes
    alone = Series("FT", (0.0,), (0.0,), method="ft", dashed=True)
    figure = FigureExhibit("f", "F", "lines", (Panel("", "", "", (alone,)),))
    assert series_styles(figure)["FT"] == second


def test_what_is_no_method_has_other_colours_beside_methods() -> None:
    labels = [f"class {place}" for place in range(10)]
    series = tuple(Series(label, (0.0,), (0.0,)) for label in labels)
    looks = series_styles(FigureExhibit("f", "F", "scatter", (Panel("", "", "", series),)))
    assert len({(look.colour, look.filled) for look in looks.values()}) == 10
    beside = Series("FT", (0.0,), (0.0,), method="ft")
    mixed = FigureExhibit("f", "F", "lines", (Panel("", "", "", (*series[:3], beside)),))
    colours = [look.colour for look in series_styles(mixed).values()]
    assert len(set(colours)) == 4
    assert not set(colours[:3]) & {look.colour for look in list(looks.values())[:5]}


def test_the_legend_has_what_is_drawn_and_a_line_for_lines_alone() -> None:
    assert list(legend_styles(lines_figure())) == ["FT", "LP-FT", "FT (shared rate)"]
    assert {look.dashes for look in legend_styles(scatter_figure()).values()} == {None}
    nothing = Series("never", (0.0,), (None,))
    panel = replace(lines_figure().panels[0], series=(nothing, *lines_figure().panels[0].series))
    assert "never" not in legend_styles(replace(lines_figure(), panels=(panel,)))


def test_nothing_to_draw_is_no_figure() -> None:
    panel = Panel("p", "x", "y", (Series("a", (0.0,), (None,)),))
    for kind in ("lines", "points", "scatter"):
        figure = FigureExhibit("f", "F", kind, (panel,))
        assert exhibit_panels(figure) == ()
        assert exhibit_sheet(figure) is None
    assert exhibit_sheet(FigureExhibit("f", "F", "heat", ())) is None


def test_values_that_a_logarithmic_axis_has_not_are_left_out() -> None:
    series = Series("a", (0.0, 1.0, 2.0, 10.0), (1.0, -1.0, 3.0, 10.0))
    panel = Panel("p", "x", "y", (series,), x_scale="log", y_scale="log")
    figure = FigureExhibit("f", "F", "lines", (panel,))
    line = exhibit_panels(figure)[0].axes[0].lines[0]
    np.testing.assert_array_equal(line.get_ydata(), [np.nan, np.nan, 3.0, 10.0])
    assert leaves_points_out(figure)
    none = replace(panel, series=(Series("a", (0.0, -1.0), (0.0, -1.0)),))
    assert undrawn(replace(figure, panels=(none, panel))) == ("p",)
    assert exhibit_panels(replace(figure, panels=(none,))) == ()
    named = Panel("p", "", "y", (Series("a", (0.0, 1.0), (2.0, 3.0)),), "log", ticks=("b", "c"))
    assert not leaves_points_out(FigureExhibit("f", "F", "points", (named,)))
    assert not leaves_points_out(lines_figure())


def test_long_titles_and_labels_are_on_two_lines() -> None:
    title = "Validation accuracy of the demo corpus out of distribution"
    panel = Panel(title, "word " * 40, "", (Series("a", (0.0,), (1.0,)),))
    axes = exhibit_panels(FigureExhibit("f", "F", "lines", (panel,)))[0].axes[0]
    assert axes.get_title(loc="left").split() == title.split()
    label = axes.get_xlabel().split("\n")
    assert len(label) == 2
    assert label[1].endswith("…")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1, "0.1"), (1e-6, "1e−6"), (250.0, "250"), (-2.5, "−2.5"), (5e6, "5e6"), (0.0, "0")],
)
def test_ticks_are_plain_numbers(value: float, text: str) -> None:
    assert tick_text(value) == text
