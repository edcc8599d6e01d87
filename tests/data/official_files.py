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


def cola(n: int, start: int = 0) -> str:
    return lines(
        [f"gj04\t{i % 2}\t{'' if i % 2 else '*'}\tSentence {i}." for i in range(start, start + n)]
    )


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


def mrpc(n: int, start: int = 0) -> str:
    # quotes of GLUE's files do not come in pairs
    rows = [f'{i % 2}\t{i}\t{i}\t" He said {i} .\tHe " said {i} .' for i in range(start, start + n)]
    return "\ufeff" + lines(rows, "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String")


def qnli(n: int, start: int = 0) -> str:
    rows = [
        f"{i}\tWho {i}?\tHe {i}.\t{'not_' * (i % 2)}entailment" for i in range(start, start + n)
    ]
    return lines(rows, "index\tquestion\tsentence\tlabel")


def qqp(n: int, start: int = 0) -> str:
    rows = [f"{i}\t1\t2\tWhy {i}?\tWhy not {i}?\t{i % 2}" for i in range(start, start + n)]
    return lines(rows, "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate")


def broken_qqp(n: int) -> str:
    """n whole rows and one with a line break within a question, as in the real training file."""
    return qqp(n) + f"{n}\t1\t2\tWhy\n {n}?\tWhy not {n}?\t1\n"


def sst2(n: int, start: int = 0) -> str:
    return lines([f"\" it 's {i} \t{i % 2}" for i in range(start, start + n)], "sentence\tlabel")


def indexed_pairs(labels: Sequence[str]) -> Writer:
    def write(n: int, start: int = 0) -> str:
        rows = [f"{i}\tp {i}\th {i}\t{labels[i % len(labels)]}" for i in range(start, start + n)]
        return lines(rows, "index\tsentence1\tsentence2\tlabel")

    return write


def boolq(n: int, start: int = 0) -> str:
    return jsonl(
        [
            {"question": f"is it {i}", "passage": f"It is {i}.", "idx": i, "label": i % 2 == 1}
            for i in range(start, start + n)
        ]
    )


def entailment(labels: Sequence[str]) -> Writer:
    def write(n: int, start: int = 0) -> str:
        return jsonl(
            [
                {
                    "premise": f"p {i}",
                    "hypothesis": f"h {i}",
                    "label": labels[i % len(labels)],
                    "idx": i,
                }
                for i in range(start, start + n)
            ]
        )

    return write


def copa(n: int, start: int = 0) -> str:
    return jsonl(
        [
            {
                "premise": f"The cup {i} broke.",
                "choice1": f"It fell {i}.",
                "choice2": f"It was full {i}.",
                "question": ["cause", "effect"][i % 2],
                "idx": i,
                "label": i % 2,
            }
            for i in range(start, start + n)
        ]
    )


def multirc(n: int, start: int = 0) -> str:
    """n paragraphs of one question with two answers and one with three, the first of each right."""
    return jsonl(
        [
            {
                "idx": i,
                "version": 1.1,
                "passage": {
                    "text": f"Paragraph {i}.",
                    "questions": [
                        {
                            "question": f"Question {i}.{q}?",
                            "idx": 2 * i + q,
                            "answers": [
                                {
                                    "text": f"Answer {a}",
                                    "idx": 10 * i + 5 * q + a,
                                    "label": int(a == 0),
                                }
                                for a in range(2 + q)
                            ],
                        }
                        for q in range(2)
                    ],
                },
            }
            for i in range(start, start + n)
        ]
    )


def record(n: int, start: int = 0) -> str:
    """n passages with three entities (one of them twice) and one query whose answer is Ann Lee."""
    text = "Ann Lee met Bo.\n@highlight\nBo thanked Ann Lee in Rome"
    places = [(0, 6), (12, 13), (27, 28), (38, 44), (49, 52)]
    assert [text[start : end + 1] for start, end in places] == [
        "Ann Lee", "Bo", "Bo", "Ann Lee", "Rome"
    ]  # fmt: skip
    return jsonl(
        [
            {
                "idx": i,
                "source": "made by hand",
                "passage": {
                    "text": text,
                    "entities": [{"start": start, "end": end} for start, end in reversed(places)],
                },
                "qas": [
                    {
                        "idx": i,
                        "query": f"@placeholder was thanked {i} times",
                        "answers": [
                            {"start": 0, "end": 6, "text": "Ann Lee"},
                            {"start": 38, "end": 44, "text": "Ann Lee"},
                        ],
                    }
                ],
            }
            for i in range(start, start + n)
        ]
    )


def wic(n: int, start: int = 0) -> str:
    return jsonl(
        [
            {
                "word": "bank",
                "sentence1": f"The bank {i} .",
                "sentence2": f"A bank {i} .",
                "idx": i,
                "label": i % 2 == 1,
                "start1": 4,
                "end1": 8,
                "start2": 2,
                "end2": 6,
                "version": 1.1,
            }
            for i in range(start, start + n)
        ]
    )


def wic_data(n: int, start: int = 0) -> str:
    return lines([f"bank\tN\t1-1\tThe bank {i} .\tA bank {i} ." for i in range(start, start + n)])


def wic_gold(n: int, start: int = 0) -> str:
    return lines(["FT"[i % 2] for i in range(start, start + n)])


def wsc(n: int, start: int = 0) -> str:
    return jsonl(
        [
            {
                "text": f"Mark told Pete {i} lies, and he laughed.",
                "target": {
                    "span1_text": "Mark",
                    "span1_index": 0,
                    "span2_text": "he",
                    "span2_index": 6,
                },
                "idx": i,
                "label": i % 2 == 1,
            }
            for i in range(start, start + n)
        ]
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
