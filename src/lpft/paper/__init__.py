"""What the paper published: hyperparameters, sizes of its datasets, and results.

Source of every number: Tomihari and Sato, NeurIPS 2024 (arXiv 2405.16747).
"""

from lpft.paper.results import (
    KernelNumbers,
    PublishedValue,
    published_datasets,
    published_kernels,
    published_tables,
    published_value,
)
from lpft.paper.settings import (
    EPOCHS,
    KERNEL_SAMPLES,
    MAX_LENGTH,
    MODEL,
    SEEDS,
    DatasetSize,
    published_hyperparameters,
    published_size,
)

__all__ = [
    "EPOCHS",
    "KERNEL_SAMPLES",
    "MAX_LENGTH",
    "MODEL",
    "SEEDS",
    "DatasetSize",
    "KernelNumbers",
    "PublishedValue",
    "published_datasets",
    "published_hyperparameters",
    "published_kernels",
    "published_size",
    "published_tables",
    "published_value",
]
