"""Modules whose per-sample parameter gradients have a closed form in their inputs and outputs."""

from enum import Enum
from inspect import signature

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import layer_norm
from transformers.pytorch_utils import Conv1D


class Rule(Enum):
    """How a parameter's gradient for one sample follows from a call's input x and gradient g.

    With x (T x a) and g (T x b), the derivative of one output with respect to the call's result:

    - ``OUTER``: a linear layer's weight, ``g^T x`` (b x a; GPT-2's Conv1D keeps its transpose).
    - ``ROWS``: an embedding's weight; row v is the sum of g_t over the tokens with id v.
    - ``SCALE``: a normalisation's weight, ``sum_t g_t * xhat_t``.
    - ``SHIFT``: a bias, ``sum_t g_t``.
    """

    OUTER = "outer"
    ROWS = "rows"
    SCALE = "scale"
    SHIFT = "shift"


def module_rules(module: nn.Module) -> dict[str, Rule]:
    """The rule of each of the module's own parameters, by name; empty where none is known.

    Whether a rule really holds is not decided here: the engine compares every parameter with
    autograd on a small batch and takes autograd where they differ.
    """
    names = [name for name, _ in module.named_parameters(recurse=False)]
    if isinstance(module, nn.Linear | Conv1D):
        return _known(names, {"weight": Rule.OUTER, "bias": Rule.SHIFT})
    if isinstance(module, nn.Embedding):
        plain = module.max_norm is None and not module.scale_grad_by_freq
        return _known(names, {"weight": Rule.ROWS}) if plain else {}
    if isinstance(module, nn.LayerNorm):
        return _known(names, {"weight": Rule.SCALE, "bias": Rule.SHIFT})
    if _scales_its_input(module, names):
        return {"weight": Rule.SCALE}
    return {}


@torch.no_grad()
def normalized(module: nn.Module, inputs: Tensor) -> Tensor:
    """xhat, the derivative of a normalisation's result with respect to its weight, elementwise.

    The result is affine in the weight w, so ``xhat = f(x; w = 1) - f(x; w = 0)``; this also covers
    variants that multiply by 1 + w.
    """
    if isinstance(module, nn.LayerNorm) and type(module).forward is nn.LayerNorm.forward:
        return layer_norm(inputs, module.normalized_shape, eps=module.eps)
    weight = module.get_parameter("weight")
    ones, zeros = torch.ones_like(weight), torch.zeros_like(weight)
    at_one = functional_call(module, {"weight": ones}, (inputs,))
    return at_one - functional_call(module, {"weight": zeros}, (inputs,))


def scales_rows(module: nn.Embedding) -> bool:
    """Whether it may do more than look rows up, as the scaled embeddings of Gemma and BART do."""
    return type(module).forward is not nn.Embedding.forward


@torch.no_grad()
def row_factors(module: nn.Embedding, ids: Tensor) -> Tensor:
    """What an embedding that scales its rows multiplies them by, in the shape of its result.

    The result is linear in the weight, so this is the result of a weight of ones.
    """
    ones = module.weight.new_ones(1, 1).expand_as(module.weight)
    return functional_call(module, {"weight": ones}, (ids,))


def _scales_its_input(module: nn.Module, names: list[str]) -> bool:
    """Whether it may be an RMSNorm of some family: one vector, and a result of one input."""
    return (
        names == ["weight"]
        and module.get_parameter("weight").ndim == 1
        and not list(module.children())
        and len(signature(module.forward).parameters) == 1
    )


def _known(names: list[str], rules: dict[str, Rule]) -> dict[str, Rule]:
    return {name: rules[name] for name in names if name in rules}
