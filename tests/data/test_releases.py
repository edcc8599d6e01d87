"""Every task from official files in each of its layouts, made by hand in ``release_files``."""

from collections import Counter

import pytest

from lpft.data.loading import load_task
from lpft.data.tasks import TASKS

from .release_files import CASES, PUBMED_FOLDERS, case_of, change, refused

IDS = [f"{case.task}, {case.layout}, {case.folder}" for case in CASES]
BY_ID = dict(zip(IDS, CASES, strict=True))


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
    assert all(str(tmp_path) in source for source in data.sources.values())
    assert set(data.ood) == {name[4:] for name in case.rows if name.startswith("ood/")}
    for rows in data.splits().values():
        assert len(set(rows.ids)) == len(rows)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_data_dir_is_the_folder_of_all_benchmarks_of_one_or_of_the_task(tmp_path, case):
    own = case.write(tmp_path)
    found = [load_task(case.task, folder) for folder in (tmp_path, tmp_path / case.benchmark, own)]
    assert len({tuple(data.train.texts) for data in found}) == 1
    assert len({data.sources["train"] for data in found}) == 1


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_the_exact_path_of_a_missing_training_file_where_to_get_it_and_its_licence(tmp_path, case):
    own = case.write(tmp_path)
    train = next(iter(case.files))
    (own / train).unlink()
    task = TASKS[case.task]
    release = next(r for r in task.releases if r.layout == case.layout)
    refused(case.task, tmp_path, own / train, case.layout, release.url, task.licence)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_every_other_missing_file_by_its_path(tmp_path, case):
    own = case.write(tmp_path)
    task = TASKS[case.task]
    checked = 0
    for name in list(case.files)[1:]:
        if case.task == "amazon" and not name.startswith("amazon"):
            continue
        content = (own / name).read_bytes()
        (own / name).unlink()
        refused(case.task, tmp_path, own / name, "does not exist", task.licence)
        (own / name).write_bytes(content)
        checked += 1
    assert checked >= 1


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_empty_files(tmp_path, case):
    own = case.write(tmp_path)
    train = next(iter(case.files))
    (own / train).write_text("")
    refused(case.task, tmp_path, own / train)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_no_task_has_a_template_after_its_last(tmp_path, case):
    case.write(tmp_path)
    last = len(TASKS[case.task].templates) - 1
    load_task(case.task, tmp_path, template=last)
    refused(case.task, tmp_path, f"no template {last + 1}", f"0 to {last}", template=last + 1)


# label of the first row -> another task's, by the text that stands for it in the file
OTHER_LABELS = {
    "cola, CoLA's public release, CoLA": ("gj04\t0", "gj04\t7", "'7'", "0 or 1"),
    "cola, GLUE tsv, CoLA": ("gj04\t0", "gj04\tyes", "'yes'", "0 or 1"),
    "mnli, GLUE tsv, MNLI": ("\tentailment\n", "\t-\n", "'-'", "entailment or neutral"),
    "mrpc, GLUE tsv, MRPC": ("\n0\t0", "\n2\t0", "'2'", "0 or 1"),
    "mrpc, MRPC's original release, MRPC": ("\n0\t0", "\n2\t0", "'2'", "0 or 1"),
    "qnli, GLUE tsv, QNLI": ("\tentailment\n", "\tyes\n", "'yes'", "entailment or not_entailment"),
    "qqp, GLUE tsv, QQP": ("Why not 0?\t0", "Why not 0?\t3", "'3'", "0 or 1"),
    "sst2, GLUE tsv, SST-2": ("0 \t0", "0 \t2", "'2'", "0 or 1"),
    "wnli, GLUE tsv, WNLI": ("h 0\t0", "h 0\tentailment", "'entailment'", "0 or 1"),
    "boolq, SuperGLUE jsonl, BoolQ": ("false", '"no"', "'no'", "False or True"),
    "cb, SuperGLUE jsonl, CB": ('"entailment"', '"not_entailment"', "'not_entailment'", "neutral"),
    "copa, SuperGLUE jsonl, COPA": ('"label": 0', '"label": 2', "'2'", "0 or 1"),
    "multirc, SuperGLUE jsonl, MultiRC": ('"label": 0', '"label": 5', "'5'", "0 or 1"),
    "rte, SuperGLUE jsonl, RTE": ('"entailment"', '"neutral"', "'neutral'", "not_entailment"),
    "rte, GLUE tsv, RTE": ("\tentailment\n", "\t1\n", "'1'", "entailment or not_entailment"),
    "wic, SuperGLUE jsonl, WiC": ("false", "0", "'0'", "False or True"),
    "wic, WiC's original release, WiC": (None, "N", "'N'", "F or T"),
    "wic, WiC's original release, WiC_dataset": (None, "N", "'N'", "F or T"),
    "wsc, SuperGLUE jsonl, WSC": ("false", '"F"', "'F'", "False or True"),
    "amazon, BOSS's processed tsv, process/SentimentAnalysis": (
        "Review 0\t0", "Review 0\t4", "'4'", "0 or 1 or 2",
    ),
    **{
        f"{task}, PubMed RCT, {folder}": ("OBJECTIVE", "population", "'population'", "RESULTS")
        for task, folder in PUBMED_FOLDERS.items()
    },
    "pubmed, PubMed RCT, cleaned, PubMed-20k-RCT": ("objective", "AIM", "'AIM'", "RESULTS"),
    "pubmed_numbers, PubMed RCT, cleaned, PubMed_20k_RCT": (
        "objective", "AIM", "'AIM'", "RESULTS",
    ),
}  # fmt: skip


def test_other_labels_are_tried_in_every_layout_that_writes_labels():
    # ReCoRD's answers are phrases
    assert set(IDS) - set(OTHER_LABELS) == {"record, SuperGLUE jsonl, ReCoRD"}


@pytest.mark.parametrize("name", OTHER_LABELS)
def test_other_labels_are_named_beside_the_expected_ones(tmp_path, name):
    case, (old, new, *parts) = BY_ID[name], OTHER_LABELS[name]
    own = case.write(tmp_path)
    train = own / next(iter(case.files))
    if old is None:
        gold = train.with_name("train.gold.txt")
        gold.write_text(f"{new}\n" * 20)
    else:
        change(train, old, new, 1)
    refused(case.task, tmp_path, train, f"is this {case.task}?", *parts)


OTHER_COLUMNS = {
    "mnli": ("gold_label", "gold", ["'gold_label'", "gold"]),
    "mrpc": ("#1 String", "#1 Text", ["'#1 String'", "#1 Text"]),
    "qnli": ("question", "query", ["'question'", "query"]),
    "qqp": ("is_duplicate", "label", ["'is_duplicate'", "label"]),
    "sst2": ("sentence", "text", ["'sentence'", "text"]),
    "wnli": ("sentence1", "premise", ["'sentence1'", "premise"]),
    "boolq": ('"passage"', '"text"', ["'passage'", "text"]),
    "cb": ('"premise"', '"sentence1"', ["'premise'", "sentence1"]),
    "copa": ('"choice1"', '"alternative1"', ["'choice1'", "alternative1"]),
    "multirc": ('"questions"', '"queries"', ["'questions'", "queries", "row 1"]),
    "record": ('"qas"', '"questions"', ["'qas'", "questions", "row 1"]),
    "rte": ('"hypothesis"', '"sentence2"', ["'hypothesis'", "sentence2"]),
    "wic": ('"word"', '"lemma"', ["'word'", "lemma"]),
    "wsc": ('"span1_text"', '"span1"', ["span1_text", "row 1"]),
    "amazon": ("Text\tLabel", "text\tlabel", ["'Text'", "text, label"]),
}


@pytest.mark.parametrize("task", OTHER_COLUMNS)
def test_other_columns_are_named(tmp_path, task):
    case, (old, new, parts) = case_of(task), OTHER_COLUMNS[task]
    own = case.write(tmp_path)
    train = own / next(iter(case.files))
    change(train, old, new)
    refused(task, tmp_path, train, *parts)
