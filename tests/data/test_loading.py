"""A problem from the user's own files: splits, classes, columns, and what is wrong with them."""

import json
import subprocess
import sys
from functools import partial

import pandas as pd
import pytest

from lpft.data.checks import check_data
from lpft.data.examples import UNSEEN, fingerprint
from lpft.data.loading import load_files, read_examples
from lpft.data.tables import columns_of_training, read_table
from lpft.errors import InputError

WORDS = ["good", "bad", "fine", "poor", "great", "awful", "nice", "ugly", "neat", "dull"]


def _csv(path, labels, column="text", extra=""):
    lines = [f"{column},label"] + [
        f"{WORDS[i % 10]} thing {i}{extra},{label}" for i, label in enumerate(labels)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_four_files(tmp_path):
    data = load_files(
        _csv(tmp_path / "reviews.train.csv", ["pos", "neg"] * 5),
        validation=_csv(tmp_path / "valid.csv", ["neg", "pos"], extra=" v"),
        test=_csv(tmp_path / "test.csv", ["pos"], extra=" t"),
        ood={"other-2.x": _csv(tmp_path / "ood.csv", ["neg", "neg", "pos"], extra=" o")},
    )
    assert data.name == "reviews"
    assert data.classes == ("neg", "pos")
    assert {name: len(rows) for name, rows in data.splits().items()} == {
        "train": 10,
        "validation": 2,
        "test": 1,
        "ood/other-2.x": 3,
    }
    assert data.train.texts[:2] == ["good thing 0", "bad thing 1"]
    assert data.train.labels.tolist() == [1, 0] * 5
    assert data.ood["other-2.x"].labels.tolist() == [0, 0, 1]
    assert data.sources["ood/other-2.x"] == str(tmp_path / "ood.csv")
    assert data.metric == "accuracy"


def test_a_file_that_is_only_called_train_has_the_name_of_its_folder(tmp_path, monkeypatch):
    folder = tmp_path / "invoices"
    folder.mkdir()
    path = _csv(folder / "Train.csv", ["a", "b"] * 20)
    assert load_files(path).name == folder.name
    monkeypatch.chdir(folder)
    assert load_files("Train.csv").name == folder.name
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    assert load_files("../Train.csv").name == folder.name
    assert load_files(_csv(folder / "training_2024.csv", ["a", "b"] * 20)).name == "training_2024"


def test_one_file_holds_out_a_tenth_of_each_class_and_has_no_test_split(tmp_path):
    path = _csv(tmp_path / "train.csv", ["a"] * 20 + ["b"] * 30)
    data = load_files(path)
    assert data.test is None
    assert data.validation.labels.tolist() == [0] * 2 + [1] * 3
    assert sorted(map(int, [*data.train.ids, *data.validation.ids])) == list(range(50))
    for split in (data.train, data.validation):
        assert split.rows.tolist() == [int(row) + 1 for row in split.ids]
    assert "10% of the training rows of every class" in data.sources["validation"]


def test_the_paper_protocol_takes_the_last_rows(tmp_path):
    data = load_files(_csv(tmp_path / "train.csv", ["a", "b"] * 10 + ["a"]), protocol="paper")
    # ceil(21 / 10) = 3 rows
    assert data.validation.ids == ["18", "19", "20"]
    assert data.protocol == "paper"


def test_pairs_from_named_columns(tmp_path):
    path = tmp_path / "train.jsonl"
    rows = [{"q": f"q {i}", "a": f"a {i}", "y": i % 2} for i in range(20)]
    path.write_text("\n".join(map(json.dumps, rows)))
    data = load_files(path, text_columns=["q", "a"], label_column="y")
    assert data.classes == (0, 1)
    assert data.train.texts[0] == ("q 0", "a 0")


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([3.0, 1.0, 3.0, 1.0], (1, 3)),
        ([True, False, True, False], ("False", "True")),
        (["10", "9", "10", "9"], (9, 10)),
        (["x", "1", "x", "1"], ("1", "x")),
    ],
    ids=["floats", "booleans", "integers as text", "mixed"],
)
def test_classes_by_the_kind_of_labels(tmp_path, labels, classes):
    path = tmp_path / "train.parquet"
    pd.DataFrame({"text": list("abcd"), "label": labels}).to_parquet(path)
    assert load_files(path).classes == classes


def test_labels_match_across_formats(tmp_path):
    parquet = tmp_path / "test.parquet"
    pd.DataFrame({"text": ["a", "b"], "label": [2.0, 1.0]}).to_parquet(parquet)
    data = load_files(_csv(tmp_path / "train.csv", [1, 2] * 5), test=parquet)
    assert data.classes == (1, 2)
    assert data.test.labels.tolist() == [1, 0]


def test_more_rows_for_known_classes(tmp_path):
    path = _csv(tmp_path / "more.csv", ["b", "a"])
    assert read_examples(path, ("a", "b")).labels.tolist() == [1, 0]
    with pytest.raises(InputError, match=r"more\.csv.*'b' in row 1 of 2.*'a', 'c'"):
        read_examples(path, ("a", "c"))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("train.csv", "text|label\na|x\nb|y\n", "by vertical bars"),
        ("train.txt", "text;label\na;x\nb;y\n", "by semicolons, expected tabs"),
    ],
)
@pytest.mark.parametrize("columns", [None, ["text"]])
def test_another_delimiter_is_named(tmp_path, name, content, says, columns):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=says):
        load_files(tmp_path / name, text_columns=columns)


GOOD = "text,label\na,x\nb,y\nc,x\nd,y\n"
BAD = {
    "no label column": ("text,Label\na,x\n", {}, ["no column 'label'", "text, Label", "'Label'?"]),
    "neither column": (
        "kind,question\nx,how is it there\ny,why so\nx,who came\n",
        {},
        ["no column 'label'", "kind, question", "text_columns question label_column kind"],
    ),
    "no text column": (GOOD, {"text_columns": ["body"]}, ["no column 'body'", "text, label"]),
    "empty text": ("text,label\n,x\nb,y\n ,x\n", {}, ["'text'", "no text in rows 1, 3"]),
    "empty label": ("text,label\na,\nb,y\n", {}, ["'label'", "no label in row 1"]),
    "one class": ("text,label\na,x\nb,x\n", {}, ["only the class 'x'", "at least 2 classes"]),
    "regression": ("text,label\na,0.5\nb,1.5\n", {}, ["regression is not supported"]),
    "one row per class": ("text,label\na,x\nb,y\n", {}, ["no rows can be held out"]),
    "unknown protocol": (GOOD, {"protocol": "cv"}, ["unknown split protocol 'cv'"]),
    "label is text": (GOOD, {"text_columns": ["label"]}, ["another for the label"]),
}


@pytest.mark.parametrize(("content", "options", "parts"), BAD.values(), ids=BAD)
def test_bad_training_files_are_named(tmp_path, content, options, parts):
    path = tmp_path / "train.csv"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        load_files(path, **options)
    for part in parts:
        assert part in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


BAD_JSON = {
    "absent text": ({"label": "x"}, "no text in row 5"),
    "null label": ({"text": "a", "label": None}, "no label in row 5"),
    "number as text": ({"text": 5, "label": "x"}, "found 5 (int) in row 5, expected text"),
    "list as text": ({"text": ["a"], "label": "x"}, "found ['a'] (list) in row 5"),
    "half a surrogate": ({"text": "\ud83d", "label": "x"}, "half of a surrogate pair in row 5"),
}


@pytest.mark.parametrize(("row", "part"), BAD_JSON.values(), ids=BAD_JSON)
def test_bad_json_values_are_named(tmp_path, row, part):
    path = tmp_path / "train.jsonl"
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}] * 2
    path.write_text("\n".join(map(json.dumps, [*rows, row])))
    with pytest.raises(InputError) as caught:
        load_files(path)
    assert part in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_labels_unseen_in_training_are_named_with_their_file(tmp_path, split):
    other = _csv(tmp_path / "other.csv", ["a", "c"])
    with pytest.raises(
        InputError, match=r"other\.csv, column 'label': found the label 'c' in row 2"
    ):
        load_files(_csv(tmp_path / "train.csv", ["a", "b"] * 5), **{split: other})


@pytest.mark.parametrize(
    ("labels", "indices", "says"),
    [
        (["a", "other", "b"], [0, UNSEEN, 1], "1 of 3 rows have classes that training lacks"),
        (["none"] * 3, [UNSEEN] * 3, "3 of 3 rows have classes that training lacks ('none')"),
        (["a", "b", "a"], [0, 1, 0], None),
    ],
)
def test_out_of_distribution_sets_may_have_classes_that_training_lacks(
    tmp_path, caplog, labels, indices, says
):
    far = _csv(tmp_path / "far.csv", labels)
    data = load_files(_csv(tmp_path / "train.csv", ["a", "b"] * 5), ood={"far": far})
    assert data.ood["far"].labels.tolist() == indices
    assert data.ood["far"].class_counts(2) == [indices.count(0), indices.count(1)]
    assert [record.getMessage() for record in caplog.records if says is None] == []
    assert says is None or says in caplog.text
    assert len(fingerprint(data)["ood/far"]) == 64
    assert check_data(data)


def test_a_class_that_is_only_written_otherwise_is_no_new_one(tmp_path):
    far = _csv(tmp_path / "far.csv", ["a", "c", " A", "b"])
    with pytest.raises(InputError, match=r"far\.csv, column 'label': found the label 'A' in row 3"):
        load_files(_csv(tmp_path / "train.csv", ["a", "b"] * 5), ood={"far": far})


def test_the_columns_of_training_are_those_of_later_files(tmp_path):
    data = load_files(_csv(tmp_path / "train.csv", ["a", "b"] * 5, column="body"))
    assert data.text_columns == ("body",)
    same = _csv(tmp_path / "same.csv", ["a"], column="body")
    read = partial(read_examples, classes=("a", "b"))
    assert read(same, trained_columns=["body"]).texts == ["good thing 0"]
    other = _csv(tmp_path / "other.csv", ["a"], column="Body")
    with pytest.raises(InputError, match=r"no column 'body', which the model .* mean 'Body'\?.*"):
        read(other, trained_columns=["body"])
    assert read(other, text_columns=["Body"], trained_columns=["body"]).texts == ["good thing 0"]
    # training had no names: the usual ones are taken, and no guess is made
    assert read(_csv(tmp_path / "usual.csv", ["a"])).texts == ["good thing 0"]
    with pytest.raises(InputError, match=r"no column named text or sentence: .*text_columns"):
        read(same)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lines.txt", "Great, love it\nBroke after a day\n"),
        ("one.csv", '"Great, love it"\n"Broke after a day"\n'),
        ("same.txt", "Great, love it\t1\nBroke after a day\t0\n"),
        ("rows.jsonl", '{"sentence": "Great, love it"}\n'),
    ],
)
@pytest.mark.parametrize("trained", [["body"], ["first", "second"], None])
def test_a_file_without_the_columns_of_training_is_refused(tmp_path, name, content, trained):
    (tmp_path / name).write_text(content)
    table = read_table(tmp_path / name)
    if trained is None and name == "rows.jsonl":
        assert columns_of_training(table, trained, tmp_path / name) == ("sentence",)
        return
    with pytest.raises(InputError) as caught:
        columns_of_training(table, trained, tmp_path / name)
    message = str(caught.value)
    assert ("column_names" in message) == (not name.endswith("jsonl"))
    assert "name the text column with text_columns" in message


def test_other_files_need_the_same_text_column(tmp_path):
    other = _csv(tmp_path / "other.csv", ["a"], column="body")
    with pytest.raises(InputError, match=r"other\.csv has no column 'text'"):
        load_files(_csv(tmp_path / "train.csv", ["a", "b"] * 5), test=other)


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden", "a b", "ä", "-x", "a\n"])
def test_ood_names_that_are_no_file_names(tmp_path, name):
    path = _csv(tmp_path / "train.csv", ["a", "b"] * 5)
    with pytest.raises(InputError, match="cannot be part of a file name"):
        load_files(path, ood={name: path})


def test_importing_the_data_package_loads_nothing_heavy():
    code = (
        "import sys, lpft.data; print({'torch', 'transformers', 'datasets', 'pandas', 'sklearn', "
        "'pyarrow'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert (result.stdout.strip(), result.stderr) == ("set()", "")
