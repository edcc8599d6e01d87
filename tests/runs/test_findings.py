"""What a run says of its data: row numbers in its files, texts on the terminal only."""

import json
import logging

import pandas as pd
import pytest
from tiny_models import toy_texts

from lpft.estimator import TextClassifier
from lpft.runs.train import train_run
from lpft.settings.configs import make_config, make_kernel_config

SECRET = "a secret sentence that occurs in two rows of this file and in no other one"
LONG = "good table " * 200


@pytest.fixture(scope="module")
def rows():
    texts, labels = toy_texts(80, seed=0)
    texts = [f"{text} {number}" for number, text in enumerate(texts)]  # all different
    texts[4] = texts[70] = SECRET
    texts[20] = LONG
    return pd.DataFrame({"text": texts, "label": [*labels[:70], labels[4], *labels[71:]]})


@pytest.fixture(scope="module")
def settings(rows, tiny_bert, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "rows.csv"
    rows.to_csv(path, index=False)
    return {"train_file": str(path), "model": str(tiny_bert), "method": "lp", "pooling": "mean"}


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "lp"
    train_run(make_config(settings, folder))
    return folder


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def by_kind(findings):
    return {finding["kind"]: finding for finding in findings}


def test_the_record_names_rows(run):
    found = by_kind(read(run / "run.json")["findings"])
    assert found["duplicates"]["rows"] == {"train": [71]}
    assert found["duplicates"]["total"] == {"train": 1}
    assert found["truncation"]["rows"] == {"train": [21]}  # 400 words, 64 positions


def test_the_card_names_rows(run):
    card = (run / "README.md").read_text(encoding="utf-8")
    assert "(row 71 of train)" in card
    assert "row 21 of train" in card


def test_no_file_of_a_run_without_its_wrong_texts_has_a_text(settings, tmp_path):
    asked = make_config(settings | {"texts_in_report": False}, tmp_path / "run")
    train_run(asked)
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path


def test_the_default_length_is_recorded_as_a_number_and_resumed(run, settings):
    assert read(run / "run.json")["config"]["max_length"] == 64  # the model's limit
    train_run(make_config(settings, run), resume=True)
    train_run(make_config(settings | {"max_length": 64}, run), resume=True)
    with pytest.raises(ValueError, match="max_length 64, now it is 32"):
        train_run(make_config(settings | {"max_length": 32}, run), resume=True)


def test_the_papers_protocol_has_its_own_length(settings):
    paper = settings | {"split_protocol": "paper"}
    assert make_config(paper).training.max_length == 128
    assert make_config({"task": "cb"}).training.max_length == 128
    assert make_config({"task": "cb", "split_protocol": "stratified"}).training.max_length is None
    assert make_kernel_config({"task": "cb"}).run.training.max_length == 128


def test_check_shows_texts_on_the_terminal_and_numbers_to_programs(lpft, settings):
    options = ("--train-file", settings["train_file"], "--model", settings["model"])
    shown = lpft("check", *options)
    assert shown.status == 0, shown.err
    assert f"train 5: '{SECRET[:40]}" in shown.out
    assert "cut at 64 tokens" in shown.out
    answer = lpft("check", *options, "--json").out
    assert SECRET not in answer
    parsed = json.loads(answer)
    assert by_kind(parsed["findings"])["duplicates"]["rows"] == {"train": [71]}
    assert (parsed["lengths"]["max_length"], parsed["lengths"]["limit"]) == (64, 64)
    counts = parsed["class_rows"]
    assert sum(counts["train"].values()) + sum(counts["validation"].values()) == 80
    assert "cut at 16 tokens" in lpft("check", *options, "--max-length", 16).out
    refused = lpft("check", *options, "--max-length", 65)
    assert refused.status == 2
    assert "--max-length 65 does not fit" in refused.err


def test_check_suggests_other_labels_for_doubtful_ones(lpft, tmp_path, tiny_bert):
    texts, labels = toy_texts(120, seed=3)
    texts = [f"{label} {label} {label} {text}" for text, label in zip(texts, labels, strict=True)]
    labels[7], labels[50] = labels[50], labels[7]
    assert labels[7] != labels[50]
    pd.DataFrame({"text": texts, "label": labels}).to_csv(tmp_path / "rows.csv", index=False)
    options = ("--train-file", tmp_path / "rows.csv", "--model", tiny_bert)
    answer = json.loads(lpft("check", *options, "--label-errors", "--json").out)
    finding = by_kind(answer["findings"])["label-errors"]
    assert finding["level"] == "note"
    numbers, suggested = finding["rows"]["train"], finding["suggested"]["train"]
    assert numbers[0] == 8
    assert set(numbers) <= {8, 51}
    assert len(suggested) == finding["total"]["train"] == len(numbers)
    assert all(labels[row - 1] != name for row, name in zip(numbers, suggested, strict=True))
    shown = lpft("check", *options, "--label-errors").out
    first = f"train {numbers[0]}: '{labels[numbers[0] - 1]}', rather '{suggested[0]}': "
    assert f"    {first}'{texts[numbers[0] - 1]}" in shown


def test_the_estimator_says_it_in_python(rows, tiny_bert, caplog):
    with caplog.at_level(logging.WARNING):
        clf = TextClassifier(str(tiny_bert), method="lp", pooling="mean")
        clf.fit(rows["text"].tolist(), rows["label"].tolist())
    assert clf.tokenizer_.model_max_length == 64
    named = {finding.kind: dict(finding.rows) for finding in clf.findings_}
    assert named["duplicates"] == {"train": [71]}
    logged = "\n".join(caplog.messages)
    assert "(row 71 of train)" in logged
    assert "--" not in logged
    assert not any("--" in finding.message for finding in clf.findings_)
    assert SECRET not in logged
