"""What ``lpft ntk`` keeps of its kernels: statistics for ``kernels.json``, arrays beside it."""

import logging
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpft.errors import InputError
from lpft.ntk import EmpiricalNTK
from lpft.ntk.alignment import alignment_matrix
from lpft.ntk.regression import KernelPair, regress
from lpft.ntk.statistics import (
    frobenius_norm,
    ft_ratio,
    heat_map,
    kernel_statistics,
    kernel_trace,
)
from lpft.runs.kernel_starts import KernelTexts, Start

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
_SOLVER_NAMES = {"klr": "kernel_logistic_regression", "krr": "kernel_ridge_regression"}
KERNELS = ("pretrain_effective", "ft_effective", "ntk")
TRAIN, EVALUATION, REVERSED = (0, 0), (1, 0), (0, 1)
"""Blocks of a kernel: among training texts, from evaluated to training texts, and back."""


class MethodKernels:
    """The kernels of one method's start as NumPy arrays, with its logits f_0."""

    def __init__(
        self, start: Start, blocks: Mapping[tuple[int, int], EmpiricalNTK], classes: int
    ) -> None:
        self.start = start
        self.classes = classes
        self.blocks = blocks
        train, evaluation = blocks[TRAIN], blocks[EVALUATION]
        self.symmetric = train.symmetric
        self.train_logits = self._logits(train.row_features.numpy())
        self.evaluation_logits = self._logits(evaluation.row_features.numpy())

    def block(self, kernel: str, which: tuple[int, int]) -> Array:
        """P (N x M), F or P + F (N x C x M x C) of one block."""
        found = self.blocks[which]
        if kernel == "ntk":
            return found.total().numpy()
        return np.asarray(getattr(found, kernel).numpy())

    def pair(self, kernel: str) -> KernelPair:
        """What kernel regression learns from and predicts with."""
        reverse = self.block(kernel, REVERSED) if REVERSED in self.blocks else None
        return KernelPair(
            self.block(kernel, TRAIN), self.block(kernel, EVALUATION), self.classes, reverse
        )

    def arrays(self, texts: KernelTexts) -> dict[str, NDArray[Any]]:
        """The tensors of ``<method>.safetensors``."""
        kept: dict[str, NDArray[Any]] = {
            "train/labels": _labels(texts.train.labels),
            "eval/labels": _labels(texts.evaluation.labels),
            "train/logits": self.train_logits,
            "eval/logits": self.evaluation_logits,
        }
        for kernel in KERNELS[:2]:
            kept[f"train/{kernel}"] = self.block(kernel, TRAIN)
            kept[f"eval/{kernel}"] = self.block(kernel, EVALUATION)
        for kernel in KERNELS:
            kept[f"train/heat_map/{kernel}"] = heat_map(self.block(kernel, TRAIN), self.classes)
        for by in ("layers", "kinds"):
            for name, part in getattr(self.blocks[TRAIN], by).items():
                kept[f"train/ft_effective/{by}/{name}"] = part.numpy()
        return {name: np.ascontiguousarray(array) for name, array in kept.items()}

    def record(self, texts: KernelTexts, regressions: Mapping[str, Any]) -> dict[str, Any]:
        """The method's entry of ``kernels.json``."""
        train = self.blocks[TRAIN]
        labels = _labels(texts.train.labels)
        ratio = ft_ratio(
            self.block(KERNELS[0], TRAIN), self.block(KERNELS[1], TRAIN), labels, self.train_logits
        )
        return {
            "head_start": self.start.head_start,
            "head_rank": train.record["head_rank"],
            "head_norm": float(self.start.weight.norm()),
            "parameters": train.record["parameters"],
            "ft_ratio": ratio.ratio,
            "kernels": {
                kernel: kernel_statistics(
                    self.block(kernel, TRAIN),
                    self.classes,
                    symmetric=self.symmetric,
                    regression=regressions[kernel],
                )
                for kernel in KERNELS
            },
            "layers": _parts(train.layers),
            "kinds": _parts(train.kinds),
            "certificate": train.certificate.as_record(),
            "products_error": train.products_error,
        }

    def _logits(self, features: Array) -> Array:
        bias = 0.0 if self.start.bias is None else self.start.bias.double().numpy()
        return np.asarray(features @ self.start.weight.double().numpy().T + bias)


def regressions(
    methods: Sequence[MethodKernels], texts: KernelTexts, solvers: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], float]:
    """Kernel regression by every solver on P, F and P + F of every method, and its seconds.

    What starts from the same head with the same kernel (P, of methods of one head) is done once.
    """
    started = perf_counter()
    known: dict[tuple[object, ...], dict[str, Any] | None] = {}
    found: dict[str, dict[str, Any]] = {}
    for kernels in methods:
        found[kernels.start.name] = {}
        for kernel in KERNELS:
            results = {}
            for solver in solvers:
                own = kernel if kernel == KERNELS[0] else (kernels.start.name, kernel)
                head = None if solver == "paper" else kernels.start.weight.numpy().tobytes()
                key = (solver, own, head)
                if key not in known:
                    known[key] = _regression(kernels, kernel, texts, solver)
                if known[key] is not None:
                    results[_SOLVER_NAMES.get(solver, solver)] = known[key]
            found[kernels.start.name][kernel] = results or None
    return found, perf_counter() - started


def alignment(methods: Sequence[MethodKernels]) -> dict[str, Any]:
    """Centred kernel alignment of every pair of kernels among the training texts."""
    named = {KERNELS[0]: methods[0].block(KERNELS[0], TRAIN)}
    for kernels in methods:
        for kernel in KERNELS[1:]:
            named[f"{kernels.start.name}/{kernel}"] = kernels.block(kernel, TRAIN)
    return alignment_matrix(named)


def _regression(
    kernels: MethodKernels, kernel: str, texts: KernelTexts, solver: str
) -> dict[str, Any] | None:
    try:
        result = regress(
            kernels.pair(kernel),
            _labels(texts.train.labels),
            _labels(texts.evaluation.labels),
            kernels.train_logits,
            kernels.evaluation_logits,
            solver=solver,
        )
    except InputError as error:
        logger.warning(
            "no kernel regression by %s on %s of %s: %s",
            solver,
            kernel,
            kernels.start.name,
            error,
        )
        return None
    record = result.as_record()
    if solver == "paper":
        # The protocol's own number counts entries; the predicted class per text goes beside it.
        record["train_text_accuracy"] = record["train_accuracy"]
        record["test_text_accuracy"] = record["test_accuracy"]
        for split in ("train", "test", "constant"):
            record[f"{split}_accuracy"] = record.pop(f"{split}_entry_accuracy")
    return record


def _parts(parts: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {
        name: {"trace": kernel_trace(part.numpy()), "frobenius_norm": frobenius_norm(part.numpy())}
        for name, part in parts.items()
    }


def _labels(labels: NDArray[np.int64] | None) -> NDArray[np.int64]:
    assert labels is not None
    return labels
