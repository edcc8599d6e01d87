"""Tasks from release files in their own layouts, made by hand here."""

import json
from dataclasses import replace

import pytest

from lpft.data.sources import load_task
from lpft.data.tasks import TASKS, find_task, pair
from lpft.errors import InputError

CB_LABELS = ["contradiction", "entailment", "neutral"]


def _jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _entailment_rows(n, labels):
    return [
        {"premise": f"p {i}", "hypothesis": f"h {i}", "label": labels[i % len(labels)], "idx": i}
        for i in range(n)
    ]


def _superglue(folder, n=30, labels=CB_LABELS):
    _jsonl(folder / "train.jsonl", _entailment_rows(n, labels))
    _jsonl(folder / "val.jsonl", _entailment_rows(4, labels))
    return folder


def _tsv(path, lines, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines), encoding)


def test_the_table_is_consistent():
    assert set(TASKS) == {"demo", "cb", "rte", "sst2", "cola"}
    for name, task in TASKS.items():
        assert name == task.name
        assert len(task.classes) == len(set(task.classes)) >= 2
        assert task.templates
        assert task.licence
        assert (task.embedded is None) == (task.hub is not None) == bool(task.releases)
        for release in task.releases:
            assert {"train", "test"} <= set(release.files)
            assert set(release.labels.values()) in (set(), set(task.classes))
    assert [name for name, task in TASKS.items() if task.metric != "accuracy"] == ["cola"]


def test_hub_revisions_are_commits():
    revisions = {task.hub.revision for task in TASKS.values() if task.hub is not None}
    assert len(revisions) == 2
    assert all(len(revision) == 40 for revision in revisions)


@pytest.mark.parametrize(
    ("folder", "data_dir"),
    [
        ("superglue/CB", "."),
        ("SuperGLUE/cb", "."),
        ("superglue/CB", "superglue"),
        ("superglue/CB", "superglue/CB"),
        ("anything", "anything"),
    ],
)
def test_cb_is_found_in_any_of_three_folders_in_any_case(tmp_path, folder, data_dir):
    _superglue(tmp_path / folder)
    data = load_task("cb", tmp_path / data_dir)
    assert data.classes == ("entailment", "contradiction", "neutral")
    assert {name: len(rows) for name, rows in data.splits().items()} == {
        "train": 27,
        "validation": 3,
        "test": 4,
    }
    # rows 27, 28, 29 of the training file, unshuffled
    assert data.validation.ids == ["27", "28", "29"]
    assert data.validation.texts[0] == ("p 27", "h 27")
    assert data.validation.labels.tolist() == [1, 0, 2]
    assert data.test.labels.tolist() == [1, 0, 2, 1]
    assert data.protocol == "paper"
    assert data.sources["train"] == str(tmp_path / folder / "train.jsonl")


def test_the_stratified_protocol_holds_out_from_training_and_keeps_test(tmp_path):
    folder = _superglue(tmp_path / "CB", n=60)
    data = load_task("cb", folder, protocol="stratified")
    assert sorted(data.validation.labels) == [0, 0, 1, 1, 2, 2]
    assert len(data.train) == 54
    assert len(data.test) == 4


def test_rte_in_glues_layout(tmp_path):
    header = "index\tsentence1\tsentence2\tlabel"
    lines = [f'{i}\t"p {i}\th {i}\t{"not_" * (i % 2)}entailment' for i in range(20)]
    _tsv(tmp_path / "glue_data/RTE/train.tsv", [header, *lines], "utf-8-sig")
    _tsv(tmp_path / "glue_data/RTE/dev.tsv", [header, *lines[:2]])
    data = load_task("rte", tmp_path)
    assert data.classes == ("entailment", "not_entailment")
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 2, 2)
    assert data.train.texts[1] == ('"p 1', "h 1")
    assert data.test.labels.tolist() == [0, 1]


def test_superglue_is_read_where_both_layouts_are_there(tmp_path):
    _superglue(tmp_path / "superglue/RTE", labels=["entailment", "not_entailment"])
    header = "index\tsentence1\tsentence2\tlabel"
    _tsv(tmp_path / "glue/RTE/train.tsv", [header, "0\ta\tb\tentailment"])
    assert "superglue" in load_task("rte", tmp_path).sources["train"]


def test_sst2_quotes_and_spaces_stay(tmp_path):
    lines = ["sentence\tlabel"] + [f"\" it 's {i} \t{i % 2}" for i in range(10)]
    _tsv(tmp_path / "SST-2/train.tsv", lines)
    _tsv(tmp_path / "SST-2/dev.tsv", lines[:3])
    data = load_task("sst2", tmp_path)
    assert data.classes == ("negative", "positive")
    assert data.train.texts[0] == "\" it 's 0 "
    assert data.test.labels.tolist() == [0, 1]


def _cola_lines(n):
    return [f"gj04\t{i % 2}\t{'*' if i % 2 == 0 else ''}\tSentence {i}." for i in range(n)]


def test_cola_public_release_has_an_ood_set(tmp_path):
    folder = tmp_path / "glue" / "CoLA"
    _tsv(folder / "in_domain_train.tsv", _cola_lines(21))
    _tsv(folder / "in_domain_dev.tsv", _cola_lines(4))
    _tsv(folder / "out_of_domain_dev.tsv", _cola_lines(3))
    data = load_task("cola", tmp_path)
    assert {name: len(rows) for name, rows in data.splits().items()} == {
        "train": 18,
        "validation": 3,
        "test": 4,
        "ood/out_of_domain": 3,
    }
    assert data.metric == "matthews_correlation"
    assert data.classes == ("unacceptable", "acceptable")
    assert data.ood["out_of_domain"].labels.tolist() == [0, 1, 0]
    assert any("both together" in note for note in data.notes)


def test_cola_in_glues_layout_has_no_header_and_no_ood_set(tmp_path):
    _tsv(tmp_path / "CoLA/train.tsv", _cola_lines(20))
    _tsv(tmp_path / "CoLA/dev.tsv", _cola_lines(7))
    data = load_task("cola", tmp_path / "CoLA")
    assert (len(data.train), len(data.test), data.ood) == (18, 7, {})
    assert data.train.texts[0] == "Sentence 0."


def test_a_row_with_its_own_validation_split_and_another_template(tmp_path):
    cb = TASKS["cb"]
    own = replace(cb.releases[0], files=cb.releases[0].files | {"validation": "dev.jsonl"})
    task = replace(
        cb, releases=(own,), templates=(*cb.templates, pair("hypothesis", "premise")), hub=None
    )
    folder = _superglue(tmp_path)
    _jsonl(folder / "dev.jsonl", _entailment_rows(5, CB_LABELS))
    data = load_task(task, folder, template=1)
    assert (len(data.train), len(data.validation)) == (30, 5)
    assert data.train.texts[0] == ("h 0", "p 0")
    with pytest.raises(InputError, match=r"cb is not on the Hub.*--data-dir"):
        load_task(task)


def test_demo_has_its_own_splits_under_both_protocols():
    paper, stratified = load_task("demo"), load_task("demo", protocol="stratified")
    assert paper.validation.texts == stratified.validation.texts
    assert (paper.protocol, stratified.protocol) == ("paper", "stratified")


BAD_CALLS = {
    "unknown task": (("mnli",), {}, ["unknown task 'mnli'", "cb, rte, sst2, cola"]),
    "misspelt task": (("COLA",), {}, ["did you mean 'cola'?"]),
    "no such template": (("cb",), {"template": 1}, ["no template 1", "0 to 0", "(it has 1)"]),
    "negative template": (("cb",), {"template": -1}, ["no template -1"]),
    "unknown protocol": (("cb",), {"protocol": "x"}, ["unknown split protocol 'x'"]),
    "demo from a folder": (("demo", "d"), {}, ["comes with this package", "--data-dir"]),
    "demo at a revision": (("demo",), {"revision": "v1"}, ["leave out --revision"]),
    "revision of files": (("cb", "d"), {"revision": "v1"}, ["--data-dir", "leave out --revision"]),
    "no such folder": (("cb", "gone"), {}, ["gone is not a folder"]),
}


@pytest.mark.parametrize(("arguments", "options", "parts"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_calls_are_named(arguments, options, parts):
    with pytest.raises(InputError) as caught:
        load_task(*arguments, **options)
    for part in parts:
        assert part in str(caught.value)


def test_find_task():
    assert find_task("cb") is TASKS["cb"]


def test_missing_training_file_names_paths_site_and_licence(tmp_path):
    with pytest.raises(InputError) as caught:
        load_task("rte", tmp_path)
    for part in [
        str(tmp_path),
        "superglue/RTE/train.jsonl",
        "glue/RTE/train.tsv",
        "https://dl.fbaipublicfiles.com/glue/superglue/data/v2/RTE.zip",
        "research context",
    ]:
        assert part in str(caught.value)


def test_missing_second_file_is_named(tmp_path):
    folder = _superglue(tmp_path / "CB")
    (folder / "val.jsonl").unlink()
    with pytest.raises(InputError) as caught:
        load_task("cb", tmp_path)
    for part in [str(folder / "val.jsonl"), "does not exist", "CB.zip", "licence"]:
        assert part in str(caught.value)


def _change(row, **values):
    return {**row, **values}


ROW = {"premise": "p", "hypothesis": "h", "label": "neutral", "idx": 0}
BAD_ROWS = {
    "another task's labels": (_change(ROW, label="no"), ["'no' in 1 of 1 rows", "is this cb?"]),
    "hidden label": (_change(ROW, label=-1), ["labels are hidden (-1)"]),
    "null label": (_change(ROW, label=None), ["'None' in 1 of 1 rows"]),
    "no label": ({"premise": "p", "hypothesis": "h"}, ["no column 'label'", "premise, hypothesis"]),
    "another task's columns": ({"sentence": "s", "label": "neutral"}, ["no column 'premise'"]),
    "empty text": (_change(ROW, premise=""), ["'premise'", "no text in row 1"]),
    "number as text": (_change(ROW, hypothesis=3), ["'hypothesis'", "found 3 (int)"]),
}


@pytest.mark.parametrize(("row", "parts"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_rows_of_something_else_are_named(tmp_path, row, parts):
    _jsonl(tmp_path / "train.jsonl", [row])
    _jsonl(tmp_path / "val.jsonl", [row])
    with pytest.raises(InputError) as caught:
        load_task("cb", tmp_path)
    for part in [str(tmp_path / "train.jsonl"), *parts]:
        assert part in str(caught.value)


BAD_FILES = {
    "columns": (
        "sst2",
        "train.tsv",
        "text\tlabel\na\t0\n",
        ["no column 'sentence'", "text, label"],
    ),
    "code": ("sst2", "train.tsv", "sentence\tlabel\na\t2\n", ["'2' in 1 of 1 rows", "0 or 1"]),
    "ragged": ("sst2", "train.tsv", "sentence\tlabel\na\n", ["line 2", "found 1"]),
    "empty": ("sst2", "train.tsv", "", ["is empty"]),
    "header in cola": ("cola", "train.tsv", "sentence\tlabel\n", ["line 1", "expected CoLA's 4"]),
}


@pytest.mark.parametrize(("task", "name", "content", "parts"), BAD_FILES.values(), ids=BAD_FILES)
def test_damaged_glue_files_are_named(tmp_path, task, name, content, parts):
    for file in (name, "dev.tsv"):
        (tmp_path / file).write_text(content)
    with pytest.raises(InputError) as caught:
        load_task(task, tmp_path)
    for part in [str(tmp_path / name), *parts]:
        assert part in str(caught.value)
