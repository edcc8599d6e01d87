"""The head-scale figures from runs whose feature change is known at every scale."""

import numpy as np
import pytest
from experiments.experiment_folders import runs_of, scope_of
from scipy.stats import spearmanr

from lpft.errors import InputError
from lpft.experiments.head_scales import SCALES
from lpft.experiments.run import find_recipe
from lpft.results.run import write_feature_changes

# Of FT the change falls with the scale; of LP-FT it goes up and down: squared differences of ranks
# sum to 162, so that the correlation is 1 - 6 * 162 / (8 * 63) = -0.93.
FALLING = {scale: 10 / (1 + scale) for scale in SCALES}
MIXED = dict(zip(SCALES, (3.0, 4.0, 2.5, 2.0, 2.2, 1.0, 1.5, 0.5), strict=True))
CHANGES = {"ft": FALLING, "lp-ft": MIXED}


def described(key, config):
    return {"change": CHANGES[key.method][config.training.head_scale]}


@pytest.fixture(scope="module")
def figure3(tmp_path_factory):
    recipe, found = runs_of("figure3", tmp_path_factory.mktemp("figure3"), described)
    return recipe, found, recipe.show(found)


def test_the_plan_has_every_scale_of_each_method_and_seed(tmp_path):
    recipe = find_recipe("figure11")
    plan = recipe.plan(scope_of(recipe, tmp_path, methods=("lp", *recipe.methods)))
    planned = [
        (key.method, config.training.head_scale, key.seed) for key, config in plan.runs.items()
    ]
    assert sorted(planned) == sorted(
        (method, scale, seed)
        for method in ("ft", "lp-ft", "lora", "lp-lora")
        for scale in (0.1, 0.5, 1, 2, 5, 10, 50, 100)
        for seed in (0, 1)
    )
    assert len(plan.run_configs) == len(planned) == 64


def test_scale_one_is_the_usual_run(tmp_path):
    scaled, usual = find_recipe("figure10"), find_recipe("figure4")
    at_one = [
        config
        for config in scaled.plan(scope_of(scaled, tmp_path)).run_configs
        if config.training.head_scale == 1
    ]
    all_usual = usual.plan(scope_of(usual, tmp_path)).run_configs
    assert len(at_one) == 8
    assert all(config in all_usual for config in at_one)


def test_linear_probing_alone_has_no_head_scale(tmp_path):
    recipe = find_recipe("figure3")
    with pytest.raises(InputError, match="methods that fine-tune, found lp"):
        recipe.plan(scope_of(recipe, tmp_path, methods=("lp",)))


def test_lines_are_the_means_at_each_scale_with_their_runs(figure3):
    _, found, shown = figure3
    figure = shown.exhibits[0]
    assert [panel.title for panel in figure.panels] == ["test", "ood/books", "ood/hotels"]
    for place, panel in enumerate(figure.panels):
        assert panel.x_scale == "log"
        assert [(s.label, s.method) for s in panel.series] == [("FT", "ft"), ("LP-FT", "lp-ft")]
        for series in panel.series:
            assert series.x == SCALES
            # run_folders: a split's change is larger by 5 % for each split before it.
            factor = 1 + 0.05 * (0 if place == 0 else place + 1)
            expected = [factor * CHANGES[series.method][scale] for scale in SCALES]
            np.testing.assert_allclose(series.y, expected)
            np.testing.assert_allclose(series.low, expected)
            assert set(series.runs) == {
                run.name for (_, _, method, _), run in found.runs.items() if method == series.method
            }
            assert len(series.runs) == 16


def test_the_table_has_spearmans_correlation_and_the_changes(figure3):
    _, _, shown = figure3
    table = shown.exhibits[1]
    assert [column.name for column in table.columns[3:]] == [
        "rank correlation",
        *("0.1", "0.5", "1", "2", "5", "10", "50", "100"),
    ]
    assert [row[:3] for row in table.rows[:2]] == [
        ("amazon", "test", "FT"),
        ("amazon", "test", "LP-FT"),
    ]
    assert len(table.rows) == 6
    falling, mixed = (row[3] for row in table.rows[:2])
    assert (falling.value, falling.low, falling.high) == (-1, -1, -1)
    assert mixed.value == pytest.approx(spearmanr(SCALES, list(MIXED.values())).statistic)
    assert (mixed.count, mixed.sd) == (2, 0)
    assert len(mixed.runs) == 16
    assert table.rows[0][4].value == pytest.approx(FALLING[0.1])
    assert len(table.rows[0][4].runs) == 2


def test_the_finding_says_the_numbers(figure3):
    _, _, shown = figure3
    assert len(shown.findings) == 4
    assert shown.findings[0] == (
        "Rank correlation of head scale and feature change on amazon, test: −1.00 for FT (from "
        "9.09 at scale 0.1 to 0.0990 at 100) and −0.93 for LP-FT (from 3.00 at scale 0.1 to 0.500 "
        "at 100)."
    )
    assert shown.findings[-1] == "The paper's claim is that this correlation is negative."


def test_texts_on_which_scales_disagree_widen_the_interval(tmp_path):
    recipe, found = runs_of("figure3", tmp_path, described, seeds=(0,))
    rng = np.random.default_rng(0)
    for run in found.runs.values():
        texts = rng.uniform(0, 5, size=8)
        write_feature_changes(run.folder, "test", [str(i) for i in range(8)], texts)
    cell = recipe.show(found).exhibits[1].rows[0][3]
    assert cell.low < cell.value < cell.high
    assert (cell.sd, cell.count) == (None, 1)
    assert -1 <= cell.low < cell.high <= 1


def test_failed_runs_leave_gaps_and_too_few_scales_no_correlation(tmp_path):
    def failing(key, config):
        scale = config.training.head_scale
        broken = (key.method == "ft" and scale > 0.5) or (key.seed == 1 and scale > 10)
        return None if broken else described(key, config)

    recipe, found = runs_of("figure3", tmp_path, failing)
    figure, table = recipe.show(found).exhibits
    ft, lp_ft = figure.panels[0].series
    assert ft.x == (0.1, 0.5)
    assert lp_ft.x == SCALES
    assert lp_ft.low[:6] != (None,) * 6
    assert lp_ft.low[6:] == (None, None)
    assert table.rows[0][3] is None
    assert table.rows[0][6:] == (None,) * 6
    expected = [
        spearmanr(SCALES[:count], list(MIXED.values())[:count]).statistic for count in (8, 6)
    ]
    assert table.rows[1][3].value == pytest.approx(np.mean(expected))


def test_nothing_finished_shows_nothing(tmp_path):
    recipe, found = runs_of("figure3", tmp_path, lambda *_: None)
    assert recipe.show(found).exhibits == ()
