"""The head's row space: as few backward passes as its rank."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class HeadRows:
    """``V = R Q``: ``mixing`` R (C x r) and ``seeds`` Q (r x h), both float64 on the CPU.

    The kernel of the outputs Q phi gives that of the logits: ``F = R F_Q R^T``.
    """

    mixing: Tensor
    seeds: Tensor

    @property
    def rank(self) -> int:
        return self.seeds.shape[0]

    @property
    def classes(self) -> int:
        return self.mixing.shape[0]


def row_space(weight: Tensor, dtype: torch.dtype) -> HeadRows:
    """Orthonormal rows Q of V's row space by its singular value decomposition.

    A singular value counts as zero only below ``4 eps(dtype)`` of the largest. The multinomial
    logistic regression of linear probing leaves rows that sum to zero, so r = C - 1 there.
    """
    left, values, right = torch.linalg.svd(weight.detach().cpu().double(), full_matrices=False)
    kept = values > 4 * torch.finfo(dtype).eps * values.max()
    return HeadRows(mixing=left[:, kept] * values[kept], seeds=right[kept])


def rows_as_they_are(weight: Tensor) -> HeadRows:
    """``V = I V``: for kernels of signs, which do not commute with a change of basis."""
    seeds = weight.detach().cpu().double()
    return HeadRows(mixing=torch.eye(seeds.shape[0], dtype=torch.float64), seeds=seeds)
