"""The real release files: sizes by hand count of the releases and by the paper's rule."""

import csv
import json
from collections import Counter

import numpy as np
import pytest

from lpft.data.loading import load_task
from lpft.errors import InputError
from lpft.paper import rows_of

pytestmark = pytest.mark.data

SIZES = {
    "cb": {"train": 225, "validation": 25, "test": 56},
    "rte": {"train": 2241, "validation": 249, "test": 277},
    "sst2": {"train": 60614, "validation": 6735, "test": 872},
    "cola": {"train": 7695, "validation": 856, "test": 527, "ood/out_of_domain": 516},
    "wic": {"train": 4885, "validation": 543, "test": 638},
    "wsc": {"train": 498, "validation": 56, "test": 104},
    # the file lacks one of the release's 3668 training rows
    "mrpc": {"train": 3300, "validation": 367, "test": 408},
    "amazon": {
        "train": 2700, "validation": 300, "test": 708, "ood/semeval": 2000, "ood/sst5": 2210,
    },
}  # fmt: skip


# by grep and awk over the files: rows of each class in the training file (train and validation
# together) and in every other one, in the order of the classes
COUNTS = {
    "rte": {"train": [1249, 1241], "test": [146, 131]},
    "sst2": {"train": [29780, 37569], "test": [428, 444]},
    "cola": {"train": [2528, 6023], "test": [162, 365], "ood/out_of_domain": [162, 354]},
    "wic": {"train": [2714, 2714], "test": [319, 319]},
    "cb": {"train": [115, 119, 16], "test": [23, 28, 5]},
    "wsc": {"train": [295, 259], "test": [66, 38]},
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
        "test": (
            "Dana Reeve, the widow of the actor Christopher Reeve, has died of lung cancer at age "
            "44, according to the Christopher Reeve Foundation.",
            "Christopher Reeve had an accident.",
        ),
    },
    "cola": {
        "train": "Our friends won't buy this analysis, let alone the next one we propose.",
        "test": "The sailors rode the breeze clear of the rocks.",
    },
    "amazon": {
        "train": "so if you happen to be out of the house and you have a frozen os you can't use "
        "nomad until you get home.",
        "ood/sst5": "Effective but too-tepid biopic",
    },
}


@pytest.mark.parametrize("task", COUNTS)
def test_label_counts_and_first_inputs_by_hand(data_dir, task):
    data = load_task(task, data_dir)
    classes, splits = len(data.classes), data.splits()
    both = zip(
        splits["train"].class_counts(classes),
        splits.pop("validation").class_counts(classes),
        strict=True,
    )
    counts = {split: rows.class_counts(classes) for split, rows in splits.items()}
    assert counts | {"train": [sum(of_class) for of_class in both]} == COUNTS[task]
    first = FIRST.get(task, {})
    assert {split: splits[split].texts[0] for split in first} == first


@pytest.mark.parametrize("task", SIZES)
def test_sizes_by_the_papers_rule(data_dir, task):
    data = load_task(task, data_dir)
    assert {name: len(rows) for name, rows in data.splits().items()} == SIZES[task]


def test_texts_of_wsc_are_shared_by_several_of_its_rows(data_dir):
    test = load_task("wsc", data_dir).test
    path = data_dir / "superglue" / "WSC" / "val.jsonl"
    texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    assert len(set(texts)) == len(np.unique(test.clusters)) == 41
    first = {text: texts.index(text) for text in texts}
    assert [test.clusters[first[text]] for text in texts] == test.clusters.tolist()


def test_sizes_are_the_papers_own_by_its_rule():
    splits = ("train", "validation", "test")
    published = {
        row["dataset"]: {split: int(row[f"{split}_by_rule"]) for split in splits}
        for row in rows_of("datasets")
        if row["train_by_rule"]
    }
    complete = ("cb", "rte", "sst2", "wic", "wsc")
    assert {task: published[task] for task in complete} == {task: SIZES[task] for task in complete}
    # CoLA's public release has the two parts of GLUE's dev set apart; see MRPC's comment
    assert published["cola"] == {"train": 7695, "validation": 856, "test": 527 + 516}
    assert published["mrpc"] == {"train": 3301, "validation": 367, "test": 408}


@pytest.mark.parametrize(
    ("task", "folder"),
    [
        ("cb", "superglue/CB"),
        ("rte", "superglue"),
        ("sst2", "glue"),
        ("cola", "glue/CoLA"),
        ("wic", "superglue/WiC"),
        ("wsc", "superglue"),
        ("mrpc", "glue/MRPC"),
        ("amazon", "boss"),
        ("amazon", "boss/SentimentAnalysis"),
        ("amazon", "boss/SentimentAnalysis/amazon"),
    ],
)
def test_other_folders_give_the_same_rows(data_dir, task, folder):
    one, other = load_task(task, data_dir), load_task(task, data_dir / folder)
    assert one.train.texts == other.train.texts
    assert (one.test.labels == other.test.labels).all()


def test_cb_is_the_file_row_by_row(data_dir):
    data = load_task("cb", data_dir)
    lines = (data_dir / "superglue" / "CB" / "train.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [*data.train.texts, *data.validation.texts] == [
        (row["premise"], row["hypothesis"]) for row in rows
    ]
    labels = [*data.train.labels, *data.validation.labels]
    assert Counter(data.classes[label] for label in labels) == {
        "contradiction": 119,
        "entailment": 115,
        "neutral": 16,
    }


def test_cb_stratified_validates_on_every_class(data_dir):
    data = load_task("cb", data_dir, protocol="stratified")
    # a tenth of 115, 119 and 16
    assert Counter(data.validation.labels.tolist()) == {0: 12, 1: 12, 2: 2}


def test_first_rows_of_the_tab_separated_files(data_dir):
    sst2, cola = load_task("sst2", data_dir), load_task("cola", data_dir)
    assert sst2.train.texts[0] == "hide new secretions from the parental units "
    assert sst2.classes[sst2.train.labels[0]] == "negative"
    assert cola.ood["out_of_domain"].texts[0] == "Somebody just left - guess who."
    assert cola.classes[cola.ood["out_of_domain"].labels[0]] == "acceptable"


def test_first_and_last_rows_of_wic(data_dir):
    data = load_task("wic", data_dir)
    assert data.train.texts[0] == (
        "You must carry your camping gear . Sound carries well over water . "
        "Does carry have the same meaning in both sentences?"
    )
    pairs = load_task("wic", data_dir, template=1)
    assert pairs.test.texts[0] == (
        "board: Room and board .",
        "board: He nailed boards across the windows .",
    )
    gold = (data_dir / "superglue/WiC/dev.gold.txt").read_text().split()
    assert [data.classes[label][0] for label in data.test.labels] == gold
    # both files of WiC have as many of either class
    assert data.test.class_counts(2) == [319, 319]


def test_wsc_is_the_file_row_by_row(data_dir):
    lines = (data_dir / "superglue/WSC/train.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    data, marked = load_task("wsc", data_dir), load_task("wsc", data_dir, template=1)
    assert data.train.texts[0] == (
        "He: Mark told Pete many lies about himself, which Pete included in his book. He should "
        "have been more skeptical.",
        "Mark",
    )
    assert marked.train.texts[0] == (
        "Mark told Pete many lies about himself, which Pete included in his book. *He* should "
        "have been more skeptical.",
        "Mark",
    )
    labels = [*data.train.labels, *data.validation.labels]
    assert [bool(label) for label in labels] == [row["label"] for row in rows]
    assert Counter(labels) == {0: 295, 1: 259}
    # row 42 of val.jsonl points at "use" instead of the "it" after it
    assert "want to use *it* ," in marked.test.texts[42][0]


def test_mrpc_keeps_its_single_quotes(data_dir):
    data = load_task("mrpc", data_dir)
    first = data.train.texts[0]
    assert first[0].startswith('Amrozi accused his brother , whom he called " the witness " ,')
    assert data.classes[data.train.labels[0]] == "equivalent"
    assert data.test.texts[0][1].startswith('" The foodservice pie business does not fit')
    # an odd number of quotes in a sentence, which quoting readers swallow rows over
    assert sum(text.count('"') % 2 for pair in data.train.texts for text in pair) > 0
    # column Quality of the files
    both = data.train.class_counts(2), data.validation.class_counts(2)
    lines = (data_dir / "glue/MRPC/train.tsv").read_text("utf-8-sig").splitlines()[1:]
    quality = Counter(line[0] for line in lines)
    assert [sum(counts) for counts in zip(*both, strict=True)] == [quality["0"], quality["1"]]


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
    assert data.test.texts[0] == "hopefully you won't regret."
    assert data.classes[data.test.labels[0]] == "neutral"


def test_boolq_without_its_training_file(data_dir):
    with pytest.raises(InputError) as caught:
        load_task("boolq", data_dir)
    path = data_dir / "superglue" / "BoolQ" / "train.jsonl"
    for part in (str(path), "BoolQ.zip", "CC BY-SA 3.0"):
        assert part in str(caught.value)


def test_boolq_reads_what_is_there_of_it(data_dir, tmp_path):
    (tmp_path / "BoolQ").mkdir()
    for name, real in (("train", "train_32"), ("val", "val")):
        content = (data_dir / "superglue/BoolQ" / f"{real}.jsonl").read_bytes()
        (tmp_path / "BoolQ" / f"{name}.jsonl").write_bytes(content)
    data = load_task("boolq", tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (28, 4, 3270)
    assert data.train.texts[0][0] == "is ghost in the shell based on the anime"


def test_abstracts_with_other_labels_are_refused_by_these(data_dir):
    with pytest.raises(InputError) as caught:
        load_task("pubmed", data_dir / "sequential" / "NICTA-PIBOSO")
    message = str(caught.value)
    for part in ("train_clean.txt", "population", "intervention", "outcome", "study design"):
        assert part in message
    assert "expected BACKGROUND or CONCLUSIONS or METHODS or OBJECTIVE or RESULTS" in message
    assert "\n" not in message
