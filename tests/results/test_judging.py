"""From effects of seeds to verdicts: by interval, and by the agreement of few seeds."""

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp

from lpft.analysis.comparison import smallest_detectable_difference, without_samples
from lpft.results.exhibits import Estimate
from lpft.results.judging import Measured, chance_note, judge

HOLDS, FAILS, UNTOLD = "holds", "does not hold", "cannot tell"


def measured(*effects, task="cb", subject="LP-FT below FT", rates="shared", **more):
    return Measured(
        task=task,
        subject=subject,
        rates=rates,
        effects=tuple(without_samples(effect) for effect in effects),
        runs=tuple(f"runs/{task}/{seed}" for seed in range(len(effects))),
        **more,
    )


def judged(*all_measured):
    return judge(list(all_measured), generator=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("effects", "verdict", "why"),
    [
        ((1.0, 1.2, 0.8, 1.1, 0.9), HOLDS, "the interval lies above 0"),
        ((-1.0, -1.2, -0.8, -1.1, -0.9), FAILS, "the interval lies below 0"),
        ((1.0, -1.2, 0.8, 1.1, -0.9), UNTOLD, "the interval contains 0"),
        ((0.0,) * 5, UNTOLD, "the interval contains 0"),
        # Five seeds of one sign are not enough where they spread: 2.2 +- 2.78 * 3.9 / sqrt 5.
        ((0.1, 0.2, 0.7, 1.0, 9.0), UNTOLD, "the interval contains 0"),
    ],
)
def test_five_seeds_are_judged_by_the_interval(effects, verdict, why):
    (judgement,) = judged(measured(*effects))
    assert (judgement.verdict, judgement.why) == (verdict, why)
    assert judgement.effect.value == pytest.approx(np.mean(effects))
    assert judgement.effect.sd == pytest.approx(np.std(effects, ddof=1))
    assert judgement.effect.count == 5
    assert judgement.effect.low <= judgement.effect.value <= judgement.effect.high
    assert judgement.effect.runs == tuple(f"runs/cb/{seed}" for seed in range(5))
    if np.ptp(effects) > 0:
        spread = float(np.std(effects, ddof=1))
        assert judgement.detectable == pytest.approx(smallest_detectable_difference(spread, 5))
    assert (judgement.p_value < 0.05) == (verdict != UNTOLD)
    if verdict != UNTOLD:
        # Student's, as far as draws of five seeds vary as five seeds do.
        expected = ttest_1samp(effects, 0).statistic
        assert t.isf(judgement.p_value / 2, 4) == pytest.approx(abs(expected), rel=0.15)


def test_few_seeds_tell_only_where_all_tasks_agree():
    first, second = measured(1.0, 1.1, 0.9), measured(2.0, 2.1, 2.2, task="rte")
    judgements = judged(first, second)
    assert [judgement.verdict for judgement in judgements] == [HOLDS, HOLDS]
    assert judgements[0].why == (
        "only 3 seeds, though all seeds of all tasks agree; the interval lies above 0"
    )
    disagreeing = measured(2.0, 2.1, -0.1, task="rte")
    judgements = judged(first, disagreeing)
    assert [judgement.verdict for judgement in judgements] == [UNTOLD, UNTOLD]
    assert judgements[0].why == "only 3 seeds, and not all seeds of all tasks agree"


@pytest.mark.parametrize("other", [{"subject": "LP-LoRA below LoRA"}, {"rates": "published"}])
def test_few_seeds_need_no_agreement_with_another_question(other):
    judgements = judged(measured(1.0, 1.1), measured(-1.0, -1.1, **other))
    assert [judgement.verdict for judgement in judgements] == [HOLDS, FAILS]


def test_five_seeds_need_no_other_task():
    effects = (1.0, 1.2, 0.8, 1.1, 0.9)
    judgements = judged(measured(*effects), measured(*(-e for e in effects), task="rte"))
    assert [judgement.verdict for judgement in judgements] == [HOLDS, FAILS]


def test_agreeing_seeds_that_spread_widely_cannot_tell():
    (judgement,) = judged(measured(0.1, 5.0))
    assert judgement.verdict == UNTOLD
    assert judgement.why.endswith("all seeds of all tasks agree; the interval contains 0")


def test_one_seed_cannot_tell_and_none_has_no_effect():
    one, none = judged(measured(3.0), measured(task="rte"))
    assert (one.verdict, one.effect.value, one.detectable) == (UNTOLD, 3.0, None)
    assert one.why == "one seed is not enough"
    assert (none.verdict, none.effect, none.p_value) == (UNTOLD, Estimate(None, count=0), None)
    assert "no seed has all the finished runs" in none.why


@pytest.mark.parametrize("effect", [0.0, 4 / 45])
def test_seeds_that_do_not_differ_leave_open_what_could_be_detected(effect):
    # Two methods that do not depend on the seed: a t-test has no spread to go by, and its formula
    # says that any difference at all would show.
    (judgement,) = judged(measured(effect, effect * (1 + 1e-16)))
    assert judgement.detectable is None


def test_an_interval_stays_within_what_the_effect_can_be():
    (judgement,) = judged(measured(0.4, 1.0, bounds=(-1.0, 1.0)))
    assert (judgement.effect.low, judgement.effect.high) == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("second", "verdicts"),
    [((-2.0, -2.1), [HOLDS, FAILS]), ((2.0, 2.1), [UNTOLD, UNTOLD])],
)
def test_the_same_question_the_other_way_round_has_to_agree_too(second, verdicts):
    one = measured(1.0, 1.1, reverse="FT below LP-FT")
    other = measured(*second, task="rte", subject="FT below LP-FT", reverse="LP-FT below FT")
    assert [judgement.verdict for judgement in judged(one, other)] == verdicts


def test_several_comparisons_are_said_to_be_several():
    assert chance_note(0) == chance_note(1) == ""
    assert "These are 12 comparisons at 95 % each" in chance_note(12)
    assert "about 0.6 of the intervals would exclude 0 by chance" in chance_note(12)
    assert "about 12 of the intervals" in chance_note(240)
