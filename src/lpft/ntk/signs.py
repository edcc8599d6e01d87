"""Which gradients count by their signs: ``<sign g, sign g'>`` (SignGD), ``<g, sign g'>``."""

from torch import Tensor

from lpft.settings import KernelKind


def takes_signs(kernel: KernelKind) -> tuple[bool, bool]:
    """Whether the gradients of a kernel's rows count by their signs, and those of its columns."""
    return kernel == "signgd", kernel != "sgd"


def signed(rows: Tensor, columns: Tensor, kernel: KernelKind) -> tuple[Tensor, Tensor]:
    """The gradients of rows and columns as the kernel counts them."""
    of_rows, of_columns = takes_signs(kernel)
    return rows.sign() if of_rows else rows, columns.sign() if of_columns else columns
