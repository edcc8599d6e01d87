"""SuperGLUE (Wang et al., NeurIPS 2019). Its test sets have no labels, so val.jsonl is test."""

import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpft.data.hub import HubSource
from lpft.data.readers import read_spans, read_wic, wic_labels
from lpft.data.releases import Release
from lpft.data.tables import read_table
from lpft.data.tasks.glue import glue
from lpft.data.tasks.questions import (
    CHOICES,
    read_multirc,
    read_record,
    unfold_copa,
    unfold_multirc,
    unfold_record,
)
from lpft.data.tasks.task import Grouping, Task, Template, pair
from lpft.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

BENCHMARK = "SuperGLUE"
FOLDERS = ("superglue", "super_glue")
URL = "https://super.gluebenchmark.com/tasks"

# The commit that made the dataset Parquet files, which is what `datasets` still loads.
REVISION = "3de24cf8022e94f4ee4b9d55a6f539891524d646"

_TERMS = (
    "the original datasets' own; SuperGLUE's authors understand them to allow use and "
    "redistribution in a research context"
)
_NO_YES = ("False", "True")


def superglue(
    folder: str,
    *,
    read: "Callable[[Path], pd.DataFrame]" = read_table,
    labels: Mapping[str, str] | None = None,
) -> Release:
    """A task in SuperGLUE's own layout."""
    return Release(
        layout="SuperGLUE jsonl",
        url=f"https://dl.fbaipublicfiles.com/glue/superglue/data/v2/{folder}.zip",
        benchmarks=FOLDERS,
        folders=(folder,),
        files={"train": "train.jsonl", "test": "val.jsonl"},
        read=read,
        labels={} if labels is None else labels,
    )


def on_hub(config: str) -> HubSource:
    """SuperGLUE's configuration of that name."""
    return HubSource("aps/super_glue", config, REVISION)


def _wic(train: str, test: str) -> Release:
    return Release(
        layout="WiC's original release",
        url="https://pilehvar.github.io/wic/package/WiC_dataset.zip",
        benchmarks=FOLDERS,
        folders=("WiC", "WiC_dataset"),
        files={"train": train, "test": test},
        read=read_wic,
        labels={"F": "False", "T": "True"},
        beside=wic_labels,
    )


def mark_pronoun(row: Mapping[str, Any]) -> str:
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
        place
        for place, word in enumerate(words)
        if word.strip(string.punctuation).lower() == pronoun
    ]
    place = min(same, key=lambda place: abs(place - index), default=index)
    return " ".join(f"*{word}*" if at == place else word for at, word in enumerate(words))


SUPERGLUE_TASKS = (
    Task(
        name="boolq",
        title="BoolQ: yes-or-no questions on a passage",
        benchmark=BENCHMARK,
        classes=_NO_YES,
        fields=("question", "passage"),
        templates=(pair("question", "passage"),),
        licence="CC BY-SA 3.0",
        url="https://github.com/google-research-datasets/boolean-questions",
        releases=(superglue("BoolQ"),),
        hub=on_hub("boolq"),
        cluster="passage",
    ),
    Task(
        name="cb",
        title="CommitmentBank: does the premise entail the hypothesis?",
        benchmark=BENCHMARK,
        classes=("entailment", "contradiction", "neutral"),
        fields=("premise", "hypothesis"),
        templates=(pair("premise", "hypothesis"),),
        licence=_TERMS,
        url=URL,
        releases=(superglue("CB"),),
        hub=on_hub("cb"),
        notes=("the paper counts 57 test rows, the release has 56",),
    ),
    Task(
        name="copa",
        title="Choice Of Plausible Alternatives: which is the cause, or the effect?",
        benchmark=BENCHMARK,
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
        releases=(superglue("COPA", labels={"0": CHOICES[0], "1": CHOICES[1]}),),
        hub=on_hub("copa"),
        grouping=Grouping("premise", unfold_copa, ("choice_accuracy",)),
        notes=("COPA has a row for each of the two alternatives of a premise",),
    ),
    Task(
        name="multirc",
        title="MultiRC: which answers to a question on a paragraph are right?",
        benchmark=BENCHMARK,
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
        releases=(superglue("MultiRC", read=read_multirc, labels={"0": "False", "1": "True"}),),
        hub=on_hub("multirc"),
        grouping=Grouping("question", unfold_multirc),
        cluster="paragraph",
        notes=("MultiRC has a row for each answer to a question",),
    ),
    Task(
        name="record",
        title="ReCoRD: which entity of a news passage fills the gap in the query?",
        benchmark=BENCHMARK,
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
        releases=(superglue("ReCoRD", read=read_record),),
        hub=on_hub("record"),
        grouping=Grouping("query", unfold_record, ("exact_match", "token_f1")),
        cluster="passage",
        notes=("ReCoRD has a row for each entity that may fill the gap in a query",),
    ),
    Task(
        name="rte",
        title="Recognizing Textual Entailment: does the premise entail the hypothesis?",
        benchmark=BENCHMARK,
        classes=("entailment", "not_entailment"),
        fields=("premise", "hypothesis"),
        templates=(pair("premise", "hypothesis"),),
        licence=_TERMS,
        url=URL,
        releases=(
            superglue("RTE"),
            glue("RTE", columns={"sentence1": "premise", "sentence2": "hypothesis"}),
        ),
        hub=on_hub("rte"),
    ),
    Task(
        name="wic",
        title="Word-in-Context: does the word have the same meaning in both sentences?",
        benchmark=BENCHMARK,
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
            _wic("train/train.data.txt", "dev/dev.data.txt"),
            _wic("train.data.txt", "dev.data.txt"),
        ),
        hub=on_hub("wic"),
        notes=(
            "the paper counts 5400 training and 600 validation rows, its rule and the release give "
            "4885 and 543",
        ),
    ),
    Task(
        name="wsc",
        title="Winograd Schema Challenge: does the pronoun mean the noun phrase?",
        benchmark=BENCHMARK,
        classes=_NO_YES,
        fields=("text", "span1_text", "span2_text"),
        templates=(
            Template(
                "pair: '{span2_text}: {text}', span1_text",
                lambda row: (f"{row['span2_text']}: {row['text']}", row["span1_text"]),
            ),
            Template(
                "pair: text with its pronoun (span2) between asterisks, span1_text",
                lambda row: (mark_pronoun(row), row["span1_text"]),
            ),
        ),
        licence="CC BY 4.0 (the collection of Winograd schemas)",
        url=URL,
        releases=(superglue("WSC", read=read_spans),),
        hub=on_hub("wsc"),
        cluster="text",
        notes=(
            "WSC's template 1 marks the pronoun itself, as the paper describes it: where "
            "span2_index points at another word (one row of the official validation set), the "
            "nearest word that is the pronoun is marked, not, as in the reference code, that word",
        ),
    ),
)
