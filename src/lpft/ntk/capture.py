"""Inputs and gradients of the modules in one stretch of a forward pass: what kernels are made of.

Gradients are taken with respect to the modules' *results*, one backward pass per cotangent. Where
a :class:`Rule` holds, the gradient of a weight follows from them and is never formed by autograd:
for a linear layer ``y = x W^T`` it is ``J[s, n] = sum_t g[s, n, t] x[n, t]^T``, so the inputs x
(n x T x a) and the gradients g (S x n x T x b) are all that a kernel needs of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call
from torch.nn import functional
from torch.nn.functional import layer_norm, linear, multi_head_attention_forward
from torch.nn.modules.batchnorm import _BatchNorm
from transformers.pytorch_utils import Conv1D

_MOSTLY = 0.9
"""Fraction of tokens with a gradient above which dropping the others would not pay for the copy."""


class Rule(Enum):
    """How a parameter's gradient for one sample follows from a call's input x and gradient g.

    With x (T x a) and g (T x b), the derivative of one output with respect to the call's result:

    - ``OUTER``: a linear layer's weight, ``g^T x`` (b x a; GPT-2's Conv1D keeps its transpose). A
      convolution's too: its tokens are the places of the result, x the patch that each one sees.
    - ``FORMED``: the same of a convolution, but formed at once: of one with groups, and where the
      patches take more room than the gradient itself.
    - ``ROWS``: an embedding's weight; row v is the sum of g_t over the tokens with id v.
    - ``SCALE``: a normalisation's weight, ``sum_t g_t * xhat_t`` with the normalised input xhat,
      and every vector on which a module's result depends entry by entry, with its derivative.
    - ``SHIFT``: a bias, ``sum_t g_t``.
    """

    OUTER = "outer"
    FORMED = "formed"
    ROWS = "rows"
    SCALE = "scale"
    SHIFT = "shift"


Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d

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


@dataclass
class Tied:
    """The share of an embedding that is a linear weight as well: J is the sum of the two."""

    outer: Outer
    rows: Rows


Share = Outer | Rows | Tied | Tensor
"""A parameter's share of the gradients of n samples; a tensor is J itself, S x n x d."""


class NotBatched(Exception):
    """A module's result has no sample axis, so samples must be passed one by one."""


class RuleFailed(Exception):
    """The rules of a module do not fit a call of it; the arguments are its parameters' names."""


def modules_with_rules(encoder: nn.Module, parameters: Sequence[str]) -> tuple[Modules, list[str]]:
    """The modules that own these parameters with a rule, and the parameters without one.

    A parameter that several modules share goes by its first name, as in ``named_parameters``.
    """
    first_names = {id(parameter): name for name, parameter in encoder.named_parameters()}
    names = set(parameters)
    modules: Modules = {}
    ruled: set[str] = set()
    # Every owner of a shared parameter is among the modules: each call of one adds to its share.
    for module_name, module in encoder.named_modules():
        rules = {
            first_names[id(getattr(module, local))]: rule
            for local, rule in _module_rules(module).items()
        }
        rules = {name: rule for name, rule in rules.items() if name in names}
        if rules:
            modules[module_name] = (module, rules)
            ruled.update(rules)
    return modules, [name for name in parameters if name not in ruled]


def transposed_weights(modules: Modules) -> set[str]:
    """The weights that their modules keep as a x b, transposed to the gradient ``g^T x``, b x a."""
    return {
        name for module, rules in modules.values() for name in rules if isinstance(module, Conv1D)
    }


def _module_rules(module: nn.Module) -> dict[str, Rule]:
    """The rule of each of the module's own parameters, by name; empty where none is known.

    This goes by the module's type and may be wrong: the gradient check compares every parameter
    with autograd on a small batch, and leaves those that differ to autograd.
    """
    parameters = dict(module.named_parameters(recurse=False))
    rules: dict[str, Rule] = {}
    if isinstance(module, nn.Linear | Conv1D):
        rules = {"weight": Rule.OUTER, "bias": Rule.SHIFT}
    elif isinstance(module, Convolution):
        weight = Rule.OUTER if module.groups == 1 else Rule.FORMED
        rules = {"weight": weight, "bias": Rule.SHIFT}
    elif isinstance(module, nn.Embedding):
        # Renormalised rows or scaled gradients are no plain look-up.
        if module.max_norm is None and not module.scale_grad_by_freq:
            rules = {"weight": Rule.ROWS}
    elif isinstance(module, nn.LayerNorm | nn.GroupNorm | _BatchNorm):
        rules = {"weight": Rule.SCALE, "bias": Rule.SHIFT}
    elif isinstance(module, nn.MultiheadAttention):
        if _attends_plainly(module):
            rules = {"in_proj_weight": Rule.OUTER, "in_proj_bias": Rule.SHIFT}
    elif parameters and not list(module.children()):
        # Vectors and a result of one input: an RMSNorm of some family, or the scale of a layer.
        vectors = all(parameter.ndim == 1 for parameter in parameters.values())
        if vectors and len(signature(module.forward).parameters) == 1:
            rules = dict.fromkeys(parameters, Rule.SCALE)
    return {name: rules[name] for name in parameters if name in rules}


def _attends_plainly(module: nn.MultiheadAttention) -> bool:
    """Whether query, key and value have one weight in common and nothing is added to the keys."""
    return (
        type(module).forward is nn.MultiheadAttention.forward
        and module.in_proj_weight is not None
        and module.bias_k is None
        and not module.add_zero_attn
    )


@dataclass
class Call:
    """One call of a module, with the rules of its wanted parameters.

    ``result`` is the result's place in the graph: what is written into the tensor later, as some
    models do, does not change it. ``factors`` are those by which an embedding multiplies the rows
    that it looks up, as Gemma's and BART's do.
    """

    name: str
    module: nn.Module
    rules: dict[str, Rule]
    inputs: Tensor
    result: GradientEdge
    shape: torch.Size
    factors: Tensor | None = None


@dataclass
class Recorder:
    """Hooks that keep the calls of ``modules``, once ``enabled``.

    ``samples`` is the number n of texts in the batch that is about to pass. An
    ``nn.MultiheadAttention`` multiplies by its weights inside one function, where no hook sees its
    projections: within the context it has a forward that calls them one by one.
    """

    modules: Modules
    samples: int = 1
    enabled: bool = False
    calls: list[Call] = field(default_factory=list)
    _handles: list[Any] = field(default_factory=list)

    def __enter__(self) -> "Recorder":
        for name, (module, rules) in self.modules.items():
            if isinstance(module, nn.MultiheadAttention):
                forward = partial(self._attend, name, rules, module)
                object.__setattr__(module, "forward", forward)
            else:
                hook = partial(self._after_call, name, rules)
                self._handles.append(module.register_forward_hook(hook, with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        for module, _rules in self.modules.values():
            if isinstance(module, nn.MultiheadAttention):
                module.__dict__.pop("forward", None)
        self._handles.clear()
        self.calls.clear()

    def _after_call(
        self,
        name: str,
        rules: dict[str, Rule],
        module: nn.Module,
        positional: tuple[Any, ...],
        named: dict[str, Any],
        result: Any,
    ) -> Any:
        """Keep a call; what is returned replaces the module's result."""
        # A call that returns no tensor, or reads none, leaves no share. Where one was needed, the
        # comparison with autograd shows it.
        if not self.enabled or not torch.is_grad_enabled() or not isinstance(result, Tensor):
            return None
        if isinstance(module, nn.Embedding) and type(module).forward is not nn.Embedding.forward:
            ids, factors = _ids_and_factors(module, positional, named)
            return self._record(name, rules, module, ids, result, factors)
        inputs = next(iter((*positional, *named.values())), None)
        if not isinstance(inputs, Tensor):
            return None
        return self._record(name, rules, module, inputs, result)

    def _record(
        self,
        name: str,
        rules: dict[str, Rule],
        module: nn.Module,
        inputs: Tensor,
        result: Tensor,
        factors: Tensor | None = None,
    ) -> Tensor:
        """Keep a call; what is returned takes the result's place."""
        if not self.enabled or not torch.is_grad_enabled():
            return result
        looks_up = isinstance(module, nn.Embedding)
        # A list of ids has no sample axis, even if there are as many of them as samples.
        shared = inputs.ndim == 1 or result.shape[0] != self.samples
        if self.samples > 1 and looks_up and shared:
            # Positions are looked up once for all samples. A gradient at that result would be
            # summed over the batch: give each sample a result of its own, T x h -> n x T x h.
            lead = (1,) if result.ndim == 2 else ()
            result = result.reshape(*lead, *result.shape)
            result = result.expand(self.samples, *result.shape[1:])
            inputs = inputs.reshape(*lead, *inputs.shape)
            inputs = inputs.expand(self.samples, *inputs.shape[1:])
            if factors is not None:
                factors = factors.reshape(*lead, *factors.shape).expand_as(result)
        if not result.requires_grad:  # nothing before requires gradients: the graph begins here
            result = result.detach().requires_grad_()
        edge = get_gradient_edge(result)
        call = Call(name, module, rules, inputs.detach(), edge, result.shape, factors)
        self.calls.append(call)
        # What follows may write into the result, as CTRL and DeBERTa do. Autograd forbids that for
        # a leaf, and takes a view that is written into out of the graph, with the place kept here.
        # This is neither, and no copy: the result's own numbers are not needed again.
        return torch.ops.aten._unsafe_view.default(result, result.shape)

    def _attend(
        self,
        name: str,
        rules: dict[str, Rule],
        module: nn.MultiheadAttention,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The result of ``module`` in evaluation mode, with the projections as calls of their own.

        PyTorch's own function attends, with identities in their place, which change no digit.
        """
        weight, bias, width = module.in_proj_weight, module.in_proj_bias, module.embed_dim
        sequence_first = query.ndim == 3 and not module.batch_first

        def project(states: Tensor) -> Tensor:
            states = states.transpose(0, 1) if sequence_first else states  # n x T x h
            projected = linear(states, weight, bias)
            return self._record(name, rules, module, states, projected)

        # in_proj_weight (3h x h) holds the weights of query, key and value. Each distinct input is
        # multiplied by all of it, so that self-attention is a single call; of cross-attention's
        # inputs each uses its third, and the gradient of the rest is zero.
        projected = {id(states): states for states in (query, key, value)}
        thirds = {number: project(states).chunk(3, -1) for number, states in projected.items()}
        parts = [thirds[id(states)][n] for n, states in enumerate((query, key, value))]
        if query.ndim == 3:
            parts = [part.transpose(0, 1) for part in parts]
        identity = torch.eye(width, dtype=weight.dtype, device=weight.device)
        no_bias: Any = None  # biases are added already; the function's types demand a tensor
        attended, weights = multi_head_attention_forward(
            query=parts[0],
            key=parts[1],
            value=parts[2],
            embed_dim_to_check=width,
            num_heads=module.num_heads,
            in_proj_weight=None,
            in_proj_bias=None,
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=identity,
            out_proj_bias=no_bias,
            training=False,
            key_padding_mask=key_padding_mask,
            need_weights=need_weights,
            attn_mask=attn_mask,
            use_separate_proj_weight=True,
            q_proj_weight=identity,
            k_proj_weight=identity,
            v_proj_weight=identity,
            average_attn_weights=average_attn_weights,
            is_causal=is_causal,
        )
        if query.ndim == 3:
            attended = attended.transpose(0, 1)
        result = module.out_proj(attended)
        return (result.transpose(0, 1) if sequence_first else result), weights


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
        inputs: tensors whose gradients the position below needs.
        calls: the recorded calls.
        parameters: those left to autograd; the batch then holds one sample.

    Returns:
        the gradients at each input; those at each call's result; J (S x 1 x numel) of the
        parameters that the stretch uses.
    """
    # One call of autograd.grad per cotangent gives the gradients at all targets together. The graph
    # is freed by the last one.
    targets: list[Any] = [*inputs, *(call.result for call in calls), *parameters.values()]
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
    # Transposed: by target, then by cotangent.
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

    A result with several rows for each sample, as windows of an image, has those of the first one
    first: comparing with autograd finds out where it has not.

    Raises:
        NotBatched: the result lacks the sample axis.
        RuleFailed: the module does not compute what its type suggests.
    """
    like = next((gradient for gradient in gradients if gradient is not None), None)
    if like is None:  # no cotangent reaches the call, as of a pooler whose result is not used
        return {}
    if call.shape[0] % samples:
        raise NotBatched(call.name)
    filled = [torch.zeros_like(like) if gradient is None else gradient for gradient in gradients]
    try:
        return {
            name: _share(call, name, rule, filled, samples) for name, rule in call.rules.items()
        }
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise RuleFailed(*call.rules) from error


def _share(call: Call, name: str, rule: Rule, gradients: list[Tensor], samples: int) -> Share:
    """The share of one call in one parameter; each of the S gradients is as large as the result."""
    module, inputs = call.module, call.inputs
    local = name.rpartition(".")[2]
    if rule is Rule.FORMED:
        assert isinstance(module, Convolution)
        return torch.stack([_convolution_gradients(module, inputs, g, samples) for g in gradients])
    if rule in (Rule.SCALE, Rule.SHIFT):
        # J is a vector: the sum over tokens of g, or of g * xhat.
        size = getattr(module, local).numel()
        factor = _derivative(module, local, inputs) if rule is Rule.SCALE else None
        return torch.stack(
            [
                _as_tokens(call, g if factor is None else g * factor, samples, size).sum(1)
                for g in gradients
            ]
        )
    if rule is Rule.OUTER:
        # J = g^T x is not formed here: what is cheaper depends on the sizes (contract.py).
        patches = _patches(module, inputs) if isinstance(module, Convolution) else inputs
        return Outer(
            patches.reshape(samples, -1, patches.shape[-1]),
            [_as_tokens(call, g, samples, _output_size(call)) for g in gradients],
        )
    assert isinstance(module, nn.Embedding)  # Rule.ROWS
    if call.factors is not None:
        gradients = [gradient * call.factors for gradient in gradients]
    return _sum_equal_ids(
        inputs.reshape(samples, -1),
        [_as_tokens(call, g, samples, call.shape[-1]) for g in gradients],
        module.padding_idx,
    )


@torch.no_grad()
def _ids_and_factors(
    module: nn.Embedding, positional: tuple[Any, ...], named: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """The ids that a subclass of ``nn.Embedding`` looks up, and its factors on the rows.

    It may read anything, as a mask of which it counts the positions. The result is linear in the
    weight: a weight of ones gives the factors, and one whose rows are their numbers the ids.
    """
    weight = module.weight
    numbers = torch.arange(len(weight), dtype=weight.dtype, device=weight.device).unsqueeze(1)
    factors, ids = (
        functional_call(module, {"weight": rows.expand_as(weight)}, positional, named)
        for rows in (torch.ones_like(numbers), numbers)
    )
    # A factor of 0, as at padding, leaves 0 / 0; the share is then 0 whatever its id.
    return (ids / factors)[..., 0].nan_to_num().round().long(), factors


def _output_size(call: Call) -> int:
    """b, the numbers of a linear layer's or convolution's result at each token."""
    module = call.module
    return module.out_channels if isinstance(module, Convolution) else call.shape[-1]


def _as_tokens(call: Call, states: Tensor, samples: int, size: int) -> Tensor:
    """States of the result's shape as n x T x size, with the parameter's axis last."""
    module, shape = call.module, call.shape
    axis = len(shape) - 1
    if isinstance(module, Convolution):
        axis -= len(module.kernel_size)  # channels come before the places
    elif isinstance(module, nn.GroupNorm | _BatchNorm):
        axis = 1
    elif shape[-1] != size or getattr(module, "data_format", "") == "channels_first":
        # A norm or scale of channels: usually the first axis after that of the samples.
        axis = next((n for n in range(1, len(shape)) if shape[n] == size), axis)
    return states.movedim(axis, -1).reshape(samples, -1, size)


def _padded(module: Convolution, inputs: Tensor) -> Tensor:
    """A convolution's input as n x C x ..., with its padding."""
    if inputs.ndim == len(module.kernel_size) + 1:
        inputs = inputs.unsqueeze(0)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    # The widths of both sides of every axis, last first, also where they are given as "same".
    return functional.pad(inputs, module._reversed_padding_repeated_twice, mode)


def _patches(module: Convolution, inputs: Tensor) -> Tensor:
    """The patch under each place of a convolution's result, n x T x (C k) as in the weight."""
    windows = _padded(module, inputs)
    sizes = zip(module.kernel_size, module.stride, module.dilation, strict=True)
    for axis, (size, stride, dilation) in enumerate(sizes, 2):
        windows = windows.unfold(axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
    # n x C x places x offsets: channels go next to the offsets, as the weight has them.
    windows = windows.movedim(1, 1 + len(module.kernel_size))
    return windows.flatten(1, len(module.kernel_size)).flatten(2)


def _convolution_gradients(
    module: Convolution, inputs: Tensor, gradient: Tensor, samples: int
) -> Tensor:
    """The gradient of a convolution's weight for each sample, n x d.

    A convolution's own backward pass sums over the samples. So the n samples are laid side by side
    as channels (1 x n C x ...) of one convolution with n times as many groups, whose weight's
    gradient then has a part for each sample.
    """
    padded = _padded(module, inputs)
    count = len(padded)
    size = (count * module.out_channels, *module.weight.shape[1:])
    weights = torch.ops.aten.convolution_backward(
        gradient.reshape(1, size[0], *gradient.shape[-len(module.kernel_size) :]).contiguous(),
        padded.reshape(1, -1, *padded.shape[2:]).contiguous(),
        gradient.new_empty(1).expand(size),
        None,
        module.stride,
        [0] * len(module.kernel_size),
        module.dilation,
        False,
        [0],
        count * module.groups,
        [False, True, False],
    )[1]
    return weights.reshape(samples, count // samples, -1).sum(1)


@torch.no_grad()
def _derivative(module: nn.Module, local: str, inputs: Tensor) -> Tensor:
    """xhat, the derivative of a result with respect to a vector of its module, elementwise.

    Each entry of the result depends on one entry of the vector, so that the derivative along a
    vector of ones has them all.
    """
    if isinstance(module, nn.LayerNorm) and type(module).forward is nn.LayerNorm.forward:
        return layer_norm(inputs, module.normalized_shape, eps=module.eps)
    vector = module.get_parameter(local).detach()
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(vector, torch.ones_like(vector))
        result = forward_ad.unpack_dual(functional_call(module, {local: dual}, (inputs,)))
        return torch.zeros_like(result.primal) if result.tangent is None else result.tangent


def _sum_equal_ids(ids: Tensor, gradients: Sequence[Tensor], padding: int | None) -> Rows:
    """Gradients of equal ids summed within each sample; ids are n x T, gradients n x T x h."""
    equal = ids.unsqueeze(2) == ids.unsqueeze(1)  # n x T x T
    first = ~equal.tril(-1).any(-1)  # n x T: no earlier token has the same id
    if padding is not None:  # autograd gives the padding's row no gradient
        first &= ids != padding
    # Row t of equal @ g sums the gradients of all tokens with t's id; first occurrences are kept.
    sums = torch.stack([(equal.to(gradient.dtype) @ gradient)[first] for gradient in gradients])
    samples = torch.arange(ids.shape[0], device=ids.device).unsqueeze(1).expand_as(ids)
    return Rows(ids[first], samples[first], sums)


def merge_uses(uses: Sequence[Share]) -> Share:
    """One parameter's share from several calls on the same samples.

    J of a linear weight is a sum over tokens, so the uses' tokens are put side by side; rows of an
    embedding are summed by id, and vectors are summed. An embedding that is a linear weight as
    well has both.
    """
    if len(uses) == 1:
        return uses[0]
    parts = [part for use in uses for part in share_parts(use)]
    outers = [part for part in parts if isinstance(part, Outer)]
    rows = [part for part in parts if isinstance(part, Rows)]
    if outers and rows:
        return Tied(_merge_outers(outers), _merge_rows(rows))
    if outers:
        return _merge_outers(outers)
    if rows:
        return _merge_rows(rows)
    return torch.stack([part for part in parts if isinstance(part, Tensor)]).sum(0)


def share_parts(share: Share) -> tuple[Outer | Rows | Tensor, ...]:
    """A share as one or two of a single kind."""
    return (share.outer, share.rows) if isinstance(share, Tied) else (share,)


def _merge_outers(uses: Sequence[Outer]) -> Outer:
    if len(uses) == 1:
        return uses[0]
    return Outer(
        torch.cat([outer.inputs for outer in uses], 1),
        [torch.cat(parts, 1) for parts in zip(*(o.gradients for o in uses), strict=True)],
    )


def _merge_rows(uses: Sequence[Rows]) -> Rows:
    if len(uses) == 1:
        return uses[0]
    ids = torch.cat([use.ids for use in uses])
    samples = torch.cat([use.samples for use in uses])
    vectors = torch.cat([use.vectors for use in uses], 1)
    pairs, pair_of_row, counts = torch.unique(
        torch.stack([samples, ids]), dim=1, return_inverse=True, return_counts=True
    )
    # Rows of one (sample, id) are sorted next to each other and summed in that order: index_add_ on
    # CUDA adds in no fixed order, so that its last bits would change from call to call.
    order = torch.argsort(pair_of_row, stable=True)
    sums = torch.segment_reduce(
        vectors[:, order].transpose(0, 1).contiguous(), "sum", lengths=counts, axis=0, unsafe=True
    )
    return Rows(pairs[1], pairs[0], sums.transpose(0, 1).contiguous())


def active_share(share: Share) -> Share | None:
    """The share without tokens that no gradient reaches; None if none is left."""
    if isinstance(share, Outer):
        return active_tokens(share)
    if isinstance(share, Tied):
        outer = active_tokens(share.outer)
        return share.rows if outer is None else Tied(outer, share.rows)
    return share


def active_tokens(outer: Outer) -> Outer | None:
    """A linear weight's share without tokens that no gradient reaches; None if none is left.

    Padding has no gradient, and above the last attention a pooled token is the only one with any.
    """
    length = outer.inputs.shape[1]
    # One nonzero entry shows that a token has a gradient: usually the first column is enough, and
    # the whole gradients need not be read.
    nonzero = torch.stack([gradient[..., 0].ne(0) for gradient in outer.gradients]).any(0)
    if int(nonzero.sum(1).max()) > _MOSTLY * length:
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
