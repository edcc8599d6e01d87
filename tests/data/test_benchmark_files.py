"""What is particular to the files of BOSS, PubMed RCT, QQP, WiC and WSC."""

import json
import re
from dataclasses import replace

import pytest

from lpft.data.loading import load_task

from .official_files import jsonl, lines
from .release_files import case_of, change, refused

HEADERLESS = {
    "cola": ("Sentence 0.\n", "Sentence 0.\textra\n", ["first line has 5 columns", "expected 4"]),
    "wic": ("bank\tN", "bank", ["first line has 4 columns", "expected 5"]),
    "pubmed": ("METHODS\t", "METHODS ", ["line 3", "LABEL<TAB>sentence"]),
}


@pytest.mark.parametrize("task", HEADERLESS)
def test_lines_of_files_without_a_header(tmp_path, task):
    old, new, parts = HEADERLESS[task]
    layout = "WiC's original release" if task == "wic" else None
    case = case_of(task, layout)
    own = case.write(tmp_path)
    train = own / next(iter(case.files))
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


def test_pubmed_where_the_reference_code_expects_it(tmp_path):
    case = case_of("pubmed")
    replace(case, benchmark="tasks/pubmed/pubmed-rct").write(tmp_path)
    assert len({tuple(load_task("pubmed", tmp_path / f).train.texts) for f in (".", "tasks")}) == 1


def test_wic_needs_as_many_labels_as_rows(tmp_path):
    own = case_of("wic", "WiC's original release").write(tmp_path)
    gold = own / "dev.gold.txt"
    gold.write_text("T\nF\n")
    refused("wic", tmp_path, gold, "has 2 labels", "dev.data.txt has 4 rows")


def test_wic_templates(tmp_path):
    case_of("wic").write(tmp_path)
    one = load_task("wic", tmp_path, template=1)
    assert one.test.texts[3] == ("bank: The bank 103 .", "bank: A bank 103 .")
    assert one.test.labels.tolist() == [0, 1, 0, 1]


def test_wsc_templates(tmp_path):
    case_of("wsc").write(tmp_path)
    data = load_task("wsc", tmp_path, template=1)
    assert data.test.texts[1] == ("Mark told Pete 101 lies, and *he* laughed.", "Mark")


# positions count the words between blanks: "He" is 3 and "he" is 6, and 5 is nearer to the latter
@pytest.mark.parametrize(
    ("index", "marked"),
    [
        (3, "Ann saw Bo. *He* waved, and he, smiled."),
        (6, "Ann saw Bo. He waved, and *he,* smiled."),
        (5, "Ann saw Bo. He waved, and *he,* smiled."),
    ],
)
def test_wsc_marks_the_pronoun_nearest_to_its_index(tmp_path, index, marked):
    own = case_of("wsc").write(tmp_path)
    target = {"span1_text": "Bo", "span1_index": 2, "span2_text": "he", "span2_index": index}
    row = {"text": "Ann saw Bo. He waved,  and he, smiled.", "target": target, "label": True}
    (own / "val.jsonl").write_text(jsonl([row]))
    assert load_task("wsc", tmp_path, template=1).test.texts == [(marked, "Bo")]


@pytest.mark.parametrize("index", [99, -1, "six", None])
def test_wsc_positions_outside_of_the_text(tmp_path, index):
    own = case_of("wsc").write(tmp_path)
    change(own / "train.jsonl", '"span2_index": 6', f'"span2_index": {json.dumps(index)}', 1)
    parts = [own / "train.jsonl", "row 1", f"span2_index is {index!r}", "'he'"]
    refused("wsc", tmp_path, *parts, template=1)
    assert len(load_task("wsc", tmp_path).train) == 18


def test_wsc_without_an_object_as_target(tmp_path):
    own = case_of("wsc").write(tmp_path)
    (own / "train.jsonl").write_text(jsonl([{"text": "a b", "target": "he", "label": True}]))
    refused("wsc", tmp_path, own / "train.jsonl", "row 1", "'target' is 'he'", "span2_index")


def test_a_task_in_the_file_format_of_pubmed_is_refused_by_its_labels(tmp_path):
    own = case_of("pubmed").write(tmp_path)
    labels = ["background", "population", "intervention", "outcome", "study design", "other"]
    rows = ["###1", *[f"{label}\tA sentence ." for label in labels], ""]
    for name in ("train.txt", "dev.txt", "test.txt"):
        (own / name).write_text(lines(rows))
    refused("pubmed", tmp_path, own / "train.txt", *labels[1:], "5 of 6 rows", "BACKGROUND")
