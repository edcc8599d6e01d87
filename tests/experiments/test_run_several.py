"""Several experiments in one command: one that ends in an error does not end the others."""

import pytest
from data.release_files import case_of

from lpft.errors import InputError
from lpft.experiments import run as reproduction
from lpft.experiments.run import RECIPES, NotReproduced, Reproduction, Session


@pytest.fixture
def session(tmp_path, monkeypatch):
    """A session of some experiments, in ``tmp_path``, on the tiny model."""

    def make(*names, **settings):
        monkeypatch.setattr(reproduction, "RECIPES", {name: RECIPES[name] for name in names})
        return Session("all" if len(names) > 1 else names[0], settings, tmp_path, tiny=True)

    return make


@pytest.fixture
def ends(monkeypatch):
    """What experiments end with, by name, without any being done."""
    ends = {}

    def reproduce(_session, experiment, _siblings):
        if experiment.name in ends:
            raise ends[experiment.name]
        return Reproduction(None, experiment.scope.folder, None)

    monkeypatch.setattr(Session, "_reproduce", reproduce)
    return ends


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyError("rates"), "unexpected KeyError: 'rates'"),
        (PermissionError(13, "Permission denied", "/there"), "'/there' cannot be used"),
        (InputError("the data are damaged"), "the data are damaged"),
    ],
)
def test_an_error_of_one_experiment_leaves_the_others_to_be_done(
    session, tmp_path, ends, error, told
):
    ends["table3"] = error
    first, second, third = session("table1", "table3", "table8").run()
    assert first.folder == tmp_path / "table1"
    assert isinstance(second, NotReproduced)
    assert second.name == "table3"
    assert str(second.error).startswith(told)
    assert third.folder == tmp_path / "table8"


def test_an_unexpected_error_of_a_single_experiment_is_raised_as_it_is(session, ends):
    ends["table3"] = KeyError("rates")
    with pytest.raises(KeyError, match="rates"):
        list(session("table3").run())


def test_the_command_goes_on_and_ends_with_status_1(lpft, tmp_path, ends):
    ends |= {name: ZeroDivisionError(f"in {name}") for name in RECIPES}
    outcome = lpft("reproduce", "all", "--tiny", "--output-dir", tmp_path / "all")
    assert outcome.status == 1
    errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == len(RECIPES) == 22
    assert "error: table8: unexpected ZeroDivisionError: in table8" in errors


def test_data_that_suit_all_but_one_experiment_are_told_before_any_work(session, tmp_path, caplog):
    case_of("cola", "GLUE tsv").write(tmp_path / "data")
    settings = {"tasks": "cola", "data_dir": tmp_path / "data", "seeds": "1"}
    both = session("table8", "table10", **settings)
    assert "table10 will not be done: this experiment needs out-of-distribution sets" in caplog.text
    del both.experiments[0]
    (refused,) = both.run()
    assert isinstance(refused, NotReproduced)
    assert "needs out-of-distribution sets" in str(refused.error)
    with pytest.raises(InputError, match="needs out-of-distribution sets"):
        session("table10", **settings)
    assert not (tmp_path / "table10").exists()
