"""Readers of official release files, one for each format; each gives a table of plain values."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpft.data.columns import require_column
from lpft.data.lines import named_rows, read_lines, split_fields
from lpft.data.tables import read_table
from lpft.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

_SPANS = ["span1_text", "span1_index", "span2_text", "span2_index"]
_ABSTRACT = "###"


def read_spans(path: Path) -> "pd.DataFrame":
    """SuperGLUE's WSC: the members of the nested ``target`` become columns of their own."""
    import pandas as pd

    table = read_table(path)
    require_column(table, "target", path)
    for row, target in enumerate(table["target"]):
        if not isinstance(target, dict) or not set(_SPANS) <= set(target):
            raise InputError(
                f"{path}, row {row + 1}: 'target' is {target!r}, expected an object with "
                f"{', '.join(_SPANS)}"
            )
    # dtype object, or pandas makes 6 a 6.0 where another row has null
    spans = pd.DataFrame(list(table["target"]), index=table.index, columns=_SPANS, dtype=object)
    return table.assign(**spans)


def read_tsv(path: Path) -> "pd.DataFrame":
    """GLUE's files: a header, then tab-separated fields in which quotes are ordinary characters."""
    return _tsv(path, fill=False)


def read_broken_tsv(path: Path) -> "pd.DataFrame":
    """QQP's file in GLUE: as :func:`read_tsv`, short lines filled up with empty fields.

    A line break within a question makes two short lines of one row.
    """
    return _tsv(path, fill=True)


def read_cola(path: Path) -> "pd.DataFrame":
    """CoLA's files: four columns without a header, in its own release and in GLUE's alike."""
    return _without_header(path, ("source", "label", "annotation", "sentence"), "CoLA")


def read_wic(path: Path) -> "pd.DataFrame":
    """WiC's original release: sentence pairs, with their labels (T, F) in :func:`wic_labels`."""
    columns = ("word", "part_of_speech", "positions", "sentence1", "sentence2")
    table = _without_header(path, columns, "WiC")
    gold = wic_labels(path)
    labels = [line.strip() for _, line in read_lines(gold) if line.strip()]
    if len(labels) != len(table):
        raise InputError(
            f"{gold} has {len(labels)} labels, {path.name} has {len(table)} rows: expected as "
            "many; take both files from one release"
        )
    return table.assign(label=labels)


def wic_labels(path: Path) -> Path:
    """Where the original WiC keeps the labels of ``train.data.txt``: ``train.gold.txt``."""
    return path.with_name(path.name.replace(".data.", ".gold."))


def read_abstracts(path: Path) -> "pd.DataFrame":
    """PubMed RCT's files: ``###id``, then ``LABEL<TAB>sentence`` lines, then an empty line."""
    return abstract_sentences(read_lines(path), str(path))


def abstract_sentences(lines: Iterable[tuple[int, str]], source: str) -> "pd.DataFrame":
    """The sentences of numbered lines in PubMed RCT's format.

    Columns abstract_id, id, label and text; ids are the abstract's and the sentence's number within
    it, from 0.

    Raises:
        InputError: there is no sentence, or a line is none of the three kinds.
    """
    import pandas as pd

    rows = list(_sentences(lines, source))
    if not rows:
        raise InputError(f"{source} has no sentence: expected '###id' and LABEL<TAB>sentence lines")
    return pd.DataFrame(rows, columns=["abstract_id", "id", "label", "text"], dtype=object)


def _sentences(lines: Iterable[tuple[int, str]], source: str) -> Iterator[tuple[str, ...]]:
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


def _tsv(path: Path, *, fill: bool) -> "pd.DataFrame":
    import pandas as pd

    records = (fields for _, fields in split_fields(path, read_lines(path), fill=fill))
    header = next(records, None)
    rows: list[dict[str, Any]] = [] if header is None else list(named_rows(path, header, records))
    if not rows:
        raise InputError(f"{path} is empty: expected a header line and rows")
    return pd.DataFrame(rows, dtype=object)


def _without_header(path: Path, columns: tuple[str, ...], dataset: str) -> "pd.DataFrame":
    import pandas as pd

    rows = []
    for line, fields in split_fields(path, read_lines(path)):
        if len(fields) != len(columns):
            raise InputError(
                f"{path}, line {line}: found {len(fields)} tab-separated fields, expected "
                f"{dataset}'s {len(columns)} ({', '.join(columns)}, no header)"
            )
        rows.append(fields)
    if not rows:
        raise InputError(f"{path} is empty: expected rows of {dataset}")
    return pd.DataFrame(rows, columns=list(columns), dtype=object)
