"""GLUE (Wang et al., ICLR 2019). Its test sets have no labels, so the dev sets are test."""

from dataclasses import replace
from functools import partial
from typing import Any

from lpft.data.releases import HubSource, Release, Task
from lpft.data.tables import read_tsv

_ARCHIVES = "https://dl.fbaipublicfiles.com/glue/data"
_SENTEVAL = "https://dl.fbaipublicfiles.com/senteval/senteval_data"
_SCRIPT = "https://github.com/nyu-mll/GLUE-baselines/blob/master/download_glue_data.py"

# The commit that made the dataset Parquet files, which is what `datasets` still loads.
_REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"


def glue(folder: str, **changes: Any) -> Release:
    """A task in GLUE's own layout, but for ``changes``; its archive is called like its folder.

    Source of the addresses: GLUE's ``download_glue_data.py`` (nyu-mll/GLUE-baselines).
    """
    release = Release(
        layout="GLUE tsv",
        url=f"{_ARCHIVES}/{folder}.zip",
        benchmarks=("glue", "glue_data"),
        folders=(folder,),
        files={"train": "train.tsv", "test": "dev.tsv"},
        read=read_tsv,
    )
    return replace(release, **changes)


def _task(name: str, **row: Any) -> Task:
    hub = HubSource("nyu-mll/glue", name, _REVISION)
    return Task(name=name, benchmark="GLUE", **{"hub": hub, **row})


# in its own release and in GLUE's alike
_read_cola = partial(read_tsv, column_names=("source", "label", "annotation", "sentence"))
_COLA_LABELS = {"0": "unacceptable", "1": "acceptable"}
_MRPC_COLUMNS = {"#1 String": "sentence1", "#2 String": "sentence2", "Quality": "label"}
_MRPC_LABELS = {"0": "not_equivalent", "1": "equivalent"}

GLUE_TASKS = (
    _task(
        name="cola",
        title="Corpus of Linguistic Acceptability: is the sentence grammatical English?",
        classes=("unacceptable", "acceptable"),
        fields=("sentence",),
        licence="sentences remain their publishers'; given out for research as fair use",
        url="https://nyu-mll.github.io/CoLA/",
        metric="matthews_correlation",
        releases=(
            glue(
                "CoLA",
                layout="CoLA's public release",
                url="https://nyu-mll.github.io/CoLA/cola_public_1.1.zip",
                folders=("CoLA", "cola_public/raw"),
                files={
                    "train": "in_domain_train.tsv",
                    "test": "in_domain_dev.tsv",
                    "ood/out_of_domain": "out_of_domain_dev.tsv",
                },
                read=_read_cola,
                labels=_COLA_LABELS,
                notes=(
                    "CoLA's public release: test is its in-domain part and out_of_domain the "
                    "other; the paper's test set (GLUE's dev) is both together",
                ),
            ),
            glue("CoLA", read=_read_cola, labels=_COLA_LABELS),
        ),
        ood=("out_of_domain",),
        notes=(
            "the paper counts 855 validation and 1040 test rows, its rule and the release give "
            "856 and 1043",
        ),
    ),
    _task(
        name="mnli",
        title="MultiNLI: does the premise entail the hypothesis? OOD: other genres",
        classes=("entailment", "neutral", "contradiction"),
        fields=("premise", "hypothesis"),
        licence="mostly the Open American National Corpus' (free); parts of its fiction CC BY-SA "
        "3.0 or CC BY 3.0",
        url="https://cims.nyu.edu/~sbowman/multinli/",
        releases=(
            glue(
                "MNLI",
                files={
                    "train": "train.tsv",
                    "test": "dev_matched.tsv",
                    "ood/mismatched": "dev_mismatched.tsv",
                },
                columns={
                    "sentence1": "premise",
                    "sentence2": "hypothesis",
                    "gold_label": "label",
                },
            ),
        ),
        hub=HubSource(
            "nyu-mll/glue",
            "mnli",
            _REVISION,
            {
                "train": "train",
                "test": "validation_matched",
                "ood/mismatched": "validation_mismatched",
            },
        ),
        ood=("mismatched",),
        cluster="premise",
    ),
    _task(
        name="mrpc",
        title="Microsoft Research Paraphrase Corpus: do the sentences mean the same?",
        classes=("not_equivalent", "equivalent"),
        fields=("sentence1", "sentence2"),
        licence="Microsoft Research's own terms, which come with the download",
        url="https://www.microsoft.com/en-us/download/details.aspx?id=52398",
        releases=(
            glue(
                "MRPC",
                columns=_MRPC_COLUMNS,
                labels=_MRPC_LABELS,
                url=f"{_SCRIPT} (it makes train.tsv and dev.tsv of the original release)",
            ),
            glue(
                "MRPC",
                layout="MRPC's original release",
                url=f"{_SENTEVAL}/msr_paraphrase_train.txt and {_SENTEVAL}/msr_paraphrase_test.txt",
                folders=("MRPC", "MSRParaphraseCorpus"),
                files={"train": "msr_paraphrase_train.txt", "test": "msr_paraphrase_test.txt"},
                columns=_MRPC_COLUMNS,
                labels=_MRPC_LABELS,
                notes=(
                    "MRPC's original release: the paper trains on GLUE's train.tsv and tests on "
                    "its dev.tsv, which are both within this release's training file",
                ),
            ),
        ),
    ),
    _task(
        name="qnli",
        title="QNLI: does the sentence hold the answer to the question? (from SQuAD)",
        classes=("entailment", "not_entailment"),
        fields=("question", "sentence"),
        licence="CC BY-SA 4.0 (SQuAD's)",
        url="https://rajpurkar.github.io/SQuAD-explorer/",
        releases=(glue("QNLI", url=f"{_ARCHIVES}/QNLIv2.zip"),),
    ),
    _task(
        name="qqp",
        title="Quora Question Pairs: do the two questions ask the same?",
        classes=("not_duplicate", "duplicate"),
        fields=("question1", "question2"),
        licence="Quora's terms of service, which allow non-commercial use",
        url="https://quoradata.quora.com/First-Quora-Dataset-Release-Question-Pairs",
        releases=(
            glue(
                "QQP",
                # a line break within a question makes two short lines of one row
                read=partial(read_tsv, fill=True),
                columns={"is_duplicate": "label"},
                labels={"0": "not_duplicate", "1": "duplicate"},
                url=f"{_ARCHIVES}/QQP-clean.zip",
            ),
        ),
        incomplete=True,
    ),
    _task(
        name="sst2",
        title="Stanford Sentiment Treebank: sentiment of film review phrases",
        classes=("negative", "positive"),
        fields=("sentence",),
        licence="not stated by its authors",
        url="https://nlp.stanford.edu/sentiment/",
        releases=(glue("SST-2", labels={"0": "negative", "1": "positive"}),),
    ),
    _task(
        name="wnli",
        title="Winograd NLI: does the sentence entail itself with its pronoun resolved?",
        classes=("not_entailment", "entailment"),
        fields=("sentence1", "sentence2"),
        licence="CC BY 4.0 (the collection of Winograd schemas)",
        url="https://cs.nyu.edu/~davise/papers/WinogradSchemas/WS.html",
        releases=(glue("WNLI", labels={"0": "not_entailment", "1": "entailment"}),),
        cluster="sentence1",
        notes=("WNLI's dev rows often share sentences with training rows of the other label",),
    ),
)
