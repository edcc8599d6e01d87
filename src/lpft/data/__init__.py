"""Data: the user's files, published tasks and the embedded corpus as texts with class labels.

Nothing here loads torch, transformers, datasets, pandas or scikit-learn before it is needed.
"""

from lpft.data.checks import Finding, check_data
from lpft.data.columns import choose_text_columns, labels_from_table, texts_from_table
from lpft.data.examples import Examples, Label, Text, TextData
from lpft.data.files import check_ood_name, load_files, read_examples
from lpft.data.fingerprint import fingerprint
from lpft.data.labels import encode_labels, infer_classes, read_labels
from lpft.data.sources import load_task
from lpft.data.splits import (
    PROTOCOLS,
    limit_training,
    limit_validation,
    paper_split,
    stratified_holdout,
)
from lpft.data.tables import iter_tables, read_table
from lpft.data.tasks import TASKS, Task, Template, find_task

__all__ = [
    "PROTOCOLS",
    "TASKS",
    "Examples",
    "Finding",
    "Label",
    "Task",
    "Template",
    "Text",
    "TextData",
    "check_data",
    "check_ood_name",
    "choose_text_columns",
    "encode_labels",
    "find_task",
    "fingerprint",
    "infer_classes",
    "iter_tables",
    "labels_from_table",
    "limit_training",
    "limit_validation",
    "load_files",
    "load_task",
    "paper_split",
    "read_examples",
    "read_labels",
    "read_table",
    "stratified_holdout",
    "texts_from_table",
]
