"""Export as an ONNX graph, for any pooling and every family that torch can trace."""

import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lpft.errors import InputError, named, one_line
from lpft.export.agreement import Batch, Scorer, save_tokenizer
from lpft.export.onnx_classifier import GRAPH
from lpft.export.stock import calibrated_head, labelled_config
from lpft.model import Classifier
from lpft.model.classifier import LinearHeadClassifier

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = ("logits", "probabilities")
_AXES = {0: "batch", 1: "length"}
_EXAMPLE_SHAPE = (2, 5)
"""Of the input by which the graph is traced; torch would take a length of 1 for a constant."""


def write_onnx(classifier: Classifier, folder: Path) -> tuple[str, list[str]]:
    """The graph ``model.onnx``, the tokenizer, and the encoder's config with the class names.

    Returns what was written, in a few words, and sentences on its use.

    Raises:
        InputError: torch cannot trace the model.
    """
    model, tokenizer = classifier.model, classifier.tokenizer
    accepted = inspect.signature(model.encoder.forward).parameters
    inputs = [name for name in INPUTS if name in accepted and name in tokenizer.model_input_names]
    try:
        with _tracing(model):
            program = torch.onnx.export(
                _CalibratedGraph(model).eval(),
                kwargs={name: torch.ones(_EXAMPLE_SHAPE, dtype=torch.long) for name in inputs},
                input_names=inputs,
                output_names=OUTPUTS,
                dynamic_shapes=dict.fromkeys(inputs, _AXES),
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        cause = error if error.__cause__ is None else error.__cause__
        raise InputError(
            f"torch cannot turn this {model.encoder.config.model_type} model into a graph "
            f"({one_line(cause)}): use {named('format')} transformers"
        ) from error
    assert program is not None
    program.model.metadata_props["temperature"] = repr(float(model.config.temperature))
    program.save(folder / GRAPH)
    labelled_config(model).save_pretrained(folder)
    save_tokenizer(tokenizer, inputs, folder)
    note = f"It reads {', '.join(inputs)} (N x T, int64) and gives {' and '.join(OUTPUTS)} (N x C)."
    opset = program.model.opset_imports[""]
    return f"An ONNX graph (`{GRAPH}`, opset {opset})", [note]


def read_onnx(folder: Path) -> Scorer:
    """The graph as ONNX Runtime runs it."""
    import onnxruntime  # of the extra

    session = onnxruntime.InferenceSession(folder / GRAPH, providers=["CPUExecutionProvider"])

    def score(batch: Batch) -> NDArray[np.float32]:
        return np.asarray(session.run(["logits"], batch)[0])

    return score


class _CalibratedGraph(nn.Module):
    """Token ids and masks (N x T) to ``f(x) / T`` and its softmax, both N x C."""

    def __init__(self, model: LinearHeadClassifier) -> None:
        super().__init__()
        self.model = model
        weight, bias = calibrated_head(model)
        self.head = nn.Linear(weight.shape[1], weight.shape[0])
        self.head.load_state_dict({"weight": weight, "bias": bias})

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        extra = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        features = self.model.features(input_ids, attention_mask, **extra)
        logits = self.head(features)
        return logits, logits.softmax(dim=1)


@contextmanager
def _tracing(model: LinearHeadClassifier) -> Iterator[None]:
    """Without the exporter's remarks on itself, and with attention by matrix products.

    How torch's fused attention lays out its result depends on the machine.
    """
    attention, disabled = model.encoder.config._attn_implementation, logging.root.manager.disable
    model.encoder.set_attn_implementation("eager")
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        model.encoder.set_attn_implementation(attention)
