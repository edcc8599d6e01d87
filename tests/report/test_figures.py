"""The figures of runs and kernels: the values in them, looked up again in the records."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from results.kernel_folders import METHODS, write_kernels
from results.run_folders import write_run
from scipy.stats import binomtest

from lpft.report import ReportResult, figures
from lpft.report.drawing import saved, series_styles
from lpft.report.panels import panel_canvases, sheet
from lpft.results.differences import compare
from lpft.results.exhibits import Panel, thinned
from lpft.results.groups import Group, group_runs
from lpft.results.kernels import KernelRecord, find_kernels, heat_map_panels
from lpft.results.run import find_runs


@pytest.fixture(scope="module")
def group(report: ReportResult) -> Group:
    (found,), _ = group_runs(report.runs)
    return found


def test_the_accuracy_figure_has_a_point_per_setting_and_split(group: Group) -> None:
    (panel,) = figures.accuracy(group).panels
    assert panel.ticks == ("test", "ood/books", "ood/hotels")
    for series, setting in zip(panel.series, group.settings, strict=True):
        assert list(series.y) == [setting.first.score(split, "accuracy") for split in panel.ticks]
        assert series.low is not None
        assert series.high is not None
        for low, value, high in zip(series.low, series.y, series.high, strict=True):
            assert low < value < high  # type: ignore[operator]


def test_the_feature_change_figure_has_a_row_per_match(group: Group) -> None:
    figure = figures.feature_change(compare(group))
    assert figure is not None
    rows = {
        (panel.title, tick.replace("\n", " ")): [series.y[place] for series in panel.series]
        for panel in figure.panels
        for place, tick in enumerate(panel.ticks)
    }
    assert rows == {
        ("FT and LP-FT", "each at its own rate"): [10.4, 3.9],
        ("FT and LP-FT", "both at rate 5e-6, batch 8"): [4.5, 3.9],
        ("LoRA and LP-LoRA", "each at its own rate"): [9.1, 4.4],
    }
    assert [series.texts for series in figure.panels[0].series] == [
        *(("10.40", "4.50"), ("3.90", "3.90"))
    ]


def test_reliability_has_bins_of_equally_many_rows_with_intervals(tmp_path: Path) -> None:
    write_run(tmp_path / "ft", temperature=1.5)
    (run,) = find_runs(tmp_path)[0]
    panel = next(p for p in figures.reliability(run).panels if p.title == "test")
    (drawn,) = panel.series
    # 80 rows: four bins of 20, by rank of the top probability.
    predictions = run.predictions["test"]
    tops = predictions.probabilities(1.5).max(1)
    right = predictions.logits.argmax(1) == predictions.labels
    order = np.argsort(tops)
    for place, rows in enumerate(np.split(order, 4)):
        assert drawn.x[place] == pytest.approx(tops[rows].mean())
        assert drawn.y[place] == pytest.approx(right[rows].mean())
        interval = binomtest(int(right[rows].sum()), 20).proportion_ci(method="wilson")
        assert drawn.low is not None
        assert drawn.high is not None
        assert (drawn.low[place], drawn.high[place]) == pytest.approx(
            (interval.low, interval.high), abs=1e-6
        )


def test_coverage_is_the_accuracy_of_the_most_confident_rows(tmp_path: Path) -> None:
    write_run(tmp_path / "ft")
    (group,), _ = group_runs(find_runs(tmp_path)[0])
    (line,) = figures.accuracy_over_coverage(group.settings, "test").panels[0].series
    predictions = group.runs[0].predictions["test"]
    order = np.argsort(-predictions.probabilities(group.runs[0].temperature).max(1))
    right = (predictions.logits.argmax(1) == predictions.labels)[order]
    assert line.x[0] == pytest.approx(100 * 10 / 80)
    for share, accuracy in zip(line.x, line.y, strict=True):
        assert accuracy == pytest.approx(100 * right[: round(share / 100 * 80)].mean())


def test_curves_are_what_the_history_says(group: Group) -> None:
    run = next(run for run in group.runs if run.method == "lp-ft")
    points = run.curve("feature_difference")
    assert len(points) == 11
    assert points[0] == (0.0, 0.0)
    assert points[-1] == (10.0, 3.9)
    figure = figures.training(group)
    assert figure is not None
    assert [panel.title for panel in figure.panels] == [
        *("Training loss (nats)", "Validation loss (nats)", "Validation accuracy"),
    ]
    norms = figures.norms(group)
    assert norms is not None
    assert [panel.title for panel in norms.panels] == [
        *("Feature change", "Head norm", "Bias norm", "Logit norm"),
    ]
    line = next(line for line in norms.panels[0].series if line.label == "LP-FT")
    assert list(zip(line.x, line.y, strict=True)) == points
    lp = next(run for run in group.runs if run.method == "lp")
    assert len(lp.curve("head_norm")) == 1
    assert lp.curve("loss") == []


def test_long_curves_are_means_over_stretches(tmp_path: Path) -> None:
    run = write_run(tmp_path / "ft")
    lines = [f'{{"event": "training", "epoch": {i}, "loss": {i * 2}}}' for i in range(600)]
    (run / "history.jsonl").write_text("\n".join(lines))
    points = find_runs(tmp_path)[0][0].curve("loss")
    assert len(points) == 150
    assert points[0] == (1.5, 3.0)
    assert points[-1] == (597.5, 1195.0)


def test_no_history_is_no_figure(tmp_path: Path) -> None:
    write_run(tmp_path / "ft", history=False)
    (found,), _ = group_runs(find_runs(tmp_path)[0])
    assert figures.training(found) is None


def test_styles_differ_in_more_than_colour(group: Group) -> None:
    looks = list(series_styles(figures.accuracy(group)).values())
    assert len({(look.marker, look.filled) for look in looks}) == len(looks) == 6
    assert len({look.colour for look in looks}) == 5


def test_methods_of_other_kinds_have_styles_too(tmp_path: Path) -> None:
    for method in ("ft", "ia3", "lp-ia3", "prefix"):
        write_run(tmp_path / method, method)
    (found,), _ = group_runs(find_runs(tmp_path)[0])
    looks = series_styles(figures.accuracy(found))
    assert list(looks) == ["FT", "IA3", "LP-IA3", "Prefix"]
    assert len({look.colour for look in looks.values()}) == 4


def test_a_spectrum_is_drawn_down_to_rounding_with_a_marker_at_its_rank(
    kernels: KernelRecord, record: dict[str, Any]
) -> None:
    figure = figures.spectra(kernels)
    assert figure is not None
    panel = figure.panels[0]
    tolerance = 180 * 2.0**-23
    assert panel.y_scale == "log"
    assert panel.level is not None
    assert panel.level[0] == pytest.approx(tolerance)
    keys = [("ft", "pretrain_effective"), *((method, "ft_effective") for method in METHODS)]
    assert len(panel.series) == 5
    for line, (method, kernel) in zip(panel.series, keys, strict=True):
        found = record["methods"][method]["kernels"][kernel]
        values = np.array(found["singular_values"])
        shown = values >= tolerance / 100
        shown[found["rank"] - 1] = True
        np.testing.assert_allclose([y for y in line.y if y is not None], values[shown])
        assert [y is not None for y in line.y] == list(shown)
        assert line.marked == (found["rank"] - 1,)
    (_, canvas), _ = panel_canvases(figure)
    assert [len(line.get_markevery()) for line in canvas.axes[0].lines[:5]] == [1] * 5


def test_a_long_line_keeps_its_ends() -> None:
    places = thinned(2000, 240)
    assert len(places) == 240
    assert (places[0], places[-1]) == (0, 1999)
    assert set(np.diff(places)) == {8, 9}
    assert thinned(3, 240).tolist() == [0, 1, 2]


def test_a_zero_kernel_has_no_line(record: dict[str, Any]) -> None:
    changed = copy.deepcopy(record)
    f = changed["methods"]["lora"]["kernels"]["ft_effective"]
    f.update(singular_values=[0.0] * 180, rank=0, rank_tolerance=0.0, largest_singular_value=0.0)
    figure = figures.spectra(KernelRecord.model_validate(changed))
    assert figure is not None
    labels = [line.label for line in figure.panels[0].series]
    assert labels == ["P", "FT", "LP-FT", "LP-LoRA"]


def matrix_of(panel: Panel) -> np.ndarray:
    assert panel.matrix is not None
    return np.array(panel.matrix)


def test_heat_maps_are_sorted_by_class(kernels: KernelRecord) -> None:
    figure = figures.heat_maps(kernels)
    assert figure is not None
    names = ("FT", "LoRA", "LP-FT", "LP-LoRA")
    titles = ["P", *(f"{m}: {k}" for m in names for k in ("F", "P + F"))]
    assert [panel.title for panel in figure.panels] == titles
    assert [panel.strip for panel in figure.panels] == ["P", *["F", "P + F"] * 4]
    labels = kernels.labels["train"]
    order = sorted(range(len(labels)), key=lambda place: (labels[place], place))
    values = kernels.methods[2].heat_maps["ft_effective"]
    panel = figure.panels[5]
    np.testing.assert_array_equal(matrix_of(panel), values[np.ix_(order, order)])
    counts = [int((labels == label).sum()) for label in range(3)]
    firsts = (0, counts[0], counts[0] + counts[1])
    assert panel.bounds == tuple(zip(kernels.classes, firsts, strict=True))
    assert f"{kernels.classes[1]} ({counts[1]} texts)" in figure.caption


def test_many_samples_are_means_over_blocks_that_never_mix_classes(kernels: KernelRecord) -> None:
    labels = kernels.labels["train"]
    order = np.argsort(labels, kind="stable")
    whole = kernels.methods[0].heat_maps["ft_effective"][np.ix_(order, order)]
    panel = next(p for p in heat_map_panels(kernels, 20) if p.title == "FT: F")
    found, in_order = matrix_of(panel), labels[order]
    starts = [first + i for first in np.unique(in_order, return_index=True)[1] for i in range(60)]
    edges = [s for s in sorted(set(starts)) if s < 60]
    blocks, place = [], 0
    while place < 60:
        end = min(place + 3, 60)
        while in_order[end - 1] != in_order[place]:
            end -= 1
        blocks.append((place, end))
        place = end
    assert edges[0] == 0
    assert found.shape == (len(blocks), len(blocks))
    for i, (top, bottom) in enumerate(blocks):
        for j, (left, right) in enumerate(blocks):
            assert found[i, j] == pytest.approx(whole[top:bottom, left:right].mean())


def test_without_tensors_there_is_no_heat_map(tmp_path: Path) -> None:
    write_kernels(tmp_path / "k", samples=9, tensors=False)
    (kernels,), _ = find_kernels(tmp_path)
    assert figures.heat_maps(kernels) is None


def test_classes_without_texts_have_no_place(tmp_path: Path) -> None:
    names = ("a", "b", "c", "none of these")
    write_kernels(tmp_path / "k", samples=9, methods=("ft",))
    path = tmp_path / "k" / "kernels.json"
    record = json.loads(path.read_text())
    record["data"]["classes"] = list(names)
    path.write_text(json.dumps(record))
    (kernels,), _ = find_kernels(tmp_path)
    figure = figures.heat_maps(kernels)
    assert figure is not None
    assert [name for name, _ in figure.panels[0].bounds] == ["a", "b", "c"]


def test_bars_are_shares_of_the_trace(kernels: KernelRecord) -> None:
    figure = figures.shares(kernels)
    assert figure is not None
    ft, lora, *_ = (canvas.axes[0] for _, canvas in panel_canvases(figure))
    bars = [bar.get_width() for bar in ft.patches]
    np.testing.assert_allclose(bars, [*(100 * np.arange(1, 6) / 15), *(100 * np.arange(1, 8) / 28)])
    names = [text.get_text() for text in ft.get_yticklabels()]
    assert names[:2] == ["embeddings", "attention"]
    assert names[5] == ""
    # Each method has a row for every part, and a bar for those that it trains.
    assert [text.get_text() for text in lora.get_yticklabels()] == names
    assert len(lora.patches) == 1 + 6


def test_nothing_recorded_is_no_figure(record: dict[str, Any]) -> None:
    bare = copy.deepcopy(record)
    for method in bare["methods"].values():
        method.update(layers={}, kinds={})
        method["kernels"] = {"other": method["kernels"]["ntk"]}
    kernels = KernelRecord.model_validate(bare)
    assert figures.shares(kernels) is None
    assert figures.spectra(kernels) is None


def test_sheets_are_saved_alike_and_change_nothing_global(
    kernels: KernelRecord, group: Group
) -> None:
    before = dict(mpl.rcParams)
    made = (
        *(figures.spectra(kernels), figures.heat_maps(kernels), figures.shares(kernels)),
        *(figures.accuracy(group), figures.reliability(group.runs[0])),
    )
    for figure in made:
        assert figure is not None
        canvas = sheet(figure)
        assert canvas is not None
        assert saved(canvas, "pdf").startswith(b"%PDF")
        assert saved(canvas, "png") == saved(canvas, "png")
    assert dict(mpl.rcParams) == before


@pytest.mark.heavy
def test_the_report_writes_figures_as_wide_as_a_venues_column(tmp_path: Path, lpft) -> None:
    write_run(tmp_path / "ft")
    outcome = lpft("report", tmp_path, "--venue", "acl-column")
    assert outcome.status == 0, outcome.err
    drawn = list((tmp_path / "report-figures").glob("*.pdf"))
    assert drawn
    for path in drawn:
        box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ", path.read_bytes())
        assert box is not None
        assert float(box[1]) / 72 == pytest.approx(3.03, abs=0.01)
