"""Weights by which the layers of a stock head compute a given linear map of a feature.

A map V phi (C x h) is carried by pairs of coordinates: 2k holds +s V_k phi, 2k + 1 holds
-s V_k phi. What a head does between its layers then cancels or stays small: ``a(z) - a(-z) = z``
exactly for ReLU and GELU, ``tanh(s z) - tanh(-s z) = 2 s z (1 + O(s^2 z^2))``, and a layer norm
divides both by one factor, which two large constant coordinates (the anchor) hold at 1.
"""

import math

import torch
from torch import Tensor


def paired_rows(weight: Tensor, scale: float, width: int) -> Tensor:
    """width x h: rows 2k and 2k + 1 are +scale and -scale times row k of V (C x h), the rest 0."""
    rows = weight.new_zeros(width, weight.shape[1])
    count = len(weight)
    rows[0 : 2 * count : 2] = scale * weight
    rows[1 : 2 * count : 2] = -scale * weight
    return rows


def pair_differences(count: int, scale: float, width: int) -> Tensor:
    """C x width: row k is the difference of coordinates 2k and 2k + 1, divided by ``scale``."""
    rows = torch.zeros(count, width)
    places = torch.arange(count)
    rows[places, 2 * places] = 1 / scale
    rows[places, 2 * places + 1] = -1 / scale
    return rows


def anchor(width: int) -> Tensor:
    """A vector of that width with mean 0 and variance 1, all of it in the last two coordinates."""
    values = torch.zeros(width)
    values[-2] = math.sqrt(width / 2)
    values[-1] = -values[-2]
    return values
