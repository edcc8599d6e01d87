"""What is refused before the first run, and results that are there: kept, compared, copied."""

import json
import shutil
from pathlib import Path

import pytest
from data.release_files import case_of
from experiments.experiment_folders import empty_page

from lpft.experiments import run as reproduction
from lpft.experiments.plan import make_scope
from lpft.experiments.prepare import Inputs, reuse_results
from lpft.experiments.run import find_recipe
from lpft.results.exhibits import read_experiment


@pytest.fixture(autouse=True, scope="module")
def quick_page():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reproduction, "build_report", empty_page)
        yield


TINY = ("--tiny", "--methods", "ft,lp-ft", "--seeds", "1", "--kernel-samples", "6")
KERNELS = Path("kernels/demo-seed0/kernels.json")


@pytest.fixture(scope="module")
def table2(lpft, tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiments") / "table2"
    outcome = lpft("reproduce", "table2", *TINY, "--output-dir", folder)
    assert outcome.status == 0, outcome.err
    return folder


@pytest.fixture
def copy(table2, tmp_path):
    return Path(shutil.copytree(table2, tmp_path / "table2"))


@pytest.fixture
def refused(lpft):
    """Reproduce an experiment that must be refused, and give the error."""

    def command(name, *options):
        outcome = lpft("reproduce", name, *options)
        assert outcome.status == 2
        return outcome.err

    return command


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
        (("--kernel-samples", "7"), "started with --max-samples 6, now it is 7"),
        (("--methods", "ft"), "started with --methods"),
        (("--max-length", "20"), "started with --max-length 32, now it is 20"),
    ],
)
def test_kernels_of_other_settings_are_not_taken_for_those_asked_for(
    copy, refused, options, message
):
    assert message in refused("table2", *TINY, *options, "--output-dir", copy, "--resume")


@pytest.mark.parametrize(
    ("fingerprints", "message"),
    [
        ({"data": {"train": "0" * 64}}, "the data changed since it was started"),
        ({"encoder": None}, "its record has no fingerprint"),
    ],
)
def test_kernels_of_other_or_unknown_inputs_are_not_taken_for_those_asked_for(
    copy, refused, fingerprints, message
):
    record = json.loads((copy / KERNELS).read_text())
    record["fingerprints"]["data"] |= fingerprints.get("data", {})
    if "encoder" in fingerprints:
        del record["fingerprints"]["encoder"]
    (copy / KERNELS).write_text(json.dumps(record))
    assert message in refused("table2", *TINY, "--output-dir", copy, "--resume")


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


def test_results_of_other_experiments_are_copied_where_they_are_the_same(lpft, tmp_path):
    options = ("--tiny", "--methods", "lp,ft", "--seeds", "1", "--output-dir", tmp_path / "first")
    assert lpft("reproduce", "table8", *options).status == 0

    def reused(folder, **settings):
        """The runs of table 13 that are copied into a folder of its own."""
        settings = {"methods": "lp,ft", "seeds": "1", **settings}
        recipe = find_recipe("table13")
        scope = make_scope(recipe.entry, settings, folder, tiny=True)
        plan = recipe.plan(scope)
        reuse_results(plan, folder, [tmp_path / "nothing", tmp_path / "first"], Inputs())
        return {path.relative_to(folder) for path in folder.rglob("run.json")}

    runs = reused(tmp_path / "second")
    assert len(runs) == 2
    for run in runs:
        assert (tmp_path / "first" / run).read_bytes() == (tmp_path / "second" / run).read_bytes()
    # The same folder name, but other epochs: linear probing alone has none.
    assert reused(tmp_path / "third", epochs=1) == {run for run in runs if "lp" in str(run)}
    assert reused(tmp_path / "fourth", max_length=16) == set()


def test_missing_data_of_the_last_task_fails_before_the_first_run(lpft, tmp_path, data_dir):
    options = ("--tasks", "cb,boolq", "--model", "minilm", "--data-dir", data_dir)
    outcome = lpft("reproduce", "table8", *options, "--output-dir", tmp_path / "t")
    assert outcome.status == 2
    assert "boolq" in outcome.err
    assert not (tmp_path / "t").exists()


def test_a_release_without_the_out_of_distribution_sets_of_its_task_is_named(lpft, tmp_path):
    """GLUE's CoLA has both of its dev sets in one file, of which table10 could show nothing."""
    folder = case_of("cola", "GLUE tsv").write(tmp_path / "data")
    options = ("--tasks", "cola", "--tiny", "--data-dir", tmp_path / "data")
    outcome = lpft("reproduce", "table10", *options, "--output-dir", tmp_path / "t")
    assert outcome.status == 2
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert f"cola as it was read has none ({folder / 'train.tsv'}" in line
    assert "give the release with out_of_domain (see lpft tasks cola)" in line
    assert not (tmp_path / "t").exists()


def test_foreign_files_are_left_alone(refused, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    for option in ((), ("--resume",), ("--overwrite",)):
        error = refused("table8", "--tiny", "--output-dir", tmp_path, *option)
        assert "contains files that are not an experiment's (thesis.txt)" in error
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_places_that_cannot_be_used_are_named(refused, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "foreign/runs").mkdir(parents=True)
    tiny = ("table8", "--tiny", "--methods", "lp", "--output-dir")
    for name, options, message in (
        ("file", (), "is a file: name another with --output-dir"),
        ("file/t", (), "cannot be written"),
        ("foreign", ("--resume",), "contains files that are not an experiment's"),
        ("t", ("--tasks", "cb", "--data-dir", tmp_path / "no"), "no is not a folder"),
    ):
        assert message in refused(*tiny, tmp_path / name, *options)
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_record_is_named(refused, tmp_path, content):
    (tmp_path / "experiment.json").write_text(content)
    error = refused("table8", "--tiny", "--output-dir", tmp_path, "--resume")
    assert "experiment.json' cannot be read" in error
