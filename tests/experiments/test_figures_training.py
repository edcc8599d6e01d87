"""The curves along training from written histories, and along probing from a tiny trained run."""

import json
from dataclasses import replace
from statistics import mean, stdev

import numpy as np
import pytest
from experiments.experiment_folders import runs_of, trained_of
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from lpft.errors import InputError
from lpft.experiments import figures
from lpft.experiments.figures import PROBING_PATHS
from lpft.experiments.plan import RunKey
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


def test_curves_begin_before_the_first_step(written):
    _, shown = written
    for panel in shown.exhibits[0].panels:
        if "Training loss" not in panel.title:
            assert all(series.x[0] == 0 for series in panel.series)


def test_the_same_curves_at_shared_rates_are_a_figure_of_their_own(written):
    found, shown = written
    assert [figure.name for figure in shown.exhibits] == [
        "fine-tuning-rte",
        "fine-tuning-rte-shared",
    ]
    shared = shown.exhibits[1]
    assert shared.title == "Along fine-tuning, at shared rates (LP-FT's and LP-LoRA's): rte"
    assert "they favour it" in shared.caption
    assert [panel.title for panel in shared.panels] == [p.title for p in shown.exhibits[0].panels]
    for panel in shared.panels:
        assert [series.method for series in panel.series] == ["ft", "lp-ft", "lora", "lp-lora"]
        of_ft = panel.series[0].runs
        assert of_ft == tuple(f"runs/rte/ft-rate1e-5-batch8-seed{seed}" for seed in (0, 1, 2))
        assert panel.series[1].runs == tuple(
            run.name for run in found.by_seed("published", "rte", "lp-ft").values()
        )


def test_axes_say_what_and_in_which_unit(written, trained):
    recipe, found = trained
    figures = (*written[1].exhibits, *recipe.show(found).exhibits)
    assert len(figures) == 2 + 2
    for figure in figures:
        units = [panel.y for panel in figure.panels]
        assert units == [
            "Frobenius norm",
            "L2 norm",
            "L2 norm of a text's logits",
            "cross-entropy (nats)",
            "cross-entropy (nats)",
            "fraction of texts",
        ]
        assert "Norms have no unit" in figure.caption or "norms have no unit" in figure.caption


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
    _, data, classifier, encoder = figures._reopen(run)
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


def test_a_damaged_path_is_computed_again(trained, tmp_path, caplog):
    _, found = trained
    kept = found.scope.folder / "steps/probing-demo.json"
    moved = replace(found, scope=replace(found.scope, folder=tmp_path))
    copy = tmp_path / "steps/probing-demo.json"
    copy.parent.mkdir()
    copy.write_text("{")
    assert PROBING_PATHS.read(moved) == {}
    assert "computing it again" in caplog.text
    PROBING_PATHS(moved)
    assert json.loads(copy.read_text()) == json.loads(kept.read_text())


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
