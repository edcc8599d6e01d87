"""Claim 6: the difference itself is shown, and no margin makes a success of what is worse."""

import numpy as np
import pytest
from experiments.experiment_folders import FAILS, HOLDS, UNTOLD, judged_again, write_claims

from lpft.results.pairing import PUBLISHED

ROWS = 4000
SCOPE = {"methods": ("ft", "lp-ft"), "tasks": ("cb", "sst2", "rte", "wsc")}
LAG = {
    "cb": (20, 20, 20, 20, 20),  # half a point
    "sst2": (80, 80, 80, 80, 80),  # two points
    "rte": (8, -6, 4, -2, 1),
    "wsc": (80, -60, 40, -20, 10),
}
"""By how many of 4,000 answers LP-FT is behind FT, by seed."""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    def describe(key, _):
        if key.variant != PUBLISHED:
            return None
        behind = LAG[key.task][key.seed] if key.method == "lp-ft" else 0
        return {"wrong": {"test": 1000 + behind}}

    return write_claims(tmp_path_factory.mktemp("scores"), describe, rows=ROWS, **SCOPE)


@pytest.fixture(scope="module")
def verdicts(found):
    return judged_again(found, 6, SCOPE["tasks"])


def of_task(verdicts, task):
    return verdicts[f"{task}: LP-FT at least FT, within 1 point", "published"]


@pytest.mark.parametrize(
    ("task", "expected", "told"),
    [
        ("cb", FAILS, "the interval lies below 0: worse, by less than 1 point"),
        ("sst2", FAILS, "the interval lies below 0: worse"),
        (
            "rte",
            HOLDS,
            "the interval holds 0; all of it lies above −1: at least as good within 1 point",
        ),
        ("wsc", UNTOLD, "the interval holds 0"),
    ],
)
def test_what_is_worse_never_holds_however_little_it_is(verdicts, task, expected, told):
    verdict = of_task(verdicts, task)
    assert verdict.verdict == expected
    assert verdict.reason.endswith(f"LP-FT; {told}")
    assert verdict.effect.value == pytest.approx(-100 * np.mean(LAG[task]) / ROWS)
    assert verdict.unit == "points"


def test_the_interval_is_that_of_the_difference(verdicts):
    half = of_task(verdicts, "cb").effect
    # Twenty answers differ, the same in all seeds: their number on draws has variance 20.
    assert half.low == pytest.approx(-0.5 - 1.96 * 100 * 20**0.5 / ROWS, abs=0.05)
    assert half.high == pytest.approx(-0.5 + 1.96 * 100 * 20**0.5 / ROWS, abs=0.05)


def test_both_halves_are_said_of_most_cases(found, verdicts):
    assert verdicts["overall", ""].verdict == FAILS  # 2 of 4 are worse
    reason = verdicts["overall", "published"].reason
    assert "in distribution (asked of most cases): holds in 1, does not hold in 2" in reason
    three = judged_again(found, 6, ("rte", "wsc", "cb"))["overall", "published"]
    assert three.verdict == UNTOLD


def test_few_seeds_that_are_worse_do_not_hold_by_the_margin(found):
    worse = of_task(judged_again(found, 6, ("cb", "sst2"), seeds=(0, 1)), "cb")
    assert worse.effect.high < 0
    assert worse.verdict == UNTOLD
    assert "only 2 seeds" in worse.reason
    assert "at least as good" not in worse.reason
