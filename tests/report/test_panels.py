"""Panels: the values that are drawn, their styles, axes and legends, and the SVG of the page."""

import base64
import io
import re
from dataclasses import replace
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas
from matplotlib.text import Text
from PIL import Image
from results.experiment_folders import (
    heat_figure,
    lines_figure,
    points_figure,
    scatter_figure,
    small_multiples,
)

from lpft.report.drawing import SERIF, inline_svg, saved, series_styles, swatch, tick_text
from lpft.report.panels import draw, legend_styles, panel_canvases, sheet
from lpft.results.exhibits import Figure, Panel, Series

FIGURES = (lines_figure, small_multiples, points_figure, scatter_figure, heat_figure)


def canvases(figure: Figure) -> list[Canvas]:
    return [canvas for _, canvas in panel_canvases(figure)]


def undrawn_in(figure: Figure) -> tuple[str, ...]:
    return draw(figure, "x").undrawn


def leaves_out(figure: Figure) -> bool:
    return draw(figure, "x").off_axes


def drawn(figure: Canvas) -> Canvas:
    """The figure after its layout was found."""
    saved(figure, "png")
    return figure


@pytest.mark.parametrize("make", FIGURES)
def test_every_kind_is_drawn_and_saved_without_a_global_change(make) -> None:
    before = dict(mpl.rcParams)
    canvas = sheet(make())
    assert canvas is not None
    assert saved(canvas, "pdf").startswith(b"%PDF")
    assert len(canvases(make())) == {"training": 5}.get(make().name, len(make().panels))
    assert dict(mpl.rcParams) == before


# What LaTeX prints for \the\textwidth and \the\columnwidth with the venues' styles, in TeX points.
WIDTHS = {
    "neurips": 397.48499,
    "icml": 487.8225,
    "icml-column": 234.8775,
    "acl": 455.24411,
    "acl-column": 219.08614,
}


@pytest.mark.heavy
@pytest.mark.parametrize("make", FIGURES)
@pytest.mark.parametrize("venue", WIDTHS)
def test_sheets_have_the_width_and_the_font_of_their_venue(make, venue) -> None:
    canvas = sheet(make(), venue)
    assert canvas is not None
    width, height = canvas.get_size_inches()
    assert width == pytest.approx(WIDTHS[venue] / 72.27, abs=0.005)
    assert height < 9  # the text of all of them is 9 inches high or more
    assert b"STIXGeneral" in saved(canvas, "pdf", fonts=SERIF)
    canvas.draw_without_rendering()
    texts = [text for text in canvas.findobj(Text) if text.get_text() and text.get_visible()]
    assert {text.get_fontfamily()[0] for text in texts} == {"STIXGeneral"}
    titles = [axes.get_title(loc="left") for axes in canvas.axes]
    for text in texts:
        if text.get_text() in titles:
            box = text.get_window_extent()
            assert box.x1 <= canvas.bbox.x1 + 1, text


def test_lines_are_where_the_record_says_with_bands_between_low_and_high() -> None:
    figure = lines_figure()
    (panel,) = canvases(figure)
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
    axes = canvases(small_multiples())[1].axes[0]
    for line in axes.lines:
        assert len(line.get_xdata()) == 240
        assert (line.get_xdata()[0], line.get_xdata()[-1]) == (0, 399)


def test_named_points_are_rows_with_their_intervals() -> None:
    figure = points_figure()
    axes = drawn(canvases(figure)[0]).axes[0]
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == list(figure.panels[0].ticks)
    *points, zero = axes.lines
    assert zero.get_xdata() == [0, 0]
    for line, series in zip(points, figure.panels[0].series, strict=True):
        expected = [np.nan if y is None else y for y in series.y]
        np.testing.assert_array_equal(line.get_xdata(), expected)
    for reaches, series in zip(axes.collections, figure.panels[0].series, strict=True):
        ends = [segment[:, 0].tolist() for segment in reaches.get_segments()]
        assert ends[:4] == [[y - 0.9, y + 0.9] for y in series.y[:4] if y is not None]
    heights = np.concatenate([line.get_ydata() for line in points])
    assert np.round(heights[:5]).tolist() == [0, 1, 2, 3, 4]
    assert len(set(heights)) == 15
    assert axes.yaxis_inverted()


def test_there_is_no_line_at_zero_where_all_values_are_on_one_side() -> None:
    series = points_figure().panels[0].series[:1]
    panel = replace(points_figure().panels[0], series=series)
    (axes,) = canvases(Figure("f", "F", "points", (panel,)))[0].axes
    assert len(axes.lines) == 1


def test_points_without_names_stand_along_a_numeric_axis() -> None:
    series = Series("a", (1.0, 4.0), (2.0, 3.0), low=(1.5, 2.5), high=(2.5, 4.0))
    figure = Figure("f", "F", "points", (Panel("p", "x", "y", (series,)),))
    axes = canvases(figure)[0].axes[0]
    assert axes.lines[0].get_xdata().tolist() == [1.0, 4.0]
    assert axes.lines[0].get_linestyle() == "None"
    reaches = [segment[:, 1].tolist() for segment in axes.collections[0].get_segments()]
    assert reaches == [[1.5, 2.5], [2.5, 4.0]]


def test_named_points_of_a_cloud_are_drawn_last_and_labelled() -> None:
    figure = scatter_figure()
    axes = drawn(canvases(figure)[0]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["contradiction", "entailment", "neutral"]
    last = axes.lines[-1]
    assert last.get_xdata().tolist() == list(figure.panels[0].series[3].x)
    assert last.get_markersize() > axes.lines[0].get_markersize()
    assert {line.get_linestyle() for line in axes.lines} == {"None"}


def test_heat_maps_keep_the_matrix_and_the_classes() -> None:
    figure = heat_figure()
    first, _, bare = canvases(figure)
    axes, side = first.axes
    np.testing.assert_array_equal(axes.images[0].get_array(), figure.panels[0].matrix)
    assert figure.panels[0].matrix is not None
    assert axes.images[0].get_clim() == tuple(np.percentile(figure.panels[0].matrix, (1, 99)))
    assert [text.get_text() for text in axes.texts][1] == "entailment"
    lines = {line.get_ydata()[0] for line in axes.lines if len(set(line.get_ydata())) == 1}
    assert lines >= {12, 32}
    assert len(side.texts) == 2
    labels = (bare.axes[0].get_xlabel(), bare.axes[0].get_ylabel(), axes.get_ylabel())
    assert labels == ("sample", "sample", "")


def test_methods_keep_their_colours_and_a_second_series_is_hollow() -> None:
    looks = series_styles(lines_figure())
    assert list(looks) == ["FT", "LP-FT", "FT (shared rate)"]
    assert looks["FT"].colour != looks["LP-FT"].colour
    assert looks["FT"].filled
    assert looks["LP-FT"].filled
    second = looks["FT (shared rate)"]
    assert (second.colour, second.filled) == (looks["FT"].colour, False)
    assert second.dashes
    alone = Series("FT", (0.0,), (0.0,), method="ft", dashed=True)
    figure = Figure("f", "F", "lines", (Panel("", "", "", (alone,)),))
    assert series_styles(figure)["FT"] == second


def test_what_is_no_method_has_other_colours_beside_methods() -> None:
    labels = [f"class {place}" for place in range(10)]
    series = tuple(Series(label, (0.0,), (0.0,)) for label in labels)
    looks = series_styles(Figure("f", "F", "scatter", (Panel("", "", "", series),)))
    assert len({(look.colour, look.filled) for look in looks.values()}) == 10
    beside = Series("FT", (0.0,), (0.0,), method="ft")
    mixed = Figure("f", "F", "lines", (Panel("", "", "", (*series[:3], beside)),))
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
        figure = Figure("f", "F", kind, (panel,))
        assert canvases(figure) == []
        assert sheet(figure) is None
    assert sheet(Figure("f", "F", "heat", ())) is None


def test_values_that_a_logarithmic_axis_has_not_are_left_out() -> None:
    series = Series("a", (0.0, 1.0, 2.0, 10.0), (1.0, -1.0, 3.0, 10.0))
    panel = Panel("p", "x", "y", (series,), x_scale="log", y_scale="log")
    figure = Figure("f", "F", "lines", (panel,))
    line = canvases(figure)[0].axes[0].lines[0]
    np.testing.assert_array_equal(line.get_ydata(), [np.nan, np.nan, 3.0, 10.0])
    assert leaves_out(figure)
    none = replace(panel, series=(Series("a", (0.0, -1.0), (0.0, -1.0)),))
    assert undrawn_in(replace(figure, panels=(none, panel))) == ("p",)
    assert canvases(replace(figure, panels=(none,))) == []
    named = Panel("p", "", "y", (Series("a", (0.0, 1.0), (2.0, 3.0)),), "log", ticks=("b", "c"))
    assert not leaves_out(Figure("f", "F", "points", (named,)))
    assert not leaves_out(lines_figure())


def test_long_titles_and_labels_are_on_two_lines() -> None:
    title = "Validation accuracy of the demo corpus out of distribution"
    panel = Panel(title, "word " * 40, "", (Series("a", (0.0,), (1.0,)),))
    axes = canvases(Figure("f", "F", "lines", (panel,)))[0].axes[0]
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


def test_inline_svg_has_its_own_ids_colours_and_description() -> None:
    (figure,) = canvases(lines_figure())
    one, two = (
        ElementTree.fromstring(inline_svg(figure, name, "Title <&>", "What it shows"))
        for name in ("one", "two")
    )
    ids = [{e.get("id") for e in root.iter() if e.get("id")} for root in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
    references = {
        value.removeprefix("#")
        for element in one.iter()
        for key, value in element.attrib.items()
        if key.endswith("href")
    }
    assert references
    assert references <= ids[0]
    assert one[0].text == "Title <&>"
    assert one.get("aria-labelledby") == "one-title one-desc"
    text = inline_svg(figure, "one", "Title", "Description")
    assert "var(--fig-blue)" in text
    assert "<style" not in text
    assert "<?xml" not in text
    hidden = inline_svg(swatch(series_styles(lines_figure())["FT"]), "key")
    assert 'aria-hidden="true"' in hidden


def test_images_in_a_drawing_keep_every_pixel() -> None:
    (canvas, *_) = canvases(heat_figure())
    text = inline_svg(canvas, "map", "A map", "of numbers")
    encoded, _ = re.findall(r'href="data:image/png;base64,([^"]+)"', text)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))
    image = canvas.axes[0].images[0]
    np.testing.assert_array_equal(pixels, image.to_rgba(image.get_array(), bytes=True)[..., :3])
