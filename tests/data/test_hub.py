"""The Hub's reader on a local folder in the Hub's layout; nothing here reaches the network."""

from dataclasses import replace

import datasets
import pandas as pd
import pytest

from lpft.data.loading import load_task
from lpft.data.tasks import TASKS
from lpft.errors import InputError

# another order than the official one: labels must be matched by name
NAMES = ["neutral", "entailment", "contradiction"]


@pytest.fixture
def make_hub(tmp_path, monkeypatch):
    """Write a dataset in the Hub's layout; returns the task cb pointed at it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def make(names=NAMES, labels=None, split_names=("train", "validation")):
        labels = [i % 3 for i in range(20)] if labels is None else labels
        folder = tmp_path / "super_glue"
        (folder / "cb").mkdir(parents=True)
        for split in split_names:
            rows = len(labels) if split == "train" else min(6, len(labels))
            table = {
                "premise": [f"{split} p {i}" for i in range(rows)],
                "hypothesis": [f"h {i}" for i in range(rows)],
                "idx": list(range(rows)),
                "label": labels[:rows],
            }
            pd.DataFrame(table).to_parquet(folder / "cb" / f"{split}-00000-of-00001.parquet")
        files = "".join(f"  - split: {s}\n    path: cb/{s}-*\n" for s in split_names)
        class_names = "".join(f"          '{i}': {name}\n" for i, name in enumerate(names))
        card = (
            "---\ndataset_info:\n- config_name: cb\n  features:\n"
            "  - name: premise\n    dtype: string\n  - name: hypothesis\n    dtype: string\n"
            "  - name: idx\n    dtype: int64\n"
            f"  - name: label\n    dtype:\n      class_label:\n        names:\n{class_names}"
            f"configs:\n- config_name: cb\n  data_files:\n{files}---\n"
        )
        (folder / "README.md").write_text(card)
        return replace(TASKS["cb"], hub=replace(TASKS["cb"].hub, id=str(folder)))

    return make


def test_splits_and_labels_by_name(make_hub, capsys):
    data = load_task(make_hub())
    assert data.classes == ("entailment", "contradiction", "neutral")
    assert {name: len(rows) for name, rows in data.splits().items()} == {
        "train": 18,
        "validation": 2,
        "test": 6,
    }
    # indices 0, 1, 2 of the dataset are neutral, entailment, contradiction
    assert data.train.labels[:3].tolist() == [2, 0, 1]
    assert data.train.texts[0] == ("train p 0", "h 0")
    assert data.test.texts[0] == ("validation p 0", "h 0")
    assert data.validation.ids == ["18", "19"]
    assert TASKS["cb"].hub.revision in data.sources["train"]
    # no terminal, no progress bar; and whoever calls us keeps theirs
    assert capsys.readouterr() == ("", "")
    assert not datasets.are_progress_bars_disabled()


def test_another_revision_is_recorded_and_asked_for(make_hub, monkeypatch):
    task = make_hub()
    load, asked = datasets.load_dataset, []

    def recorded(*arguments, **options):
        asked.append((arguments, options))
        return load(*arguments, **options)

    monkeypatch.setattr(datasets, "load_dataset", recorded)
    assert "at v1 on" in load_task(task, revision="v1").sources["test"]
    assert asked == [((task.hub.id, "cb"), {"revision": "v1"})]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"labels": [-1, -1, 0, 1]}, ["labels are hidden (-1)", "split train"]),
        ({"names": ["yes", "no", "maybe"]}, ["True, False, maybe", "expected cb's: entailment"]),
        ({"split_names": ("train",)}, ["has the splits train", "expected 'validation'"]),
    ],
    ids=["hidden labels", "other classes", "no validation split"],
)
def test_datasets_that_are_something_else(make_hub, options, parts):
    with pytest.raises(InputError) as caught:
        load_task(make_hub(**options))
    for part in parts:
        assert part in str(caught.value)


def test_a_missing_configuration_is_named(make_hub):
    task = make_hub()
    with pytest.raises(InputError, match=r"cb could not be loaded.*\(rte\).*--data-dir"):
        load_task(replace(task, hub=replace(task.hub, config="rte")))


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("Couldn't reach the Hub\nlong story"),
        FileNotFoundError("no such dataset"),
        RuntimeError("client has been closed"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_network_is_one_line_that_names_the_way_out(monkeypatch, error):
    def unreachable(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(InputError) as caught:
        load_task("cb")
    message = str(caught.value)
    for part in ["aps/super_glue", type(error).__name__, "network", "--data-dir"]:
        assert part in message
    assert "\n" not in message
    assert not datasets.are_progress_bars_disabled()
