"""`lpft explain`: which rows it reads and names, what it writes, and how it refuses the rest."""

import csv
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from kernel_commands import assert_refused
from toy_files import write_toy_file

from lpft import TextClassifier
from lpft.files import default_cache_dir
from lpft.model import load_classifier
from lpft.results.schema import ExplanationRecord

TEXTS = ("good fine nice", "bad poor")


def explained(outcome) -> dict:
    assert outcome.status == 0, outcome.err
    return json.loads(outcome.out)


@pytest.fixture(scope="module")
def run(trained_runs):
    return trained_runs("lp-ft")


def test_scores_are_split_and_rows_are_those_of_the_training_file(lpft, run, kernel_data):
    outcome = lpft("explain", run, "--text", *TEXTS, "--top", 3, "--label-errors", 5, "--json")
    record = explained(outcome)
    table = pd.read_csv(kernel_data / "train.csv")
    assert [text["text"] for text in record["texts"]] == list(TEXTS)
    assert record["rows"] == record["rows_in_all"] == len(table)
    assert record["parameters"] > 0
    assert "head and" in outcome.err
    for text in record["texts"]:
        assert len(text["supporting"]) <= 3
        scores = [row["score"] for row in text["supporting"]]
        assert scores == sorted(scores, reverse=True)
        assert all(score > 0 for score in scores)
        assert all(row["score"] < 0 for row in text["opposing"])
        for row in text["supporting"] + text["opposing"]:
            assert row["score"] == pytest.approx(row["head"] + row["encoder"])
            assert table["text"][row["row"] - 1] == row["text"]
            assert str(table["label"][row["row"] - 1]) == row["label"]
    margins = [label["margin"] for label in record["labels"]]
    assert len(margins) == 5
    assert margins == sorted(margins)
    assert all(label["suggested"] != label["label"] for label in record["labels"])


def test_linear_probing_rests_on_its_head_alone(lpft, trained_runs):
    outcome = lpft("explain", trained_runs("lp"), "--text", TEXTS[0], "--json")
    rows = explained(outcome)["texts"][0]["supporting"]
    assert rows
    assert all(row["encoder"] == 0 for row in rows)
    assert "trains the head alone" in outcome.err


def test_of_linear_probing_the_features_of_training_are_read_again(lpft, trained_runs, kernel_data):
    """From the cache, which a miss would write to; the scores are those of features computed."""
    run = trained_runs("lp")
    cached = set((default_cache_dir() / "features").iterdir())
    record = explained(lpft("explain", run, "--text", TEXTS[0], "--top", 100, "--json"))
    assert set((default_cache_dir() / "features").iterdir()) == cached
    table = pd.read_csv(kernel_data / "train.csv")
    train = table["text"].tolist(), table["label"].tolist()
    classifier = TextClassifier.load(run)
    computed = classifier.explain([TEXTS[0]], train=train).influence.total[0]
    (text,) = record["texts"]
    for row in text["supporting"] + text["opposing"]:
        assert row["score"] == pytest.approx(computed[row["row"] - 1], rel=1e-4, abs=1e-9)


def test_of_an_adapter_the_factors_are_counted(lpft, trained_runs, run):
    adapted, whole = (
        explained(lpft("explain", of, "--text", TEXTS[0], "--json"))
        for of in (trained_runs("lp-lora"), run)
    )
    assert 0 < adapted["parameters"] < whole["parameters"] / 10
    assert any(row["encoder"] != 0 for row in adapted["texts"][0]["supporting"])


def test_a_planted_label_is_the_first_doubtful_one(lpft, tiny_bert, tmp_path):
    table = pd.read_csv(write_toy_file(tmp_path / "train.csv", 40, seed=5))
    few = table.groupby("label").head(1)  # the same text ten times, once with another label
    table = pd.concat([few] * 10, ignore_index=True)
    other = {"good": "bad", "bad": "good"}
    table.loc[11, "label"] = other[table.loc[11, "label"]]
    table.to_csv(tmp_path / "train.csv", index=False)
    write_toy_file(tmp_path / "valid.csv", 20, seed=6)
    outcome = lpft(
        *("train", "--train-file", tmp_path / "train.csv", "--method", "lp"),
        *("--validation-file", tmp_path / "valid.csv", "--model", tiny_bert, "--device", "cpu"),
        *("--output-dir", tmp_path / "run"),
    )
    assert outcome.status == 0, outcome.err
    record = explained(lpft("explain", tmp_path / "run", "--label-errors", 5, "--json"))
    assert record["texts"] == []
    assert record["labels"][0]["row"] == 12


def test_files_are_read_and_results_written_once(lpft, run, tmp_path):
    (tmp_path / "new.csv").write_text("text\n" + "\n".join(TEXTS) + "\n")
    folder = tmp_path / "why"
    arguments = ("explain", run, "--file", tmp_path / "new.csv", "--output-dir", folder)
    outcome = lpft(*arguments, "--score", "first-order", "--top", 2)
    assert outcome.status == 0, outcome.err
    assert "training text" in outcome.out
    record = ExplanationRecord.read(folder)
    assert (record.score, record.labels, len(record.texts)) == ("first-order", None, 2)
    with (folder / "explanations.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows[:2]] == ["1", "1"]
    assert float(rows[0]["score"]) == pytest.approx(record.texts[0].supporting[0].score)
    assert_refused(lpft(*arguments), "--overwrite")
    again = lpft(*arguments, "--overwrite", "--label-errors", 3, "--max-rows", 6)
    assert again.status == 0, again.err
    assert ExplanationRecord.read(folder).rows == 6
    assert (folder / "label-errors.csv").is_file()


def test_the_cost_is_said_before_and_alone_by_dry_run(lpft, run, tmp_path):
    outcome = lpft("explain", run, "--text", TEXTS[0], "--dry-run", "--output-dir", tmp_path / "x")
    assert outcome.status == 0, outcome.err
    assert "1 text and" in outcome.out
    assert "about" in outcome.out
    assert not (tmp_path / "x").exists()


def test_the_explained_class_is_the_one_that_is_predicted(lpft, run):
    record = explained(lpft("explain", run, "--text", *TEXTS, "--json"))
    predicted = lpft("predict", run, "--text", *TEXTS)
    for text, line in zip(record["texts"], predicted.out.splitlines(), strict=True):
        prediction = json.loads(line)
        assert text["label"] == prediction["label"]
        assert text["probability"] == pytest.approx(
            prediction["probabilities"][prediction["label"]], abs=1e-5
        )
    assert set(load_classifier(run).model.config.classes) >= {
        text["label"] for text in record["texts"]
    }


def test_training_rows_that_are_gone_or_changed_are_one_line(lpft, trained_runs, tmp_path):
    run = shutil.copytree(trained_runs("lp"), tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    moved = tmp_path / "train.csv"
    shutil.copy(record["config"]["train_file"], moved)
    record["config"]["train_file"] = str(moved)
    (run / "run.json").write_text(json.dumps(record))
    table = pd.read_csv(moved)
    table.loc[0, "text"] = "other words"
    table.to_csv(moved, index=False)
    assert_refused(lpft("explain", run, "--text", TEXTS[0]), "train data", "changed")
    moved.unlink()
    assert_refused(lpft("explain", run, "--text", TEXTS[0]), str(moved))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), ("--text", "--file", "--label-errors")),
        (("--text", "a", "--delimiter", ";"), ("--delimiter", "--file")),
        (("--text", "a", "--encoding", "latin-1"), ("--encoding",)),
        (("--text", " "), ("text",)),
        (("--text", "a", "--score", "trak"), ("--score",)),
        (("--text", "a", "--top", "0"), ("--top",)),
        (("--file", "nowhere.csv"), ("nowhere.csv",)),
        (("--text", "a", "--memory", "1MB"), ("memory",)),
    ],
)
def test_bad_input_is_one_line(lpft, run, arguments, named):
    assert_refused(lpft("explain", run, *arguments), *named)


def test_a_classifier_without_a_record_is_referred_to_python(lpft, run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "saved")
    (folder / "run.json").unlink()
    assert_refused(lpft("explain", folder, "--text", "a"), "run.json", "TextClassifier.explain")


def test_rows_that_folds_scored_were_all_trained_on(lpft, tiny_bert, tmp_path):
    write_toy_file(tmp_path / "train.csv", 30, seed=7)
    outcome = lpft(
        *("train", "--train-file", tmp_path / "train.csv", "--method", "lp"),
        *("--model", tiny_bert, "--device", "cpu", "--output-dir", tmp_path / "run"),
    )
    assert outcome.status == 0, outcome.err
    record = explained(lpft("explain", tmp_path / "run", "--text", TEXTS[0], "--json"))
    assert record["rows"] == 30
    numbers = [
        row["row"] for side in ("supporting", "opposing") for row in record["texts"][0][side]
    ]
    assert np.all((np.array(numbers) >= 1) & (np.array(numbers) <= 30))
