"""How the head of a stock classification model is made to compute ``V phi + b``."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lpft.errors import InputError
from lpft.export.weights import anchor, pair_differences, paired_rows

_AVERAGING_SCALE = 2.0**-16
_AVERAGING_GAIN = 2.0**44
_UNSOLVED = 1e-5


@dataclass(frozen=True)
class Activation:
    """``a(scale z) - a(-scale z) = gain scale z``, up to a relative error of (scale z)^2."""

    scale: float
    gain: float


EXACT = Activation(scale=1.0, gain=1.0)
"""ReLU and GELU: a(z) - a(-z) = z."""

SMALL = Activation(scale=2.0**-14, gain=2.0)
"""tanh, or a layer norm around its anchor: odd, and straight near 0."""


@dataclass(frozen=True)
class PairedHead:
    """A square layer, an activation, perhaps a layer norm, and a linear layer with a bias.

    ``dense``, ``norm`` and ``out`` are names of modules.
    """

    dense: str
    out: str
    activation: Activation
    norm: str | None = None

    def install(self, stock: PreTrainedModel, weight: Tensor, bias: Tensor) -> None:
        """Make the logits V phi + b, from V (C x h) and b (C).

        Raises:
            InputError: h is too small for C pairs.
        """
        dense, out = _linear(stock, self.dense), _linear(stock, self.out)
        width = dense.out_features
        check_width(stock, len(weight), width, anchored=self.norm is not None)
        dense.weight.copy_(paired_rows(weight, self.activation.scale, width))
        dense.bias.zero_()
        if self.norm is not None:
            dense.bias.copy_(anchor(width))
            reset_norm(stock.get_submodule(self.norm))
        factor = self.activation.gain * self.activation.scale
        out.weight.copy_(pair_differences(len(weight), factor, width))
        out.bias.copy_(bias)


@dataclass(frozen=True)
class ScoreHead:
    """A linear layer without bias, whose input a layer norm with a bias (``norm``) may shift."""

    score: str
    norm: str | None

    def install(self, stock: PreTrainedModel, weight: Tensor, bias: Tensor) -> None:
        """Make the logits V phi + b up to one constant, from V (C x h) and b (C).

        b is carried by a shift d of the features: V d = b up to a constant, with the least norm.

        Raises:
            InputError: there is a bias and nothing that can carry it.
        """
        _linear(stock, self.score).weight.copy_(weight)
        if not bias.any():
            return
        kind = type(stock).__name__
        if self.norm is None:
            raise InputError(
                f"the head has a bias, which {kind} has no place for: use --format onnx, or train "
                "with --no-head-bias"
            )
        # Softmax is blind to a constant, and V often nearly so: the constant is left out.
        centred, wanted = (part.double() - part.double().mean(0) for part in (weight, bias))
        shift = torch.linalg.pinv(centred) @ wanted
        unmet = float((centred @ shift - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
        if unmet > _UNSOLVED:
            raise InputError(
                f"the head's bias cannot be carried by its weights, which are zero or nearly "
                f"alike, and {kind} has no other place for it: use --format onnx"
            )
        norm = stock.get_submodule(self.norm)
        assert isinstance(norm.bias, Tensor)
        norm.bias.add_(shift.float())


@dataclass(frozen=True)
class AveragingLayer:
    """One layer more of an encoder, which turns each state into the head's map of their mean.

    Queries and keys are zero, so that attention weighs all real tokens alike; the values are the
    pairs of V; the layer's norm sees them so much larger than the state that they are added to,
    that of it nothing is left in float32. The feed-forward part adds zero.

    ``layers``, ``value`` and ``output`` are names of modules: in the encoder, then in a layer.
    """

    layers: str
    value: str
    output: str

    def install(self, encoder: nn.Module, weight: Tensor) -> Tensor:
        """Fill the encoder's last layer; gives V' (C x h): V' of any new state is V of the mean.

        Raises:
            InputError: h is too small for C pairs.
        """
        stack = encoder.get_submodule(self.layers)
        assert isinstance(stack, nn.ModuleList)
        layer = stack[-1]
        for parameter in layer.parameters():
            parameter.zero_()
        for module in layer.modules():
            if isinstance(module, nn.LayerNorm):
                reset_norm(module)
        value, output = _linear(layer, self.value), _linear(layer, self.output)
        width, count = output.out_features, len(weight)
        check_width(encoder, count, width, anchored=True)
        value.weight.copy_(paired_rows(weight, _AVERAGING_SCALE, value.out_features))
        places = torch.arange(2 * count)
        output.weight[places, places] = _AVERAGING_GAIN
        output.bias.copy_(_AVERAGING_GAIN * anchor(width))
        return pair_differences(count, 2 * _AVERAGING_SCALE, width)


Head = PairedHead | ScoreHead


@dataclass(frozen=True)
class StockFamily:
    """How the classification model of some families is laid out.

    ``encoder`` is the attribute that holds the encoder; ``poolings`` are those that the model does
    by itself, each with the configuration that says so; ``settings`` are further ones.
    """

    model_types: tuple[str, ...]
    encoder: str
    head: Head
    poolings: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    averaging: AveragingLayer | None = None

    @property
    def known_poolings(self) -> tuple[str, ...]:
        return (*self.poolings, "mean") if self.averaging is not None else tuple(self.poolings)


def check_width(module: nn.Module, count: int, width: int, *, anchored: bool) -> None:
    """Refuse more classes than there are pairs of coordinates.

    Raises:
        InputError: it is so.
    """
    limit = (width - 2 * anchored) // 2
    if count > limit:
        raise InputError(
            f"the head has {count} classes, and a {type(module).__name__} that is {width} wide can "
            f"carry {limit}: use --format onnx"
        )


def reset_norm(norm: nn.Module) -> None:
    """A layer norm that changes nothing whose mean is 0 and variance 1: weight sqrt(1 + eps)."""
    assert isinstance(norm, nn.LayerNorm)
    norm.weight.fill_(math.sqrt(1 + norm.eps))
    if norm.bias is not None:
        norm.bias.zero_()


def _linear(module: nn.Module, name: str) -> nn.Linear:
    found = module.get_submodule(name)
    assert isinstance(found, nn.Linear)
    return found
