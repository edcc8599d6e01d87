"""The Hub's reader on local folders in the Hub's layout; nothing here reaches the network."""

import json
from dataclasses import replace

import datasets
import pytest

from lpft.data.loading import load_task
from lpft.data.tasks import TASKS
from lpft.errors import InputError

from .official_files import lines

N = 20
NO_YES = ["False", "True"]
RTE = ["entailment", "not_entailment"]


def pairs(first, second):
    return lambda i: {first: f"{first} {i}", second: f"{second} {i}"}


def _wic(i):
    return {"word": "bank", "sentence1": f"A {i}.", "sentence2": f"B {i}.", "start1": 0, "end1": 1}


def _wsc(i):
    text = f"Mark told Pete {i} lies, and he laughed."
    target = {"span1_index": 0, "span2_index": 6, "span1_text": "Mark", "span2_text": "he"}
    return {"text": text, **target}


def _copa(i):
    choices = {"choice1": f"It fell {i}.", "choice2": f"It was full {i}."}
    return {"premise": f"The cup {i} broke.", **choices, "question": ["cause", "effect"][i % 2]}


def _multirc(i):
    """A question for every two answers, a paragraph for every two questions."""
    idx = {"paragraph": i // 4, "question": i // 2, "answer": i}
    return {"paragraph": "P.", "question": f"Q {i // 2}?", "answer": f"A {i}", "idx": idx}


def _record(i):
    idx = {"passage": i // 2, "query": i}
    entities = ["Ann Lee", "the Bo", "Rome"]
    texts = {"passage": "News.\n@highlight\nMore", "query": f"@placeholder won {i}"}
    return {**texts, "entities": entities, "answers": ["Ann Lee"], "idx": idx}


# columns of row i, class names in the order of the Hub's indices, and the first training input
HUB = {
    "cola": (
        lambda i: {"sentence": f"S {i}."}, ["unacceptable", "acceptable"], "S 0.",
    ),
    "mnli": (
        pairs("premise", "hypothesis"), ["entailment", "neutral", "contradiction"],
        ("premise 0", "hypothesis 0"),
    ),
    "mrpc": (
        pairs("sentence1", "sentence2"), ["not_equivalent", "equivalent"],
        ("sentence1 0", "sentence2 0"),
    ),
    "qnli": (pairs("question", "sentence"), RTE, ("question 0", "sentence 0")),
    "qqp": (
        pairs("question1", "question2"), ["not_duplicate", "duplicate"],
        ("question1 0", "question2 0"),
    ),
    "sst2": (lambda i: {"sentence": f"s {i} "}, ["negative", "positive"], "s 0 "),
    "wnli": (
        pairs("sentence1", "sentence2"), ["not_entailment", "entailment"],
        ("sentence1 0", "sentence2 0"),
    ),
    "boolq": (pairs("question", "passage"), NO_YES, ("question 0", "passage 0")),
    # another order than the official one: labels must be matched by name
    "cb": (
        pairs("premise", "hypothesis"), ["neutral", "entailment", "contradiction"],
        ("premise 0", "hypothesis 0"),
    ),
    "copa": (_copa, ["choice1", "choice2"], ("The cup 0 broke. because", "It fell 0.")),
    "multirc": (_multirc, NO_YES, ("P.", "Q 0? A 0")),
    "record": (_record, None, ("News.\n- More", "Ann Lee won 0")),
    "rte": (pairs("premise", "hypothesis"), RTE, ("premise 0", "hypothesis 0")),
    "wic": (
        _wic, NO_YES, "A 0. B 0. Does bank have the same meaning in both sentences?",
    ),
    "wsc": (_wsc, NO_YES, ("he: Mark told Pete 0 lies, and he laughed.", "Mark")),
}  # fmt: skip

ROWS_PER_ITEM = {"copa": 2, "record": 3}


@pytest.fixture
def local(tmp_path, monkeypatch):
    """A task pointed at a new folder, and that folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def point(task):
        folder = tmp_path / TASKS[task].hub.id.replace("/", "-")
        folder.mkdir()
        return replace(TASKS[task], hub=replace(TASKS[task].hub, id=str(folder))), folder

    return point


def write_parquet(task, folder, columns, names, splits=None, labels=lambda i, classes: i % classes):
    """The splits that the task's source names, or those that are given."""
    hub = task.hub
    splits = hub.splits.values() if splits is None else splits
    files = []
    for split in splits:
        count = N if split == "train" else 4
        table = datasets.Dataset.from_list([{"idx": i, **columns(i)} for i in range(count)])
        if names is not None:
            table = table.add_column("label", [labels(i, len(names)) for i in range(count)])
            table = table.cast_column("label", datasets.ClassLabel(names=names))
        table.to_parquet(folder / hub.config / f"{split}-00000-of-00001.parquet")
        files.append(f"  - split: {split}\n    path: {hub.config}/{split}-*\n")
    card = f"---\nconfigs:\n- config_name: {hub.config}\n  data_files:\n{''.join(files)}---\n"
    (folder / "README.md").write_text(card)


@pytest.mark.parametrize("name", HUB)
def test_a_task_in_the_layout_of_the_hub(local, name, capsys):
    columns, names, first = HUB[name]
    task, folder = local(name)
    write_parquet(task, folder, columns, names)
    capsys.readouterr()
    data = load_task(task)
    # no terminal, no progress bar; and whoever calls us keeps theirs
    assert capsys.readouterr() == ("", "")
    assert not datasets.are_progress_bars_disabled()
    each = ROWS_PER_ITEM.get(name, 1)
    rows = {"train": 18 * each, "validation": 2 * each, "test": 4 * each}
    if name == "mnli":
        rows["ood/mismatched"] = 4
    assert {split: len(examples) for split, examples in data.splits().items()} == rows
    assert data.train.texts[0] == first
    # row i is of the class i % C; a group's first answer is right, or each second one
    expected = {"copa": [1, 0, 0, 1], "record": [1, 0, 0, 1], "multirc": [0, 1, 0, 1]}
    official = TASKS[name].classes
    in_order = [official.index(names[i % len(names)]) for i in range(4)] if each == 1 else None
    assert data.classes == official
    assert data.test.labels[:4].tolist() == expected.get(name, in_order)
    assert TASKS[name].hub.revision in data.sources["test"]
    assert (data.test.groups is None) == (TASKS[name].grouping is None)


def test_every_task_of_the_hub_is_here_and_pinned_to_a_commit():
    on_hub = {name: task.hub for name, task in TASKS.items() if task.hub is not None}
    assert set(HUB) == on_hub.keys() - {"pubmed", "pubmed_200k_numbers"}
    for hub in on_hub.values():
        assert len(bytes.fromhex(hub.revision)) == 20


def test_another_revision_is_recorded_and_asked_for(local, monkeypatch):
    task, folder = local("cb")
    write_parquet(task, folder, *HUB["cb"][:2])
    load, asked = datasets.load_dataset, []

    def recorded(*arguments, **options):
        asked.append((arguments, options))
        return load(*arguments, **options)

    monkeypatch.setattr(datasets, "load_dataset", recorded)
    assert "at v1 on" in load_task(task, revision="v1").sources["test"]
    assert asked == [((task.hub.id, "cb"), {"revision": "v1"})]


OTHER_DATASETS = {
    "hidden labels": ({"labels": lambda *_: -1}, ["labels are hidden (-1)", "split train"]),
    "other classes": ({"names": ["a", "b", "c"]}, ["a, b, c", "expected cb's: entailment"]),
    "no validation split": ({"splits": ["train"]}, ["the splits train", "expected 'validation'"]),
}


@pytest.mark.parametrize(("options", "parts"), OTHER_DATASETS.values(), ids=OTHER_DATASETS)
def test_datasets_that_are_something_else(local, options, parts):
    task, folder = local("cb")
    columns, names, _ = HUB["cb"]
    write_parquet(task, folder, columns, **{"names": names, **options})
    with pytest.raises(InputError) as caught:
        load_task(task)
    for part in parts:
        assert part in str(caught.value)


YAML = """---
dataset_info:
- config_name: cb
  features:
  - {name: premise, dtype: string}
  - {name: hypothesis, dtype: string}
  - {name: idx, dtype: int64}
  - name: label
    dtype: {class_label: {names: {'0': yes, '1': no, '2': maybe}}}
"""


def test_class_names_that_yaml_reads_as_truths_are_named(local):
    task, folder = local("cb")
    columns = HUB["cb"][0]
    write_parquet(task, folder, lambda i: {**columns(i), "label": i % 3}, None)
    card = folder / "README.md"
    card.write_text(card.read_text().replace("---\n", YAML, 1))
    with pytest.raises(InputError, match="True, False, maybe, expected cb's"):
        load_task(task)


def test_a_missing_configuration_is_named(local):
    task, folder = local("cb")
    write_parquet(task, folder, *HUB["cb"][:2])
    with pytest.raises(InputError, match=r"cb could not be loaded.*\(rte\).*data_dir"):
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
    for part in ["aps/super_glue", type(error).__name__, "network", "data_dir"]:
        assert part in message
    assert "\n" not in message
    assert not datasets.are_progress_bars_disabled()


def test_record_entities_earn_what_squad_says(local):
    task, folder = local("record")
    answers = ["Rome", "Bo", "Ann Bo"]
    write_parquet(task, folder, lambda i: {**_record(i), "answers": answers}, None)
    test = load_task(task).test
    # right is what is an answer letter for letter
    assert test.labels[:3].tolist() == [0, 0, 1]
    # "the Bo" is "Bo" without its article; of "Ann Lee" and "Ann Bo" one word of two is the same
    assert test.groups.credits["exact_match"][:3].tolist() == [0, 1, 1]
    assert test.groups.credits["token_f1"][:3].tolist() == [0.5, 1, 1]


ROLES = ["objective", "methods", "results", "conclusions", "background"]


def test_pubmed_20k_has_small_labels_in_json_lines(local):
    task, folder = local("pubmed")
    for file, count in (("train", 10), ("dev", 5), ("test", 5)):
        rows = [
            {"abstract_id": "1", "label": ROLES[i % 5], "text": f"The {i} of @ .", "sentence_id": i}
            for i in range(count)
        ]
        (folder / f"{file}.jsonl").write_text(lines([json.dumps(row) for row in rows]))
    data = load_task(task)
    assert [len(rows) for rows in data.splits().values()] == [10, 5, 5]
    assert data.train.texts[0] == "the 0 of @ ."
    assert [data.classes[label] for label in data.test.labels] == [r.upper() for r in ROLES]
    assert any("176,642" in note for note in data.notes)
    assert data.test.clusters.tolist() == [0] * 5


def test_pubmed_200k_is_the_lines_of_the_official_files(local):
    task, folder = local("pubmed_200k_numbers")
    sentences = [f"{role.upper()}\tThe {i} mg ." for i, role in enumerate(ROLES)]
    for file in ("train", "dev", "test"):
        (folder / f"{file}.txt").write_text(
            lines(["###12", *sentences, "", "###13", *sentences, ""])
        )
    data = load_task(task)
    assert {len(rows) for rows in data.splits().values()} == {10}
    assert data.test.ids[4:6] == ["12-4", "13-0"]
    assert data.test.clusters.tolist() == [0] * 5 + [1] * 5
    assert data.test.texts[1] == "the 1 mg ."
    assert data.test.class_counts(5) == [2, 2, 2, 2, 2]
