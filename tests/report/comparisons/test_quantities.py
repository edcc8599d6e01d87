"""Numbers of drawn samples, against scikit-learn, naive loops and the records of runs."""

import json

import numpy as np
import pandas as pd
import pytest
from experiments.scored_runs import right_of, write_scored
from sklearn.metrics import f1_score, matthews_corrcoef

from lpft.data.groups import Groups
from lpft.errors import InputError
from lpft.report.collect import Predictions, collect_runs
from lpft.report.comparisons.quantities import _SCORES, accuracy, feature_change, task_score


def predictions_of(classes, rows=60):
    generator = np.random.default_rng(classes)
    labels = generator.integers(classes, size=rows)
    logits = generator.normal(size=(rows, classes))
    logits[np.arange(rows), labels] += 1.0
    return Predictions(labels, logits), generator


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_scores_of_any_draw_are_scikit_learns(classes):
    predictions, generator = predictions_of(classes)
    labels, called = predictions.labels, predictions.logits.argmax(axis=1)
    for _ in range(20):
        rows = generator.integers(60, size=60)
        assert _SCORES["accuracy"](predictions, None)(rows) == pytest.approx(
            np.mean(labels[rows] == called[rows])
        )
        assert _SCORES["matthews_correlation"](predictions, None)(rows) == pytest.approx(
            matthews_corrcoef(labels[rows], called[rows])
        )


def test_the_correlation_of_one_class_is_0():
    predictions = Predictions(np.array([0, 0, 1]), np.array([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0]]))
    correlation = _SCORES["matthews_correlation"](predictions, None)
    assert correlation(np.array([0, 1, 1])) == 0.0
    assert correlation(np.array([0, 1, 2])) == pytest.approx(1.0)


def test_scores_of_drawn_questions_count_a_question_as_often_as_it_is_drawn():
    predictions, generator = predictions_of(2)
    labels, logits = predictions.labels, predictions.logits
    index = np.sort(generator.integers(15, size=60))
    credit = generator.uniform(size=60)
    answered = Groups(index)
    chosen = Groups(index, credits={"exact_match": credit, "token_f1": credit**2})
    members = [np.flatnonzero(index == group) for group in np.unique(index)]
    for _ in range(20):
        drawn = [members[k] for k in generator.integers(len(members), size=len(members))]
        rows = np.concatenate(drawn)
        called = logits.argmax(axis=1)
        assert _SCORES["exact_match"](predictions, answered)(rows) == pytest.approx(
            np.mean([all(called[group] == labels[group]) for group in drawn])
        )
        assert _SCORES["answer_f1"](predictions, answered)(rows) == pytest.approx(
            f1_score(labels[rows], called[rows])
        )
        best = [group[np.argmax(logits[group, 1] - logits[group, 0])] for group in drawn]
        for metric, power in (("exact_match", 1), ("token_f1", 2)):
            assert _SCORES[metric](predictions, chosen)(rows) == pytest.approx(
                np.mean(credit[best] ** power)
            )


ROWS = 12
QUESTIONS = np.repeat(np.arange(3), 4)


def grouped_run(folder, *, groups=QUESTIONS):
    """Twelve answers to three questions, the first five wrong, with feature changes 0 to 11."""
    write_scored(
        folder,
        "ft",
        0,
        {"test": right_of(ROWS, 5)},
        changes={"test": list(range(ROWS))},
        classes=("False", "True"),
        metric="exact_match",
    )
    path = folder / "predictions" / "test.parquet"
    if groups is not None:
        pd.read_parquet(path).assign(group=groups).to_parquet(path)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["splits"]["test"]["exact_match"] = 1 / 3
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (run,) = collect_runs(folder).runs
    return run


@pytest.mark.parametrize(
    ("quantity", "of_questions"),
    [
        (task_score(), [0, 0, 1]),
        (accuracy(), [0, 3 / 4, 1]),
        (feature_change(), [1.5, 5.5, 9.5]),
    ],
)
def test_answers_to_one_question_are_drawn_together(tmp_path, quantity, of_questions):
    run = grouped_run(tmp_path / "run")
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
    with pytest.raises(InputError, match=r"do not say which rows answer one question .*--resume"):
        task_score().on_draws([run], "test", np.random.default_rng(0))


def test_a_split_that_a_run_lacks_is_named(tmp_path):
    run = grouped_run(tmp_path / "run")
    with pytest.raises(InputError, match="has no predictions of ood/far"):
        accuracy().on_draws([run], "ood/far", np.random.default_rng(0))
