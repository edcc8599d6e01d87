"""Which training rows a prediction rests on, by the empirical NTK at the trained model.

The quantity explained is the log odds of a class c,

    o_c(x) = f_c(x) - log sum_(d != c) exp f_d(x),

so that the cross-entropy of a row n with label y is ``log(1 + exp -o_y(x_n))`` and its derivative
by the log odds ``-(1 - p_n)``, with ``p_n`` the probability of the label. One step of gradient
descent on row n alone, at the rate eta, changes the log odds at x to first order by

    eta (1 - p_n) K(x, n),    K(x, n) = <grad o_c(x), grad o_y(x_n)>,

the score of TracIn at the last checkpoint (Pruthi et al., NeurIPS 2020). In terms of the NTK it is
``u_x^T Theta(x, x_n) (e_y - p(x_n))`` with ``u_x`` the gradient of o_c by the logits. K has a part
of the head, ``(<phi(x), phi(x_n)> + 1) <u_x, u_n>``, and a part of the encoder, and takes one
backward pass for each text however many classes there are.

That counts what two rows have in common twice. The regression on all rows at once does not:

    tau(x, n) = [K(x, .) (K + lambda I)^-1]_n (1 - p_n),

what the log odds at x owe to row n: TRAK (Park et al., ICML 2023) with the kernel itself in place
of random projections of gradients, and the share of one row in the representer form of kernel
regression. It needs the kernel among the training rows.

In both, p_n is at the classifier's temperature. A fine-tuned classifier is sure of every row that
it has learnt; uncalibrated, ``1 - p_n`` is close to 0 for all of them and ranks them by chance.
``benchmarks/explain.py`` compares the scores by the linear datamodeling score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit, logsumexp, softmax
from torch import Tensor, nn

from lpft.data.tokens import Tokens
from lpft.model.inference import extract_features, resolve_device
from lpft.ntk.job import KernelJob, Options
from lpft.ntk.network import Network
from lpft.ntk.outputs import Batch
from lpft.ntk.plan import Plan
from lpft.ntk.storage import Pair
from lpft.ntk.studied import KernelRequest, StudiedModel
from lpft.settings import Device
from lpft.settings.explanations import InfluenceScore

Array = NDArray[np.float64]

STRENGTH = 1.0
"""lambda of the regression, as a share of the mean of the kernel's diagonal; from 0.3 to 3 the
linear datamodeling score hardly changes."""
LEFT_OUT_STRENGTH = 10.0
"""The same of :func:`left_out_margins`."""

_ROW = "row"
"""The column of tokens that says which row's gradient is meant: its number, at every token."""


def log_odds(logits: NDArray[np.floating], classes: NDArray[np.int64]) -> tuple[Array, Array]:
    """``o_c`` of N rows (N), and its gradient by the logits (N x C).

    The gradient is 1 at the class and minus the softmax over the others elsewhere; its entries sum
    to 0.

    Args:
        logits: N x C, with C of at least 2.
        classes: the class c of each row, N indices.
    """
    values = np.asarray(logits, dtype=np.float64)
    chosen = np.arange(values.shape[1]) == classes[:, None]
    others = np.where(chosen, -np.inf, values)
    odds = values[chosen] - logsumexp(others, axis=1)
    return odds, np.where(chosen, 1.0, -softmax(others, axis=1))


@dataclass(frozen=True)
class RowKernel:
    """``K = head + encoder`` between K and N texts, K x N each: shares of the parameters."""

    head: Array
    encoder: Array

    @property
    def total(self) -> Array:
        return self.head + self.encoder


@dataclass(frozen=True)
class Side:
    """N texts with what is explained of each.

    ``tokens`` are theirs, ``features`` phi (N x h), ``gradient`` that of each one's output by the
    logits (N x C).
    """

    tokens: Tokens
    features: NDArray[np.floating]
    gradient: Array


@dataclass(frozen=True)
class _Weighted:
    """The encoder of a classifier, each feature times a weight of its row's own.

    Their sum is a row's output up to what does not depend on the encoder, so that the head of the
    kernel is a row of ones, of rank 1.
    """

    model: StudiedModel
    weights: Tensor
    head: None = None
    prefix: str = "encoder."
    head_name: str = ""

    @property
    def network(self) -> Network:
        inner, weights = self.model.network, self.weights

        def features(root: nn.Module, batch: Batch) -> Tensor:
            phi = inner.outputs(root, {name: ids for name, ids in batch.items() if name != _ROW})
            # Padding is 0, and a text may be cut: any of its tokens gives the number.
            return phi * weights.to(phi)[batch[_ROW].amax(1)]

        return replace(inner, outputs=features)

    def read(self, inputs: Any) -> Tokens:
        assert isinstance(inputs, Tokens)
        return inputs


class RowKernels:
    """The kernels K among several sides, in one pass over their texts.

    ``plan`` says what the passes cost; None where no parameter of the encoder trains, for then the
    kernels follow from the features.

    Args:
        request: the parameters that count; its ``weight`` is the head V of the logits.
        sides: lists of texts, by number.
        blocks: pairs of sides: the rows and the columns of a kernel.

    Raises:
        InputError: as :class:`~lpft.ntk.job.KernelJob`.
    """

    def __init__(
        self,
        model: StudiedModel,
        request: KernelRequest,
        sides: Sequence[Side],
        blocks: tuple[Pair, ...],
        options: Options,
    ) -> None:
        self._request, self._sides, self._blocks = request, sides, blocks
        self._job: KernelJob | None = None
        if not request.parameters:
            return
        head = request.weight.detach().cpu().double()
        gradients = np.concatenate([side.gradient for side in sides])
        weights = torch.from_numpy(gradients) @ head
        ones = torch.ones(1, head.shape[1])
        numbers = np.cumsum([0, *(len(side.tokens) for side in sides)])
        self._job = KernelJob(
            _Weighted(model, weights),
            {_ROW: KernelRequest(ones, request.parameters)},
            [
                _numbered(side.tokens, first)
                for side, first in zip(sides, numbers[:-1].tolist(), strict=True)
            ],
            blocks,
            options,
        )

    @property
    def plan(self) -> Plan | None:
        return None if self._job is None else self._job.plan

    def run(self) -> Mapping[Pair, RowKernel]:
        """The kernel of each block."""
        encoder = None if self._job is None else self._job.run()[_ROW]
        kernels = {}
        for block in self._blocks:
            rows, columns = (self._sides[side] for side in block)
            head = self._head(rows, columns)
            of_encoder = np.zeros_like(head)
            if encoder is not None:
                of_encoder = encoder[block].ft_effective.numpy()[:, 0, :, 0]
            kernels[block] = RowKernel(head, of_encoder)
        return kernels

    def _head(self, rows: Side, columns: Side) -> Array:
        inner = np.zeros((len(rows.tokens), len(columns.tokens)))
        if self._request.head_trains:
            inner += rows.features.astype(np.float64) @ columns.features.T.astype(np.float64)
        if self._request.bias_trains:
            inner += 1.0
        return inner * (rows.gradient @ columns.gradient.T)


def _numbered(tokens: Tokens, first: int) -> Tokens:
    """The texts with their numbers, from ``first`` on, in a column of their own."""
    numbers = [[first + row] * int(length) for row, length in enumerate(tokens.lengths)]
    return replace(
        tokens,
        columns={**tokens.columns, _ROW: numbers},
        pad_values={**tokens.pad_values, _ROW: 0},
    )


def first_order(kernel: Array, residuals: Array) -> Array:
    """``K(x, n) (1 - p_n)``, K x N: TracIn at the last checkpoint.

    Args:
        kernel: K(x, n), K x N.
        residuals: ``1 - p_n`` of each training row, N, times its weight in the loss.
    """
    return kernel * residuals


def regressed(kernel: Array, among: Array, residuals: Array, strength: float = STRENGTH) -> Array:
    """``[K(x, .) (K + lambda I)^-1]_n (1 - p_n)``, K x N: TRAK with the exact kernel.

    Args:
        kernel: K(x, n), K x N.
        among: K of the training rows, N x N.
        residuals: as for :func:`first_order`.
        strength: lambda, as a share of the mean of the diagonal of ``among``.
    """
    return cho_solve(_ridged(among, strength), kernel.T).T * residuals


def left_out_margins(among: Array, strength: float = LEFT_OUT_STRENGTH) -> Array:
    """What kernel ridge regression on the other rows gives each row, N: 1 is its label's target.

    The targets are 1 for the log odds of every row's own label, so that below 0 the other rows
    speak for another label. With ``G = (K~ + lambda I)^-1`` and ``K~`` the kernel of gradients of
    length 1, so that all rows count alike,

        m_n = 1 - (G 1)_n / G_nn,

    the closed form of N regressions with one row left out (Cook and Weisberg, 1982).

    Args:
        among: K of the training rows, N x N.
        strength: lambda.
    """
    lengths = np.sqrt(np.maximum(np.diag(among), np.finfo(float).tiny))
    inverse = cho_solve(_ridged(among / np.outer(lengths, lengths), strength), np.eye(len(among)))
    return 1 - inverse.sum(1) / np.diag(inverse)


def _ridged(among: Array, strength: float) -> tuple[Array, bool]:
    """The Cholesky factor of ``K + lambda I``."""
    ridged = among.copy()
    ridged[np.diag_indices_from(ridged)] += strength * np.trace(among) / len(among)
    return cho_factor(ridged, lower=True)


@dataclass(frozen=True)
class Influence:
    """What the N training rows contribute to K predictions, and which of their labels look wrong.

    Attributes:
        classes: the predicted class of each text, K indices; ``log_odds`` of it, K, before the
            temperature.
        head: scores by the head's parameters, K x N: positive where the row speaks for the
            prediction; ``encoder`` those by the encoder's. They add up to :attr:`total`.
        row_log_odds: of the label of each training row, N.
        left_out: :func:`left_out_margins` of the training rows, N: below 0 the others speak for
            another label. None where the kernel among them was not computed.
        logits: of the training rows, N x C, and ``text_logits`` of the texts, K x C.
    """

    classes: NDArray[np.int64]
    log_odds: Array
    head: Array
    encoder: Array
    row_log_odds: Array
    left_out: Array | None
    logits: Array
    text_logits: Array

    @property
    def total(self) -> Array:
        return self.head + self.encoder


@dataclass(frozen=True)
class TrainedRows:
    """N training rows: their tokens, class indices, and weights in the loss (None: all 1)."""

    tokens: Tokens
    labels: NDArray[np.int64]
    weights: Array | None = None


class InfluenceJob:
    """The influence of training rows on predictions of texts, and of each on its own label.

    ``plan`` says what the kernel will cost; None where it follows from the features.

    Args:
        model: the trained classifier, with its adapter apart where it has one.
        request: its head, and the parameters that its training moved.
        texts: those to explain; None for labels alone.
        score: ``regression`` (:func:`regressed`) or ``first-order`` (:func:`first_order`).
        labels: whether to judge the training rows' labels.

    Raises:
        InputError: as :class:`~lpft.ntk.job.KernelJob`.
    """

    def __init__(
        self,
        model: StudiedModel,
        request: KernelRequest,
        train: TrainedRows,
        texts: Tokens | None,
        options: Options,
        *,
        score: InfluenceScore = "regression",
        labels: bool = False,
    ) -> None:
        self._train, self._score = train, score
        self._temperature = float(model.classifier.config.temperature)
        self._logits, of_rows = _read(model, train.tokens, options.device)
        self._odds, gradient = log_odds(self._logits, train.labels)
        sides = [Side(train.tokens, of_rows, gradient)]
        self._text_logits = np.zeros((0, self._logits.shape[1]))
        self._classes, self._text_odds = np.zeros(0, dtype=np.int64), np.zeros(0)
        if texts is not None:
            self._text_logits, of_texts = _read(model, texts, options.device)
            self._classes = self._text_logits.argmax(axis=1)
            self._text_odds, gradient = log_odds(self._text_logits, self._classes)
            sides.append(Side(texts, of_texts, gradient))
        self._among = labels or (texts is not None and score == "regression")
        blocks = ((1, 0),) * (texts is not None) + ((0, 0),) * self._among
        self._kernels = RowKernels(model, request, sides, blocks, options)

    @property
    def plan(self) -> Plan | None:
        return self._kernels.plan

    def run(self) -> Influence:
        kernels = self._kernels.run()
        odds, temperature = self._odds, self._temperature
        scaled, _ = log_odds(self._logits / temperature, self._train.labels)
        residuals = expit(-scaled)
        if self._train.weights is not None:
            residuals *= self._train.weights
        among = kernels[0, 0].total if self._among else None
        parts = {part: np.zeros((0, len(odds))) for part in ("head", "encoder")}
        for part in parts if (1, 0) in kernels else ():
            kernel = getattr(kernels[1, 0], part)
            if self._score == "first-order":
                parts[part] = first_order(kernel, residuals)
            else:
                assert among is not None
                parts[part] = regressed(kernel, among, residuals)
        return Influence(
            classes=self._classes,
            log_odds=self._text_odds,
            **parts,
            row_log_odds=odds,
            left_out=None if among is None else left_out_margins(among),
            logits=self._logits,
            text_logits=self._text_logits,
        )


def _read(model: StudiedModel, tokens: Tokens, device: Device) -> tuple[Array, NDArray[np.float32]]:
    """Logits (N x C) of texts before the temperature, and their features (N x h)."""
    features = extract_features(
        model.classifier, tokens, device=resolve_device(device), description="reading texts"
    )
    head = model.head
    weight = head.weight.detach().double().cpu().numpy()
    logits = features.astype(np.float64) @ weight.T
    if head.bias is not None:
        logits = logits + head.bias.detach().double().cpu().numpy()
    return logits, features
