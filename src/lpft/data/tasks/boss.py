"""BOSS (Yuan et al., NeurIPS 2023): one training set and out-of-distribution test sets."""

from lpft.data.releases import Release
from lpft.data.tables import read_quoted_tsv
from lpft.data.tasks.task import Task, single

_OOD = ("dynasent", "semeval", "sst5")
_CODE = "https://github.com/lifan-yuan/OOD_NLP"

BOSS_TASKS = (
    Task(
        name="amazon",
        title="Sentiment of Amazon reviews; OOD: DynaSent, SemEval, SST-5",
        benchmark="BOSS",
        classes=("negative", "positive", "neutral"),
        fields=("text",),
        templates=(single("text"),),
        licence="the original datasets' own; BOSS's code is under the MIT licence",
        url=_CODE,
        releases=(
            Release(
                layout="BOSS's processed tsv",
                url=f"{_CODE} (the link to the processed datasets in its README)",
                benchmarks=("boss", "OOD_NLP/datasets", "tasks/OOD_NLP/datasets", "datasets"),
                folders=("process/SentimentAnalysis", "SentimentAnalysis"),
                files={
                    "train": "amazon/train.tsv",
                    "test": "amazon/test.tsv",
                    **{f"ood/{name}": f"{name}/test.tsv" for name in _OOD},
                },
                read=read_quoted_tsv,
                columns={"Text": "text", "Label": "label"},
                labels={"0": "negative", "1": "positive", "2": "neutral"},
                optional=tuple(f"ood/{name}" for name in _OOD),
            ),
        ),
        ood=_OOD,
        incomplete=True,
    ),
)
