"""Export as an ONNX graph, for any pooling and every family that torch can trace.

The graph may be quantised to int8; what that costs and gains is measured on labelled rows.
"""

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lpft.analysis import split_metrics
from lpft.data import Examples
from lpft.data.examples import UNSEEN
from lpft.errors import InputError, named, one_line
from lpft.export.onnx_classifier import GRAPH, OnnxClassifier
from lpft.export.stock import Batch, Scorer, calibrated_head, labelled_config, save_tokenizer
from lpft.model import Classifier
from lpft.model.classifier import LinearHeadClassifier
from lpft.results.saved import SavedClassifier, TorchClassifier

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


_ROWS_IN_TURN = 100
"""Texts that PyTorch and both graphs each read before the next one does, so that all three suffer
alike from whatever else the machine does."""


def quantize(graph: Path) -> int:
    """Replace a graph in float32 by one whose weights and matrix products are in int8.

    Weights have a scale for each output (7 bits, so that older processors' sums do not overflow);
    the scale of activations is found at every call (dynamic quantisation). The classifier's head
    stays in float32. Returns the number of bytes before.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    before = graph.stat().st_size
    quantized = graph.with_suffix(".int8")
    prepared = graph.with_suffix(".prepared")
    quant_pre_process(graph, prepared, skip_symbolic_shape=True)
    quantize_dynamic(
        prepared, quantized, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True
    )
    prepared.unlink()
    quantized.replace(graph)
    return before


def measure(
    torch: TorchClassifier, exact: OnnxClassifier, quantized: OnnxClassifier, rows: Examples
) -> dict[str, Any]:
    """``quantization`` of ``export.json``: metrics of labelled rows before and after, and speed.

    ``rows_per_second`` are medians over parts of 100 rows, which the three read in turns, and
    ``times_as_fast`` medians of the ratios. ``largest_difference`` is that of a probability.

    Raises:
        InputError: there is no row of a class that the model has.
    """
    assert rows.labels is not None, "they are labelled"
    scored_rows = np.flatnonzero(rows.labels != UNSEEN)
    if not len(scored_rows):
        raise InputError("no row has a class of the model: give rows that have, to measure int8 on")
    texts, labels = [rows.texts[row] for row in scored_rows], rows.labels[scored_rows]
    classifiers: Mapping[str, SavedClassifier] = {
        "torch": torch,
        "float32": exact,
        "int8": quantized,
    }
    parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in classifiers}
    seconds: dict[str, list[float]] = {name: [] for name in classifiers}
    for classifier in classifiers.values():
        classifier.logits(texts[:8])  # the first call takes longer
    sizes = []
    for start in range(0, len(texts), _ROWS_IN_TURN):
        part = texts[start : start + _ROWS_IN_TURN]
        sizes.append(len(part))
        for name, classifier in classifiers.items():
            started = perf_counter()
            parts[name].append(classifier.logits(part))
            seconds[name].append(perf_counter() - started)
    logits = {name: np.concatenate(values) for name, values in parts.items()}
    scores = {name: _scores(values, labels, torch.temperature) for name, values in logits.items()}
    probabilities = {
        name: classifier.predicted(logits[name])
        for name, classifier in classifiers.items()
        if name != "float32"
    }
    same = logits["torch"].argmax(axis=1) == logits["int8"].argmax(axis=1)
    return {
        "rows": len(texts),
        "before": scores["torch"],
        "after": scores["int8"],
        "same_label": float(same.mean()),
        "largest_difference": float(np.abs(probabilities["torch"] - probabilities["int8"]).max()),
        "rows_per_second": {
            name: round(median(n / t for n, t in zip(sizes, spent, strict=True)), 1)
            for name, spent in seconds.items()
        },
        "times_as_fast": {
            f"as_{name}": round(
                median(a / b for a, b in zip(seconds[name], seconds["int8"], strict=True)), 2
            )
            for name in ("torch", "float32")
        },
    }


def _scores(
    logits: NDArray[np.float32], labels: NDArray[np.int64], temperature: float
) -> dict[str, float]:
    metrics = split_metrics(logits, labels, temperature)
    return {
        "accuracy": metrics["accuracy"],
        "nll": metrics["calibrated"]["nll"],
        "ece": metrics["calibrated"]["ece"],
    }
