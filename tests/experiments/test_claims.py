"""The recipe claims on runs with known effects: plan, verdicts counted by hand, exhibits."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from experiments.experiment_folders import (
    FAILS,
    HOLDS,
    ROWS,
    UNTOLD,
    by_comparison,
    claims_scope,
    judged_again,
    known,
    ratio,
    write_claims,
)
from scipy.special import expit
from scipy.stats import binom

from lpft.analysis import expected_calibration_error
from lpft.analysis.comparison import smallest_detectable_difference
from lpft.data import load_data
from lpft.errors import InputError
from lpft.experiments import theory as propositions
from lpft.experiments.claims import RECIPE
from lpft.experiments.comparisons import CLAIMS
from lpft.experiments.plan import ExperimentRuns
from lpft.experiments.verdicts import Claim, Part, PublishedQuestion
from lpft.results.exhibits import ExperimentRecord, check_shapes
from lpft.results.pairing import LP_START, PUBLISHED, RANDOM_START
from lpft.settings.configs import make_config
from lpft.theory.checks import TheoryCheck


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> ExperimentRuns:
    found = write_claims(tmp_path_factory.mktemp("claims"), known, ratio)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(propositions, "run_theory", lambda *, seed: THEORY[seed])
        propositions.THEORY(found)
    return found


def check(claim, setting, measured, promised, holds):
    return TheoryCheck(claim, setting, measured, promised, holds, "")


THEORY = {
    seed: [
        check("Proposition 4.1", "all parameters: logits, rate 1e-05 to 1e-06", 9.9, 10, True),
        check("Proposition 4.1", "all parameters: logits, rate 1e-06 to 1e-07", 9.5, 10, True),
        check("Corollary 4.3", "d=8", 2e-15 * (1 + seed), 0, True),
        check("Proposition 4.4", "P of LoRA less P of full fine-tuning", 0, 0, True),
        check("Proposition 4.4", "r=64, eps=0.1", 0.2, -2.0, None),
        check("Proposition 4.4", "r=512, eps=0.5", 0.999, 0.99, True),
        check("Proposition 4.4 as printed", "r=512, eps=0.5", 0.1, 0.99, False),
    ]
    for seed in range(5)
}


@pytest.fixture(scope="module")
def shown(found):
    return RECIPE.show(found)


def verdicts_of(shown, claim):
    return by_comparison([verdict for verdict in shown.verdicts if verdict.claim == claim])


def told(shown, claim):
    return {key: verdict.verdict for key, verdict in verdicts_of(shown, claim).items()}


# --- the plan


def test_the_plan_trains_every_setting_once(tmp_path):
    plan = RECIPE.plan(claims_scope(tmp_path))
    folders = {config.output_dir for config in plan.run_configs}
    # 2 tasks x 5 seeds x (4 methods, each again at the rates of the other of its pair);
    # 3 more scales x 2 x 5 seeds.
    assert len(folders) == 2 * 5 * 8 + 3 * 2 * 5
    assert {path.relative_to(tmp_path).parts[:2] for path in folders} == {
        ("runs", "cb"),
        ("runs", "sst2"),
    }
    rates = {
        key[::2]: (config.training.learning_rate, config.training.batch_size)
        for key, config in plan.runs.items()
        if (key.task, key.seed) == ("cb", 0) and key.variant in (PUBLISHED, LP_START, RANDOM_START)
    }
    assert rates == {
        (PUBLISHED, "ft"): (5e-5, 16),
        (PUBLISHED, "lp-ft"): (5e-6, 8),
        (PUBLISHED, "lora"): (1e-3, 16),
        (PUBLISHED, "lp-lora"): (1e-4, 8),
        (LP_START, "ft"): (5e-6, 8),
        (LP_START, "lp-ft"): (5e-6, 8),
        (LP_START, "lora"): (1e-4, 8),
        (LP_START, "lp-lora"): (1e-4, 8),
        (RANDOM_START, "ft"): (5e-5, 16),
        (RANDOM_START, "lp-ft"): (5e-5, 16),
        (RANDOM_START, "lora"): (1e-3, 16),
        (RANDOM_START, "lp-lora"): (1e-3, 16),
    }
    scaled = {
        (*key[1:], config.training.head_scale)
        for key, config in plan.runs.items()
        if key.variant.startswith("head scale")
    }
    assert scaled == {
        ("cb", method, seed, scale)
        for method in ("ft", "lp-ft")
        for seed in range(5)
        for scale in (0.1, 1.0, 10.0, 100.0)
    }
    assert list(plan.kernels) == [(task, seed) for task in ("cb", "sst2") for seed in range(5)]
    assert plan.kernels["cb", 0].kernels.solver == ()


def test_limited_training_limits_validation_unless_that_is_given(tmp_path):
    def limits(**settings):
        scope = claims_scope(tmp_path, settings=settings)
        configs = RECIPE.plan(scope).run_configs
        return {config.data.max_validation_samples for config in configs}

    assert limits(max_train_samples=500) == {500}
    assert limits(max_train_samples=500, max_validation_samples=90) == {90}
    assert limits() == {None}
    limited = load_data(make_config({"task": "demo", "max_validation_samples": 30}).data)
    assert (len(limited.train), len(limited.validation), len(limited.test)) == (360, 30, 120)
    with pytest.raises(InputError, match="max_validation_samples 1"):
        make_config({"task": "demo", "max_validation_samples": 1})


def test_a_plan_of_one_pair_and_one_without_any(tmp_path):
    lora = RECIPE.plan(claims_scope(tmp_path, methods=("lora", "lp-lora", "lp", "dora", "lp-dora")))
    assert {run.method for run in lora.runs} == {"lora", "lp-lora"}
    with pytest.raises(InputError, match=r"ft with lp-ft and lora with lp-lora, found ft, lora"):
        RECIPE.plan(claims_scope(tmp_path, methods=("ft", "lora")))


# --- verdicts counted by hand


def test_claim_1_feature_change(shown):
    verdicts = verdicts_of(shown, 1)
    expected = {
        ("overall", ""): FAILS,
        ("overall", "published"): FAILS,
        ("overall", "LP-start"): UNTOLD,
        ("overall", "random-start"): FAILS,
    }
    for task in ("cb", "sst2"):
        expected |= {
            (f"{task}: LP-FT below FT", "published"): HOLDS,  # 10 - 4 and little spread
            (f"{task}: LP-FT below FT", "LP-start"): UNTOLD,  # 4 - 4 on average
            (f"{task}: LP-FT below FT", "random-start"): FAILS,  # 10 - 11
            (f"{task}: LP-LoRA below LoRA", "published"): FAILS,  # 3 - 5
            (f"{task}: LP-LoRA below LoRA", "LP-start"): HOLDS,  # 6 - 5
            (f"{task}: LP-LoRA below LoRA", "random-start"): HOLDS,  # 3 - 2
        }
    assert told(shown, 1) == expected
    published = verdicts["cb: LP-FT below FT", "published"]
    sd = np.sqrt((0.1**2 + 0.1**2 + 0.2**2 + 0.2**2) / 4)
    assert published.effect.value == pytest.approx(6)
    assert published.effect.sd == pytest.approx(sd)
    assert published.detectable == pytest.approx(smallest_detectable_difference(sd, 5))
    # t(0.975, 4) sd / sqrt(5) = 2.776 x 0.1581 / 2.236 = 0.196; all texts move alike.
    assert published.effect.low == pytest.approx(6 - 0.196, abs=0.03)
    assert published.effect.high == pytest.approx(6 + 0.196, abs=0.03)
    assert published.unit == "L2 distance"
    assert published.reason == (
        "10.00 ± 0.16 under FT, 4.00 under LP-FT; the interval lies above 0"
    )
    assert sorted(published.effect.runs) == sorted(
        f"runs/cb/{name}-seed{seed}"
        for name in ("ft-rate5e-5-batch16", "lp-ft-rate5e-6-batch8")
        for seed in range(5)
    )


def test_claim_2_head_norm(shown):
    above, kept = (
        "LP head more than 2 times its random start",
        "norm within 20 % through LP-FT",
    )
    verdicts = verdicts_of(shown, 2)
    assert told(shown, 2) == {
        ("overall", ""): FAILS,
        (f"cb: {above}", ""): HOLDS,
        (f"sst2: {above}", ""): HOLDS,
        (f"cb: {kept}", ""): HOLDS,  # 14.7 / 14 is 5 % more
        (f"sst2: {kept}", ""): FAILS,  # 21 / 14 is 50 % more
    }
    assert verdicts[f"cb: {above}", ""].effect.value == pytest.approx(14 / 0.55 - 2)
    assert verdicts[f"cb: {kept}", ""].effect.value == pytest.approx(15)
    assert verdicts[f"sst2: {kept}", ""].effect.value == pytest.approx(-30)


def test_claim_3_head_scale(shown):
    at = "at scales 0.1, 1, 10, 100"
    verdicts = verdicts_of(shown, 3)
    assert told(shown, 3) == {
        ("overall", ""): FAILS,
        (f"cb: FT {at}", "published"): HOLDS,  # 12, 10, 6, 2
        (f"cb: LP-FT {at}", "published"): FAILS,  # 3, 4, 4.5, 5
    }
    assert verdicts[f"cb: FT {at}", "published"].effect.value == pytest.approx(1)
    assert verdicts[f"cb: LP-FT {at}", "published"].effect.value == pytest.approx(-1)
    assert verdicts[f"cb: FT {at}", "published"].effect.count == 5
    assert verdicts["overall", ""].remark == "on the first task only"


def test_claim_4_calibration(shown):
    # All logits are 2 apart: one bin of confidence 1 / (1 + exp(-2 / T)).
    def gain(accuracy, temperature):
        return 100 * (abs(accuracy - expit(2)) - abs(accuracy - expit(2 / temperature)))

    verdicts = verdicts_of(shown, 4)
    assert verdicts["cb: FT", "published"].effect.value == pytest.approx(gain(0.5, 4))
    assert verdicts["cb: LoRA", "published"].effect.value == pytest.approx(gain(0.55, 2))
    assert verdicts["cb: LP-FT", "published"].effect.value == 0
    assert "the temperature is 1 in 5 runs" in verdicts["cb: LP-FT", "published"].reason
    more = verdicts["cb: LP-FT more than FT", "published"]
    assert more.effect.value == pytest.approx(-gain(0.5, 4))
    assert {key: verdict for key, verdict in told(shown, 4).items() if "sst2" not in key[0]} == {
        ("overall", ""): FAILS,
        ("overall", "published"): FAILS,
        ("overall", "LP-start"): FAILS,
        ("overall", "random-start"): FAILS,
        ("cb: FT", "published"): HOLDS,
        ("cb: FT", "LP-start"): HOLDS,
        ("cb: LP-FT", "published"): UNTOLD,
        ("cb: LP-FT", "random-start"): UNTOLD,
        ("cb: LoRA", "published"): HOLDS,
        ("cb: LoRA", "LP-start"): HOLDS,
        ("cb: LP-LoRA", "published"): UNTOLD,
        ("cb: LP-LoRA", "random-start"): UNTOLD,
        ("cb: LP-FT more than FT", "published"): FAILS,
        ("cb: LP-FT more than FT", "LP-start"): FAILS,
        ("cb: LP-FT more than FT", "random-start"): FAILS,
        ("cb: LP-FT more than LoRA", "published"): FAILS,
        ("cb: LP-FT more than LP-LoRA", "published"): UNTOLD,
    }
    # Own runs count where these are the rates of both: four methods on two tasks at each.
    for rates in ("published", "LP-start", "random-start"):
        assert "holds in 4 and is undecided in 4 of 8" in verdicts["overall", rates].reason
    own = "only at each method's own rates"
    assert {key for key, verdict in verdicts.items() if verdict.remark.startswith(own)} == {
        (f"{task}: LP-FT more than {method}", "published")
        for task in ("cb", "sst2")
        for method in ("LoRA", "LP-LoRA")
    }
    assert "own rates only" in verdicts["overall", ""].remark


def test_claim_5_ft_ratio(shown):
    expected = {("overall", ""): FAILS}
    for task, probed in (("cb", HOLDS), ("sst2", FAILS)):  # LP-FT's ratio is near 1, or near 0.5
        near = {"LP-FT": (0.25, 1, probed), "FT": (0.1, 0.2, HOLDS), "LoRA": (0.05, 0, HOLDS)}
        expected |= {
            (f"{task}: {method} within {width:g} of {middle:g}", ""): verdict
            for method, (width, middle, verdict) in near.items()
        }
        expected |= {
            (f"{task}: {order}", ""): HOLDS for order in ("LP-FT above FT", "FT above LoRA")
        }
    assert told(shown, 5) == expected
    verdicts = verdicts_of(shown, 5)
    assert verdicts["sst2: LP-FT within 0.25 of 1", ""].effect.value == pytest.approx(0.25 - 0.49)
    assert "(published 0.1987)" in verdicts["cb: FT within 0.1 of 0.2", ""].reason
    assert verdicts["cb: FT within 0.1 of 0.2", ""].effect.runs == tuple(
        f"kernels/cb-seed{seed}" for seed in range(5)
    )


def test_claim_6_scores(shown):
    verdicts = verdicts_of(shown, 6)
    choices = ("published", "LP-start", "random-start")
    expected = dict.fromkeys([("overall", rates) for rates in ("", *choices)], FAILS)
    for task in ("cb", "sst2"):
        for rates in choices:
            expected[f"{task}: LP-FT at least FT, within 1 point", rates] = HOLDS
            expected[f"{task}, books: LP-FT above FT", rates] = FAILS
    assert told(shown, 6) == expected
    tested = verdicts["cb: LP-FT at least FT, within 1 point", "published"]
    assert tested.effect.value == pytest.approx(10)
    # Ten of 100 texts differ, the same in all seeds: 100 draws have a binomial number of them.
    assert tested.effect.low == pytest.approx(binom.ppf(0.025, 100, 0.1), abs=0.3)
    assert tested.effect.high == pytest.approx(binom.ppf(0.975, 100, 0.1), abs=0.3)
    assert tested.unit == "points"
    out = verdicts["cb, books: LP-FT above FT", "published"]
    assert out.effect.value == pytest.approx(-20)


def test_claims_7_and_8_propositions(shown):
    assert told(shown, 7) == {
        ("overall", ""): HOLDS,
        ("Proposition 4.1, all parameters: logits", ""): HOLDS,
    }
    (fall,) = [v for v in shown.verdicts if v.claim == 7 and v.comparison != "overall"]
    assert fall.effect.value == pytest.approx(9.5 - 8)
    assert fall.reason == (
        "the error falls 9.50 times or more; a fall of less than 8 fails; 10 checks over 5 seeds, "
        "all hold"
    )
    assert told(shown, 8) == {
        ("overall", ""): HOLDS,
        ("Corollary 4.3, features of inputs orthogonal to training's", ""): HOLDS,
        ("Proposition 4.4, with the factor sigma^2 r", ""): HOLDS,
        ("Proposition 4.4, as printed, which the claim does not rest on", ""): FAILS,
    }
    bound = verdicts_of(shown, 8)["Proposition 4.4, with the factor sigma^2 r", ""]
    assert bound.effect.value == pytest.approx(0.999 - 0.99)
    assert "5 checks over 5 seeds, all hold" in bound.reason
    assert "fails if its probability by chance is below 1e−6" in bound.reason
    models = {7: "random BERTs of 2 layers and width 32", 8: "random linear models of up to 128"}
    for claim, model in models.items():
        remarks = [verdict.remark for verdict in verdicts_of(shown, claim).values()]
        assert len(remarks) == {7: 2, 8: 4}[claim]
        assert all(f"a numerical check on {model}" in remark for remark in remarks[claim == 7 :])
        assert all("a numerical check" in remark for remark in remarks)
        assert all("not an estimate" in remark for remark in remarks)


def test_every_claim_says_what_the_paper_published(shown):
    whole = {verdict.claim: verdict for verdict in shown.verdicts if verdict.is_whole}
    assert sorted(whole) == list(range(1, 9))
    for claim in CLAIMS:
        assert whole[claim.number].reason.endswith(claim.published())
        assert ("Published means" in whole[claim.number].reason) == (
            claim.number in (1, 2, 4, 5, 6)
        )


def test_findings_say_what_the_rates_make_of_the_difference(shown):
    short, *sentences = shown.findings
    assert short == (
        "Of the paper's 8 claims, overall: claims 1, 2, 3, 4, 5 and 6 do not hold; claims "
        "7 and 8 hold. At published rates only, claims 1, 4 and 6 do not hold. At LP-start rates "
        "only, claim 1 is undecided; claims 4 and 6 do not hold. At random-start rates only, "
        "claims 1, 4 and 6 do not hold. The verdict on claim 1 depends on the choice of rates."
    )
    assert len(sentences) == 4
    # At own rates 10 - 4, at shared ones 4 - 4: none of it remains.
    assert sentences[0].startswith("cb: LP-FT moves features 0.40 times as far as FT at their own ")
    assert "1.00 times at a shared rate 5e-6, batch 8" in sentences[0]
    assert "1.10 times at a shared rate 5e-5, batch 16" in sentences[0]
    assert "most of the difference at own rates comes" in sentences[0]


def test_tables_have_ours_and_the_published_numbers(shown):
    tables = {table.name: table for table in shown.exhibits}
    assert list(tables) == ["feature-change", "head-norm", "calibration", "scores", "ft-ratio"]
    check_shapes(ExperimentRecord("claims", "", "paper", "minilm", {}, exhibits=shown.exhibits))
    rows = {row[:3]: row[3:] for row in tables["feature-change"].rows}
    assert len(rows) == 2 * 8
    ours, published = rows["cb", "FT", "published and random-start"]
    assert (ours.value, ours.count, published.value) == (pytest.approx(10), 5, 21.1)
    ours, published = rows["cb", "FT", "LP-start"]
    assert (ours.value, published) == (pytest.approx(4), None)
    ours, published = rows["cb", "LP-FT", "random-start"]
    assert (ours.value, published) == (pytest.approx(11), None)
    scores = {row[:3]: row[3:] for row in tables["scores"].rows}
    at = "published and LP-start"
    assert scores["cb", "LP-FT", at][0].value == pytest.approx(60)
    assert scores["cb", "LP-FT", at][1].value == 84.64
    assert scores["cb: books", "LP-FT", at][0].value == pytest.approx(40)
    ratios = {row[:2]: row[2:] for row in tables["ft-ratio"].rows}
    assert ratios["cb", "LP-FT"][0].value == pytest.approx(1.02)
    assert ratios["cb", "LP-FT"][1].value == 1.0
    assert ratios["sst2", "LP-FT"][1] is None
    by_row = {row[:3]: row[3:] for row in tables["calibration"].rows}
    ece = by_row["cb", "FT", "published and random-start"]
    labels, top = np.arange(ROWS) % 2, np.full(ROWS, expit(2.0))
    predicted = np.where(np.arange(ROWS) < 50, 1 - labels, labels)
    probabilities = np.where(np.eye(2)[predicted] == 1, top[:, None], 1 - top[:, None])
    assert ece[0].value == pytest.approx(100 * expected_calibration_error(probabilities, labels))


RESULTS = ("predictions", "features", "metrics.json", "features.json", "history.jsonl")


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


FT, PROBED = (PUBLISHED, "ft"), (PUBLISHED, "lp-ft")


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
        ("overall", "LP-start"),
        ("overall", "random-start"),
        ("cb: LP-LoRA below LoRA", "published"),
        ("cb: LP-LoRA below LoRA", "LP-start"),
        ("cb: LP-LoRA below LoRA", "random-start"),
    ]
    assert listed[2] == listed[3] == listed[6] == [("overall", "")]


RULE = "So the paper's own means do not agree in every case"


def published_by(claim):
    return CLAIMS[claim - 1].published()


def test_sets_are_counted_by_question_and_those_against_are_named():
    # Table 13: of nine sets WSC alone has an LP head below 1; all have a random one of 0.795.
    questions = (
        PublishedQuestion("a", (13,), ("lp",), ("head_norm",), lambda probed: probed > 1),
        PublishedQuestion("b", (13,), ("pretrained",), ("head_norm",), lambda start: start < 1),
        PublishedQuestion("c", (13,), ("dora",), ("head_norm",), lambda norm: norm > 1),
    )

    def sentence(*parts, questions=questions):
        return Claim(1, "", parts, lambda *_: [], "Table 13", questions).published()

    told = "Published means (Table 13): a on 8 of 9 sets, against: wsc; b on 9 of 9 sets"
    assert sentence(Part("mostly", "most")) == told
    assert sentence(Part("all")) == f"{told}. {RULE}"
    assert sentence(Part("all"), questions=questions[1:]) == (
        "Published means (Table 13): b on 9 of 9 sets"
    )
    assert sentence(Part("all"), questions=questions[2:]) == ""


@pytest.mark.parametrize(
    ("claim", "told"),
    [
        # Table 12: 1.84 and 1.94 under LoRA and LP-LoRA on MRPC alone.
        (1, ["LP-FT below FT on 12 of 12 sets", "below LoRA on 11 of 12 sets, against: mrpc"]),
        # Table 13: WSC's norm is 2.26e-4 after LP, of 0.795 at random, and 0.108 after LP-FT.
        (2, ["start on 8 of 9 sets, against: wsc", "LP-FT on 8 of 9 sets, against: wsc"]),
        # Tables 3, 14 and 15: ECE of CB under LoRA 12.89 to 16.22, of WSC under FT 6.26 to 7.97.
        (
            4,
            [
                "falls under FT on 7 of 8 sets, against: wsc",
                "falls under LP-FT on 7 of 8 sets, against: wsc",
                "falls under LoRA on 7 of 8 sets, against: cb",
                "falls under LP-LoRA on 8 of 8 sets",
                "most under LP-FT on 4 of 8 sets, against: cb, wsc, cola and sst2",
            ],
        ),
        # Table 2: 0.1987 to 0.2216 under FT, 0.9918 to 1 under LP-FT, 0.0005 at most under LoRA.
        (5, ["LP-FT above FT on 4 of 4 sets", "LoRA within 0.05 of 0 on 4 of 4 sets"]),
        # 57.95 of 58.75 on CoLA, 87.60 of 88.14 on MRPC, 87.05 of 87.09 on PubMed; WSC's are equal.
        (
            6,
            [
                "LP-FT at least FT on 7 of 10 sets, against: cola, mrpc and pubmed",
                "LP-FT above FT out of distribution on 2 of 3 sets, against: semeval",
            ],
        ),
    ],
)
def test_the_papers_means_are_counted(claim, told):
    sentence = published_by(claim)
    assert sentence.startswith("Published means (Table")
    for part in told:
        assert part in sentence
    assert (RULE in sentence) == (claim in (1, 2, 4))


def test_what_has_no_published_numbers_says_so_or_nothing():
    assert "figures 3, 10 and 11" in published_by(3)
    assert published_by(7) == published_by(8) == ""
