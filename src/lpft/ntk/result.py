"""An empirical NTK, and how it is put together from sums over tiles."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lpft.ntk.certificate import Certificate, CheckedEntry, CheckedProduct
from lpft.ntk.contract import signed
from lpft.ntk.plan import Head, Plan
from lpft.ntk.storage import Pair
from lpft.settings.kernels import KernelKind

if TYPE_CHECKING:
    from lpft.ntk.statistics import Spectrum


@dataclass(frozen=True)
class EmpiricalNTK:
    """The empirical NTK of the outputs, ``Theta = P ⊗ I_C + F``, all float64.

    Attributes:
        pretrain_effective: P, N x M: ``<phi(x), phi(x')> + 1``, without the 1 where the head has
            no bias; it stands for ``P ⊗ I_C``. Zero where the head does not train, None where no
            linear head is set apart: then F is the whole kernel. Of ``signgd`` it is
            ``<sign phi(x), sign phi(x')> + 1``, of ``asymmetric`` ``<phi(x), sign phi(x')> + 1``.
        ft_effective: F, N x C x M x C: ``V J_phi(x) J_phi(x')^T V^T`` over the encoder's
            parameters, ``J_f(x) J_f(x')^T`` over all parameters without a head. Other updates
            take the sign of both Jacobians, or of the second.
        layers: F's parts by layer, and ``kinds`` those by kind of parameter, where asked for.
        row_features: phi of the rows' texts, N x h; ``column_features`` those of the columns'.
        checked_entries: entries of F that plain autograd computed again, and
            ``checked_products`` products of it with random vectors.
        products_error: relative difference of F from that of exact products on a few texts, where
            faster products were asked for.
        record: what was done: plan, seconds, parameters.

    Source: Tomihari and Sato (2024), Proposition 4.1.
    """

    pretrain_effective: Tensor | None
    ft_effective: Tensor
    row_features: Tensor
    column_features: Tensor
    symmetric: bool
    layers: Mapping[str, Tensor] = field(default_factory=dict)
    kinds: Mapping[str, Tensor] = field(default_factory=dict)
    checked_entries: tuple[CheckedEntry, ...] = ()
    checked_products: tuple[CheckedProduct, ...] = ()
    products_error: float | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    def total(self) -> Tensor:
        """``P ⊗ I_C + F``, N x C x M x C: the kernel over all parameters, the head's included."""
        if self.pretrain_effective is None:
            return self.ft_effective
        classes = torch.eye(self.ft_effective.shape[1], dtype=torch.float64)
        return torch.einsum("nm,cd->ncmd", self.pretrain_effective, classes) + self.ft_effective

    @cached_property
    def spectrum(self) -> "Spectrum":
        """Singular values of F, and its eigenvalues where it is symmetric."""
        # Here, so that a kernel does without the 110 MB of scikit-learn and pandas.
        from lpft.ntk.statistics import kernel_spectrum

        return kernel_spectrum(self.ft_effective.numpy(), symmetric=self.symmetric)

    @cached_property
    def certificate(self) -> Certificate:
        """Asymmetry and extreme eigenvalues of F, with what was checked."""
        from lpft.ntk.statistics import asymmetry

        if not self.symmetric:
            return Certificate(None, None, None, self.checked_entries, self.checked_products)
        return Certificate(
            asymmetry(self.ft_effective.numpy()),
            self.spectrum.smallest_eigenvalue,
            self.spectrum.largest_eigenvalue,
            self.checked_entries,
            self.checked_products,
        )


def pretrain_effective(
    rows: Tensor, columns: Tensor, kernel: KernelKind, *, head_trains: bool, bias_trains: bool
) -> Tensor:
    """P, N x M, from the features of rows (N x h) and columns (M x h).

    A head's gradient is the feature, and 1 for the bias; kernels of signs take its sign alike.
    """
    rows, columns = signed(rows, columns, kernel)
    inner = rows @ columns.T if head_trains else rows.new_zeros(len(rows), len(columns))
    return inner + 1 if bias_trains else inner


def ft_effective(head: Head, sums: Mapping[Pair, Tensor], plan: Plan, block: Pair) -> Tensor:
    """F of one block of groups in the order of its texts, N x C x M x C.

    ``sums`` are by pair of tiles, (r n) x (r m); pairs of other blocks are passed over.
    """
    groups, rank = plan.workload.groups, head.rank
    counts = np.bincount(groups)
    row_in_group = np.empty(len(groups), dtype=np.int64)
    for group, count in enumerate(counts):
        row_in_group[groups == group] = np.arange(count)
    shape = (rank, int(counts[block[0]]), rank, int(counts[block[1]]))
    whole = torch.zeros(shape, dtype=torch.float64)
    basis = torch.arange(rank)
    for (i, j), values in sums.items():
        left, right = plan.tiles[i], plan.tiles[j]
        if (left.group, right.group) != block:
            continue
        rows, columns = (torch.from_numpy(row_in_group[tile.rows]) for tile in (left, right))
        tile_values = values.view(rank, len(rows), rank, len(columns))
        whole[torch.meshgrid(basis, rows, basis, columns, indexing="ij")] = tile_values
        # Within a group each pair of tiles stands for its mirror image too.
        if plan.workload.kernel != "asymmetric" and i != j and left.group == right.group:
            mirror = torch.meshgrid(basis, columns, basis, rows, indexing="ij")
            whole[mirror] = tile_values.permute(2, 3, 0, 1)
    return torch.einsum("cp,pnqm,dq->ncmd", head.mixing, whole, head.mixing)
