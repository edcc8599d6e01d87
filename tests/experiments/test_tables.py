"""The paper's tables from runs written by hand: our numbers, published ones, differences."""

import re

import numpy as np
import pytest
from experiments.experiment_folders import scope_of, write_plan
from results.scored_runs import right_of, write_scored

from lpft.experiments.catalogue import EXPERIMENTS
from lpft.experiments.measures import NOTE_ON_RATES
from lpft.experiments.prepare import collect
from lpft.experiments.run import find_recipe
from lpft.experiments.tables import by_rates
from lpft.results.exhibits import Estimate

ROWS = 40
SEEDS = tuple(range(5))
WRONG = {"lp": 14, "ft": 12, "lp-ft": 6, "lora": 10, "lp-lora": 10}
"""Wrong answers of 40 with seed 0; each further seed has one more."""


def made(name, folder, tasks, *, methods=None, seeds=SEEDS, describe=None, ood=(), settings=None):
    """The recipe's exhibits by name, and its findings, with every planned run written."""
    recipe = find_recipe(name)
    changes = {} if methods is None else {"methods": methods}
    changes |= {} if settings is None else {"settings": settings}
    scope = scope_of(recipe, folder, tasks=tasks, seeds=seeds, **changes)
    plan = recipe.plan(scope)

    def write(target, key, settings):
        right = right_of(ROWS, WRONG[key.method] + key.seed)
        training = plan.runs[key].training
        write_scored(
            target,
            key.method,
            key.seed,
            dict.fromkeys(("validation", "test", *ood), right),
            data_name=key.task,
            task=key.task,
            learning_rate=training.learning_rate,
            batch_size=training.batch_size,
            split_protocol="paper",
            **settings,
        )

    write_plan(plan, (lambda *_: {}) if describe is None else describe, write)
    results = recipe.show(collect(scope, plan)[0])
    return {exhibit.name: exhibit for exhibit in results.exhibits}, results.findings


def cell(table, names, column):
    """The cell of the row that begins with ``names``, by its column's full heading."""
    (row,) = [row for row in table.rows if row[: table.headers] == names]
    headings = [(each.above, each.name) for each in table.columns]
    return row[headings.index(column)]


def test_table8_has_ours_beside_the_published_scores(tmp_path):
    exhibits, _ = made("table8", tmp_path, ("cb", "rte"))
    table = exhibits["table8"]
    assert [column.source for column in table.columns] == ["names", "names", "ours", "published"]
    assert len(table.rows) == 2 * 5
    ours = cell(table, ("cb", "LP-FT"), ("score", "minilm"))
    wrong = np.array([6, 7, 8, 9, 10])
    right = 100 * (ROWS - wrong) / ROWS
    assert ours.value == pytest.approx(right.mean())
    assert ours.sd == pytest.approx(np.std(right, ddof=1))
    assert ours.count == 5
    assert ours.runs == tuple(f"runs/cb/lp-ft-rate5e-6-batch8-seed{seed}" for seed in SEEDS)
    published = cell(table, ("cb", "LP-FT"), ("score", "roberta-base, published"))
    assert published == Estimate(84.64, sd=2.40, count=5)
    assert "accuracy on cb and rte" in table.note


def test_each_task_is_judged_by_its_own_metric(tmp_path):
    exhibits, _ = made(
        "table8",
        tmp_path,
        ("cola",),
        seeds=(0,),
        describe=lambda *_: {"metric": "matthews_correlation"},
    )
    # 12 wrong of 40, the first ones, labels 0 1 0 1 ...: 14 of 20 right in either class.
    ours = cell(exhibits["table8"], ("cola", "FT"), ("score", "minilm"))
    assert ours.value == pytest.approx(100 * (14 * 14 - 6 * 6) / 20**2)
    assert "Matthews correlation on cola" in exhibits["table8"].note


def test_differences_are_paired_by_seed_and_read_with_their_interval(tmp_path):
    exhibits, findings = made("table8", tmp_path, ("cb",))
    table = exhibits["table8-differences"]
    pair = ("cb", "LP-FT against FT", "published")
    difference = cell(table, pair, ("", "Difference"))
    assert difference.value == pytest.approx(100 * 6 / ROWS)
    assert difference.sd is None
    assert 0 < difference.low < difference.value < difference.high
    # The same difference in every seed says nothing about how much other seeds would vary.
    assert cell(table, pair, ("", "Detectable")) is None
    assert cell(table, pair, ("", "Reading")) == "higher"
    none = ("cb", "LP-LoRA against LoRA", "published")
    assert cell(table, none, ("", "Difference")).value == 0
    assert cell(table, none, ("", "Reading")) == "cannot tell"
    assert [row[1:3] for row in table.rows] == [
        (pair, rates)
        for pair, of_either in (
            ("LP-FT against FT", ("LP-start (LP-FT's)", "random-start (FT's)")),
            ("LP-LoRA against LoRA", ("LP-start (LP-LoRA's)", "random-start (LoRA's)")),
        )
        for rates in ("published", *of_either)
    ]
    assert findings == (
        "Test score, LP-FT against FT: higher at every choice of rates on cb.",
        "Test score, LP-LoRA against LoRA: cannot tell at any choice of rates on cb.",
    )
    assert NOTE_ON_RATES in table.note


def test_one_sentence_says_how_readings_depend_on_the_rates():
    readings = {
        "cb": {"published": "higher", "LP-start": "higher", "random-start": "lower"},
        "rte": {"published": "higher", "LP-start": "higher", "random-start": "higher"},
        "wic": {"published": "higher", "LP-start": "higher", "random-start": "higher"},
        "pubmed": {"shared": "lower"},
    }
    assert by_rates(readings) == (
        "higher at every choice of rates on rte and wic; lower at shared rates on pubmed; on cb it "
        "depends on the rates: higher at published and LP-start rates, lower at random-start rates"
    )


def test_with_one_seed_nothing_is_told(tmp_path):
    exhibits, _ = made("table8", tmp_path, ("cb",), seeds=(0,))
    table = exhibits["table8-differences"]
    assert {row[-1] for row in table.rows} == {"cannot tell"}
    assert {row[-2] for row in table.rows} == {None}


def test_what_failed_is_absent_and_the_rest_is_shown(tmp_path):
    def describe(key, _):
        failed = key.method in ("ft", "lora") or (key.method, key.seed) == ("lp-ft", 1)
        return None if failed else {}

    exhibits, _ = made("table8", tmp_path, ("cb",), seeds=(0, 1), describe=describe)
    table = exhibits["table8"]
    assert cell(table, ("cb", "LP-FT"), ("score", "minilm")).count == 1
    # A published number stands there whether we have one or not.
    assert cell(table, ("cb", "FT"), ("score", "minilm")) is None
    assert cell(table, ("cb", "FT"), ("score", "roberta-base, published")).value == 81.43
    assert "table8-differences" not in exhibits


def test_table10_lists_out_of_distribution_sets_below_their_task(tmp_path):
    ood = ("ood/dynasent", "ood/sst5")
    exhibits, _ = made("table10", tmp_path, ("amazon",), seeds=(0,), ood=ood)
    table = exhibits["table10"]
    assert list(dict.fromkeys(row[0] for row in table.rows)) == [
        "amazon",
        "amazon: dynasent",
        "amazon: sst5",
    ]
    column = ("accuracy", "roberta-base, published")
    assert cell(table, ("amazon: sst5", "FT"), column) == Estimate(72.52, sd=1.28, count=5)
    assert cell(table, ("amazon: sst5", "FT"), ("accuracy", "minilm")).value == 70.0
    assert len(exhibits["table10-differences"].rows) == 3 * 2 * 3


def test_table10_has_the_calibration_of_every_set_with_one_temperature(tmp_path):
    exhibits, findings = made(
        "table10",
        tmp_path,
        ("amazon",),
        seeds=(0,),
        ood=("ood/sst5",),
        describe=lambda *_: {"temperature": 2.0},
    )
    table = exhibits["table10-ece"]
    assert table.title.startswith("ECE with and without temperature on amazon, in and out of")
    assert "fitted on the in-distribution validation split and on no other" in table.note
    assert [row[0] for row in table.rows] == ["amazon"] * 5 + ["amazon: sst5"] * 5
    # Logits (2, 0): confidence sigma(2) without and sigma(1) with T = 2; 28 of 40 are right.
    without, with_t = (100 * abs(28 / 40 - 1 / (1 + np.exp(-x))) for x in (2.0, 1.0))
    for place in ("amazon", "amazon: sst5"):
        row = (place, "FT")
        assert cell(table, row, ("without T", "minilm")).value == pytest.approx(without)
        assert cell(table, row, ("with T", "minilm")).value == pytest.approx(with_t)
        improvement = cell(table, row, ("improvement", "minilm")).value
        assert improvement == pytest.approx(without - with_t)
    assert {column.source for column in table.columns} == {"names", "ours"}
    # Of the score, of ECE without and with T: two pairs.
    assert len(findings) == 3 * 2
    for how in ("without", "with"):
        differences = exhibits[f"table10-ece-differences-{how}-temperature"]
        assert len(differences.rows) == 2 * 2 * 3
    # LP-FT has 34 of 40 right, and is as confident.
    row = ("amazon: sst5", "LP-FT against FT", "LP-start (LP-FT's)")
    gap = 100 * abs(34 / 40 - 1 / (1 + np.exp(-1.0))) - with_t
    assert cell(differences, row, ("", "Difference")).value == pytest.approx(gap)


def test_titles_name_the_tasks_and_metrics_that_were_used(tmp_path):
    def describe(key, _):
        return {"metric": "matthews_correlation" if key.task == "cola" else "accuracy"}

    exhibits, _ = made("table8", tmp_path / "8", ("cb", "cola"), seeds=(0,), describe=describe)
    assert exhibits["table8"].title.startswith("Test score on cb and cola, ")
    exhibits, _ = made("table16", tmp_path / "16", ("cola",), seeds=(0,), describe=describe)
    assert exhibits["table16"].title.startswith("Matthews correlation on cola, ")
    for name in ("table8", "table10", "table16"):
        assert not re.search("eight|BOSS|PubMed|Accuracy", EXPERIMENTS[name].shows)


def moved(key, config):
    """Feature changes of three texts: 9, 10 and 11 for FT at its own rate, 4, 5 and 6 otherwise."""
    mean = 10.0 if (key.method, config.training.learning_rate) == ("ft", 5e-5) else 5.0
    changes = {"test": [mean - 1, mean, mean + 1]}
    return {"changes": changes, "change": mean, "head_norm": 3.0}


def test_table1_has_a_row_of_the_pretrained_model_and_repeats_itself_at_other_rates(tmp_path):
    exhibits, findings = made("table1", tmp_path, ("cb",), seeds=(0, 1), describe=moved)
    table = exhibits["table1"]
    assert [row[1] for row in table.rows] == [
        "pre-trained",
        "LP",
        "FT",
        "LP-FT",
        "LoRA",
        "LP-LoRA",
    ]
    ours, theirs = "minilm", "roberta-base, published"
    assert cell(table, ("cb", "pre-trained"), ("CS(F)", ours)).value == pytest.approx(0.3)
    assert cell(table, ("cb", "pre-trained"), ("CS(F)", theirs)).value == 0.997
    assert cell(table, ("cb", "pre-trained"), ("Diff(F)", ours)) is None
    assert cell(table, ("cb", "FT"), ("Diff(F)", ours)).value == pytest.approx(10.0)
    assert cell(table, ("cb", "FT"), ("Diff(F)", theirs)).value == 22.1
    assert cell(table, ("cb", "FT"), ("Norm(C)", ours)).value == pytest.approx(3.0)
    assert cell(table, ("cb", "LP-FT"), ("FDR(F)", theirs)).value == 6.47e6

    shared = exhibits["table1-lp-start"]
    assert [row[1] for row in shared.rows] == ["FT", "LP-FT", "LoRA", "LP-LoRA"]
    assert {column.source for column in shared.columns} == {"names", "ours"}
    assert cell(shared, ("cb", "FT"), ("Diff(F)", ours)).value == pytest.approx(5.0)
    assert cell(shared, ("cb", "FT"), ("Diff(F)", ours)).runs[0].startswith("runs/cb/ft-rate5e-6")

    differences = exhibits["table1-differences"]
    choices = {"published": -5.0, "LP-start (LP-FT's)": 0.0, "random-start (FT's)": -5.0}
    for rates, expected in choices.items():
        row = ("cb", "LP-FT against FT", rates)
        assert cell(differences, row, ("", "Difference")).value == pytest.approx(expected)
    assert any(
        "on cb it depends on the rates: lower at published and random-start rates" in finding
        for finding in findings
    )


def test_rates_that_are_shared_already_are_shown_once(tmp_path):
    exhibits, findings = made("table1", tmp_path, ("qnli",), seeds=(0, 1), describe=moved)
    assert set(exhibits) == {"table1", "table1-differences"}
    differences = exhibits["table1-differences"]
    assert {row[2] for row in differences.rows} == {"shared"}
    assert all(" at shared rates on qnli" in finding for finding in findings)
    assert exhibits["table1"].title == "Features and head norm"
    assert not any(NOTE_ON_RATES in exhibit.note for exhibit in exhibits.values())


COMPARED = {
    "table1": ("table1",),
    "table3": ("table3-ece", "table3-mce"),
    "table8": ("table8",),
    "table10": ("table10", "table10-ece"),
    "table11": ("table11",),
    "table12": ("table12",),
    "table13": ("table13",),
    "table16": ("table16",),
}
"""Every recipe of runs that compares methods in tables, and its tables with published numbers."""


@pytest.mark.parametrize(("name", "tables"), COMPARED.items())
def test_methods_are_compared_at_published_rates_and_at_those_of_either(tmp_path, name, tables):
    ood = ("ood/sst5",)
    exhibits, _ = made(name, tmp_path, ("amazon",), seeds=(0,), ood=ood, describe=moved_on(ood))
    for table in tables:
        own, shared = exhibits[table], exhibits[f"{table}-lp-start"]
        others = exhibits[f"{table}-random-start"]
        assert own.title.endswith(", each method at its published rates")
        assert shared.title.endswith(
            ", at LP-start rates (LP-FT's and LP-LoRA's, for both methods)"
        )
        assert others.title.endswith(", at random-start rates (FT's and LoRA's, for both methods)")
        assert [each.folded for each in (own, shared, others)] == [False, True, True]
        assert shared.note == f"{NOTE_ON_RATES} {own.note}"
        assert "each choice favours the method that its rates were chosen for" in shared.note
        for each in (shared, others):
            assert {column.source for column in each.columns} == {"names", "ours"}
        # Published: FT at 1e-5 and 16 (LP-FT 1e-6 and 8), LoRA at 1e-3 and 16 (LP-LoRA 5e-4 and 8).
        assert folders_of(own, "FT") == {"runs/amazon/ft-rate1e-5-batch16-seed0"}
        assert folders_of(shared, "FT") == {"runs/amazon/ft-rate1e-6-batch8-seed0"}
        assert folders_of(shared, "LoRA") == {"runs/amazon/lora-rate5e-4-batch8-seed0"}
        assert folders_of(shared, "LP-FT") == folders_of(own, "LP-FT")
        assert folders_of(shared, "LP") == set()
        assert folders_of(others, "LP-FT") == {"runs/amazon/lp-ft-rate1e-5-batch16-seed0"}
        assert folders_of(others, "LP-LoRA") == {"runs/amazon/lp-lora-rate1e-3-batch16-seed0"}
        assert folders_of(others, "FT") == folders_of(own, "FT")


def moved_on(ood):
    return lambda *_: {"changes": {split: [1.0, 2.0] for split in ("test", *ood)}}


def folders_of(table, method):
    """The runs that the cells of a method are of."""
    cells = [cell for row in table.rows if row[1] == method for cell in row[table.headers :]]
    return {run for cell in cells if cell is not None for run in cell.runs}


def test_a_pair_whose_published_rates_are_equal_is_trained_and_shown_once(tmp_path):
    """On PubMed FT and LP-FT have one rate and batch size, LoRA and LP-LoRA have not."""
    plan = find_recipe("table16").plan(scope_of(find_recipe("table16"), tmp_path, seeds=(0,)))
    assert len(plan.run_configs) == 5 + 2
    exhibits, _ = made("table16", tmp_path, ("pubmed",), seeds=(0,))
    for choice, owner in (("LP-start", "LP-LoRA"), ("random-start", "LoRA")):
        table = exhibits[f"table16-{choice.lower()}"]
        assert [row[1] for row in table.rows] == ["LoRA", "LP-LoRA"]
        assert table.title.endswith(f"at {choice} rates ({owner}'s, for both methods)")
    rates = [row[1:3] for row in exhibits["table16-differences"].rows]
    assert rates == [
        ("LP-FT against FT", "shared"),
        ("LP-LoRA against LoRA", "published"),
        ("LP-LoRA against LoRA", "LP-start (LP-LoRA's)"),
        ("LP-LoRA against LoRA", "random-start (LoRA's)"),
    ]


def test_rates_that_were_given_are_not_called_published(tmp_path):
    exhibits, _ = made("table8", tmp_path, ("cb",), seeds=(0,), settings={"batch_size": 4})
    assert exhibits["table8"].title == "Accuracy on cb, each method at its own rates"


def test_the_pretrained_rows_norm_is_that_of_the_random_head(tmp_path):
    exhibits, _ = made("table13", tmp_path, ("rte", "cb"), seeds=(0,), methods=("ft", "lp-ft"))
    table = exhibits["table13"]
    # ft comes first: its start is random.
    assert cell(table, ("rte", "pre-trained"), ("Norm(C)", "minilm")).value == pytest.approx(0.55)
    assert cell(table, ("rte", "LP-FT"), ("Norm(C)", "roberta-base, published")).value == 28.6
    assert "halved: rte" in table.note  # CB has three classes
    assert "halved" not in exhibits["table13-lp-start"].note


def test_a_head_that_probing_left_is_not_called_pretrained(tmp_path):
    """Fine-tuning from it keeps its norm as that of the start, and comes first here."""
    exhibits, _ = made("table13", tmp_path / "with", ("rte",), seeds=(0,), methods=("lp-ft", "ft"))
    cells = ("rte", "pre-trained"), ("Norm(C)", "minilm")
    assert cell(exhibits["table13"], *cells).value == pytest.approx(0.55)
    exhibits, _ = made("table13", tmp_path / "alone", ("rte",), seeds=(0,), methods=("lp-ft",))
    assert cell(exhibits["table13"], *cells) is None


def test_table3_subtracts_run_by_run_and_says_where_no_temperature_was_fitted(tmp_path):
    def describe(key, config):
        kept = (key.seed, key.method, config.training.batch_size) == (1, "ft", 16)
        return {"temperature": 1.0 if kept else 2.0, "reason": "no minimum" if kept else None}

    exhibits, findings = made("table3", tmp_path, ("rte",), seeds=(0, 1), describe=describe)
    table = exhibits["table3-ece"]
    # Logits (2, 0): confidence sigma(2) without and sigma(1) with T = 2; all rows in one bin.
    confidence = [1 / (1 + np.exp(-2.0)), 1 / (1 + np.exp(-1.0))]
    accuracies = np.array([28 / 40, 27 / 40])
    without = 100 * np.abs(accuracies - confidence[0])
    with_t = 100 * np.abs(accuracies - [confidence[1], confidence[0]])
    ft = ("rte", "FT")
    assert cell(table, ft, ("without T", "minilm")).value == pytest.approx(without.mean())
    assert cell(table, ft, ("with T", "minilm")).value == pytest.approx(with_t.mean())
    improvement = cell(table, ft, ("improvement", "minilm"))
    assert improvement.value == pytest.approx((without - with_t).mean())
    assert improvement.sd == pytest.approx(np.std(without - with_t, ddof=1))
    theirs = "roberta-base, published"
    assert cell(table, ft, ("with T", theirs)) == Estimate(5.13, sd=0.63, count=5)
    assert cell(table, ft, ("improvement", theirs)).value == 16.03
    assert cell(exhibits["table3-mce"], ft, ("without T", theirs)).value == 53.11
    assert (
        "The temperature stayed 1 in 1 run (runs/rte/ft-rate1e-5-batch16-seed1): no minimum."
        in findings
    )
    assert {"table3-differences-without-temperature", "table3-differences-with-temperature"} < set(
        exhibits
    )
