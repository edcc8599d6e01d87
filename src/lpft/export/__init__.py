"""Trained classifiers for programs that do not have lpft: stock models of Transformers, ONNX.

``export_run`` loads torch when it is first used; ``open_onnx`` does without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lpft.export.onnx_classifier import OnnxClassifier, open_onnx
    from lpft.export.run import Export, export_run

_OWNERS = {
    "Export": "run",
    "OnnxClassifier": "onnx_classifier",
    "export_run": "run",
    "open_onnx": "onnx_classifier",
}
__all__ = ["Export", "OnnxClassifier", "export_run", "open_onnx"]


def __getattr__(name: str) -> Any:
    if name in _OWNERS:
        return getattr(import_module(f"lpft.export.{_OWNERS[name]}"), name)
    raise AttributeError(f"module 'lpft.export' has no attribute {name!r}")
