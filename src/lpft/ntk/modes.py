"""The mode of a model while its gradients are taken."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedModel

_EAGER = "eager"


@contextmanager
def only_these_require_gradients(
    model: nn.Module, parameters: Sequence[nn.Parameter]
) -> Iterator[None]:
    """Within this context the model evaluates, and just ``parameters`` require gradients.

    Mixtures of experts multiply expert by expert: their grouped products know no float64.
    """
    required = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    chosen = set(map(id, parameters))
    try:
        model.eval()
        for parameter, _ in required:
            parameter.requires_grad_(id(parameter) in chosen)
        with _experts_one_by_one(model):
            yield
    finally:
        for parameter, before in required:
            parameter.requires_grad_(before)
        for module, mode in modes:
            module.training = mode


@contextmanager
def _experts_one_by_one(model: nn.Module) -> Iterator[None]:
    if not isinstance(model, PreTrainedModel):
        yield
        return
    before = model.get_experts_implementation()
    if set(before.values()) <= {None, _EAGER}:
        yield
        return
    try:
        model.set_experts_implementation(_EAGER)
        yield
    finally:
        model.set_experts_implementation(before)
