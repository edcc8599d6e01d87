"""The mode of a model while its gradients are taken."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn


@contextmanager
def only_these_require_gradients(
    model: nn.Module, parameters: Sequence[nn.Parameter]
) -> Iterator[None]:
    """Within this context the model evaluates, and just ``parameters`` require gradients."""
    required = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    chosen = set(map(id, parameters))
    try:
        model.eval()
        for parameter, _ in required:
            parameter.requires_grad_(id(parameter) in chosen)
        yield
    finally:
        for parameter, before in required:
            parameter.requires_grad_(before)
        for module, mode in modes:
            module.training = mode
