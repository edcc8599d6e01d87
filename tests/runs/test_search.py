"""Grid search: the best point by validation, ties to the first, on problems whose best is known."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from toy_files import toy_data, write_toy_file

from lpft.data import fingerprint, load_task
from lpft.errors import InputError
from lpft.report import build_report
from lpft.runs import sweep as sweeps
from lpft.runs.sweep import train_sweep
from lpft.runs.sweep_config import read_sweep_config

TOO_SMALL, GOOD, DIVERGING = 1e-9, 5e-3, 1e6


@pytest.fixture
def sweep(tiny_bert, tmp_path):
    """Read a sweep over toy data of 160 rows, whose first word is the label."""
    files = toy_data(tmp_path / "data")
    files["train_file"] = str(write_toy_file(tmp_path / "data/more.csv", 160, 9))

    def read(**changes):
        described = {
            "tasks": [{"name": "toy", **files}],
            "models": [str(tiny_bert)],
            "methods": ["lp", "ft"],
            "seeds": [0, 1],
            "settings": {"max_length": 16, "epochs": 3, "batch_size": 8, "device": "cpu"},
            **changes,
        }
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")
        return read_sweep_config(path)

    return read


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def validation_accuracy(run: Path) -> float:
    frame = pd.read_parquet(run / "predictions/validation.parquet")
    return float(np.mean(np.stack(frame["logits"]).argmax(axis=1) == frame["label"]))


def rates(folder: Path) -> dict[str, float | None]:
    return {
        path.parent.name: read(path)["config"]["learning_rate"]
        for path in folder.glob("runs/*/*/run.json")
    }


@pytest.mark.heavy
def test_every_seed_is_trained_at_the_point_that_validates_best(sweep, tmp_path):
    tried = [TOO_SMALL, GOOD, DIVERGING]
    found = sweep(grid={"learning_rate": tried, "seed": 5})
    result = train_sweep(found, tmp_path / "D")
    assert not result.failed
    assert rates(tmp_path / "D") == {
        "lp-bert-seed0": None,
        "lp-bert-seed1": None,
        "ft-bert-seed0": GOOD,
        "ft-bert-seed1": GOOD,
    }
    record = read(tmp_path / "D/search/search.json")
    assert record["seed"] == 5
    (cell,) = record["cells"]
    assert (cell["task"], cell["method"], cell["metric"]) == ("toy", "ft", "accuracy")
    assert cell["chosen"] == {"learning_rate": GOOD}
    assert [point["settings"]["learning_rate"] for point in cell["points"]] == tried
    points = found.points(tmp_path / "D")["toy/ft-bert"]
    scores = [validation_accuracy(point.config.output_dir) for point in points[:2]]
    assert [point["score"] for point in cell["points"]] == [*scores, None]
    # what the words decide is learnt at the good rate alone
    assert scores[1] > 0.9 > 0.7 > scores[0]
    assert "diverged" in cell["points"][2]["reason"]
    for point in points[:2]:
        assert not (point.config.output_dir / "model.safetensors").exists()
    assert (tmp_path / "D/runs/toy/ft-bert-seed0/model.safetensors").exists()

    report = build_report(tmp_path / "D")
    assert {Path(run.name).name for run in report.runs} == set(rates(tmp_path / "D"))
    assert report.unread == ()
    assert len(build_report(tmp_path / "D/search").runs) == 2


@pytest.fixture
def pretend(monkeypatch):
    """Let runs end with the score that a function of their configuration gives, None for a failure.

    Gives the configurations in the order in which they were trained.
    """

    def with_scores(score_of):
        calls = []

        def pretended(config, **_):
            calls.append(config)
            score = score_of(config)
            if score is None:
                raise ValueError("no score")
            write_run(config, score)

        monkeypatch.setattr(sweeps, "train_run", pretended)
        return calls

    monkeypatch.setattr(sweeps, "load_data", lambda _: load_task("demo"))
    return with_scores


def write_run(config, score):
    """As much of a finished run as a search reads."""
    folder = config.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    splits = {"validation": {"macro_f1": score, "accuracy": 1 - score}}
    (folder / "metrics.json").write_text(json.dumps({"temperature": 1.0, "splits": splits}))
    record = {
        "status": "finished",
        "started": "2020-01-01T00:00:00+00:00",
        "config": config.flat(),
        "data": {},
        "metric": "macro_f1",
        "files": ["metrics.json"],
        "fingerprints": {"data": fingerprint(load_task("demo"))},
    }
    (folder / "run.json").write_text(json.dumps(record))


def press_ctrl_c(_):
    raise KeyboardInterrupt


def test_the_tasks_own_metric_decides_and_of_equal_points_the_first(sweep, tmp_path, pretend):
    scores = {(1e-5, 8): 0.2, (1e-5, 16): 0.7, (5e-5, 8): 0.7, (5e-5, 16): 0.7}

    def score(config):
        return scores.get((config.training.learning_rate, config.training.batch_size))

    trained = pretend(score)
    found = sweep(
        methods=["ft"],
        settings={"max_length": 16},
        grid={"learning_rate": [1e-5, 5e-5], "batch_size": [8, 16]},
    )
    train_sweep(found, tmp_path / "D")
    (cell,) = read(tmp_path / "D/search/search.json")["cells"]
    assert cell["metric"] == "macro_f1"
    assert cell["chosen"] == {"learning_rate": 1e-5, "batch_size": 16}
    assert cell["tied"] == 3
    chosen = [(c.training.learning_rate, c.training.batch_size) for c in trained[4:]]
    assert chosen == [(1e-5, 16)] * 2
    assert [config.training.seed for config in trained] == [0, 0, 0, 0, 0, 1]


def test_a_cell_of_which_no_point_could_be_trained_fails_alone(sweep, tmp_path, pretend):
    pretend(lambda config: 0.5 if config.training.method == "lora" else None)
    found = sweep(methods=["ft", "lora"], grid={"learning_rate": [1e-5, 5e-5]})
    result = train_sweep(found, tmp_path / "D")
    states = {outcome.folder.name: outcome.state for outcome in result.outcomes}
    assert states == {
        "ft-bert-seed0": "failed",
        "ft-bert-seed1": "failed",
        "lora-bert-seed0": "finished",
        "lora-bert-seed1": "finished",
    }
    for outcome in result.failed:
        assert outcome.reason.startswith("no point of the grid could be trained: unexpected Value")
        assert read(outcome.folder / "run.json")["reason"] == outcome.reason


def test_a_search_that_was_stopped_goes_on_where_it_was(sweep, tmp_path, pretend):
    def stopped(config):
        return press_ctrl_c(config) if config.training.learning_rate == 5e-5 else 0.5

    found = sweep(methods=["ft"], grid={"learning_rate": [1e-5, 5e-5, 1e-4]})
    pretend(stopped)
    with pytest.raises(KeyboardInterrupt):
        train_sweep(found, tmp_path / "D")
    trained = pretend(lambda config: config.training.learning_rate)
    train_sweep(found, tmp_path / "D", resume=True)
    assert [config.training.learning_rate for config in trained] == [5e-5, 1e-4, 1e-5, 1e-5]
    assert read(tmp_path / "D/search/search.json")["cells"][0]["chosen"] == {"learning_rate": 1e-5}


@pytest.mark.heavy
def test_an_overwriting_search_that_was_stopped_goes_on_overwriting(sweep, tmp_path, pretend):
    found = sweep(methods=["ft"], seeds=1, grid={"learning_rate": [1e-5, 5e-5]})
    pretend(lambda _: 0.5)
    train_sweep(found, tmp_path / "D")
    pretend(press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        train_sweep(found, tmp_path / "D", overwrite=True)
    trained = pretend(lambda config: config.training.learning_rate)
    train_sweep(found, tmp_path / "D", resume=True)
    assert [config.training.learning_rate for config in trained] == [1e-5, 5e-5, 5e-5]


def test_a_search_of_other_settings_is_not_resumed_and_stays(sweep, tmp_path):
    how = {"methods": ["lp"], "seeds": [0], "grid": {"max_length": [8, 16]}}
    usual = sweep(**how, settings={"device": "cpu"})
    assert not train_sweep(usual, tmp_path / "D").failed
    before = {path: path.read_bytes() for path in tmp_path.glob("D/**/*.json")}
    changed = sweep(**how, settings={"class_weight": "balanced", "device": "cpu"})
    with pytest.raises(InputError, match="it was started without class_weight"):
        train_sweep(changed, tmp_path / "D", resume=True)
    assert {path: path.read_bytes() for path in tmp_path.glob("D/**/*.json")} == before
    assert not train_sweep(usual, tmp_path / "D", resume=True).failed
