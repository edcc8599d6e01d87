"""Bad input of lpft reproduce: one line that says what to do, before anything is done."""

import json

import pytest
from data.release_files import case_of


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (("tabel8",), ("unknown experiment 'tabel8' (did you mean 'table8'?)", "figure3")),
        (("table8", "--tasks", "cbb"), ("unknown task 'cbb' (did you mean 'cb'?)",)),
        (("table8", "--tasks", "stsb"), ("regression",)),
        (("table8", "--tasks", "cb,cb"), ("--tasks cb,cb names one twice",)),
        (("table8", "--tasks", ""), ("--tasks '' names nothing",)),
        (("table8", "--methods", "ftt"), ("unknown method 'ftt'", "lp-ft")),
        (("table8", "--seeds", "0"), ("--seeds 0: expected at least one seed",)),
        (("table8", "--seeds", "-2"), ("--seeds -2",)),
        (("table8", "--seeds", "one"), ("--seeds one must be a number of seeds",)),
        (("table8", "--seeds", "1,1"), ("--seeds 1,1 names one twice",)),
        (("table8", "--seeds", "1,4294967296"), ("expected seeds from 0 to 2**32 - 1",)),
        (("table8", "--epochs", "0"), ("--epochs 0",)),
        (("table8", "--workers", "0"), ("--workers 0",)),
        (("table8", "--executor", "cloud"), ("--executor cloud",)),
        (
            ("table2", "--kernel-samples", "1"),
            ("--kernel-samples 1 must be a whole number",),
        ),
        (("table10", "--tasks", "cb"), ("out-of-distribution sets, which cb has not", "amazon")),
        (("table8", "--resume", "--overwrite"), ("contradict each other",)),
        (("table8", "--seeds", "01,1"), ("--seeds 01,1 names one twice",)),
        (("table8", "--seeds", "1,,2"), ("--seeds 1,,2 must be a number of seeds",)),
        (("list", "--tasks", "cb"), ("no experiment is named",)),
        (("--tiny",), ("no experiment is named",)),
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
        (("figure8", "--workers", "2"), "--workers changes nothing in figure8 (kernels)"),
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


def test_a_data_folder_that_is_not_there_is_named(lpft, tmp_path):
    options = ("--tasks", "cb", "--data-dir", tmp_path / "nowhere", "--tiny")
    outcome = lpft("reproduce", "table8", *options, "--output-dir", tmp_path / "t")
    assert outcome.status == 2
    assert "nowhere is not a folder" in outcome.err
    assert not (tmp_path / "t").exists()


def test_foreign_files_are_left_alone(lpft, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    for option in ((), ("--resume",), ("--overwrite",)):
        outcome = lpft("reproduce", "table8", "--tiny", "--output-dir", tmp_path, *option)
        assert outcome.status == 2
        assert "holds files that are not an experiment's (thesis.txt)" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_in_place_of_the_folder_is_named(lpft, tmp_path):
    place = tmp_path / "t"
    place.write_text("mine")
    outcome = lpft("reproduce", "table8", "--tiny", "--output-dir", place)
    assert outcome.status == 2
    assert "is a file: name another with --output-dir" in outcome.err


def test_a_folder_that_cannot_be_made_is_named(lpft, tmp_path):
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "t"
    outcome = lpft("reproduce", "table8", "--tiny", "--methods", "lp", "--output-dir", place)
    assert outcome.status == 2
    assert "cannot be written" in outcome.err


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_record_is_named(lpft, tmp_path, content):
    (tmp_path / "experiment.json").write_text(content)
    outcome = lpft("reproduce", "table8", "--tiny", "--output-dir", tmp_path, "--resume")
    assert outcome.status == 2
    assert "experiment.json' cannot be read" in outcome.err


def test_the_list_names_every_recipe_with_its_place_in_the_paper(lpft):
    listed = json.loads(lpft("reproduce", "list", "--json").out)
    assert {"table1", "table8", "figure3"} <= {row["name"] for row in listed}
    assert all(row["source"] and row["tasks"] and row["shows"] for row in listed)
    lines = lpft("reproduce").out.splitlines()
    assert len(lines) == 1 + len(listed)
    assert lines[0].split()[0] == "experiment"
    order = [row["name"] for row in listed]
    assert order.index("table2") < order.index("table10")
