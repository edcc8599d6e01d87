"""Kernel regression of ``lpft ntk``: every solver on P, F and P + F of every method."""

import logging
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np

from lpft.errors import InputError
from lpft.ntk.regression import KernelPair, regress
from lpft.runs.kernel_record import KERNELS, MethodKernels
from lpft.runs.kernel_texts import labels_of
from lpft.settings import TAKEN_BY, RegressionSettings

logger = logging.getLogger(__name__)

_NAMES = {"klr": "kernel_logistic_regression", "krr": "kernel_ridge_regression"}


class Regressions:
    """Kernel regression by every solver; what has the same kernel and f_0 is done once.

    So is P of methods of one encoder, by solvers that add no f_0 or of one head.
    """

    def __init__(self, settings: RegressionSettings, solvers: Sequence[str]) -> None:
        self._settings = settings
        self._solvers = tuple(solvers)
        self._known: dict[str, dict[str, Any] | None] = {}

    def of(self, kernels: MethodKernels) -> dict[str, dict[str, Any] | None]:
        """By kernel, the record of each solver; None where no solver could fit it."""
        found: dict[str, dict[str, Any] | None] = {}
        for kernel in KERNELS:
            pair = kernels.pair(kernel)
            results = {}
            for solver in self._solvers:
                key = self._key(solver, pair, kernels)
                if key not in self._known:
                    self._known[key] = self._fit(solver, kernel, pair, kernels)
                if self._known[key] is not None:
                    results[_NAMES.get(solver, solver)] = self._known[key]
            found[kernel] = results or None
        return found

    def _key(self, solver: str, pair: KernelPair, kernels: MethodKernels) -> str:
        """A hash of all that decides the result beside labels and settings."""
        digest = sha256(solver.encode())
        arrays = [pair.train, pair.test]
        if solver in TAKEN_BY["f0_scale"]:
            arrays += [kernels.train_logits, kernels.evaluation_logits]
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def _fit(
        self, solver: str, kernel: str, pair: KernelPair, kernels: MethodKernels
    ) -> dict[str, Any] | None:
        options = self._settings.of(solver)
        if self._settings.wants_validation([solver]):
            options["validation"] = kernels.validation_set(kernel)
        try:
            result = regress(
                pair,
                labels_of(kernels.texts.train),
                labels_of(kernels.texts.evaluation),
                kernels.train_logits,
                kernels.evaluation_logits,
                solver=solver,
                **options,
            )
        except InputError as error:
            name = kernels.start.name
            logger.warning(
                "no kernel regression by %s on %s of %s: %s", solver, kernel, name, error
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
