"""Kernel tables and figures from written kernels, beside numbers taken from their JSON."""

import json
from statistics import mean, stdev

import numpy as np
import pytest
from experiments.experiment_folders import runs_of, scope_of
from safetensors.numpy import load_file

from lpft.experiments import kernels as kernel_recipes
from lpft.experiments.plan import ExperimentRuns
from lpft.experiments.run import find_recipe


@pytest.fixture(scope="module")
def table2(tmp_path_factory):
    tasks, seeds = ("cb", "rte"), (0, 1, 2)
    recipe, found = runs_of("table2", tmp_path_factory.mktemp("table2"), tasks=tasks, seeds=seeds)
    return found, recipe.show(found)


def records(found, task):
    folders = [found.scope.folder / f"kernels/{task}-seed{seed}" for seed in found.scope.seeds]
    return [json.loads((folder / "kernels.json").read_text()) for folder in folders]


def row_of(table, *names):
    (row,) = [row for row in table.rows if row[: len(names)] == names]
    columns = [f"{column.above} {column.name}".strip() for column in table.columns]
    return dict(zip(columns, row, strict=True))


def test_rows_are_p_once_then_f_and_p_plus_f_of_each_method(table2):
    _, shown = table2
    for table in shown.exhibits:
        assert table.headers == 3
        for task, rows in (("cb", table.rows[:9]), ("rte", table.rows[9:])):
            assert [row[:3] for row in rows] == [
                (task, "all", "P"),
                *(
                    (task, method, kernel)
                    for method in ("FT", "LoRA", "LP-FT", "LP-LoRA")
                    for kernel in ("F", "P + F")
                ),
            ]


def test_statistics_are_means_over_seeds_beside_the_published_numbers(table2):
    found, shown = table2
    table = shown.exhibits[0]
    checked = 0
    for record_name, names, method in (
        ("ft_effective", ("cb", "LP-FT", "F"), "lp-ft"),
        ("ntk", ("cb", "FT", "P + F"), "ft"),
        ("pretrain_effective", ("cb", "all", "P"), "ft"),
    ):
        row = row_of(table, *names)
        kernels = [r["methods"][method]["kernels"][record_name] for r in records(found, "cb")]
        for column, key in (("rank", "rank"), ("Frobenius norm", "frobenius_norm")):
            cell = row[f"{column} minilm"]
            assert cell.value == pytest.approx(mean(kernel[key] for kernel in kernels))
            assert cell.sd == pytest.approx(stdev(kernel[key] for kernel in kernels))
            assert cell.runs == tuple(f"kernels/cb-seed{seed}" for seed in (0, 1, 2))
            checked += 1
    assert checked == 6
    published = row_of(table, "cb", "LP-FT", "F")
    theirs = "roberta-base, published"
    assert [published[f"{name} {theirs}"].value for name in ("rank", "Frobenius norm")] == [
        344,
        7.25e6,
    ]
    assert published[f"FT ratio {theirs}"].value == 1.0
    assert row_of(table, "rte", "all", "P")[f"rank {theirs}"].value == 28


def test_ft_ratios_stand_with_f_alone(table2):
    found, shown = table2
    table = shown.exhibits[0]
    ratios = [record["methods"]["lora"]["ft_ratio"] for record in records(found, "rte")]
    assert row_of(table, "rte", "LoRA", "F")["FT ratio minilm"].value == pytest.approx(mean(ratios))
    for names in (("rte", "LoRA", "P + F"), ("rte", "all", "P")):
        assert row_of(table, *names)["FT ratio minilm"] is None


def test_accuracies_of_both_protocols_are_per_cent_and_apart(table2):
    found, shown = table2
    row = row_of(shown.exhibits[1], "cb", "LP-FT", "P + F")
    scores = records(found, "cb")[0]["methods"]["lp-ft"]["kernels"]["ntk"]["regression"]
    paper, honest = scores["paper"], scores["kernel_logistic_regression"]
    entries = "paper's protocol, per entry:"
    expected = {
        f"{entries} train minilm": 100 * paper["train_accuracy"],
        f"{entries} test minilm": 100 * paper["test_accuracy"],
        f"{entries} test constant answer": 200 / 3,
        "per text, test paper's protocol": 100 * paper["test_text_accuracy"],
        "per text, test kernel logistic regression": 100 * honest["test_accuracy"],
        f"{entries} train roberta-base, published": 100.0,
        f"{entries} test roberta-base, published": 86.31,
    }
    assert {name: row[name].value for name in expected} == pytest.approx(expected)


def test_the_finding_names_ratios_beside_the_published_ones(table2):
    _, shown = table2
    assert [sentence[:15] for sentence in shown.findings] == ["FT ratio on cb:", "FT ratio on rte"]
    assert "(published 0.199) for FT" in shown.findings[0]
    assert "(published 0.992) for LP-FT" in shown.findings[1]


def test_tasks_that_the_paper_lacks_have_no_published_cells(tmp_path):
    recipe, found = runs_of("table2", tmp_path, tasks=("demo",), methods=("ft",))
    table = recipe.show(found).exhibits[0]
    assert len(table.rows) == 3
    for row in table.rows:
        cells = zip(table.columns, row, strict=True)
        assert [cell for column, cell in cells if column.source == "published"] == [None] * 3


def test_spectra_are_geometric_means_with_bands_from_seed_to_seed(tmp_path):
    recipe, found = runs_of("figure2", tmp_path, tasks=("cb",))
    (figure,) = recipe.show(found).exhibits
    assert [panel.title for panel in figure.panels] == ["F, with P", "P + F, with P"]
    for panel, kernel in zip(figure.panels, ("ft_effective", "ntk"), strict=True):
        assert panel.y_scale == "log"
        labels = [series.label for series in panel.series]
        assert labels == ["P", "FT", "LoRA", "LP-FT", "LP-LoRA"]
        series = panel.series[1]
        values = np.array(
            [
                sorted(r["methods"]["ft"]["kernels"][kernel]["singular_values"], reverse=True)
                for r in records(found, "cb")
            ]
        )
        assert values.shape == (2, 180)
        assert series.x == tuple(range(1, 181))
        assert series.runs == ("kernels/cb-seed0", "kernels/cb-seed1")
        shown = [place for place, y in enumerate(series.y) if y is not None]
        assert len(shown) > 40
        for place in shown[:40]:
            one, two = values[:, place]
            assert series.y[place] == pytest.approx((one * two) ** 0.5)
            assert series.low[place] == pytest.approx(min(one, two))
            assert series.high[place] == pytest.approx(max(one, two))


def test_singular_values_that_are_rounding_are_left_out(tmp_path):
    recipe, found = runs_of("figure2", tmp_path, tasks=("cb",), seeds=(0,))
    (figure,) = recipe.show(found).exhibits
    series = next(s for s in figure.panels[0].series if s.method == "lp-ft")
    kernel = records(found, "cb")[0]["methods"]["lp-ft"]["kernels"]["ft_effective"]
    bottom = 0.01 * kernel["rank_tolerance"] / kernel["largest_singular_value"]
    expected = sum(value > bottom for value in kernel["singular_values"])
    assert expected < len(series.y)
    assert sum(value is not None for value in series.y) == expected
    assert series.low is None


def test_figure_9_has_f_of_the_methods_with_lora_alone(tmp_path):
    recipe, found = runs_of("figure9", tmp_path, tasks=("cb", "wic"))
    figures = recipe.show(found).exhibits
    assert [figure.name for figure in figures] == ["heat-maps-cb", "heat-maps-wic"]
    for figure in figures:
        assert [panel.title for panel in figure.panels] == ["LoRA: F", "LP-LoRA: F"]
    # The first seed is drawn, so that no other is computed.
    assert list(recipe.plan(found.scope).kernels) == [("cb", 0), ("wic", 0)]


def naive_blocks(values, labels, size):
    """Means over blocks of at most ``size`` texts of one class each, by loops."""
    groups = []
    for label in sorted(set(labels)):
        members = [place for place, own in enumerate(labels) if own == label]
        groups += [members[i : i + size] for i in range(0, len(members), size)]
    return [[np.mean([[values[i][j] for j in q] for i in p]) for q in groups] for p in groups]


@pytest.mark.parametrize(("most", "size"), [(96, 1), (20, 3), (7, 9)])
def test_heat_maps_are_sorted_by_class_and_blocks_never_mix_classes(
    tmp_path, monkeypatch, most, size
):
    monkeypatch.setattr(kernel_recipes, "MOST_BLOCKS", most)
    recipe, found = runs_of("figure8", tmp_path, tasks=("cb",))
    (figure,) = recipe.show(found).exhibits
    assert [panel.title for panel in figure.panels] == ["P", "FT: F", "LP-FT: F"]
    tensors = load_file(tmp_path / "kernels/cb-seed0/lp-ft.safetensors")
    labels = tensors["train/labels"].tolist()
    expected = naive_blocks(tensors["train/heat_map/ft_effective"], labels, size)
    panel = figure.panels[2]
    np.testing.assert_allclose(panel.matrix, expected, rtol=1e-3)
    assert [name for name, _ in panel.bounds] == ["contradiction", "entailment", "neutral"]
    first = 0
    for (_, start), label in zip(panel.bounds, range(3), strict=True):
        assert start == first
        first += -(-labels.count(label) // size)
    assert first == len(panel.matrix)
    assert {each.runs for each in figure.panels} == {("kernels/cb-seed0",)}
    assert "seed 0 (kernels/cb-seed0)" in figure.caption
    assert (f"{size} x {size}" in figure.caption) == (size > 1)


@pytest.mark.parametrize("name", ["table2", "figure2", "figure8"])
def test_nothing_finished_shows_nothing(tmp_path, name):
    recipe = find_recipe(name)
    scope = scope_of(recipe, tmp_path)
    assert recipe.show(ExperimentRuns(scope, {}, {})).exhibits == ()
