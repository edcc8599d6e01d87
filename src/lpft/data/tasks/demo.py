"""The task that this package brings along."""

from lpft.data.corpus import load_corpus
from lpft.data.tasks.task import Task, single

DEMO = Task(
    name="demo",
    title="Sentiment of product reviews; OOD: restaurants, films, posts",
    benchmark="lpft",
    classes=("negative", "neutral", "positive"),
    fields=("text",),
    templates=(single("text"),),
    licence="MIT",
    url="in this package: lpft/data/corpus",
    ood=("restaurants", "films", "posts"),
    embedded=load_corpus,
)
