"""Every task from official files in each of its layouts, made by hand in ``release_files``.

Where they are looked for, what a missing one is called, and what is particular to their formats.
"""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lpft.data.loading import load_task
from lpft.data.tasks import TASKS

from .official_files import lines
from .release_files import CASES, PUBMED_FOLDERS, case_of, change, refused

IDS = [f"{case.task}, {case.layout}, {case.folder}" for case in CASES]


# columns that are equal for rows that are not independent
CLUSTERS = {
    "mnli": "premise",
    "wnli": "sentence1",
    "boolq": "passage",
    "multirc": "paragraph",
    "record": "passage",
    "wsc": "text",
    "pubmed": "abstract_id",
    "pubmed_numbers": "abstract_id",
    "pubmed_200k": "abstract_id",
    "pubmed_200k_numbers": "abstract_id",
}


def test_every_layout_of_every_task_has_a_case():
    layouts = [(task.name, r.layout) for task in TASKS.values() for r in task.releases]
    assert len(layouts) == len(CASES) == 27
    assert Counter(layouts) == Counter((case.task, case.layout) for case in CASES)
    assert len({case.task for case in CASES}) == len(TASKS) - 1 == 20  # demo has no files


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_files_in_their_layout(tmp_path, case):
    case.write(tmp_path)
    data = load_task(case.task, tmp_path)
    assert {split: len(rows) for split, rows in data.splits().items()} == case.rows
    classes = len(data.classes)
    counts = zip(
        data.train.class_counts(classes), data.validation.class_counts(classes), strict=True
    )
    assert [sum(of_class) for of_class in counts] == list(case.labels)
    assert data.train.texts[0] == case.first
    with_files = {split for split in case.rows if split not in ("train", "validation")}
    assert with_files <= set(case.others) <= set(case.rows) - {"train"}
    for split, (of_class, first) in case.others.items():
        assert data.splits()[split].class_counts(classes) == list(of_class)
        assert data.splits()[split].texts[0] == first
    assert data.classes == TASKS[case.task].classes
    last = load_task(case.task, tmp_path, template=len(TASKS[case.task].templates) - 1)
    assert len(last.train) == len(data.train)
    assert all(str(tmp_path) in source for source in data.sources.values())
    assert set(data.ood) == {name[4:] for name in case.rows if name.startswith("ood/")}
    for rows in data.splits().values():
        assert len(set(rows.ids)) == len(rows)
        assert (rows.clusters is None) == (case.task not in CLUSTERS)
        assert rows.clusters is None or rows.clusters.shape == (len(rows),)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_data_dir_is_the_folder_of_all_benchmarks_of_one_or_of_the_task(tmp_path, case):
    own = case.write(tmp_path)
    found = [load_task(case.task, folder) for folder in (tmp_path, tmp_path / case.benchmark, own)]
    assert len({tuple(data.train.texts) for data in found}) == 1
    assert len({data.sources["train"] for data in found}) == 1


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_missing_and_empty_files_by_their_paths_with_where_to_get_them_and_the_licence(
    tmp_path, case
):
    own, task = case.write(tmp_path), TASKS[case.task]
    release = next(r for r in task.releases if r.layout == case.layout)
    train, *others = case.files
    checked = 0
    for name in others:
        if case.task == "amazon" and not name.startswith("amazon"):
            continue
        content = (own / name).read_bytes()
        (own / name).unlink()
        refused(case.task, tmp_path, own / name, "does not exist", task.licence)
        (own / name).write_bytes(content)
        checked += 1
    assert checked >= 1
    (own / train).write_text("")
    refused(case.task, tmp_path, own / train)
    (own / train).unlink()
    refused(case.task, tmp_path, own / train, case.layout, release.url, task.licence)


# label of the first row -> another task's, by the text that stands for it in the file
OTHER_LABELS = {
    "cola": ("gj04\t0", "gj04\t7", "'7'", "0 or 1"),
    "mnli": ("\tentailment\n", "\t-\n", "'-'", "entailment or neutral"),
    "qqp": ("Why not 0?\t0", "Why not 0?\t3", "'3'", "0 or 1"),
    "boolq": ("false", '"no"', "'no'", "False or True"),
    "multirc": ('"label": 0', '"label": 5', "'5'", "0 or 1"),
    "amazon": ("Review 0\t0", "Review 0\t4", "'4'", "0 or 1 or 2"),
}


@pytest.mark.parametrize("task", OTHER_LABELS)
def test_other_labels_are_named_beside_the_expected_ones(tmp_path, task):
    case, (old, new, *parts) = case_of(task), OTHER_LABELS[task]
    train = case.write(tmp_path) / next(iter(case.files))
    change(train, old, new, 1)
    refused(task, tmp_path, train, f"is this {task}?", *parts)


OTHER_COLUMNS = {
    "mnli": ("gold_label", "gold", ["'gold_label'", "gold"]),
    "qqp": ("is_duplicate", "label", ["'is_duplicate'", "label"]),
    "boolq": ('"passage"', '"text"', ["'passage'", "text"]),
    "multirc": ('"questions"', '"queries"', ["'questions'", "queries", "row 1"]),
    "record": ('"qas"', '"questions"', ["'qas'", "questions", "row 1"]),
    "wsc": ('"span1_text"', '"span1"', ["span1_text", "row 1"]),
    "amazon": ("Text\tLabel", "text\tlabel", ["'Text'", "text, label"]),
}


@pytest.mark.parametrize("task", OTHER_COLUMNS)
def test_other_columns_are_named(tmp_path, task):
    case, (old, new, parts) = case_of(task), OTHER_COLUMNS[task]
    train = case.write(tmp_path) / next(iter(case.files))
    change(train, old, new)
    refused(task, tmp_path, train, *parts)


@pytest.mark.parametrize("folder", ["cola_public", "COLA_public", "cola_public/raw", "."])
def test_cola_where_its_archive_is_unpacked(tmp_path, folder):
    case = case_of("cola", "CoLA's public release")
    own = replace(case, benchmark=".", folder="cola_public/raw").write(tmp_path)
    if folder == "COLA_public":
        (tmp_path / "cola_public").rename(tmp_path / folder)
        own = tmp_path / folder / "raw"
    data = load_task("cola", tmp_path / folder)
    assert data.sources["train"] == f"{own}/in_domain_train.tsv"
    assert len(data.ood["out_of_domain"]) == 3


@pytest.mark.parametrize(
    ("there", "data_dir", "missing"),
    [
        ([], ".", "superglue/CB/train.jsonl"),
        (["superglue"], ".", "superglue/CB/train.jsonl"),
        (["SuperGLUE"], ".", "SuperGLUE/CB/train.jsonl"),
        (["super_glue"], ".", "super_glue/CB/train.jsonl"),
        (["superglue", "cb"], ".", "cb/train.jsonl"),
        (["superglue/cb"], ".", "superglue/cb/train.jsonl"),
        (["superglue"], "superglue", "superglue/CB/train.jsonl"),
        (["superglue/CB"], "superglue", "superglue/CB/train.jsonl"),
        (["superglue/CB"], "superglue/CB", "superglue/CB/train.jsonl"),
        (["mine/val.jsonl/"], "mine", "mine/superglue/CB/train.jsonl"),
    ],
)
def test_a_missing_file_is_named_below_the_deepest_folder_that_is_there(
    tmp_path, there, data_dir, missing
):
    for folder in there:
        (tmp_path / folder).mkdir(parents=True)
    path = tmp_path / missing
    refused("cb", tmp_path / data_dir, f"expected {path} (SuperGLUE jsonl); get it from https")


def test_a_folder_that_holds_another_file_of_the_task_is_its_own(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/val.jsonl").write_text("")
    monkeypatch.chdir(tmp_path)
    # absolute, although the folder is given by a relative path
    refused("cb", "mine", f"expected {tmp_path}/mine/train.jsonl (SuperGLUE jsonl); get")


def test_only_the_layout_whose_folder_is_there_is_named(tmp_path):
    (tmp_path / "glue/RTE").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"glue/RTE/train\.tsv \(GLUE tsv\)") as caught:
        load_task("rte", tmp_path)
    assert "jsonl" not in str(caught.value)


@pytest.mark.parametrize(
    ("folder", "archive"),
    [
        ("PubMed_200k_RCT", "PubMed_200k_RCT/train.7z"),
        ("PubMed_200k_RCT", "PubMed_200k_RCT/train.zip"),
        (".", "PubMed_200k_RCT/train.7z"),
        (".", "pubmed-rct/PubMed_200k_RCT/train.7z"),
    ],
)
def test_a_training_file_that_is_still_packed(tmp_path, folder, archive):
    packed = tmp_path / archive
    packed.parent.mkdir(parents=True)
    packed.write_bytes(b"7z")
    (packed.parent / "dev.txt").write_text("")
    missing = packed.with_name("train.txt")
    says = f"{packed} is packed: unpack it, so that {missing} is there"
    refused("pubmed_200k_numbers", tmp_path / folder, says)


@pytest.mark.parametrize("folder", PUBMED_FOLDERS)
@pytest.mark.parametrize("task", PUBMED_FOLDERS)
def test_each_form_of_pubmed_is_read_from_its_own_folder_only(tmp_path, task, folder):
    own = case_of(folder, "PubMed RCT").write(tmp_path)
    if task == folder:
        assert len(load_task(task, own).train) == 20
    elif (task, folder) == ("pubmed", "pubmed_numbers"):
        # the cleaned copies have a folder of this name
        refused(task, own, own / "train_clean.txt", "also the folder of pubmed_numbers")
    else:
        refused(task, own, f"{own} is the folder of {folder}, not of {task}")


@pytest.mark.parametrize("form", PUBMED_FOLDERS)
@pytest.mark.parametrize("task", PUBMED_FOLDERS)
def test_the_other_form_of_numbers_is_refused_in_a_folder_of_any_name(tmp_path, task, form):
    case = case_of(form, "PubMed RCT")
    own = replace(case, benchmark=".", folder="mine").write(tmp_path)
    if ("numbers" in task) == ("numbers" in form):
        assert len(load_task(task, own).train) == 20
    else:
        found = "20 of 20 sentences have digits and 0 have @"
        if "numbers" not in form:
            found = "0 of 20 sentences have digits and 20 have @"
        refused(task, own, own / "train.txt", found, "form with numbers")


@pytest.mark.parametrize("folder", ["PubMed-20k-RCT", "PubMed_20k_RCT"])
@pytest.mark.parametrize("task", ["pubmed", "pubmed_numbers"])
def test_cleaned_copies_are_found_under_either_name(tmp_path, task, folder):
    own = replace(case_of(task, "PubMed RCT, cleaned"), folder=folder).write(tmp_path)
    for data_dir in (tmp_path, own.parent, own):
        assert load_task(task, data_dir).sources["train"] == f"{own}/train_clean.txt"


def test_pubmed_where_the_reference_code_expects_it(tmp_path):
    case = case_of("pubmed")
    replace(case, benchmark="tasks/pubmed/pubmed-rct").write(tmp_path)
    assert len({tuple(load_task("pubmed", tmp_path / f).train.texts) for f in (".", "tasks")}) == 1


def test_another_tasks_folder_is_refused_by_its_name(tmp_path):
    rte = case_of("rte").write(tmp_path)
    refused("cb", rte, f"{rte} is the folder of rte, not of cb: expected CB, its benchmark's")
    link = tmp_path / "somewhere"
    link.symlink_to(rte)
    refused("cb", link, "is the folder of rte, not of cb")


HEADERLESS = {
    "cola": ("Sentence 0.\n", "Sentence 0.\textra\n", ["first line has 5 columns", "expected 4"]),
    "pubmed": ("METHODS\t", "METHODS ", ["line 3", "LABEL<TAB>sentence"]),
}


@pytest.mark.parametrize("task", HEADERLESS)
def test_lines_of_files_without_a_header(tmp_path, task):
    old, new, parts = HEADERLESS[task]
    case = case_of(task)
    train = case.write(tmp_path) / next(iter(case.files))
    change(train, old, new)
    refused(task, tmp_path, train, *parts)


def test_a_sentence_outside_of_any_abstract(tmp_path):
    own = case_of("pubmed").write(tmp_path)
    change(own / "train.txt", "###24000000\n", "")
    refused("pubmed", tmp_path, own / "train.txt", "line 1", "'###id' before it")


def test_broken_lines_and_empty_texts_are_counted_where_official_files_have_them(tmp_path):
    case_of("qqp").write(tmp_path)
    notes = load_task("qqp", tmp_path).notes
    assert "rows of train left out because they lack text or label: 2" in notes
    own = case_of("amazon").write(tmp_path)
    change(own / "amazon/train.tsv", "Review 3", " ")
    change(own / "sst5/test.tsv", "Review 400", '""')
    data = load_task("amazon", tmp_path)
    assert (len(data.train), len(data.validation), len(data.ood["sst5"])) == (17, 2, 2)
    numbers = sorted([*data.train.rows, *data.validation.rows])
    assert numbers == [1, 2, 3, *range(5, 21)]
    assert data.notes == (
        "rows of train left out because they lack text or label: 1",
        "rows of ood/sst5 left out because they lack text or label: 1",
    )
    change(own / "sst5/test.tsv", "Review 401", "")
    (own / "dynasent/test.tsv").write_text("Text\tLabel\n\t0\n \t1\n")
    refused("amazon", tmp_path, own / "dynasent/test.tsv", "none of the 2 rows")


def test_boss_fields_may_be_quoted_and_hold_line_breaks(tmp_path):
    case_of("amazon").write(tmp_path)
    data = load_task("amazon", tmp_path)
    assert data.validation.texts == ["Review 18", 'A "fine" one,\nin two lines']
    assert data.classes[data.validation.labels[-1]] == "positive"


def test_boss_labels_may_be_written_as_pandas_writes_them_beside_a_missing_one(tmp_path):
    own = case_of("amazon").write(tmp_path)
    train = own / "amazon/train.tsv"
    content = train.read_text()
    train.write_text(re.sub(r"\t([012])\n", r"\t\1.0\n", content).replace("w 3\t0.0", "w 3\t"))
    data = load_task("amazon", tmp_path)
    both = zip(data.train.class_counts(3), data.validation.class_counts(3), strict=True)
    # rows 0 to 19 have 7, 7 and 6 of the labels, and row 3 lost its 0
    assert [sum(of_class) for of_class in both] == [6, 7, 6]
    assert "rows of train left out because they lack text or label: 1" in data.notes


def test_boss_without_some_ood_sets_says_which(tmp_path):
    own = case_of("amazon").write(tmp_path)
    (own / "dynasent/test.tsv").unlink()
    data = load_task("amazon", tmp_path)
    assert set(data.ood) == {"semeval", "sst5"}
    (note,) = data.notes
    assert note.startswith(f"ood/dynasent is left out: {own}/dynasent/test.tsv does not exist; ")
    assert "https://github.com/lifan-yuan/OOD_NLP" in note
    assert "MIT licence" in note


@pytest.mark.parametrize(
    "place",
    [
        "boss/SentimentAnalysis",
        "boss/process/SentimentAnalysis",
        "OOD_NLP/datasets/process/SentimentAnalysis",
        "tasks/OOD_NLP/datasets/process/SentimentAnalysis",
    ],
)
def test_boss_where_the_reference_code_expects_it(tmp_path, place):
    case = case_of("amazon")
    replace(case, benchmark=".", folder=place).write(tmp_path)
    folders = [tmp_path, *[(tmp_path / place).parents[n] for n in range(place.count("/"))]]
    folders += [tmp_path / place, tmp_path / place / "amazon"]
    for folder in folders:
        data = load_task("amazon", folder)
        assert len(data.train) == 18
        assert set(data.ood) == {"dynasent", "semeval", "sst5"}


def test_a_task_in_the_file_format_of_pubmed_is_refused_by_its_labels(tmp_path):
    own = case_of("pubmed").write(tmp_path)
    labels = ["background", "population", "intervention", "outcome", "study design", "other"]
    rows = ["###1", *[f"{label}\tA sentence ." for label in labels], ""]
    for name in ("train.txt", "dev.txt", "test.txt"):
        (own / name).write_text(lines(rows))
    refused("pubmed", tmp_path, own / "train.txt", *labels[1:], "5 of 6 rows", "BACKGROUND")


@pytest.mark.parametrize("layout", ["PubMed RCT", "PubMed RCT, cleaned"])
def test_sentences_of_an_abstract_are_together(tmp_path, layout):
    case_of("pubmed", layout).write(tmp_path)
    data = load_task("pubmed", tmp_path)
    assert data.test.ids[4:6] == ["24000100-4", "24000105-0"]
    assert data.test.clusters.tolist() == [0] * 5 + [1] * 5
    assert data.train.clusters.tolist() == np.repeat(range(4), 5).tolist()
