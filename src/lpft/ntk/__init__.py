"""The exact empirical NTK of transformers, its statistics, and predictions from it."""

from lpft.ntk.kernel import KernelJob, KernelRequest, Options, empirical_ntk
from lpft.ntk.result import Certificate, EmpiricalNTK

__all__ = [
    "Certificate",
    "EmpiricalNTK",
    "KernelJob",
    "KernelRequest",
    "Options",
    "empirical_ntk",
]
