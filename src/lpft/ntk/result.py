"""An empirical NTK, what vouches for it, and how it is put together from sums over tiles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lpft.data.tokens import Tokens
from lpft.errors import InputError
from lpft.model.classifier import LinearHeadClassifier
from lpft.ntk.contract import signed
from lpft.ntk.passes import parameter_chunks, plain_gradients
from lpft.ntk.plan import Head, Plan
from lpft.ntk.storage import Pair
from lpft.settings.kernels import KernelKind

if TYPE_CHECKING:
    from lpft.ntk.statistics import Spectrum

CHECKED_AT_ONCE = 1 << 26
"""Numbers in the gradients that a check of entries holds at once, unless one parameter has more."""
_RANDOM_SEED = 0
_LARGEST_ERROR = {torch.float32: 1e-3, torch.float64: 1e-8}
"""Of an exact entry, relative to what it can be at most: rounding stays far below."""


@dataclass(frozen=True)
class CheckedEntry:
    """An entry of F computed again by plain autograd: ``F[(n, c), (m, d)]`` both ways."""

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
    def spectrum(self) -> "Spectrum":
        """Singular values of F, and its eigenvalues where it is symmetric."""
        # Here, so that a kernel does without the 110 MB of scikit-learn and pandas.
        from lpft.ntk.statistics import kernel_spectrum

        return kernel_spectrum(self.ft_effective.numpy(), symmetric=self.symmetric)

    @cached_property
    def certificate(self) -> Certificate:
        """Asymmetry and extreme eigenvalues of F, with the entries that were checked."""
        from lpft.ntk.statistics import asymmetry

        if not self.symmetric:
            return Certificate(None, None, None, self.checked_entries)
        return Certificate(
            asymmetry(self.ft_effective.numpy()),
            self.spectrum.smallest_eigenvalue,
            self.spectrum.largest_eigenvalue,
            self.checked_entries,
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


def check_entries(
    classifier: LinearHeadClassifier,
    weight: Tensor,
    parameters: Sequence[nn.Parameter],
    tokens: tuple[Tokens, Sequence[int], Sequence[int]],
    ft_effective: Tensor,
    *,
    kernel: KernelKind,
    count: int,
) -> tuple[CheckedEntry, ...]:
    """``count`` random entries of F by plain autograd, without anything of the engine.

    Each is the product of two gradients, of single texts without padding.

    Args:
        weight: V, C x h.
        tokens: all texts, those of the rows, and those of the columns.
        ft_effective: F, N x C x M x C.
    """
    if not parameters:
        return ()
    drawn = np.random.default_rng(_RANDOM_SEED)
    all_tokens, rows, columns = tokens
    entries = []
    for _ in range(count):
        n, m = int(drawn.integers(len(rows))), int(drawn.integers(len(columns)))
        c, d = (int(drawn.integers(weight.shape[0])) for _ in range(2))
        left_text, right_text = (
            {name: ids.to(weight.device) for name, ids in all_tokens.batch([row]).items()}
            for row in (rows[n], columns[m])
        )
        inner = left_square = right_square = 0.0
        for chunk in parameter_chunks(parameters, CHECKED_AT_ONCE):
            left = plain_gradients(classifier, left_text, weight[c], chunk)
            right = plain_gradients(classifier, right_text, weight[d], chunk)
            for one, other in zip(left, right, strict=True):
                one, other = signed(one, other, kernel)
                inner += float((one * other).sum(dtype=torch.float64))
                left_square += float(one.square().sum(dtype=torch.float64))
                right_square += float(other.square().sum(dtype=torch.float64))
        scale = (left_square * right_square) ** 0.5
        entries.append(CheckedEntry(n, c, m, d, float(ft_effective[n, c, m, d]), inner, scale))
    return tuple(entries)


def refuse_wrong_entries(entries: Sequence[CheckedEntry], dtype: torch.dtype) -> None:
    """Refuse a kernel of which a checked entry is far from that of plain autograd."""
    for entry in entries:
        if not entry.relative_error <= _LARGEST_ERROR[dtype]:
            raise InputError(
                f"the kernel is wrong: an entry is {entry.engine:.6g}, and {entry.autograd:.6g} by "
                f"plain autograd (texts {entry.row} and {entry.column}, classes {entry.row_class} "
                f"and {entry.column_class}); expected a model that treats each text as if it were "
                "alone; check_entries=0 returns the kernel anyway"
            )
