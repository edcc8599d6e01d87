"""Questions with candidate answers (MultiRC, ReCoRD, COPA) as one row per candidate."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpft.data.answers import exact_match, token_f1
from lpft.data.columns import records, require_column, strings_from_table
from lpft.data.labels import official_names
from lpft.data.releases import RawSplit
from lpft.data.tables import read_table
from lpft.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]

_HIGHLIGHT, _PLACEHOLDER = "@highlight\n", "@placeholder"
_JOINERS = {"cause": "because", "effect": "so"}
CHOICES = ("choice1", "choice2")


def read_multirc(path: Path) -> "pd.DataFrame":
    """MultiRC's passages with questions with answers, as one row per answer."""
    return _unnested(path, _multirc_rows)


def read_record(path: Path) -> "pd.DataFrame":
    """ReCoRD's passages with queries, as one row per query with its entities and answers.

    Entities are the distinct texts of the spans, in the order in which they occur.
    """
    return _unnested(path, _record_rows)


def unfold_multirc(raw: RawSplit) -> RawSplit:
    """MultiRC's answers: their question is their group."""
    rows = []
    for row, where in _rows(raw, texts=(), others=("idx",)):
        paragraph, question, answer = (
            _part(row["idx"], name, int, where) for name in ("paragraph", "question", "answer")
        )
        group = f"{paragraph}-{question}"
        rows.append({**row, "group": group, "id": f"{group}-{answer}"})
    return _unfolded(raw, rows, raw.labels)


def unfold_record(raw: RawSplit) -> RawSplit:
    """ReCoRD's queries as a row per entity in the place of ``@placeholder``.

    A row is right if its entity is one of the answers, letter for letter. What choosing it earns is
    SQuAD's exact match and F1 against the answers.
    """
    rows: list[Row] = []
    found = _rows(raw, texts=("passage", "query"), others=("entities", "answers", "idx"))
    for row, where in found:
        group, answers = str(_part(row["idx"], "query", int, where)), row["answers"]
        if not answers:
            raise InputError(
                f"{where}: the answers are hidden, as in official test sets; expected a labelled "
                "split: take the training or validation set"
            )
        passage = row["passage"].replace(_HIGHLIGHT, "- ")
        rows.extend(
            {
                "passage": passage,
                "query": row["query"].replace(_PLACEHOLDER, entity),
                "label": str(entity in answers),
                "group": group,
                "id": f"{group}-{number}",
                "exact_match": exact_match(entity, answers),
                "token_f1": token_f1(entity, answers),
            }
            for number, entity in enumerate(row["entities"])
        )
    return _unfolded(raw, rows, {})


def unfold_copa(raw: RawSplit) -> RawSplit:
    """COPA's premises as a row per alternative, joined by because (cause) or so (effect)."""
    require_column(raw.table, "label", raw.source)
    chosen = official_names(list(raw.table["label"]), raw.labels, CHOICES, raw.source, "copa")
    rows: list[Row] = []
    found = _rows(raw, texts=("premise", "question", *CHOICES), others=("idx",))
    for (row, where), right in zip(found, chosen, strict=True):
        if row["question"] not in _JOINERS:
            raise InputError(
                f"{where}: the question is {row['question']!r}, expected {' or '.join(_JOINERS)}"
            )
        rows.extend(
            {
                "premise": f"{row['premise']} {_JOINERS[row['question']]}",
                "alternative": row[choice],
                "label": str(choice == right),
                "group": str(row["idx"]),
                "id": f"{row['idx']}-{choice}",
                "choice_accuracy": float(choice == right),
            }
            for choice in CHOICES
        )
    return _unfolded(raw, rows, {})


def _multirc_rows(record: Row, where: str) -> Iterator[Row]:
    passage = _part(record, "passage", Mapping, where)
    for question in _part(passage, "questions", list, where):
        for answer in _part(question, "answers", list, where):
            yield {
                "paragraph": _part(passage, "text", str, where),
                "question": _part(question, "question", str, where),
                "answer": _part(answer, "text", str, where),
                "idx": {
                    "paragraph": _part(record, "idx", int, where),
                    "question": _part(question, "idx", int, where),
                    "answer": _part(answer, "idx", int, where),
                },
                **({"label": answer["label"]} if "label" in answer else {}),
            }


def _record_rows(record: Row, where: str) -> Iterator[Row]:
    passage = _part(record, "passage", Mapping, where)
    text = _part(passage, "text", str, where)
    spans = sorted(
        (_part(span, "start", int, where), _part(span, "end", int, where))
        for span in _part(passage, "entities", list, where)
    )
    # a span's end is its last character
    entities = list(dict.fromkeys(text[start : end + 1] for start, end in spans))
    for query in _part(record, "qas", list, where):
        answers = _part(query, "answers", list, where) if "answers" in query else []
        yield {
            "passage": text,
            "query": _part(query, "query", str, where),
            "entities": entities,
            "answers": list(dict.fromkeys(_part(answer, "text", str, where) for answer in answers)),
            "idx": {"query": _part(query, "idx", int, where)},
        }


def _unnested(path: Path, rows: Callable[[Row, str], Iterator[Row]]) -> "pd.DataFrame":
    import pandas as pd

    flat = [
        row
        for number, record in records(read_table(path))
        for row in rows(record, _where(path, number))
    ]
    if not flat:
        raise InputError(f"{path} has no questions: expected at least one")
    return pd.DataFrame(flat, dtype=object)


def _rows(
    raw: RawSplit, *, texts: tuple[str, ...], others: tuple[str, ...]
) -> Iterator[tuple[Row, str]]:
    """Each row of the source's table, and its name for messages, once its columns are checked."""
    for column in texts:
        strings_from_table(raw.table, column, raw.source)
    for column in others:
        require_column(raw.table, column, raw.source)
    for number, row in records(raw.table):
        yield row, _where(raw.source, number)


def _unfolded(raw: RawSplit, rows: list[Row], labels: Mapping[str, str]) -> RawSplit:
    import pandas as pd

    return RawSplit(pd.DataFrame(rows, dtype=object), labels, raw.source)


def _where(source: str | Path, row: int) -> str:
    return f"{source}, row {row + 1}"


def _part(record: Any, name: str, kind: type, where: str) -> Any:
    """A member of a JSON object, which must be of the given kind.

    Raises:
        InputError: it is not there, or of another kind, or the record is no object.
    """
    if not isinstance(record, Mapping) or name not in record:
        found = ", ".join(record) if isinstance(record, Mapping) else repr(record)[:60]
        raise InputError(f"{where}: expected an object with '{name}', found {found}")
    part = record[name]
    if not isinstance(part, kind):
        expected = {Mapping: "an object", list: "a list", str: "text", int: "a whole number"}[kind]
        raise InputError(f"{where}: '{name}' is {repr(part)[:60]}, expected {expected}")
    return part
