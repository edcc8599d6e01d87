"""SuperGLUE (Wang et al., NeurIPS 2019). Its test sets have no labels, so val.jsonl is test."""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpft.data.labels import is_missing, official_names
from lpft.data.reading import Row, read_lines
from lpft.data.releases import Grouping, HubSource, Release, Task, Template
from lpft.data.tables import read_table, read_tsv, require_column, unfolded
from lpft.data.tasks.glue import glue
from lpft.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

_URL = "https://super.gluebenchmark.com/tasks"

_TERMS = (
    "the original datasets' own; SuperGLUE's authors understand them to allow use and "
    "redistribution in a research context"
)
_NO_YES = ("False", "True")
_SPANS = ["span1_text", "span1_index", "span2_text", "span2_index"]
_JOINERS = {"cause": "because", "effect": "so"}
_CHOICES = ("choice1", "choice2")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)

# The commit that made the dataset Parquet files, which is what `datasets` still loads.
_REVISION = "3de24cf8022e94f4ee4b9d55a6f539891524d646"


def superglue(folder: str, **changes: Any) -> Release:
    """A task in SuperGLUE's own layout, but for ``changes``."""
    release = Release(
        layout="SuperGLUE jsonl",
        url=f"https://dl.fbaipublicfiles.com/glue/superglue/data/v2/{folder}.zip",
        benchmarks=("superglue", "super_glue"),
        folders=(folder,),
        files={"train": "train.jsonl", "test": "val.jsonl"},
        read=read_table,
    )
    return replace(release, **changes)


def _original_wic(train: str, test: str) -> Release:
    return superglue(
        "WiC",
        layout="WiC's original release",
        url="https://pilehvar.github.io/wic/package/WiC_dataset.zip",
        folders=("WiC", "WiC_dataset"),
        files={"train": train, "test": test},
        read=_read_original_wic,
        labels={"F": "False", "T": "True"},
        beside=_wic_labels,
    )


def _task(name: str, **row: Any) -> Task:
    hub = HubSource("aps/super_glue", name, _REVISION)
    return Task(name=name, benchmark="SuperGLUE", hub=hub, **row)


def _read_original_wic(path: Path) -> "pd.DataFrame":
    """Sentence pairs, with their labels (T, F) in a file of their own."""
    names = ("word", "part_of_speech", "positions", "sentence1", "sentence2")
    table = read_tsv(path, names)
    gold = _wic_labels(path)
    labels = [line.strip() for _, line in read_lines(gold) if line.strip()]
    if len(labels) != len(table):
        raise InputError(
            f"{gold} has {len(labels)} labels, {path.name} has {len(table)} rows: expected as "
            "many; take both files from one release"
        )
    return table.assign(label=labels)


def _wic_labels(path: Path) -> Path:
    """Where the original WiC keeps the labels of ``train.data.txt``: ``train.gold.txt``."""
    return path.with_name(path.name.replace(".data.", ".gold."))


def _read_wsc(path: Path) -> "pd.DataFrame":
    """WSC's rows: the members of the nested ``target`` become columns of their own."""
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


def _mark_pronoun(row: Mapping[str, Any]) -> str:
    """WSC's text with its pronoun between asterisks, words joined by single blanks.

    The pronoun is the word ``span2_index``, or, where this is another word (the release has one
    such row), the nearest one that is the pronoun.

    Raises:
        InputError: ``span2_index`` is no position in the text.
    """
    words, index = row["text"].split(), row["span2_index"]
    if not isinstance(index, int) or not 0 <= index < len(words):
        raise InputError(
            f"span2_index is {index!r}, expected the position of '{row['span2_text']}' among the "
            f"{len(words)} words of the text"
        )
    pronoun = row["span2_text"].strip(string.punctuation).lower()
    same = [
        position
        for position, word in enumerate(words)
        if word.strip(string.punctuation).lower() == pronoun
    ]
    nearest = min(same, key=lambda position: abs(position - index), default=index)
    words[nearest] = f"*{words[nearest]}*"
    return " ".join(words)


def _read_nested(path: Path, *, flatten: Callable[[Row, str], Iterator[Row]]) -> "pd.DataFrame":
    """Passages with questions, one object per passage, as one row per answer or query."""
    return unfolded(read_table(path), flatten, path)


def _multirc_answers(record: Row, where: str) -> Iterator[Row]:
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


def _record_queries(record: Row, where: str) -> Iterator[Row]:
    """Queries with answers and entities: the distinct texts of the spans, in their order."""
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


def _part(record: Any, name: str, kind: type, where: str) -> Any:
    """A member of a JSON object, which must be of the given kind."""
    if not isinstance(record, Mapping) or name not in record:
        members = ", ".join(record) if isinstance(record, Mapping) else repr(record)[:60]
        raise InputError(f"{where}: expected an object with '{name}', found {members}")
    part = record[name]
    if not isinstance(part, kind) or (kind is str and is_missing(part)):
        expected = {Mapping: "an object", list: "a list", str: "text", int: "a whole number"}[kind]
        raise InputError(f"{where}: '{name}' is {repr(part)[:60]}, expected {expected}")
    return part


def _unfold_multirc(row: Row, codes: Mapping[str, str], where: str) -> Iterator[Row]:
    """An answer of MultiRC: its question is its group."""
    idx = _part(row, "idx", Mapping, where)
    paragraph, question, answer = (
        _part(idx, name, int, where) for name in ("paragraph", "question", "answer")
    )
    group = f"{paragraph}-{question}"
    label = _part(row, "label", object, where)
    (name,) = official_names([label], codes, _NO_YES, where, "multirc")
    yield {**row, "label": name, "group": group, "id": f"{group}-{answer}"}


def _unfold_record(row: Row, _: Mapping[str, str], where: str) -> Iterator[Row]:
    """A query of ReCoRD as a row per entity in the place of ``@placeholder``.

    A row is right if its entity is one of the answers, letter for letter. What choosing it earns is
    SQuAD's exact match and F1 against the answers.
    """
    passage, query = _part(row, "passage", str, where), _part(row, "query", str, where)
    group = str(_part(_part(row, "idx", Mapping, where), "query", int, where))
    answers = _part(row, "answers", list, where)
    if not answers:
        raise InputError(
            f"{where}: the answers are hidden, as in official test sets; expected a labelled "
            "split: take the training or validation set"
        )
    for number, entity in enumerate(_part(row, "entities", list, where)):
        yield {
            "passage": passage.replace("@highlight\n", "- "),
            "query": query.replace("@placeholder", entity),
            "label": str(entity in answers),
            "group": group,
            "id": f"{group}-{number}",
            "exact_match": exact_match(entity, answers),
            "token_f1": token_f1(entity, answers),
        }


def _unfold_copa(row: Row, codes: Mapping[str, str], where: str) -> Iterator[Row]:
    """A premise of COPA as a row per alternative, joined by because (cause) or so (effect)."""
    label = _part(row, "label", object, where)
    (right,) = official_names([label], codes, _CHOICES, where, "copa")
    premise, question = _part(row, "premise", str, where), _part(row, "question", str, where)
    if question not in _JOINERS:
        raise InputError(f"{where}: the question is {question!r}, expected {' or '.join(_JOINERS)}")
    group = str(_part(row, "idx", int, where))
    for choice in _CHOICES:
        yield {
            "premise": f"{premise} {_JOINERS[question]}",
            "alternative": _part(row, choice, str, where),
            "label": str(choice == right),
            "group": group,
            "id": f"{group}-{choice}",
            "choice_accuracy": float(choice == right),
        }


def exact_match(phrase: str, answers: Sequence[str]) -> float:
    """1 if the phrase is one of the answers but for case, punctuation, articles and spacing.

    Source: Rajpurkar et al., EMNLP 2016 (SQuAD's evaluation), which ReCoRD uses.
    """
    words = _words(phrase)
    return float(any(words == _words(answer) for answer in answers))


def token_f1(phrase: str, answers: Sequence[str]) -> float:
    """The largest F1 of the phrase's words against an answer's, with :func:`exact_match`'s words.

    ``F1 = 2 n / (p + a)`` with n words in common (as often as both have them), p in the phrase and
    a in the answer; 0 where either has none.

    Source: Rajpurkar et al., EMNLP 2016.
    """
    words = Counter(_words(phrase))
    return max((_f1(words, Counter(_words(answer))) for answer in answers), default=0.0)


def _f1(words: Counter[str], answer: Counter[str]) -> float:
    total = words.total() + answer.total()
    return 2 * (words & answer).total() / total if total else 0.0


@lru_cache(maxsize=1024)
def _words(phrase: str) -> tuple[str, ...]:
    return tuple(_ARTICLES.sub(" ", phrase.lower().translate(_PUNCTUATION)).split())


SUPERGLUE_TASKS = (
    _task(
        name="boolq",
        title="BoolQ: yes-or-no questions on a passage",
        classes=_NO_YES,
        fields=("question", "passage"),
        licence="CC BY-SA 3.0",
        url="https://github.com/google-research-datasets/boolean-questions",
        releases=(superglue("BoolQ"),),
        cluster="passage",
    ),
    _task(
        name="cb",
        title="CommitmentBank: does the premise entail the hypothesis?",
        classes=("entailment", "contradiction", "neutral"),
        fields=("premise", "hypothesis"),
        licence=_TERMS,
        url=_URL,
        releases=(superglue("CB"),),
        notes=("the paper counts 57 test rows, the release has 56",),
    ),
    _task(
        name="copa",
        title="Choice Of Plausible Alternatives: which is the cause, or the effect?",
        classes=_NO_YES,
        fields=("premise", "alternative"),
        templates=(
            Template(
                "pair: '{premise} because' or '{premise} so', alternative",
                lambda row: (row["premise"], row["alternative"]),
            ),
        ),
        licence="BSD 2-Clause",
        url="https://people.ict.usc.edu/~gordon/copa.html",
        metric="choice_accuracy",
        releases=(superglue("COPA", labels={"0": _CHOICES[0], "1": _CHOICES[1]}),),
        grouping=Grouping("premise", _unfold_copa, ("choice_accuracy",)),
        notes=("COPA has a row for each of the two alternatives of a premise",),
    ),
    _task(
        name="multirc",
        title="MultiRC: which answers to a question on a paragraph are right?",
        classes=_NO_YES,
        fields=("paragraph", "question", "answer"),
        templates=(
            Template(
                "pair: paragraph, '{question} {answer}'",
                lambda row: (row["paragraph"], f"{row['question']} {row['answer']}"),
            ),
        ),
        licence=_TERMS,
        url="https://cogcomp.seas.upenn.edu/multirc/",
        metric="answer_f1",
        releases=(
            superglue(
                "MultiRC",
                read=partial(_read_nested, flatten=_multirc_answers),
                labels={"0": "False", "1": "True"},
            ),
        ),
        grouping=Grouping("question", _unfold_multirc),
        cluster="paragraph",
        notes=("MultiRC has a row for each answer to a question",),
    ),
    _task(
        name="record",
        title="ReCoRD: which entity of a news passage fills the gap in the query?",
        classes=_NO_YES,
        fields=("passage", "query"),
        templates=(
            Template(
                "pair: passage with dashes for its highlights, query with an entity filled in",
                lambda row: (row["passage"], row["query"]),
            ),
        ),
        licence=_TERMS,
        url="https://sheng-z.github.io/ReCoRD-explorer/",
        metric="token_f1",
        releases=(superglue("ReCoRD", read=partial(_read_nested, flatten=_record_queries)),),
        grouping=Grouping("query", _unfold_record, ("exact_match", "token_f1")),
        cluster="passage",
        notes=("ReCoRD has a row for each entity that may fill the gap in a query",),
    ),
    _task(
        name="rte",
        title="Recognizing Textual Entailment: does the premise entail the hypothesis?",
        classes=("entailment", "not_entailment"),
        fields=("premise", "hypothesis"),
        licence=_TERMS,
        url=_URL,
        releases=(
            superglue("RTE"),
            glue("RTE", columns={"sentence1": "premise", "sentence2": "hypothesis"}),
        ),
    ),
    _task(
        name="wic",
        title="Word-in-Context: does the word have the same meaning in both sentences?",
        classes=_NO_YES,
        fields=("word", "sentence1", "sentence2"),
        templates=(
            Template(
                "'{sentence1} {sentence2} Does {word} have the same meaning in both sentences?'",
                lambda row: (
                    f"{row['sentence1']} {row['sentence2']} Does {row['word']} have the same "
                    "meaning in both sentences?"
                ),
            ),
            Template(
                "pair: '{word}: {sentence1}', '{word}: {sentence2}'",
                lambda row: (
                    f"{row['word']}: {row['sentence1']}",
                    f"{row['word']}: {row['sentence2']}",
                ),
            ),
        ),
        licence="CC BY-NC 4.0",
        url="https://pilehvar.github.io/wic/",
        releases=(
            superglue("WiC"),
            _original_wic("train/train.data.txt", "dev/dev.data.txt"),
            _original_wic("train.data.txt", "dev.data.txt"),
        ),
        notes=(
            "the paper counts 5400 training and 600 validation rows, its rule and the release give "
            "4885 and 543",
        ),
    ),
    _task(
        name="wsc",
        title="Winograd Schema Challenge: does the pronoun mean the noun phrase?",
        classes=_NO_YES,
        fields=("text", "span1_text", "span2_text"),
        templates=(
            Template(
                "pair: '{span2_text}: {text}', span1_text",
                lambda row: (f"{row['span2_text']}: {row['text']}", row["span1_text"]),
            ),
            Template(
                "pair: text with its pronoun (span2) between asterisks, span1_text",
                lambda row: (_mark_pronoun(row), row["span1_text"]),
            ),
        ),
        licence="CC BY 4.0 (the collection of Winograd schemas)",
        url=_URL,
        releases=(superglue("WSC", read=_read_wsc),),
        cluster="text",
        notes=(
            "WSC's template 1 marks the pronoun itself, as the paper describes it: where "
            "span2_index points at another word (one row of the official validation set), the "
            "nearest word that is the pronoun is marked, not, as in the reference code, that word",
        ),
    ),
)
