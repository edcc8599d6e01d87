"""What must be known of published numbers, shown beside them: which are faulty, which another's."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lpft.report.notes import FDR_NOT_COMPARABLE, HALVED, WORD_EMBEDDINGS
from lpft.results.exhibits import Column, Table


@dataclass(frozen=True)
class Caution:
    """Words that name a quantity, and what is to be said of its published values.

    ``remark`` stands in the heading of their column, ``sentence`` below the table.
    """

    words: re.Pattern[str]
    remark: str
    sentence: str


def _words(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


CAUTIONS = (
    Caution(_words(r"\bFDR\b", "fisher"), "not comparable", FDR_NOT_COMPARABLE),
    Caution(
        _words(r"\bnorm\(c\)", r"\bhead norm", r"norm of the head"),
        "halved for two classes",
        HALVED,
    ),
    Caution(
        _words(r"\brank of\b", r"^rank\b", "frobenius", r"\bFN\b", r"\bFT ratio\b"),
        "from faulty kernels",
        WORD_EMBEDDINGS,
    ),
)


@dataclass(frozen=True)
class Cautioned:
    """The cautions of a table's published numbers, by the place of a column or of a row."""

    columns: Mapping[int, Caution]
    rows: Mapping[int, Caution]

    @property
    def sentences(self) -> tuple[str, ...]:
        found = (*self.columns.values(), *self.rows.values())
        return tuple(dict.fromkeys(caution.sentence for caution in found))


def cautions_of(table: Table) -> Cautioned:
    """The cautions that bear on a table: by its columns' headings, else its rows' names or title.

    What is said of all published columns because of the title stands in each of them.
    """
    published = [
        place
        for place, column in enumerate(table.columns)
        if column.source == "published" and any(row[place] is not None for row in table.rows)
    ]
    if not published:
        return Cautioned({}, {})
    columns: dict[int, Caution] = {}
    rows: dict[int, Caution] = {}
    for caution in CAUTIONS:
        headed = [i for i in published if caution.words.search(_heading(table.columns[i]))]
        named = [
            place
            for place, row in enumerate(table.rows)
            if any(caution.words.search(str(name)) for name in row[: table.headers])
        ]
        if not headed and not named and caution.words.search(table.title):
            headed = published
        columns |= dict.fromkeys(headed, caution)
        rows |= dict.fromkeys([] if headed else named, caution)
    return Cautioned(columns, rows)


def _heading(column: Column) -> str:
    return f"{column.above} {column.name}".strip()
