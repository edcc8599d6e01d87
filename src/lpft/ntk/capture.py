"""What one stretch of a forward pass leaves for the kernel: inputs and gradients of its modules.

Gradients are taken with respect to the modules' *results*, one backward pass per seed; no
gradient of a weight is ever formed by autograd where a rule of :mod:`lpft.ntk.rules` holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lpft.ntk.rules import Rule, module_rules, normalized, row_factors, scales_rows

_MOSTLY = 0.9
"""Share of reached tokens above which leaving out the others would not pay for the copy."""


class NotBatched(Exception):
    """A module's result has no sample axis, so samples must be passed one by one."""


class RuleFailed(Exception):
    """The rules of a module cannot be applied to a call of it; ``parameters`` are its own."""

    def __init__(self, parameters: Sequence[str]) -> None:
        super().__init__(", ".join(parameters))
        self.parameters = tuple(parameters)


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


Contribution = Outer | Rows | Tensor
"""A parameter's share of some samples; a tensor is J itself, S x n x d."""


@dataclass
class Call:
    """One call of a module: its input, its result, and the rules of its wanted parameters."""

    name: str
    module: nn.Module
    rules: dict[str, Rule]
    inputs: Tensor
    result: Tensor


@dataclass
class Recorder:
    """Forward hooks that keep the calls of the modules that own the wanted parameters.

    Args:
        modules: by name, with the rules of their wanted parameters by the parameter's full name.
        samples: n of the batch that is about to pass.

    Raises:
        NotBatched: a result lacks the sample axis and is no embedding to be repeated along it.
    """

    modules: dict[str, tuple[nn.Module, dict[str, Rule]]]
    samples: int = 1
    enabled: bool = False
    calls: list[Call] = field(default_factory=list)
    _handles: list[Any] = field(default_factory=list)

    def __enter__(self) -> "Recorder":
        for name, (module, rules) in self.modules.items():

            def keep(
                module: nn.Module,
                arguments: tuple[Any, ...],
                result: Any,
                name: str = name,
                rules: dict[str, Rule] = rules,
            ) -> Any:
                return self._keep(name, module, rules, arguments, result)

            self._handles.append(module.register_forward_hook(keep))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.calls.clear()

    def _keep(
        self,
        name: str,
        module: nn.Module,
        rules: dict[str, Rule],
        arguments: tuple[Any, ...],
        result: Any,
    ) -> Any:
        if not self.enabled or not torch.is_grad_enabled() or not isinstance(result, Tensor):
            return None
        # Called by keywords, or with a shape as RoFormer's positions are: the comparison with
        # autograd finds that no share came of it.
        if not arguments or not isinstance(arguments[0], Tensor):
            return None
        inputs = arguments[0]
        embedding = isinstance(module, nn.Embedding)
        # A list of ids has no sample axis, even if there are as many of them as samples.
        shared = (embedding and inputs.ndim == 1) or result.shape[0] != self.samples
        if self.samples > 1 and shared:
            if not embedding:
                raise NotBatched(name)
            # Positions are looked up once for all samples: give each sample a result of its own.
            lead = (1,) if result.ndim == 2 else ()
            result = result.reshape(*lead, *result.shape)
            result = result.expand(self.samples, *result.shape[1:])
            inputs = inputs.reshape(*lead, *inputs.shape)
            inputs = inputs.expand(self.samples, *inputs.shape[1:])
        handed_on = result
        if not result.requires_grad:
            result = result.detach().requires_grad_()
            # What follows may write into it, as CTRL does, which autograd forbids of a leaf.
            handed_on = result.clone()
        self.calls.append(Call(name, module, rules, inputs.detach(), result))
        return handed_on


def wanted_modules(
    encoder: nn.Module, wanted: Sequence[str]
) -> tuple[dict[str, tuple[nn.Module, dict[str, Rule]]], list[str]]:
    """The modules that own the wanted parameters with a rule, and the parameters without one.

    A parameter that several modules share goes by its first name, as in ``named_parameters``.
    """
    first_names = {id(parameter): name for name, parameter in encoder.named_parameters()}
    asked = set(wanted)
    modules: dict[str, tuple[nn.Module, dict[str, Rule]]] = {}
    ruled: set[str] = set()
    for module_name, module in encoder.named_modules():
        rules = {}
        for local, rule in module_rules(module).items():
            name = first_names[id(getattr(module, local))]
            if name in asked:
                rules[name] = rule
        if rules:
            modules[module_name] = (module, rules)
            ruled.update(rules)
    return modules, [name for name in wanted if name not in ruled]


def pull_back(
    results: Sequence[Tensor],
    seeds: Sequence[Sequence[Tensor]],
    inputs: Sequence[Tensor],
    calls: Sequence[Call],
    parameters: dict[str, Tensor],
) -> tuple[list[list[Tensor | None]], list[list[Tensor | None]], dict[str, Tensor]]:
    """One backward pass per seed through a recorded stretch.

    Args:
        results: the stretch's outputs.
        seeds: S lists of the gradients at ``results``.
        inputs: tensors whose gradients are handed on.
        calls: the recorded calls.
        parameters: those that autograd itself must treat; the batch then holds one sample.

    Returns:
        per seed the gradients at ``inputs``; per call the S gradients at its result; J (S x 1 x
        numel) of the parameters that the stretch uses. None stands for zero.
    """
    targets = [*inputs, *(call.result for call in calls), *parameters.values()]
    rooted = [index for index, result in enumerate(results) if result.requires_grad]
    handed_on: list[list[Tensor | None]] = []
    at_results: list[list[Tensor | None]] = [[] for _ in calls]
    at_parameters: dict[str, list[Tensor | None]] = {name: [] for name in parameters}
    for number, seed in enumerate(seeds):
        gradients: Sequence[Tensor | None] = [None] * len(targets)
        if rooted and targets:
            gradients = torch.autograd.grad(
                [results[index] for index in rooted],
                targets,
                [seed[index] for index in rooted],
                retain_graph=number + 1 < len(seeds),
                allow_unused=True,
            )
        handed_on.append(list(gradients[: len(inputs)]))
        for place in range(len(calls)):
            at_results[place].append(gradients[len(inputs) + place])
        for place, name in enumerate(parameters):
            at_parameters[name].append(gradients[len(inputs) + len(calls) + place])
    jacobians = {
        name: torch.stack(
            [(torch.zeros_like(parameters[name]) if g is None else g).reshape(1, -1) for g in rows]
        )
        for name, rows in at_parameters.items()
        if any(gradient is not None for gradient in rows)
    }
    return handed_on, at_results, jacobians


def call_contributions(
    call: Call, gradients: Sequence[Tensor | None], samples: int
) -> dict[str, Contribution]:
    """The share of one call in each of its parameters; parameters without gradient are left out.

    Raises:
        RuleFailed: the module does not compute what its type lets expect.
    """
    if all(gradient is None for gradient in gradients):
        return {}
    per_seed = [
        torch.zeros_like(call.result) if gradient is None else gradient for gradient in gradients
    ]
    try:
        return _shares(call, per_seed, samples)
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise RuleFailed(list(call.rules)) from error


def _shares(call: Call, gradients: Sequence[Tensor], samples: int) -> dict[str, Contribution]:
    tokenwise = [gradient.reshape(samples, -1, gradient.shape[-1]) for gradient in gradients]
    scale = None
    shares: dict[str, Contribution] = {}
    for name, rule in call.rules.items():
        if rule is Rule.OUTER:
            inputs = call.inputs.reshape(samples, -1, call.inputs.shape[-1])
            shares[name] = Outer(inputs, tokenwise)
        elif rule is Rule.ROWS:
            assert isinstance(call.module, nn.Embedding)
            ids = call.inputs.reshape(samples, -1)
            at_rows = tokenwise
            if scales_rows(call.module):
                factor = row_factors(call.module, call.inputs).reshape(tokenwise[0].shape)
                at_rows = [gradient * factor for gradient in tokenwise]
            shares[name] = _sum_equal_ids(ids, at_rows, call.module.padding_idx)
        elif rule is Rule.SHIFT:
            shares[name] = torch.stack([gradient.sum(1) for gradient in tokenwise])
        else:
            if scale is None:
                scale = normalized(call.module, call.inputs).reshape(tokenwise[0].shape)
            shares[name] = torch.stack([(gradient * scale).sum(1) for gradient in tokenwise])
    return shares


def merge_uses(uses: Sequence[Contribution]) -> Contribution:
    """One parameter's share from several calls on the same samples.

    J of a linear weight is a sum over tokens, so the uses' tokens are put side by side; rows of
    an embedding are summed by id, and vectors are summed.
    """
    first = uses[0]
    if len(uses) == 1:
        return first
    if isinstance(first, Outer):
        outers = [use for use in uses if isinstance(use, Outer)]
        return Outer(
            torch.cat([outer.inputs for outer in outers], 1),
            [torch.cat(seed, 1) for seed in zip(*(o.gradients for o in outers), strict=True)],
        )
    if isinstance(first, Rows):
        return _merge_rows([use for use in uses if isinstance(use, Rows)])
    return torch.stack([use for use in uses if isinstance(use, Tensor)]).sum(0)


def active_tokens(outer: Outer) -> Outer | None:
    """The share without tokens that no gradient reaches; None if none is left.

    Padding has no gradient, and above the last attention a pooled token is the only one with any.
    """
    length = outer.inputs.shape[1]
    # One entry that is not zero shows that its token is reached: mostly there is no need to look
    # at the others.
    shown = torch.stack([gradient[..., 0].ne(0) for gradient in outer.gradients]).any(0)
    if int(shown.sum(1).max()) > _MOSTLY * length:
        return outer
    reached = torch.stack([gradient.ne(0).any(-1) for gradient in outer.gradients]).any(0)
    most = int(reached.sum(1).max())
    if most == 0:
        return None
    if most > _MOSTLY * length:
        return outer
    kept = torch.sort((~reached).to(torch.uint8), dim=1, stable=True).indices[:, :most]
    return Outer(
        _take_tokens(outer.inputs, kept),
        [_take_tokens(gradient, kept) for gradient in outer.gradients],
    )


def _take_tokens(states: Tensor, kept: Tensor) -> Tensor:
    return states.gather(1, kept.unsqueeze(-1).expand(-1, -1, states.shape[-1]))


def _sum_equal_ids(ids: Tensor, gradients: Sequence[Tensor], padding: int | None) -> Rows:
    """Gradients of equal ids summed within each sample; ids are n x T, gradients n x T x h."""
    equal = ids.unsqueeze(2) == ids.unsqueeze(1)
    first = ~equal.tril(-1).any(-1)
    if padding is not None:
        first &= ids != padding
    sums = torch.stack([(equal.to(gradient.dtype) @ gradient)[first] for gradient in gradients])
    samples = torch.arange(ids.shape[0], device=ids.device).unsqueeze(1).expand_as(ids)
    return Rows(ids[first], samples[first], sums)


def _merge_rows(uses: Sequence[Rows]) -> Rows:
    ids = torch.cat([use.ids for use in uses])
    samples = torch.cat([use.samples for use in uses])
    vectors = torch.cat([use.vectors for use in uses], 1)
    pairs, places, counts = torch.unique(
        torch.stack([samples, ids]), dim=1, return_inverse=True, return_counts=True
    )
    # Sums of neighbours, in their order: index_add_ on CUDA has none, and no bit is sure there.
    order = torch.argsort(places, stable=True)
    sums = torch.segment_reduce(
        vectors[:, order].transpose(0, 1).contiguous(), "sum", lengths=counts, axis=0, unsafe=True
    )
    return Rows(pairs[1], pairs[0], sums.transpose(0, 1).contiguous())
