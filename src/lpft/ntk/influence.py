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

The first-order score counts rows that say the same twice over. Training to the end does not: there
removing row n changes the log odds by what the regression on all rows gives it,

    tau(x, n) = [K(x, .) (K + lambda I)^-1]_n (1 - p_n),

TRAK (Park et al., ICML 2023) with the kernel itself in place of random projections of gradients,
and the representer view of kernel regression. It needs the kernel among all training rows.
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
from lpft.ntk.job import KernelJob, Options
from lpft.ntk.network import Network
from lpft.ntk.outputs import Batch
from lpft.ntk.storage import Pair
from lpft.ntk.studied import KernelRequest, StudiedModel

Array = NDArray[np.float64]

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
    def plan(self) -> Any:
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


def first_order(kernel: Array, odds: Array, weights: Array | None = None) -> Array:
    """``(1 - p_n) w_n K(x, n)``, K x N: TracIn at the last checkpoint.

    Args:
        kernel: K(x, n), K x N.
        odds: the log odds of the label of each training row, N.
        weights: of training rows in the loss, N.
    """
    residuals = expit(-odds)
    return kernel * (residuals if weights is None else residuals * weights)


def regressed(
    kernel: Array, among: Array, odds: Array, strength: float, weights: Array | None = None
) -> Array:
    """``[K(x, .) (K + lambda I)^-1]_n (1 - p_n) w_n``, K x N: TRAK with the exact kernel.

    Args:
        kernel: K(x, n), K x N.
        among: K of the training rows, N x N.
        strength: lambda, as a share of the mean of the diagonal of ``among``.
    """
    factor = cho_factor(_ridge(among, strength), lower=True)
    return first_order(cho_solve(factor, kernel.T).T, odds, weights)


def left_out_odds(among: Array, odds: Array, strength: float) -> Array:
    """The log odds of each row's label after training without the row, N, to second order.

    One Newton step of the objective ``sum_n log(1 + exp -o_n) + lambda ||theta - theta_0||^2 / 2``
    with the log odds linear in the parameters: with ``w_n = p_n (1 - p_n)`` and
    ``h = diag(K (W K + lambda I)^-1)``,

        o_n - h_n (1 - p_n) / (1 - h_n w_n).

    Source: approximate leave-one-out (Rad and Maleki, JRSS B 2020; Koh and Liang, ICML 2017).
    """
    probability = expit(odds)
    curvature = probability * (1 - probability)
    size = strength * np.trace(among) / len(among)
    # h = diag(K) - diag(K S (lambda + S K S)^-1 S K) over lambda, S = sqrt(W): symmetric.
    root = np.sqrt(curvature)
    inner = root[:, None] * among * root
    inner[np.diag_indices_from(inner)] += size
    right = root[:, None] * among
    solved = cho_solve(cho_factor(inner, lower=True), right)
    leverage = (np.diag(among) - (right * solved).sum(0)) / size
    return odds - leverage * (1 - probability) / np.maximum(1 - leverage * curvature, 1e-12)


def _ridge(among: Array, strength: float) -> Array:
    ridged = among.copy()
    ridged[np.diag_indices_from(ridged)] += strength * np.trace(among) / len(among)
    return ridged
