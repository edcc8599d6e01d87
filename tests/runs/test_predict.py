"""Predictions of files and lines of which some rows have no text."""

import csv
import io
import json

import pandas as pd
import pytest


@pytest.fixture
def run(trained_runs):
    return trained_runs("lp")


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def table(tmp_path):
    """Ids, texts of which the second and last are missing, and labels that are carried along."""
    path = tmp_path / "new.jsonl"
    rows = [
        {"id": 7, "text": "good film", "label": "x"},
        {"id": 8, "text": " ", "label": "y"},
        {"id": 9, "text": "bad film", "label": None},
        {"id": 10, "text": 3.5, "label": "z"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_an_invalid_row_is_an_error_before_any_prediction(lpft, run, tmp_path):
    path = tmp_path / "long.csv"
    path.write_text("text\n" + "good film\n" * 1500 + '" "\n')
    outcome = lpft("predict", run, "--file", path)
    assert (outcome.status, outcome.out) == (2, "")
    assert "no text in row 1501" in outcome.err


def test_marked_rows_keep_their_place_and_all_columns(lpft, run, table, tmp_path):
    valid = lines(lpft("predict", run, "--text", "good film", "bad film").out)
    marked = lines(lpft("predict", run, "--file", table, "--invalid-rows", "mark").out)
    assert [row["id"] for row in marked] == [7, 8, 9, 10]
    assert [row["input_label"] for row in marked] == ["x", "y", None, "z"]
    assert [row["label"] for row in marked] == [valid[0]["label"], None, valid[1]["label"], None]
    assert marked[1]["probabilities"] is None
    assert marked[2]["probabilities"] == pytest.approx(valid[1]["probabilities"])
    reasons = [
        None,
        "column 'text': no text",
        None,
        "column 'text': found 3.5 (float), expected text",
    ]
    assert [row["reason"] for row in marked] == reasons
    out = tmp_path / "out.csv"
    lpft("predict", run, "--file", table, "--invalid-rows", "mark", "--output", out)
    found = list(csv.DictReader(io.StringIO(out.read_text())))
    assert list(found[0])[:4] == ["id", "text", "input_label", "label"]
    assert list(found[0])[-1] == "reason"
    assert [row["label"] for row in found] == [row["label"] or "" for row in marked]
    assert found[1][f"probability_{valid[0]['label']}"] == ""


def test_skipped_rows_are_counted_and_the_others_have_their_number(lpft, run, table):
    outcome = lpft("predict", run, "--file", table, "--invalid-rows", "skip")
    assert [(row["id"], row["row"]) for row in lines(outcome.out)] == [(7, 1), (9, 3)]
    assert "no prediction for rows 2, 4" in outcome.err


def test_lines_without_text_are_marked(lpft, run):
    given = b"good film\n\ncaf\xe9\nbad film\n"
    marked = lines(lpft("predict", run, "--invalid-rows", "mark", stdin=given).out)
    assert [row["reason"] is None for row in marked] == [True, False, False, True]
    assert "UTF-8" in marked[2]["reason"]
    assert marked[2]["reason"].isprintable()


def test_numbers_that_json_has_not_are_null_in_the_output(lpft, run, tmp_path):
    path = tmp_path / "new.jsonl"
    path.write_text('{"text": "good film", "x": NaN, "y": [1.5, {"z": -Infinity}]}\n')
    out = lpft("predict", run, "--file", path, "--keep-columns", "x,y").out

    def none(name):
        raise AssertionError(f"{name} is no JSON")

    (row,) = (json.loads(line, parse_constant=none) for line in out.splitlines())
    assert (row["x"], row["y"]) == (None, [1.5, {"z": None}])


def test_values_of_any_kind_are_carried_along(lpft, run, tmp_path):
    path = tmp_path / "new.parquet"
    frame = pd.DataFrame({"text": ["good film", None], "when": pd.to_datetime(["2024-05-27"] * 2)})
    frame.to_parquet(path)
    marked = lines(lpft("predict", run, "--file", path, "--invalid-rows", "mark").out)
    assert [row["when"][:10] for row in marked] == ["2024-05-27"] * 2
    path = tmp_path / "new.jsonl"
    path.write_text('{"text": "\\ud800"}\n{"text": "good film"}\n')
    marked = lines(lpft("predict", run, "--file", path, "--invalid-rows", "mark").out)
    assert "surrogate" in marked[0]["reason"]
    assert marked[1]["reason"] is None


@pytest.mark.parametrize("content", ["Great, love it\nBroke\n", '"Great, love it"\n"Broke"\n'])
def test_a_file_whose_first_line_is_a_text_is_refused(lpft, run, tmp_path, content):
    for name in ("lines.txt", "one.csv"):
        if name == "one.csv" and '"' not in content:
            continue
        (tmp_path / name).write_text(content)
        outcome = lpft("predict", run, "--file", tmp_path / name)
        assert outcome.status == 2
        assert "no column 'text', which the model was trained on" in outcome.err
        assert "--column-names" in outcome.err
        named = lpft("predict", run, "--file", tmp_path / name, "--column-names", "text")
        assert len(lines(named.out)) == 2


def test_files_are_read_by_the_columns_of_training_or_those_that_are_named(lpft, run, tmp_path):
    pd.DataFrame({"Text": ["good film"], "y": ["x"]}).to_csv(tmp_path / "other.csv", index=False)
    outcome = lpft("predict", run, "--file", tmp_path / "other.csv")
    assert "(did you mean 'Text'?); name the text column with --text-columns" in outcome.err
    named = lpft("predict", run, "--file", tmp_path / "other.csv", "--text-columns", "Text")
    assert len(lines(named.out)) == 1
    outcome = lpft("evaluate", run, "--file", tmp_path / "other.csv", "--text-columns", "Text")
    assert "no column 'label'" in outcome.err
    assert "--label-column" in outcome.err
    columns = json.loads((run / "config.json").read_text())["text_columns"]
    assert (
        columns == json.loads((run / "run.json").read_text())["config"]["text_columns"] == ["text"]
    )


def test_unseen_classes_of_a_file_are_evaluated_by_confidence_alone(lpft, run, tmp_path):
    labels = json.loads((run / "run.json").read_text())["data"]["classes"]
    rows = [("good film", labels[0]), ("bad film", "none of these"), ("a film", labels[1])]
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(tmp_path / "far.csv", index=False)
    outcome = lpft("evaluate", run, "--file", tmp_path / "far.csv", "--json")
    found = json.loads(outcome.out)["splits"]["far"]
    assert found["rows"] == 2
    assert found["unseen"]["rows"] == 1
    assert 0 <= found["unseen"]["confidence_auroc"] <= 1
    assert "1 of 3 rows have classes that training lacks ('none of these')" in outcome.err
