"""Tasks whose rows answer questions together: COPA, MultiRC and ReCoRD."""

import json

from lpft.data.loading import load_task

from .official_files import jsonl
from .release_files import case_of, change, refused


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
    refused("multirc", tmp_path, own / "val.jsonl", "no column 'label'", "paragraph, question")


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
    extra = {
        "idx": 5,
        "passage": {
            "text": "Last.",
            "questions": [
                {
                    "question": "Q?",
                    "idx": 99,
                    "answers": [{"text": f"{a}", "idx": 990 + a, "label": 1} for a in range(2)],
                }
            ],
        },
    }
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
