"""Runs on tasks whose rows answer questions together, from training to evaluation and kernels."""

import json

import numpy as np
import pandas as pd
import pytest

from lpft.data.loading import load_task
from lpft.results.run import find_runs

from ..data.release_files import CASES, case_of

GROUPED = {
    "copa": ("choice_accuracy",),
    "multirc": ("answer_f1", "exact_match"),
    "record": ("exact_match", "token_f1"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grouped")
    for case in CASES:
        if case.task in GROUPED:
            case.write(folder)
    return folder


def train(lpft, tiny_bert, files, task, folder, *options):
    source = ("--task", task, "--data-dir", files, "--model", tiny_bert, "--max-length", 64)
    result = lpft("train", *source, "--output-dir", folder, *options)
    assert (result.status, "Traceback" in result.err) == (0, False), result.err
    return result


def recomputed(predictions, names):
    """The metrics by loops over the questions of a predictions file."""
    earned = {name: [] for name in names}
    for _, rows in predictions.groupby("group"):
        logits = np.stack(rows["logits"])
        if "credit_" + names[0] in rows:
            odds = logits[:, 1] - logits[:, 0]
            for name in names:
                earned[name].append(rows[f"credit_{name}"][odds == odds.max()].mean())
        else:
            earned["exact_match"].append(bool(np.all(logits.argmax(1) == rows["label"])))
    if "answer_f1" in names:
        called = np.stack(predictions["logits"]).argmax(1)
        both = np.sum(called * predictions["label"])
        earned["answer_f1"] = [2 * both / max(np.sum(called) + predictions["label"].sum(), 1)]
    return {name: float(np.mean(values)) for name, values in earned.items()}


@pytest.mark.parametrize("task", GROUPED)
def test_their_metrics_are_recorded_choose_the_epoch_and_can_be_recomputed(
    lpft, tiny_bert, files, tmp_path, task
):
    run = tmp_path / task
    options = ("--method", "ft", "--epochs", 2, "--learning-rate", "1e-3")
    shown = train(lpft, tiny_bert, files, task, run, *options).out
    metrics = json.loads((run / "metrics.json").read_text())["splits"]
    names = GROUPED[task]
    for split in ("validation", "test"):
        predictions = pd.read_parquet(run / "predictions" / f"{split}.parquet")
        expected = recomputed(predictions, names)
        assert {name: metrics[split][name] for name in names} == pytest.approx(expected)
        assert set(predictions.columns) == {
            *("id", "label", "logits", "group", "positive"),
            *(["cluster"] if task in ("multirc", "record") else []),
            *(f"credit_{name}" for name in names if task != "multirc"),
        }
    record = json.loads((run / "run.json").read_text())
    assert record["metric"] in names
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    reached = [
        row[f"validation_{record['metric']}"] for row in history if row["event"] == "evaluation"
    ]
    # the start is recorded too, but only the ends of epochs can be chosen
    assert len(reached) == 3
    assert metrics["validation"][record["metric"]] == pytest.approx(max(reached[1:]))
    header = shown.splitlines()[0]
    assert all(name.replace("_", " ").replace("f1", "F1") in header for name in names)


def test_predictions_say_which_rows_are_together(lpft, tiny_bert, files, tmp_path):
    run = tmp_path / "run"
    train(lpft, tiny_bert, files, "multirc", run, "--method", "lp")
    (found,) = find_runs(run)[0]
    test = found.predictions["test"]
    expected = load_task("multirc", files).test
    assert test.ids.tolist() == expected.ids
    assert test.groups.index.tolist() == expected.groups.index.tolist()
    assert (test.groups.positive, test.groups.metrics) == (1, ("answer_f1", "exact_match"))
    assert test.clusters.tolist() == [0] * 5 + [1] * 5
    pubmed = tmp_path / "pubmed"
    case_of("pubmed").write(tmp_path)
    train(lpft, tiny_bert, tmp_path, "pubmed", pubmed, "--method", "lp")
    (found,) = find_runs(pubmed)[0]
    assert found.predictions["test"].clusters.tolist() == [0] * 5 + [1] * 5
    assert found.predictions["test"].groups is None


def test_evaluate_predict_and_report_know_them_too(lpft, tiny_bert, files, tmp_path):
    run = tmp_path / "run"
    train(lpft, tiny_bert, files, "record", run, "--method", "lp", "--max-train-samples", 30)
    trained = json.loads((run / "metrics.json").read_text())
    record = json.loads((run / "run.json").read_text())
    assert record["data"]["rows"] == {"train": 30, "validation": 6, "test": 12}
    assert any("drawn by query" in note for note in record["data"]["notes"])
    source = ("--task", "record", "--data-dir", files)
    evaluated = json.loads(lpft("evaluate", run, *source, "--json").out)
    found, expected = (record["splits"]["test"] for record in (evaluated, trained))
    assert found.pop("calibrated") == pytest.approx(expected.pop("calibrated"))
    for part in ("per_class", "accuracy_interval"):
        assert found.pop(part) == expected.pop(part)
    assert found == pytest.approx(expected)
    assert "token F1" in lpft("evaluate", run, *source).out
    # a model that was trained on COPA's classes answers MultiRC's pairs as well
    other = json.loads(
        lpft("evaluate", run, "--task", "multirc", "--data-dir", files, "--json").out
    )
    assert {"answer_f1", "exact_match"} <= set(other["splits"]["test"])
    predicted = lpft("predict", run, "--text", "Ann met Bo.", "Bo was met")
    assert set(json.loads(predicted.out)["probabilities"]) == {"False", "True"}
    assert lpft("report", run).status == 0
    assert "token F1" in (run / "report.html").read_text()


def test_kernels_of_grouped_rows(lpft, tiny_bert, files, tmp_path):
    result = lpft(
        "ntk", "--task", "copa", "--data-dir", files, "--model", tiny_bert, "--methods", "ft,lp-ft",
        "--max-length", 64, "--max-samples", 6, "--output-dir", tmp_path / "kernels",
    )  # fmt: skip
    assert result.status == 0, result.err
    record = json.loads((tmp_path / "kernels/kernels.json").read_text())
    assert record["data"]["rows"] == {"train": 6, "eval": 6}
