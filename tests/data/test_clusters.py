"""Rows that are not independent: which tasks have such, and that selections keep them."""

import numpy as np
import pytest

from lpft.data.examples import Examples
from lpft.data.loading import load_task
from lpft.data.tasks import TASKS

from .release_files import CASES, case_of, change

TOGETHER = {
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


def test_tasks_whose_rows_share_texts_or_abstracts_say_so():
    assert {name: task.cluster for name, task in TASKS.items() if task.cluster} == TOGETHER


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.task}-{case.layout}")
def test_every_layout_of_such_a_task_has_a_number_for_each_row(tmp_path, case):
    case.write(tmp_path)
    data = load_task(case.task, tmp_path)
    splits = list(data.splits().values())
    assert len(splits) >= 3
    for examples in splits:
        if case.task in TOGETHER:
            assert examples.clusters.shape == (len(examples),)
            assert examples.clusters.dtype == np.int64
        else:
            assert examples.clusters is None


@pytest.mark.parametrize("layout", ["PubMed RCT", "PubMed RCT, cleaned"])
def test_sentences_of_an_abstract_are_together(tmp_path, layout):
    case_of("pubmed", layout).write(tmp_path)
    data = load_task("pubmed", tmp_path)
    assert data.test.ids[4:6] == ["24000100-4", "24000105-0"]
    assert data.test.clusters.tolist() == [0] * 5 + [1] * 5
    assert data.train.clusters.tolist() == np.repeat(range(4), 5).tolist()


def test_answers_on_a_paragraph_are_together_beyond_their_question(tmp_path):
    case_of("multirc").write(tmp_path)
    data = load_task("multirc", tmp_path)
    assert data.test.groups.index.tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert data.test.clusters.tolist() == [0] * 5 + [1] * 5


def test_questions_on_a_passage_are_together(tmp_path):
    own = case_of("boolq").write(tmp_path)
    change(own / "val.jsonl", "It is 102.", "It is 100.")
    assert load_task("boolq", tmp_path).test.clusters.tolist() == [0, 1, 0, 2]


def test_the_class_that_answers_is_the_task_s_own(tmp_path):
    case_of("multirc").write(tmp_path)
    assert load_task("multirc", tmp_path).train.groups.positive == 1


def test_selected_rows_keep_their_numbers():
    clusters = np.array([3, 3, 5, 7])
    rows = Examples(list("abcd"), list("wxyz"), None, clusters=clusters)
    assert rows.select([3, 1]).clusters.tolist() == [7, 3]
    assert Examples(["0"], ["a"], None).select([0]).clusters is None
