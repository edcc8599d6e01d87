"""The real release files: sizes by hand count of the releases and by the paper's rule."""

import json
from collections import Counter

import pytest

from lpft.data.sources import load_task

pytestmark = pytest.mark.data

SIZES = {
    "cb": {"train": 225, "validation": 25, "test": 56},
    "rte": {"train": 2241, "validation": 249, "test": 277},
    "sst2": {"train": 60614, "validation": 6735, "test": 872},
    "cola": {"train": 7695, "validation": 856, "test": 527, "ood/out_of_domain": 516},
}


@pytest.mark.parametrize("task", SIZES)
def test_sizes_by_the_papers_rule(data_dir, task):
    data = load_task(task, data_dir)
    assert {name: len(rows) for name, rows in data.splits().items()} == SIZES[task]


@pytest.mark.parametrize(
    ("task", "folder"),
    [("cb", "superglue/CB"), ("rte", "superglue"), ("sst2", "glue"), ("cola", "glue/CoLA")],
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
