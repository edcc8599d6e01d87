"""An empirical NTK and what vouches for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lpft.ntk.statistics import Spectrum, asymmetry, kernel_spectrum


@dataclass(frozen=True)
class CheckedEntry:
    """An entry of F recomputed by plain autograd: ``F[(n, c), (m, d)]`` both ways."""

    row: int
    row_class: int
    column: int
    column_class: int
    engine: float
    autograd: float
    scale: float
    """``||grad f_c(x_n)|| ||grad f_d(x_m)||``, what an entry can be at most."""

    @property
    def relative_error(self) -> float:
        """The difference, relative to the largest value that the entry could have."""
        return abs(self.engine - self.autograd) / self.scale if self.scale > 0 else 0.0


@dataclass(frozen=True)
class Certificate:
    """What a kernel is checked by; eigenvalues are those of F where it is square and symmetric.

    ``asymmetry`` is that of :func:`lpft.ntk.statistics.asymmetry`, None of a kernel that is not
    symmetric, as the eigenvalues are.
    """

    asymmetry: float | None
    smallest_eigenvalue: float | None
    largest_eigenvalue: float | None
    entries: tuple[CheckedEntry, ...]

    @property
    def largest_relative_error(self) -> float | None:
        return max((entry.relative_error for entry in self.entries), default=None)

    def as_record(self) -> dict[str, Any]:
        """The certificate as JSON."""
        return {
            "asymmetry": self.asymmetry,
            "smallest_eigenvalue": self.smallest_eigenvalue,
            "largest_eigenvalue": self.largest_eigenvalue,
            "entries_checked": len(self.entries),
            "largest_relative_error": self.largest_relative_error,
        }


@dataclass(frozen=True)
class EmpiricalNTK:
    """The empirical NTK of the logits, ``Theta = P ⊗ I_C + F``, all float64.

    Attributes:
        pretrain_effective: P, N x M: ``<phi(x), phi(x')> + 1``, without the 1 where the head has
            no bias; it stands for ``P ⊗ I_C``. Zero where the head does not train.
        ft_effective: F, N x C x M x C: ``V J_phi(x) J_phi(x')^T V^T`` over the encoder's
            parameters.
        layers: F's parts by layer, and ``kinds`` those by kind of parameter, where asked for.
        row_features: phi of the rows' texts, N x h; ``column_features`` those of the columns'.
        checked_entries: entries of F that plain autograd computed again.
        products_error: relative difference of F from that of exact products on a few texts, where
            faster products were asked for.
        record: what was done: plan, seconds, parameters.

    Source: Tomihari and Sato (2024), Proposition 4.1.
    """

    pretrain_effective: Tensor
    ft_effective: Tensor
    row_features: Tensor
    column_features: Tensor
    symmetric: bool
    layers: Mapping[str, Tensor] = field(default_factory=dict)
    kinds: Mapping[str, Tensor] = field(default_factory=dict)
    checked_entries: tuple[CheckedEntry, ...] = ()
    products_error: float | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    def total(self) -> Tensor:
        """``P ⊗ I_C + F``, N x C x M x C: the kernel over all parameters, the head's included."""
        classes = torch.eye(self.ft_effective.shape[1], dtype=torch.float64)
        return torch.einsum("nm,cd->ncmd", self.pretrain_effective, classes) + self.ft_effective

    @cached_property
    def spectrum(self) -> Spectrum:
        """Singular values of F, and its eigenvalues where it is symmetric."""
        return kernel_spectrum(self.ft_effective.numpy(), symmetric=self.symmetric)

    @cached_property
    def certificate(self) -> Certificate:
        """Asymmetry and extreme eigenvalues of F, with the entries that were checked."""
        if not self.symmetric:
            return Certificate(None, None, None, self.checked_entries)
        return Certificate(
            asymmetry(self.ft_effective.numpy()),
            self.spectrum.smallest_eigenvalue,
            self.spectrum.largest_eigenvalue,
            self.checked_entries,
        )
