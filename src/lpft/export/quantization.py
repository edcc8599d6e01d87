"""An ONNX graph in int8, and what that costs: accuracy and calibration lost, time won."""

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpft.analysis import split_metrics
from lpft.data import Examples
from lpft.data.examples import UNSEEN
from lpft.errors import InputError, named
from lpft.export.onnx_classifier import OnnxClassifier
from lpft.results.folder import read_record
from lpft.results.resume import recorded_data
from lpft.results.saved import SavedClassifier, TorchClassifier

_ROWS_IN_TURN = 100
"""Texts that each of the three reads before the next one does, so that they share what else the
machine does."""


def quantize(graph: Path) -> int:
    """Replace a graph in float32 by one whose weights and matrix products are in int8.

    Weights have a scale for each output (7 bits, so that older processors' sums do not overflow);
    the scale of activations is found at every call (dynamic quantisation). The classifier's head
    stays in float32. Returns the number of bytes before.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    before = graph.stat().st_size
    written = graph.with_suffix(".int8")
    prepared = graph.with_suffix(".prepared")
    quant_pre_process(graph, prepared, skip_symbolic_shape=True)
    quantize_dynamic(
        prepared, written, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True
    )
    prepared.unlink()
    written.replace(graph)
    return before


def validation_rows(run: Path) -> Examples:
    """The labelled validation rows of a run, read again from its data.

    Raises:
        InputError: it has none, or its data is not there or changed.
    """
    advice = f"give labelled rows with {named('file')} to measure int8 on"
    record = read_record(run)
    if record is None:
        raise InputError(f"'{run}' has no run.json that names its data: {advice}")
    try:
        rows = recorded_data(run, record, splits=("validation",)).splits().get("validation")
    except InputError as error:
        raise InputError(f"{error.args[0]}; or {advice}") from error
    if rows is None or rows.labels is None:
        raise InputError(f"'{run}' has no labelled validation rows: {advice}")
    return rows


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
    known = np.flatnonzero(rows.labels != UNSEEN)
    if not len(known):
        raise InputError("no row has a class of the model: give rows that have, to measure int8 on")
    texts, labels = [rows.texts[row] for row in known], rows.labels[known]
    compared: Mapping[str, SavedClassifier] = {"torch": torch, "float32": exact, "int8": quantized}
    parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in compared}
    seconds: dict[str, list[float]] = {name: [] for name in compared}
    for one in compared.values():
        one.logits(texts[:8])  # the first call takes longer
    sizes = []
    for start in range(0, len(texts), _ROWS_IN_TURN):
        part = texts[start : start + _ROWS_IN_TURN]
        sizes.append(len(part))
        for name, one in compared.items():
            began = perf_counter()
            parts[name].append(one.logits(part))
            seconds[name].append(perf_counter() - began)
    logits = {name: np.concatenate(found) for name, found in parts.items()}
    scored = {name: _scores(found, labels, torch.temperature) for name, found in logits.items()}
    probabilities = {
        name: one.predicted(logits[name]) for name, one in compared.items() if name != "float32"
    }
    same = logits["torch"].argmax(axis=1) == logits["int8"].argmax(axis=1)
    return {
        "rows": len(texts),
        "before": scored["torch"],
        "after": scored["int8"],
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
    found = split_metrics(logits, labels, temperature)
    return {
        "accuracy": found["accuracy"],
        "nll": found["calibrated"]["nll"],
        "ece": found["calibrated"]["ece"],
    }
