"""Predictions as a job: columns, the most probable classes, files that are stopped and resumed."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from filelock import FileLock

ROWS = 3400  # of four chunks


@pytest.fixture
def run(trained_runs):
    return trained_runs("lp")


@pytest.fixture(scope="session")
def big(tmp_path_factory):
    """Rows of several lengths; one in seventeen has no text."""
    path = tmp_path_factory.mktemp("big") / "big.jsonl"
    words = ("good", "bad", "film", "table", "very", "not", "the", "a")
    with path.open("w") as file:
        for row in range(ROWS):
            text = " ".join(words[(row * step) % 8] for step in range(1, 2 + row % 9))
            columns = {"id": f"r{row}", "text": None if row % 17 == 3 else text}
            file.write(json.dumps(columns | ({"more": row} if row % 2 else {})) + "\n")
    return path


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def small(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# What a row of the output has


def test_columns_are_kept_as_asked(lpft, run, tmp_path):
    rows = [
        {"id": 1, "text": "good film", "meta": {"lang": "en"}},
        {"text": "bad", "id": None, "x": [1]},
    ]
    path = small(tmp_path / "a.jsonl", *rows)

    def kept(*options):
        outcome = lpft("predict", run, "--file", path, *options)
        assert outcome.status == 0, outcome.err
        own = ("label", "probabilities")
        return [{k: v for k, v in row.items() if k not in own} for row in lines(outcome.out)]

    assert kept() == kept("--keep-columns", "none") == [{}, {}]
    assert kept("--keep-columns", "all") == rows
    assert kept("--keep-columns", "id,meta.lang") == [
        {"id": 1, "meta.lang": "en"},
        {"id": None, "meta.lang": None},
    ]
    out = tmp_path / "out.csv"
    kept_in_csv = ("id", "text", "meta", "x")
    lpft("predict", run, "--file", path, "--keep-columns", "all", "--output", out)
    found = table(out)
    assert [[row[name] for name in kept_in_csv] for row in found] == [
        ["1", "good film", '{"lang": "en"}', ""],
        ["", "bad", "", "[1]"],
    ]
    assert list(found[0])[:5] == [*kept_in_csv, "label"]


def test_a_column_with_the_name_of_one_of_ours_loses_nothing(lpft, run, tmp_path):
    row = {"text": "good", "label": "mine", "input_label": "too", "probability_good": 1, "row": 9}
    path = small(tmp_path / "a.jsonl", row)
    out = tmp_path / "out.csv"
    keep = ("--file", path, "--keep-columns", "all")
    (found,) = lines(lpft("predict", run, *keep, "--invalid-rows", "skip").out)
    assert (found["input_input_label"], found["input_label"]) == ("mine", "too")
    assert (found["input_row"], found["row"], found["probability_good"]) == (9, 1, 1)
    lpft("predict", run, *keep, "--output", out)
    (cells,) = table(out)
    assert (cells["input_input_label"], cells["input_label"]) == ("mine", "too")
    assert cells["input_probability_good"] == "1"
    assert float(cells["probability_good"]) == found["probabilities"]["good"]


def test_the_most_probable_classes_alone(lpft, run, tmp_path):
    path = small(tmp_path / "a.jsonl", {"text": "good"}, {"text": None}, {"text": "bad film"})
    mark = ("--file", path, "--invalid-rows", "mark", "--abstain-below", "0.9")
    every = lines(lpft("predict", run, *mark).out)
    for k in (1, 2):
        top = lines(lpft("predict", run, *mark, "--top-k", k).out)
        out = tmp_path / f"{k}.csv"
        lpft("predict", run, *mark, "--top-k", k, "--output", out)
        for row, short, cells in zip(every, top, table(out), strict=True):
            assert short["label"] == row["label"]
            assert list(cells)[1] == "label"
            assert list(cells)[-2:] == ["abstained", "reason"]
            if row["probabilities"] is None:
                assert short["probabilities"] is None
                assert {cells[f"class_{rank}"] for rank in range(1, k + 1)} == {""}
                continue
            ordered = sorted(row["probabilities"].items(), key=lambda item: -item[1])[:k]
            assert list(short["probabilities"].items()) == ordered
            for rank, (name, probability) in enumerate(ordered, start=1):
                assert cells[f"class_{rank}"] == name
                assert float(cells[f"probability_{rank}"]) == probability


def test_rows_without_a_column_in_the_second_half_of_a_file_are_marked_or_named(
    lpft, run, tmp_path
):
    rows = [{"text": "good"}] * 1500 + [{"other": "bad"}] * 1500
    path = small(tmp_path / "a.jsonl", *rows)
    outcome = lpft("predict", run, "--file", path)
    assert (outcome.status, outcome.out) == (2, "")
    assert "no text in rows 1501, 1502" in outcome.err
    assert "--invalid-rows mark or skip" in outcome.err
    out = tmp_path / "out.csv"
    options = ("--file", path, "--invalid-rows", "mark", "--output", out)
    assert lpft("predict", run, *options).status == 0
    found = table(out)
    assert [row["reason"] == "" for row in found] == [True] * 1500 + [False] * 1500
    assert found[-1]["other"] == "bad"


def test_nested_columns_of_training_are_those_of_predict_and_evaluate(
    lpft, tiny_bert, tmp_path, kernel_data
):
    frame = pd.read_csv(kernel_data / "train.csv")
    rows = [
        {"data": {"text": text}, "meta": {"label": label}}
        for text, label in zip(frame["text"], frame["label"], strict=True)
    ]
    path = small(tmp_path / "nested.jsonl", *rows)
    (tmp_path / "array.json").write_text(json.dumps(rows, indent=1))
    train = ("train", "--model", tiny_bert, "--method", "lp", "--max-length", "32")
    nested = ("--text-columns", "data.text", "--label-column", "meta.label")
    for name, files in {
        "nested": ("--train-file", path, *nested),
        "flat": ("--train-file", kernel_data / "train.csv"),
    }.items():
        outcome = lpft(*train, *files, "--output-dir", tmp_path / name)
        assert outcome.status == 0, outcome.err
    flat = lpft("predict", tmp_path / "flat", "--file", kernel_data / "train.csv").out
    for file in (path, tmp_path / "array.json"):
        assert lpft("predict", tmp_path / "nested", "--file", file).out == flat
    metrics = [
        json.loads(lpft("evaluate", tmp_path / name, "--file", file, "--json").out)["splits"]
        for name, file in (("nested", path), ("flat", kernel_data / "train.csv"))
    ]
    assert metrics[0]["nested"] == metrics[1]["train"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_files_and_lines_in_other_encodings(lpft, run, tmp_path, encoding):
    texts = ["good caf\xe9", "b\xe4d film"]
    by_text = lpft("predict", run, "--text", *texts).out
    path = tmp_path / "a.csv"
    path.write_bytes(("id;text\n" + "".join(f"1;{text}\n" for text in texts)).encode(encoding))
    named = ("--encoding", encoding, "--delimiter", ";")
    assert lpft("predict", run, "--file", path, *named).out == by_text
    stdin = "\n".join(texts).encode(encoding)
    assert lpft("predict", run, "--encoding", encoding, stdin=stdin).out == by_text
    unnamed = lpft("predict", run, "--file", path, "--delimiter", ";")
    assert unnamed.status == 2
    assert "--encoding" in unnamed.err
    other = lpft("predict", run, "--file", path, "--encoding", encoding)
    assert other.status == 2
    assert "separated by semicolons" in other.err
    assert "--delimiter ';'" in other.err


# Files that are stopped and resumed


@pytest.fixture
def job(lpft, run, big, tmp_path, monkeypatch):
    """Predict ``big`` into a file, stopped by an exception in chunk ``stop``."""
    import lpft.runs.prediction_job as module

    monkeypatch.setattr(module, "_SECONDS_BETWEEN_RECORDS", 0.0)
    predict_together = module.predict_together

    def start(name, *options, stop=None, with_=KeyboardInterrupt, file=big, folder=run):
        remaining = iter(range(stop if stop is not None else 10**6))

        def stopped(*arguments, **keywords):
            if next(remaining, None) is None:
                raise with_
            return predict_together(*arguments, **keywords)

        monkeypatch.setattr(module, "predict_together", stopped)
        output = tmp_path / name
        return lpft("predict", folder, "--file", file, "--output", output, *options)

    return start


OPTIONS = {
    "mark.csv": ("--invalid-rows", "mark", "--top-k", "1", "--abstain-below", "0.7"),
    "skip.jsonl": ("--invalid-rows", "skip", "--keep-columns", "id"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_stopped_job_goes_on_to_the_same_file(job, tmp_path, name):
    options = OPTIONS[name]
    whole = job(f"whole-{name}", *options)
    assert whole.status == 0, whole.err
    expected = (tmp_path / f"whole-{name}").read_bytes()
    assert len(expected.splitlines()) in (ROWS + 1, ROWS - ROWS // 17)

    for stop in (2, 1):
        stopped = job(name, *options, *(() if stop == 2 else ("--resume",)), stop=stop)
        assert stopped.status == 130
        assert not (tmp_path / name).exists()
    assert "3,000 rows are kept" in stopped.err
    assert (tmp_path / f"{name}.partial").is_dir()
    finished = job(name, *options, "--resume")
    assert finished.status == 0, finished.err
    assert (tmp_path / name).read_bytes() == expected
    assert {path.name for path in tmp_path.iterdir()} == {f"whole-{name}", name}
    assert "400 rows in" in finished.err
    if name == "skip.jsonl":
        for outcome in (whole, finished):
            assert "no prediction for rows 4, 21, 38" in outcome.err


def test_what_was_not_recorded_is_predicted_again(job, tmp_path):
    assert job("whole.csv", "--invalid-rows", "mark").status == 0
    job("x.csv", "--invalid-rows", "mark", stop=2)
    with (tmp_path / "x.csv.partial/rows.unfinished").open("ab") as file:
        file.write(b"half of a li")
    assert job("x.csv", "--invalid-rows", "mark", "--resume").status == 0
    assert (tmp_path / "x.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.heavy
def test_a_killed_process_loses_nothing_that_was_recorded(run, big, tmp_path):
    output = tmp_path / "x.csv"
    command = [sys.executable, "-m", "lpft", "predict", str(run), "--file", str(big)]
    command += ["--invalid-rows", "mark", "--output"]
    subprocess.run([*command, str(tmp_path / "whole.csv")], check=True, capture_output=True)
    record = tmp_path / "x.csv.partial/job.json"
    process = subprocess.Popen([*command, str(output)], stderr=subprocess.PIPE)
    while process.poll() is None:
        if record.exists() and json.loads(record.read_text())["counts"]["rows"] > 0:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.01)
    process.communicate()
    if not output.exists():  # it was killed before its end
        subprocess.run([*command, str(output), "--resume"], check=True, capture_output=True)
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not record.parent.exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--invalid-rows", "skip"), "--invalid-rows was mark, now skip"),
        (("--top-k", "1"), "--top-k was not given, now 1"),
        (("--keep-columns", "id"), "--keep-columns was all, now id"),
        (("--abstain-below", "0.5"), "--abstain-below was not given, now 0.5"),
        (("--text-columns", "id"), "--text-columns was text, now id"),
        (("--encoding", "latin-1"), "--encoding was not given, now latin-1"),
    ],
)
def test_another_job_is_not_resumed(job, tmp_path, options, named):
    first = ("--invalid-rows", "mark")
    job("x.jsonl", *first, stop=1)
    before = (tmp_path / "x.jsonl.partial/rows.unfinished").read_bytes()
    outcome = job("x.jsonl", *first, "--resume", *options)
    assert outcome.status == 2
    assert named in outcome.err
    assert outcome.err.count("\n") == 1
    assert (tmp_path / "x.jsonl.partial/rows.unfinished").read_bytes() == before


def test_another_input_or_model_is_not_resumed(job, run, trained_runs, big, tmp_path):
    mark = ("--invalid-rows", "mark")
    copy = tmp_path / "copy.jsonl"
    shutil.copy(big, copy)
    job("x.jsonl", *mark, stop=1, file=copy)
    with copy.open("a") as file:
        file.write('{"id": "new", "text": "one more"}\n')
    outcome = job("x.jsonl", *mark, "--resume", file=copy)
    assert outcome.status == 2
    assert "the input" in outcome.err
    assert "has changed" in outcome.err
    moved = shutil.copytree(run, tmp_path / "moved")
    other = job("x.jsonl", *mark, "--resume", folder=trained_runs("lp-ft"))
    assert other.status == 2
    assert "the model was that of" in other.err
    # the same file and the same model elsewhere are the same job
    assert job("x.jsonl", *mark, "--resume", file=big, folder=moved).status == 0


def test_unfinished_predictions_are_neither_mixed_up_nor_overwritten(job, tmp_path):
    mark = ("--invalid-rows", "mark")
    assert job("whole.csv", *mark).status == 0
    job("x.csv", *mark, stop=2)
    folder = tmp_path / "x.csv.partial"
    again = job("x.csv", *mark)
    assert again.status == 2
    assert "x.csv.partial' has predictions of a job that has not finished" in again.err
    both = job("x.csv", *mark, "--resume", "--overwrite")
    assert both.status == 2
    assert "contradict" in both.err
    (tmp_path / "x.csv").write_text("mine")
    mine = job("x.csv", *mark, "--resume")
    assert mine.status == 2
    assert "was written meanwhile" in mine.err
    assert (tmp_path / "x.csv").read_text() == "mine"
    (tmp_path / "x.csv").unlink()
    with FileLock(folder / ".lock"):
        busy = job("x.csv", *mark, "--resume")
    assert busy.status == 2
    assert "another process is predicting into" in busy.err
    content = bytearray((folder / "rows.unfinished").read_bytes())
    content[100] ^= 1
    (folder / "rows.unfinished").write_bytes(content)
    damaged = job("x.csv", *mark, "--resume")
    assert damaged.status == 2
    assert "is damaged" in damaged.err
    (folder / "job.json").write_text("{")
    damaged = job("x.csv", *mark, "--resume")
    assert damaged.status == 2
    assert "job.json' is damaged" in damaged.err
    assert job("x.csv", *mark, "--overwrite").status == 0
    assert (tmp_path / "x.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not folder.exists()
    done = job("x.csv", *mark, "--resume")
    assert done.status == 2
    assert "exists and is finished" in done.err


def test_a_job_that_was_to_replace_a_file_does_so_when_resumed(job, tmp_path):
    (tmp_path / "x.csv").write_text("old")
    job("x.csv", "--invalid-rows", "mark", "--overwrite", stop=1)
    assert (tmp_path / "x.csv").read_text() == "old"
    assert job("x.csv", "--invalid-rows", "mark", "--resume").status == 0
    assert len(table(tmp_path / "x.csv")) == ROWS


def test_a_folder_of_another_kind_beside_the_output_is_left_alone(job, tmp_path):
    folder = tmp_path / "x.csv.partial"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    outcome = job("x.csv", "--invalid-rows", "mark", "--overwrite")
    assert outcome.status == 2
    assert "mine.txt" in outcome.err
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


def test_a_full_disk_keeps_what_was_predicted(job, tmp_path, monkeypatch):
    import lpft.runs.prediction_job as module

    mark = ("--invalid-rows", "mark")
    assert job("whole.csv", *mark).status == 0
    add, calls = module._GrowingFile.add, []

    def full(self, text, chunk):
        calls.append(len(chunk))
        if len(calls) > 3:
            self._file.write(text.encode()[:100])
            raise OSError(28, os.strerror(28))
        add(self, text, chunk)

    monkeypatch.setattr(module._GrowingFile, "add", full)
    outcome = job("x.csv", *mark)
    assert outcome.status == 2
    assert "x.csv' cannot be written (No space left on device): make room" in outcome.err
    assert "2,000 rows are kept" in outcome.err
    monkeypatch.setattr(module._GrowingFile, "add", add)
    assert job("x.csv", *mark, "--resume").status == 0
    assert (tmp_path / "x.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_an_input_that_is_written_meanwhile_is_refused(lpft, run, big, tmp_path, monkeypatch):
    import lpft.runs.prediction_job as module

    copy = tmp_path / "copy.jsonl"
    shutil.copy(big, copy)
    predict_together = module.predict_together

    def growing(*arguments, **keywords):
        with copy.open("a") as file:
            file.write('{"text": "more"}\n')
        return predict_together(*arguments, **keywords)

    monkeypatch.setattr(module, "predict_together", growing)
    options = ("--file", copy, "--invalid-rows", "mark", "--output", tmp_path / "x.csv")
    outcome = lpft("predict", run, *options)
    assert outcome.status == 2
    assert "was changed while it was read" in outcome.err
    assert not (tmp_path / "x.csv").exists()


def test_predictions_of_lines_go_into_a_file_whole_or_not_at_all(lpft, run, tmp_path):
    output = tmp_path / "x.jsonl"
    failed = lpft("predict", run, "--output", output, stdin=b"good\n" * 100 + b"\n")
    assert failed.status == 2
    assert list(tmp_path.iterdir()) == []
    assert lpft("predict", run, "--output", output, stdin=b"good\n" * 100).status == 0
    assert len(lines(output.read_text())) == 100
    assert list(tmp_path.iterdir()) == [output]


def test_another_backend_is_not_called_another_model():
    """Each library has fingerprints of its own of one model."""
    from lpft.errors import InputError
    from lpft.runs.prediction_job import JobRecord

    torch, onnx = (
        JobRecord(input="a.csv", model="run", model_sha256=name, options={"backend": name})
        for name in ("torch", "onnx")
    )
    (words,) = torch.differences(onnx)
    assert str(InputError(words)) == "backend was torch, now onnx"
