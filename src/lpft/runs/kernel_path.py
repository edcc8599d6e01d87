"""``lpft ntk RUN --path``: the kernel along a training, beside that of its start."""

import copy
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lpft.analysis import feature_difference
from lpft.data import Examples
from lpft.errors import InputError, named
from lpft.ntk import EmpiricalNTK, StudiedModel
from lpft.ntk.dynamics import Linearization, relative_error
from lpft.ntk.statistics import (
    MOST_DRIFT,
    MOST_ERROR,
    centred_kernel_alignment,
    drift,
    frobenius_norm,
    kernel_regime,
    label_kernel,
)
from lpft.results.folder import read_record
from lpft.results.kernels import FT, NTK, PRETRAIN, KernelPath, PathPoint
from lpft.runs.kernel_passes import KernelTexts, StartingPoint, labels_of
from lpft.settings.methods import get_method
from lpft.training.checkpoints import kept_checkpoints

logger = logging.getLogger(__name__)


def path_checkpoints(run: Path | None) -> dict[float, Path]:
    """The kept checkpoints of a run by epoch.

    Raises:
        InputError: there is no run, it has none, or some are damaged.
    """
    if run is None:
        raise InputError(f"{named('path')} needs a trained run: give its folder, or leave it out")
    record = read_record(run)
    method = None if record is None else get_method(record.config["method"])
    if method is not None and not method.fine_tunes_head:
        raise InputError(
            f"{named('path')} is for fine-tuning, and '{run}' was trained by {method.name}, which "
            "has no epochs of it: leave it out or give another run"
        )
    return kept_checkpoints(run)


class PathResults:
    """The numbers of every point of a path, of which the first is the start.

    The model that is linear in its parameters is that of the start, in float64; its change of
    logits is compared with the real one on all training and evaluation texts of the kernels.
    """

    def __init__(self, texts: KernelTexts, device: torch.device) -> None:
        self._texts, self._device = texts, device
        self._labels = label_kernel(labels_of(texts.train))
        self._start: EmpiricalNTK | None = None
        self._linear: Linearization | None = None
        self._points: list[PathPoint] = []

    def add(
        self,
        epoch: float,
        weights: Mapping[str, Tensor],
        point: StartingPoint,
        kernel: EmpiricalNTK,
        subject: StudiedModel,
    ) -> None:
        """Compute the numbers of one epoch, by its kernel and the weights that train."""
        logger.info("%s: drift, alignment and the error of the linear model", point.name)
        if self._start is None or self._linear is None:
            self._start = kernel
            model = copy.deepcopy(subject.classifier).to(self._device)
            self._linear = Linearization(model)
        before, after = _by_name(self._start), _by_name(kernel)
        self._points.append(
            PathPoint(
                epoch=epoch,
                head_norm=float(point.weight.norm()),
                feature_difference=feature_difference(
                    kernel.row_features.numpy(), self._start.row_features.numpy()
                ),
                drift={name: drift(after[name], before[name]) for name in after},
                frobenius_norm={
                    name: frobenius_norm(table, len(point.weight)) for name, table in after.items()
                },
                alignment_with_start={
                    name: centred_kernel_alignment(after[name], before[name]) for name in after
                },
                alignment_with_labels={
                    name: centred_kernel_alignment(table, self._labels)
                    for name, table in after.items()
                },
                linearization_error={
                    name: self._error(subject, examples, weights)
                    for name, examples in (
                        ("train", self._texts.train),
                        ("eval", self._texts.evaluation),
                    )
                },
                layers=_drift_of(kernel.layers, self._start.layers),
                kinds=_drift_of(kernel.kinds, self._start.kinds),
                certificate=kernel.certificate.as_record(),
            )
        )

    def _error(
        self, subject: StudiedModel, examples: Examples, weights: Mapping[str, Tensor]
    ) -> float | None:
        """Relative error of the linear model's change of logits since the start."""
        if not self._points:
            return None  # the start itself
        assert self._linear is not None
        real, predicted = self._linear.changes(subject.tokens(examples.texts), weights)
        return relative_error(real.logits, predicted.logits)

    def record(self, run: Path) -> KernelPath:
        """The path with the answer to whether the run trained in the kernel regime."""
        regime = kernel_regime(
            [point.epoch for point in self._points],
            [point.drift[NTK] for point in self._points],
            {
                name: [point.linearization_error[name] for point in self._points]
                for name in ("train", "eval")
            },
        )
        record = read_record(run)
        checkpoint = None if record is None else record.checkpoint
        return KernelPath(
            answer=regime.answer,
            until=regime.until,
            largest={"drift": regime.drift, "linearization_error": regime.error},
            limits={"drift": MOST_DRIFT, "linearization_error": MOST_ERROR},
            kept_epoch=None if checkpoint is None else checkpoint.epoch,
            points=self._points,
        )


def _by_name(kernel: EmpiricalNTK) -> dict[str, NDArray[np.float64]]:
    """P, F and P + F of the training texts."""
    assert kernel.pretrain_effective is not None, "a classifier has a head"
    tables = (kernel.pretrain_effective, kernel.ft_effective, kernel.total())
    names = (PRETRAIN, FT, NTK)
    return {name: table.numpy() for name, table in zip(names, tables, strict=True)}


def _drift_of(parts: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> dict[str, float | None]:
    return {name: drift(part.numpy(), start[name].numpy()) for name, part in parts.items()}
