"""Linear models in NumPy, float64: what the paper proves about them, checked numerically."""

from lpft.theory.linear_kernels import ft_effective, lora_ft_effective, pretrain_effective
from lpft.theory.linear_model import LinearModel, gradient_descent, random_linear_model
from lpft.theory.low_rank import (
    MOST_INFORMATIVE_EPSILON,
    LowRankCheck,
    check_low_rank,
    first_informative_rank,
    promised_probability,
)
from lpft.theory.orthogonal import OrthogonalCheck, check_orthogonal

__all__ = [
    "MOST_INFORMATIVE_EPSILON",
    "LinearModel",
    "LowRankCheck",
    "OrthogonalCheck",
    "check_low_rank",
    "check_orthogonal",
    "first_informative_rank",
    "ft_effective",
    "gradient_descent",
    "lora_ft_effective",
    "pretrain_effective",
    "promised_probability",
    "random_linear_model",
]
