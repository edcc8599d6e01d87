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

That counts twice what two training rows have in common. Regression on all rows does not:

    tau(x, n) = [K(x, .) (K + lambda I)^-1]_n (1 - p_n),

row n's part in the log odds at x: TRAK (Park et al., ICML 2023) with the kernel itself in place
of random projections of gradients, and the share of one row in the representer form of kernel
regression. It needs the kernel among the training rows.

In both, p_n is at the classifier's temperature. A fine-tuned classifier is sure of every row that
it has learnt; uncalibrated, ``1 - p_n`` is close to 0 for all of them and ranks them at random.
``benchmarks/explain.py`` compares the scores by the linear datamodeling score.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit, logsumexp, softmax
from torch import Tensor, nn

from lpft.analysis.inputs import short_repr
from lpft.data.examples import Examples, Label, Text
from lpft.data.tokens import Tokens
from lpft.errors import InputError, named
from lpft.files import readable_size
from lpft.model.adapters import is_bias
from lpft.model.inference import extract_features
from lpft.ntk.job import KernelJob
from lpft.ntk.memory import (
    default_budget,
    kernel_device,
    memory_in_use,
    parse_size,
)
from lpft.ntk.network import Network
from lpft.ntk.options import Options
from lpft.ntk.outputs import Batch
from lpft.ntk.plan import Plan
from lpft.ntk.storage import Pair
from lpft.ntk.studied import KernelRequest, StudiedModel, request_of
from lpft.settings.commands import InfluenceScore
from lpft.settings.methods import get_method

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

STRENGTH = 3.0
"""lambda of the regressions, in units of the mean of the kernel's diagonal; from 1 to 10 neither
measure of ``benchmarks/explain.py`` changes much."""

_SQUARES = 7
"""Matrices of the training rows' size, in float64, that are in memory at once."""
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
    # o_c = f_c - logsumexp of the others, so do_c/df_c = 1 and do_c/df_d = -softmax(others)_d.
    values = np.asarray(logits, dtype=np.float64)
    is_class = np.arange(values.shape[1]) == classes[:, None]
    other_logits = np.where(is_class, -np.inf, values)
    odds = values[is_class] - logsumexp(other_logits, axis=1)
    return odds, np.where(is_class, 1.0, -softmax(other_logits, axis=1))


@dataclass(frozen=True)
class RowKernel:
    """``K = head + encoder`` between K and N texts, K x N each: shares of the parameters."""

    head: Array
    encoder: Array

    @property
    def total(self) -> Array:
        return self.head + self.encoder


@dataclass(frozen=True)
class TextsWithGradients:
    """N texts, and all that the kernel K needs of them.

    ``tokens`` are theirs, ``features`` phi (N x h), ``gradient`` that of each text's log odds by
    the logits (N x C).
    """

    tokens: Tokens
    features: NDArray[np.floating]
    gradient: Array


@dataclass(frozen=True)
class _WeightedEncoder:
    """The encoder of a classifier, with each feature multiplied by a weight vector of its row.

    Their sum has the encoder's gradient of the row's log odds, so that the head of the
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
    """The kernels K among several sets of texts, in one pass over them.

    ``plan`` says what the passes cost; None where no parameter of the encoder trains, for then the
    kernels follow from the features.

    Args:
        request: the parameters that count; its ``weight`` is the head V of the logits.
        text_sets: by number.
        blocks: pairs of text sets: the rows and the columns of a kernel.

    Raises:
        InputError: as :class:`~lpft.ntk.job.KernelJob`.
    """

    def __init__(
        self,
        model: StudiedModel,
        request: KernelRequest,
        text_sets: Sequence[TextsWithGradients],
        blocks: tuple[Pair, ...],
        options: Options,
    ) -> None:
        self._request, self._text_sets, self._blocks = request, text_sets, blocks
        self._job: KernelJob | None = None
        if not request.parameters:
            return
        head = request.weight.detach().cpu().double()
        # The gradient of row n's log odds by its feature is V^T u_n (h). With phi_n multiplied by
        # it entry by entry, the sum of the entries has the gradient of the log odds, whatever n:
        # it is the output of one head of ones. So one kernel of rank 1 serves all rows, each with
        # an output of its own.
        gradients = np.concatenate([texts.gradient for texts in text_sets])
        weights = torch.from_numpy(gradients) @ head  # N x h
        ones = torch.ones(1, head.shape[1])
        numbers = np.cumsum([0, *(len(texts.tokens) for texts in text_sets)])
        self._job = KernelJob(
            _WeightedEncoder(model, weights),
            {_ROW: KernelRequest(ones, request.parameters)},
            [
                _with_row_numbers(texts.tokens, first)
                for texts, first in zip(text_sets, numbers[:-1].tolist(), strict=True)
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
            rows, columns = (self._text_sets[texts] for texts in block)
            head = self._head(rows, columns)
            encoder_share = np.zeros_like(head)
            if encoder is not None:
                encoder_share = encoder[block].ft_effective.numpy()[:, 0, :, 0]
            kernels[block] = RowKernel(head, encoder_share)
        return kernels

    def _head(self, rows: TextsWithGradients, columns: TextsWithGradients) -> Array:
        inner = np.zeros((len(rows.tokens), len(columns.tokens)))
        if self._request.head_trains:
            inner += rows.features.astype(np.float64) @ columns.features.T.astype(np.float64)
        if self._request.bias_trains:
            inner += 1.0
        return inner * (rows.gradient @ columns.gradient.T)


def _with_row_numbers(tokens: Tokens, first: int) -> Tokens:
    """The texts with their numbers, from ``first`` on, in a column of their own."""
    numbers = np.repeat(np.arange(first, first + len(tokens)), tokens.lengths)
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


def regressed(
    kernel: Array, train_kernel: Array, residuals: Array, strength: float = STRENGTH
) -> Array:
    """``[K(x, .) (K + lambda I)^-1]_n (1 - p_n)``, K x N: TRAK with the exact kernel.

    Args:
        kernel: K(x, n), K x N.
        train_kernel: K of the training rows, N x N.
        residuals: as for :func:`first_order`.
        strength: lambda, as a share of the mean of the diagonal of ``train_kernel``.
    """
    ridge = strength * np.trace(train_kernel) / len(train_kernel)
    return cho_solve(_ridge_factor(train_kernel, ridge), kernel.T).T * residuals


def left_out_margins(
    train_kernel: Array, gradient: Array, labels: NDArray[np.int64], strength: float = STRENGTH
) -> Array:
    """How well the other rows support each row's label, minus the mean of its class: N margins.

    Kernel ridge regression is fitted to a log odds of 1 for each row's label, with an intercept for
    each class that is not penalised. Fitted without row n, it gives that row the margin

        m_n = 1 - (G 1)_n / G_nn,    G = M - M U (U^T M U)^+ U^T M,    M = (K + lambda I)^-1,

    with U the gradient by the logits (Cook and Weisberg, 1982, chapter 2). The mean margin of the
    class is subtracted, since a rare class has low margins whatever its labels.

    Args:
        train_kernel: K of the training rows, N x N.
        gradient: U, N x C, as of :func:`log_odds`.
        labels: class indices, N.
        strength: lambda, as a share of the mean of the kernel's diagonal once the intercepts are
            projected out: features that hardly differ leave little of it.
    """
    # The projector I - U U^+ takes the intercepts' part out of the kernel.
    projector = np.eye(len(train_kernel)) - gradient @ np.linalg.pinv(gradient)
    ridge = strength * np.trace(projector @ train_kernel @ projector) / len(train_kernel)
    inverse = cho_solve(_ridge_factor(train_kernel, ridge), np.eye(len(train_kernel)))
    # G = M - M U (U^T M U)^+ U^T M, in the place of M.
    weighted_gradient = gradient.T @ inverse
    inverse -= (
        weighted_gradient.T
        @ np.linalg.pinv(weighted_gradient @ gradient, hermitian=True)
        @ weighted_gradient
    )
    margins = 1 - inverse.sum(1) / np.diag(inverse)
    counts = np.bincount(labels)
    means = np.bincount(labels, weights=margins) / np.maximum(counts, 1)
    return margins - means[labels]


def _ridge_factor(train_kernel: Array, ridge: float) -> tuple[Array, bool]:
    """The Cholesky factor of ``K + ridge I``."""
    ridged = train_kernel.copy()
    ridged[np.diag_indices_from(ridged)] += ridge
    return cho_factor(ridged, lower=True)


@dataclass(frozen=True)
class Influence:
    """The contributions of N training rows to K predictions, and doubts about the rows' labels.

    Attributes:
        classes: the predicted class of each text, K indices; ``log_odds`` of it, K, before the
            temperature.
        head: scores by the head's parameters, K x N: positive where the row supports the
            prediction; ``encoder`` those by the encoder's. They add up to :attr:`total`.
        row_log_odds: of the label of each training row, N.
        left_out: :func:`left_out_margins` of the training rows, N: the lowest are those whose
            labels look wrong. None where labels were not judged.
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

    __repr__ = short_repr

    @property
    def total(self) -> Array:
        return self.head + self.encoder


@dataclass(frozen=True)
class TrainedRows:
    """N training rows: their tokens, class indices, and weights in the loss (None: all 1).

    ``features`` gets those of the trained encoder (N x h) from elsewhere; None computes them.
    """

    tokens: Tokens
    labels: NDArray[np.int64]
    weights: Array | None = None
    features: Callable[[], NDArray[np.float32]] | None = None


class InfluenceJob:
    """The influence of training rows on predictions of texts, and of each on its own label.

    ``plan`` says what the kernel will cost; None where it follows from the features.

    Args:
        model: the trained classifier, with its adapter unmerged if it has one.
        request: its head, and the parameters that its training moved.
        texts: those whose predictions to explain; None to judge labels only.
        score: ``regression`` (:func:`regressed`) or ``first-order`` (:func:`first_order`).
        labels: whether to judge the training rows' labels.
        temperature: that of the classifier.

    Raises:
        InputError: the score is unknown, there are too few rows to judge labels, or as
            :class:`~lpft.ntk.job.KernelJob`.
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
        temperature: float = 1.0,
    ) -> None:
        if score not in get_args(InfluenceScore):
            expected = " or ".join(get_args(InfluenceScore))
            raise InputError(f"{named('score')} {score!r} is unknown: expected {expected}")
        rows, classes = len(train.tokens), len(request.weight)
        if labels and rows <= classes:
            # The intercepts of the classes alone can then fit all labels, whatever the kernel is.
            raise InputError(
                f"labels are judged by the other rows: expected more training rows than the "
                f"{classes} classes, found {rows}"
            )
        self._labels = labels
        self._needs_train_kernel = labels or (texts is not None and score == "regression")
        if self._needs_train_kernel:
            _check_memory(len(train.tokens), options)
        self._train, self._score, self._temperature = train, score, temperature
        self._logits, row_features = _logits_and_features(
            model, train.tokens, options.device, train.features
        )
        self._odds, self._gradient = log_odds(self._logits, train.labels)
        text_sets = [TextsWithGradients(train.tokens, row_features, self._gradient)]
        self._text_logits = np.zeros((0, self._logits.shape[1]))
        self._classes, self._text_odds = np.zeros(0, dtype=np.int64), np.zeros(0)
        if texts is not None:
            self._text_logits, text_features = _logits_and_features(model, texts, options.device)
            self._classes = self._text_logits.argmax(axis=1)
            self._text_odds, gradient = log_odds(self._text_logits, self._classes)
            text_sets.append(TextsWithGradients(texts, text_features, gradient))
        # Text set 0 is that of the training rows, 1 that of the texts to explain.
        blocks = ((1, 0),) * (texts is not None) + ((0, 0),) * self._needs_train_kernel
        self._kernels = RowKernels(model, request, text_sets, blocks, options)

    @property
    def plan(self) -> Plan | None:
        return self._kernels.plan

    def run(self) -> Influence:
        kernels = self._kernels.run()
        odds, temperature = self._odds, self._temperature
        # 1 - p_n with the temperature: without it these are all near 0 for a sure classifier.
        scaled, _ = log_odds(self._logits / temperature, self._train.labels)
        residuals = expit(-scaled)
        if self._train.weights is not None:
            residuals *= self._train.weights
        train_kernel = kernels[0, 0].total if self._needs_train_kernel else None
        left_out = None
        if self._labels:
            assert train_kernel is not None
            left_out = left_out_margins(train_kernel, self._gradient, self._train.labels)
        parts = {part: np.zeros((0, len(odds))) for part in ("head", "encoder")}
        # Both scores are linear in K(x, n), so the shares of head and encoder are scored apart.
        for part in parts if (1, 0) in kernels else ():
            kernel = getattr(kernels[1, 0], part)
            if self._score == "first-order":
                parts[part] = first_order(kernel, residuals)
            else:
                assert train_kernel is not None
                parts[part] = regressed(kernel, train_kernel, residuals)
        return Influence(
            classes=self._classes,
            log_odds=self._text_odds,
            **parts,
            row_log_odds=odds,
            left_out=left_out,
            logits=self._logits,
            text_logits=self._text_logits,
        )


def trained_request(model: StudiedModel, method: str) -> KernelRequest:
    """The model's own head over the parameters that a method trains by the loss of the logits.

    Linear probing trains the head alone. Contrastive tuning moves the encoder by a loss of pairs of
    features, about which the kernel of the logits says nothing: its head is a linear probe.

    Raises:
        InputError: the method's adapter is merged into the weights.
    """
    tuning = get_method(method)
    if tuning.adapter is not None:
        raise InputError(
            f"the parameters that {tuning.name} trained are merged into the weights: train with "
            "lpft train, which keeps them apart, and give its folder to lpft explain"
        )
    request = request_of(model)
    if not tuning.fine_tunes_head:
        return replace(request, parameters=frozenset())
    if tuning.trained == "bias":
        return replace(request, parameters=frozenset(filter(is_bias, request.parameters)))
    return request


@dataclass(frozen=True)
class Explanation:
    """The influence of training rows, with the rows and the texts themselves.

    ``influence`` has all scores as arrays, K texts x N rows.
    """

    influence: Influence
    texts: Sequence[Text]
    rows: Examples
    classes: tuple[Label, ...]

    def __repr__(self) -> str:
        return f"Explanation({len(self.texts)} texts by {len(self.rows)} training rows)"

    def table(self, number: int = 0, count: int = 5) -> "pd.DataFrame":
        """The rows that most support a text's prediction, then those that most oppose it.

        Columns: ``row`` (its number, from 1), ``label``, ``score``, ``head``, ``encoder``,
        ``text``. ``number`` is the text's, from 0; there are at most ``count`` rows of each kind.

        Raises:
            InputError: there is no such text.
        """
        influence = self.influence
        if not 0 <= number < len(self.texts):
            raise InputError(f"number={number}: expected a text from 0 to {len(self.texts) - 1}")
        supporting, opposing = extremes(influence.total[number], count)
        chosen = [*supporting, *opposing]
        return self._table(
            chosen,
            score=influence.total[number, chosen],
            head=influence.head[number, chosen],
            encoder=influence.encoder[number, chosen],
        )

    def label_errors(self, count: int = 20) -> "pd.DataFrame":
        """The ``count`` rows whose labels look wrong, the most doubtful first.

        Columns: ``row``, ``label``, ``suggested`` (the classifier's most probable other class),
        ``margin`` (:func:`left_out_margins`), ``text``.

        Raises:
            InputError: the labels were not judged.
        """
        if self.influence.left_out is None:
            raise InputError("the labels were not judged: explain with label_errors=True")
        chosen, suggested = doubtful(self.influence, self.labels, count)
        return self._table(
            chosen,
            suggested=[self.classes[label] for label in suggested],
            margin=self.influence.left_out[chosen],
        )

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class indices of the training rows."""
        assert self.rows.labels is not None
        return self.rows.labels

    def _table(self, chosen: Sequence[int], **columns: Any) -> "pd.DataFrame":
        import pandas as pd

        return pd.DataFrame(
            {
                "row": self.rows.rows[chosen],
                "label": [self.classes[label] for label in self.labels[chosen]],
                **columns,
                "text": [self.rows.texts[row] for row in chosen],
            }
        )


def extremes(scores: Array, count: int) -> tuple[list[int], list[int]]:
    """At most ``count`` rows of the largest scores above 0, and of the smallest below 0."""
    order = np.argsort(-scores, kind="stable").tolist()
    supporting = [row for row in order[:count] if scores[row] > 0]
    return supporting, [row for row in order[::-1][:count] if scores[row] < 0]


def doubtful(
    influence: Influence, labels: NDArray[np.int64], count: int
) -> tuple[list[int], NDArray[np.int64]]:
    """The ``count`` rows with the lowest margins, and the most probable other class of each."""
    assert influence.left_out is not None
    chosen = np.argsort(influence.left_out, kind="stable")[:count]
    is_label = np.arange(influence.logits.shape[1]) == labels[:, None]
    other_logits = np.where(is_label, -np.inf, influence.logits)
    return chosen.tolist(), other_logits[chosen].argmax(axis=1)


def _check_memory(rows: int, options: Options) -> None:
    """Refuse a kernel among training rows that, with the systems to solve, exceeds the memory.

    Raises:
        InputError: they do not.
    """
    cpu = torch.device("cpu")
    budget = default_budget(cpu) if options.memory is None else parse_size(options.memory)
    used = memory_in_use(cpu)
    free = budget - used
    if free <= 0:
        raise InputError(
            f"{named('memory')} {options.memory} is less than the {readable_size(used)} that the "
            "process takes already: give more, or leave it out"
        )
    if _SQUARES * 8 * rows**2 > free:
        most = max(2, int((free / _SQUARES / 8) ** 0.5))
        raise InputError(
            f"the kernel among {rows:,} training rows does not fit: it and the systems it solves "
            f"take {readable_size(_SQUARES * 8 * rows**2)}, and {readable_size(free)} are free; "
            f"take at most {most:,} rows (lpft explain --max-rows), give more {named('memory')}, "
            f"or use {named('score')} first-order without judging labels"
        )


def _logits_and_features(
    model: StudiedModel,
    tokens: Tokens,
    device: str | torch.device,
    known_features: Callable[[], NDArray[np.float32]] | None = None,
) -> tuple[Array, NDArray[np.float32]]:
    """Logits (N x C) of texts before the temperature, and their features (N x h)."""
    if known_features is not None:
        features = known_features()
    else:
        features = extract_features(
            model.classifier, tokens, device=kernel_device(device), description="reading texts"
        )
    head = model.head
    weight = head.weight.detach().double().cpu().numpy()
    logits = features.astype(np.float64) @ weight.T
    if head.bias is not None:
        logits = logits + head.bias.detach().double().cpu().numpy()
    return logits, features
