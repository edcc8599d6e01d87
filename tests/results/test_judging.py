"""Numbers of drawn samples, and verdicts on them: scikit-learn, naive loops, t-tests."""

import json
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from results.scored_runs import right_of, write_scored
from scipy.stats import t, ttest_1samp
from sklearn.metrics import f1_score, matthews_corrcoef

from lpft.analysis import calibration
from lpft.analysis.comparison import smallest_detectable_difference, without_samples
from lpft.data.examples import Groups
from lpft.errors import InputError
from lpft.results.exhibits import Estimate
from lpft.results.judging import (
    Measured,
    calibration_error,
    chance_note,
    feature_change,
    judge,
    metric_of_rows,
    task_score,
)
from lpft.results.run import Predictions, find_runs

HOLDS, FAILS, UNTOLD = "holds", "does not hold", "cannot tell"


def measured(*effects, task="cb", subject="LP-FT below FT", rates="shared", **more):
    return Measured(
        task=task,
        subject=subject,
        rates=rates,
        effects=tuple(without_samples(effect) for effect in effects),
        runs=tuple(f"runs/{task}/{seed}" for seed in range(len(effects))),
        **more,
    )


def judged(*all_measured):
    return judge(list(all_measured), generator=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("effects", "verdict", "why"),
    [
        ((1.0, 1.2, 0.8, 1.1, 0.9), HOLDS, "the interval lies above 0"),
        ((-1.0, -1.2, -0.8, -1.1, -0.9), FAILS, "the interval lies below 0"),
        ((1.0, -1.2, 0.8, 1.1, -0.9), UNTOLD, "the interval contains 0"),
        ((0.0,) * 5, UNTOLD, "the interval contains 0"),
        # Five seeds of one sign are not enough where they spread: 2.2 +- 2.78 * 3.9 / sqrt 5.
        ((0.1, 0.2, 0.7, 1.0, 9.0), UNTOLD, "the interval contains 0"),
    ],
)
def test_five_seeds_are_judged_by_the_interval(effects, verdict, why):
    (judgement,) = judged(measured(*effects))
    assert (judgement.verdict, judgement.why) == (verdict, why)
    assert judgement.effect.value == pytest.approx(np.mean(effects))
    assert judgement.effect.sd == pytest.approx(np.std(effects, ddof=1))
    assert judgement.effect.count == 5
    assert judgement.effect.low <= judgement.effect.value <= judgement.effect.high
    assert judgement.effect.runs == tuple(f"runs/cb/{seed}" for seed in range(5))
    assert judgement.detectable == pytest.approx(
        smallest_detectable_difference(float(np.std(effects, ddof=1)), 5)
    )
    assert (judgement.p_value < 0.05) == (verdict != UNTOLD)
    if verdict != UNTOLD:
        # Student's, as far as draws of five seeds vary as five seeds do.
        expected = ttest_1samp(effects, 0).statistic
        assert t.isf(judgement.p_value / 2, 4) == pytest.approx(abs(expected), rel=0.15)


def test_few_seeds_tell_only_where_all_tasks_agree():
    first, second = measured(1.0, 1.1, 0.9), measured(2.0, 2.1, 2.2, task="rte")
    judgements = judged(first, second)
    assert [judgement.verdict for judgement in judgements] == [HOLDS, HOLDS]
    assert judgements[0].why == (
        "only 3 seeds, though all seeds of all tasks agree; the interval lies above 0"
    )
    disagreeing = measured(2.0, 2.1, -0.1, task="rte")
    judgements = judged(first, disagreeing)
    assert [judgement.verdict for judgement in judgements] == [UNTOLD, UNTOLD]
    assert judgements[0].why == "only 3 seeds, and not all seeds of all tasks agree"


@pytest.mark.parametrize("other", [{"subject": "LP-LoRA below LoRA"}, {"rates": "published"}])
def test_few_seeds_need_no_agreement_with_another_question(other):
    judgements = judged(measured(1.0, 1.1), measured(-1.0, -1.1, **other))
    assert [judgement.verdict for judgement in judgements] == [HOLDS, FAILS]


def test_five_seeds_need_no_other_task():
    effects = (1.0, 1.2, 0.8, 1.1, 0.9)
    judgements = judged(measured(*effects), measured(*(-e for e in effects), task="rte"))
    assert [judgement.verdict for judgement in judgements] == [HOLDS, FAILS]


def test_agreeing_seeds_that_spread_widely_cannot_tell():
    (judgement,) = judged(measured(0.1, 5.0))
    assert judgement.verdict == UNTOLD
    assert judgement.why.endswith("all seeds of all tasks agree; the interval contains 0")


def test_one_seed_cannot_tell_and_none_has_no_effect():
    one, none = judged(measured(3.0), measured(task="rte"))
    assert (one.verdict, one.effect.value, one.detectable) == (UNTOLD, 3.0, None)
    assert one.why == "one seed is not enough"
    assert (none.verdict, none.effect, none.p_value) == (UNTOLD, Estimate(None, count=0), None)
    assert "no seed has all the finished runs" in none.why


def test_an_interval_stays_within_what_the_effect_can_be():
    (judgement,) = judged(measured(0.4, 1.0, bounds=(-1.0, 1.0)))
    assert (judgement.effect.low, judgement.effect.high) == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("second", "verdicts"),
    [((-2.0, -2.1), [HOLDS, FAILS]), ((2.0, 2.1), [UNTOLD, UNTOLD])],
)
def test_the_same_question_the_other_way_round_has_to_agree_too(second, verdicts):
    one = measured(1.0, 1.1, reverse="FT below LP-FT")
    other = measured(*second, task="rte", subject="FT below LP-FT", reverse="LP-FT below FT")
    assert [judgement.verdict for judgement in judged(one, other)] == verdicts


def test_several_comparisons_are_said_to_be_several():
    assert chance_note(0) == chance_note(1) == ""
    assert "These are 12 comparisons at 95 % each" in chance_note(12)
    assert "about 0.6 of the intervals would exclude 0 by chance" in chance_note(12)
    assert "about 12 of the intervals" in chance_note(240)


# The numbers that are compared.


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
