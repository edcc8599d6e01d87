"""Naive implementations to compare with: plain autograd, one text and one logit at a time."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.overrides import TorchFunctionMode

from lpft.data.tokens import Tokens
from lpft.model import LinearHeadClassifier


class DoubleThroughout(TorchFunctionMode):
    """Leaves float64 tensors as they are where transformers rounds them to float32.

    RMSNorm, rotary embeddings, routers and eager softmax cast to float32 whatever the model's
    dtype, forward and backward: of a float64 Jacobian only 7 digits would be left.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if args and isinstance(args[0], Tensor) and args[0].dtype == torch.float64:
            if func is Tensor.float:
                return args[0]
            args = tuple(_double_for_single(argument) for argument in args)
            kwargs = {name: _double_for_single(value) for name, value in kwargs.items()}
        return func(*args, **kwargs)


def _double_for_single(argument: Any) -> Any:
    return torch.float64 if argument is torch.float32 else argument


def explicit_features(model: nn.Module, tokens: Tokens) -> Tensor:
    """phi, N x h, in float64, each text read alone and without padding."""
    double = _in_double(model)
    with DoubleThroughout():
        return torch.cat([_features(double, tokens, row).detach() for row in range(len(tokens))])


def explicit_jacobian(model: nn.Module, tokens: Tokens, names: Sequence[str]) -> Tensor:
    """d f_c(x_n) / d theta, N x C x P, in float64, of ``f = head(phi)`` in evaluation mode.

    ``names`` are names of ``model.named_parameters()``; the P columns are theirs, in that order. A
    text is read alone, without padding, and each logit has its own call of ``autograd.grad``. The
    logits are not divided by the temperature. ``model`` is not changed; PEFT may wrap it.
    """
    double = _in_double(model)
    named = dict(double.named_parameters())
    parameters = [named[name].requires_grad_() for name in names]
    rows = []
    with DoubleThroughout():
        for row in range(len(tokens)):
            logits = _classifier(double).head(_features(double, tokens, row))[0]
            for logit in logits:
                gradients = torch.autograd.grad(
                    logit, parameters, retain_graph=True, materialize_grads=True, allow_unused=True
                )
                rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows).unflatten(0, (len(tokens), -1))


def explicit_ntk(model: nn.Module, a: Tokens, b: Tokens, names: Sequence[str]) -> Tensor:
    """``<d f_c(x_n), d f_d(x_m)>`` over the named parameters, N x C x M x C, in float64."""
    return contract(explicit_jacobian(model, a, names), explicit_jacobian(model, b, names))


def directional_derivative(
    model: nn.Module, tokens: Tokens, names: Sequence[str], direction: Tensor, step: float
) -> Tensor:
    """``d f(x_n; theta + s direction) / d s`` at 0, N x C, by the central difference of step."""
    double = _in_double(model)
    named = dict(double.named_parameters())
    parameters = [named[name] for name in names]
    start = parameters_to_vector(parameters).detach()
    logits = []
    with torch.no_grad(), DoubleThroughout():
        for shift in (step, -step):
            vector_to_parameters(start + shift * direction, parameters)
            features = [_features(double, tokens, row) for row in range(len(tokens))]
            logits.append(_classifier(double).head(torch.cat(features)))
    return (logits[0] - logits[1]) / (2 * step)


def explicit_kernels(
    model: nn.Module, a: Tokens, b: Tokens, names: Sequence[str]
) -> dict[str, Tensor]:
    """The share of each named parameter in :func:`explicit_ntk`, by its name."""
    named = dict(model.named_parameters())
    sizes = [named[name].numel() for name in names]
    left = explicit_jacobian(model, a, names).split(sizes, dim=2)
    right = explicit_jacobian(model, b, names).split(sizes, dim=2)
    return {name: contract(one, other) for name, one, other in zip(names, left, right, strict=True)}


def contract(left: Tensor, right: Tensor) -> Tensor:
    """The products of all rows of two Jacobians: N x C x P and M x C x P to N x C x M x C."""
    return torch.einsum("ncp,mdp->ncmd", left, right)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """``||found - expected|| / ||expected||`` of float64 tensors of one shape."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype == torch.float64
    return float(torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected))


def encoder_names(model: nn.Module) -> list[str]:
    """The names of the encoder's parameters, adapters included."""
    return [name for name, _ in model.named_parameters() if "encoder" in name.split(".")[:3]]


def head_names(model: nn.Module) -> list[str]:
    """The names of V and, where there is one, b: of PEFT's two copies the one in use."""
    found = [name for name, _ in model.named_parameters() if "head" in name.split(".")[:3]]
    return [name for name in found if "original_module" not in name]


def trainable_names(model: nn.Module) -> list[str]:
    """The names of the parameters that require a gradient."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def _in_double(model: nn.Module) -> nn.Module:
    return deepcopy(model).double().eval()


def _classifier(model: nn.Module) -> LinearHeadClassifier:
    return model if isinstance(model, LinearHeadClassifier) else model.get_base_model()


def _features(model: nn.Module, tokens: Tokens, row: int) -> Tensor:
    return _classifier(model).features(**tokens.batch([row]))


def module_jacobian(
    module: nn.Module, batch: dict[str, Tensor], outputs: Callable[..., Tensor]
) -> tuple[Tensor, list[str]]:
    """d f_k(x_n) / d theta, N x K x P, in float64, of any module; and the P parameters' names.

    ``batch`` has its samples along the first axis; each passes alone.
    """
    double = _in_double(module).requires_grad_(True)
    parameters = dict(double.named_parameters())
    rows = []
    with DoubleThroughout():
        for row in range(len(next(iter(batch.values())))):
            sample = {name: tensor[row : row + 1] for name, tensor in batch.items()}
            sample = {n: t.double() if t.is_floating_point() else t for n, t in sample.items()}
            of_sample = []
            for output in outputs(double, sample)[0]:
                gradients = torch.autograd.grad(
                    output,
                    list(parameters.values()),
                    retain_graph=True,
                    materialize_grads=True,
                    allow_unused=True,
                )
                of_sample.append(torch.cat([gradient.flatten() for gradient in gradients]))
            rows.append(torch.stack(of_sample))
    names = [name for name, parameter in parameters.items() for _ in range(parameter.numel())]
    return torch.stack(rows), names


class Square(torch.autograd.Function):
    """x^2, differentiable twice backwards and not forwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * gradient


class WithoutForwardMode(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Square.apply(x)
