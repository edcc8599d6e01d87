"""Below five seeds: what one data set, or a statistic without spread, cannot tell."""

import numpy as np
import pytest

from lpft.analysis.comparison import without_samples
from lpft.experiments.verdicts import Case, Part, judge_cases
from lpft.results.judging import Measured

HOLDS, FAILS, UNTOLD = "holds", "does not hold", "cannot tell"


def judged(values, tasks=("cb", "sst2"), **bounds):
    """The first of some tasks' comparisons, each with the same effects."""
    cases = [
        Case(
            part=Part("a"),
            measured=Measured(task, "FT", "own", tuple(map(without_samples, values)), (), **bounds),
            unit="",
            evidence="as told",
        )
        for task in tasks
    ]
    return judge_cases(cases, generator=np.random.default_rng(0))[0].judgement


CORRELATION = {"bounds": (-1.0, 1.0)}


def test_two_perfect_rank_correlations_cannot_tell():
    # Without spread their interval is [1, 1], which lies above 0.
    for tasks in (("cb",), ("cb", "sst2")):
        judgement = judged([1.0, 1.0], tasks, **CORRELATION)
        assert (judgement.effect.low, judgement.effect.high) == (1, 1)
        assert judgement.verdict == UNTOLD
        assert judgement.why.startswith("as told; only 2 seeds")
    assert judged([1.0] * 4, **CORRELATION).verdict == UNTOLD
    assert judged([1.0] * 5, ("cb",), **CORRELATION).verdict == HOLDS


def test_a_number_between_bounds_cannot_be_told_from_few():
    values = [0.8, 0.79, 0.81]
    assert judged(values).verdict == HOLDS
    judgement = judged(values, **CORRELATION)
    assert judgement.verdict == UNTOLD
    assert "only 3 seeds of a number between bounds" in judgement.why
    # One bound, as that of a norm, leaves room on the side where the effect may lie.
    assert judged(values, bounds=(-2.0, np.inf)).verdict == HOLDS


@pytest.mark.parametrize(("sign", "expected"), [(1, HOLDS), (-1, FAILS)])
def test_equal_values_say_nothing_of_their_spread(sign, expected):
    judgement = judged([sign * 3.0] * 4)
    assert judgement.verdict == UNTOLD
    assert "only 4 seeds, which all have the same value" in judgement.why
    assert judged([sign * value for value in (3.0, 3.1, 2.9, 3.0)]).verdict == expected
    assert judged([sign * 3.0] * 5).verdict == expected


def test_one_data_set_is_not_all_of_them():
    values = [3.0, 3.1, 2.9]
    judgement = judged(values, ("cb",))
    assert judgement.verdict == UNTOLD
    assert "only 3 seeds on a single data set" in judgement.why
    assert judged(values, ("cb", "sst2")).verdict == HOLDS
    assert judged([*values, 3.2, 2.8], ("cb",)).verdict == HOLDS
