"""Experiments from their command to their page: resumed, replaced, several, with failures."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from data.release_files import case_of
from experiments.experiment_folders import empty_page

from lpft.errors import InputError
from lpft.experiments import run as reproduction
from lpft.experiments import tables
from lpft.experiments.catalogue import EXPERIMENTS, SAME_AS
from lpft.experiments.plan import make_scope
from lpft.experiments.run import NotReproduced, Reproduction, Session, find_recipe
from lpft.results.exhibits import read_experiment
from lpft.results.formats import rate as formatted
from lpft.runs import sweep as sweeps

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reproduce.md"
TINY = ("--tiny", "--methods", "lp,ft,lp-ft")
FOLDERS = {
    f"runs/demo/{method}-seed{seed}"
    for method in ("lp", "ft-rate5e-3-batch16", "lp-ft-rate5e-3-batch16")
    for seed in (0, 1)
}


@pytest.fixture(scope="module")
def table8(lpft, tmp_path_factory):
    """Table 8 of three methods on the tiny model, as the command left it, and its outcome."""
    folder = tmp_path_factory.mktemp("experiments") / "table8"
    outcome = lpft("reproduce", "table8", *TINY, "--output-dir", folder)
    assert outcome.status == 0, outcome.err
    return folder, outcome


@pytest.fixture(autouse=True)
def quick_page(monkeypatch):
    """An empty page for all experiments but ``table8``, which is made before."""
    monkeypatch.setattr(reproduction, "build_report", empty_page)


@pytest.fixture
def copy(table8, tmp_path):
    """A copy of it that a test may change."""
    return Path(shutil.copytree(table8[0], tmp_path / "table8"))


def record_of(folder):
    return read_experiment(json.loads((folder / "experiment.json").read_text()))


def found_runs(folder):
    return {path.parent.relative_to(folder).as_posix() for path in folder.rglob("run.json")}


def fail(monkeypatch, wanted, error):
    """Let the runs for which ``wanted(config)`` is true raise ``error``."""
    train = sweeps.train_run

    def failing(config, **options):
        if wanted(config):
            raise error
        return train(config, **options)

    monkeypatch.setattr(sweeps, "train_run", failing)


def never(monkeypatch):
    """Let any training be a failure of the test."""
    fail(monkeypatch, lambda _: True, AssertionError("a finished run was trained again"))


def test_the_chain_ends_in_a_record_a_page_and_a_table(table8):
    folder, outcome = table8
    record = record_of(folder)
    assert (record.name, record.protocol, record.failures) == ("table8", "paper", ())
    assert record.settings["seeds"] == [0, 1]
    assert record.settings["tasks"] == ["demo"]
    assert {exhibit.name for exhibit in record.exhibits} == {"table8", "table8-differences"}
    named = {name for row in record.exhibits[0].rows for name in row[2].runs}
    assert named == FOLDERS == found_runs(folder)
    assert set(record.timings) == {"runs", "kernels"}
    assert "Test score" in (folder / "report.html").read_text()
    assert "LP-FT against FT" in outcome.out
    assert f"report: {folder / 'report.html'}" in outcome.out


def test_a_tiny_experiment_says_that_it_shows_nothing(table8):
    record = record_of(table8[0])
    assert "nothing but that the chain works" in record.differences[0]
    told = " ".join(record.differences)
    for part in ("2 seeds; the paper has 5", "Epochs: 2; the paper has 10", "no results on demo"):
        assert part in told


def test_runs_keep_no_weights_unless_asked_to(table8, lpft, tmp_path):
    assert not list(table8[0].rglob("model.safetensors"))
    options = ("--tiny", "--methods", "lp", "--seeds", "1", "--save-model")
    assert lpft("reproduce", "table8", *options, "--output-dir", tmp_path / "kept").status == 0
    assert len(list((tmp_path / "kept").rglob("model.safetensors"))) == 1


def test_a_finished_experiment_is_not_replaced_unasked(copy, lpft):
    before = (copy / "experiment.json").read_bytes()
    outcome = lpft("reproduce", "table8", *TINY, "--output-dir", copy)
    assert outcome.status == 2
    assert "contains the experiment table8: give --resume" in outcome.err
    assert (copy / "experiment.json").read_bytes() == before


def test_resuming_trains_only_what_is_not_finished(copy, lpft, monkeypatch):
    lost = copy / "runs/demo/lp-seed1"
    shutil.rmtree(lost)
    trained = []
    fail(monkeypatch, lambda config: trained.append(config.output_dir), None)
    outcome = lpft("reproduce", "table8", *TINY, "--output-dir", copy, "--resume")
    assert outcome.status == 0, outcome.err
    assert trained == [lost]
    assert found_runs(copy) == FOLDERS


def test_an_interrupted_experiment_goes_on_to_the_same_result(table8, lpft, tmp_path, monkeypatch):
    folder = tmp_path / "stopped"
    with monkeypatch.context() as patched:
        fail(patched, lambda config: config.training.method == "lp-ft", KeyboardInterrupt())
        stopped = lpft("reproduce", "table8", *TINY, "--output-dir", folder)
    assert stopped.status == 130
    assert "--resume" in record_of(folder).failures[0][1]
    assert len(found_runs(folder)) == 4
    outcome = lpft("reproduce", "table8", *TINY, "--output-dir", folder, "--resume")
    assert outcome.status == 0, outcome.err
    assert record_of(folder).exhibits == record_of(table8[0]).exhibits
    assert record_of(folder).failures == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--epochs", "3"), "was started with --epochs 2"),
        (("--pooling", "mean"), "pooling"),
    ],
)
def test_resuming_with_other_settings_is_refused_before_any_work(
    copy, lpft, monkeypatch, options, message
):
    never(monkeypatch)
    before = (copy / "experiment.json").read_bytes()
    outcome = lpft("reproduce", "table8", *TINY, "--output-dir", copy, "--resume", *options)
    assert outcome.status == 2
    assert message in outcome.err
    assert outcome.err.count("error:") == 1
    assert (copy / "experiment.json").read_bytes() == before


def test_resuming_with_another_model_is_refused(copy, lpft, monkeypatch, tiny_bert):
    never(monkeypatch)
    options = (*TINY, "--model", tiny_bert, "--output-dir", copy, "--resume")
    outcome = lpft("reproduce", "table8", *options)
    assert outcome.status == 2
    assert "the model's weights changed" in outcome.err


def test_another_experiment_is_neither_resumed_nor_replaced(copy, lpft):
    for option in ("--resume", "--overwrite"):
        outcome = lpft("reproduce", "table3", *TINY, "--output-dir", copy, option)
        assert outcome.status == 2
        assert "contains the experiment table8, not table3" in outcome.err
    assert found_runs(copy) == FOLDERS


def test_an_experiment_on_other_tasks_is_not_resumed(copy, lpft, monkeypatch):
    """As a folder of an earlier version may hold, whose figure 10 was on CB."""
    never(monkeypatch)
    options = ("--tiny", "--tasks", "cb,rte", "--output-dir", copy, "--resume")
    outcome = lpft("reproduce", "table8", *options)
    assert outcome.status == 2
    assert "contains table8 on demo, found cb and rte: continue it with --tasks demo" in outcome.err


def test_a_plan_with_tuned_rates_counts_its_search(lpft, tmp_path):
    options = (*TINY, "--tuned-rates", "--dry-run", "--json", "--output-dir", tmp_path / "t")
    parts = json.loads(lpft("reproduce", "table8", *options).out)["table8"]
    # One rate for both methods: it, a third and three times, tried with one seed.
    searched = {(p["method"], p["rate"], *p["seeds"]) for p in parts if p["what"] == "search"}
    rates = (0.005, 0.0017, 0.015)
    assert searched == {(method, rate, 0) for method in ("ft", "lp-ft") for rate in rates}
    open_ones = [(p["method"], p["seeds"]) for p in parts if p["rate"] == "tuned"]
    assert open_ones == [("ft", [0, 1]), ("lp-ft", [0, 1])]
    outcome = lpft("reproduce", "table2", *TINY, "--tuned-rates", "--dry-run")
    assert "--tuned-rates changes nothing in table2" in outcome.err


@pytest.mark.heavy
def test_rates_are_tuned_on_validation_and_the_search_goes_on_where_it_was_stopped(
    lpft, tmp_path, monkeypatch
):
    folder = tmp_path / "t"
    options = ("--tiny", "--methods", "ft,lp-ft", "--tuned-rates", "--output-dir", folder)
    with monkeypatch.context() as patched:
        fail(patched, lambda config: config.training.method == "lp-ft", KeyboardInterrupt())
        assert lpft("reproduce", "table8", *options).status == 130
    tried = {path.name for path in (folder / "search/runs/demo").iterdir()}
    assert {name for name in tried if name.startswith("ft")} == {
        f"ft-learning-rate{rate}-seed0" for rate in ("0.005", "0.0017", "0.015")
    }
    trained = []
    with monkeypatch.context() as patched:
        fail(patched, lambda config: trained.append(config.training.method), None)
        assert lpft("reproduce", "table8", *options, "--resume").status == 0
    record = record_of(folder)
    assert record.failures == ()
    tuned = next(each for each in record.exhibits if each.name == "tuned-rates")
    expected, rates = [], {}
    for method, label in (("ft", "FT"), ("lp-ft", "LP-FT")):
        scores = {}
        for rate in (0.005, 0.0017, 0.015):
            point = folder / f"search/runs/demo/{method}-learning-rate{rate}-seed0/metrics.json"
            scores[rate] = json.loads(point.read_text())["splits"]["validation"]["accuracy"]
        rates[method] = max(scores, key=scores.__getitem__)  # the first of equal ones
        score = pytest.approx(100 * scores[rates[method]])
        expected.append(("demo", label, "5e-3", score))
    assert [(*row[:3], row[4].value) for row in tuned.rows] == expected
    for method, rate in rates.items():
        name = f"{method}-rate{formatted(rate)}-batch16"
        runs = {f"runs/demo/{name}-seed{seed}" for seed in (0, 1)}
        assert runs <= found_runs(folder)
    # Three points of LP-FT, and both seeds of each method at two rates at most.
    assert "lp" not in trained
    assert trained.count("lp-ft") in (3 + 2, 3 + 4)
    outcome = lpft("reproduce", "table8", *options, "--dry-run", "--resume", "--json")
    parts = json.loads(outcome.out)["table8"]
    assert all(part["finished"] == len(part["seeds"]) for part in parts)
    assert not any(part["rate"] == "tuned" for part in parts)


def test_more_seeds_are_added_to_those_that_are_there(copy, lpft, monkeypatch):
    trained = []
    fail(monkeypatch, lambda config: trained.append(config.training.seed), None)
    options = ("--tiny", "--methods", "lp", "--seeds", "0,1,7", "--output-dir", copy, "--resume")
    assert lpft("reproduce", "table8", *options).status == 0
    assert trained == [7]
    assert record_of(copy).exhibits[0].rows[0][2].count == 3


def test_replacing_removes_what_is_no_longer_planned_and_nothing_else(copy, lpft):
    (copy / "notes.txt").write_text("mine")
    options = ("--tiny", "--methods", "lp", "--seeds", "1", "--output-dir", copy, "--overwrite")
    outcome = lpft("reproduce", "table8", *options)
    assert outcome.status == 0, outcome.err
    assert found_runs(copy) == {"runs/demo/lp-seed0"}
    assert (copy / "notes.txt").read_text() == "mine"
    assert [row[1] for row in record_of(copy).exhibits[0].rows] == ["LP"]


def test_nothing_is_removed_where_the_model_or_the_data_is_missing(copy, lpft, tmp_path):
    for options in (
        ("--model", tmp_path / "nothing"),
        ("--tasks", "cb", "--data-dir", tmp_path),
    ):
        outcome = lpft("reproduce", "table8", *TINY, *options, "--output-dir", copy, "--overwrite")
        assert outcome.status == 2, outcome.err
        assert found_runs(copy) == FOLDERS


def test_a_failed_run_is_recorded_and_does_not_stop_the_rest(lpft, tmp_path, monkeypatch):
    fail(monkeypatch, lambda c: (c.training.method, c.training.seed) == ("ft", 1), OSError("boom"))
    outcome = lpft("reproduce", "table8", *TINY, "--output-dir", tmp_path / "t")
    assert outcome.status == 1
    record = record_of(tmp_path / "t")
    ((name, reason),) = record.failures
    assert name == "runs/demo/ft-rate5e-3-batch16-seed1"
    assert "boom" in reason
    counts = {row[1]: row[2].count for row in record.exhibits[0].rows}
    assert counts == {"LP": 2, "FT": 1, "LP-FT": 2}
    assert "boom" in outcome.out


def test_a_finished_run_that_was_damaged_is_told_and_left_out(copy, lpft):
    (copy / "runs/demo/ft-rate5e-3-batch16-seed1/predictions/test.parquet").unlink()
    outcome = lpft("reproduce", "table8", *TINY, "--output-dir", copy, "--resume")
    assert outcome.status == 1
    record = record_of(copy)
    ((name, reason),) = record.failures
    assert name == "runs/demo/ft-rate5e-3-batch16-seed1"
    assert "test.parquet does not exist" in reason
    assert {row[1]: row[2].count for row in record.exhibits[0].rows}["FT"] == 1


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(b"damaged"), "cannot be read"),
        (lambda path: path.unlink(), "does not exist"),
        (
            lambda path: pd.read_parquet(path).assign(feature_difference=1.0).to_parquet(path),
            "its texts give 1",
        ),
    ],
)
def test_feature_changes_that_were_damaged_or_edited_are_told(copy, lpft, damage, reason):
    name = "runs/demo/lp-ft-rate5e-3-batch16-seed0"
    damage(copy / name / "features/test.parquet")
    outcome = lpft("reproduce", "table8", *TINY, "--output-dir", copy, "--resume")
    assert outcome.status == 1
    ((found, why),) = record_of(copy).failures
    assert (found, reason in why) == (name, True)
    assert why.endswith("remove its folder, and continue with --resume to compute it again")
    shutil.rmtree(copy / name)
    outcome = lpft("reproduce", "table8", *TINY, "--output-dir", copy, "--resume")
    assert (outcome.status, record_of(copy).failures) == (0, ())


def test_tables_that_cannot_be_made_are_a_failure_beside_what_was_trained(copy, lpft, monkeypatch):
    def show(_found):
        raise KeyError("no such column")

    monkeypatch.setitem(tables.RECIPES, "table8", replace(tables.RECIPES["table8"], show=show))
    (copy / "report.html").unlink()
    outcome = lpft("reproduce", "table8", *TINY, "--output-dir", copy, "--resume")
    assert outcome.status == 1, outcome.err
    record = record_of(copy)
    assert record.failures == (("tables and figures", "unexpected KeyError: 'no such column'"),)
    assert record.exhibits == ()
    assert "2 seeds; the paper has 5." in record.differences
    assert (copy / "report.html").exists()
    assert "no such column" in outcome.out
    assert found_runs(copy) == FOLDERS


def test_where_everything_fails_the_first_reason_is_given(lpft, tmp_path, monkeypatch):
    fail(monkeypatch, lambda _: True, OSError("boom"))
    options = ("--tiny", "--methods", "lp", "--output-dir", tmp_path / "t")
    outcome = lpft("reproduce", "table8", *options)
    assert outcome.status == 2
    assert "nothing of table8 could be computed: 2 failed, the first (runs/demo/lp-seed0)" in (
        outcome.err
    )
    assert len(record_of(tmp_path / "t").failures) == 2


def test_a_dry_run_counts_the_work_and_leaves_no_trace(lpft, tmp_path):
    options = (*TINY, "--output-dir", tmp_path / "t", "--dry-run")
    outcome = lpft("reproduce", "table1", *options, "--json")
    assert outcome.status == 0, outcome.err
    assert not (tmp_path / "t").exists()
    work = json.loads(outcome.out)["table1"]
    assert [(part["method"], part["seeds"], part["finished"]) for part in work] == [
        ("lp", [0, 1], 0),
        ("ft", [0, 1], 0),
        ("lp-ft", [0, 1], 0),
    ]
    # 24 rows in batches of 16 are 2 steps, in 2 epochs 4.
    assert [part["steps"] for part in work] == [None, 4, 4]
    assert {part["rows"] for part in work} == {24}
    table = lpft("reproduce", "table1", *options).out.splitlines()
    assert table[1].split()[:5] == ["what", "task", "rows", "method", "rate"]
    assert len(table) == 2 + 3


def test_a_dry_run_sees_what_is_finished(copy, lpft):
    options = (*TINY, "--output-dir", copy, "--resume", "--dry-run", "--json")
    work = json.loads(lpft("reproduce", "table8", *options).out)["table8"]
    assert [part["finished"] for part in work] == [2, 2, 2]


def test_json_has_the_record_and_the_page(copy, lpft):
    outcome = lpft("reproduce", "table8", *TINY, "--output-dir", copy, "--resume", "--json")
    record = json.loads(outcome.out)["table8"]
    assert record["page"] == str(copy / "report.html")
    assert record["exhibits"][0]["exhibit"] == "table"


def test_kernels_that_fail_are_recorded_and_do_not_stop_the_others(lpft, tmp_path, monkeypatch):
    compute = reproduction.compute_kernels

    def failing(config, **options):
        if config.run.training.seed == 0:
            raise MemoryError
        return compute(config, **options)

    monkeypatch.setattr(reproduction, "compute_kernels", failing)
    options = ("--tiny", "--methods", "ft,lp-ft", "--kernel-samples", "6", "--seeds", "0,1")
    outcome = lpft("reproduce", "table2", *options, "--output-dir", tmp_path / "t")
    assert outcome.status == 1
    ((name, reason),) = record_of(tmp_path / "t").failures
    assert name == "kernels/demo-seed0"
    assert "does not fit in memory" in reason
    assert record_of(tmp_path / "t").exhibits


def test_a_step_that_fails_leaves_the_rest(lpft, tmp_path, monkeypatch):
    def failing(runs):
        assert len(runs.runs) == 1
        raise ValueError("boom")

    monkeypatch.setitem(tables.RECIPES, "table8", replace(tables.RECIPES["table8"], step=failing))
    options = ("--tiny", "--methods", "lp", "--seeds", "1", "--output-dir", tmp_path / "t")
    assert lpft("reproduce", "table8", *options).status == 1
    record = record_of(tmp_path / "t")
    assert record.failures == (("further results", "unexpected ValueError: boom"),)
    assert record.exhibits[0].rows[0][2].count == 1


@pytest.fixture
def session(tmp_path, monkeypatch):
    """A session of some experiments, in a folder that is not there yet, on the tiny model."""

    def make(*names, **settings):
        monkeypatch.setattr(
            reproduction, "EXPERIMENTS", {name: EXPERIMENTS[name] for name in names}
        )
        name, folder = "all" if len(names) > 1 else names[0], tmp_path / "experiments"
        return Session(name, settings, folder, tiny=True)

    return make


@pytest.fixture
def ends(monkeypatch):
    """What experiments end with, by name, without any being done."""
    ends = {}

    def reproduce(_session, experiment, _siblings):
        if experiment.name in ends:
            raise ends[experiment.name]
        return Reproduction(None, experiment.scope.folder, None)

    monkeypatch.setattr(Session, "_reproduce", reproduce)
    return ends


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyError("rates"), "unexpected KeyError: 'rates'"),
        (PermissionError(13, "Permission denied", "/there"), "'/there' cannot be used"),
        (InputError("the data are damaged"), "the data are damaged"),
    ],
)
def test_an_error_of_one_experiment_leaves_the_others_to_be_done(
    session, tmp_path, ends, error, told
):
    ends["table3"] = error
    first, second, third = session("table1", "table3", "table8").run()
    assert first.folder == tmp_path / "experiments/table1"
    assert isinstance(second, NotReproduced)
    assert second.name == "table3"
    assert str(second.error).startswith(told)
    assert third.folder == tmp_path / "experiments/table8"


def test_an_unexpected_error_of_a_single_experiment_is_raised_as_it_is(session, ends):
    ends["table3"] = KeyError("rates")
    with pytest.raises(KeyError, match="rates"):
        list(session("table3").run())


def test_the_command_goes_on_and_ends_with_status_1(lpft, tmp_path, ends):
    ends |= {name: ZeroDivisionError(f"in {name}") for name in EXPERIMENTS}
    outcome = lpft("reproduce", "all", "--tiny", "--output-dir", tmp_path / "all")
    assert outcome.status == 1
    errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == len(EXPERIMENTS) == 22
    assert "error: table8: unexpected ZeroDivisionError: in table8" in errors


def test_data_that_suit_all_but_one_experiment_are_told_before_any_work(session, tmp_path, caplog):
    case_of("cola", "GLUE tsv").write(tmp_path / "data")
    settings = {"tasks": "cola", "data_dir": tmp_path / "data", "seeds": "1"}
    both = session("table8", "table10", **settings)
    assert "table10 will not be run: this experiment needs out-of-distribution sets" in caplog.text
    del both.experiments[0]
    (refused,) = both.run()
    assert isinstance(refused, NotReproduced)
    assert "needs out-of-distribution sets" in str(refused.error)
    with pytest.raises(InputError, match="needs out-of-distribution sets"):
        session("table10", **settings)
    assert not (tmp_path / "experiments").exists()


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (("tabel8",), ("unknown experiment 'tabel8' (did you mean 'table8'?)", "figure3")),
        (("table8", "--tasks", "cbb"), ("unknown task 'cbb' (did you mean 'cb'?)",)),
        (("table8", "--tasks", "stsb"), ("regression",)),
        (("table8", "--tasks", "cb,cb"), ("--tasks cb,cb has duplicates",)),
        (("table8", "--methods", "ftt"), ("unknown method 'ftt'", "lp-ft")),
        (("table8", "--seeds", "0"), ("--seeds 0: expected at least one seed",)),
        (("table8", "--seeds", "1,1"), ("--seeds 1,1 has duplicates",)),
        (("table8", "--seeds", "1,4294967296"), ("expected seeds from 0 to 2**32 - 1",)),
        (("table8", "--executor", "cloud"), ("--executor cloud",)),
        (
            ("table2", "--kernel-samples", "1"),
            ("--kernel-samples 1 must be a whole number",),
        ),
        (("table10", "--tasks", "cb"), ("out-of-distribution sets, which cb has not", "amazon")),
        (("table8", "--resume", "--overwrite"), ("contradict each other",)),
        (("list", "--tasks", "cb"), ("no experiment: expected all",)),
        (("--tiny",), ("no experiment: expected all",)),
    ],
)
def test_a_wrong_option_is_one_line(lpft, tmp_path, monkeypatch, options, messages):
    monkeypatch.chdir(tmp_path)
    outcome = lpft("reproduce", *options)
    assert outcome.status == 2
    lines = outcome.err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert len([line for line in lines if line.startswith("error: ")]) == 1
    for message in messages:
        assert message in lines[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("table2", "--epochs", "3"), "--epochs changes nothing in table2 (kernels)"),
        (("table2", "--save-model"), "--save-model changes nothing in table2 (kernels)"),
        (
            ("table8", "--kernel-samples", "9"),
            "--kernel-samples changes nothing in table8 (runs of ft, lora, lp, lp-ft, lp-lora)",
        ),
        (
            ("figure3", "--lora-rank", "4"),
            "--lora-rank changes nothing in figure3 (runs of ft, lp-ft)",
        ),
        (
            ("table8", "--methods", "lp", "--learning-rate", "1e-3"),
            "--learning-rate changes nothing in table8 (runs of lp)",
        ),
    ],
)
def test_an_option_that_decides_nothing_is_refused(lpft, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    outcome = lpft("reproduce", *options, "--tiny", "--dry-run")
    assert outcome.status == 2
    assert outcome.err.strip().splitlines()[-1] == f"error: {message}: leave it out"


def test_an_option_that_decides_one_of_all_experiments_is_taken(lpft, tmp_path):
    options = ("--tiny", "--kernel-samples", "4", "--lora-rank", "2", "--dry-run", "--json")
    outcome = lpft("reproduce", "all", *options, "--output-dir", tmp_path / "all")
    assert outcome.status == 0, outcome.err
    assert [part["rows"] for part in json.loads(outcome.out)["table2"]] == [4]


def test_the_list_names_every_recipe_with_its_place_in_the_paper(lpft):
    listed = json.loads(lpft("reproduce", "list", "--json").out)
    assert {"table1", "table8", "figure3"} <= {row["name"] for row in listed}
    assert all(row["source"] and row["tasks"] and row["shows"] for row in listed)
    lines = lpft("reproduce").out.splitlines()
    assert len(lines) == 1 + len(listed)
    assert lines[0].split()[0] == "experiment"
    order = [row["name"] for row in listed]
    assert order.index("table2") < order.index("table10")


def test_every_experiment_stands_there_with_its_runs_and_kernels(tmp_path):
    planned = {}
    distinct = set()
    for name, entry in EXPERIMENTS.items():
        plan = find_recipe(name).plan(make_scope(entry, {}, tmp_path, tiny=False))
        runs = plan.run_configs
        planned[name] = (len(runs), len(plan.kernels))
        distinct |= {(config.output_dir, config.output.save_features) for config in runs}
    stated = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        names = re.findall(r"`((?:table|figure)\d+|claims)`", cells[0])
        if len(cells) == 4 and names:
            runs, kernels = (int(cell.removesuffix(" each")) for cell in cells[2:])
            stated |= dict.fromkeys(names, (runs, kernels))
    assert {name: cost for name, cost in stated.items() if name not in SAME_AS} == planned
    assert set(stated) == set(planned) | set(SAME_AS)
    total = sum(runs for runs, _ in planned.values())
    page = PAGE.read_text(encoding="utf-8")
    assert re.search(rf"these {total:,} runs, `all` trains {len(distinct):,}\b", page)
