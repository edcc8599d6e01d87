"""The exact empirical NTK of transformers, its statistics, and predictions from it."""

from lpft.ntk.api import (
    KernelJob,
    KernelRequest,
    Options,
    StudiedModel,
    empirical_ntk,
    request_of,
    studied_model,
)
from lpft.ntk.result import Certificate, EmpiricalNTK

__all__ = [
    "Certificate",
    "EmpiricalNTK",
    "KernelJob",
    "KernelRequest",
    "Options",
    "StudiedModel",
    "empirical_ntk",
    "request_of",
    "studied_model",
]
