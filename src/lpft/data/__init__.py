"""Data: the user's files, published tasks and the bundled corpus as texts with class labels.

Nothing here loads torch, transformers, datasets, pandas or scikit-learn before it is needed.
"""

from lpft.data.checks import Finding, check_data
from lpft.data.examples import Examples, Label, Text, TextData, fingerprint
from lpft.data.labels import encode_labels, infer_classes, read_labels
from lpft.data.loading import load_data, load_files, load_task, read_examples
from lpft.data.splits import stratified_holdout
from lpft.data.tables import choose_text_columns, iter_tables, read_table, texts_from_table
from lpft.data.tasks import TASKS, Task, Template, find_task
from lpft.settings.values import Layout

__all__ = [
    "TASKS",
    "Examples",
    "Finding",
    "Label",
    "Layout",
    "Task",
    "Template",
    "Text",
    "TextData",
    "check_data",
    "choose_text_columns",
    "encode_labels",
    "find_task",
    "fingerprint",
    "infer_classes",
    "iter_tables",
    "load_data",
    "load_files",
    "load_task",
    "read_examples",
    "read_labels",
    "read_table",
    "stratified_holdout",
    "texts_from_table",
]
