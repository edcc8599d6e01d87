"""The exact empirical NTK of PyTorch modules, its statistics, and predictions from it.

The names below load torch when they are first used; :mod:`lpft.ntk.statistics` does without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from lpft.ntk.job import KernelJob
    from lpft.ntk.operator import NTKOperator
    from lpft.ntk.options import Options
    from lpft.ntk.result import EmpiricalNTK
    from lpft.ntk.studied import KernelRequest, StudiedModel, request_of, studied_model

_OWNERS = {
    "Certificate": "certificate",
    "EmpiricalNTK": "result",
    "KernelJob": "job",
    "KernelRequest": "studied",
    "NTKOperator": "operator",
    "Options": "options",
    "StudiedModel": "studied",
    "empirical_ntk": "api",
    "empirical_ntks": "api",
    "kernel_ridge": "approximations",
    "leading_eigenpairs": "approximations",
    "nystroem": "approximations",
    "operator_error": "approximations",
    "random_features": "approximations",
    "request_of": "studied",
    "studied_model": "studied",
    "trace_estimate": "approximations",
}
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


def __getattr__(name: str) -> Any:
    if name in _OWNERS:
        return getattr(import_module(f"lpft.ntk.{_OWNERS[name]}"), name)
    raise AttributeError(f"module 'lpft.ntk' has no attribute {name!r}")
