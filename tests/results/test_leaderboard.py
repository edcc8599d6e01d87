"""Methods in one list: who is in front, and intervals that are counted by hand."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from results.run_folders import edit_json, write_run
from results.scored_runs import right_of, write_scored
from scipy.stats import binomtest
from sklearn.metrics import log_loss, precision_recall_fscore_support

from lpft.analysis import split_metrics
from lpft.results.differences import judge_groups
from lpft.results.groups import group_runs
from lpft.results.leaderboard import MAJORITY, Leaderboard, class_scores, leaderboard, trust
from lpft.results.run import find_runs


def board(folder: Path) -> Leaderboard:
    (group,), _ = group_runs(find_runs(folder)[0])
    found = leaderboard(group, judge_groups([group])[group.slug])
    assert found is not None
    return found


def scored(folder: Path, method: str, validation: int, test: int, seed: int = 0) -> None:
    """So many of 100 validation and of 200 test answers are wrong."""
    right = {"validation": right_of(100, validation), "test": right_of(200, test)}
    write_scored(folder / f"{method}-{seed}", method, seed, right)


def test_the_chosen_method_is_first_and_the_others_follow_by_accuracy(tmp_path: Path) -> None:
    """FT is better on test, but validation chooses LP-FT."""
    scored(tmp_path, "lp-ft", 5, 40)
    scored(tmp_path, "ft", 20, 30)
    scored(tmp_path, "lp", 30, 60)
    found = board(tmp_path)
    assert [entry.name for entry in found.entries] == ["LP-FT", "FT", "LP", MAJORITY]
    assert found.run.method == "lp-ft"
    assert found.choice is not None
    assert found.choice.best == "lp-ft"


def test_what_training_chose_among_its_candidates_stays_chosen(tmp_path: Path) -> None:
    """By the rule it would be LP-FT; a search, or a limit of time, can end otherwise."""
    folder = tmp_path / "auto"
    for method, wrong in (("lp", 30), ("lp-ft", 5), ("ft", 20)):
        scored(folder / "candidates", method, wrong, 40)
    write_run(folder, "ft")
    standings = [("lp", 0.7, -0.2, False), ("lp-ft", 0.8, -0.1, False), ("ft", 0.9, 0.0, True)]
    candidates = [
        {"method": method, "seed": 0, "folder": f"candidates/{method}-0"}
        for method, *_ in standings
    ]
    names = ("method", "score", "difference", "eligible")
    selection = {
        "settings": {},
        "rule": "",
        "chosen": "candidates/ft-0",
        "candidates": candidates,
        "standings": [
            dict(zip(names, one, strict=True)) | {"standard_error": 0.03} for one in standings
        ],
    }
    edit_json(folder / "run.json", selection=selection)
    for directory in (folder, folder / "candidates"):
        found = board(directory)
        assert (found.chosen.name, found.run.method) == ("FT", "ft")
        assert found.choice is not None
        assert (found.choice.best, found.choice.chosen) == ("ft", 2)
    # beside runs that it was not chosen from, the rule decides among all
    scored(folder.parent, "lora", 40, 40)
    assert board(tmp_path).chosen.name == "LP-FT"


def test_methods_that_training_left_out_are_named_with_the_reason(tmp_path: Path) -> None:
    scored(tmp_path / "candidates", "lp", 3, 40)
    write_run(tmp_path, "lp")
    reasons = {"lp": None, "lora": "too few rows", "lp-ft": "no time", "ft": "too few rows"}
    selection = {
        "settings": {},
        "rule": "",
        "chosen": "candidates/lp-0",
        "candidates": [{"method": "lp", "seed": 0, "folder": "candidates/lp-0"}],
        "decision": [
            {"folder": f"{method}-seed{seed}", "train": reason is None, "reason": reason}
            for method, reason in reasons.items()
            for seed in (0, 1)
        ],
    }
    edit_json(tmp_path / "run.json", selection=selection)
    assert board(tmp_path).left_out == {"too few rows": ["LoRA", "FT"], "no time": ["LP-FT"]}


def test_speed_is_of_the_texts_whose_features_were_computed(tmp_path: Path) -> None:
    """Of FT 400 training, 80 test and 120 other texts in 3 s; of LP no text's."""
    for method in ("ft", "lp"):
        edit_json(write_run(tmp_path / method, method) / "run.json", timings={"evaluation": 3.0})
    speeds = {entry.name: entry.texts_per_second for entry in board(tmp_path).entries}
    assert (speeds["FT"], speeds["LP"]) == (200.0, None)


def test_intervals_are_wilsons_of_the_test_rows(tmp_path: Path) -> None:
    scored(tmp_path, "lp", 10, 30)
    accuracy = board(tmp_path).chosen.accuracy
    expected = binomtest(170, 200).proportion_ci(method="wilson")
    assert accuracy.value == 0.85
    assert (accuracy.low, accuracy.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_differences_are_of_the_same_rows(tmp_path: Path) -> None:
    """Of 200 rows the chosen one has 20 more right, in the same places: 10 points."""
    scored(tmp_path, "lp-ft", 5, 40)
    scored(tmp_path, "ft", 20, 60)
    judgement = board(tmp_path).entries[1].judgement
    assert judgement is not None
    effect = judgement.effect
    assert effect.value == pytest.approx(0.1)
    # A mean of 200 draws that are 1 with probability 0.1, else 0.
    half = 1.96 * np.sqrt(0.1 * 0.9 / 200)
    assert effect.low == pytest.approx(0.1 - half, abs=0.01)
    assert effect.high == pytest.approx(0.1 + half, abs=0.01)


def test_the_baseline_answers_the_most_frequent_class(tmp_path: Path) -> None:
    write_run(tmp_path / "ft", splits={"validation": 30, "test": 50})
    found = board(tmp_path)
    counts = np.bincount(found.run.predictions["test"].labels)
    assert found.baseline.accuracy.value == pytest.approx(counts.max() / 50)


def test_lp_is_there_as_the_start_of_another_method(tmp_path: Path) -> None:
    write_run(tmp_path / "lp-ft", "lp-ft")
    found = board(tmp_path)
    probe = next(entry for entry in found.entries if entry.name.startswith("LP (start of LP-FT"))
    first = next(row for row in found.run.history if row.get("event") == "evaluation")
    assert probe.accuracy.value == first["validation_accuracy"]
    write_run(tmp_path / "lp", "lp")
    names = {entry.name for entry in board(tmp_path).entries}
    assert names == {"LP-FT", "LP", MAJORITY}


def test_the_run_to_use_is_the_best_seed_on_validation(tmp_path: Path) -> None:
    for seed, validation in enumerate((12, 8, 8)):
        scored(tmp_path, "lp-ft", validation, 40 + seed, seed)
    found = board(tmp_path)
    assert found.run.seed == 1
    assert found.accuracy.value == pytest.approx(1 - 41 / 200)
    assert found.chosen.accuracy.value == pytest.approx(1 - 41 / 200)
    assert found.chosen.accuracy.count == 3


def test_scores_of_classes_are_scikit_learns(tmp_path: Path) -> None:
    write_run(tmp_path / "ft")
    run = find_runs(tmp_path)[0][0]
    predictions = run.predictions["test"]
    columns = precision_recall_fscore_support(predictions.labels, predictions.logits.argmax(1))
    for place, one in enumerate(class_scores(run, "test")):
        assert (one.precision, one.recall, one.f1, one.support) == pytest.approx(
            tuple(column[place] for column in columns)
        )


@pytest.mark.parametrize(("sharpness", "holds"), [(1.0, True), (8.0, False)])
def test_probabilities_are_doubted_only_beyond_chance(
    tmp_path: Path, sharpness: float, holds: bool
) -> None:
    """Logits whose softmax is the truth, and the same eight times as sure."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(400, 2))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (generator.random(400) < shares[:, 1]).astype(int)
    right = {"validation": right_of(20, 2), "test": [True] * 400}
    folder = write_scored(tmp_path / "lp", "lp", 0, right, temperature=1.0)
    rewrite(folder, "test", logits * sharpness, labels)
    found = trust(find_runs(tmp_path)[0][0], "test")
    assert found is not None
    assert found.holds is holds
    assert (found.confidence > found.accuracy + 0.1) is not holds


@pytest.mark.parametrize(("temperature", "harmed"), [(1.0, False), (0.25, True), (1.02, False)])
def test_a_temperature_that_raises_the_nll_of_the_test_rows_is_noticed(
    tmp_path: Path, temperature: float, harmed: bool
) -> None:
    """Logits whose softmax is the truth: any temperature but 1 harms, one near 1 not visibly."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(400, 2))
    labels = (generator.random(400) < 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))).astype(int)
    right = {"validation": right_of(20, 2), "test": [True] * 400}
    folder = write_scored(tmp_path / "lp", "lp", 0, right, temperature=temperature)
    rewrite(folder, "test", logits, labels)
    found = trust(find_runs(tmp_path)[0][0], "test")
    assert found is not None
    assert found.harmed is harmed
    expected = log_loss(labels, 1 / (1 + np.exp((logits[:, 0] - logits[:, 1]) / temperature)))
    assert found.nll_after == pytest.approx(expected, rel=1e-5)  # logits are float32 on disk


def rewrite(folder: Path, split: str, logits: np.ndarray, labels: np.ndarray) -> None:
    """Other predictions of a split, with their metrics."""
    frame = pd.DataFrame(
        {
            "id": [str(row) for row in range(len(labels))],
            "label": labels,
            "logits": list(logits.astype(np.float32)),
        }
    )
    frame.to_parquet(folder / "predictions" / f"{split}.parquet")
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["splits"][split] = split_metrics(logits, labels, 1.0)
    edit_json(folder / "metrics.json", **metrics)
