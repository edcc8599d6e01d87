"""The published tables: numbers typed from the paper, and what every table must have."""

import pytest

from lpft.data import TASKS
from lpft.paper import (
    PublishedValue,
    _values,
    published_datasets,
    published_hyperparameters,
    published_kernels,
    published_size,
    published_value,
)

EIGHT = ("cb", "rte", "boolq", "wic", "wsc", "cola", "sst2", "mrpc")
FINE_TUNED = ("ft", "lora", "lp-ft", "lp-lora")
ALL_METHODS = ("lp", *FINE_TUNED)


@pytest.mark.parametrize(
    ("key", "mean", "sd"),
    [
        ((1, "cb", "pretrained", "cosine_similarity"), 0.997, None),
        ((1, "cb", "ft", "feature_difference"), 22.1, None),
        ((1, "rte", "lp-ft", "fisher_ratio"), 157.0, None),
        ((11, "sst5", "lora", "feature_difference"), 8.72, None),
        ((11, "amazon", "lp", "head_norm"), 120.0, None),
        ((3, "cb", "lora", "ece"), 12.89, 0.41),
        ((3, "cb", "lora", "calibrated_ece"), 16.22, 0.55),
        ((3, "cb", "lora", "ece_improvement"), -3.34, None),
        ((3, "mrpc", "lp-ft", "calibrated_mce"), 22.73, 1.33),
        ((8, "cb", "ft", "score"), 81.43, 3.91),
        ((8, "wsc", "lora", "score"), 63.46, 0.68),
        ((10, "dynasent", "lora", "score"), 46.70, 1.68),
        ((12, "wsc", "lp-lora", "feature_difference"), 0.202, None),
        ((13, "cb", "pretrained", "head_norm"), 0.947, None),
        ((13, "wsc", "lp", "head_norm"), 2.26e-4, None),
        ((16, "pubmed", "ft", "score"), 87.09, 0.17),
    ],
)
def test_single_numbers_of_every_table(key, mean, sd):
    assert published_value(*key) == PublishedValue(mean, sd, seeds=5)


def test_what_the_paper_does_not_have_is_none():
    assert published_value(1, "cb", "pretrained", "feature_difference") is None
    assert published_value(11, "sst5", "ft", "head_norm") is None
    assert published_value(8, "demo", "ft", "score") is None
    assert published_value(8, "cb", "dora", "score") is None
    assert published_value(13, "dynasent", "ft", "head_norm") is None
    assert published_size("demo") is None
    assert published_hyperparameters("cb", "lp") is None
    assert published_kernels("cola", "ft", "ntk") is None


def test_every_table_is_complete():
    expected = {
        1: 2 * (6 * 4 - 2),
        11: (6 * 4 - 2) + 3 * (6 * 3 - 2),
        3: 8 * 4 * 6,
        8: 8 * 5,
        10: 4 * 5,
        12: 12 * 4,
        13: 9 * 6,
        16: 5,
    }
    found = dict.fromkeys(expected, 0)
    for table, *_ in _values():
        found[table] += 1
    assert found == expected
    for task in EIGHT:
        assert all(published_value(8, task, method, "score") for method in ALL_METHODS)
        assert all(published_value(3, task, method, "mce") for method in FINE_TUNED)


def test_datasets_of_a_table_are_in_its_order():
    assert published_datasets(10) == ("amazon", "dynasent", "semeval", "sst5")
    assert published_datasets(2) == ("cb", "rte", "boolq", "wic")
    assert published_datasets(13)[-2:] == ("wsc", "amazon")
    assert set(published_datasets(8)) == set(published_datasets(3)) == set(EIGHT)
    assert published_datasets(4) == ()


def test_the_kernels_of_four_sets_have_a_row_for_p_and_two_for_each_method():
    for task in ("cb", "rte", "boolq", "wic"):
        assert published_kernels(task, None, "pretrain_effective") is not None
        for method in FINE_TUNED:
            effective = published_kernels(task, method, "ft_effective")
            assert effective is not None
            assert effective.ft_ratio is not None
            assert published_kernels(task, method, "ntk").ft_ratio is None
    row = published_kernels("cb", "lp-ft", "ntk")
    assert (row.rank, row.frobenius_norm) == (344, 7.28e6)
    assert (row.train_accuracy, row.test_accuracy) == (100.0, 86.31)
    assert published_kernels("cb", None, "pretrain_effective").rank == 18
    assert published_kernels("cb", "ft", "ft_effective").ft_ratio == 0.1987


def test_sizes_are_the_published_ones_and_say_what_they_count():
    cola = published_size("cola")
    assert (cola.classes, cola.train, cola.validation, cola.test) == (2, 7695, 855, 1040)
    assert cola.unit == "rows"
    ood = published_size("dynasent")
    assert (ood.train, ood.validation, ood.test) == (None, None, 4320)
    pubmed = published_size("pubmed")
    assert (pubmed.test, pubmed.unit) == (2500, "abstracts")


def test_every_published_task_is_a_task_with_as_many_classes():
    for task in (*EIGHT, "amazon", "pubmed"):
        assert len(TASKS[task].classes) == published_size(task).classes
        for method in FINE_TUNED:
            found = published_hyperparameters(task, method)
            assert {"learning_rate", "batch_size"} <= set(found)
    assert published_hyperparameters("sst2", "lp-lora") == {
        "batch_size": 8,
        "learning_rate": 1e-3,
        "lora_alpha": 8.0,
        "lora_rank": 8,
    }
