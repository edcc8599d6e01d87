"""The real release files: sizes by hand count of the releases and by the paper's rule."""

import csv
import json
from math import ceil

import numpy as np
import pytest

from lpft.data.loading import load_files, load_task
from lpft.errors import InputError
from lpft.paper import rows_of

pytestmark = pytest.mark.data

# by grep and awk over the files: rows of each class in the training file (train and validation
# together) and in every other one, in the order of the classes
COUNTS = {
    "rte": {"train": [1249, 1241], "test": [146, 131]},
    "sst2": {"train": [29780, 37569], "test": [428, 444]},
    "cola": {"train": [2528, 6023], "test": [162, 365], "ood/out_of_domain": [162, 354]},
    "wic": {"train": [2714, 2714], "test": [319, 319]},
    "cb": {"train": [115, 119, 16], "test": [23, 28, 5]},
    "wsc": {"train": [295, 259], "test": [66, 38]},
    "mrpc": {"train": [1194, 2473], "test": [129, 279]},
    "amazon": {
        "train": [1001, 1388, 611],
        "test": [217, 337, 154],
        "ood/semeval": [325, 994, 681],
        "ood/sst5": [912, 909, 389],
    },
}

FIRST = {
    "rte": {
        "train": (
            "No Weapons of Mass Destruction Found in Iraq Yet.",
            "Weapons of Mass Destruction Found in Iraq.",
        ),
    },
    "sst2": {"train": "hide new secretions from the parental units "},
    "cola": {
        "train": "Our friends won't buy this analysis, let alone the next one we propose.",
        "test": "The sailors rode the breeze clear of the rocks.",
        "ood/out_of_domain": "Somebody just left - guess who.",
    },
    "wic": {
        "train": "You must carry your camping gear . Sound carries well over water . "
        "Does carry have the same meaning in both sentences?",
    },
    "amazon": {
        "train": "so if you happen to be out of the house and you have a frozen os you can't use "
        "nomad until you get home.",
        "test": "hopefully you won't regret.",
        "ood/sst5": "Effective but too-tepid biopic",
    },
}


@pytest.mark.parametrize("task", COUNTS)
def test_rows_of_each_class_and_the_papers_rule(data_dir, task):
    data = load_task(task, data_dir)
    splits = data.splits()
    counts = {split: rows.class_counts(len(data.classes)) for split, rows in splits.items()}
    assert len(data.validation) == ceil(sum(COUNTS[task]["train"]) / 10)
    held_out = counts.pop("validation")
    counts["train"] = [a + b for a, b in zip(counts["train"], held_out, strict=True)]
    assert counts == COUNTS[task]
    first = FIRST.get(task, {})
    assert {split: splits[split].texts[0] for split in first} == first
    # CoLA's public release divides GLUE's dev set, and MRPC's file lacks a row
    if task in ("cb", "rte", "sst2", "wic", "wsc"):
        (row,) = [row for row in rows_of("datasets") if row["dataset"] == task]
        sizes = {split: int(row[f"{split}_by_rule"]) for split in ("train", "validation", "test")}
        assert {split: len(rows) for split, rows in splits.items()} == sizes


@pytest.mark.parametrize(
    ("task", "folder"),
    [
        ("cb", "superglue/CB"),
        ("rte", "superglue"),
        ("cola", "glue/CoLA"),
        ("wic", "superglue/WiC"),
        ("amazon", "boss"),
        ("amazon", "boss/SentimentAnalysis"),
        ("amazon", "boss/SentimentAnalysis/amazon"),
    ],
)
def test_other_folders_give_the_same_rows(data_dir, task, folder):
    one, other = load_task(task, data_dir), load_task(task, data_dir / folder)
    assert one.train.texts == other.train.texts
    assert (one.test.labels == other.test.labels).all()


def test_cb_is_the_file_row_by_row_and_stratified_by_class(data_dir):
    data = load_task("cb", data_dir)
    lines = (data_dir / "superglue" / "CB" / "train.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [*data.train.texts, *data.validation.texts] == [
        (row["premise"], row["hypothesis"]) for row in rows
    ]
    labels = [*data.train.labels, *data.validation.labels]
    assert [data.classes[label] for label in labels] == [row["label"] for row in rows]
    stratified = load_task("cb", data_dir, protocol="stratified")
    # a tenth of 115, 119 and 16
    assert stratified.validation.class_counts(3) == [12, 12, 2]


def test_wics_labels_are_those_of_its_other_file(data_dir):
    data = load_task("wic", data_dir, template=1)
    assert data.test.texts[0] == (
        "board: Room and board .",
        "board: He nailed boards across the windows .",
    )
    gold = (data_dir / "superglue/WiC/dev.gold.txt").read_text().split()
    assert [data.classes[label][0] for label in data.test.labels] == gold


def test_wsc_is_the_file_row_by_row(data_dir):
    lines = (data_dir / "superglue/WSC/train.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    data, marked = load_task("wsc", data_dir), load_task("wsc", data_dir, template=1)
    text = "Mark told Pete many lies about himself, which Pete included in his book. {} should "
    text += "have been more skeptical."
    assert data.train.texts[0] == (f"He: {text.format('He')}", "Mark")
    assert marked.train.texts[0] == (text.format("*He*"), "Mark")
    labels = [*data.train.labels, *data.validation.labels]
    assert [bool(label) for label in labels] == [row["label"] for row in rows]
    # row 42 of val.jsonl points at "use" instead of the "it" after it
    assert "want to use *it* ," in marked.test.texts[42][0]


def test_texts_of_wsc_are_shared_by_several_of_its_rows(data_dir):
    test = load_task("wsc", data_dir).test
    path = data_dir / "superglue" / "WSC" / "val.jsonl"
    texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    assert len(set(texts)) == len(np.unique(test.clusters)) == 41
    first = {text: texts.index(text) for text in texts}
    assert [test.clusters[first[text]] for text in texts] == test.clusters.tolist()


def test_mrpc_keeps_its_single_quotes(data_dir):
    data = load_task("mrpc", data_dir)
    assert data.train.texts[0][0].startswith(
        'Amrozi accused his brother , whom he called " the witness " ,'
    )
    assert data.test.texts[0][1].startswith('" The foodservice pie business does not fit')
    # an odd number of quotes in a sentence, which quoting readers swallow rows over
    assert sum(text.count('"') % 2 for pair in data.train.texts for text in pair) > 0


def test_the_stand_in_for_boss_is_what_csv_reads_and_says_what_it_lacks(data_dir):
    data = load_task("amazon", data_dir)
    (note,) = data.notes
    missing = data_dir / "boss/SentimentAnalysis/dynasent/test.tsv"
    assert note.startswith(f"ood/dynasent is left out: {missing} does not exist; get it from http")
    with (data_dir / "boss/SentimentAnalysis/semeval/test.tsv").open(newline="") as file:
        header, *rows = csv.reader(file, delimiter="\t")
    assert header == ["Text", "Label"]
    assert data.ood["semeval"].texts == [row[0] for row in rows]
    assert data.ood["semeval"].labels.tolist() == [int(row[1]) for row in rows]
    assert data.classes == ("negative", "positive", "neutral")


def test_boolq_without_its_training_file_and_what_is_there_of_it(data_dir, tmp_path):
    with pytest.raises(InputError) as caught:
        load_task("boolq", data_dir)
    path = data_dir / "superglue" / "BoolQ" / "train.jsonl"
    for part in (str(path), "BoolQ.zip", "CC BY-SA 3.0"):
        assert part in str(caught.value)
    (tmp_path / "BoolQ").mkdir()
    for name, real in (("train", "train_32"), ("val", "val")):
        content = (data_dir / "superglue/BoolQ" / f"{real}.jsonl").read_bytes()
        (tmp_path / "BoolQ" / f"{name}.jsonl").write_bytes(content)
    data = load_task("boolq", tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (28, 4, 3270)
    assert data.train.texts[0][0] == "is ghost in the shell based on the anime"


def test_a_user_file_is_what_csv_reads(data_dir):
    folder = data_dir / "banking77"
    data = load_files(folder / "train.csv", test=folder / "test.csv", label_column="category")
    with (folder / "test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert data.test.texts == [row["text"] for row in rows]
    assert [data.classes[label] for label in data.test.labels] == [row["category"] for row in rows]
    assert (len(data.classes), len(data.train) + len(data.validation)) == (77, 10_003)


def test_abstracts_with_other_labels_are_refused_by_these(data_dir):
    with pytest.raises(InputError) as caught:
        load_task("pubmed", data_dir / "sequential" / "NICTA-PIBOSO")
    message = str(caught.value)
    for part in ("train_clean.txt", "population", "intervention", "outcome", "study design"):
        assert part in message
    assert "expected BACKGROUND or CONCLUSIONS or METHODS or OBJECTIVE or RESULTS" in message
    assert "\n" not in message
