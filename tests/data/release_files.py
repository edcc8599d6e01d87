"""Small official files of every task in every layout, written by hand, and what they hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lpft.data.loading import load_task
from lpft.errors import InputError

from . import official_files as official

TRAIN, TEST, OOD = 20, 4, 3
"""Rows of every training, test and OOD file here, unless a case says otherwise."""

TEST_START, OOD_START = 100, 200
"""The numbers of their first rows; training rows begin at 0."""


@dataclass(frozen=True)
class ReleaseCase:
    """Files by path below ``benchmark / folder``, and what must be read from them.

    ``rows`` is by split under the paper's protocol, ``labels`` the class counts of training and
    validation together, ``first`` the first training input of template 0. ``others`` has class
    counts and the first input of every other split that has a file.
    """

    task: str
    layout: str
    benchmark: str
    folder: str
    files: Mapping[str, str]
    rows: Mapping[str, int]
    labels: Sequence[int]
    first: Any
    others: Mapping[str, tuple[Sequence[int], Any]]

    def write(self, root: Path) -> Path:
        """Write the files below ``root`` and give the task's folder."""
        folder = root / self.benchmark / self.folder
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode())
        return folder


def _split(file: str, test: str, write: official.Writer) -> dict[str, str]:
    return {file: write(TRAIN, 0), test: write(TEST, TEST_START)}


def _test(first: Any, counts: Sequence[int] = (2, 2)) -> dict[str, tuple[Sequence[int], Any]]:
    """The test split; where labels follow the row numbers, two of each of two classes."""
    return {"test": (counts, first)}


_USUAL = {"train": 18, "validation": 2, "test": 4}


_ROLES = ("OBJECTIVE", "METHODS", "METHODS", "RESULTS", "CONCLUSIONS")
_CB = official.entailment(["entailment", "contradiction", "neutral"])
_RTE = ["entailment", "not_entailment"]
_WIC_FIRST = "The bank 0 . A bank 0 . Does bank have the same meaning in both sentences?"
_WIC_TEST = _test("The bank 100 . A bank 100 . Does bank have the same meaning in both sentences?")
# rows 100 to 103 have the labels 1, 2, 0, 1 of three, rows 200 to 202 have 2, 0, 1
_OF_THREE = (1, 2, 1)


def _pubmed(task: str, folder: str, *, clean: bool = False) -> ReleaseCase:
    suffix = "_clean" if clean else ""
    numbers = "numbers" in task
    roles = [role.lower() for role in _ROLES] if clean else _ROLES
    write = official.abstracts(roles, numbers=numbers)
    doses = ("0", "200", "100") if numbers else ("@", "@", "@")
    return ReleaseCase(
        task,
        "PubMed RCT, cleaned" if clean else "PubMed RCT",
        "HSLN-Joint-Sentence-Classification/data" if clean else "pubmed-rct",
        folder,
        {
            f"train{suffix}.txt": write(TRAIN, 0),
            f"dev{suffix}.txt": write(5, 200),
            f"test{suffix}.txt": write(10, 100),
        },
        {"train": 20, "validation": 5, "test": 10},
        [0, 5, 10, 5, 5],
        f"the dose of {doses[0]} mg in arm a .",
        {
            "validation": ([0, 1, 2, 1, 1], f"the dose of {doses[1]} mg in arm h ."),
            "test": ([0, 2, 4, 2, 2], f"the dose of {doses[2]} mg in arm j ."),
        },
    )


PUBMED_FOLDERS = {
    "pubmed": "PubMed_20k_RCT_numbers_replaced_with_at_sign",
    "pubmed_numbers": "PubMed_20k_RCT",
    "pubmed_200k": "PubMed_200k_RCT_numbers_replaced_with_at_sign",
    "pubmed_200k_numbers": "PubMed_200k_RCT",
}

_GLUE, _SUPERGLUE = "GLUE tsv", "SuperGLUE jsonl"

CASES = [
    ReleaseCase(
        "cola", "CoLA's public release", "glue", "CoLA",
        _split("in_domain_train.tsv", "in_domain_dev.tsv", official.cola)
        | {"out_of_domain_dev.tsv": official.cola(OOD, OOD_START)},
        _USUAL | {"ood/out_of_domain": 3}, [10, 10], "Sentence 0.",
        _test("Sentence 100.") | {"ood/out_of_domain": ([2, 1], "Sentence 200.")},
    ),
    ReleaseCase(
        "cola", _GLUE, "glue_data", "CoLA", _split("train.tsv", "dev.tsv", official.cola),
        _USUAL, [10, 10], "Sentence 0.", _test("Sentence 100."),
    ),
    ReleaseCase(
        "mnli", _GLUE, "glue", "MNLI",
        {
            "train.tsv": official.mnli(TRAIN),
            "dev_matched.tsv": official.mnli(TEST, TEST_START, annotators=5),
            "dev_mismatched.tsv": official.mnli(OOD, OOD_START, annotators=5),
        },
        _USUAL | {"ood/mismatched": 3}, [7, 7, 6], ("p 0", "h 0"),
        _test(("p 100", "h 100"), _OF_THREE)
        | {"ood/mismatched": ([1, 1, 1], ("p 200", "h 200"))},
    ),
    ReleaseCase(
        "mrpc", _GLUE, "glue", "MRPC", _split("train.tsv", "dev.tsv", official.mrpc),
        _USUAL, [10, 10], ('" He said 0 .', 'He " said 0 .'),
        _test(('" He said 100 .', 'He " said 100 .')),
    ),
    ReleaseCase(
        "mrpc", "MRPC's original release", "glue", "MRPC",
        _split("msr_paraphrase_train.txt", "msr_paraphrase_test.txt", official.mrpc),
        _USUAL, [10, 10], ('" He said 0 .', 'He " said 0 .'),
        _test(('" He said 100 .', 'He " said 100 .')),
    ),
    ReleaseCase(
        "qnli", _GLUE, "glue", "QNLI", _split("train.tsv", "dev.tsv", official.qnli),
        _USUAL, [10, 10], ("Who 0?", "He 0."), _test(("Who 100?", "He 100.")),
    ),
    ReleaseCase(
        "qqp", _GLUE, "glue", "QQP",
        {"train.tsv": official.broken_qqp(TRAIN), "dev.tsv": official.qqp(TEST, 100)},
        _USUAL, [10, 10], ("Why 0?", "Why not 0?"), _test(("Why 100?", "Why not 100?")),
    ),
    ReleaseCase(
        "sst2", _GLUE, "glue", "SST-2", _split("train.tsv", "dev.tsv", official.sst2),
        _USUAL, [10, 10], "\" it 's 0 ", _test("\" it 's 100 "),
    ),
    ReleaseCase(
        "wnli", _GLUE, "glue", "WNLI",
        _split("train.tsv", "dev.tsv", official.indexed_pairs(["0", "1"])),
        _USUAL, [10, 10], ("p 0", "h 0"), _test(("p 100", "h 100")),
    ),
    ReleaseCase(
        "boolq", _SUPERGLUE, "superglue", "BoolQ",
        _split("train.jsonl", "val.jsonl", official.boolq),
        _USUAL, [10, 10], ("is it 0", "It is 0."), _test(("is it 100", "It is 100.")),
    ),
    ReleaseCase(
        "cb", _SUPERGLUE, "superglue", "CB", _split("train.jsonl", "val.jsonl", _CB),
        _USUAL, [7, 7, 6], ("p 0", "h 0"), _test(("p 100", "h 100"), _OF_THREE),
    ),
    # 20 premises are 40 rows, of which the last 4 are two premises
    ReleaseCase(
        "copa", _SUPERGLUE, "superglue", "COPA", _split("train.jsonl", "val.jsonl", official.copa),
        {"train": 36, "validation": 4, "test": 8}, [20, 20],
        ("The cup 0 broke. because", "It fell 0."),
        _test(("The cup 100 broke. because", "It fell 100."), (4, 4)),
    ),
    # 5 paragraphs of 2 + 3 answers are 25 rows; the last 3 are the last question
    ReleaseCase(
        "multirc", _SUPERGLUE, "superglue", "MultiRC",
        {"train.jsonl": official.multirc(5), "val.jsonl": official.multirc(2, 100)},
        {"train": 22, "validation": 3, "test": 10}, [15, 10],
        ("Paragraph 0.", "Question 0.0? Answer 0"),
        _test(("Paragraph 100.", "Question 100.0? Answer 0"), (6, 4)),
    ),
    # 20 queries of 3 entities are 60 rows, of which the last 6 are two queries
    ReleaseCase(
        "record", _SUPERGLUE, "superglue", "ReCoRD",
        _split("train.jsonl", "val.jsonl", official.record),
        {"train": 54, "validation": 6, "test": 12}, [40, 20],
        ("Ann Lee met Bo.\n- Bo thanked Ann Lee in Rome", "Ann Lee was thanked 0 times"),
        _test(
            ("Ann Lee met Bo.\n- Bo thanked Ann Lee in Rome", "Ann Lee was thanked 100 times"),
            (8, 4),
        ),
    ),
    ReleaseCase(
        "rte", _SUPERGLUE, "superglue", "RTE",
        _split("train.jsonl", "val.jsonl", official.entailment(_RTE)),
        _USUAL, [10, 10], ("p 0", "h 0"), _test(("p 100", "h 100")),
    ),
    ReleaseCase(
        "rte", _GLUE, "glue", "RTE", _split("train.tsv", "dev.tsv", official.indexed_pairs(_RTE)),
        _USUAL, [10, 10], ("p 0", "h 0"), _test(("p 100", "h 100")),
    ),
    ReleaseCase(
        "wic", _SUPERGLUE, "superglue", "WiC", _split("train.jsonl", "val.jsonl", official.wic),
        _USUAL, [10, 10], _WIC_FIRST, _WIC_TEST,
    ),
    ReleaseCase(
        "wic", "WiC's original release", "superglue", "WiC",
        _split("train.data.txt", "dev.data.txt", official.wic_data)
        | _split("train.gold.txt", "dev.gold.txt", official.wic_gold),
        _USUAL, [10, 10], _WIC_FIRST, _WIC_TEST,
    ),
    ReleaseCase(
        "wic", "WiC's original release", "superglue", "WiC_dataset",
        _split("train/train.data.txt", "dev/dev.data.txt", official.wic_data)
        | _split("train/train.gold.txt", "dev/dev.gold.txt", official.wic_gold),
        _USUAL, [10, 10], _WIC_FIRST, _WIC_TEST,
    ),
    ReleaseCase(
        "wsc", _SUPERGLUE, "superglue", "WSC", _split("train.jsonl", "val.jsonl", official.wsc),
        _USUAL, [10, 10], ("he: Mark told Pete 0 lies, and he laughed.", "Mark"),
        _test(("he: Mark told Pete 100 lies, and he laughed.", "Mark")),
    ),
    ReleaseCase(
        "amazon", "BOSS's processed tsv", "boss", "process/SentimentAnalysis",
        _split("amazon/train.tsv", "amazon/test.tsv", official.boss)
        | {
            "dynasent/test.tsv": official.boss(OOD, 200),
            "semeval/test.tsv": official.boss(OOD, 300),
            "sst5/test.tsv": official.boss(OOD, 400),
        },
        _USUAL | {f"ood/{name}": 3 for name in ("dynasent", "semeval", "sst5")},
        [7, 7, 6], "Review 0",
        _test("Review 100", _OF_THREE)
        | {
            "ood/dynasent": ([1, 1, 1], "Review 200"),
            "ood/semeval": ([1, 1, 1], "Review 300"),
            "ood/sst5": ([1, 1, 1], "Review 400"),
        },
    ),
    *(_pubmed(task, folder) for task, folder in PUBMED_FOLDERS.items()),
    # the cleaned copies' README and code call their folder differently
    _pubmed("pubmed", "PubMed-20k-RCT", clean=True),
    _pubmed("pubmed_numbers", "PubMed_20k_RCT", clean=True),
]  # fmt: skip


def case_of(task: str, layout: str | None = None) -> ReleaseCase:
    """The first case of a task, in a layout where one is named."""
    return next(c for c in CASES if c.task == task and layout in (None, c.layout))


def change(path: Path, old: str, new: str, count: int = -1) -> None:
    """Replace a text that a file must hold, everywhere or the first times."""
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new, count))


def refused(task: str, folder: Path, *parts: object, **options: Any) -> None:
    """Assert that loading fails with one line that holds all the parts."""
    with pytest.raises(InputError) as caught:
        load_task(task, folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message, message
