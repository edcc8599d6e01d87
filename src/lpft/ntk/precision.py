"""The precision in which kernels are computed."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from operator import attrgetter
from typing import Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from lpft.ntk.double_precision import DoublePrecision

_PRODUCTS = ("cuda.matmul", "cudnn.conv", "mkldnn.matmul", "mkldnn.conv")
"""Where PyTorch keeps the precision of float32 products, below ``torch.backends``."""


@contextmanager
def computed_in(dtype: torch.dtype) -> Iterator[None]:
    """Within this context everything is computed in ``dtype``.

    Attention is made of plain matrix products, products of float32 are made of float32, and
    nothing of a float64 model is turned into float32. Autocast and inference mode of the caller
    are off.
    """
    with (
        float32_products("ieee"),
        torch.inference_mode(False),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False) if torch.cuda.is_available() else nullcontext(),
        sdpa_kernel([SDPBackend.MATH]),
        DoublePrecision() if dtype == torch.float64 else nullcontext(),
    ):
        yield


@contextmanager
def float32_products(precision: Literal["ieee", "tf32"]) -> Iterator[None]:
    """Within this context products of float32 are made of float32, or of TF32."""
    settings = [attrgetter(name)(torch.backends) for name in _PRODUCTS]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = precision
        yield
    finally:
        for setting, own in zip(settings, before, strict=True):
            setting.fp32_precision = own
