"""Writers of small official files: n rows each, in the format of a benchmark.

Rows are numbered from ``start``, which is in their texts and decides their labels.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Writer = Callable[[int, int], str]
"""The content of a file with that many rows (sentences, questions, passages), from a start."""


def lines(rows: Sequence[str], header: str | None = None) -> str:
    """Lines that end in a line feed."""
    return "".join(f"{row}\n" for row in ([] if header is None else [header]) + list(rows))


def jsonl(rows: Sequence[Mapping[str, Any]]) -> str:
    """One JSON object per line."""
    return lines([json.dumps(row) for row in rows])


def line_by_line(row: Callable[[int], str], header: str | None = None) -> Writer:
    """Writes ``row(i)`` for each i, below a header."""
    return lambda n, start=0: lines([row(i) for i in range(start, start + n)], header)


def json_by_line(row: Callable[[int], Mapping[str, Any]]) -> Writer:
    """Writes ``row(i)`` for each i as a JSON object, with its number."""
    return lambda n, start=0: jsonl([{**row(i), "idx": i} for i in range(start, start + n)])


def mnli(n: int, start: int = 0, annotators: int = 1) -> str:
    labels = ["entailment", "neutral", "contradiction"]
    texts = [f"sentence{k}{part}" for part in ("_binary_parse", "_parse", "") for k in (1, 2)]
    judged = [f"label{k + 1}" for k in range(annotators)]
    header = ["index", "promptID", "pairID", "genre", *texts, *judged, "gold_label"]
    rows = [
        [str(i), "1", "1n", "fiction", "( a )", "( b )", "(ROOT a)", "(ROOT b)", f"p {i}", f"h {i}"]
        + [labels[i % 3]] * (annotators + 1)
        for i in range(start, start + n)
    ]
    return lines(["\t".join(row) for row in rows], "\t".join(header))


cola = line_by_line(lambda i: f"gj04\t{i % 2}\t{'' if i % 2 else '*'}\tSentence {i}.")
# quotes of GLUE's files do not come in pairs
mrpc = line_by_line(
    lambda i: f'{i % 2}\t{i}\t{i}\t" He said {i} .\tHe " said {i} .',
    "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
)
qnli = line_by_line(
    lambda i: f"{i}\tWho {i}?\tHe {i}.\t{'not_' * (i % 2)}entailment",
    "index\tquestion\tsentence\tlabel",
)
qqp = line_by_line(
    lambda i: f"{i}\t1\t2\tWhy {i}?\tWhy not {i}?\t{i % 2}",
    "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
)
sst2 = line_by_line(lambda i: f"\" it 's {i} \t{i % 2}", "sentence\tlabel")


def broken_qqp(n: int) -> str:
    """n whole rows and one with a line break within a question, as in the real training file."""
    return qqp(n, 0) + f"{n}\t1\t2\tWhy\n {n}?\tWhy not {n}?\t1\n"


def indexed_pairs(labels: Sequence[str]) -> Writer:
    return line_by_line(
        lambda i: f"{i}\tp {i}\th {i}\t{labels[i % len(labels)]}",
        "index\tsentence1\tsentence2\tlabel",
    )


def entailment(labels: Sequence[str]) -> Writer:
    return json_by_line(
        lambda i: {"premise": f"p {i}", "hypothesis": f"h {i}", "label": labels[i % len(labels)]}
    )


boolq = json_by_line(
    lambda i: {"question": f"is it {i}", "passage": f"It is {i}.", "label": i % 2 == 1}
)
copa = json_by_line(
    lambda i: {
        "premise": f"The cup {i} broke.",
        "choice1": f"It fell {i}.",
        "choice2": f"It was full {i}.",
        "question": ["cause", "effect"][i % 2],
        "label": i % 2,
    }
)
wic = json_by_line(
    lambda i: {
        "word": "bank",
        "sentence1": f"The bank {i} .",
        "sentence2": f"A bank {i} .",
        "label": i % 2 == 1,
        **{"start1": 4, "end1": 8, "start2": 2, "end2": 6, "version": 1.1},
    }
)
wic_data = line_by_line(lambda i: f"bank\tN\t1-1\tThe bank {i} .\tA bank {i} .")
wic_gold = line_by_line(lambda i: "FT"[i % 2])
_SPANS = {"span1_text": "Mark", "span1_index": 0, "span2_text": "he", "span2_index": 6}
wsc = json_by_line(
    lambda i: {
        "text": f"Mark told Pete {i} lies, and he laughed.",
        "target": _SPANS,
        "label": i % 2 == 1,
    }
)


def multirc_question(question: int, first_answer: int, answers: int) -> dict[str, Any]:
    """A question whose first answer is right."""
    return {
        "question": f"Question {question // 2}.{question % 2}?",
        "idx": question,
        "answers": [
            {"text": f"Answer {a}", "idx": first_answer + a, "label": int(a == 0)}
            for a in range(answers)
        ],
    }


# paragraphs of one question with two answers and one with three
multirc = json_by_line(
    lambda i: {
        "version": 1.1,
        "passage": {
            "text": f"Paragraph {i}.",
            "questions": [multirc_question(2 * i + q, 10 * i + 5 * q, 2 + q) for q in range(2)],
        },
    }
)

_NEWS = "Ann Lee met Bo.\n@highlight\nBo thanked Ann Lee in Rome"
_ENTITIES = {
    (0, 6): "Ann Lee",
    (12, 13): "Bo",
    (27, 28): "Bo",
    (38, 44): "Ann Lee",
    (49, 52): "Rome",
}
assert all(_NEWS[start : end + 1] == name for (start, end), name in _ENTITIES.items())
# passages with three entities and one query whose answer is Ann Lee
record = json_by_line(
    lambda i: {
        "source": "made by hand",
        "passage": {
            "text": _NEWS,
            "entities": [{"start": start, "end": end} for start, end in reversed(_ENTITIES)],
        },
        "qas": [
            {
                "idx": i,
                "query": f"@placeholder was thanked {i} times",
                "answers": [
                    {"start": start, "end": end, "text": name}
                    for (start, end), name in _ENTITIES.items()
                    if name == "Ann Lee"
                ],
            }
        ],
    }
)


def boss(n: int, start: int = 0) -> str:
    last = start + n - 1
    rows = [f"Review {i}\t{i % 3}" for i in range(start, last)]
    # pandas encloses what has a quote, tab or line break
    return lines([*rows, f'"A ""fine"" one,\nin two lines"\t{last % 3}'], "Text\tLabel")


def abstracts(labels: Sequence[str], *, numbers: bool = True) -> Writer:
    def write(n: int, start: int = 0) -> str:
        """n sentences in abstracts of five, with numbers or with @ in their place."""
        abstracts = []
        for first in range(start, start + n, 5):
            arm = "ABCDEFGHIJK"[first // 5 % 11]
            sentences = [
                f"{labels[i % 5]}\tThe Dose of {i if numbers else '@'} mg in Arm {arm} ."
                for i in range(first, first + 5)
            ]
            abstracts.append(lines([f"###{24000000 + first}", *sentences, ""]))
        return "".join(abstracts)

    return write
