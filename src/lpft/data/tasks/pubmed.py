"""PubMed RCT (Dernoncourt and Lee, IJCNLP 2017): the role of a sentence in a medical abstract."""

from typing import TYPE_CHECKING

from lpft.data.hub import HubSource
from lpft.data.readers import abstract_sentences, read_abstracts
from lpft.data.releases import Release
from lpft.data.tasks.task import Task, Template

if TYPE_CHECKING:
    import pandas as pd

_CLASSES = ("BACKGROUND", "CONCLUSIONS", "METHODS", "OBJECTIVE", "RESULTS")
# The copies that Jin and Szolovits (2018) cleaned write them small.
_LABELS = {spelling: name for name in _CLASSES for spelling in (name, name.lower())}
_SITE = "https://github.com/Franck-Dernoncourt/pubmed-rct"
_REFERENCE = "pubmed/pubmed-rct"
_BENCHMARKS = ("pubmed-rct", "pubmed-rct-master", "pubmed", _REFERENCE, f"tasks/{_REFERENCE}")
_SPLITS = {"train": "train", "validation": "validation", "test": "test"}
_CLEANED = (
    "sentences as cleaned by Jin and Szolovits (2018), fewer than in the release that the paper "
    "used (176,642 instead of 180,040 of PubMed 20k's training set)"
)


def _lines(table: "pd.DataFrame", source: str) -> "pd.DataFrame":
    """A dataset whose rows are the lines of the official file."""
    return abstract_sentences(enumerate(table["text"], start=1), source)


def _pubmed(
    name: str, size: str, *, numbers: bool, hub: HubSource | None = None, notes: tuple[str, ...]
) -> Task:
    """PubMed RCT of a size (``20k``), numbers kept or replaced by @."""
    folder = f"PubMed_{size}_RCT" + ("" if numbers else "_numbers_replaced_with_at_sign")
    return Task(
        name=name,
        title=f"PubMed {size} RCT: role of a sentence in a medical abstract, numbers "
        + ("kept" if numbers else "replaced by @"),
        benchmark="PubMed RCT",
        classes=_CLASSES,
        fields=("text",),
        templates=(Template("text, lower-cased", lambda row: row["text"].lower()),),
        licence="not stated; NLM gives PubMed's data freely, some abstracts are under copyright",
        url=_SITE,
        releases=(
            Release(
                layout="PubMed RCT",
                url=f"{_SITE}/tree/master/{folder}",
                benchmarks=_BENCHMARKS,
                folders=(folder,),
                files={"train": "train.txt", "validation": "dev.txt", "test": "test.txt"},
                read=read_abstracts,
                labels=_LABELS,
            ),
            Release(
                layout="PubMed RCT, cleaned",
                url="https://github.com/jind11/HSLN-Joint-Sentence-Classification",
                benchmarks=_BENCHMARKS,
                folders=(folder,),
                files={
                    "train": "train_clean.txt",
                    "validation": "dev_clean.txt",
                    "test": "test_clean.txt",
                },
                read=read_abstracts,
                labels=_LABELS,
                notes=(f"the cleaned files: {_CLEANED}",),
            ),
        ),
        hub=hub,
        cluster="abstract_id",
        incomplete=True,
        notes=(
            "PubMed RCT has a validation set of its own, the same under every split protocol",
            *notes,
        ),
    )


PUBMED_TASKS = (
    _pubmed(
        "pubmed",
        "20k",
        numbers=False,
        hub=HubSource(
            "armanc/pubmed-rct20k",
            "default",
            "091aec1e2384a20b2b36eb96177755ca13dd0b42",
            _SPLITS,
            labels=_LABELS,
            notes=(f"a third party's copy: {_CLEANED}",),
        ),
        notes=("the paper's counts of its splits are abstracts, rows are sentences",),
    ),
    _pubmed("pubmed_numbers", "20k", numbers=True, notes=()),
    _pubmed("pubmed_200k", "200k", numbers=False, notes=()),
    _pubmed(
        "pubmed_200k_numbers",
        "200k",
        numbers=True,
        hub=HubSource(
            "zj88zj/PubMed_200k_RCT",
            "default",
            "2bc68a9b902ae51b856b3c22e48181a76ba10849",
            _SPLITS,
            labels=_LABELS,
            read=_lines,
            notes=("a third party's copy of the official files",),
        ),
        notes=(),
    ),
)
