"""Numbers of drawn samples, against scikit-learn, naive loops and the records of runs."""

import json
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from results.scored_runs import right_of, write_scored
from sklearn.metrics import f1_score, matthews_corrcoef

from lpft.analysis import calibration
from lpft.data.examples import Groups
from lpft.errors import InputError
from lpft.results.quantities import calibration_error, feature_change, metric_of_rows, task_score
from lpft.results.run import Predictions, find_runs


def predictions_of(classes, rows=60):
    generator = np.random.default_rng(classes)
    labels = generator.integers(classes, size=rows)
    logits = generator.normal(size=(rows, classes))
    logits[np.arange(rows), labels] += 1.0
    return Predictions(np.arange(rows).astype(str), labels, logits), generator


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_scores_of_any_draw_are_scikit_learns(classes):
    predictions, generator = predictions_of(classes)
    labels, called = predictions.labels, predictions.logits.argmax(axis=1)
    for _ in range(20):
        rows = generator.integers(60, size=60)
        assert metric_of_rows(predictions, "accuracy")(rows) == pytest.approx(
            np.mean(labels[rows] == called[rows])
        )
        assert metric_of_rows(predictions, "matthews_correlation")(rows) == pytest.approx(
            matthews_corrcoef(labels[rows], called[rows])
        )


def test_the_correlation_of_one_class_is_0():
    logits = np.array([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    predictions = Predictions(np.array(["a", "b", "c"]), np.array([0, 0, 1]), logits)
    correlation = metric_of_rows(predictions, "matthews_correlation")
    assert correlation(np.array([0, 1, 1])) == 0.0
    assert correlation(np.array([0, 1, 2])) == pytest.approx(1.0)


def test_scores_of_drawn_questions_count_a_question_as_often_as_it_is_drawn():
    predictions, generator = predictions_of(2)
    labels, logits = predictions.labels, predictions.logits
    index = np.sort(generator.integers(15, size=60))
    credit = generator.uniform(size=60)
    answered = replace(predictions, groups=Groups(index))
    credits = {"exact_match": credit, "token_f1": credit**2}
    chosen = replace(predictions, groups=Groups(index, credits=credits))
    members = [np.flatnonzero(index == group) for group in np.unique(index)]
    for _ in range(20):
        drawn = [members[k] for k in generator.integers(len(members), size=len(members))]
        rows = np.concatenate(drawn)
        called = logits.argmax(axis=1)
        assert metric_of_rows(answered, "exact_match")(rows) == pytest.approx(
            np.mean([all(called[group] == labels[group]) for group in drawn])
        )
        assert metric_of_rows(answered, "answer_f1")(rows) == pytest.approx(
            f1_score(labels[rows], called[rows])
        )
        best = [group[np.argmax(logits[group, 1] - logits[group, 0])] for group in drawn]
        for metric, power in (("exact_match", 1), ("token_f1", 2)):
            assert metric_of_rows(chosen, metric)(rows) == pytest.approx(
                np.mean(credit[best] ** power)
            )


ROWS = 12
QUESTIONS = np.repeat(np.arange(3), 4)


def grouped_run(folder, *, groups=QUESTIONS, classes=("False", "True"), **columns):
    """Twelve answers to three questions, the first five wrong, with feature changes 0 to 11."""
    write_scored(
        folder,
        "ft",
        0,
        {"test": right_of(ROWS, 5)},
        changes={"test": list(range(ROWS))},
        classes=classes,
        metric="exact_match",
    )
    path = folder / "predictions" / "test.parquet"
    if groups is not None:
        columns = {"group": groups, "positive": 1, **columns}
    pd.read_parquet(path).assign(**columns).to_parquet(path)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["splits"]["test"]["exact_match"] = 1 / 3
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (run,) = find_runs(folder)[0]
    return run


@pytest.mark.parametrize("classes", [("False", "True"), ("no", "yes")])
@pytest.mark.parametrize(
    ("quantity", "of_questions"),
    [
        (task_score(), [0, 0, 1]),
        (feature_change(), [1.5, 5.5, 9.5]),
    ],
)
def test_answers_to_one_question_are_drawn_together(tmp_path, quantity, of_questions, classes):
    run = grouped_run(tmp_path / "run", classes=classes)
    resampled = quantity.on_draws([run], "test", np.random.default_rng(0))[run.folder]
    assert resampled.value == pytest.approx(np.mean(of_questions))
    # Means of three draws of three numbers, and nothing in between.
    possible = {
        round(float(np.mean([a, b, c])), 9)
        for a in of_questions
        for b in of_questions
        for c in of_questions
    }
    assert {round(value, 9) for value in resampled.draws.tolist()} == possible


def test_without_their_questions_such_predictions_are_refused(tmp_path):
    run = grouped_run(tmp_path / "run", groups=None)
    with pytest.raises(InputError, match=r"which rows answer one question .*resume=True"):
        task_score().on_draws([run], "test", np.random.default_rng(0))


@pytest.mark.parametrize(
    ("quantity", "of_texts"),
    [(task_score(), [1 / 6, 1]), (feature_change(), [2.5, 8.5])],
)
def test_sentences_of_one_abstract_are_drawn_together(tmp_path, quantity, of_texts):
    """Whatever the classes are called, and though no metric is of groups."""
    folder = tmp_path / "run"
    right, changes = {"test": right_of(ROWS, 5)}, {"test": list(range(ROWS))}
    write_scored(folder, "ft", 0, right, changes=changes)
    path = folder / "predictions" / "test.parquet"
    pd.read_parquet(path).assign(cluster=np.repeat([0, 1], 6)).to_parquet(path)
    (run,) = find_runs(folder)[0]
    resampled = quantity.on_draws([run], "test", np.random.default_rng(0))[run.folder]
    possible = {*of_texts, np.mean(of_texts)}
    assert {round(value, 9) for value in resampled.draws.tolist()} == {
        round(float(value), 9) for value in possible
    }


def test_a_cluster_is_drawn_whole_where_it_holds_several_questions(tmp_path):
    run = grouped_run(tmp_path / "run", cluster=np.repeat([0, 1], [8, 4]))
    resampled = task_score().on_draws([run], "test", np.random.default_rng(0))[run.folder]
    # Two questions missed, one answered: both clusters, or one of them twice.
    assert {round(value, 9) for value in resampled.draws.tolist()} == {0, round(1 / 3, 9), 1}


def two_runs(tmp_path, *, second, fingerprints=(None, None)):
    """Two runs with the same labels and answers; ``second`` changes the second's predictions."""
    for name, prints in zip(("a", "b"), fingerprints, strict=True):
        found = None if prints is None else {"data": {"test": prints}}
        write_scored(
            tmp_path / name,
            "ft",
            0,
            {"test": right_of(ROWS, 5)},
            changes={"test": list(range(ROWS))},
            fingerprints=found,
        )
    path = tmp_path / "b" / "predictions" / "test.parquet"
    frame = pd.read_parquet(path)
    frame.assign(**second(frame)).to_parquet(path)
    return find_runs(tmp_path)[0]


def test_other_texts_with_the_same_labels_are_refused_by_their_ids(tmp_path):
    runs = two_runs(tmp_path, second=lambda frame: {"id": [f"new {i}" for i in frame["id"]]})
    for quantity in (task_score(), calibration_error(calibrated=True)):
        with pytest.raises(InputError, match="b and a were tested on different samples"):
            quantity.on_draws(runs, "test", np.random.default_rng(0))


@pytest.mark.parametrize("quantity", [task_score(), feature_change()])
def test_other_texts_with_the_same_ids_and_labels_are_refused_by_their_hash(tmp_path, quantity):
    runs = two_runs(tmp_path, second=lambda _: {}, fingerprints=("1a", "2b"))
    with pytest.raises(InputError, match="b and a were tested on different samples"):
        quantity.on_draws(runs, "test", np.random.default_rng(0))


def test_a_run_without_a_hash_is_compared_by_ids_and_labels(tmp_path):
    runs = two_runs(tmp_path, second=lambda _: {}, fingerprints=("1a", None))
    assert len(task_score().on_draws(runs, "test", np.random.default_rng(0))) == 2


def test_clusters_of_other_rows_are_other_samples(tmp_path):
    runs = two_runs(tmp_path, second=lambda _: {"cluster": np.repeat([0, 1], 6)})
    assert len(task_score().on_draws(runs, "test", np.random.default_rng(0))) == 2
    path = tmp_path / "a" / "predictions" / "test.parquet"
    pd.read_parquet(path).assign(cluster=np.repeat([0, 1], [4, 8])).to_parquet(path)
    with pytest.raises(InputError, match="different samples"):
        task_score().on_draws(find_runs(tmp_path)[0], "test", np.random.default_rng(0))


def test_the_error_of_draws_bins_each_run_once(tmp_path, monkeypatch):
    (run, _) = two_runs(tmp_path, second=lambda _: {})
    binned = Mock(wraps=calibration._binned)
    monkeypatch.setattr(calibration, "_binned", binned)
    quantity = calibration_error(calibrated=False)
    resampled = quantity.on_draws([run], "test", np.random.default_rng(0))[run.folder]
    assert binned.call_count == 1
    assert resampled.value == pytest.approx(run.score("test", "ece"))


def test_a_metric_that_is_not_compared_is_named(tmp_path):
    write_scored(tmp_path / "run", "ft", 0, {"test": right_of(4, 1)}, metric="macro_f1")
    (run,) = find_runs(tmp_path / "run")[0]
    with pytest.raises(InputError, match="scored by macro_f1, which is not compared"):
        task_score().on_draws([run], "test", np.random.default_rng(0))


def test_a_split_that_a_run_lacks_is_named(tmp_path):
    run = grouped_run(tmp_path / "run")
    with pytest.raises(InputError, match="has no predictions of ood/far"):
        task_score().on_draws([run], "ood/far", np.random.default_rng(0))
