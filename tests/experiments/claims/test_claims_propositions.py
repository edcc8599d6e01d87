"""Claims 7 and 8: checks of the propositions are kept, and every one of them must hold."""

import json
from dataclasses import asdict

import pytest
from experiments.claim_folders import claims_scope

from lpft.errors import InputError
from lpft.experiments.claims import propositions
from lpft.experiments.claims.propositions import (
    RECORD,
    first_order_outcomes,
    keep_theory,
    linear_outcomes,
    read_theory,
)
from lpft.experiments.recipe import Found
from lpft.experiments.theory import TheoryCheck, run_theory


@pytest.fixture(scope="module")
def checks():
    return run_theory(seed=0)


def experiment(folder, seeds=(0,)):
    return Found(claims_scope(folder, seeds=seeds), {}, {})


def write(folder, *checks):
    (folder / RECORD).write_text(json.dumps({"0": [asdict(check) for check in checks]}))
    return experiment(folder)


def test_the_propositions_hold_on_random_models(tmp_path, checks):
    found = write(tmp_path, *checks)
    assert read_theory(tmp_path) == {0: checks}
    first = first_order_outcomes(found)
    assert [outcome.comparison for outcome in first] == [
        f"Proposition 4.1, {trained}: {output}"
        for trained in ("all parameters", "LoRA of rank 4")
        for output in ("logits", "features")
    ]
    assert {outcome.verdict for outcome in first} == {"holds"}
    # The error falls with the rate: tenfold, 8 times at least asked.
    assert all(1 < outcome.effect.value < 3 for outcome in first)
    linear = linear_outcomes(found)
    assert [outcome.verdict for outcome in linear] == ["holds", "holds", "does not hold"]
    assert [outcome.part is None for outcome in linear] == [False, False, True]
    # 20 pairs of r and eps, of which 4 + 2 + 1 promise nothing; the printed form is tried 5 times.
    assert "13 checks over 1 seed, all hold" in linear[1].reason
    assert "5 checks over 1 seed, 5 of them broken" in linear[2].reason


def test_one_check_that_fails_is_enough(tmp_path):
    check = TheoryCheck(
        "Proposition 4.1", "all parameters: logits, rate 1 to 0.1", 9.9, 10, True, ""
    )
    worse = TheoryCheck(
        "Proposition 4.1", "all parameters: logits, rate 0.1 to 0.01", 2, 10, False, ""
    )
    (outcome,) = first_order_outcomes(write(tmp_path, check, worse))
    assert (outcome.verdict, outcome.effect.value) == ("does not hold", 2 - 8)
    assert "2 checks over 1 seed, 1 of them broken" in outcome.reason


def test_without_kept_checks_there_is_nothing_to_say(tmp_path):
    assert first_order_outcomes(experiment(tmp_path)) == []
    assert linear_outcomes(experiment(tmp_path)) == []


def test_checks_are_made_once_for_each_seed(tmp_path, checks, monkeypatch):
    asked = []

    def fake(*, seed):
        asked.append(seed)
        return checks[:1]

    monkeypatch.setattr(propositions, "run_theory", fake)
    keep_theory(experiment(tmp_path, seeds=(0, 1)))
    keep_theory(experiment(tmp_path, seeds=(0, 1, 4)))
    assert asked == [0, 1, 4]
    assert read_theory(tmp_path) == dict.fromkeys((0, 1, 4), checks[:1])


@pytest.mark.parametrize("text", ["{", "[]", '{"0": [{"claim": "x"}]}', '{"zero": []}'])
def test_a_damaged_record_is_refused(tmp_path, text):
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(InputError, match=r"theory.json' cannot be read .*remove it"):
        read_theory(tmp_path)
