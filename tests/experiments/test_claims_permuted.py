"""Verdicts of claims follow what runs have stored: results moved, changed, missing, damaged."""

import json
import shutil

import pandas as pd
import pytest
from experiments.experiment_folders import (
    FAILS,
    HOLDS,
    UNTOLD,
    claims_scope,
    judged_again,
    known,
    ratio,
    write_claims,
)

from lpft.errors import InputError
from lpft.experiments.claims import RECIPE
from lpft.experiments.plan import ExperimentRuns
from lpft.results.pairing import PUBLISHED, SHARED

RESULTS = ("predictions", "features", "metrics.json", "features.json", "history.jsonl")


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> ExperimentRuns:
    return write_claims(tmp_path_factory.mktemp("claims"), known, ratio)


def permute(
    found: ExperimentRuns, folder, order: dict[tuple[str, str], tuple[str, str]]
) -> ExperimentRuns:
    """The experiment with the results of some settings in the folders of others."""
    copied = folder / "permuted"
    shutil.copytree(found.scope.folder, copied)
    for task in found.scope.tasks:
        for seed in found.scope.seeds:
            for (variant, method), (from_variant, from_method) in order.items():
                target = found.runs[variant, task, method, seed].folder
                source = found.runs[from_variant, task, from_method, seed].folder
                for name in RESULTS:
                    place = copied / target.relative_to(found.scope.folder) / name
                    if place.is_dir():
                        shutil.rmtree(place)
                        shutil.copytree(source / name, place)
                    else:
                        shutil.copy(source / name, place)
    return write_claims(copied, lambda *_: None)


FT, PROBED, MATCHED = (PUBLISHED, "ft"), (PUBLISHED, "lp-ft"), (SHARED, "ft")


def test_exchanging_the_methods_results_exchanges_the_verdicts(found, tmp_path):
    swapped = permute(found, tmp_path, {FT: PROBED, PROBED: FT})
    tasks = ("cb", "sst2")
    before, after = (judged_again(each, 1, tasks) for each in (found, swapped))
    for task in tasks:
        key = (f"{task}: LP-FT below FT", "published")
        one, other = before[key].effect, after[key].effect
        assert (other.value, other.low, other.high) == (-one.value, -one.high, -one.low)
        assert (before[key].verdict, after[key].verdict) == (HOLDS, FAILS)
        # Of what did not move the verdict stays, to the last digit.
        unmoved = (f"{task}: LP-LoRA below LoRA", "published")
        assert after[unmoved] == before[unmoved]
    before, after = (judged_again(each, 6) for each in (found, swapped))
    key = ("cb: LP-FT at least FT, within 1 point", "published")
    assert after[key].effect.low == -before[key].effect.high
    assert (before[key].verdict, after[key].verdict) == (HOLDS, FAILS)
    key = ("cb, books: LP-FT above FT", "published")
    assert after[key].effect.low == -before[key].effect.high
    assert (before[key].verdict, after[key].verdict) == (FAILS, HOLDS)
    before, after = (judged_again(each, 4) for each in (found, swapped))
    key = ("cb: LP-FT more than FT", "published")
    assert after[key].effect.low == -before[key].effect.high
    assert (before[key].verdict, after[key].verdict) == (FAILS, HOLDS)


def test_a_cycle_of_three_settings_is_followed(found, tmp_path):
    cycled = permute(found, tmp_path, {FT: MATCHED, PROBED: FT, MATCHED: PROBED})
    before, after = (judged_again(each, 1) for each in (found, cycled))
    # FT at its own rates now holds the changes of 4, LP-FT those of 10, FT at shared rates 4.
    own, shared = ("cb: LP-FT below FT", "published"), ("cb: LP-FT below FT", "shared")
    assert after[own].effect.value == pytest.approx(4 - 10)
    assert after[shared].effect.value == pytest.approx(4 - 10)
    assert (before[own].verdict, after[own].verdict) == (HOLDS, FAILS)
    assert (before[shared].verdict, after[shared].verdict) == (UNTOLD, FAILS)


def test_verdicts_are_read_from_samples_and_not_from_summaries(found, tmp_path):
    """Numbers of metrics.json and features.json that no sample supports change nothing."""
    copied = permute(found, tmp_path, {})
    for run in copied.runs.values():
        metrics = json.loads((run.folder / "metrics.json").read_text())
        for split in metrics["splits"].values():
            split["ece"] = split["calibrated"]["ece"] = split["macro_f1"] = 0.5
        (run.folder / "metrics.json").write_text(json.dumps(metrics))
        features = json.loads((run.folder / "features.json").read_text())
        for split in features["splits"].values():
            split["feature_difference"] = 7.0
        (run.folder / "features.json").write_text(json.dumps(features))
    again = write_claims(copied.scope.folder, lambda *_: None)
    for claim in (1, 3, 4, 6):
        two = {"seeds": (0, 1)}
        assert judged_again(again, claim, **two) == judged_again(found, claim, **two)


# --- what is missing or damaged


def test_a_missing_seed_leaves_both_of_its_runs_out(found, tmp_path):
    copied = permute(found, tmp_path, {})
    shutil.rmtree(copied.runs[PUBLISHED, "cb", "lp-ft", 3].folder)
    fewer = write_claims(copied.scope.folder, lambda *_: None)
    verdict = judged_again(fewer, 1, ("cb", "sst2"))["cb: LP-FT below FT", "published"]
    assert verdict.effect.count == 4
    assert verdict.effect.value == pytest.approx(6 + (0.1 - 0.1 - 0.2) / 4)
    assert not any("seed3" in name for name in verdict.effect.runs)
    assert verdict.verdict == HOLDS
    assert "only 4 seeds" in verdict.reason


def test_nothing_finished_leaves_every_claim_untold(tmp_path):
    shown = RECIPE.show(ExperimentRuns(claims_scope(tmp_path), {}, {}))
    overall = [verdict for verdict in shown.verdicts if verdict.is_whole]
    assert [verdict.verdict for verdict in overall] == [UNTOLD] * 8
    assert shown.exhibits == ()
    assert all(verdict.effect.value is None for verdict in shown.verdicts)


def test_runs_on_different_samples_are_refused(found, tmp_path):
    copied = permute(found, tmp_path, {})
    folder = copied.runs[PUBLISHED, "cb", "ft", 2].folder
    path = folder / "features" / "test.parquet"
    frame = pd.read_parquet(path)
    frame.assign(id=["another", *frame["id"][1:]]).to_parquet(path)
    with pytest.raises(InputError, match="were tested on different samples"):
        judged_again(copied, 1)


def test_lora_alone_has_its_claims(tmp_path):
    found = write_claims(
        tmp_path, known, ratio, methods=("lora", "lp-lora"), tasks=("cb",), seeds=(0, 1)
    )
    shown = RECIPE.show(found)
    listed = {
        claim: [(one.comparison, one.rates) for one in shown.verdicts if one.claim == claim]
        for claim in range(1, 7)
    }
    assert listed[1] == [
        ("overall", ""),
        ("overall", "published"),
        ("overall", "shared"),
        ("cb: LP-LoRA below LoRA", "published"),
        ("cb: LP-LoRA below LoRA", "shared"),
    ]
    assert listed[2] == listed[3] == listed[6] == [("overall", "")]


def test_own_rates_that_are_not_the_paper_s_are_not_called_published(tmp_path):
    found = write_claims(
        tmp_path,
        known,
        ratio,
        methods=("ft", "lp-ft"),
        tasks=("cb",),
        seeds=(0, 1),
        settings={"learning_rate": 1e-4},
    )
    # One rate is given for all, but batch sizes stay apart: 16 and 8.
    rates = {rates for _, rates in judged_again(found, 1)}
    assert rates == {"", "own", "shared"}
