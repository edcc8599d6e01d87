"""``lpft sweep`` at the command line: its plan, its tables, its JSON, its exit status."""

import json
from pathlib import Path

import pytest
import yaml
from toy_files import toy_data, toy_settings


@pytest.fixture
def described(tiny_bert, tmp_path):
    """A sweep of three runs of linear probing, to be changed."""
    settings = toy_settings(tiny_bert, "lp")
    return {
        "tasks": [{"name": "toy", **toy_data(tmp_path / "data")}],
        "models": [settings.pop("model")],
        "methods": [settings.pop("method")],
        "seeds": 3,
        "settings": {**settings, "save-model": False},
    }


@pytest.fixture
def write(tmp_path):
    def written(values) -> Path:
        path = tmp_path / "toys.yaml"
        path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        return path

    return written


def rows(out: str) -> dict[str, list[str]]:
    """Lines of a table by their first word."""
    return {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}


def test_a_sweep_from_its_plan_to_its_report(lpft, described, write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(described)
    runs = [f"runs/toy/lp-bert-seed{seed}" for seed in range(3)]

    plan = lpft("sweep", path, "--dry-run")
    assert plan.status == 0, plan.err
    assert [name for name in rows(plan.out) if name != "run"] == runs
    assert not (tmp_path / "sweeps").exists()

    outcome = lpft("sweep", path)
    assert outcome.status == 0, outcome.err
    table = rows(outcome.out)
    assert [table[name][1] for name in runs] == ["finished"] * 3
    folder = Path("sweeps/toys")
    last = outcome.out.splitlines()[-1]
    assert last == f"sweep: {folder} (lpft report {folder} makes its report)"
    told = [line for line in outcome.err.splitlines() if " of 3: " in line]
    assert [line.partition(" finished in ")[0] for line in told] == [
        f"{number} of 3: {name}" for number, name in enumerate(runs, start=1)
    ]
    assert told[0].endswith("s left")
    assert told[2].endswith("; none left")
    assert not list(folder.rglob("model.safetensors"))

    assert lpft("report", folder).status == 0

    planned = json.loads(lpft("sweep", path, "--dry-run", "--json").out)
    assert [(run["run"], run["seed"], run["state"]) for run in planned] == [
        (name, seed, "finished") for seed, name in enumerate(runs)
    ]
    again = lpft("sweep", path)
    assert again.status == 2
    assert again.err.count("\n") == 1
    assert "--resume" in again.err
    resumed = lpft("sweep", path, "--resume", "--json")
    assert resumed.status == 0
    found = json.loads(resumed.out)
    assert (found["folder"], found["search"]) == (str(folder), None)
    assert [(run["folder"], run["state"]) for run in found["runs"]] == [
        (str(folder / name), "skipped") for name in runs
    ]


def test_a_failed_run_is_in_the_table_and_the_status_is_1(lpft, described, write, tmp_path):
    described["tasks"].append({"name": "gone", "train_file": str(tmp_path / "gone.csv")})
    described["seeds"] = 1
    folder = tmp_path / "out"
    outcome = lpft("sweep", write(described), "--output-dir", folder)
    assert outcome.status == 1
    table = rows(outcome.out)
    assert table["runs/toy/lp-bert-seed0"][1] == "finished"
    assert table["runs/gone/lp-bert-seed0"][1] == "failed"
    assert str(tmp_path / "gone.csv") in outcome.out
    assert outcome.err.splitlines()[-1].startswith("error: 1 of 2 runs failed")
    again = lpft("sweep", write(described), "--output-dir", folder, "--resume", "--json")
    assert again.status == 1
    assert [run["state"] for run in json.loads(again.out)["runs"]] == ["skipped", "failed"]


def test_a_grid_is_in_the_plan_and_its_choice_is_shown(lpft, described, write, tmp_path):
    described |= {"methods": ["lp", "ft"], "seeds": [4], "grid": {"learning_rate": [1e-3, 1e-2]}}
    described["settings"] |= {"epochs": 1, "batch_size": 8}
    path, folder = write(described), tmp_path / "out"
    planned = json.loads(lpft("sweep", path, "--output-dir", folder, "--dry-run", "--json").out)
    assert {run["run"]: run["learning_rate"] for run in planned} == {
        "search/runs/toy/ft-bert-learning-rate0.001-seed4": 0.001,
        "search/runs/toy/ft-bert-learning-rate0.01-seed4": 0.01,
        "runs/toy/lp-bert-seed4": None,
        "runs/toy/ft-bert-seed4": "best of the search",
    }
    outcome = lpft("sweep", path, "--output-dir", folder)
    assert outcome.status == 0, outcome.err
    (cell,) = json.loads((folder / "search/search.json").read_text())["cells"]
    chosen = f"learning_rate {cell['chosen']['learning_rate']} (accuracy "
    assert any(line.startswith("toy ") and chosen in line for line in outcome.out.splitlines())
    found = json.loads(lpft("sweep", path, "--output-dir", folder, "--resume", "--json").out)
    assert found["search"]["cells"] == [cell]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--executor", "cluster"), "expected one of local, ray"),
        (("--workers", "0"), "--workers 0 must be at least 1"),
        (("--workers", "two"), "--workers"),
        (("--resume", "--overwrite"), "contradict"),
    ],
)
def test_wrong_options_are_refused_before_anything_begins(
    lpft, described, write, tmp_path, options, named
):
    outcome = lpft("sweep", write(described), "--output-dir", tmp_path / "out", *options)
    assert outcome.status == 2
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1
    assert named in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_wrong_file_is_refused_with_its_place(lpft, described, write, tmp_path):
    described["settings"]["epoch"] = 3
    outcome = lpft("sweep", write(described), "--output-dir", tmp_path / "out")
    assert outcome.status == 2
    assert f"'{tmp_path / 'toys.yaml'}': settings: unknown setting 'epoch'" in outcome.err
