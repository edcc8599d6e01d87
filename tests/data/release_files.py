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


def _at(first: Any, row: int) -> Any:
    """A first input, text or pair, with its row's number."""
    return first.format(row) if isinstance(first, str) else tuple(_at(part, row) for part in first)


def _case(
    task: str,
    layout: str,
    folder: str,
    files: Mapping[str, str],
    first: Any,
    labels: Sequence[int] = (10, 10),
    test: Sequence[int] = (2, 2),
    rows: Sequence[int] = (18, 2, 4),
    ood: Mapping[str, tuple[Sequence[int], Any]] | None = None,
) -> ReleaseCase:
    """A case below ``benchmark/folder``, with {} for the row's number in the first input.

    Where labels follow the row numbers, the test split has two of each of two classes.
    """
    benchmark, _, own = folder.partition("/")
    far = {f"ood/{name}": split for name, split in (ood or {}).items()}
    counts = dict(zip(("train", "validation", "test"), rows, strict=True)) | dict.fromkeys(far, OOD)
    others = {"test": (test, _at(first, TEST_START))} | far
    return ReleaseCase(task, layout, benchmark, own, files, counts, labels, _at(first, 0), others)


def _glue(task: str, folder: str, write: official.Writer, first: Any, **more: Any) -> ReleaseCase:
    files = _split("train.tsv", "dev.tsv", write)
    return _case(task, "GLUE tsv", f"glue/{folder}", more.pop("files", files), first, **more)


def _superglue(
    task: str, folder: str, write: official.Writer, first: Any, **more: Any
) -> ReleaseCase:
    files = _split("train.jsonl", "val.jsonl", write)
    where = f"superglue/{folder}"
    return _case(task, "SuperGLUE jsonl", where, more.pop("files", files), first, **more)


_ROLES = ("OBJECTIVE", "METHODS", "METHODS", "RESULTS", "CONCLUSIONS")
_CB = official.entailment(["entailment", "contradiction", "neutral"])
_RTE = ["entailment", "not_entailment"]
_WIC_FIRST = "The bank {0} . A bank {0} . Does bank have the same meaning in both sentences?"
# rows 100 to 103 have the labels 1, 2, 0, 1 of three, rows 200 to 202 have 2, 0, 1
_OF_THREE = (1, 2, 1)
_BOSS_STARTS = {"dynasent": 200, "semeval": 300, "sst5": 400}


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

CASES = [
    _case(
        "cola", "CoLA's public release", "glue/CoLA",
        _split("in_domain_train.tsv", "in_domain_dev.tsv", official.cola)
        | {"out_of_domain_dev.tsv": official.cola(OOD, OOD_START)},
        "Sentence {}.", ood={"out_of_domain": ([2, 1], "Sentence 200.")},
    ),
    _case(
        "cola", "GLUE tsv", "glue_data/CoLA", _split("train.tsv", "dev.tsv", official.cola),
        "Sentence {}.",
    ),
    _glue(
        "mnli", "MNLI", official.mnli, ("p {}", "h {}"), labels=(7, 7, 6), test=_OF_THREE,
        ood={"mismatched": ([1, 1, 1], ("p 200", "h 200"))},
        files={
            "train.tsv": official.mnli(TRAIN),
            "dev_matched.tsv": official.mnli(TEST, TEST_START, annotators=5),
            "dev_mismatched.tsv": official.mnli(OOD, OOD_START, annotators=5),
        },
    ),
    _glue("mrpc", "MRPC", official.mrpc, ('" He said {} .', 'He " said {} .')),
    _case(
        "mrpc", "MRPC's original release", "glue/MRPC",
        _split("msr_paraphrase_train.txt", "msr_paraphrase_test.txt", official.mrpc),
        ('" He said {} .', 'He " said {} .'),
    ),
    _glue("qnli", "QNLI", official.qnli, ("Who {}?", "He {}.")),
    _glue(
        "qqp", "QQP", official.qqp, ("Why {}?", "Why not {}?"),
        files={"train.tsv": official.broken_qqp(TRAIN), "dev.tsv": official.qqp(TEST, 100)},
    ),
    _glue("sst2", "SST-2", official.sst2, "\" it 's {} "),
    _glue("wnli", "WNLI", official.indexed_pairs(["0", "1"]), ("p {}", "h {}")),
    _superglue("boolq", "BoolQ", official.boolq, ("is it {}", "It is {}.")),
    _superglue("cb", "CB", _CB, ("p {}", "h {}"), labels=(7, 7, 6), test=_OF_THREE),
    # 20 premises are 40 rows, of which the last 4 are two premises
    _superglue(
        "copa", "COPA", official.copa, ("The cup {} broke. because", "It fell {}."),
        labels=(20, 20), test=(4, 4), rows=(36, 4, 8),
    ),
    # 5 paragraphs of 2 + 3 answers are 25 rows; the last 3 are the last question
    _superglue(
        "multirc", "MultiRC", official.multirc, ("Paragraph {}.", "Question {}.0? Answer 0"),
        labels=(15, 10), test=(6, 4), rows=(22, 3, 10),
        files={"train.jsonl": official.multirc(5), "val.jsonl": official.multirc(2, 100)},
    ),
    # 20 queries of 3 entities are 60 rows, of which the last 6 are two queries
    _superglue(
        "record", "ReCoRD", official.record,
        ("Ann Lee met Bo.\n- Bo thanked Ann Lee in Rome", "Ann Lee was thanked {} times"),
        labels=(40, 20), test=(8, 4), rows=(54, 6, 12),
    ),
    _superglue("rte", "RTE", official.entailment(_RTE), ("p {}", "h {}")),
    _glue("rte", "RTE", official.indexed_pairs(_RTE), ("p {}", "h {}")),
    _superglue("wic", "WiC", official.wic, _WIC_FIRST),
    *(
        _case(
            "wic", "WiC's original release", f"superglue/{folder}",
            _split(f"{train}train.data.txt", f"{dev}dev.data.txt", official.wic_data)
            | _split(f"{train}train.gold.txt", f"{dev}dev.gold.txt", official.wic_gold),
            _WIC_FIRST,
        )
        for folder, train, dev in (("WiC", "", ""), ("WiC_dataset", "train/", "dev/"))
    ),
    _superglue(
        "wsc", "WSC", official.wsc, ("he: Mark told Pete {} lies, and he laughed.", "Mark")
    ),
    _case(
        "amazon", "BOSS's processed tsv", "boss/process/SentimentAnalysis",
        _split("amazon/train.tsv", "amazon/test.tsv", official.boss)
        | {f"{name}/test.tsv": official.boss(OOD, start) for name, start in _BOSS_STARTS.items()},
        "Review {}", labels=(7, 7, 6), test=_OF_THREE,
        ood={name: ([1, 1, 1], f"Review {start}") for name, start in _BOSS_STARTS.items()},
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
