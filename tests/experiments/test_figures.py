"""Figures along training, t-SNE and head scales: from written runs, and from a tiny trained one."""

import json
from dataclasses import replace
from statistics import mean, stdev

import numpy as np
import pytest
from experiments.experiment_folders import runs_of, scope_of, trained_of
from scipy.special import softmax
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression

from lpft.analysis.features import Projection
from lpft.errors import InputError
from lpft.experiments import figures
from lpft.experiments.figures import PROBING_PATHS, PROJECTIONS, SCALES
from lpft.experiments.plan import RunKey
from lpft.experiments.run import find_recipe
from lpft.model import load_classifier
from lpft.results.run import read_features, read_head_rows, write_feature_changes
from lpft.results.schema import Fingerprints
from lpft.settings.configs import make_config
from lpft.training.cache import prepare_split

QUANTITIES = (
    "head_norm",
    "bias_norm",
    "logit_norm",
    "loss",
    "validation_loss",
    "validation_accuracy",
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    recipe, found = runs_of("figure1", tmp_path_factory.mktemp("figure1"), seeds=(0, 1, 2))
    return found, recipe.show(found)


def history(run, event, quantity):
    """(epoch, value) as they stand in history.jsonl."""
    rows = [json.loads(line) for line in (run.folder / "history.jsonl").read_text().splitlines()]
    return {row["epoch"]: row[quantity] for row in rows if row["event"] == event}


def test_lines_are_means_over_seeds_with_a_standard_deviation_around_them(written):
    found, shown = written
    figure = shown.exhibits[0]
    assert (figure.name, figure.kind) == ("fine-tuning-rte", "lines")
    assert "Each method at its own learning rate and batch size." in figure.caption
    assert len(figure.panels) == len(QUANTITIES)
    checked = 0
    for quantity, panel in zip(QUANTITIES, figure.panels, strict=True):
        methods = [series.method for series in panel.series]
        assert methods == ["ft", "lp-ft", "lora", "lp-lora"]
        if quantity == "loss":
            continue
        for series in panel.series:
            runs = found.by_seed("published", "rte", series.method)
            assert series.runs == tuple(run.name for run in runs.values())
            curves = [history(run, "evaluation", quantity) for run in runs.values()]
            assert series.x == tuple(float(epoch) for epoch in range(11))
            for epoch, y, low, high in zip(
                series.x, series.y, series.low, series.high, strict=True
            ):
                values = [curve[epoch] for curve in curves]
                assert y == pytest.approx(mean(values))
                assert (low, high) == pytest.approx(
                    (y - stdev(values), y + stdev(values)), abs=1e-12
                )
                checked += 1
    assert checked == 5 * 4 * 11


def test_the_same_curves_at_rates_of_either_method_are_figures_of_their_own(written):
    found, shown = written
    assert [figure.name for figure in shown.exhibits] == [
        "fine-tuning-rte",
        "fine-tuning-rte-lp-start",
        "fine-tuning-rte-random-start",
    ]
    own, shared, others = shown.exhibits
    assert [figure.folded for figure in shown.exhibits] == [False, True, True]
    assert shared.title == (
        "Along fine-tuning, at LP-start rates (LP-FT's and LP-LoRA's, for both methods): rte"
    )
    assert others.title == (
        "Along fine-tuning, at random-start rates (FT's and LoRA's, for both methods): rte"
    )
    assert others.panels[0].series[1].runs[0] == "runs/rte/lp-ft-rate1e-5-batch16-seed0"
    assert others.panels[0].series[0].runs == own.panels[0].series[0].runs
    assert "each choice favours the method" in shared.caption
    assert [panel.title for panel in shared.panels] == [p.title for p in shown.exhibits[0].panels]
    for panel in shared.panels:
        assert [series.method for series in panel.series] == ["ft", "lp-ft", "lora", "lp-lora"]
        of_ft = panel.series[0].runs
        assert of_ft == tuple(f"runs/rte/ft-rate1e-5-batch8-seed{seed}" for seed in (0, 1, 2))
        assert panel.series[1].runs == tuple(
            run.name for run in found.by_seed("published", "rte", "lp-ft").values()
        )


def test_the_finding_says_where_head_norms_begin_and_end(written):
    found, shown = written
    assert len(shown.findings) == 1
    sentence = shown.findings[0]
    ends = [
        list(history(run, "evaluation", "head_norm").values())[-1]
        for run in found.by_seed("published", "rte", "lp-ft").values()
    ]
    assert sentence.startswith("Head norm along fine-tuning on rte: from 0.550 to ")
    assert f"from 14.0 to {mean(ends):.1f} for LP-FT" in sentence


def test_a_single_seed_has_no_band(tmp_path):
    recipe, found = runs_of("figure4", tmp_path, seeds=(5,), methods=("ft",))
    (figure,) = recipe.show(found).exhibits
    (series,) = figure.panels[0].series
    assert set(series.low) == set(series.high) == {None}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Linear probing and LP-FT of a tiny model, really trained."""
    folder = tmp_path_factory.mktemp("trained")
    recipe, found = trained_of("figure1", folder, methods=("lp", "lp-ft"), seeds=(0,))
    PROBING_PATHS(found)
    return recipe, found


def test_probing_is_followed_to_the_head_of_the_run(trained):
    recipe, found = trained
    shown = recipe.show(found)
    figure = shown.exhibits[-1]
    assert figure.name == "probing-demo"
    probe = found.runs["published", "demo", "lp", 0]
    for quantity, panel in zip(QUANTITIES, figure.panels, strict=True):
        (series,) = panel.series
        assert series.x[0] == 0
        assert series.runs == (probe.name,)
        if quantity == "loss":
            assert series.y[0] == pytest.approx(np.log(3))
            continue
        after = history(probe, "evaluation", quantity)[0.0]
        assert series.y[-1] == pytest.approx(after, rel=1e-3)
    assert "Linear probing on demo: the head's norm goes from 0 to " in shown.findings[-1]


def test_fine_tuning_begins_where_probing_ends(trained):
    recipe, found = trained
    fine_tuning, probing = recipe.show(found).exhibits
    for before, after in zip(probing.panels[:3], fine_tuning.panels[:3], strict=True):
        assert before.title == after.title
        assert before.series[0].y[-1] == pytest.approx(after.series[0].y[0], rel=1e-3)


def test_the_path_is_that_of_scikit_learn_on_the_cached_features(trained):
    _, found = trained
    run = found.runs["published", "demo", "lp", 0]
    kept = json.loads((found.scope.folder / "steps/probing-demo.json").read_text())["result"]
    assert kept["inverse_strength"] == run.record.probe["inverse_strength"]
    _, data, classifier, encoder = figures.reopen(run)
    settings = make_config(run.config).training
    train = prepare_split(classifier, data.train, settings, encoder=encoder, name="train")
    row = kept["rows"][1]
    with pytest.warns(match="failed to converge"):
        fitted = LogisticRegression(
            C=kept["inverse_strength"], solver="lbfgs", max_iter=int(row["iteration"])
        ).fit(train.pretrained.astype(float), train.labels)
    assert row["head_norm"] == pytest.approx(np.linalg.norm(fitted.coef_))
    scores = softmax(fitted.decision_function(train.pretrained.astype(float)), axis=1)
    entropy = -np.log(scores[np.arange(len(train.labels)), train.labels]).mean()
    assert row["loss"] == pytest.approx(entropy)


def test_a_kept_path_is_not_computed_again_unless_the_run_is_another(trained, monkeypatch):
    _, found = trained
    monkeypatch.setattr(figures, "_follow_probe", lambda run: pytest.fail(f"computed {run.name}"))
    PROBING_PATHS(found)
    key = RunKey("published", "demo", "lp", 0)
    other = {
        key: replace(found.runs[key], record=found.runs[key].record.updated(config_hash="0" * 64))
    }
    assert PROBING_PATHS.read(replace(found, runs=other)) == {}
    with pytest.raises(pytest.fail.Exception, match="computed"):
        PROBING_PATHS(replace(found, runs=other))


def test_a_run_whose_data_changed_is_refused(trained, tmp_path):
    _, found = trained
    key = RunKey("published", "demo", "lp", 0)
    record = found.runs[key].record
    prints = Fingerprints(
        data={**record.fingerprints.data, "test": "0" * 64}, encoder=record.fingerprints.encoder
    )
    changed = {key: replace(found.runs[key], record=record.updated(fingerprints=prints))}
    scope = replace(found.scope, folder=tmp_path)
    with pytest.raises(InputError, match=r"the data of test changed since .* was trained"):
        PROBING_PATHS(replace(found, scope=scope, runs=changed))


def test_runs_without_a_probe_have_no_path(written, tmp_path):
    found, _ = written
    PROBING_PATHS(replace(found, scope=replace(found.scope, folder=tmp_path)))
    assert list(tmp_path.iterdir()) == []


CLASSES = ["negative", "neutral", "positive"]


@pytest.fixture(scope="module")
def projected(tmp_path_factory):
    recipe, found = trained_of("figure5", tmp_path_factory.mktemp("figure5"), seeds=(4, 5))
    PROJECTIONS(found)
    return recipe, found


def test_one_seed_of_each_method_is_trained_and_keeps_its_features(projected):
    recipe, found = projected
    plan = recipe.plan(found.scope)
    assert [(key.method, key.seed) for key in plan.runs] == [("ft", 4), ("lp-ft", 4)]
    assert all(config.output.save_features for config in plan.run_configs)


def test_the_kept_head_is_that_of_the_saved_model(projected):
    _, found = projected
    for run in found.runs.values():
        head = load_classifier(run.folder).model.head.weight.detach().numpy()
        np.testing.assert_array_equal(read_head_rows(run.folder), head)


def test_panels_have_every_text_by_class_and_every_row_of_the_head(projected):
    recipe, found = projected
    (figure,) = recipe.show(found).exhibits
    assert figure.kind == "scatter"
    assert [panel.title for panel in figure.panels] == [
        f"{method}, {split}, {time}"
        for method in ("FT", "LP-FT")
        for split in ("train", "test")
        for time in ("before", "after")
    ]
    for panel in figure.panels:
        split = "train" if "train" in panel.title else "test"
        method = "lp-ft" if panel.title.startswith("LP") else "ft"
        run = found.runs["published", "demo", method, 4]
        *texts, rows = panel.series
        assert [series.label for series in texts] == CLASSES
        assert sum(len(series.x) for series in texts) == run.record.data.rows[split]
        assert rows.texts == tuple(CLASSES)
        assert len(rows.x) == 3
        assert panel.runs == (run.name,)
    counts = np.bincount(found.runs["published", "demo", "ft", 4].predictions["test"].labels)
    assert [len(series.x) for series in figure.panels[2].series[:3]] == counts.tolist()


def test_what_is_projected_are_the_runs_features_and_heads(projected, monkeypatch):
    _, found = projected
    given = []

    def recorded(*arrays, **_):
        given.append(arrays)
        before, _, head, _ = (np.zeros((len(array), 2)) for array in arrays)
        return Projection(before, before, head, head)

    monkeypatch.setattr(figures, "project_with_head", recorded)
    run = found.runs["published", "demo", "ft", 4]
    result = figures._project(run)
    assert result.classes == CLASSES
    before, after, head_before, head_after = given[1]
    kept = read_features(run.folder, "test")
    np.testing.assert_array_equal(before, kept.pretrained)
    np.testing.assert_array_equal(after, kept.features)
    assert np.linalg.norm(after - before, axis=1).mean() == pytest.approx(
        run.feature("test", "feature_difference")
    )
    assert np.linalg.norm(head_before) == pytest.approx(run.head_norm("norm_at_start"))
    assert np.linalg.norm(head_after) == pytest.approx(run.head_norm("norm"))


# Of FT the change falls with the scale; of LP-FT it goes up and down: squared differences of ranks
# sum to 162, so that the correlation is 1 - 6 * 162 / (8 * 63) = -0.93.
FALLING = {scale: 10 / (1 + scale) for scale in SCALES}
MIXED = dict(zip(SCALES, (3.0, 4.0, 2.5, 2.0, 2.2, 1.0, 1.5, 0.5), strict=True))
CHANGES = {"ft": FALLING, "lp-ft": MIXED}


def described(key, config):
    return {"change": CHANGES[key.method][config.training.head_scale]}


@pytest.fixture(scope="module")
def figure10(tmp_path_factory):
    recipe, found = runs_of("figure10", tmp_path_factory.mktemp("figure10"), described)
    return recipe, found, recipe.show(found)


def test_the_plan_has_every_scale_of_each_method_and_seed(tmp_path):
    recipe = find_recipe("figure11")
    methods = ("lp", *recipe.entry.methods)
    plan = recipe.plan(scope_of(recipe, tmp_path, tasks=("rte",), methods=methods))
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
    scaled, usual = find_recipe("figure11"), find_recipe("figure4")
    at_one = [
        config
        for config in scaled.plan(scope_of(scaled, tmp_path, tasks=("cb",))).run_configs
        if config.training.head_scale == 1
    ]
    all_usual = usual.plan(scope_of(usual, tmp_path)).run_configs
    assert len(at_one) == 8
    assert all(config in all_usual for config in at_one)


def test_linear_probing_alone_has_no_head_scale(tmp_path):
    recipe = find_recipe("figure3")
    with pytest.raises(InputError, match="methods that fine-tune, found lp"):
        recipe.plan(scope_of(recipe, tmp_path, methods=("lp",)))


def test_lines_are_the_means_at_each_scale_with_their_runs(figure10):
    _, found, shown = figure10
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


def test_figure_3_has_the_test_set_alone_of_the_runs_of_figure_10(figure10, tmp_path):
    full, found, _ = figure10
    recipe = find_recipe("figure3")
    scopes = [scope_of(each, tmp_path) for each in (recipe, full)]
    planned = [each.plan(s).run_configs for each, s in zip((recipe, full), scopes, strict=True)]
    assert planned[0] == planned[1]
    figure, table = recipe.show(found).exhibits
    assert [panel.title for panel in figure.panels] == ["test"]
    assert {row[1] for row in table.rows} == {"test"}


def test_the_table_has_spearmans_correlation_and_the_changes(figure10):
    _, _, shown = figure10
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


def test_the_finding_says_the_numbers(figure10):
    _, _, shown = figure10
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

    recipe, found = runs_of("figure10", tmp_path, failing)
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


def test_without_scaled_runs_nothing_is_shown(tmp_path):
    recipe, found = runs_of("figure3", tmp_path, lambda *_: None)
    assert recipe.show(found).exhibits == ()
