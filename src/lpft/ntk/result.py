"""An empirical NTK, and how it is put together from sums over tiles."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lpft.analysis.inputs import as_array
from lpft.errors import InputError
from lpft.ntk.certificate import Certificate, CheckedEntry, CheckedProduct, largest_error
from lpft.ntk.contract import signed
from lpft.ntk.plan import Head, Plan
from lpft.ntk.storage import Pair, read_kernel, write_kernel
from lpft.settings.kernels import KernelKind

if TYPE_CHECKING:
    from lpft.ntk.statistics import Spectrum


_TENSORS = ("pretrain_effective", "ft_effective", "row_features", "column_features")
_PARTS = ("layers", "kinds")


class Eigenvectors(NamedTuple):
    """``values`` [k] in descending order, and ``vectors`` of norm 1 [k, N, C]."""

    values: NDArray[np.float64]
    vectors: NDArray[np.float64]

    def __repr__(self) -> str:
        pairs, samples, outputs = self.vectors.shape
        return f"Eigenvectors({pairs} of {samples} x {outputs})"


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
        layers: F's parts by layer, and ``kinds`` those by kind of parameter, if requested.
        row_features: phi of the rows' texts, N x h; ``column_features`` those of the columns'.
        checked_entries: entries of F that plain autograd computed again, and
            ``checked_products`` products of it with random vectors.
        products_error: relative difference of F from that of exact products on a few texts, where
            faster products were requested.
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

    def __repr__(self) -> str:
        rows, outputs, columns, _ = self.ft_effective.shape
        # Not from the certificate, whose eigenvalues take long.
        error = largest_error(*self.checked_entries, *self.checked_products)
        checked = "unchecked" if error is None else f"largest relative error {error:.0e}"
        parts = "F" if self.pretrain_effective is None else "P and F"
        return f"EmpiricalNTK({rows} x {outputs} by {columns} x {outputs}, {parts}, {checked})"

    def total(self) -> Tensor:
        """``P ⊗ I_C + F``, N x C x M x C: the kernel over all parameters, the head's included."""
        if self.pretrain_effective is None:
            return self.ft_effective
        classes = torch.eye(self.ft_effective.shape[1], dtype=torch.float64)
        return torch.einsum("nm,cd->ncmd", self.pretrain_effective, classes) + self.ft_effective

    def numpy(self) -> NDArray[np.float64]:
        """:meth:`total` as an array, N x C x M x C."""
        return self.total().numpy()

    def trace(self) -> float:
        """The trace of the total, of samples with themselves.

        Raises:
            InputError: the kernel is one between two sets of samples.
        """
        from lpft.ntk.statistics import kernel_trace

        self._require_own("the trace")
        return kernel_trace(self.numpy())

    def eigenvectors(self, count: int) -> "Eigenvectors":
        """The largest eigenvalues of the total with their eigenvectors, in descending order.

        Raises:
            InputError: the kernel is not symmetric, or has fewer than ``count`` eigenvalues.
        """
        from scipy.linalg import eigh

        if not self.symmetric:
            raise InputError(
                "eigenvectors are those of a symmetric kernel: expected one of samples with "
                "themselves that is not of asymmetric updates; spectrum has its singular values"
            )
        kernel = self.numpy()
        samples, outputs = kernel.shape[:2]
        size = samples * outputs
        if not isinstance(count, Integral) or isinstance(count, bool) or not 1 <= count <= size:
            raise InputError(f"eigenvectors: expected 1 to {size} of them, found {count!r}")
        # Rounding may leave the two halves different in the last digits: the mean of both is taken.
        matrix = kernel.reshape(size, size)
        values, vectors = eigh((matrix + matrix.T) / 2, subset_by_index=(size - count, size - 1))
        return Eigenvectors(values[::-1], vectors.T[::-1].reshape(count, samples, outputs))

    def ft_ratio(self, labels: ArrayLike, logits: ArrayLike) -> float | None:
        """The FT ratio: the share of F in the first step's change of logits, a mean over the rows.

        ``labels`` [M] and ``logits`` [M, C], at the start, are those of the columns, which are the
        training samples. None where some change is 0. :func:`lpft.ntk.statistics.ft_ratio` has the
        parts of each row.

        Raises:
            InputError: there is no P, as no linear head is set apart, or shapes that do not fit.
        Source: Tomihari and Sato, NeurIPS 2024, Table 2.
        """
        from lpft.ntk.statistics import ft_ratio

        if self.pretrain_effective is None:
            raise InputError(
                "the FT ratio is F's share of P + F, and this kernel has no P: name the module's "
                "last linear layer by head="
            )
        parts = self.pretrain_effective.numpy(), self.ft_effective.numpy()
        return ft_ratio(*parts, labels, logits).ratio

    def alignment(self, other: "EmpiricalNTK | ArrayLike") -> float | None:
        """Centred kernel alignment of the totals, from 0 to 1; None where one is constant.

        ``other`` is of the same samples in the same order: another NTK, N x C x N x C, or N x N
        (such as the kernel of features), which stands for that matrix times I_C.

        Raises:
            InputError: kernels that are not of one set of samples with themselves.
        Source: Cortes, Mohri and Rostamizadeh, JMLR 2012.
        """
        from lpft.ntk.statistics import centred_kernel_alignment

        self._require_own("an alignment")
        return centred_kernel_alignment(self.numpy(), other)  # type: ignore[arg-type]

    def label_alignment(self, labels: ArrayLike) -> float | None:
        """:meth:`alignment` with the labels' own kernel: 1 for two samples of one class, else 0.

        ``labels`` [N] are those of the samples, integers or strings.

        Source: Cortes, Mohri and Rostamizadeh, JMLR 2012.
        """
        from lpft.ntk.statistics import label_kernel

        classes = as_array(labels, "labels")
        if classes.shape != (len(self.ft_effective),):
            raise InputError(
                f"labels: expected {len(self.ft_effective)}, one per row of the kernel, found "
                f"shape {classes.shape}"
            )
        return self.alignment(label_kernel(classes))

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the kernel with all that is known of it to one safetensors file.

        Raises:
            InputError: the file exists and ``overwrite`` is not set, or it cannot be written.
        """
        target = Path(path)
        if target.exists() and not overwrite:
            raise InputError(f"'{target}' exists: name a new file, or give overwrite=True")
        tensors = {name: getattr(self, name) for name in _TENSORS}
        for group in _PARTS:
            tensors |= {f"{group}/{name}": part for name, part in getattr(self, group).items()}
        present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        record = {
            "symmetric": self.symmetric,
            "checked_entries": [asdict(entry) for entry in self.checked_entries],
            "checked_products": [asdict(checked) for checked in self.checked_products],
            "products_error": self.products_error,
            "record": dict(self.record),
        }
        write_kernel(target, present, record)

    @classmethod
    def load(cls, path: str | Path) -> "EmpiricalNTK":
        """The kernel that :meth:`save` wrote, to the last bit.

        Raises:
            InputError: there is no file, or it is damaged or of another kind.
        """
        tensors, record = read_kernel(Path(path))

        def parts(group: str) -> dict[str, Tensor]:
            names = (name for name in tensors if name.startswith(f"{group}/"))
            return {name.removeprefix(f"{group}/"): tensors[name] for name in names}

        return cls(
            **{name: tensors.get(name) for name in _TENSORS},  # type: ignore[arg-type]
            layers=parts("layers"),
            kinds=parts("kinds"),
            symmetric=record["symmetric"],
            checked_entries=tuple(CheckedEntry(**entry) for entry in record["checked_entries"]),
            checked_products=tuple(
                CheckedProduct(**product) for product in record["checked_products"]
            ),
            products_error=record["products_error"],
            record=record["record"],
        )

    @property
    def is_own(self) -> bool:
        """Whether its rows and columns are the same samples."""
        # A kernel of asymmetric updates is not symmetric, but its samples have one set of features.
        return self.symmetric or torch.equal(self.row_features, self.column_features)

    def _require_own(self, what: str) -> None:
        if not self.is_own:
            raise InputError(
                f"{what} is that of samples with themselves, and this kernel is one between two "
                "sets of inputs: compute it without other inputs"
            )

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


def sum_kernels(kernels: Sequence[EmpiricalNTK]) -> EmpiricalNTK:
    """The kernel whose F is the sum of those of all, which have P and everything else in common.

    What was checked is what was checked of each.
    """
    first = kernels[0]
    return replace(
        first,
        ft_effective=_sum_of([kernel.ft_effective for kernel in kernels]),
        layers={n: _sum_of([k.layers[n] for k in kernels]) for n in first.layers},
        kinds={n: _sum_of([k.kinds[n] for k in kernels]) for n in first.kinds},
        checked_entries=tuple(entry for kernel in kernels for entry in kernel.checked_entries),
        checked_products=tuple(p for kernel in kernels for p in kernel.checked_products),
    )


def _sum_of(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).sum(0)


def pretrain_effective(
    rows: Tensor, columns: Tensor, update: KernelKind, *, head_trains: bool, bias_trains: bool
) -> Tensor:
    """P, N x M, from the features of rows (N x h) and columns (M x h).

    A head's gradient is the feature, and 1 for the bias; kernels of signs take its sign alike.
    """
    rows, columns = signed(rows, columns, update)
    inner = rows @ columns.T if head_trains else rows.new_zeros(len(rows), len(columns))
    return inner + 1 if bias_trains else inner


def ft_effective(head: Head, sums: Mapping[Pair, Tensor], plan: Plan, block: Pair) -> Tensor:
    """F of one block of groups in the order of its texts, N x C x M x C.

    ``sums`` are by pair of tiles, (r n) x (r m); pairs of other blocks are passed over.
    """
    groups, rank = plan.workload.groups, head.rank
    counts = np.bincount(groups)
    # Tiles list texts by their numbers among all groups; the block's rows count from 0 in each.
    row_in_group = np.empty(len(groups), dtype=np.int64)
    for group, count in enumerate(counts):
        row_in_group[groups == group] = np.arange(count)
    # First F_Q, r x N x r x M, in the basis of the cotangents Q.
    shape = (rank, int(counts[block[0]]), rank, int(counts[block[1]]))
    in_basis = torch.zeros(shape, dtype=torch.float64)
    basis = torch.arange(rank)
    for (i, j), values in sums.items():
        left, right = plan.tiles[i], plan.tiles[j]
        if (left.group, right.group) != block:
            continue
        rows, columns = (torch.from_numpy(row_in_group[tile.rows]) for tile in (left, right))
        tile_values = values.view(rank, len(rows), rank, len(columns))
        in_basis[torch.meshgrid(basis, rows, basis, columns, indexing="ij")] = tile_values
        # Within a group each pair of tiles stands for its mirror image too.
        if plan.workload.update != "asymmetric" and i != j and left.group == right.group:
            mirror = torch.meshgrid(basis, columns, basis, rows, indexing="ij")
            in_basis[mirror] = tile_values.permute(2, 3, 0, 1)
    # F = R F_Q R^T, N x C x M x C.
    return torch.einsum("cp,pnqm,dq->ncmd", head.mixing, in_basis, head.mixing)
