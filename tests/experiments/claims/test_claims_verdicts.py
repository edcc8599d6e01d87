"""From effects to verdicts: by interval, by agreement of few seeds, and of the claim as a whole."""

import numpy as np
import pytest

from lpft.analysis.power import smallest_detectable_difference
from lpft.analysis.resampling import without_samples
from lpft.experiments.claims.verdicts import (
    MOST,
    Measured,
    Outcome,
    Part,
    claim_verdicts,
    judge,
)
from lpft.report.exhibits.record import Estimate

PART = Part("smaller change")
HOLDS, FAILS, UNTOLD = "holds", "does not hold", "cannot tell"


def measured(*effects, task="cb", subject="LP-FT below FT", rates="shared", part=PART, **more):
    return Measured(
        part=part,
        task=task,
        subject=subject,
        rates=rates,
        unit="points",
        effects=tuple(without_samples(effect) for effect in effects),
        runs=tuple(f"runs/{task}/{seed}" for seed in range(len(effects))),
        told="3 against 2",
        **more,
    )


def judged(*all_measured):
    return judge(list(all_measured), generator=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("effects", "verdict", "reason"),
    [
        ((1.0, 1.2, 0.8, 1.1, 0.9), HOLDS, "3 against 2; the interval lies above 0"),
        ((-1.0, -1.2, -0.8, -1.1, -0.9), FAILS, "3 against 2; the interval lies below 0"),
        ((1.0, -1.2, 0.8, 1.1, -0.9), UNTOLD, "3 against 2; the interval holds 0"),
        ((0.0,) * 5, UNTOLD, "3 against 2; the interval holds 0"),
        # Five seeds of one sign are not enough where they spread: 2.2 +- 2.78 * 3.9 / sqrt 5.
        ((0.1, 0.2, 0.7, 1.0, 9.0), UNTOLD, "3 against 2; the interval holds 0"),
    ],
)
def test_five_seeds_are_judged_by_the_interval(effects, verdict, reason):
    (outcome,) = judged(measured(*effects))
    assert (outcome.verdict, outcome.reason) == (verdict, reason)
    assert outcome.comparison == "cb: LP-FT below FT"
    assert outcome.effect.value == pytest.approx(np.mean(effects))
    assert outcome.effect.sd == pytest.approx(np.std(effects, ddof=1))
    assert outcome.effect.count == 5
    assert outcome.effect.low <= outcome.effect.value <= outcome.effect.high
    assert outcome.effect.runs == tuple(f"runs/cb/{seed}" for seed in range(5))
    assert outcome.detectable == pytest.approx(
        smallest_detectable_difference(float(np.std(effects, ddof=1)), 5)
    )


def test_few_seeds_tell_only_where_all_tasks_agree():
    first, second = measured(1.0, 1.1, 0.9), measured(2.0, 2.1, 2.2, task="rte")
    outcomes = judged(first, second)
    assert [outcome.verdict for outcome in outcomes] == [HOLDS, HOLDS]
    assert outcomes[0].reason == (
        "3 against 2; only 3 seeds, though all seeds of all tasks agree; the interval lies above 0"
    )
    disagreeing = measured(2.0, 2.1, -0.1, task="rte")
    outcomes = judged(first, disagreeing)
    assert [outcome.verdict for outcome in outcomes] == [UNTOLD, UNTOLD]
    assert outcomes[0].reason.endswith("only 3 seeds, and not all seeds of all tasks agree")


@pytest.mark.parametrize(
    "other",
    [{"subject": "LP-LoRA below LoRA"}, {"rates": "published"}, {"part": Part("another")}],
)
def test_few_seeds_need_no_agreement_with_another_question(other):
    outcomes = judged(measured(1.0, 1.1), measured(-1.0, -1.1, **other))
    assert [outcome.verdict for outcome in outcomes] == [HOLDS, FAILS]


def test_five_seeds_need_no_other_task():
    effects = (1.0, 1.2, 0.8, 1.1, 0.9)
    outcomes = judged(measured(*effects), measured(*(-e for e in effects), task="rte"))
    assert [outcome.verdict for outcome in outcomes] == [HOLDS, FAILS]


def test_agreeing_seeds_that_spread_widely_cannot_tell():
    (outcome,) = judged(measured(0.1, 5.0))
    assert outcome.verdict == UNTOLD
    assert outcome.reason.endswith("all seeds of all tasks agree; the interval holds 0")


def test_one_seed_cannot_tell_and_none_has_no_effect():
    one, none = judged(measured(3.0), measured(task="rte"))
    assert (one.verdict, one.effect.value, one.detectable) == (UNTOLD, 3.0, None)
    assert one.reason == "3 against 2; one seed cannot tell"
    assert (none.verdict, none.effect) == (UNTOLD, Estimate(None, count=0))
    assert "no seed has all the finished runs" in none.reason


def test_an_interval_stays_within_what_the_effect_can_be():
    (outcome,) = judged(measured(0.4, 1.0, bounds=(-1.0, 1.0)))
    assert (outcome.effect.low, outcome.effect.high) == (-1.0, 1.0)


# --- the claim as a whole


def outcome(verdict, part=PART, rates="shared"):
    return Outcome(part, "cb: a", rates, Estimate(1.0), "points", verdict, "because")


def whole(outcomes, *parts):
    first, *others = claim_verdicts(4, "It holds.", parts, outcomes)
    assert (first.claim, first.statement, first.comparison) == (4, "It holds.", "overall")
    assert [other.verdict for other in others] == [one.verdict for one in outcomes]
    assert all(other.claim == 4 for other in others)
    return first


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([HOLDS, HOLDS], HOLDS),
        ([HOLDS, UNTOLD], UNTOLD),
        ([HOLDS, UNTOLD, FAILS], FAILS),
        ([], UNTOLD),
    ],
)
def test_a_part_said_of_every_case(verdicts, expected):
    assert whole([outcome(verdict) for verdict in verdicts], PART).verdict == expected


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([HOLDS, HOLDS, FAILS], HOLDS),
        ([HOLDS, FAILS], FAILS),
        ([HOLDS, UNTOLD], UNTOLD),
        ([HOLDS, UNTOLD, FAILS], UNTOLD),
        ([UNTOLD, FAILS, FAILS, HOLDS], FAILS),
        ([], UNTOLD),
    ],
)
def test_a_part_said_of_most_cases(verdicts, expected):
    part = Part("mostly", MOST)
    assert whole([outcome(verdict, part) for verdict in verdicts], part).verdict == expected


@pytest.mark.parametrize(
    ("of_first", "of_second", "expected"),
    [(HOLDS, HOLDS, HOLDS), (HOLDS, UNTOLD, UNTOLD), (UNTOLD, FAILS, FAILS)],
)
def test_all_parts_must_hold(of_first, of_second, expected):
    second = Part("the other")
    assert whole([outcome(of_first), outcome(of_second, second)], PART, second).verdict == expected


def test_what_belongs_to_no_part_is_listed_and_not_counted():
    assert whole([outcome(HOLDS), outcome(FAILS, None)], PART).verdict == HOLDS


def test_the_whole_says_how_its_comparisons_came_out():
    outcomes = [
        outcome(HOLDS, rates="published"),
        outcome(HOLDS, rates="published"),
        outcome(HOLDS),
        outcome(FAILS),
        outcome(UNTOLD),
    ]
    second = Part("the other")
    assert whole(outcomes, PART, second).reason == (
        "smaller change: at published rates holds in 2 of 2; at shared rates holds in 1, "
        "does not hold in 1 and cannot tell in 1 of 3. the other: nothing to compare"
    )
