"""What one stretch of a forward pass leaves for the kernel: inputs and gradients of its modules.

Gradients are taken with respect to the modules' *results*, one backward pass per cotangent. Where
a :class:`Rule` holds, the gradient of a weight follows from them and is never formed by autograd.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import layer_norm
from transformers.pytorch_utils import Conv1D

_MOSTLY = 0.9
"""Fraction of tokens with a gradient above which dropping the others would not pay for the copy."""


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


Modules = dict[str, tuple[nn.Module, dict[str, Rule]]]
"""Modules by name, with the rules of their wanted parameters by the parameter's full name."""


@dataclass
class Outer:
    """A linear weight's share of n samples: ``J[s, n] = gradients[s][n]^T inputs[n]``.

    ``inputs`` is n x T x a, each of the S gradients n x T x b.
    """

    inputs: Tensor
    gradients: list[Tensor]


@dataclass
class Rows:
    """An embedding's share, U rows: ``vectors[:, u]`` (S x U x h) belong to id ``ids[u]``.

    ``samples`` are the rows' samples; within a sample an id occurs once.
    """

    ids: Tensor
    samples: Tensor
    vectors: Tensor


Share = Outer | Rows | Tensor
"""A parameter's share of the gradients of n samples; a tensor is J itself, S x n x d."""


class NotBatched(Exception):
    """A module's result has no sample axis, so samples must be passed one by one."""


class RuleFailed(Exception):
    """The rules of a module do not fit a call of it; the arguments are its parameters' names."""


def wanted_modules(encoder: nn.Module, wanted: Sequence[str]) -> tuple[Modules, list[str]]:
    """The modules that own the wanted parameters with a rule, and the parameters without one.

    A parameter that several modules share goes by its first name, as in ``named_parameters``.
    """
    first_names = {id(parameter): name for name, parameter in encoder.named_parameters()}
    names = set(wanted)
    modules: Modules = {}
    ruled: set[str] = set()
    for module_name, module in encoder.named_modules():
        rules = {
            first_names[id(getattr(module, local))]: rule
            for local, rule in _module_rules(module).items()
        }
        rules = {name: rule for name, rule in rules.items() if name in names}
        if rules:
            modules[module_name] = (module, rules)
            ruled.update(rules)
    return modules, [name for name in wanted if name not in ruled]


def _module_rules(module: nn.Module) -> dict[str, Rule]:
    """The rule of each of the module's own parameters, by name; empty where none is known.

    This goes by the module's type and may be wrong: the gradient check compares every parameter
    with autograd on a small batch, and leaves those that differ to autograd.
    """
    own = [name for name, _ in module.named_parameters(recurse=False)]
    rules: dict[str, Rule] = {}
    if isinstance(module, nn.Linear | Conv1D):
        rules = {"weight": Rule.OUTER, "bias": Rule.SHIFT}
    elif isinstance(module, nn.Embedding):
        if module.max_norm is None and not module.scale_grad_by_freq:
            rules = {"weight": Rule.ROWS}
    elif isinstance(module, nn.LayerNorm):
        rules = {"weight": Rule.SCALE, "bias": Rule.SHIFT}
    elif own == ["weight"] and not list(module.children()):
        # One vector and a result of one input: an RMSNorm of some family.
        vector = module.get_parameter("weight").ndim == 1
        if vector and len(signature(module.forward).parameters) == 1:
            rules = {"weight": Rule.SCALE}
    return {name: rules[name] for name in own if name in rules}


@dataclass
class Call:
    """One call of a module: its input, its result, and the rules of its wanted parameters."""

    module: nn.Module
    rules: dict[str, Rule]
    inputs: Tensor
    result: Tensor


@dataclass
class Recorder:
    """Forward hooks that keep the calls of ``modules``, once ``enabled``.

    ``samples`` is the number n of texts in the batch that is about to pass.

    Raises:
        NotBatched: a result lacks the sample axis and is no embedding to be repeated along it.
    """

    modules: Modules
    samples: int = 1
    enabled: bool = False
    calls: list[Call] = field(default_factory=list)
    _handles: list[Any] = field(default_factory=list)

    def __enter__(self) -> "Recorder":
        for name, (module, rules) in self.modules.items():
            hook = partial(self._keep, name, rules)
            self._handles.append(module.register_forward_hook(hook))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.calls.clear()

    def _keep(
        self,
        name: str,
        rules: dict[str, Rule],
        module: nn.Module,
        arguments: tuple[Any, ...],
        result: Any,
    ) -> Any:
        """Keep a call; what is returned replaces the module's result."""
        if not self.enabled or not torch.is_grad_enabled() or not isinstance(result, Tensor):
            return None
        # A call by keywords, or with a shape (RoFormer's positions), leaves no share: comparing
        # with autograd finds that out.
        if not arguments or not isinstance(arguments[0], Tensor):
            return None
        inputs = arguments[0]
        embedding = isinstance(module, nn.Embedding)
        # A list of ids has no sample axis, even if there are as many of them as samples.
        shared = (embedding and inputs.ndim == 1) or result.shape[0] != self.samples
        if self.samples > 1 and shared:
            if not embedding:
                raise NotBatched(name)
            # Positions are looked up once for all samples. A gradient at that result would be
            # summed over the batch: give each sample a result of its own.
            lead = (1,) if result.ndim == 2 else ()
            result = result.reshape(*lead, *result.shape)
            result = result.expand(self.samples, *result.shape[1:])
            inputs = inputs.reshape(*lead, *inputs.shape)
            inputs = inputs.expand(self.samples, *inputs.shape[1:])
        handed_on = result
        if not result.requires_grad:
            result = result.detach().requires_grad_()
            # What follows may write into it, as CTRL does, which autograd forbids for a leaf.
            handed_on = result.clone()
        self.calls.append(Call(module, rules, inputs.detach(), result))
        return handed_on


Gradients = list[Tensor | None]
"""The gradients at one tensor, by cotangent; None stands for zero."""


def pull_back(
    results: Sequence[Tensor],
    cotangents: Sequence[Sequence[Tensor]],
    inputs: Sequence[Tensor],
    calls: Sequence[Call],
    parameters: dict[str, Tensor],
) -> tuple[list[Gradients], list[Gradients], dict[str, Tensor]]:
    """One backward pass per cotangent through a recorded stretch.

    Args:
        results: the stretch's outputs.
        cotangents: S lists of the gradients at ``results``.
        inputs: tensors whose gradients are handed on.
        calls: the recorded calls.
        parameters: those left to autograd; the batch then holds one sample.

    Returns:
        the gradients at each input; those at each call's result; J (S x 1 x numel) of the
        parameters that the stretch uses.
    """
    targets = [*inputs, *(call.result for call in calls), *parameters.values()]
    rooted = [index for index, result in enumerate(results) if result.requires_grad]
    passes: list[Sequence[Tensor | None]] = []
    for number, cotangent in enumerate(cotangents):
        if not rooted or not targets:
            passes.append([None] * len(targets))
            continue
        passes.append(
            torch.autograd.grad(
                [results[index] for index in rooted],
                targets,
                [cotangent[index] for index in rooted],
                retain_graph=number + 1 < len(cotangents),
                allow_unused=True,
            )
        )
    by_target = [[gradients[index] for gradients in passes] for index in range(len(targets))]
    first, last = len(inputs), len(inputs) + len(calls)
    jacobians = {
        name: torch.stack(
            [(torch.zeros_like(parameter) if g is None else g).reshape(1, -1) for g in gradients]
        )
        for (name, parameter), gradients in zip(parameters.items(), by_target[last:], strict=True)
        if any(gradient is not None for gradient in gradients)
    }
    return by_target[:first], by_target[first:last], jacobians


def call_shares(call: Call, gradients: Gradients, samples: int) -> dict[str, Share]:
    """The share of one call in each of its parameters; parameters without gradient are left out.

    Raises:
        RuleFailed: the module does not compute what its type suggests.
    """
    if all(gradient is None for gradient in gradients):
        return {}
    try:
        tokenwise = [
            (torch.zeros_like(call.result) if gradient is None else gradient).reshape(
                samples, -1, call.result.shape[-1]
            )
            for gradient in gradients
        ]
        return {name: _share(call, rule, tokenwise) for name, rule in call.rules.items()}
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise RuleFailed(*call.rules) from error


def _share(call: Call, rule: Rule, gradients: list[Tensor]) -> Share:
    """The share of one call in one parameter; each of the S gradients is n x T x b."""
    like = gradients[0]
    if rule is Rule.SHIFT:
        return torch.stack([gradient.sum(1) for gradient in gradients])
    if rule is Rule.SCALE:
        xhat = _normalized(call.module, call.inputs).reshape(like.shape)
        return torch.stack([(gradient * xhat).sum(1) for gradient in gradients])
    if rule is Rule.OUTER:
        return Outer(call.inputs.reshape(len(like), -1, call.inputs.shape[-1]), gradients)
    assert isinstance(call.module, nn.Embedding)
    if type(call.module).forward is not nn.Embedding.forward:
        # It may do more than look rows up: the scaled embeddings of Gemma and BART multiply them.
        # The result is linear in the weight, so a weight of ones gives the factors.
        ones = call.module.weight.new_ones(1, 1).expand_as(call.module.weight)
        with torch.no_grad():
            factors = functional_call(call.module, {"weight": ones}, (call.inputs,))
        gradients = [gradient * factors.reshape(like.shape) for gradient in gradients]
    return _sum_equal_ids(call.inputs.reshape(len(like), -1), gradients, call.module.padding_idx)


@torch.no_grad()
def _normalized(module: nn.Module, inputs: Tensor) -> Tensor:
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


def _sum_equal_ids(ids: Tensor, gradients: Sequence[Tensor], padding: int | None) -> Rows:
    """Gradients of equal ids summed within each sample; ids are n x T, gradients n x T x h."""
    equal = ids.unsqueeze(2) == ids.unsqueeze(1)
    first = ~equal.tril(-1).any(-1)
    if padding is not None:
        first &= ids != padding
    sums = torch.stack([(equal.to(gradient.dtype) @ gradient)[first] for gradient in gradients])
    samples = torch.arange(ids.shape[0], device=ids.device).unsqueeze(1).expand_as(ids)
    return Rows(ids[first], samples[first], sums)


def merge_uses(uses: Sequence[Share]) -> Share:
    """One parameter's share from several calls on the same samples.

    J of a linear weight is a sum over tokens, so the uses' tokens are put side by side; rows of an
    embedding are summed by id, and vectors are summed.
    """
    first = uses[0]
    if len(uses) == 1:
        return first
    if isinstance(first, Outer):
        outers = [use for use in uses if isinstance(use, Outer)]
        return Outer(
            torch.cat([outer.inputs for outer in outers], 1),
            [torch.cat(parts, 1) for parts in zip(*(o.gradients for o in outers), strict=True)],
        )
    if isinstance(first, Rows):
        return _merge_rows([use for use in uses if isinstance(use, Rows)])
    return torch.stack([use for use in uses if isinstance(use, Tensor)]).sum(0)


def _merge_rows(uses: Sequence[Rows]) -> Rows:
    ids = torch.cat([use.ids for use in uses])
    samples = torch.cat([use.samples for use in uses])
    vectors = torch.cat([use.vectors for use in uses], 1)
    pairs, pair_of_row, counts = torch.unique(
        torch.stack([samples, ids]), dim=1, return_inverse=True, return_counts=True
    )
    # Sum neighbours in their order: index_add_ on CUDA adds in no fixed order, so that its last
    # bits change from call to call.
    order = torch.argsort(pair_of_row, stable=True)
    sums = torch.segment_reduce(
        vectors[:, order].transpose(0, 1).contiguous(), "sum", lengths=counts, axis=0, unsafe=True
    )
    return Rows(pairs[1], pairs[0], sums.transpose(0, 1).contiguous())


def active_tokens(outer: Outer) -> Outer | None:
    """The share without tokens that no gradient reaches; None if none is left.

    Padding has no gradient, and above the last attention a pooled token is the only one with any.
    """
    length = outer.inputs.shape[1]
    # One nonzero entry shows that a token has a gradient: the first column is mostly enough.
    shown = torch.stack([gradient[..., 0].ne(0) for gradient in outer.gradients]).any(0)
    if int(shown.sum(1).max()) > _MOSTLY * length:
        return outer
    reached = torch.stack([gradient.ne(0).any(-1) for gradient in outer.gradients]).any(0)
    most = int(reached.sum(1).max())
    if most == 0:
        return None
    if most > _MOSTLY * length:
        return outer
    # Each sample's tokens with a gradient come first, in order; samples with fewer fill up with
    # others, whose gradient is zero.
    order = torch.sort((~reached).to(torch.uint8), dim=1, stable=True).indices[:, :most, None]
    inputs, *gradients = (
        states.gather(1, order.expand(-1, -1, states.shape[-1]))
        for states in (outer.inputs, *outer.gradients)
    )
    return Outer(inputs, gradients)
