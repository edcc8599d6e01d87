"""Closed forms of the empirical NTK's parts for a linear encoder, phi(x) = B x.

With logits ``f(x) = V B x + b`` the features' Jacobian in B is ``I_h`` times x, so every kernel is
an inner product of inputs times a fixed matrix. Shapes: inputs [N, d] and [M, d], head V [C, h].
"""

import numpy as np
from numpy.typing import NDArray

from lpft.errors import InputError

Array = NDArray[np.float64]


def pretrain_effective(features: Array, other: Array, *, head_bias: bool = True) -> Array:
    """P as N x M, which stands for that matrix times I_C: the share of the head's parameters.

    ``P(x, x') = <phi_0(x), phi_0(x')> + 1``, the 1 with a bias only. It knows the encoder by its
    features alone, so a low-rank adapter that starts at zero leaves it as it is.

    ``features`` [N, h], ``other`` [M, h].

    Raises:
        InputError: widths that differ.
    Source: Tomihari and Sato, NeurIPS 2024, Proposition 4.1.
    """
    _check_widths(features, other, "features")
    return features @ other.T + float(head_bias)


def ft_effective(head: Array, inputs: Array, other: Array) -> Array:
    """F of full fine-tuning as N x C x M x C: the share of the encoder's parameters B.

    ``F(x, x') = <x, x'> V V^T``.

    ``head`` V [C, h], ``inputs`` [N, d], ``other`` [M, d].

    Raises:
        InputError: widths that differ.
    Source: Tomihari and Sato, NeurIPS 2024, Proposition 4.1 for phi = B x.
    """
    _check_widths(inputs, other, "inputs")
    return np.einsum("nm,cd->ncmd", inputs @ other.T, head @ head.T)


def lora_ft_effective(head: Array, factor: Array, inputs: Array, other: Array) -> Array:
    """F of LoRA at its start as N x C x M x C, for ``phi(x) = (B_0 + B A) x`` with B = 0.

    ``F(x, x') = <A x, A x'> V V^T``: the gradient in A vanishes with B, the one in B is that of a
    linear encoder which reads A x. (PEFT's B A carries a factor alpha / r; F then carries its
    square.)

    ``head`` V [C, h], ``factor`` A [r, d], ``inputs`` [N, d], ``other`` [M, d].

    Raises:
        InputError: widths that differ.
    Source: Tomihari and Sato, NeurIPS 2024, Proposition 4.4.
    """
    _check_widths(inputs, factor, "inputs and the factor A")
    _check_widths(inputs, other, "inputs")
    return ft_effective(head, inputs @ factor.T, other @ factor.T)


def _check_widths(left: Array, right: Array, name: str) -> None:
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise InputError(
            f"{name}: expected two matrices of one width, found shapes {left.shape} and "
            f"{right.shape}"
        )
