"""The table of tasks. Adding a task is adding a row."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from lpft.data.corpus import load_corpus
from lpft.data.examples import Text, TextData
from lpft.data.hub import HubSource
from lpft.data.releases import Release, glue, read_cola, superglue
from lpft.errors import InputError


@dataclass(frozen=True)
class Template:
    """One way in which a row becomes the classifier's input."""

    description: str
    build: Callable[[Mapping[str, Any]], Text]


@dataclass(frozen=True)
class Task:
    """A published classification task.

    Attributes:
        name: what users call it.
        title: its full name and what is to be told apart.
        classes: class names in the dataset's official order.
        fields: the columns with its text, which releases may call otherwise.
        templates: the inputs that can be made of a row; the first is the default.
        licence: of the data, as its owners state it.
        url: its page.
        metric: the published one, a key of a split's metrics.
        releases: layouts of its official files; the first one found is read.
        hub: where the Hugging Face Hub keeps it.
        ood: the out-of-distribution sets that some source of it has.
        embedded: loads it from within this package.
        notes: facts that a report must repeat.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    fields: tuple[str, ...]
    templates: tuple[Template, ...]
    licence: str
    url: str
    metric: str = "accuracy"
    releases: tuple[Release, ...] = ()
    hub: HubSource | None = None
    ood: tuple[str, ...] = ()
    embedded: Callable[[], TextData] | None = None
    notes: tuple[str, ...] = ()


def find_task(name: str) -> Task:
    """The task of that name.

    Raises:
        InputError: there is none; the message lists those that there are.
    """
    if name not in TASKS:
        near = get_close_matches(name.lower(), TASKS, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise InputError(f"unknown task '{name}'{hint}: expected one of {', '.join(TASKS)}")
    return TASKS[name]


def single(field: str) -> Template:
    """One field as a single text."""
    return Template(field, lambda row: row[field])


def pair(first: str, second: str) -> Template:
    """Two fields as a pair of texts."""
    return Template(f"pair: {first}, {second}", lambda row: (row[first], row[second]))


# The commits that made the two datasets Parquet files, which is what `datasets` still loads.
GLUE_REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
SUPERGLUE_REVISION = "3de24cf8022e94f4ee4b9d55a6f539891524d646"

_SUPERGLUE_TERMS = (
    "the original datasets' own; SuperGLUE's authors understand them to allow use and "
    "redistribution in a research context"
)

_ROWS = (
    Task(
        name="demo",
        title="Sentiment of product reviews; OOD: restaurants, films, posts",
        classes=("negative", "neutral", "positive"),
        fields=("text",),
        templates=(single("text"),),
        licence="MIT",
        url="in this package: lpft/data/corpus",
        ood=("restaurants", "films", "posts"),
        embedded=load_corpus,
    ),
    Task(
        name="cb",
        title="CommitmentBank: does the premise entail the hypothesis?",
        classes=("entailment", "contradiction", "neutral"),
        fields=("premise", "hypothesis"),
        templates=(pair("premise", "hypothesis"),),
        licence=_SUPERGLUE_TERMS,
        url="https://super.gluebenchmark.com/tasks",
        releases=(superglue("CB"),),
        hub=HubSource("aps/super_glue", "cb", SUPERGLUE_REVISION),
        notes=("the paper counts 57 test rows, the release has 56",),
    ),
    Task(
        name="rte",
        title="Recognizing Textual Entailment: does the premise entail the hypothesis?",
        classes=("entailment", "not_entailment"),
        fields=("premise", "hypothesis"),
        templates=(pair("premise", "hypothesis"),),
        licence=_SUPERGLUE_TERMS,
        url="https://super.gluebenchmark.com/tasks",
        releases=(
            superglue("RTE"),
            glue("RTE", columns={"sentence1": "premise", "sentence2": "hypothesis"}),
        ),
        hub=HubSource("aps/super_glue", "rte", SUPERGLUE_REVISION),
    ),
    Task(
        name="sst2",
        title="Stanford Sentiment Treebank: sentiment of film review phrases",
        classes=("negative", "positive"),
        fields=("sentence",),
        templates=(single("sentence"),),
        licence="not stated by its authors",
        url="https://nlp.stanford.edu/sentiment/",
        releases=(glue("SST-2", labels={"0": "negative", "1": "positive"}),),
        hub=HubSource("nyu-mll/glue", "sst2", GLUE_REVISION),
    ),
    Task(
        name="cola",
        title="Corpus of Linguistic Acceptability: is the sentence grammatical English?",
        classes=("unacceptable", "acceptable"),
        fields=("sentence",),
        templates=(single("sentence"),),
        licence="sentences remain their publishers'; given out for research as fair use",
        url="https://nyu-mll.github.io/CoLA/",
        metric="matthews_correlation",
        releases=(
            Release(
                layout="CoLA's public release",
                url="https://nyu-mll.github.io/CoLA/cola_public_1.1.zip",
                benchmarks=("glue", "glue_data"),
                folders=("CoLA", "cola_public/raw"),
                files={
                    "train": "in_domain_train.tsv",
                    "test": "in_domain_dev.tsv",
                    "ood/out_of_domain": "out_of_domain_dev.tsv",
                },
                read=read_cola,
                labels={"0": "unacceptable", "1": "acceptable"},
                notes=(
                    "CoLA's public release: test is its in-domain part and out_of_domain the "
                    "other; the paper's test set (GLUE's dev) is both together",
                ),
            ),
            glue("CoLA", read=read_cola, labels={"0": "unacceptable", "1": "acceptable"}),
        ),
        hub=HubSource("nyu-mll/glue", "cola", GLUE_REVISION),
        ood=("out_of_domain",),
        notes=("the paper counts 855 validation rows, its rule gives 856",),
    ),
)

TASKS: dict[str, Task] = {task.name: task for task in _ROWS}
"""Every task by name."""
