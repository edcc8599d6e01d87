"""The exact empirical NTK of PyTorch modules, its statistics, and predictions from it."""

from lpft.ntk.api import empirical_ntk, empirical_ntks
from lpft.ntk.approximations import (
    kernel_ridge,
    leading_eigenpairs,
    nystroem,
    operator_error,
    random_features,
    trace_estimate,
)
from lpft.ntk.certificate import Certificate
from lpft.ntk.job import KernelJob, Options
from lpft.ntk.operator import NTKOperator
from lpft.ntk.result import EmpiricalNTK
from lpft.ntk.studied import KernelRequest, StudiedModel, request_of, studied_model

__all__ = [
    "Certificate",
    "EmpiricalNTK",
    "KernelJob",
    "KernelRequest",
    "NTKOperator",
    "Options",
    "StudiedModel",
    "empirical_ntk",
    "empirical_ntks",
    "kernel_ridge",
    "leading_eigenpairs",
    "nystroem",
    "operator_error",
    "random_features",
    "request_of",
    "studied_model",
    "trace_estimate",
]
