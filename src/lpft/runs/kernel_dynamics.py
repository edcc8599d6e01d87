"""Training as the kernel predicts it, beside what training really does, on a few texts."""

import copy
import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lpft.analysis.calibration import negative_log_likelihood
from lpft.data import Examples
from lpft.data.splits import draw_rows
from lpft.errors import InputError
from lpft.model.adapters import trained_head
from lpft.ntk.firstorder import FirstStep
from lpft.ntk.inputs import Subject
from lpft.ntk.linearized import (
    LogitTrajectory,
    gradient_descent,
    largest_stable_rate,
    linearized_training,
)
from lpft.runs.kernel_record import NTK, MethodKernels
from lpft.runs.kernel_starts import Start
from lpft.runs.kernel_texts import EVALUATION, TRAIN, labels_of

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]

RATE_SHARES = (1.0, 0.1, 0.01, 0.001)
"""Rates of the single step, as shares of the largest stable one of the linear model."""

TRAINING_SHARE = 0.1
"""Rate of the many steps, likewise: nearer to 1 the real model soon leaves the linear one."""

STEPS = (0, 1, 2, 5, 10, 20)


def dynamics(kernels: MethodKernels, subject: Subject, most: int, device: torch.device) -> Any:
    """One step and many steps of gradient descent on ``most`` training texts, ready for JSON.

    Full-batch gradient descent on the summed cross-entropy in float64, of all that the method
    trains. ``first_order``: for each rate the relative error of the first-order change of the
    evaluated texts' logits and features (:class:`lpft.ntk.firstorder.FirstStep`).
    ``linearized``: after each number of steps the relative error of the change of logits that
    training in the kernel's linear model has (:mod:`lpft.ntk.linearized`), and the mean NLL of
    both, in nats; None where the real training leaves the finite numbers.

    Rates are in units of the summed loss; ``largest_stable_rate`` is that of the linear model.
    As many evaluated texts are taken as there are training texts, each class in proportion.
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
    found: dict[str, Any] = {
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
        return found
    found["linearized"] = {
        "rate": rate,
        "steps": list(STEPS),
        "train": _compared(linear, real, "train", texts.train, train),
        "eval": _compared(linear, real, "evaluated", texts.evaluation, evaluated),
    }
    return found


def _model_of(subject: Subject, start: Start) -> nn.Module:
    """A copy of the encoder with the start's head, of which just the start's parameters train."""
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
    """Error of the change of logits, and both losses, after each recorded number of steps."""
    predicted, trained = getattr(linear, which), getattr(real, which)
    labels = labels_of(examples)[rows]
    return {
        "error": [
            _relative_error(after - trained[0], guess - predicted[0])
            for after, guess in zip(trained, predicted, strict=True)
        ],
        "nll": [negative_log_likelihood(logits, labels) for logits in trained],
        "linearized_nll": [negative_log_likelihood(logits, labels) for logits in predicted],
    }


def _relative_error(real: Array, predicted: Array) -> float | None:
    """``||real - predicted||_F / ||real||_F``, None where nothing changed."""
    size = float(np.linalg.norm(real))
    return None if size == 0 else float(np.linalg.norm(real - predicted)) / size
