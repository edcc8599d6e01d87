"""Claim 2: heads that linear probing leaves near zero, and the range of what is measured."""

import json

import numpy as np
import pytest
from experiments.experiment_folders import FAILS, HOLDS, UNTOLD, judged_again, known, write_claims

from lpft.results.pairing import PUBLISHED

TASKS = ("cb", "sst2")
SCOPE = {"methods": ("ft", "lp-ft"), "tasks": TASKS}
ABOVE = "LP head more than 2 times its random start"
KEPT = "norm within 20 % through LP-FT"
RANDOM = 0.55
"""The norm of a random head in the folders."""


def usual(key, config):
    return known(key, config) if key.variant == PUBLISHED else None


def with_heads(folder, norms):
    """The experiment with such norms of LP-FT's head after LP and at the end, by task and seed."""
    found = write_claims(folder, usual, **SCOPE)
    for (task, seed), (probed, end) in norms.items():
        run = found.runs[PUBLISHED, task, "lp-ft", seed].folder
        features = json.loads((run / "features.json").read_text())
        features["head"] |= {"norm_at_start": probed, "norm": end}
        (run / "features.json").write_text(json.dumps(features))
        (run / "history.jsonl").write_text("")
    return write_claims(folder, lambda *_: None, **SCOPE)


def test_a_head_near_zero_is_decided_by_its_random_start_alone(tmp_path):
    # As WSC's in table 13: 2.26e-4 after linear probing, 0.108 after LP-FT.
    found = with_heads(tmp_path, {("sst2", seed): (2.26e-4, 0.108) for seed in range(5)})
    verdicts = judged_again(found, 2, TASKS)
    above, kept = verdicts[f"sst2: {ABOVE}", ""], verdicts[f"sst2: {KEPT}", ""]
    assert above.verdict == FAILS
    assert above.effect.value == pytest.approx(2.26e-4 / RANDOM - 2)
    assert (kept.verdict, kept.effect.value, kept.remark) == (
        UNTOLD,
        None,
        "not asked: the LP head is not above its random start",
    )
    assert kept.reason == (
        "linear probing leaves 5 heads no larger than the random start, beside which any change is "
        "large"
    )
    assert verdicts["overall", ""].verdict == FAILS
    assert verdicts[f"cb: {KEPT}", ""].verdict == HOLDS


def test_large_heads_of_other_seeds_are_still_asked(tmp_path):
    norms = {
        ("cb", seed): (0.5, 5.0) if seed == 1 else (14.0, 15.0 + 0.1 * seed) for seed in range(5)
    }
    kept = judged_again(with_heads(tmp_path, norms), 2, TASKS)[f"cb: {KEPT}", ""]
    assert kept.effect.count == 4
    changes = [100 * (1 + 0.1 * seed) / 14 for seed in (0, 2, 3, 4)]
    assert kept.effect.value == pytest.approx(20 - np.mean(changes))
    assert "but linear probing leaves 1 head no larger than the random start" in kept.reason
    assert kept.remark == ""


def test_intervals_stay_within_what_is_possible(tmp_path):
    # Four heads that do not change and one that does by 60 %: of 20 - 12 the interval has +- 33.
    norms = {("cb", seed): (14.0, 14.0 * (1.6 if seed == 3 else 1)) for seed in range(5)}
    # Ratios of 1.2 and once of 20: the interval would reach below a norm of 0.
    norms |= {("sst2", seed): ((20 if seed == 3 else 1.2) * RANDOM,) * 2 for seed in range(5)}
    verdicts = judged_again(with_heads(tmp_path, norms), 2, TASKS)
    kept, above = verdicts[f"cb: {KEPT}", ""].effect, verdicts[f"sst2: {ABOVE}", ""].effect
    assert (kept.value, kept.high) == (pytest.approx(20 - 12), 20)
    assert (above.value, above.low) == (pytest.approx((4 * 1.2 + 20) / 5 - 2), -2)


def test_a_ratio_cannot_be_nearer_to_its_number_than_it(tmp_path):
    def ratio(_, seed, method):
        return {"ft": 0.2, "lp-ft": 0.6 if seed == 3 else 1.0}[method]

    verdicts = judged_again(write_claims(tmp_path, usual, ratio, **SCOPE), 5, TASKS)
    near = verdicts["cb: LP-FT within 0.25 of 1", ""].effect
    assert (near.value, near.high) == (pytest.approx(0.25 - 0.08), 0.25)
