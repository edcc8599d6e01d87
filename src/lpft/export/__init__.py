"""Trained classifiers for programs that do not have lpft: stock models of Transformers, ONNX."""

from lpft.export.run import Export, export_run

__all__ = ["Export", "export_run"]
