"""SuperGLUE's own formats: questions with candidate answers, WiC's labels, WSC's pronouns."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpft.data.loading import load_task
from lpft.data.tasks.superglue import exact_match, token_f1

from .official_files import jsonl, multirc_question
from .release_files import case_of, change, refused

WORDS = st.lists(st.sampled_from(["Ann", "bo", "the", "Lee", "U.S.", "-"]), max_size=4).map(
    " ".join
)


@pytest.mark.parametrize(
    ("phrase", "answers", "exact", "f1"),
    [
        ("Ann Lee", ["Ann Lee"], 1, 1),
        ("the  ann lee!", ["Ann Lee", "Bo"], 1, 1),
        ("U.S.", ["the US"], 1, 1),
        # one word in common of 2 and 1: 2 * 1 / 3
        ("Ann Lee", ["Ann"], 0, 2 / 3),
        ("Ann Lee", ["Bo", "Lee Ann Bo"], 0, 4 / 5),
        # "a" is an article, "Ann" holds one and stays; "Bo" twice meets "Bo" once
        ("Bo Bo", ["a Bo"], 0, 2 / 3),
        ("Ann", ["Bo"], 0, 0),
        ("the", ["Ann"], 0, 0),
        ("Ann", [], 0, 0),
    ],
)
def test_hand_counts(phrase, answers, exact, f1):
    assert exact_match(phrase, answers) == exact
    assert token_f1(phrase, answers) == pytest.approx(f1, abs=1e-15)


@given(phrase=WORDS, answer=WORDS)
def test_f1_is_symmetric_and_one_where_the_match_is_exact(phrase, answer):
    assert token_f1(phrase, [answer]) == token_f1(answer, [phrase])
    assert 0 <= token_f1(phrase, [answer]) <= 1
    if exact_match(phrase, [answer]) and token_f1(phrase, [phrase]):
        assert token_f1(phrase, [answer]) == 1


def test_hidden_labels(tmp_path):
    own = case_of("copa").write(tmp_path)
    change(own / "val.jsonl", '"label": 0', '"label": -1')
    refused("copa", tmp_path, own / "val.jsonl", "hidden (-1)")
    own = case_of("record").write(tmp_path)
    rows = [json.loads(line) for line in (own / "val.jsonl").read_text().splitlines()]
    for row in rows:
        del row["qas"][0]["answers"]
    (own / "val.jsonl").write_text(jsonl(rows))
    refused("record", tmp_path, own / "val.jsonl", "row 1", "the answers are hidden")
    own = case_of("multirc").write(tmp_path)
    content = (own / "val.jsonl").read_text()
    (own / "val.jsonl").write_text(content.replace(', "label": 0', "").replace(', "label": 1', ""))
    refused("multirc", tmp_path, own / "val.jsonl", "object with 'label'", "paragraph, question")


def test_grouped_rows(tmp_path):
    for task in ("copa", "multirc", "record"):
        case_of(task).write(tmp_path)
    copa = load_task("copa", tmp_path).test
    assert copa.texts[:4] == [
        ("The cup 100 broke. because", "It fell 100."),
        ("The cup 100 broke. because", "It was full 100."),
        ("The cup 101 broke. so", "It fell 101."),
        ("The cup 101 broke. so", "It was full 101."),
    ]
    assert copa.labels[:4].tolist() == [1, 0, 0, 1]
    assert copa.ids[:2] == ["100-choice1", "100-choice2"]
    assert copa.groups.index.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert {n: c.tolist() for n, c in copa.groups.credits.items()} == {
        "choice_accuracy": [1, 0, 0, 1, 1, 0, 0, 1]
    }
    multirc = load_task("multirc", tmp_path).test
    assert multirc.ids == [
        "100-200-1000", "100-200-1001", "100-201-1005", "100-201-1006", "100-201-1007",
        "101-202-1010", "101-202-1011", "101-203-1015", "101-203-1016", "101-203-1017",
    ]  # fmt: skip
    assert multirc.groups.index.tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    # a row of the file is a paragraph: 2 answers to its first question, 3 to its second
    assert multirc.rows.tolist() == [1] * 5 + [2] * 5
    assert multirc.groups.metrics == ("answer_f1", "exact_match")
    record = load_task("record", tmp_path).test
    assert [text[1] for text in record.texts[:3]] == [
        "Ann Lee was thanked 100 times",
        "Bo was thanked 100 times",
        "Rome was thanked 100 times",
    ]
    assert record.labels[:3].tolist() == [1, 0, 0]
    assert record.groups.metrics == ("exact_match", "token_f1")
    assert record.groups.credits["exact_match"][:3].tolist() == [1, 0, 0]


def test_no_protocol_tears_a_question_apart(tmp_path):
    own = case_of("multirc").write(tmp_path)
    content = (own / "train.jsonl").read_text()
    # the rule's last ceil(27 / 10) = 3 rows would begin within the last question but one
    extra = {"idx": 5, "passage": {"text": "Last.", "questions": [multirc_question(99, 990, 2)]}}
    (own / "train.jsonl").write_text(content + jsonl([extra]))
    paper = load_task("multirc", tmp_path)
    assert paper.validation.ids == ["4-9-45", "4-9-46", "4-9-47", "5-99-990", "5-99-991"]
    assert len(paper.train) == 22
    assert paper.sources["validation"].endswith("with the whole question that begins them")
    stratified = load_task("multirc", tmp_path, protocol="stratified")
    train, held_out = stratified.train.groups.index, stratified.validation.groups.index
    assert not set(train) & set(held_out)
    # 11 questions, of which a tenth is two, rounded up
    assert (len(set(train)), len(set(held_out))) == (9, 2)
    assert len(stratified.train) + len(stratified.validation) == 27
    assert "by question" in stratified.sources["validation"]


def test_questions_that_are_none(tmp_path):
    own = case_of("record").write(tmp_path)
    change(own / "train.jsonl", '"start": 49', '"start": "49"', 1)
    refused("record", tmp_path, own / "train.jsonl", "row 1", "'start' is '49'", "whole number")
    own = case_of("copa").write(tmp_path)
    change(own / "train.jsonl", '"cause"', '"reason"', 1)
    refused("copa", tmp_path, own / "train.jsonl", "row 1", "'reason'", "cause or effect")
    own = case_of("multirc").write(tmp_path)
    (own / "train.jsonl").write_text(jsonl([{"idx": 0, "passage": {"text": "x", "questions": []}}]))
    refused("multirc", tmp_path, own / "train.jsonl", "no questions")
    (own / "train.jsonl").write_text(jsonl([{"idx": 0, "passage": "x"}]))
    refused("multirc", tmp_path, own / "train.jsonl", "row 1", "'passage' is 'x'", "an object")


def test_answers_on_a_paragraph_are_together_beyond_their_question(tmp_path):
    case_of("multirc").write(tmp_path)
    data = load_task("multirc", tmp_path)
    assert data.test.groups.index.tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert data.test.clusters.tolist() == [0] * 5 + [1] * 5


def test_questions_on_a_passage_are_together(tmp_path):
    own = case_of("boolq").write(tmp_path)
    change(own / "val.jsonl", "It is 102.", "It is 100.")
    assert load_task("boolq", tmp_path).test.clusters.tolist() == [0, 1, 0, 2]


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
