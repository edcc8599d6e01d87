"""The table of tasks. Adding a task is adding a row."""

from difflib import get_close_matches
from functools import partial

from lpft.data.corpus import CLASSES, OOD_DOMAINS, load_corpus
from lpft.data.releases import Grouping, Release, Task, Template, pair, single
from lpft.data.tables import read_tsv
from lpft.data.tasks.glue import GLUE_TASKS
from lpft.data.tasks.pubmed import PUBMED_TASKS
from lpft.data.tasks.superglue import SUPERGLUE_TASKS
from lpft.errors import InputError

__all__ = [
    "REFUSED",
    "TASKS",
    "Grouping",
    "Task",
    "Template",
    "find_task",
    "pair",
    "single",
]

_DEMO = Task(
    name="demo",
    title="Sentiment of product reviews; OOD: restaurants, films, posts",
    benchmark="lpft",
    classes=CLASSES,
    fields=("text",),
    licence="MIT",
    url="in this package: lpft/data/corpus",
    ood=OOD_DOMAINS,
    embedded=load_corpus,
)

_BOSS = "https://github.com/lifan-yuan/OOD_NLP"
_BOSS_OOD = ("dynasent", "semeval", "sst5")

# BOSS (Yuan et al., NeurIPS 2023): one training set and out-of-distribution test sets
_AMAZON = Task(
    name="amazon",
    title="Sentiment of Amazon reviews; OOD: DynaSent, SemEval, SST-5",
    benchmark="BOSS",
    classes=("negative", "positive", "neutral"),
    fields=("text",),
    licence="the original datasets' own; BOSS's code is under the MIT licence",
    url=_BOSS,
    releases=(
        Release(
            layout="BOSS's processed tsv",
            url=f"{_BOSS} (the link to the processed datasets in its README)",
            benchmarks=("boss", "OOD_NLP/datasets", "tasks/OOD_NLP/datasets", "datasets"),
            folders=("process/SentimentAnalysis", "SentimentAnalysis"),
            files={
                "train": "amazon/train.tsv",
                "test": "amazon/test.tsv",
                **{f"ood/{name}": f"{name}/test.tsv" for name in _BOSS_OOD},
            },
            read=partial(read_tsv, quoted=True),
            columns={"Text": "text", "Label": "label"},
            labels={"0": "negative", "1": "positive", "2": "neutral"},
            optional=tuple(f"ood/{name}" for name in _BOSS_OOD),
        ),
    ),
    ood=_BOSS_OOD,
    incomplete=True,
)

TASKS: dict[str, Task] = {
    task.name: task for task in (_DEMO, *GLUE_TASKS, *SUPERGLUE_TASKS, _AMAZON, *PUBMED_TASKS)
}
"""Every task by name."""

REFUSED: dict[str, str] = {
    "stsb": "it is regression (similarity of two sentences from 0 to 5), which a classifier does "
    "not do",
}
"""Tasks of these benchmarks that are not supported, with the reason."""


def find_task(name: str) -> Task:
    """The task of that name.

    Raises:
        InputError: there is none; the message lists those that there are, or says why not.
    """
    if name in REFUSED:
        raise InputError(f"{name} is not supported: {REFUSED[name]}; see lpft tasks for others")
    if name not in TASKS:
        near = get_close_matches(name.lower(), (*TASKS, *REFUSED), n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise InputError(f"unknown task '{name}'{hint}: expected one of {', '.join(TASKS)}")
    return TASKS[name]
