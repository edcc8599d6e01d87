"""Kernels and further steps of experiments: kept, compared, failed; results taken from siblings."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.numpy import load_file, save_file

from lpft.experiments import run as reproduction
from lpft.experiments.plan import make_scope
from lpft.experiments.prepare import Inputs, reuse_results
from lpft.experiments.run import RECIPES
from lpft.results.exhibits import read_experiment

TINY = ("--tiny", "--methods", "ft,lp-ft", "--seeds", "1", "--kernel-samples", "6")
KERNELS = Path("kernels/demo-seed0/kernels.json")


@pytest.fixture(autouse=True, scope="module")
def quick_page():
    """No pages here."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            reproduction,
            "build_report",
            lambda folder, **_: SimpleNamespace(page=folder / "report.html"),
        )
        yield


@pytest.fixture(scope="module")
def table2(lpft, tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiments") / "table2"
    outcome = lpft("reproduce", "table2", *TINY, "--output-dir", folder)
    assert outcome.status == 0, outcome.err
    return folder


@pytest.fixture
def copy(table2, tmp_path):
    return Path(shutil.copytree(table2, tmp_path / "table2"))


def record_of(folder):
    return read_experiment(json.loads((folder / "experiment.json").read_text()))


def refuse(*_, **__):
    raise AssertionError("finished kernels were computed again")


def test_kernels_are_shown_and_not_computed_twice(copy, lpft, monkeypatch):
    before = (copy / KERNELS).read_bytes()
    assert json.loads(before)["data"]["rows"] == {"train": 6, "eval": 6}
    monkeypatch.setattr(reproduction, "compute_kernels", refuse)
    outcome = lpft("reproduce", "table2", *TINY, "--output-dir", copy, "--resume")
    assert outcome.status == 0, outcome.err
    assert (copy / KERNELS).read_bytes() == before
    assert record_of(copy).exhibits


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--kernel-samples", "7"), "its kernels are of --max-samples 6, now it is 7"),
        (("--methods", "ft"), "its kernels are of --methods"),
        (("--max-length", "20"), "its kernels are of --max-length 32, now it is 20"),
    ],
)
def test_kernels_of_other_settings_are_not_taken_for_those_asked_for(copy, lpft, options, message):
    outcome = lpft("reproduce", "table2", *TINY, *options, "--output-dir", copy, "--resume")
    assert outcome.status == 2
    assert message in outcome.err


def test_kernels_of_other_data_are_not_taken_for_those_asked_for(copy, lpft):
    record = json.loads((copy / KERNELS).read_text())
    assert set(record["fingerprints"]["data"]) >= {"train", "test"}
    record["fingerprints"]["data"]["train"] = "0" * 64
    (copy / KERNELS).write_text(json.dumps(record))
    outcome = lpft("reproduce", "table2", *TINY, "--output-dir", copy, "--resume")
    assert outcome.status == 2
    assert "the data changed since its kernels were computed" in outcome.err


def test_kernels_of_other_weights_are_not_taken_for_those_asked_for(lpft, tiny_bert, tmp_path):
    """The same model folder, in which the weights were replaced."""
    model = Path(shutil.copytree(tiny_bert, tmp_path / "model"))
    folder = tmp_path / "table2"
    options = (*TINY, "--model", model, "--output-dir", folder)
    outcome = lpft("reproduce", "table2", *options)
    assert outcome.status == 0, outcome.err
    before = (folder / KERNELS).read_bytes()
    weights = load_file(model / "model.safetensors")
    name = next(name for name in weights if name.endswith("query.weight"))
    save_file({**weights, name: 2 * weights[name]}, model / "model.safetensors", {"format": "pt"})
    outcome = lpft("reproduce", "table2", *options, "--resume")
    assert outcome.status == 2
    assert "the model's weights changed since its kernels were computed" in outcome.err
    assert (folder / KERNELS).read_bytes() == before


def test_kernels_that_do_not_say_of_which_weights_they_are_are_not_taken(copy, lpft):
    record = json.loads((copy / KERNELS).read_text())
    del record["fingerprints"]["encoder"]
    (copy / KERNELS).write_text(json.dumps(record))
    outcome = lpft("reproduce", "table2", *TINY, "--output-dir", copy, "--resume")
    assert outcome.status == 2
    assert "their record has no fingerprint" in outcome.err


def test_kernels_whose_arrays_are_damaged_are_told_and_left_out(copy, lpft):
    options = (*TINY, "--seeds", "0,1", "--output-dir", copy, "--resume")
    assert lpft("reproduce", "table2", *options).status == 0
    (copy / "kernels/demo-seed1/ft.safetensors").write_bytes(b"damaged")
    outcome = lpft("reproduce", "table2", *options)
    assert outcome.status == 1
    ((name, reason),) = record_of(copy).failures
    assert name == "kernels/demo-seed1"
    assert "ft.safetensors cannot be read" in reason
    assert record_of(copy).exhibits[0].rows[0][3].count == 1


def test_replacing_computes_kernels_again(copy, lpft):
    options = ("--kernel-samples", "7", "--output-dir", copy, "--overwrite")
    outcome = lpft("reproduce", "table2", *TINY, *options)
    assert outcome.status == 0, outcome.err
    assert json.loads((copy / KERNELS).read_text())["data"]["rows"]["train"] == 7


def test_kernels_that_fail_are_recorded_and_do_not_stop_the_others(lpft, tmp_path, monkeypatch):
    compute = reproduction.compute_kernels

    def failing(config, **options):
        if config.run.training.seed == 0:
            raise MemoryError
        return compute(config, **options)

    monkeypatch.setattr(reproduction, "compute_kernels", failing)
    options = (*TINY, "--seeds", "0,1", "--output-dir", tmp_path / "t")
    outcome = lpft("reproduce", "table2", *options)
    assert outcome.status == 1
    ((name, reason),) = record_of(tmp_path / "t").failures
    assert name == "kernels/demo-seed0"
    assert "does not fit in memory" in reason
    assert record_of(tmp_path / "t").exhibits


def test_a_step_that_fails_leaves_the_rest(lpft, tmp_path, monkeypatch):
    def failing(runs):
        assert len(runs.runs) == 1
        raise ValueError("boom")

    monkeypatch.setitem(RECIPES, "table8", replace(RECIPES["table8"], step=failing))
    options = ("--tiny", "--methods", "lp", "--seeds", "1", "--output-dir", tmp_path / "t")
    assert lpft("reproduce", "table8", *options).status == 1
    record = record_of(tmp_path / "t")
    assert record.failures == (("further results", "unexpected ValueError: boom"),)
    assert record.exhibits[0].rows[0][2].count == 1


def test_results_of_other_experiments_are_copied_where_they_are_the_same(lpft, tmp_path):
    options = ("--tiny", "--methods", "lp,ft", "--seeds", "1", "--output-dir", tmp_path / "first")
    assert lpft("reproduce", "table8", *options).status == 0

    def reused(folder, **settings):
        """The runs of table 13 that are copied into a folder of its own."""
        settings = {"methods": "lp,ft", "seeds": "1", **settings}
        scope = make_scope(RECIPES["table13"], settings, folder, tiny=True)
        plan = RECIPES["table13"].plan(scope)
        reuse_results(plan, folder, [tmp_path / "nothing", tmp_path / "first"], Inputs())
        return {path.relative_to(folder) for path in folder.rglob("run.json")}

    runs = reused(tmp_path / "second")
    assert len(runs) == 2
    for run in runs:
        assert (tmp_path / "first" / run).read_bytes() == (tmp_path / "second" / run).read_bytes()
    # The same folder name, but other epochs: linear probing alone has none.
    assert reused(tmp_path / "third", epochs=1) == {run for run in runs if "lp" in str(run)}
    assert reused(tmp_path / "fourth", max_length=16) == set()


def test_an_experiment_without_runs_or_kernels_is_no_folder_of_another(lpft, tmp_path):
    (tmp_path / "t" / "runs").mkdir(parents=True)
    options = ("--tiny", "--methods", "lp", "--output-dir", tmp_path / "t", "--resume")
    outcome = lpft("reproduce", "table8", *options)
    assert outcome.status == 2
    assert "holds files that are not an experiment's" in outcome.err
