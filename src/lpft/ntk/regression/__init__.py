"""Kernel regression on empirical NTKs: the paper's protocol, sound ones, LM-Kernel-FT's solvers."""

from lpft.ntk.regression.kernels import KernelPair, TrainingSet
from lpft.ntk.regression.model import KernelModel, Strength
from lpft.ntk.regression.result import (
    SOLVERS,
    RegressionResult,
    RegressionScores,
    regress,
    solver_options,
)
from lpft.ntk.regression.strength import RELATIVE_STRENGTHS, ValidationSet

__all__ = [
    "RELATIVE_STRENGTHS",
    "SOLVERS",
    "KernelModel",
    "KernelPair",
    "RegressionResult",
    "RegressionScores",
    "Strength",
    "TrainingSet",
    "ValidationSet",
    "regress",
    "solver_options",
]
