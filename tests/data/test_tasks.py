"""The table of tasks, how a task is found and loaded, and what is refused."""

import json
import re
import textwrap
from pathlib import Path

import pytest

from lpft.data import Task
from lpft.data.loading import load_task
from lpft.data.tasks import TASKS
from lpft.errors import InputError

from .official_files import entailment, jsonl
from .release_files import CASES, case_of, refused

NAMES = [
    "demo",
    *("cola", "mnli", "mrpc", "qnli", "qqp", "sst2", "wnli"),
    *("boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc"),
    "amazon",
    *("pubmed", "pubmed_numbers", "pubmed_200k", "pubmed_200k_numbers"),
]


def _cb(folder, n=30):
    """CB's files with n training rows, in another order of the classes than the official one."""
    folder.mkdir(parents=True, exist_ok=True)
    write = entailment(["contradiction", "entailment", "neutral"])
    (folder / "train.jsonl").write_text(write(n, 0))
    (folder / "val.jsonl").write_text(write(4, 0))
    return folder


def test_the_table_is_consistent():
    assert list(TASKS) == NAMES
    for name, task in TASKS.items():
        assert name == task.name
        assert len(task.classes) == len(set(task.classes)) >= 2
        assert task.templates
        assert task.licence
        assert (task.embedded is None) == bool(task.releases)
        sources = [release.files for release in task.releases]
        sources += [task.hub.splits] if task.hub is not None else []
        named = {split[4:] for splits in sources for split in splits if split.startswith("ood/")}
        assert named == set(task.ood) or task.embedded is not None
        for release in task.releases:
            assert {"train", "test"} <= set(release.files)
            assert set(release.optional) <= set(release.files) - {"train", "test"}
        if task.grouping is not None:
            assert task.classes == ("False", "True")


def test_the_papers_tasks_have_its_hyperparameters():
    from lpft.paper import published_hyperparameters, published_size

    tasks = ["cb", "rte", "boolq", "wic", "wsc", "cola", "sst2", "mrpc", "amazon", "pubmed"]
    for name in tasks:
        assert published_hyperparameters(name, "lp-ft") is not None
        assert published_size(name).classes == len(TASKS[name].classes)


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
    _cb(tmp_path / folder)
    data = load_task("cb", tmp_path / data_dir)
    assert data.classes == ("entailment", "contradiction", "neutral")
    # rows 27, 28, 29 of the training file, unshuffled
    assert data.validation.ids == ["27", "28", "29"]
    assert data.validation.texts[0] == ("p 27", "h 27")
    assert data.validation.labels.tolist() == [1, 0, 2]
    assert data.test.labels.tolist() == [1, 0, 2, 1]
    assert data.protocol == "paper"
    assert data.sources["train"] == str(tmp_path / folder / "train.jsonl")


def test_the_stratified_protocol_holds_out_from_training_and_keeps_test(tmp_path):
    folder = _cb(tmp_path / "CB", n=60)
    data = load_task("cb", folder, protocol="stratified")
    assert sorted(data.validation.labels) == [0, 0, 1, 1, 2, 2]
    assert len(data.train) == 54
    assert len(data.test) == 4


def test_the_first_layout_is_read_where_several_are_there(tmp_path):
    for case in CASES:
        if case.task in ("rte", "cola", "wic", "mrpc"):
            case.write(tmp_path)
    files = {name: load_task(name, tmp_path).sources["train"] for name in ("rte", "cola", "wic")}
    assert {name: Path(file).name for name, file in files.items()} == {
        "rte": "train.jsonl",
        "cola": "in_domain_train.tsv",
        "wic": "train.jsonl",
    }
    assert Path(load_task("mrpc", tmp_path).sources["test"]).name == "dev.tsv"


def test_cola_notes_what_its_test_set_is(tmp_path):
    for case in CASES[:2]:
        case.write(tmp_path)
    public, glue = load_task("cola", tmp_path / "glue"), load_task("cola", tmp_path / "glue_data")
    assert any("both together" in note for note in public.notes)
    assert not any("both together" in note for note in glue.notes)
    assert public.metric == "matthews_correlation"


@pytest.fixture
def news():
    """The row that CONTRIBUTING.md shows."""
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    found: dict = {}
    exec(textwrap.dedent(example), found)
    (row,) = [value for value in found.values() if isinstance(value, Task)]
    return row


def test_adding_a_task_is_adding_a_row(tmp_path, monkeypatch, lpft, news):
    monkeypatch.setitem(TASKS, "news", news)
    rows = [
        {"headline": f"H {i}", "teaser": f"T {i}", "label": ["sport", "world"][i % 2]}
        for i in range(20)
    ]
    folder = tmp_path / "superglue/News"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text(jsonl(rows))
    (folder / "val.jsonl").write_text(jsonl(rows[:3]))
    data = load_task("news", tmp_path, template=1)
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 2, 3)
    assert data.train.texts[0] == ("H 0", "T 0")
    assert data.test.labels.tolist() == [1, 0, 1]
    assert data.classes == ("world", "sport")
    assert "News headlines" in lpft("tasks").out
    assert "headline, teaser" in lpft("tasks", "news").out
    checked = lpft("check", "--task", "news", "--data-dir", tmp_path)
    assert checked.status == 0
    assert "news: 2 classes" in checked.out
    with pytest.raises(InputError, match=r"news is not on the Hub.*News\.zip.*data_dir"):
        load_task("news")


def test_lpft_tasks_shows_all_of_them_and_what_is_refused(lpft):
    shown = lpft("tasks").out.splitlines()
    assert [line.split()[0] for line in shown[1 : len(NAMES) + 1]] == NAMES
    assert shown[-1].startswith("not supported: stsb, it is regression")
    listed = json.loads(lpft("tasks", "--json").out)
    assert [row["name"] for row in listed] == NAMES
    refused = lpft("tasks", "stsb")
    assert (refused.status, refused.out) == (2, "")
    assert "regression" in refused.err


SHOWN = {
    "cola": ["out_of_domain", "in_domain_train.tsv", "GLUE tsv", "validation 855, test 1040"],
    "wic": [
        "0: '{sentence1}",
        "1: pair: '{word}",
        "train/train.data.txt",
        "CC BY-NC",
        "train 5400",
    ],
    "multirc": ["answer_f1 (rows are grouped by question)", "MultiRC.zip"],
    "pubmed": ["BACKGROUND, CONCLUSIONS", "train_clean.txt", "third party", "abstracts"],
    "amazon": ["dynasent, semeval, sst5", "sst5/test.tsv", "hub:       -", "train 27000"],
    "cb": ["aps/super_glue (cb) at 3de24cf8022e94f4ee4b9d55a6f539891524d646", "research context"],
}


@pytest.mark.parametrize("name", SHOWN)
def test_lpft_tasks_shows_one_whole(lpft, name):
    shown = lpft("tasks", name)
    assert (shown.status, shown.err) == (0, "")
    for part in SHOWN[name]:
        assert part in shown.out
    (row,) = json.loads(lpft("tasks", name, "--json").out)
    assert row["licence"] == TASKS[name].licence


def test_check_says_what_was_left_out(tmp_path, lpft):
    case = case_of("amazon")
    own = case.write(tmp_path)
    (own / "dynasent/test.tsv").unlink()
    checked = lpft("check", "--task", "amazon", "--data-dir", tmp_path)
    assert "note: ood/dynasent is left out" in checked.out
    found = json.loads(lpft("check", "--task", "amazon", "--data-dir", tmp_path, "--json").out)
    assert [note.split()[0] for note in found["notes"]] == ["ood/dynasent"]


def test_demo_has_its_own_splits_under_both_protocols():
    paper, stratified = load_task("demo"), load_task("demo", protocol="stratified")
    assert paper.validation.texts == stratified.validation.texts
    assert (paper.protocol, stratified.protocol) == ("paper", "stratified")


BAD_CALLS = {
    "unknown task": (("squad",), {}, ["unknown task 'squad'", ", ".join(NAMES)]),
    "misspelt task": (("COLA",), {}, ["did you mean 'cola'?"]),
    "misspelt refused task": (("STS-B",), {}, ["did you mean 'stsb'?"]),
    "regression": (("stsb",), {}, ["stsb is not supported", "regression"]),
    "not on the Hub": (("amazon",), {}, ["not on the Hub", "OOD_NLP", "licence", "data_dir"]),
    "no such template": (("cb",), {"template": 1}, ["no template 1", "0 to 0", "(it has 1)"]),
    "negative template": (("cb",), {"template": -1}, ["no template -1"]),
    "unknown protocol": (("cb",), {"protocol": "x"}, ["unknown split protocol 'x'"]),
    "demo from a folder": (("demo", "d"), {}, ["comes with this package", "data_dir"]),
    "demo at a revision": (("demo",), {"revision": "v1"}, ["leave out revision"]),
    "revision of files": (("cb", "d"), {"revision": "v1"}, ["data_dir", "leave out revision"]),
    "no such folder": (("cb", "gone"), {}, ["gone is not a folder"]),
}


@pytest.mark.parametrize(("arguments", "options", "parts"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_calls_are_named(arguments, options, parts):
    with pytest.raises(InputError) as caught:
        load_task(*arguments, **options)
    for part in parts:
        assert part in str(caught.value)


def test_a_folder_without_any_of_it_names_relative_paths_site_and_licence(tmp_path):
    site = "https://dl.fbaipublicfiles.com/glue/superglue/data/v2/RTE.zip"
    files = ("superglue/RTE/train.jsonl", "glue/RTE/train.tsv")
    refused("rte", tmp_path, tmp_path, *files, site, "research context")


ROW = {"premise": "p", "hypothesis": "h", "label": "neutral", "idx": 0}
BAD_ROWS = {
    "another task's labels": (dict(ROW, label="no"), ["'no' in 1 of 1 rows", "is this cb?"]),
    "hidden label": (dict(ROW, label=-1), ["labels are hidden (-1)"]),
    "null label": (dict(ROW, label=None), ["'None' in 1 of 1 rows"]),
    "another task's columns": ({"sentence": "s", "label": "neutral"}, ["no column 'premise'"]),
    "empty text": (dict(ROW, premise=""), ["'premise'", "no text in row 1"]),
}


@pytest.mark.parametrize(("row", "parts"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_rows_of_something_else_are_named(tmp_path, row, parts):
    for name in ("train.jsonl", "val.jsonl"):
        (tmp_path / name).write_text(jsonl([row]))
    refused("cb", tmp_path, tmp_path / "train.jsonl", *parts)


BAD_FILES = {
    "ragged": ("sst2", "train.tsv", "sentence\tlabel\na\n", ["line 2", "found 1"]),
    "too long a line in qqp": ("qqp", "train.tsv", "a\tb\n0\n0\t1\t2\n", ["line 3", "found 3"]),
    "no rows": ("sst2", "train.tsv", "sentence\tlabel\n", ["has no rows"]),
    "header in cola": (
        "cola",
        "train.tsv",
        "sentence\tlabel\n",
        ["first line has 2 columns, expected 4"],
    ),
    "open quote in boss": ("amazon", "amazon/train.tsv", 'Text\tLabel\n"a\t0\n', ["line 2"]),
}


@pytest.mark.parametrize(("task", "name", "content", "parts"), BAD_FILES.values(), ids=BAD_FILES)
def test_damaged_files_are_named(tmp_path, task, name, content, parts):
    for file in (name, str(Path(name).with_name("dev.tsv")), str(Path(name).with_name("test.tsv"))):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(content)
    refused(task, tmp_path, tmp_path / name, *parts)
