"""Reading run folders: what counts as a run, and what is wrong with a damaged one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lpft.data.examples import UNSEEN
from lpft.errors import InputError
from lpft.report import build_report
from lpft.results.run import Predictions, find_runs, read_head_rows, write_head
from lpft.results.schema import RunMetrics, UnusableRecord, read_errors

from .run_folders import SPLITS, edit_json, write_run


def test_runs_are_found_at_any_depth_with_their_numbers(tmp_path: Path) -> None:
    write_run(tmp_path / "a" / "deep" / "ft", "ft", seed=3)
    write_run(tmp_path / "lp", "lp")
    write_run(tmp_path / ".hidden" / "ft", "ft")
    write_run(tmp_path / "lp" / "inside-a-run", "ft")
    runs, unread = find_runs(tmp_path)
    assert [run.name for run in runs] == ["a/deep/ft", "lp"]
    assert unread == ()
    run, lp = runs
    assert (run.method, run.seed, run.learning_rate, run.batch_size) == ("ft", 3, 5e-5, 16)
    assert (lp.learning_rate, lp.batch_size) == (None, None)
    record = json.loads((tmp_path / "a/deep/ft/metrics.json").read_text())
    assert run.score("test", "accuracy") == record["splits"]["test"]["accuracy"]
    calibrated = record["splits"]["ood/books"]["calibrated"]["ece"]
    assert run.score("ood/books", "ece", calibrated=True) == calibrated
    assert run.ood_splits == ("ood/books", "ood/hotels")
    assert run.feature("test", "fisher_ratio", pretrained=True) == 5.0
    assert run.head_norm("norm_at_start") == 0.55
    assert {split: len(p.labels) for split, p in run.predictions.items()} == SPLITS
    assert run.temperature == 1.7


def test_the_folder_may_be_the_run_itself(tmp_path: Path) -> None:
    write_run(tmp_path / "only")
    assert [run.name for run in find_runs(tmp_path / "only")[0]] == ["only"]


def test_probabilities_are_those_of_divided_logits(tmp_path: Path) -> None:
    write_run(tmp_path / "ft")
    found = find_runs(tmp_path)[0][0].predictions["test"]
    frame = pd.read_parquet(tmp_path / "ft" / "predictions" / "test.parquet")
    for row, logits in zip(found.probabilities(2.0), frame["logits"], strict=True):
        powers = np.exp(np.asarray(logits, dtype=float) / 2.0)
        np.testing.assert_allclose(row, powers / powers.sum(), rtol=1e-12)


def test_runs_from_before_errors_and_thresholds_are_read(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "old")
    content = json.loads((folder / "metrics.json").read_text())
    gained = ("accuracy_interval", "majority_accuracy", "per_class", "aurc")
    for scores in content["splits"].values():
        del scores["calibrated"]["aurc"]
        for name in gained:
            del scores[name]
    (folder / "metrics.json").write_text(json.dumps(content))
    (run,), unread = find_runs(tmp_path)
    assert unread == ()
    assert run.score("test", "accuracy") == content["splits"]["test"]["accuracy"]
    assert run.score("test", "aurc") is None
    assert RunMetrics.read(folder).abstention is None
    assert read_errors(folder) == ()
    build_report(tmp_path)


def test_rows_of_unseen_classes_are_kept_apart(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "ft")
    path = folder / "predictions" / "ood-books.parquet"
    frame = pd.read_parquet(path)
    labels = frame["label"].astype("Int64")
    labels[:30] = pd.NA
    frame.assign(label=labels).to_parquet(path)
    books = Predictions.read(folder, "ood/books", 3)
    assert (books.labels == UNSEEN).tolist() == [row < 30 for row in range(70)]
    assert books.known().labels.tolist() == frame["label"][30:].tolist()
    assert books.known().ids.tolist() == frame["id"][30:].tolist()


@pytest.mark.parametrize(
    ("line", "wrong"),
    [("{", "not JSON"), ('{"split": "test"}', "row"), ("[]", "not a JSON object")],
)
def test_a_damaged_line_of_errors_is_named(tmp_path: Path, line: str, wrong: str) -> None:
    good = '{"split":"test","row":1,"id":"0","label":1,"predicted":0,"confidence":0.9}'
    (tmp_path / "errors.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(UnusableRecord, match=rf"errors\.jsonl line 2.*{wrong}"):
        read_errors(tmp_path)


def written(name: str, content: bytes | str) -> Callable[[Path], Any]:
    data = content.encode() if isinstance(content, str) else content
    return lambda run: (run / name).write_bytes(data)


def edited(name: str, **changes: Any) -> Callable[[Path], Any]:
    return lambda run: edit_json(run / f"{name}.json", **changes)


def without(name: str) -> Callable[[Path], Any]:
    return lambda run: (run / name).unlink()


def predicted(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], Any]:
    def damage(run: Path) -> None:
        path = run / "predictions" / "test.parquet"
        change(pd.read_parquet(path)).to_parquet(path)

    return damage


def logits(first: list[float], others: list[float]) -> Callable[[Path], Any]:
    return predicted(lambda frame: frame.assign(logits=[first] + [others] * (len(frame) - 1)))


NO_CLASSES = {"name": "x"}
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "run.json cut off": (written("run.json", '{"status": '), "run.json is not"),
    "run.json a list": (written("run.json", "[]"), "not a JSON object"),
    "run.json not text": (written("run.json", b"\xff\xfe\x00"), "cannot be read"),
    "unknown status": (edited("run", status="odd"), "status"),
    "no status": (edited("run", status=None), "status"),
    "config a list": (edited("run", config=[1]), "run.json: config"),
    "no method": (edited("run", config={"seed": 0}), "config has no method"),
    "data without classes": (edited("run", data=NO_CLASSES), "no classes"),
    "classes a word": (edited("run", data=NO_CLASSES | {"classes": "abc"}), "data/classes"),
    "no metrics": (without("metrics.json"), "metrics.json does not exist"),
    "no splits": (edited("metrics", splits={}), "no splits"),
    "temperature 0": (edited("metrics", temperature=0), "temperature"),
    "calibrated a number": (
        edited("metrics", splits={"test": {"calibrated": 1}}),
        "calibrated of test",
    ),
    "no features": (without("features.json"), "features.json does not exist"),
    "no history": (without("history.jsonl"), "history.jsonl does not exist"),
    "history cut off": (written("history.jsonl", '{"epoch": 0}\n{"epo'), "history.jsonl line 2"),
    "no predictions": (
        without("predictions/ood-books.parquet"),
        "predictions/ood-books.parquet does not exist",
    ),
    "predictions not parquet": (
        written("predictions/test.parquet", "PAR1 or not"),
        "predictions/test.parquet cannot be read",
    ),
    "no logits": (predicted(lambda frame: frame.drop(columns="logits")), "cannot be read"),
    "ragged logits": (logits([1.0], [1.0, 2.0, 3.0]), "cannot be read"),
    "logits not finite": (logits([float("nan"), 0.0, 0.0], [0.0, 0.0, 0.0]), "not finite"),
    "unknown label": (
        predicted(lambda frame: frame.assign(label=[7, *frame["label"][1:]])),
        "outside the classes",
    ),
    "other accuracy": (
        predicted(lambda frame: frame.assign(label=(frame["label"] + 1) % 3)),
        "metrics.json: accuracy of test",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_listed_with_its_reason(tmp_path: Path, damage: str) -> None:
    write_run(tmp_path / "good", "lp-ft")
    act, reason = DAMAGES[damage]
    act(write_run(tmp_path / "bad", "ft"))
    runs, unread = find_runs(tmp_path)
    assert [run.name for run in runs] == ["good"]
    (bad,) = unread
    assert (bad.name, bad.state) == ("bad", "damaged")
    assert reason in bad.reason


@pytest.mark.parametrize("status", ["running", "failed", "interrupted"])
def test_an_unfinished_run_is_listed(tmp_path: Path, status: str) -> None:
    write_run(tmp_path / "good")
    edit_json(write_run(tmp_path / "other", "lp", status=status) / "run.json", reason="no memory")
    (other,) = find_runs(tmp_path)[1]
    assert (other.state, other.reason) == (status, "no memory")


def test_a_running_run_without_a_reason_says_what_that_means(tmp_path: Path) -> None:
    write_run(tmp_path / "other", "lp", status="running")
    assert "still at work, or killed" in find_runs(tmp_path)[1][0].reason


def test_what_a_run_did_not_record_is_a_gap(tmp_path: Path) -> None:
    run = write_run(tmp_path / "ft", history=False)
    written = json.loads((run / "run.json").read_text())
    data = {"name": "corpus", "classes": written["data"]["classes"]}
    config = {"model": "minilm", "method": "ft", "seed": 0}
    (run / "run.json").write_text(
        json.dumps({"status": "finished", "config": config, "data": data})
    )
    accuracy = json.loads((run / "metrics.json").read_text())["splits"]["test"]["accuracy"]
    edit_json(run / "metrics.json", splits={"test": {"accuracy": accuracy, "ece": "low"}})
    (run / "features.json").write_text("{}")
    (found,), _ = find_runs(tmp_path)
    assert found.score("test", "accuracy") == accuracy
    assert found.score("test", "ece") is None
    assert found.feature("test", "feature_difference") is None
    assert found.data.licence is None
    assert "not recorded" in build_report(tmp_path).page.read_text(encoding="utf-8")


def test_a_report_needs_a_finished_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no runs below .*; expected folders with run\.json"):
        build_report(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        find_runs(tmp_path / "absent")
    write_run(tmp_path / "ft", status="running")
    with pytest.raises(InputError, match=r"no finished run .* the first ft \(running"):
        build_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("bias", [True, False])
def test_the_trained_head_comes_back_as_it_was(tmp_path: Path, bias: bool) -> None:
    head = nn.Linear(5, 3, bias=bias)
    write_head(tmp_path, head)
    found = read_head_rows(tmp_path)
    assert found.dtype == np.float32
    assert torch.equal(torch.from_numpy(found), head.weight.detach())


def test_a_missing_or_damaged_head_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"head.safetensors' does not exist.*save_features"):
        read_head_rows(tmp_path)
    (tmp_path / "features").mkdir()
    (tmp_path / "features/head.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"head.safetensors' cannot be read .*train the run again"):
        read_head_rows(tmp_path)
