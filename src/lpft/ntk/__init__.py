"""The exact empirical NTK of transformers, its statistics, and predictions from it."""

from lpft.ntk.job import KernelJob
from lpft.ntk.kernel import empirical_ntk
from lpft.ntk.options import Options
from lpft.ntk.requests import KernelRequest, request_of
from lpft.ntk.result import Certificate, EmpiricalNTK

__all__ = [
    "Certificate",
    "EmpiricalNTK",
    "KernelJob",
    "KernelRequest",
    "Options",
    "empirical_ntk",
    "request_of",
]
