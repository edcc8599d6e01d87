"""Kernels and further steps of experiments: kept, compared, failed; results taken from siblings."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.numpy import load_file, save_file

from lpft.errors import InputError
from lpft.experiments import reproduce as reproduction
from lpft.experiments.recipe import Plan
from lpft.experiments.registry import find_recipe
from lpft.experiments.scopes import make_scope
from lpft.results.exhibits import read_experiment
from lpft.runs import sweep as sweeps

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
        (("--kernel-samples", "7"), "its kernels are of max-samples 6, now it is 7"),
        (("--methods", "ft"), "its kernels are of methods"),
        (("--max-length", "20"), "its kernels are of max-length 32, now it is 20"),
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
    assert "do not say of which data and weights they are" in outcome.err


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


def test_a_step_that_fails_leaves_the_rest(tmp_path):
    recipe = find_recipe("table8")

    def failing(found):
        assert len(found.runs) == 1
        raise ValueError("boom")

    scope = make_scope(recipe, {"methods": "lp", "seeds": "1"}, tmp_path / "t", tiny=True)
    done = reproduction.reproduce(replace(recipe, step=failing), scope)
    assert done.record.failures == (("further results", "unexpected ValueError: boom"),)
    assert done.record.exhibits[0].rows[0][2].count == 1


def test_siblings_results_are_copied_where_they_are_the_same(tmp_path, monkeypatch):
    given = {"methods": "lp,ft", "seeds": "1"}
    first = make_scope(find_recipe("table8"), given, tmp_path / "first", tiny=True)
    reproduction.reproduce(find_recipe("table8"), first)
    trained = []
    train = sweeps.train_run

    def counting(config, **options):
        trained.append(config.training.method)
        return train(config, **options)

    monkeypatch.setattr(sweeps, "train_run", counting)
    recipe = find_recipe("table13")
    second = make_scope(recipe, given, tmp_path / "second", tiny=True)
    reproduction.reproduce(recipe, second, siblings=[tmp_path / "nothing", first.folder])
    assert trained == []
    runs = [path.relative_to(second.folder) for path in second.folder.rglob("run.json")]
    assert len(runs) == 2
    for run in runs:
        assert (first.folder / run).read_bytes() == (second.folder / run).read_bytes()

    other = make_scope(recipe, given | {"epochs": 1}, tmp_path / "other", tiny=True)
    reproduction.reproduce(recipe, other, siblings=[first.folder])
    assert trained == ["ft"]


def test_an_experiment_without_runs_or_kernels_is_no_folder_of_another(tmp_path):
    recipe = find_recipe("table8")
    scope = make_scope(recipe, {"methods": "lp"}, tmp_path / "t", tiny=True)
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "runs").mkdir()
    with pytest.raises(InputError, match="holds files that are not an experiment's"):
        reproduction.reproduce(replace(recipe, plan=lambda _: Plan()), scope, resume=True)
