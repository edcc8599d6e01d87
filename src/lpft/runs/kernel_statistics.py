"""What ``lpft ntk`` computes from kernels: statistics, regression, dynamics; drift along a path."""

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor, nn

from lpft.analysis import feature_difference
from lpft.analysis.calibration import negative_log_likelihood
from lpft.data import Examples
from lpft.data.splits import draw_rows
from lpft.errors import InputError, named
from lpft.files import replace_when_written
from lpft.model.adapters import trained_head
from lpft.ntk import EmpiricalNTK, StudiedModel
from lpft.ntk.dynamics import (
    FirstStep,
    Linearization,
    LogitTrajectory,
    gradient_descent,
    largest_stable_rate,
    linearized_training,
    relative_error,
)
from lpft.ntk.regression import KernelPair, ValidationSet, regress
from lpft.ntk.statistics import (
    MOST_DRIFT,
    MOST_ERROR,
    alignment_matrix,
    centred_kernel_alignment,
    drift,
    frobenius_norm,
    ft_ratio,
    heat_map,
    kernel_regime,
    kernel_spectrum,
    kernel_statistics,
    kernel_trace,
    label_kernel,
)
from lpft.progress import timed
from lpft.results.folder import read_record
from lpft.results.kernels import FT, NTK, PRETRAIN, KernelPath, MethodRecord, PathPoint
from lpft.runs.kernel_passes import (
    EVALUATION,
    REVERSED,
    TRAIN,
    VALIDATION,
    Block,
    KernelTexts,
    StartingPoint,
    labels_of,
)
from lpft.settings.configs import KernelConfig
from lpft.settings.kernels import RegressionSettings
from lpft.settings.methods import get_method
from lpft.training.checkpoints import kept_checkpoints

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
KERNELS = (PRETRAIN, FT, NTK)

RATE_SHARES = (1.0, 0.1, 0.01, 0.001)
"""Learning rates of the single step, as shares of the largest stable one of the linear model."""
TRAINING_SHARE = 0.1
"""Learning rate of the many steps, likewise; closer to 1 training soon leaves the linear model."""
STEPS = (0, 1, 2, 5, 10, 20)

_REGRESSION_NAMES = {"klr": "kernel_logistic_regression", "krr": "kernel_ridge_regression"}


class KernelResults:
    """The records of all methods' kernels, and the alignment between them.

    Of each method's kernels only what alignment needs stays in memory; the arrays go to
    ``<folder>/<method>.safetensors``. ``methods`` holds the records by name, ``timings`` the
    seconds by part. Kernel regression is fitted once for equal kernels and f_0, such as P of all
    methods of one encoder under a solver that adds no f_0.
    """

    def __init__(self, config: KernelConfig, folder: Path, count: int) -> None:
        self._config = config
        self._folder = folder
        self._count = count
        self._fits: dict[str, dict[str, Any] | None] = {}
        self._aligned: dict[str, Array] = {}
        self._encoders: set[str] = set()
        self.methods: dict[str, MethodRecord] = {}
        self.timings = {
            f"{part}_seconds": 0.0 for part in ("kernel", "regression", "statistics", "dynamics")
        }

    def add(
        self, kernels: "MethodKernels", subject: StudiedModel, encoder: str, device: torch.device
    ) -> None:
        """Compute and keep the results of one method.

        ``encoder`` is the fingerprint of the weights that compute phi; methods that share it share
        their P, which is then aligned once.
        """
        name = kernels.start.name
        solvers = self._config.kernels.solver
        if solvers:
            self._log(name, f"kernel regression by {', '.join(solvers)} on P, F and P + F")
        with timed(self.timings, "regression_seconds"):
            regressions = {kernel: self._regressions(kernel, kernels) for kernel in KERNELS}
        self._log(name, "statistics")
        with timed(self.timings, "statistics_seconds"):
            record = kernels.record(regressions)
            with replace_when_written(self._folder / f"{name}.safetensors") as temporary:
                save_file(kernels.arrays(), temporary)
            if encoder not in self._encoders:
                own = f"{name}/{PRETRAIN}" if self._encoders else PRETRAIN
                self._aligned[own] = kernels.block(PRETRAIN, TRAIN)
                self._encoders.add(encoder)
            for kernel in (FT, NTK):
                self._aligned[f"{name}/{kernel}"] = kernels.block(kernel, TRAIN)
        most = self._config.kernels.dynamics
        if most > 0:
            self._log(name, "gradient descent compared with what the kernel predicts")
            with timed(self.timings, "dynamics_seconds"):
                record["dynamics"] = dynamics(kernels, subject, most, device)
        self.methods[name] = MethodRecord(method=name, **record)

    def alignment(self) -> dict[str, Any]:
        """Centred kernel alignment of every pair of kernels among the training texts."""
        logger.info("alignment of %d kernels", len(self._aligned))
        return alignment_matrix(self._aligned)

    def _regressions(self, kernel: str, kernels: "MethodKernels") -> dict[str, Any] | None:
        """The record of each solver on one kernel; None where no solver could fit it."""
        pair = kernels.pair(kernel)
        results = {}
        for solver in self._config.kernels.solver:
            key = sha256(solver.encode())  # of everything but labels and settings, which are shared
            arrays = [pair.train, pair.test]
            if solver in RegressionSettings.fields()["f0_scale"].solvers:
                arrays += [kernels.train_logits, kernels.evaluation_logits]
            for array in arrays:
                key.update(np.ascontiguousarray(array).tobytes())
            if key.hexdigest() not in self._fits:
                self._fits[key.hexdigest()] = self._fit(solver, kernel, pair, kernels)
            fit = self._fits[key.hexdigest()]
            if fit is not None:
                results[_REGRESSION_NAMES.get(solver, solver)] = fit
        return results or None

    def _fit(
        self, solver: str, kernel: str, pair: KernelPair, kernels: "MethodKernels"
    ) -> dict[str, Any] | None:
        settings = self._config.regression
        options = settings.of(solver)
        if settings.needs_validation([solver]):
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
            # The paper counts entries of the one-hot targets; accuracy by text stands beside it.
            record["train_text_accuracy"] = record["train_accuracy"]
            record["test_text_accuracy"] = record["test_accuracy"]
            for split in ("train", "test", "constant"):
                record[f"{split}_accuracy"] = record.pop(f"{split}_entry_accuracy")
        return record

    def _log(self, name: str, what: str) -> None:
        """Log the method, its number, the step, and the time left by the methods before it."""
        done = len(self.methods)
        time_left = ""
        if done > 0:
            spent = sum(self.timings.values()) - self.timings["kernel_seconds"]
            time_left = f", about {spent / done * (self._count - done):.0f} s left besides passes"
        logger.info("%s, %d of %d: %s%s", name, done + 1, self._count, what, time_left)


@dataclass(frozen=True)
class MethodKernels:
    """The kernels of one method's start as NumPy arrays, with its logits f_0."""

    start: StartingPoint
    blocks: Mapping[Block, EmpiricalNTK]
    texts: KernelTexts
    classes: int

    @cached_property
    def train_logits(self) -> Array:
        return self._logits(TRAIN)

    @cached_property
    def evaluation_logits(self) -> Array:
        return self._logits(EVALUATION)

    def block(self, kernel: str, which: Block) -> Array:
        """P (N x M), F or P + F (N x C x M x C) of one block."""
        block = self.blocks[which]
        return np.asarray((block.total() if kernel == NTK else getattr(block, kernel)).numpy())

    def pair(self, kernel: str) -> KernelPair:
        """The blocks that kernel regression learns from and predicts with."""
        reverse = self.block(kernel, REVERSED) if REVERSED in self.blocks else None
        return KernelPair(
            self.block(kernel, TRAIN), self.block(kernel, EVALUATION), self.classes, reverse
        )

    def validation_set(self, kernel: str) -> ValidationSet | None:
        """The texts that choose the strength of kernel regression, if any do."""
        if self.texts.validation is None:
            return None
        return ValidationSet(
            self.block(kernel, VALIDATION),
            labels_of(self.texts.validation),
            self._logits(VALIDATION),
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The tensors of ``<method>.safetensors``."""
        arrays: dict[str, NDArray[Any]] = {}
        parts = (
            ("train", TRAIN, self.texts.train),
            ("eval", EVALUATION, self.texts.evaluation),
            ("validation", VALIDATION, self.texts.validation),
        )
        for part, which, examples in parts:
            if examples is not None:
                arrays[f"{part}/labels"] = labels_of(examples)
                arrays[f"{part}/logits"] = self._logits(which)
                for kernel in (PRETRAIN, FT):
                    arrays[f"{part}/{kernel}"] = self.block(kernel, which)
        for kernel in KERNELS:
            arrays[f"train/heat_map/{kernel}"] = heat_map(self.block(kernel, TRAIN), self.classes)
        for by in ("layers", "kinds"):
            for name, values in getattr(self.blocks[TRAIN], by).items():
                arrays[f"train/ft_effective/{by}/{name}"] = values.numpy()
        return {name: np.ascontiguousarray(array) for name, array in arrays.items()}

    def record(self, regressions: Mapping[str, Any]) -> dict[str, Any]:
        """The method's entry of ``kernels.json``, with the ``regressions`` on each kernel."""
        train = self.blocks[TRAIN]
        ratio = ft_ratio(
            self.block(PRETRAIN, TRAIN),
            self.block(FT, TRAIN),
            labels_of(self.texts.train),
            self.train_logits,
        )
        return {
            "head_start": self.start.head_start,
            "head_rank": train.record["head_rank"],
            "head_norm": float(self.start.weight.norm()),
            "parameter_set": self.start.parameter_set,
            "parameters": train.record["parameters"],
            "ft_ratio": ratio.ratio,
            "kernels": {
                kernel: {**self._statistics(kernel), "regression": regressions[kernel]}
                for kernel in KERNELS
            },
            "layers": _parts(train.layers),
            "kinds": _parts(train.kinds),
            "certificate": train.certificate.as_record(),
            "products_error": train.products_error,
        }

    def _statistics(self, kernel: str) -> dict[str, Any]:
        train, table = self.blocks[TRAIN], self.block(kernel, TRAIN)
        if kernel == FT:
            spectrum = train.spectrum
        else:
            spectrum = kernel_spectrum(table, self.classes, symmetric=train.symmetric)
        return kernel_statistics(table, self.classes, spectrum=spectrum)

    def _logits(self, which: Block) -> Array:
        """f_0 of a block's rows."""
        features = self.blocks[which].row_features.numpy()
        bias = 0.0 if self.start.bias is None else self.start.bias.double().numpy()
        return np.asarray(features @ self.start.weight.double().numpy().T + bias)


def _parts(parts: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {
        name: {"trace": kernel_trace(part.numpy()), "frobenius_norm": frobenius_norm(part.numpy())}
        for name, part in parts.items()
    }


def dynamics(kernels: MethodKernels, subject: StudiedModel, most: int, device: torch.device) -> Any:
    """One step and many steps of gradient descent on ``most`` training texts, ready for JSON.

    Full-batch gradient descent on the summed cross-entropy, in float64, over the parameters that
    the method trains. ``first_order``: for each rate the relative error of the first-order change
    of the evaluation texts' logits and features (:class:`lpft.ntk.dynamics.FirstStep`).
    ``linearized``: after each number of steps the relative error of the change of logits that
    training in the kernel's linear model has (:mod:`lpft.ntk.dynamics`), and the mean NLL of
    both, in nats; None where real training diverges.

    Learning rates are those of the summed loss; ``largest_stable_rate`` is that of the linear
    model. As many evaluation texts as training texts are used, each class in proportion.
    """
    texts = kernels.texts
    train, evaluated = (draw_rows(labels_of(e), most) for e in (texts.train, texts.evaluation))
    model = _model_of(subject, kernels.start).to(device)
    tokens_train = subject.tokens(texts.train.select(train).texts)
    tokens_evaluated = subject.tokens(texts.evaluation.select(evaluated).texts)
    labels = labels_of(texts.train)[train]
    kernel = kernels.block(NTK, TRAIN)[train][:, :, train]
    stable = largest_stable_rate(kernel)
    step = FirstStep(model, tokens_train, labels)
    errors = step.errors(tokens_evaluated, [share * stable for share in RATE_SHARES])
    record: dict[str, Any] = {
        "rows": {"train": len(train), "eval": len(evaluated)},
        "largest_stable_rate": stable,
        "first_order": [vars(error) for error in errors],
        "linearized": None,
    }
    rate = TRAINING_SHARE * stable
    linear = linearized_training(
        kernel,
        kernels.block(NTK, EVALUATION)[evaluated][:, :, train],
        kernels.train_logits[train],
        kernels.evaluation_logits[evaluated],
        labels,
        rate=rate,
        steps=STEPS,
    )
    try:
        real = gradient_descent(
            model, tokens_train, labels, tokens_evaluated, rate=rate, steps=STEPS
        )
    except InputError as error:
        logger.warning("no training beside the linear one of %s: %s", kernels.start.name, error)
        return record
    record["linearized"] = {
        "rate": rate,
        "steps": list(STEPS),
        "train": _compared(linear, real, "train", texts.train, train),
        "eval": _compared(linear, real, "evaluated", texts.evaluation, evaluated),
    }
    return record


def _model_of(subject: StudiedModel, start: StartingPoint) -> nn.Module:
    """A copy of the encoder with the head of ``start``, in which only its parameters train."""
    model = copy.deepcopy(subject.classifier)
    head = trained_head(model)
    with torch.no_grad():
        head.weight.copy_(start.weight)
        if head.bias is not None and start.bias is not None:
            head.bias.copy_(start.bias)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name, parameter in model.encoder.named_parameters():
        parameter.requires_grad_(name in start.request.parameters)
    for parameter in head.parameters():
        parameter.requires_grad_(True)
    return model


def _compared(
    linear: LogitTrajectory,
    real: LogitTrajectory,
    which: str,
    examples: Examples,
    rows: NDArray[np.int64],
) -> dict[str, list[float | None]]:
    """The error of the change of logits, and both losses, after each recorded number of steps."""
    predicted, trained = getattr(linear, which), getattr(real, which)
    labels = labels_of(examples)[rows]
    return {
        "error": [
            relative_error(after - trained[0], guess - predicted[0])
            for after, guess in zip(trained, predicted, strict=True)
        ],
        "nll": [negative_log_likelihood(logits, labels) for logits in trained],
        "linearized_nll": [negative_log_likelihood(logits, labels) for logits in predicted],
    }


# The kernel along a training, beside that of its start.


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
