"""The precision in which kernels are computed."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from operator import attrgetter
from typing import Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from lpft.ntk.double_precision import DoublePrecision
from lpft.settings import Products

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
def products_in(products: Products) -> Iterator[None]:
    """Within this context products of whole gradients are as fast as ``products`` allows.

    Of bfloat16 numbers they are summed in float32.
    """
    if products == "exact":
        yield
        return
    if products == "tf32":
        with float32_products("tf32"):
            yield
        return
    cuda = torch.backends.cuda.matmul
    before = cuda.allow_bf16_reduced_precision_reduction
    try:
        cuda.allow_bf16_reduced_precision_reduction = False
        with float32_products("bf16"):
            yield
    finally:
        cuda.allow_bf16_reduced_precision_reduction = before


@contextmanager
def float32_products(precision: Literal["ieee", "tf32", "bf16"]) -> Iterator[None]:
    """Within this context products of float32 are made of float32, TF32, or (CPU) bfloat16."""
    settings = [
        attrgetter(name)(torch.backends)
        for name in _PRODUCTS
        if precision != "bf16" or name.startswith("mkldnn")
    ]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = precision
        yield
    finally:
        for setting, own in zip(settings, before, strict=True):
            setting.fp32_precision = own
