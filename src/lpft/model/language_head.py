"""What a language model does to a state before it predicts a word, and the head that words make.

A masked language model predicts a word by ``W t(h) + c``, with the state h at the mask, a transform
t (dense layer, activation, layer norm), and a row of W and c for each token; a causal one by
``W h + c`` at the last token. The rows of one word per class are a linear head, whose logits are
the language model's own for these words.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from lpft.errors import InputError, named

_CHECKED_TOKENS = 6
_TOLERANCE = 1e-5
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation", "activation_function")
"""Where configurations name the activation of the head's transform; otherwise it is GELU."""


@dataclass(frozen=True)
class TransformShape:
    """From ``inputs`` to ``outputs`` numbers; ``norm`` is the epsilon of a layer norm, if any."""

    inputs: int
    outputs: int
    activation: str
    bias: bool = True
    norm: float | None = None
    norm_bias: bool = True


class LanguageTransform(nn.Module):
    """t: the dense layer, activation and layer norm between a state and the output embedding."""

    def __init__(self, shape: TransformShape) -> None:
        super().__init__()
        self.dense = nn.Linear(shape.inputs, shape.outputs, bias=shape.bias)
        self.activation = ACT2FN[shape.activation]
        self.norm: nn.Module = nn.Identity()
        if shape.norm is not None:
            self.norm = nn.LayerNorm(shape.outputs, eps=shape.norm, bias=shape.norm_bias)

    def forward(self, states: Tensor) -> Tensor:
        return self.norm(self.activation(self.dense(states)))


@dataclass(frozen=True)
class LanguageHead:
    """The transform t of a language model, None where there is none, and W and c of its words."""

    transform: LanguageTransform | None
    shape: TransformShape | None
    output: nn.Linear

    @property
    def width(self) -> int:
        return self.output.in_features

    def shape_json(self) -> dict[str, Any] | None:
        return None if self.shape is None else asdict(self.shape)

    @torch.no_grad()
    def rows(self, tokens: Iterable[int]) -> nn.Linear:
        """A copy of the rows of ``tokens``: V (C x h) and b (C, zeros where there is no c).

        They train apart from the word embeddings, to which W is tied in most models.
        """
        chosen = list(tokens)
        rows = nn.Linear(self.width, len(chosen))
        rows.weight.copy_(self.output.weight[chosen])
        rows.bias.zero_()
        if self.output.bias is not None:
            rows.bias.copy_(self.output.bias[chosen])
        return rows


def attach_transform(encoder: nn.Module, description: Mapping[str, Any] | None) -> None:
    """Give an encoder a transform of the described shape, which is one of its modules then."""
    if description is not None:
        encoder.language_transform = LanguageTransform(TransformShape(**description))


def transformed(encoder: nn.Module, features: Tensor) -> Tensor:
    """t of pooled states (N x h), by the transform of :func:`attach_transform` if there is one."""
    transform = getattr(encoder, "language_transform", None)
    if transform is None:
        return features
    return transform(features.to(transform.dense.weight.dtype))


@torch.no_grad()
def find_language_head(model: PreTrainedModel, source: str) -> LanguageHead:
    """The transform and the output embedding of a language model, checked against its logits.

    Raises:
        InputError: its logits are not ``W t(h) + c``.
    """
    unknown = InputError(
        f"the language model head of '{source}' ({type(model).__name__}) is not an output "
        "embedding after at most a dense layer, an activation and a layer norm, so "
        f"{named('prompt')} has no effect: name another model"
    )
    encoder, output = model.base_model, model.get_output_embeddings()
    if not isinstance(output, nn.Linear):
        raise unknown
    inside = {id(module) for module in encoder.modules()} | {id(output)}
    called: list[nn.Module] = []
    states: list[Tensor] = []
    inputs: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda each, _, __: called.append(each))
        for module in model.modules()
        if id(module) not in inside
        and not list(module.children())
        and any(True for _ in module.parameters(recurse=False))
    ]
    hooks.append(encoder.register_forward_hook(lambda _, __, result: states.append(result[0])))
    hooks.append(output.register_forward_pre_hook(lambda _, given: inputs.append(given[0])))
    ids = torch.arange(1, _CHECKED_TOKENS + 1, device=model.device)[None]
    try:
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    finally:
        for hook in hooks:
            hook.remove()
    if len(states) != 1 or len(inputs) != 1 or not _alike(logits, output(inputs[0])):
        raise unknown
    if states[0].shape == inputs[0].shape and torch.equal(states[0], inputs[0]):
        return LanguageHead(None, None, output)
    layers = [module for module in called if isinstance(module, nn.Linear)]
    norms = [module for module in called if isinstance(module, nn.LayerNorm)]
    if len(layers) != 1 or len(norms) > 1 or len(layers) + len(norms) < len(called):
        raise unknown
    layer, norm = layers[0], norms[0] if norms else None
    for activation in _activations(model.config):
        shape = TransformShape(
            layer.in_features,
            layer.out_features,
            activation,
            layer.bias is not None,
            None if norm is None else norm.eps,
            norm is None or norm.bias is not None,
        )
        transform = LanguageTransform(shape).to(model.device, model.dtype)
        transform.dense.load_state_dict(layer.state_dict())
        if norm is not None:
            transform.norm.load_state_dict(norm.state_dict())
        if _alike(transform(states[0]), inputs[0]):
            return LanguageHead(transform, shape, output)
    raise unknown


def _activations(config: PreTrainedConfig) -> list[str]:
    """Names of activations that the head may have."""
    named_ones = [getattr(config, name, None) for name in _ACTIVATIONS]
    names = [name for name in named_ones if isinstance(name, str) and name in ACT2FN]
    return list(dict.fromkeys([*names, "gelu"]))


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(
        one, other, rtol=_TOLERANCE, atol=_TOLERANCE * other.abs().mean().item()
    )
