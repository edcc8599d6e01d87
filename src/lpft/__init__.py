"""Linear probing then fine-tuning (LP-FT) of text classifiers, explained.

Importing this package loads neither torch nor transformers; its public names do when first used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_OWNERS = {"TextClassifier": "lpft.estimator", "InputError": "lpft.errors"}
__all__ = ["InputError", "TextClassifier", "__version__"]


def __getattr__(name: str) -> Any:
    if name in _OWNERS:
        return getattr(import_module(_OWNERS[name]), name)
    raise AttributeError(f"module 'lpft' has no attribute {name!r}")
