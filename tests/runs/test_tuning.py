"""A search for settings: what it tries, that it goes on as it would have, and what it keeps."""

import json
import sys

import pytest
from toy_files import toy_data, toy_settings

from lpft.errors import InputError
from lpft.results.schema import CandidateRecord
from lpft.runs import selection as module
from lpft.runs.selection import EPOCH_RANGE, RATE_RANGES, train_selection, trials
from lpft.runs.train import train_run
from lpft.settings.configs import make_selection
from lpft.settings.methods import METHODS


@pytest.fixture(scope="module")
def settings(tiny_bert, tmp_path_factory):
    """What leaves the learning rate open, and ends every training after an epoch or two."""
    training = toy_settings(tiny_bert) | {"tune": 4, "patience": 1, "save_model": False}
    del training["learning_rate"], training["epochs"]
    return toy_data(tmp_path_factory.mktemp("data")) | training


def selection(folder):
    return json.loads((folder / "run.json").read_text())["selection"]


@pytest.fixture(scope="module")
def searched(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tuned"
    return train_selection(make_selection(settings, folder)).folder


def test_the_first_trial_has_the_defaults_and_the_others_stay_within_the_ranges(searched):
    first, *others = selection(searched)["candidates"]
    assert first["settings"] == {}
    assert [one["folder"] for one in others] == [f"candidates/trial-{k}" for k in (2, 3, 4)]
    low, high = RATE_RANGES["all"]
    for one in others:
        assert low <= one["settings"]["learning_rate"] <= high
        assert EPOCH_RANGE[0] <= one["settings"]["epochs"] <= EPOCH_RANGE[1]
        assert one["settings"]["epochs"].is_integer()
        config = json.loads((searched / one["folder"] / "run.json").read_text())["config"]
        assert config.items() >= one["settings"].items()
    assert len({one["settings"]["learning_rate"] for one in others}) == 3


def test_the_best_trial_is_kept(searched):
    best = max(selection(searched)["candidates"], key=lambda one: (one["score"], -one["nll"]))
    assert selection(searched)["chosen"] == best["folder"]
    config = json.loads((searched / "run.json").read_text())["config"]
    assert config.items() >= best["settings"].items()


def test_a_search_that_was_stopped_tries_the_same(searched, settings, tmp_path, monkeypatch):
    made = 0

    def two_runs(*arguments, **keywords):
        nonlocal made
        if made == 2:
            raise KeyboardInterrupt
        made += 1
        return train_run(*arguments, **keywords)

    config = make_selection(settings, tmp_path / "tuned")
    with monkeypatch.context() as patch:
        patch.setattr(module, "train_run", two_runs)
        with pytest.raises(KeyboardInterrupt):
            train_selection(config)
    train_selection(config, resume=True)

    def tried(folder):
        return [(one["settings"], one["score"]) for one in selection(folder)["candidates"]]

    assert tried(tmp_path / "tuned") == tried(searched)


def test_what_is_tried_depends_on_earlier_trials_alone(settings):
    config = make_selection(settings | {"tune": 9})
    finished, first = [], []
    for name, method, changes in trials(config, lambda: finished):
        first.append((name, method, changes))
        score = [0.5, 0.9, 0.6, 0.7, 0.8, 0.55, 0.95, 0.65, 0.75][len(finished)]
        folder = f"candidates/{name}"
        finished.append(
            CandidateRecord(method=method, seed=0, folder=folder, settings=changes, score=score)
        )
    assert list(trials(config, lambda: finished)) == first
    assert list(trials(config, lambda: finished[::-1])) == first


def searched_in_batches(config, scores, finished):
    """The trials of a search whose batches score as ``scores`` says, after ``finished`` ones."""
    asked = []
    for name, method, changes in trials(config, lambda: finished):
        asked.append((name, method, changes))
        folder = f"candidates/{name}"
        if len(asked) % config.selection.workers == 0 or len(asked) == config.selection.tune:
            for number in range(len(finished), len(asked)):
                one, of, settings = asked[number]
                finished.append(
                    CandidateRecord(
                        method=of,
                        seed=0,
                        folder=folder.replace(name, one),
                        settings=settings,
                        score=scores[number],
                    )
                )
    return asked


@pytest.mark.parametrize("workers", [2, 3, 20])
def test_a_batch_is_chosen_by_the_batches_before_it_alone(settings, workers):
    config = make_selection(settings | {"tune": 11, "workers": workers})
    scores = [0.5, 0.9, 0.6, 0.7, 0.8, 0.55, 0.95, 0.65, 0.75, 0.4, 0.85]
    finished = []
    asked = searched_in_batches(config, scores, finished)
    rates = [changes.get("learning_rate") for _, _, changes in asked]
    assert len(set(rates)) == 11, "those of a batch differ"
    # A search that was stopped within a batch asks for the same, whatever has finished of it.
    for done in (1, 4, 7, 10):
        assert searched_in_batches(config, scores, finished[:done][::-1]) == asked
    last = workers * (10 // workers)  # the first of the last batch
    other = [*scores[:last], *(1 - score for score in scores[last:])]
    assert searched_in_batches(config, other, []) == asked


@pytest.mark.parametrize("method", ["lp-ft", pytest.param("auto", marks=pytest.mark.heavy)])
def test_batches_train_elsewhere_and_score_as_here(settings, tmp_path, monkeypatch, method):
    asked = settings | {"method": method, "tune": 3, "workers": 2, "epochs": 1}
    names = []

    def execute(function, tasks):
        names.append([task.config.output_dir.name for task in tasks])
        for number in reversed(range(len(tasks))):
            yield number, function(tasks[number])

    with monkeypatch.context() as patch:
        patch.setattr(module, "get_executor", lambda *_: execute)
        folder = train_selection(make_selection(asked, tmp_path / "batches")).folder
    assert names == [["trial-1", "trial-2"], ["trial-3"]]
    found = selection(folder)
    assert [one["folder"][-1] for one in found["candidates"]][-3:] == ["1", "2", "3"]
    scores = [one["score"] for one in found["candidates"]]
    assert found["chosen"] in [one["folder"] for one in found["candidates"]]
    if method == "lp-ft":
        assert found["chosen"] == found["candidates"][scores.index(max(scores))]["folder"]
        return
    # What a process that died left undone is trained here.
    with monkeypatch.context() as patch:
        dead = lambda _, tasks: ((number, None) for number in range(len(tasks)))  # noqa: E731
        patch.setattr(module, "get_executor", lambda *_: dead)
        again = train_selection(make_selection(asked, tmp_path / "again")).folder
    assert [one["score"] for one in selection(again)["candidates"]] == scores


def test_workers_without_a_search_are_refused(settings):
    for wrong in ({"workers": 2}, {"executor": "ray"}):
        with pytest.raises(InputError, match="is for tune"):
            make_selection(settings | {"tune": 0, "seeds": 2, **wrong})


def test_with_auto_the_method_is_searched_and_linear_probing_competes(settings, tmp_path):
    asked = settings | {"method": "auto", "tune": 5, "epochs": 1}
    folder = train_selection(make_selection(asked, tmp_path / "auto")).folder
    first, *others = selection(folder)["candidates"]
    assert first["method"] == "lp"
    assert len(others) == 5
    assert {one["method"] for one in others} <= {"lp-ft", "lora", "ft"}
    for one in others[1:]:
        kind = "all" if METHODS[one["method"]].adapter is None else "adapter"
        assert set(one["settings"]) == {"learning_rate"}  # epochs are given
        assert RATE_RANGES[kind][0] <= one["settings"]["learning_rate"] <= RATE_RANGES[kind][1]
    methods = [one["method"] for one in selection(folder)["standings"]]
    assert len(methods) == len(set(methods))


def test_nothing_to_search_and_a_missing_package_are_refused(settings, tmp_path, monkeypatch):
    asked = settings | {"epochs": 1, "learning_rate": 1e-3}
    with pytest.raises(InputError, match="nothing to search"):
        make_selection(asked)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"lpft\[tune\]"):
        train_selection(make_selection(settings, tmp_path / "missing"))
    assert not (tmp_path / "missing").exists()
