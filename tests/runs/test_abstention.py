"""Runs whose classifier abstains, errors with and without their texts, and unseen classes."""

import csv
import json
import re

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn.metrics import roc_auc_score
from tiny_models import toy_texts
from toy_files import toy_data, toy_settings

from lpft.analysis import choose_threshold
from lpft.cli.console import print_metrics
from lpft.errors import InputError
from lpft.estimator import TextClassifier
from lpft.export import export_run
from lpft.report import build_report
from lpft.results.run import Predictions, Run
from lpft.results.saved import open_saved
from lpft.results.schema import read_errors
from lpft.runs.train import train_run
from lpft.settings.configs import make_config

LONG = "word " * 300


@pytest.fixture(scope="module")
def settings(tiny_bert, tmp_path_factory):
    """A tiny probe; half of the rows of the set ``far`` are of a class that training lacks."""
    folder = tmp_path_factory.mktemp("data")
    found = toy_data(folder) | toy_settings(tiny_bert, "lp")
    texts, labels = toy_texts(24, seed=9)
    labels = ["other" if row % 2 else label for row, label in enumerate(labels)]
    texts[1] = LONG + '<b>&"</b>'
    pd.DataFrame({"text": texts, "label": labels}).to_csv(found["ood"]["far"], index=False)
    return found


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return train_run(make_config(settings | {"target_coverage": 0.6}, folder)).folder


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_the_threshold_is_the_validation_rows_own_and_is_stored_with_the_model(run):
    metrics = read(run / "metrics.json")
    rows = Predictions.read(run, "validation", 2)
    expected = choose_threshold(
        rows.logits, rows.labels, metrics["temperature"], target_coverage=0.6
    )
    assert metrics["abstention"] == expected.as_json()
    assert read(run / "config.json")["abstain_below"] == expected.abstain_below
    for split, found in metrics["splits"].items():
        rows = Predictions.read(run, split, 2).known()
        table = softmax(rows.logits / metrics["temperature"], axis=1)
        accepted = table.max(axis=1) >= expected.abstain_below
        assert found["coverage"] == accepted.mean()
        right = (table.argmax(axis=1) == rows.labels)[accepted]
        assert found["accepted_accuracy"] == pytest.approx(right.mean())
    card = (run / "README.md").read_text()
    assert "abstains below a confidence" in card
    assert f"of {expected.abstain_below:.3f}, which its 24 validation rows chose" in card
    assert f"| test | {metrics['splits']['test']['coverage']:.3f} |" in card


def test_the_page_has_the_training_rows_of_each_class(run, settings, tmp_path):
    labels = pd.read_csv(settings["train_file"])["label"].value_counts()
    page = build_report(run, output=tmp_path / "page.html").page.read_text()
    table = page[page.index("Rows of each class") :].partition("</table>")[0]
    words = re.sub(r"<[^>]*>", " ", table).split()
    first = words.index("train")
    assert words[first - 1 : first + 2] == ["Class", "train", "validation"]
    for name, rows in labels.items():
        assert words[words.index(name) + 1] == str(rows)


def test_a_target_that_all_rows_keep_is_said_in_words(settings, tmp_path, capsys):
    folder = train_run(make_config(settings | {"target_coverage": 1.0}, tmp_path / "run")).folder
    assert read(folder / "metrics.json")["abstention"]["abstain_below"] == 0.0
    print_metrics(read(folder / "metrics.json"))
    assert "\nnever abstains: all validation rows" in capsys.readouterr().out
    assert "never abstains: its 24 validation rows" in (folder / "README.md").read_text()
    page = build_report(folder, output=tmp_path / "page.html").page.read_text()
    assert "never abstains: all validation texts" in page


def test_unseen_classes_are_null_and_enter_nothing_but_their_own_block(run):
    metrics = read(run / "metrics.json")
    far, usual = Predictions.read(run, "ood/far", 2), Predictions.read(run, "test", 2)
    labels = pd.read_parquet(run / "predictions/ood-far.parquet")["label"]
    assert labels.isna().tolist() == [row % 2 == 1 for row in range(24)]
    top = {
        name: softmax(rows.logits / metrics["temperature"], axis=1).max(axis=1)
        for name, rows in (("far", far), ("usual", usual))
    }
    found = metrics["splits"]["ood/far"]

    def auroc(lower):
        kinds = [1] * len(top["usual"]) + [0] * len(lower)
        return pytest.approx(roc_auc_score(kinds, np.concatenate([top["usual"], lower])))

    assert found["rows"] == 12
    assert found["confidence_auroc"] == auroc(top["far"])
    below = metrics["abstention"]["abstain_below"]
    assert found["unseen"] == {
        "rows": 12,
        "confidence_auroc": auroc(top["far"][1::2]),
        "rejected": (top["far"][1::2] < below).mean(),
    }
    again = Run.read(run, "run")
    assert again.score("ood/far", "accuracy") == found["accuracy"]
    assert len(again.predictions["ood/far"].known().labels) == 12


def test_errors_name_rows_of_the_file_with_their_texts_cut(run, settings):
    errors = read_errors(run)
    for split, path in (("test", settings["test_file"]), ("ood/far", settings["ood"]["far"])):
        table = pd.read_csv(path)
        rows = Predictions.read(run, split, 2)
        own = [error for error in errors if error.split == split]
        classes = ("bad", "good")
        wrong = rows.logits.argmax(axis=1) != rows.labels
        assert {error.row for error in own} == set((np.flatnonzero(wrong) + 1).tolist())
        sure = [error.confidence for error in own]
        assert sure == sorted(sure, reverse=True)
        for error in own:
            text, label = table.iloc[error.row - 1]
            whole = error.text == text
            assert whole or (len(error.text) == 500 and text.startswith(error.text[:-1]))
            assert error.label == (label if label in classes else None)
            assert error.predicted != error.label
    unseen = next(error for error in errors if error.split == "ood/far" and error.row == 2)
    assert (unseen.label, unseen.probability, len(unseen.text)) == (None, None, 500)


def test_without_texts_errors_are_row_numbers_only(settings, run, tmp_path):
    asked = settings | {"texts_in_report": False}
    folder = train_run(make_config(asked, tmp_path / "run")).folder
    with_texts = [error.model_copy(update={"text": None}) for error in read_errors(run)]
    assert [vars(error) for error in read_errors(folder)] == [vars(error) for error in with_texts]
    assert "text" not in (folder / "errors.jsonl").read_text()
    assert "errors.jsonl" in (run / "README.md").read_text()
    assert "errors.jsonl" not in (folder / "README.md").read_text()
    assert read_errors(tmp_path) == ()


def test_predictions_keep_the_label_and_say_who_abstains(lpft, run, settings, tmp_path):
    below = read(run / "config.json")["abstain_below"]
    rows = lines(lpft("predict", run, "--file", settings["test_file"]).out)
    assert {row["abstained"] for row in rows} == {True, False}
    for row in rows:
        top = max(row["probabilities"], key=row["probabilities"].get)
        assert row["label"] == top
        assert row["abstained"] == (row["probabilities"][top] < below)
    stored = read(run / "metrics.json")["splits"]["test"]["coverage"]
    assert np.mean([not row["abstained"] for row in rows]) == pytest.approx(stored, abs=0.06)

    output = tmp_path / "out.csv"
    options = ("--file", settings["test_file"], "--output", output)
    assert lpft("predict", run, *options).status == 0
    table = list(csv.DictReader(output.open(encoding="utf-8")))
    assert list(table[0]) == ["label", "probability_bad", "probability_good", "abstained"]
    assert [row["abstained"] == "true" for row in table] == [row["abstained"] for row in rows]


def test_predict_takes_another_threshold_or_target(lpft, run, settings):
    def abstained(*options):
        outcome = lpft("predict", run, "--file", settings["test_file"], *options)
        assert outcome.status == 0, outcome.err
        return [row["abstained"] for row in lines(outcome.out)]

    assert all(abstained("--abstain-below", 1))
    assert not any(abstained("--target-coverage", 1))
    assert sum(abstained("--target-coverage", 0.2)) > sum(abstained("--target-coverage", 0.9))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target-accuracy", 0.999), "--target-accuracy 0.999: 24 validation rows cannot"),
        (("--target-accuracy", 1.5), "--target-accuracy 1.5 must be a number above 0 and below 1"),
        (("--abstain-below", "half"), "--abstain-below 'half' must be a number"),
        (("--abstain-below", 0.5, "--target-coverage", 0.5), "exclude each other"),
    ],
)
def test_what_cannot_be_met_is_refused_by_name(lpft, run, options, message):
    outcome = lpft("predict", run, "--text", "good", *options)
    assert (outcome.status, outcome.out) == (2, "")
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_without_a_threshold_nothing_is_added(lpft, settings, tmp_path):
    folder = train_run(make_config(settings, tmp_path / "run")).folder
    (row,) = lines(lpft("predict", folder, "--text", "good").out)
    assert set(row) == {"label", "probabilities"}
    metrics = read(folder / "metrics.json")
    assert "abstention" not in metrics
    assert not {"coverage", "accepted_accuracy"} & set(metrics["splits"]["test"])
    assert metrics["splits"]["ood/far"]["unseen"]["rejected"] is None


def test_an_accuracy_that_cannot_be_promised_does_not_lose_the_training(settings, tmp_path, caplog):
    config = make_config(settings | {"target_accuracy": 0.999}, tmp_path / "run")
    metrics = train_run(config).metrics
    assert metrics["abstention"]["abstain_below"] is None
    assert "24 validation rows cannot promise" in metrics["abstention"]["reason"]
    assert "never abstains" in caplog.text
    assert "never abstains" in (tmp_path / "run/README.md").read_text()
    assert "coverage" not in metrics["splits"]["test"]


def test_a_threshold_changes_neither_the_run_nor_a_finished_one(settings, run):
    asked = settings | {"target_coverage": 0.6}
    assert make_config(asked, run).hash() == make_config(settings, run).hash()
    before = (run / "metrics.json").read_bytes()
    assert train_run(make_config(settings, run), resume=True).folder == run
    assert (run / "metrics.json").read_bytes() == before
    with pytest.raises(InputError, match=r"target_coverage 0\.6.* predict target_coverage 0\.5"):
        train_run(make_config(settings | {"target_coverage": 0.5}, run), resume=True)
    with pytest.raises(InputError, match=r"with texts in errors\.jsonl"):
        train_run(make_config(settings | {"texts_in_report": False}, run), resume=True)


def test_one_threshold_at_a_time():
    data = {"task": "demo", "target_accuracy": 0.9, "abstain_below": 0.5}
    with pytest.raises(InputError, match="target_accuracy and abstain_below exclude each other"):
        make_config(data)


def test_evaluate_tells_unseen_classes_from_the_runs_test_rows(lpft, run, settings):
    outcome = lpft("evaluate", run, "--file", settings["ood"]["far"], "--json")
    (found,) = json.loads(outcome.out)["splits"].values()
    recorded = read(run / "metrics.json")["splits"]["ood/far"]
    for name in ("rows", "accuracy", "coverage", "confidence_auroc"):
        assert found[name] == pytest.approx(recorded[name], abs=1e-6)
    assert found["unseen"] == pytest.approx(recorded["unseen"], abs=1e-6)
    shown = lpft("evaluate", run, "--file", settings["ood"]["far"]).out
    assert "12 rows of classes that training lacks, AUROC of confidence" in shown


def test_the_estimator_abstains_by_the_same_rule(tiny_bert, run, settings, tmp_path):
    train, valid = (pd.read_csv(settings[name]) for name in ("train_file", "validation_file"))
    classifier = TextClassifier(
        str(tiny_bert), method="lp", max_length=16, device="cpu", target_coverage=0.6
    ).fit(list(train["text"]), train["label"], validation=(list(valid["text"]), valid["label"]))
    stored = read(run / "config.json")["abstain_below"]
    assert classifier.abstain_below_ == pytest.approx(stored, abs=1e-5)
    texts = list(valid["text"])
    top = classifier.predict_proba(texts).max(axis=1)
    np.testing.assert_array_equal(classifier.abstains(texts), top < classifier.abstain_below_)
    classifier.save(tmp_path / "saved")
    loaded = TextClassifier.load(tmp_path / "saved", device="cpu")
    assert loaded.abstain_below_ == classifier.abstain_below_
    assert loaded.target_coverage == 0.6
    assert TextClassifier.load(run, device="cpu").abstain_below_ == stored
    with pytest.raises(InputError) as refused:  # it has neither the file nor metrics.json
        open_saved(tmp_path / "saved").validation()
    assert "validation.parquet does not exist" in str(refused.value)
    assert "metrics.json" not in str(refused.value)
    loaded.abstain_below_ = None
    with pytest.raises(InputError, match="no threshold to abstain below"):
        loaded.abstains(["good"])


def test_an_export_has_the_threshold_and_no_word_of_files_that_it_lacks(run, tmp_path):
    export = export_run(run, tmp_path / "export", "transformers")
    below = read(run / "config.json")["abstain_below"]
    assert read(tmp_path / "export/export.json")["abstain_below"] == below
    card = (export.folder / "README.md").read_text()
    assert f"abstains where the largest probability is below {below:.3f}" in card
    assert "errors.jsonl" not in card
