"""Several runs on the same data, of which one is kept: what is trained, chosen and resumed."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from toy_files import toy_data, toy_settings, write_toy_file

from lpft.analysis.selection import Candidate, choose
from lpft.errors import InputError
from lpft.report import build_report
from lpft.results.run import Predictions, find_runs
from lpft.results.schema import RunRecord, read_history
from lpft.runs import selection as module
from lpft.runs.selection import train_selection
from lpft.runs.train import train_run
from lpft.settings.configs import make_config, make_selection

TIMES = {"seconds", "started", "finished", "timings", "earlier"}


@pytest.fixture(scope="module")
def settings(tiny_bert, tmp_path_factory):
    """Toy files and a tiny model, of which validation rows are wrong enough to compete for."""
    training = toy_settings(tiny_bert) | {"method": "auto", "epochs": 2, "learning_rate": 3e-3}
    folder = tmp_path_factory.mktemp("data")
    train = write_toy_file(folder / "many.csv", 80, 0)  # enough for random heads
    return toy_data(folder) | {"train_file": str(train)} | training


@pytest.fixture(scope="module")
def chosen(settings, tmp_path_factory) -> Path:
    """The folder of a finished selection."""
    folder = tmp_path_factory.mktemp("runs") / "auto"
    return train_selection(make_selection(settings, folder)).folder


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def timeless(value):
    """A record without what depends on the clock."""
    if isinstance(value, dict):
        return {name: timeless(each) for name, each in value.items() if name not in TIMES}
    return [timeless(each) for each in value] if isinstance(value, list) else value


def content(folder: Path) -> dict:
    """Every file of a selection by name: records without their times, others as bytes."""
    files = {
        str(path.relative_to(folder)): timeless(json.loads(path.read_text()))
        if path.name == "run.json"
        else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert not [name for name in files if ".work" in name or name.endswith((".lock", ".partial"))]
    return files


def test_candidates_are_ordinary_runs_and_the_folder_has_the_files_of_the_chosen_one(
    chosen, settings, tmp_path
):
    selection = record(chosen)["selection"]
    alone = train_run(make_config(settings | {"method": "lp-ft"}, tmp_path / "alone")).folder
    candidate = chosen / "candidates/lp-ft"
    for name in ("metrics.json", "history.jsonl", "predictions/test.parquet", "model.safetensors"):
        assert (candidate / name).read_bytes() == (alone / name).read_bytes()
    assert record(candidate)["config_hash"] == record(alone)["config_hash"]

    source = chosen / selection["chosen"]
    for path in source.rglob("*"):
        if path.is_file() and path.name != "run.json":
            assert (chosen / path.relative_to(source)).read_bytes() == path.read_bytes()
    own, kept = record(chosen), record(source)
    assert (own["status"], own["config"], own["files"]) == (
        "finished",
        kept["config"],
        kept["files"],
    )
    assert "selection" not in kept


def test_the_choice_is_that_of_the_rule_on_the_candidates_own_predictions(chosen):
    selection = record(chosen)["selection"]
    candidates = []
    for entry in selection["candidates"]:
        saved = Predictions.read(chosen / entry["folder"], "validation", 2)
        right = saved.logits.argmax(1) == saved.labels
        assert entry["rows"] == len(right) == 24
        assert entry["score"] == pytest.approx(right.mean())
        assert entry["standard_error"] == pytest.approx(right.std(ddof=1) / np.sqrt(24))
        candidates.append(Candidate(entry["method"], 0, right, entry["nll"]))
    best = choose(candidates)
    assert selection["chosen"] == f"candidates/{candidates[best.chosen].method}"
    assert [one["method"] for one in selection["candidates"]][:1] == ["lp"]
    assert {one["folder"] for one in selection["decision"]} == {
        "lp",
        "contrastive",
        "lp-ft",
        "lora",
        "ft",
    }
    for decision in selection["decision"]:
        assert (chosen / "candidates" / decision["folder"]).is_dir() is decision["train"]
        assert (decision["reason"] is None) is decision["train"]


def test_commands_take_the_folder_as_any_run(lpft, chosen, settings):
    predicted = lpft("predict", chosen, "--text", "good the film")
    assert predicted.status == 0, predicted.err
    assert json.loads(predicted.out)["label"] in ("good", "bad")
    evaluated = lpft("evaluate", chosen, "--file", settings["test_file"], "--json")
    own = json.loads((chosen / "metrics.json").read_text())["splits"]["test"]
    assert json.loads(evaluated.out)["splits"]["test"]["accuracy"] == own["accuracy"]


def test_a_report_sees_the_candidates_and_not_the_copy(chosen, tmp_path):
    names = {one["folder"] for one in record(chosen)["selection"]["candidates"]}
    runs, unread = find_runs(chosen)
    assert ({run.name for run in runs}, unread) == (names, ())
    runs, unread = find_runs(chosen.parent)
    assert ({run.name for run in runs}, unread) == ({f"auto/{name}" for name in names}, ())
    # shipped without its candidates, the folder is a run of its own
    shutil.copytree(chosen, tmp_path / "alone", ignore=lambda *_: ["candidates"])
    runs, unread = find_runs(tmp_path)
    assert ([run.name for run in runs], unread) == (["alone"], ())


@pytest.mark.parametrize("calls", [0, 1, 3, "publish"])
def test_a_selection_goes_on_where_it_was_stopped(chosen, settings, tmp_path, monkeypatch, calls):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    made = 0

    def some_runs(*arguments, **keywords):
        nonlocal made
        if made == calls:
            raise KeyboardInterrupt
        made += 1
        return train_run(*arguments, **keywords)

    folder = tmp_path / "auto"
    with monkeypatch.context() as patch:
        if calls == "publish":
            patch.setattr(module, "publish", interrupted)
        else:
            patch.setattr(module, "train_run", some_runs)
        with pytest.raises(KeyboardInterrupt):
            train_selection(make_selection(settings, folder))
    assert record(folder)["status"] == "interrupted"
    train_selection(make_selection(settings, folder), resume=True)
    expected = content(chosen)
    for name, value in content(folder).items():
        assert value == expected.pop(name), name
    assert not expected


def test_the_command_resumes_with_the_settings_that_it_began_with(lpft, chosen):
    before = content(chosen)
    outcome = lpft("train", "--resume", "--output-dir", chosen, "--json")
    assert outcome.status == 0, outcome.err
    assert content(chosen) == before
    other = lpft("train", "--resume", "--output-dir", chosen, "--seeds", 2)
    assert other.status == 2
    assert "--seeds 1" in other.err
    single = lpft("train", "--resume", "--output-dir", chosen, "--method", "lp-ft")
    assert single.status == 2
    assert single.err.count("\n") == 1
    probe = lpft("train", "--resume", "--output-dir", chosen, "--method", "lp")
    assert probe.status == 2
    assert "--method auto" in probe.err  # not that lp takes no --epochs, which nobody gave


@pytest.mark.parametrize("option", ["keep-checkpoints", "save-features"])
def test_what_a_finished_selection_did_not_save_is_not_promised_on_resuming(lpft, chosen, option):
    before = content(chosen)
    outcome = lpft("train", "--resume", "--output-dir", chosen, f"--{option}")
    assert outcome.status == 2
    assert f"--{option}" in outcome.err
    assert "leave it out" in outcome.err or "leave out" in outcome.err
    assert content(chosen) == before


def test_texts_that_must_not_stay_are_named_in_the_candidates_too(chosen, settings, tmp_path):
    folder = shutil.copytree(chosen, tmp_path / "auto")
    asked = make_selection(settings | {"texts_in_report": False}, folder)
    saved = sorted(str(path.relative_to(folder)) for path in folder.rglob("errors.jsonl"))
    assert len(saved) == 1 + len(record(folder)["selection"]["candidates"])
    with pytest.raises(InputError) as refused:
        train_selection(asked, resume=True)
    assert all(name in str(refused.value) for name in saved)
    (folder / "errors.jsonl").unlink()
    with pytest.raises(InputError, match=r"candidates/lp/errors\.jsonl"):
        train_selection(asked, resume=True)
    for path in folder.rglob("errors.jsonl"):
        path.unlink()
    train_selection(asked, resume=True)
    unfinished = record(folder) | {"status": "interrupted"}
    (folder / "run.json").write_text(json.dumps(unfinished))
    train_selection(asked, resume=True)
    assert not list(folder.rglob("errors.jsonl"))


def test_overwriting_replaces_the_candidates_too(chosen, settings, tmp_path):
    folder = shutil.copytree(chosen, tmp_path / "auto")
    with pytest.raises(InputError, match="overwrite=True"):
        train_selection(make_selection(settings, folder))
    notes = write_toy_file(folder / "candidates/notes.csv", 2, 0)
    asked = settings | {"stop_after": "lp"}
    del asked["epochs"], asked["learning_rate"], asked["batch_size"]
    train_selection(make_selection(asked, folder), overwrite=True)
    assert {path.name for path in (folder / "candidates").iterdir()} == {"lp", notes.name}
    assert record(folder)["selection"]["chosen"] == "candidates/lp"
    notes.unlink()
    train_run(make_config(settings | {"method": "lp-ft"}, folder), overwrite=True)
    assert not (folder / "candidates").exists()
    assert "selection" not in record(folder)


def words_of(report):
    """The text of a page without its tags, which keep options in one line."""
    return re.sub("<[^>]+>", "", report.page.read_text())


def test_the_page_does_not_advise_the_choice_among_methods_that_was_made(settings, tmp_path):
    asked = settings | {"stop_after": "lp"}
    del asked["epochs"], asked["learning_rate"], asked["batch_size"]
    asked_of_lp = {name: asked[name] for name in asked if name != "stop_after"} | {"method": "lp"}
    folder = train_selection(make_selection(asked, tmp_path / "auto")).folder
    page = words_of(build_report(folder, output=tmp_path / "page.html"))
    assert "No other method was trained to compare it with, because of --stop-after lp." in page
    shutil.rmtree(folder / "candidates")
    page = words_of(build_report(folder, output=tmp_path / "alone.html"))
    assert "because of --stop-after lp." in page
    alone = train_run(make_config(asked_of_lp, tmp_path / "lp")).folder
    page = words_of(build_report(alone, output=tmp_path / "lp.html"))
    assert "No other method was trained to compare it with: --method auto does that." in page


def test_seeds_are_runs_of_their_own_of_which_the_best_is_kept(settings, tmp_path):
    asked = settings | {"method": "lp-ft", "seeds": 3, "seed": 4, "epochs": 1}
    folder = train_selection(make_selection(asked, tmp_path / "seeds")).folder
    entries = record(folder)["selection"]["candidates"]
    assert [(one["folder"], one["seed"]) for one in entries] == [
        (f"candidates/lp-ft-seed{seed}", seed) for seed in (4, 5, 6)
    ]
    best = max(entries, key=lambda one: (one["score"], -one["nll"]))
    assert record(folder)["selection"]["chosen"] == best["folder"]
    assert record(folder)["selection"]["reason"] == "the best of 3 runs"
    assert record(folder)["config"]["seed"] == best["seed"]
    runs, _ = find_runs(folder)
    assert {run.seed for run in runs} == {4, 5, 6}


def test_minutes_leave_out_what_would_take_longer_and_a_resumed_run_reads_that(
    settings, tmp_path, monkeypatch
):
    asked = settings | {"max_minutes": 1e-6}
    folder = train_selection(make_selection(asked, tmp_path / "few")).folder
    selection = record(folder)["selection"]
    assert [one["folder"] for one in selection["candidates"]] == ["candidates/lp"]
    assert [(one["folder"], one["train"]) for one in selection["decision"]] == [
        ("lp", True),
        ("contrastive", False),
        ("lp-ft", False),
        ("lora", False),
        ("ft", False),
    ]
    assert "minutes" in selection["decision"][2]["reason"]

    # As after a kill: what was decided is not decided again, however fast the machine is now.
    unfinished = RunRecord.read(folder)
    unfinished.updated(status="running").write(folder)
    monkeypatch.setattr(module, "_measured_seconds", lambda *_: 0.0)
    train_selection(make_selection(asked, folder), resume=True)
    assert timeless(record(folder)["selection"]) == timeless(selection)


def test_linear_probing_competes_on_the_rows_that_fine_tuning_holds_out(tiny_bert, tmp_path):
    """Its score is that of epoch 0 of LP-FT; what is kept is fitted on all rows."""
    train = write_toy_file(tmp_path / "train.csv", 400, 0)
    asked = toy_settings(tiny_bert) | {"method": "auto", "train_file": str(train)}
    asked["stop_after"] = "lp-ft"
    folder = train_selection(make_selection(asked, tmp_path / "auto")).folder
    entries = {one["method"]: one for one in record(folder)["selection"]["candidates"]}
    start = read_history(folder / "candidates/lp-ft")[0]
    assert start["epoch"] == 0
    assert entries["lp"]["score"] == pytest.approx(start["validation_accuracy"])
    assert entries["lp"]["rows"] == entries["lp-ft"]["rows"] == 40
    own = json.loads((folder / "candidates/lp/metrics.json").read_text())["splits"]["validation"]
    assert own["rows"] == 400


def test_a_candidate_that_diverges_is_left_out(settings, tmp_path):
    asked = settings | {"learning_rate": 1e30, "stop_after": "lp-ft"}
    folder = train_selection(make_selection(asked, tmp_path / "auto")).folder
    selection = record(folder)["selection"]
    assert selection["chosen"] == "candidates/lp"
    assert "diverged" in selection["candidates"][1]["reason"]
    assert [one["method"] for one in selection["standings"]] == ["lp"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"method": "lp-ft", "stop_after": "lp"}, "stop_after"),
        ({"method": "lp-ft", "max_minutes": 5}, "max_minutes"),
        ({"method": "lp", "tune": 4}, "tune"),
        ({"tune": 4, "seeds": 2}, "seeds"),
        ({"tune": 4, "stop_after": "lp"}, "stop_after"),
        ({"stop_after": "lp"}, "epochs"),
        ({"stop_after": "lp-ft", "lora_rank": 4}, "lora_rank"),
        ({"seeds": 0}, "seeds"),
        ({"seeds": 2, "seed": 2**32 - 1}, "seed 4294967296"),  # that of the second run
    ],
)
def test_what_has_no_effect_is_refused_by_name(settings, changes, named):
    values = settings | changes
    with pytest.raises(InputError, match=named):
        _ = make_selection(values) or make_config(values)


def test_one_method_and_one_seed_are_a_single_run(settings):
    assert make_selection(settings | {"method": "lp-ft"}) is None
    with pytest.raises(InputError, match="auto"):
        make_config(settings)
    with pytest.raises(InputError, match="seeds"):
        make_config(settings | {"method": "lp-ft", "seeds": 2})
