"""float64 all the way through encoders that compute parts of themselves in float32."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class DoublePrecision(TorchFunctionMode):
    """Within this context no float64 tensor is turned into float32.

    transformers' RMSNorm, rotary embeddings and attention softmax convert to float32 whatever the
    model's dtype. That is more than a half-precision model has, but in a float64 model it leaves
    rounding of 1e-7 of the outputs, which drowns the change of a small step. Tensors of other
    dtypes are converted as they were.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = {} if kwargs is None else kwargs
        if args and isinstance(args[0], Tensor) and args[0].dtype == torch.float64:
            if func is Tensor.float:
                return args[0]
            args = tuple(map(_keep_double, args))
            kwargs = {name: _keep_double(value) for name, value in kwargs.items()}
        return func(*args, **kwargs)


def _keep_double(argument: Any) -> Any:
    return torch.float64 if argument is torch.float32 else argument
