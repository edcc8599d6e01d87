"""A path of kernels along a training: how far each is from the start, and the kernel regime.

In the kernel regime the network trains as the model that is linear in its parameters, whose kernel
is that of the start: it fits a fixed kernel and learns no features (Jacot et al., NeurIPS 2018; Lee
et al., NeurIPS 2019). Fine-tuning may or may not stay in it: Malladi et al. (ICML 2023) ask for
linearisation and for fixed features, and Fort et al. (NeurIPS 2020) measure how soon kernels move.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpft.analysis.inputs import as_array
from lpft.errors import InputError

MOST_DRIFT = 0.1
"""Drift of the kernel up to which its training counts as one of a fixed kernel."""
MOST_ERROR = 0.1
"""Relative error of the linear model's change of logits up to which it stands for the real one."""

Answer = Literal["yes", "no", "unknown"]


def drift(kernel: ArrayLike, start: ArrayLike) -> float | None:
    """How far a kernel is from that of the start: ``||Theta_t - Theta_0||_F / ||Theta_0||_F``.

    Unlike an alignment it counts a kernel that only grows as well. None where that of the start is
    zero.

    ``kernel``, ``start`` of one shape, of the same samples in the same order.

    Raises:
        InputError: the shapes differ.
    Source: Malladi et al., ICML 2023 (fixed features).
    """
    after, before = (as_array(one, "kernel", np.float64) for one in (kernel, start))
    if after.shape != before.shape:
        raise InputError(
            f"drift: expected kernels of one shape, found {after.shape} and {before.shape}; "
            "compute them on the same samples"
        )
    size = float(np.linalg.norm(before.ravel()))
    return None if size == 0 else float(np.linalg.norm((after - before).ravel())) / size


def label_kernel(labels: ArrayLike) -> NDArray[np.float64]:
    """The kernel that labels themselves have, N x N: 1 for two samples of one class, otherwise 0.

    It is ``Y Y^T`` of the one-hot labels Y; a kernel that is aligned with it tells classes apart.

    Source: Cortes, Mohri and Rostamizadeh, JMLR 2012.
    """
    classes = as_array(labels, "labels")
    return np.asarray(classes[:, None] == classes[None, :], dtype=np.float64)


@dataclass(frozen=True)
class Regime:
    """Whether a training stayed in the kernel regime.

    ``until`` is the last epoch up to which it did; ``drift`` and ``error`` are the largest over all
    epochs.
    """

    answer: Answer
    until: float
    drift: float | None
    error: float | None


def kernel_regime(
    epochs: Sequence[float],
    drifts: Sequence[float | None],
    errors: Mapping[str, Sequence[float | None]],
) -> Regime:
    """Whether a training stayed in the kernel regime, from its start to its last epoch.

    It did where at every epoch both hold:

    - fixed features: the :func:`drift` of the kernel P + F is at most 0.1. With the kernel of the
      start in ``df/dt = Theta_t r`` the velocity of the logits is wrong by at most
      ``||Theta_t - Theta_0||_2 ||r|| <= 0.1 ||Theta_0||_F ||r||``: a tenth of what the kernel can
      move at all;
    - linearisation: the change of logits that the linear model predicts at the trained weights,
      ``J_0 (theta_t - theta_0)``, has a relative error of at most 0.1, so that its squared error is
      1 % of the squared change (R^2 above 0.99).

    Neither implies the other. The kernel may turn in directions in which no weight moved, and a
    change that is quadratic may cancel in the kernel's norm. To the leading order an error e of the
    outputs goes with a change of 2 e of the Jacobian along the path, so up to 4 e of the kernel:
    the drift is usually the first to fail. Both limits are conventions of one size; the numbers are
    reported beside them.

    Args:
        epochs: those of the checkpoints, beginning with the start.
        drifts: at each epoch; None where the kernel of the start is zero.
        errors: by set of texts, at each epoch; None where nothing changed. The largest decides.

    Returns:
        ``unknown`` where some number is missing after the start and no other one is above its
        limit.
    """
    worst = [_largest([errors[name][place] for name in errors]) for place in range(len(epochs))]
    later = range(1, len(epochs))
    failed = [place for place in later if _above(drifts[place], MOST_DRIFT)]
    failed += [place for place in later if _above(worst[place], MOST_ERROR)]
    known = [drifts[place] is not None and worst[place] is not None for place in later]
    answer: Answer = "no" if failed else "yes" if known and all(known) else "unknown"
    until = epochs[min(failed) - 1] if failed else epochs[-1]
    return Regime(answer, until, _largest(drifts[1:]), _largest(worst[1:]))


def _largest(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _above(value: float | None, limit: float) -> bool:
    return value is not None and not value <= limit
