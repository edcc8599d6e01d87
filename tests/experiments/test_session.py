"""Several experiments in one command: one that ends in an error does not end the others."""

from types import SimpleNamespace

import pytest
from data.release_files import case_of

from lpft.errors import InputError
from lpft.experiments import session
from lpft.experiments.registry import RECIPES, find_recipe
from lpft.experiments.scopes import make_scope
from lpft.experiments.session import (
    NotReproduced,
    PlannedExperiment,
    check_experiments,
    run_experiments,
)

HOW = {"executor": "local", "workers": 1, "resume": False, "overwrite": False}


def planned(folder, *names, **given):
    experiments = []
    for name in names:
        recipe = find_recipe(name)
        scope = make_scope(recipe, given, folder / name, tiny=True)
        experiments.append(PlannedExperiment(recipe, scope, recipe.plan(scope)))
    return experiments


@pytest.fixture
def done(monkeypatch):
    """What experiments end with, by name: an exception is raised, anything else given back."""
    ends = {}

    def reproduce(recipe, scope, **_):
        end = ends.get(recipe.name, SimpleNamespace(folder=scope.folder))
        if isinstance(end, Exception):
            raise end
        return end

    monkeypatch.setattr(session, "reproduce", reproduce)
    return ends


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyError("rates"), "unexpected KeyError: 'rates'"),
        (PermissionError(13, "Permission denied", "/there"), "'/there' cannot be used"),
        (InputError("the data are damaged"), "the data are damaged"),
    ],
)
def test_an_error_of_one_experiment_leaves_the_others_to_be_done(tmp_path, done, error, told):
    done["table3"] = error
    experiments = planned(tmp_path, "table1", "table3", "table8")
    first, second, third = run_experiments(experiments, None, remarks=(), **HOW)
    assert first.folder == tmp_path / "table1"
    assert isinstance(second, NotReproduced)
    assert second.name == "table3"
    assert str(second.error).startswith(told)
    assert third.folder == tmp_path / "table8"


def test_an_unexpected_error_of_a_single_experiment_is_raised_as_it_is(tmp_path, done):
    done["table3"] = KeyError("rates")
    with pytest.raises(KeyError, match="rates"):
        list(run_experiments(planned(tmp_path, "table3"), None, remarks=(), **HOW))


def test_the_command_goes_on_and_ends_with_status_1(lpft, tmp_path, monkeypatch):
    def reproduce(recipe, _scope, **_):
        raise ZeroDivisionError(f"in {recipe.name}")

    monkeypatch.setattr(session, "reproduce", reproduce)
    outcome = lpft("reproduce", "all", "--tiny", "--output-dir", tmp_path / "all")
    assert outcome.status == 1
    errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == len(RECIPES) == 22
    assert "error: table8: unexpected ZeroDivisionError: in table8" in errors


def test_data_that_suit_all_but_one_experiment_are_told_before_any_work(tmp_path, caplog):
    case_of("cola", "GLUE tsv").write(tmp_path / "data")
    given = {"tasks": "cola", "data_dir": tmp_path / "data"}
    both = planned(tmp_path, "table8", "table10", **given)
    inputs = check_experiments(both, {}, **HOW)
    assert "table10 will not be done: this experiment needs out-of-distribution sets" in caplog.text
    with pytest.raises(InputError, match="needs out-of-distribution sets"):
        check_experiments(both[1:], {}, **HOW)
    for refused in run_experiments(both[1:], inputs, remarks=(), **HOW):
        assert isinstance(refused, NotReproduced)
        assert "needs out-of-distribution sets" in str(refused.error)
    assert not (tmp_path / "table10").exists()
