"""A search for settings: what it tries, that it goes on as it would have, and what it keeps."""

import json
import sys

import pytest
from toy_files import toy_data, toy_settings

from lpft.errors import InputError
from lpft.results.schema import CandidateRecord
from lpft.runs import selection as module
from lpft.runs.selection import train_selection
from lpft.runs.train import train_run
from lpft.runs.tuning import EPOCHS, RATES, trials
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
    low, high = RATES["all"]
    for one in others:
        assert low <= one["settings"]["learning_rate"] <= high
        assert EPOCHS[0] <= one["settings"]["epochs"] <= EPOCHS[1]
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
        assert RATES[kind][0] <= one["settings"]["learning_rate"] <= RATES[kind][1]
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
