"""What is said and kept of each method's kernels once their pass has ended."""

import logging
from time import perf_counter
from typing import Any

import torch
from safetensors.numpy import save_file

from lpft.files import replace_when_written
from lpft.ntk.inputs import Subject
from lpft.ntk.statistics import alignment_matrix
from lpft.results.folder import WORK
from lpft.runs.kernel_dynamics import dynamics
from lpft.runs.kernel_record import FT_EFFECTIVE, NTK, PRETRAIN_EFFECTIVE, Array, MethodKernels
from lpft.runs.kernel_regressions import Regressions
from lpft.runs.kernel_texts import TRAIN
from lpft.settings import KernelConfig

logger = logging.getLogger(__name__)


class Description:
    """The records of all methods; of their kernels only what alignment needs stays in memory.

    Arrays go to the unfinished part of the output folder. ``methods`` are the records by name,
    ``timings`` the seconds by part.
    """

    def __init__(self, config: KernelConfig, count: int) -> None:
        self._config = config
        self._count = count
        self._regressions = Regressions(config.regression, config.kernels.solver)
        self._aligned: dict[str, Array] = {}
        self._encoders: set[str] = set()
        self.methods: dict[str, dict[str, Any]] = {}
        self.timings = {
            f"{part}_seconds": 0.0 for part in ("kernel", "regression", "statistics", "dynamics")
        }

    def add(
        self, kernels: MethodKernels, subject: Subject, encoder: str, device: torch.device
    ) -> None:
        """Describe and keep one method's kernels.

        ``encoder`` is the fingerprint of what computes phi: methods of one share their P.
        """
        name = kernels.start.name
        began = perf_counter()
        solvers = self._config.kernels.solver
        if solvers:
            self._say(name, f"kernel regression by {', '.join(solvers)} on P, F and P + F")
        regressed = self._regressions.of(kernels)
        began = self._spent("regression", began)
        self._say(name, "statistics")
        record = kernels.record()
        for kernel, statistics in record["kernels"].items():
            statistics["regression"] = regressed[kernel]
        path = self._config.output_dir / WORK / f"{name}.safetensors"
        with replace_when_written(path) as temporary:
            save_file(kernels.arrays(), temporary)
        if encoder not in self._encoders:
            own = f"{name}/{PRETRAIN_EFFECTIVE}" if self._encoders else PRETRAIN_EFFECTIVE
            self._aligned[own] = kernels.block(PRETRAIN_EFFECTIVE, TRAIN)
            self._encoders.add(encoder)
        for kernel in (FT_EFFECTIVE, NTK):
            self._aligned[f"{name}/{kernel}"] = kernels.block(kernel, TRAIN)
        began = self._spent("statistics", began)
        if self._config.kernels.dynamics > 0:
            self._say(name, "gradient descent beside what the kernel predicts")
            most = self._config.kernels.dynamics
            record["dynamics"] = dynamics(kernels, subject, most, device)
            self._spent("dynamics", began)
        self.methods[name] = record

    def alignment(self) -> dict[str, Any]:
        """Centred kernel alignment of every pair of kernels among the training texts."""
        logger.info("alignment of %d kernels", len(self._aligned))
        return alignment_matrix(self._aligned)

    def _say(self, name: str, what: str) -> None:
        """Which method of how many, what is done, and the time left where others were described."""
        done = len(self.methods)
        left = ""
        if done > 0:
            spent = sum(self.timings.values()) - self.timings["kernel_seconds"]
            left = f", about {spent / done * (self._count - done):.0f} s left besides passes"
        logger.info("%s, %d of %d: %s%s", name, done + 1, self._count, what, left)

    def _spent(self, part: str, began: float) -> float:
        now = perf_counter()
        self.timings[f"{part}_seconds"] += now - began
        return now
