"""Claims 7 and 8: checks of the propositions are kept, and every one of them must hold."""

import json
import shutil
from pathlib import Path

import pytest
from experiments.experiment_folders import claims_scope

import lpft
from lpft.experiments import theory as propositions
from lpft.experiments.plan import ExperimentRuns
from lpft.experiments.theory import THEORY, first_order_outcomes, linear_outcomes, run_theory
from lpft.theory.checks import TheoryCheck


@pytest.fixture(scope="module")
def checks():
    return run_theory(seed=0)


def experiment(folder, seeds=(0,)):
    return ExperimentRuns(claims_scope(folder, seeds=seeds), {}, {})


@pytest.fixture
def write(tmp_path, monkeypatch):
    """The experiment with such checks of seed 0, as if they had been made."""

    def keep(*checks):
        monkeypatch.setattr(propositions, "run_theory", lambda **_: list(checks))
        THEORY(experiment(tmp_path))
        return experiment(tmp_path)

    return keep


def test_the_propositions_hold_on_random_models(write, checks):
    found = write(*checks)
    assert THEORY.read(found) == {0: checks}
    first = first_order_outcomes(found)
    assert [outcome.case.name for outcome in first] == [
        f"Proposition 4.1, {trained}: {output}"
        for trained in ("all parameters", "LoRA of rank 4")
        for output in ("logits", "features")
    ]
    assert {outcome.judgement.verdict for outcome in first} == {"holds"}
    # The error falls with the rate: tenfold, 8 times at least asked.
    assert all(1 < outcome.judgement.effect.value < 3 for outcome in first)
    linear = linear_outcomes(found)
    assert [each.judgement.verdict for each in linear] == ["holds", "holds", "does not hold"]
    assert [outcome.case.part is None for outcome in linear] == [False, False, True]
    # 20 pairs of r and eps, of which 4 + 2 + 1 promise nothing; the printed form is tried 5 times.
    assert "13 checks over 1 seed, all hold" in linear[1].judgement.why
    assert "5 checks over 1 seed, 5 of them broken" in linear[2].judgement.why


def test_one_check_that_fails_is_enough(write):
    check = TheoryCheck(
        "Proposition 4.1", "all parameters: logits, rate 1 to 0.1", 9.9, 10, True, ""
    )
    worse = TheoryCheck(
        "Proposition 4.1", "all parameters: logits, rate 0.1 to 0.01", 2, 10, False, ""
    )
    (outcome,) = first_order_outcomes(write(check, worse))
    judgement = outcome.judgement
    assert (judgement.verdict, judgement.effect.value) == ("does not hold", 2 - 8)
    assert "2 checks over 1 seed, 1 of them broken" in judgement.why


def test_without_kept_checks_there_is_nothing_to_say(tmp_path):
    assert first_order_outcomes(experiment(tmp_path)) == []
    assert linear_outcomes(experiment(tmp_path)) == []


def test_checks_are_made_once_for_each_seed(tmp_path, checks, monkeypatch):
    asked = []

    def fake(*, seed):
        asked.append(seed)
        return checks[:1]

    monkeypatch.setattr(propositions, "run_theory", fake)
    THEORY(experiment(tmp_path, seeds=(0, 1)))
    THEORY(experiment(tmp_path, seeds=(0, 1, 4)))
    assert asked == [0, 1, 4]
    found = experiment(tmp_path, seeds=(0, 1, 4))
    assert THEORY.read(found) == dict.fromkeys((0, 1, 4), checks[:1])


def test_checks_of_another_version_are_made_again(write, checks, monkeypatch):
    found = write(*checks[:1])
    monkeypatch.setattr(propositions, "version", lambda _: "0.0.0")
    assert THEORY.read(found) == {}
    THEORY(found)
    assert THEORY.read(found) == {0: checks[:1]}


def test_checks_of_other_code_are_made_again(write, checks, monkeypatch):
    found = write(*checks[:1])
    monkeypatch.setattr(propositions, "_code_hash", lambda _: "other code")
    assert THEORY.read(found) == {}
    THEORY(found)
    assert THEORY.read(found) == {0: checks[:1]}


def test_the_code_of_checks_is_that_of_the_propositions_and_of_all_they_run(tmp_path):
    package = Path(lpft.__file__).parent
    hashes = set()
    changed = ("theory/checks.py", "ntk/dynamics.py", "experiments/theory.py", "theory/new.py")
    for number, name in enumerate(("", *changed)):
        copied = tmp_path / str(number)
        for part in propositions._CODE:
            if (package / part).is_dir():
                shutil.copytree(package / part, copied / part)
        (copied / "experiments").mkdir()
        shutil.copy(package / "experiments/theory.py", copied / "experiments")
        if name:
            with (copied / name).open("a") as file:
                file.write("# changed")
        hashes.add(propositions._code_hash(copied))
    assert len(hashes) == 5
    assert propositions._code_hash(tmp_path / "0") == propositions._code_hash(package)


@pytest.mark.parametrize("damage", [lambda _: "{", lambda _: "[]", lambda kept: _halved(kept)])
def test_damaged_checks_are_made_again(write, checks, tmp_path, caplog, damage):
    found = write(*checks[:1])
    path = tmp_path / "steps" / "theory-seed0.json"
    path.write_text(damage(path.read_text()))
    assert THEORY.read(found) == {}
    assert "computing it again" in caplog.text
    THEORY(found)
    assert THEORY.read(found) == {0: checks[:1]}


def _halved(kept):
    """The record of a check without its last entries."""
    record = json.loads(kept)
    record["result"] = [dict(list(check.items())[:3]) for check in record["result"]]
    return json.dumps(record)
