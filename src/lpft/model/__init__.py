"""Encoders, the linear-head classifier and its adapters.

Importing this package registers ``lpft`` checkpoints with transformers' Auto classes, so that
``AutoModelForSequenceClassification`` and ``pipeline("text-classification", ...)`` load them.
"""

from lpft.model.classifier import ClassifierOutput, LinearHeadClassifier, LinearHeadConfig
from lpft.model.loading import Classifier, build_classifier, load_classifier, save_classifier

__all__ = [
    "Classifier",
    "ClassifierOutput",
    "LinearHeadClassifier",
    "LinearHeadConfig",
    "build_classifier",
    "load_classifier",
    "save_classifier",
]
