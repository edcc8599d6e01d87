"""From comparisons to the verdict on a claim: its parts, its rates, and what few seeds tell."""

import numpy as np
import pytest

from lpft.analysis.comparison import without_samples
from lpft.experiments.verdicts import Case, Claim, Outcome, Part, judge_cases
from lpft.results.exhibits import Estimate
from lpft.results.judging import Judgement, Measured

PART = Part("smaller change")
HOLDS, FAILS, UNTOLD = "holds", "does not hold", "cannot tell"
TINY = 1e-9


def outcome(verdict, part=PART, rates="shared", p_value=TINY, also_at=()):
    judgement = Judgement(Estimate(1.0), verdict, "because", p_value)
    measured = Measured("cb", "a", rates, effects=(), runs=())
    return Outcome(Case(part, measured, "points", also_at=also_at), judgement)


def claim_of(*parts, **more):
    return Claim(4, "It holds.", parts, lambda *_: [], **more)


def whole(outcomes, *parts):
    first, *others = claim_of(*parts).judge(outcomes)
    assert (first.claim, first.statement, first.comparison) == (4, "It holds.", "overall")
    assert first.is_whole
    assert not any(other.is_whole for other in others)
    single = [other for other in others if other.comparison != "overall"]
    assert [other.verdict for other in single] == [one.judgement.verdict for one in outcomes]
    assert all(other.claim == 4 for other in others)
    return first


def at_rates(outcomes, *parts):
    """The verdict and its reason at each of several rates."""
    _, *others = claim_of(*parts).judge(outcomes)
    return {
        other.rates: (other.verdict, other.reason)
        for other in others
        if other.comparison == "overall"
    }


def test_the_numbers_stand_before_the_verdict():
    effects = tuple(without_samples(effect) for effect in (1.0, 1.2, 0.8, 1.1, 0.9))
    cases = [
        Case(
            part=PART,
            measured=Measured("cb", "LP-FT below FT", "shared", given, ("runs/a",)),
            unit="points",
            evidence="3 against 2",
        )
        for given in (effects, ())
    ]
    judged, without = judge_cases(cases, generator=np.random.default_rng(0))
    assert judged.case.name == "cb: LP-FT below FT"
    assert judged.judgement.why == "3 against 2; the interval lies above 0"
    assert without.judgement.why.startswith("no seed has")
    _, verdict, _ = claim_of(PART).judge([judged, without])
    assert verdict.effect == judged.judgement.effect
    assert verdict.detectable == judged.judgement.detectable
    assert (verdict.verdict, verdict.reason) == (HOLDS, judged.judgement.why)


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
    ("others", "p_value", "expected"),
    [
        (0, 0.049, FAILS),
        (1, 0.024, FAILS),
        (1, 0.026, UNTOLD),
        (39, 0.00124, FAILS),
        (39, 0.00126, UNTOLD),
        (39, None, FAILS),  # what no chance decides needs no allowance for it
    ],
)
def test_one_of_many_comparisons_must_be_beyond_what_chance_gives_so_many(
    others, p_value, expected
):
    outcomes = [outcome(FAILS, p_value=p_value), *[outcome(HOLDS)] * others]
    verdict = whole(outcomes, PART)
    assert verdict.verdict == expected
    told = f"among {len(outcomes)} comparisons this may be chance"
    assert (told in verdict.reason) == (expected == UNTOLD)


def test_true_statements_are_rarely_called_false_however_many_there_are():
    # Thirty comparisons without any effect, five seeds each: at 95 % alone half would be refuted.
    rng = np.random.default_rng(0)
    refuted = alone = 0
    trials = 60
    for _ in range(trials):
        cases = [
            Case(
                PART,
                Measured("cb", str(number), "", tuple(map(draws, rng.normal(size=5))), ()),
                "",
                "",
            )
            for number in range(30)
        ]
        outcomes = judge_cases(cases, generator=rng)
        refuted += whole(outcomes, PART).verdict == FAILS
        alone += any(one.judgement.verdict == FAILS for one in outcomes)
    assert alone > 0.3 * trials
    # One-sided, 2.5 % of the trials; 3 standard errors are 6 points.
    assert refuted <= 0.085 * trials


def draws(value):
    return without_samples(value, 400)


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
    part = Part("mostly", "most")
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
    second = Part("the other", "most")
    assert whole(outcomes[2:], PART, second).reason == (
        "smaller change (required in every case): holds in 1, does not hold in 1 and is undecided "
        "in 1 of 3. the other: nothing to compare"
    )
    assert whole([outcome(HOLDS, second)], second).reason == (
        "the other (required in most cases): holds in 1 of 1"
    )
    assert whole(outcomes, PART).reason == (
        "overall: holds at published rates and does not hold at shared rates"
    )


def test_each_choice_of_rates_has_its_own_verdict_and_the_whole_is_their_conjunction():
    outcomes = [outcome(HOLDS, rates="published"), outcome(HOLDS, rates="published")]
    assert at_rates(outcomes, PART) == {}
    assert whole(outcomes, PART).verdict == HOLDS
    outcomes += [outcome(HOLDS), outcome(UNTOLD)]
    told = at_rates(outcomes, PART)
    assert {rates: verdict for rates, (verdict, _) in told.items()} == {
        "published": HOLDS,
        "shared": UNTOLD,
    }
    assert told["shared"][1].endswith("holds in 1 and is undecided in 1 of 2")
    assert whole(outcomes, PART).verdict == UNTOLD
    outcomes[3] = outcome(FAILS)
    assert at_rates(outcomes, PART)["shared"][0] == whole(outcomes, PART).verdict == FAILS
    # Most of all four hold, but not most of those at shared rates.
    most = Part("mostly", "most")
    outcomes = [outcome(one.judgement.verdict, most, one.case.measured.rates) for one in outcomes]
    assert {rates: verdict for rates, (verdict, _) in at_rates(outcomes, most).items()} == {
        "published": HOLDS,
        "shared": FAILS,
    }
    assert whole(outcomes, most).verdict == FAILS


def test_one_choice_of_rates_allows_for_the_comparisons_at_all_of_them():
    # 0.02 x 2 is below 0.05, 0.02 x 4 is not.
    outcomes = [outcome(FAILS, p_value=0.02), *[outcome(HOLDS, rates="published")] * 3]
    assert at_rates(outcomes, PART)["shared"][0] == whole(outcomes, PART).verdict == UNTOLD
    assert "among 4 comparisons" in at_rates(outcomes, PART)["shared"][1]
    assert at_rates(outcomes[:2], PART)["shared"][0] == FAILS


def test_runs_that_are_the_same_at_both_rates_count_at_both():
    outcomes = [
        outcome(HOLDS, rates="published"),
        outcome(FAILS, rates="published", also_at=("shared",)),
        outcome(HOLDS),
    ]
    verdicts = {rates: verdict for rates, (verdict, _) in at_rates(outcomes, PART).items()}
    assert verdicts == {"published": FAILS, "shared": FAILS}
    outcomes.append(outcome(HOLDS, Part("without rates"), rates=""))
    told = at_rates(outcomes, PART, Part("without rates"))
    assert all(reason.endswith("holds in 1 of 1") for _, reason in told.values())


def test_rates_that_are_shared_already_count_at_those_of_either_method():
    shared = outcome(FAILS, also_at=("published", "LP-start", "random-start"))
    assert at_rates([shared, shared], PART) == {}
    outcomes = [
        shared,
        outcome(HOLDS, rates="published"),
        outcome(HOLDS, rates="LP-start", also_at=("tuned",)),
        outcome(HOLDS, rates="random-start"),
    ]
    verdicts = {rates: verdict for rates, (verdict, _) in at_rates(outcomes, PART).items()}
    assert list(verdicts) == ["published", "LP-start", "random-start", "tuned"]
    assert verdicts == {
        "published": FAILS,
        "LP-start": FAILS,
        "random-start": FAILS,
        "tuned": HOLDS,
    }
    assert list(at_rates([shared, outcome(HOLDS, rates="tuned")], PART)) == ["shared", "tuned"]


def test_the_papers_means_and_limits_stand_with_the_whole_alone():
    outcomes = [outcome(HOLDS), outcome(HOLDS, rates="published")]
    claim = claim_of(PART, source="Published: 3 of 4", remark="one task")
    first, *others = claim.judge(outcomes)
    assert first.reason == (
        "overall: holds at published rates and holds at shared rates. Published: 3 of 4"
    )
    assert first.remark == "one task"
    assert not any("Published" in other.reason or other.remark for other in others)


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


def test_few_seeds_leave_a_bounded_number_undecided():
    values = [0.8, 0.79, 0.81]
    assert judged(values).verdict == HOLDS
    judgement = judged(values, **CORRELATION)
    assert judgement.verdict == UNTOLD
    assert "only 3 seeds: too few" in judgement.why
    # One bound, as that of a norm, leaves room on the side where the effect may lie.
    assert judged(values, bounds=(-2.0, np.inf)).verdict == HOLDS


@pytest.mark.parametrize(("sign", "expected"), [(1, HOLDS), (-1, FAILS)])
def test_equal_values_say_nothing_of_their_spread(sign, expected):
    judgement = judged([sign * 3.0] * 4)
    assert judgement.verdict == UNTOLD
    assert "only 4 seeds, all with the same value" in judgement.why
    assert judged([sign * value for value in (3.0, 3.1, 2.9, 3.0)]).verdict == expected
    assert judged([sign * 3.0] * 5).verdict == expected


def test_one_data_set_is_not_all_of_them():
    values = [3.0, 3.1, 2.9]
    judgement = judged(values, ("cb",))
    assert judgement.verdict == UNTOLD
    assert "only 3 seeds on a single data set" in judgement.why
    assert judged(values, ("cb", "sst2")).verdict == HOLDS
    assert judged([*values, 3.2, 2.8], ("cb",)).verdict == HOLDS
