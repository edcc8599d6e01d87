"""The precision in which kernels are computed."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from lpft.ntk.double_precision import DoublePrecision


@contextmanager
def computed_in(dtype: torch.dtype, *, tf32: bool = False) -> Iterator[None]:
    """Within this context everything is computed in ``dtype``.

    Attention is made of plain matrix products, float32 products do without TF32 unless it is asked
    for, and nothing of a float64 model is turned into float32. Autocast and inference mode of the
    caller are off.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = tf32
    try:
        with (
            torch.inference_mode(False),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False) if torch.cuda.is_available() else nullcontext(),
            sdpa_kernel([SDPBackend.MATH]),
            DoublePrecision() if dtype == torch.float64 else nullcontext(),
        ):
            yield
    finally:
        matmul.allow_tf32 = before
