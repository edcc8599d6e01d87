"""PubMed RCT (Dernoncourt and Lee, IJCNLP 2017): the role of a sentence in a medical abstract."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lpft.data.reading import Line, read_lines
from lpft.data.releases import HubSource, Release, Task, Template
from lpft.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

_CLASSES = ("BACKGROUND", "CONCLUSIONS", "METHODS", "OBJECTIVE", "RESULTS")
# The copies that Jin and Szolovits (2018) cleaned write them small.
_LABELS = {spelling: name for name in _CLASSES for spelling in (name, name.lower())}
_SITE = "https://github.com/Franck-Dernoncourt/pubmed-rct"
_REFERENCE = "pubmed/pubmed-rct"
_BENCHMARKS = ("pubmed-rct", "pubmed-rct-master", "pubmed", _REFERENCE, f"tasks/{_REFERENCE}")
_CLEANED_BENCHMARKS = tuple(
    f"HSLN-Joint-Sentence-Classification{branch}/data" for branch in ("", "-master")
)
_CLEANED_FOLDERS = ("PubMed-20k-RCT", "PubMed_20k_RCT")
"""As the cleaned copies' README calls the folder, and as their code does."""

_SPLITS = {"train": "train", "validation": "validation", "test": "test"}
_CLEANED = (
    "sentences as cleaned by Jin and Szolovits (2018), fewer than in the release that the paper "
    "used (176,642 instead of 180,040 of PubMed 20k's training set)"
)
_ABSTRACT = "###"


def _read_file(path: Path, *, numbers: bool) -> "pd.DataFrame":
    """One of PubMed RCT's files; the other form is refused: that with numbers, or that with @."""
    table = _sentence_table(read_lines(path), str(path))
    texts = list(table["text"])
    with_digits = sum(any("0" <= letter <= "9" for letter in text) for text in texts)
    with_at = sum("@" in text for text in texts)
    other_form = (with_at > with_digits) if numbers else (with_digits > with_at)
    # files with other labels are no PubMed RCT at all, as the check of the labels will say
    if other_form and set(table["label"]) <= set(_LABELS):
        raise InputError(
            f"{path}: {with_digits} of {len(texts)} sentences have digits and {with_at} have @, "
            f"expected the form with numbers {'kept' if numbers else 'replaced by @'}: is this "
            f"pubmed{'' if numbers else '_numbers'} (20k) or "
            f"pubmed_200k{'' if numbers else '_numbers'}?"
        )
    return table


def _read_lines_of_hub(table: "pd.DataFrame", source: str) -> "pd.DataFrame":
    """A dataset whose rows are the lines of the official file."""
    return _sentence_table(enumerate(table["text"], start=1), source)


def _sentence_table(lines: Iterable[Line], source: str) -> "pd.DataFrame":
    """The sentences of ``###id``, then ``LABEL<TAB>sentence`` lines, then an empty line.

    Columns abstract_id, id, label and text; ids are the abstract's and the sentence's number within
    it, from 0.
    """
    import pandas as pd

    rows = list(_sentences(lines, source))
    if not rows:
        raise InputError(f"{source} has no sentence: expected '###id' and LABEL<TAB>sentence lines")
    return pd.DataFrame(rows, columns=["abstract_id", "id", "label", "text"], dtype=object)


def _sentences(lines: Iterable[Line], source: str) -> Iterator[tuple[str, ...]]:
    abstract, number = None, 0
    for line, raw in lines:
        content = raw.rstrip("\r\n")
        label, tab, sentence = content.partition("\t")
        if content.startswith(_ABSTRACT):
            abstract, number = content.removeprefix(_ABSTRACT).strip(), 0
        elif content.strip():
            if not tab or abstract is None:
                raise InputError(
                    f"{source}, line {line}: found {content[:40]!r}, expected "
                    + ("'###id' before it" if tab else "LABEL<TAB>sentence, '###id' or nothing")
                )
            yield abstract, f"{abstract}-{number}", label, sentence
            number += 1


def _pubmed(
    name: str, size: str, *, numbers: bool, hub: HubSource | None = None, notes: tuple[str, ...]
) -> Task:
    """PubMed RCT of a size (``20k``), with numbers or with @ in their place."""
    folder = f"PubMed_{size}_RCT" + ("" if numbers else "_numbers_replaced_with_at_sign")
    read = partial(_read_file, numbers=numbers)
    releases = [
        Release(
            layout="PubMed RCT",
            url=f"{_SITE}/tree/master/{folder}",
            benchmarks=_BENCHMARKS,
            folders=(folder,),
            files={"train": "train.txt", "validation": "dev.txt", "test": "test.txt"},
            read=read,
            labels=_LABELS,
        )
    ]
    if size == "20k":
        releases.append(
            Release(
                layout="PubMed RCT, cleaned",
                url="https://github.com/jind11/HSLN-Joint-Sentence-Classification",
                benchmarks=(*_CLEANED_BENCHMARKS, *_BENCHMARKS),
                folders=tuple(dict.fromkeys((*_CLEANED_FOLDERS, folder))),
                files={
                    "train": "train_clean.txt",
                    "validation": "dev_clean.txt",
                    "test": "test_clean.txt",
                },
                read=read,
                labels=_LABELS,
                notes=(f"the cleaned files: {_CLEANED}",),
            )
        )
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
        releases=tuple(releases),
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
            read=_read_lines_of_hub,
            notes=("a third party's copy of the official files",),
        ),
        notes=(),
    ),
)
