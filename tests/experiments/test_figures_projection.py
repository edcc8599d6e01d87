"""The t-SNE figures from a tiny run that kept its features."""

import json

import numpy as np
import pytest
from experiments.experiment_folders import trained_of

from lpft.analysis.features import Projection
from lpft.experiments import figures
from lpft.experiments.figures import PROJECTIONS
from lpft.model import load_classifier
from lpft.results.run import read_features, read_head_rows

CLASSES = ["negative", "neutral", "positive"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    recipe, found = trained_of("figure5", tmp_path_factory.mktemp("figure5"), seeds=(4, 5))
    PROJECTIONS(found)
    return recipe, found


def test_one_seed_of_each_method_is_trained_and_keeps_its_features(trained):
    recipe, found = trained
    plan = recipe.plan(found.scope)
    assert [(key.method, key.seed) for key in plan.runs] == [("ft", 4), ("lp-ft", 4)]
    assert all(config.output.save_features for config in plan.run_configs)


def test_the_kept_head_is_that_of_the_saved_model(trained):
    _, found = trained
    for run in found.runs.values():
        head = load_classifier(run.folder).model.head.weight.detach().numpy()
        np.testing.assert_array_equal(read_head_rows(run.folder), head)


def test_panels_have_every_text_by_class_and_every_row_of_the_head(trained):
    recipe, found = trained
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


def test_what_is_projected_are_the_runs_features_and_heads(trained, monkeypatch):
    _, found = trained
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


def test_kept_places_are_read_and_not_computed_again(trained, monkeypatch):
    recipe, found = trained
    monkeypatch.setattr(figures, "_project", lambda run: pytest.fail(f"computed {run.name}"))
    PROJECTIONS(found)
    kept = json.loads((found.scope.folder / "steps/projection-demo-ft.json").read_text())
    places = kept["result"]["splits"]["test"]
    (figure,) = recipe.show(found).exhibits
    after = figure.panels[3].series
    first = places["labels"].index(0)
    assert [after[0].x[0], after[0].y[0]] == places["features"][1][first]
    assert [after[-1].x[2], after[-1].y[2]] == places["head"][1][2]
