"""Figures of kernels: the values that are drawn, the order of samples, exact small images."""

import base64
import copy
import io
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from lpft.report.kernels.heat_maps import heat_map_panel, heat_map_sheet, heat_maps, pixels
from lpft.report.kernels.parts import parts_panel, parts_sheet
from lpft.report.kernels.spectra import (
    MOST_POINTS,
    drawn_kernels,
    spectra_of,
    spectrum_panel,
    spectrum_sheet,
)
from lpft.report.svg import inline_svg
from matplotlib.figure import Figure
from PIL import Image
from results.kernel_folders import METHODS, write_kernels

from lpft.report.drawing import new_figure, saved, thinned
from lpft.results.kernels import KernelRecord, find_kernels


def test_a_spectrum_is_drawn_down_to_rounding_with_a_marker_at_its_rank(
    kernels: KernelRecord, record: dict[str, Any]
) -> None:
    axes = spectrum_panel(kernels, "ft_effective").axes[0]
    lines = [line for line in axes.lines if line.get_marker() in ("None", None)]
    tolerance = 180 * 2.0**-23
    curves = [line for line in lines if len(line.get_xdata()) > 2]
    assert len(curves) == 5
    keys = [("ft", "pretrain_effective"), *((method, "ft_effective") for method in METHODS)]
    ranks = []
    for curve, (method, kernel) in zip(curves, keys, strict=True):
        found = record["methods"][method]["kernels"][kernel]
        values = np.array(found["singular_values"])
        shown = values >= tolerance / 100
        np.testing.assert_allclose(curve.get_ydata(), values[shown])
        np.testing.assert_array_equal(curve.get_xdata(), np.flatnonzero(shown) + 1)
        ranks.append((found["rank"], values[found["rank"] - 1]))
    points = [line for line in axes.lines if line.get_marker() not in ("None", None)]
    assert [(p.get_xdata()[0], p.get_ydata()[0]) for p in points] == ranks
    (level,) = [
        line for line in axes.lines if len(set(line.get_ydata())) == 1 < len(line.get_xdata())
    ]
    assert level.get_ydata()[0] == pytest.approx(tolerance)
    assert axes.get_yscale() == "log"


def test_a_long_spectrum_keeps_its_ends() -> None:
    places = thinned(2000, MOST_POINTS)
    assert len(places) == MOST_POINTS
    assert (places[0], places[-1]) == (0, 1999)
    assert set(np.diff(places)) == {8, 9}
    assert thinned(3, MOST_POINTS).tolist() == [0, 1, 2]


def test_a_zero_kernel_has_no_line(record: dict[str, Any]) -> None:
    changed = copy.deepcopy(record)
    f = changed["methods"]["lora"]["kernels"]["ft_effective"]
    f.update(singular_values=[0.0] * 180, rank=0, rank_tolerance=0.0, largest_singular_value=0.0)
    kernels = KernelRecord.model_validate(changed)
    assert [name for name, _, _ in spectra_of(kernels, "ft_effective")] == [
        *("P", "FT"),
        *("LP-FT", "LP-LoRA"),
    ]
    assert isinstance(spectrum_sheet(kernels), Figure)


def test_heat_maps_are_sorted_by_class(kernels: KernelRecord) -> None:
    maps = heat_maps(kernels)
    assert [found.title for found in maps] == [
        "P",
        *(f"{m}: {k}" for m in ("FT", "LoRA", "LP-FT", "LP-LoRA") for k in ("F", "P + F")),
    ]
    labels = kernels.labels["train"]
    order = sorted(range(len(labels)), key=lambda place: (labels[place], place))
    values = kernels.methods[2].heat_maps["ft_effective"]
    drawn = next(found for found in maps if found.title == "LP-FT: F")
    for row, i in enumerate(order):
        for column, j in enumerate(order):
            assert drawn.values[row, column] == values[i, j]
    counts = [int((labels == label).sum()) for label in range(3)]
    assert drawn.boundaries == (0, counts[0], counts[0] + counts[1], 60)
    assert drawn.classes == kernels.classes
    axes, scale = heat_map_panel(drawn).axes
    np.testing.assert_array_equal(axes.images[0].get_array(), drawn.values)
    assert axes.images[0].get_clim() == tuple(np.percentile(drawn.values, (1, 99)))
    marked = {line.get_ydata()[0] for line in axes.lines if len(set(line.get_ydata())) == 1}
    assert marked >= {counts[0], counts[0] + counts[1]}
    assert len(scale.texts) == 2


def test_many_samples_are_pooled_by_means() -> None:
    values = np.arange(49.0).reshape(7, 7)
    found = pixels(values, 3)
    assert found.shape == (3, 3)
    assert found[0, 0] == values[:3, :3].mean()
    assert found[2, 1] == values[6:, 3:6].mean()
    assert found[2, 2] == 48
    np.testing.assert_array_equal(pixels(values, 1), values)


def test_without_tensors_there_is_no_heat_map(tmp_path: Path) -> None:
    write_kernels(tmp_path / "k", samples=9, tensors=False)
    (kernels,), _ = find_kernels(tmp_path)
    assert heat_maps(kernels) == ()
    assert heat_map_sheet(()) is None


def test_classes_without_texts_have_no_place(tmp_path: Path) -> None:
    names = ("a", "b", "c", "none of these")
    write_kernels(tmp_path / "k", samples=9, methods=("ft",))
    record = (tmp_path / "k" / "kernels.json").read_text()
    changed = record.replace(
        '["contradiction", "entailment", "neutral"]', str(list(names)).replace("'", '"')
    )
    (tmp_path / "k" / "kernels.json").write_text(changed)
    (kernels,), _ = find_kernels(tmp_path)
    assert heat_maps(kernels)[0].classes == ("a", "b", "c")


def test_bars_are_shares_of_the_trace(kernels: KernelRecord) -> None:
    figure = parts_panel(kernels, kernels.methods[0])
    assert figure is not None
    bars = [bar.get_width() for bar in figure.axes[0].patches]
    np.testing.assert_allclose(bars, [*(100 * np.arange(1, 6) / 15), *(100 * np.arange(1, 8) / 28)])
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names[:2] == ["embeddings", "attention"]
    lora = parts_panel(kernels, kernels.methods[1])
    assert lora is not None
    assert len(lora.axes[0].patches) == 1 + 6
    assert lora.axes[0].get_xlim() == figure.axes[0].get_xlim()


def test_nothing_recorded_is_no_figure(record: dict[str, Any]) -> None:
    bare = copy.deepcopy(record)
    for method in bare["methods"].values():
        method.update(layers={}, kinds={})
        method["kernels"] = {"other": method["kernels"]["ntk"]}
    kernels = KernelRecord.model_validate(bare)
    assert parts_panel(kernels, kernels.methods[0]) is None
    assert parts_sheet(kernels) is None
    assert drawn_kernels(kernels) == ()
    assert spectrum_sheet(kernels) is None


def test_the_sheets_can_be_saved_and_change_nothing_global(kernels: KernelRecord) -> None:
    before = dict(mpl.rcParams)
    figures = [spectrum_sheet(kernels), heat_map_sheet(heat_maps(kernels)), parts_sheet(kernels)]
    for figure in figures:
        assert figure is not None
        assert saved(figure, "pdf").startswith(b"%PDF")
        assert saved(figure, "png") == saved(figure, "png")
    assert dict(mpl.rcParams) == before


def test_images_in_a_drawing_keep_every_pixel() -> None:
    figure = new_figure(2, 2)
    axes = figure.add_axes((0, 0, 1, 1))
    values = np.random.default_rng(0).random((40, 30))
    axes.imshow(values, cmap=mpl.colormaps["cividis"], interpolation="none")
    text = inline_svg(figure, "map", "A map", "of numbers")
    (encoded,) = re.findall(r'href="data:image/png;base64,([^"]+)"', text)
    image = Image.open(io.BytesIO(base64.b64decode(encoded)))
    assert image.mode == "P"
    normed = (values - values.min()) / (values.max() - values.min())
    expected = mpl.colormaps["cividis"](normed, bytes=True)[..., :3]
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), expected)


def test_images_of_many_colours_stay_as_they_are() -> None:
    figure = new_figure(2, 2)
    axes = figure.add_axes((0, 0, 1, 1))
    values = np.random.default_rng(0).integers(256, size=(30, 30, 3), dtype=np.uint8)
    axes.imshow(values, interpolation="none")
    (encoded,) = re.findall(r'href="data:image/png;base64,([^"]+)"', inline_svg(figure, "x"))
    image = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    np.testing.assert_array_equal(np.asarray(image), values)
