"""Export as the stock classification model of the family, which Transformers loads without lpft.

Stock heads have layers that ours lacks: a map V phi (C x h) is carried through them by pairs of
coordinates. 2k holds +s V_k phi, 2k + 1 holds -s V_k phi. What a head does between its layers then
cancels or stays small: ``a(z) - a(-z) = z`` exactly for ReLU and GELU, ``tanh(s z) - tanh(-s z) =
2 s z (1 + O(s^2 z^2))``, and a layer norm divides both by one factor, which two large constant
coordinates (the anchor) hold at 1.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lpft.errors import InputError, named
from lpft.model import Classifier
from lpft.model.classifier import LinearHeadClassifier
from lpft.model.encoder import quiet_transformers

Batch = dict[str, NDArray[np.int64]]
"""Padded token ids and masks by their names, N x T each."""

Scorer = Callable[[Batch], NDArray[np.float32]]
"""The logits (N x C) of a batch, by what was written alone."""

_AVERAGING_SCALE = 2.0**-16
_AVERAGING_GAIN = 2.0**44
_UNSOLVED = 1e-5
_USE_ONNX = f"use {named('format')} onnx"
_AVERAGES = (
    "A layer was added that averages the tokens: load it in float32 or bfloat16, as its weights "
    "are too large for float16."
)


@torch.no_grad()
def write_transformers(classifier: Classifier, folder: Path) -> tuple[str, list[str]]:
    """Config, weights and tokenizer of the stock model with the logits ``(V phi(x) + b) / T``.

    Returns what was written, in a few words, and sentences on its use.

    Raises:
        InputError: the family, the pooling or the head has no form in it; the message says which.
    """
    model, tokenizer = classifier.model, classifier.tokenizer
    if model.virtual_tokens is not None:
        raise InputError(
            f"the classifier reads {model.virtual_tokens.number} virtual tokens before every text, "
            f"which no stock model of Transformers has: {_USE_ONNX}"
        )
    family, pooling = _find_family(model.encoder.config), model.config.pooling
    kind = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(model.encoder.config)].__name__
    if pooling == "mask":
        raise InputError(
            f"the classifier reads the blank of a prompt, which {kind} does not: {_USE_ONNX}"
        )
    if pooling not in family.known_poolings:
        raise InputError(
            f"{kind} reads the {' or '.join(family.known_poolings)} of its tokens' states, and "
            f"this classifier has {named('pooling')} {pooling}: {_USE_ONNX}, or train with "
            f"{named('pooling')} {family.known_poolings[0]}"
        )
    config = labelled_config(model)
    for name, value in {**family.settings, **family.poolings.get(pooling, {})}.items():
        setattr(config, name, value)
    # A pooling that the stock model does not do by itself takes one layer more.
    averaging = None if pooling in family.poolings else family.averaging
    notes = []
    if averaging is not None:
        config.num_hidden_layers += 1
        notes.append(_AVERAGES)
    if isinstance(family.head, ScoreHead):
        config.pad_token_id = tokenizer.pad_token_id
        notes.append(_padding_note(tokenizer, kind))
    with torch.random.fork_rng(devices=[]):  # its random start is replaced
        stock = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    encoder = stock.get_submodule(family.encoder)
    unknown = encoder.load_state_dict(model.encoder.state_dict(), strict=False).unexpected_keys
    assert not unknown, f"{kind} has no place for {unknown}"
    weight, bias = calibrated_head(model)
    if averaging is not None:
        weight = averaging.install(encoder, weight)
    family.head.install(stock, weight, bias)
    stock.eval()
    with quiet_transformers():
        stock.save_pretrained(folder)
    save_tokenizer(tokenizer, inspect.signature(stock.forward).parameters, folder)
    return f"A {type(stock).__name__} of Transformers", notes


def read_transformers(folder: Path) -> Scorer:
    """The stock model as it is loaded.

    Raises:
        InputError: a weight is missing or too many, so that it would be random or ignored.
    """
    with quiet_transformers():
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
    wrong = sorted(str(name) for names in report.values() for name in names)
    if wrong:
        raise InputError(f"the stock model and its weights do not agree on {wrong[0]}: {_USE_ONNX}")
    model.eval()

    @torch.no_grad()
    def score(batch: Batch) -> NDArray[np.float32]:
        return model(**{name: torch.from_numpy(ids) for name, ids in batch.items()}).logits.numpy()

    return score


def calibrated_head(model: LinearHeadClassifier) -> tuple[Tensor, Tensor]:
    """V / T (C x h) and b / T (C, zeros without a bias)."""
    weight = model.head.weight.detach().double()
    bias = weight.new_zeros(len(weight)) if model.head.bias is None else model.head.bias.double()
    return (weight / model.config.temperature).float(), (bias / model.config.temperature).float()


def labelled_config(model: LinearHeadClassifier) -> PreTrainedConfig:
    """A copy of the encoder's configuration with the class names."""
    config = deepcopy(model.encoder.config)
    config.id2label = dict(model.config.id2label)
    config.label2id = dict(model.config.label2id)
    config.problem_type = "single_label_classification"
    return config


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, inputs: Iterable[str], folder: Path) -> None:
    """Write a tokenizer that gives just ``inputs`` and pads on the right, as stock models read."""
    copied = deepcopy(tokenizer)
    copied.model_input_names = [name for name in copied.model_input_names if name in set(inputs)]
    copied.padding_side = "right"
    copied.save_pretrained(folder)


def _padding_note(tokenizer: PreTrainedTokenizerBase, kind: str) -> str:
    """What happens to a text whose last token is the padding token; refused if all texts do so."""
    token = tokenizer.pad_token
    if tokenizer("good")["input_ids"][-1] == tokenizer.pad_token_id:
        raise InputError(
            f"the tokenizer ends each text with {token}, with which it also pads, and {kind} would "
            f"read the token before it: {_USE_ONNX}"
        )
    return f"The token {token} pads: where a text itself ends with it, the one before it is read."


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
        """Make the logits V phi + b, from V (C x h) and b (C)."""
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
        """
        _linear(stock, self.score).weight.copy_(weight)
        if not bias.any():
            return
        kind = type(stock).__name__
        if self.norm is None:
            raise InputError(
                f"the head has a bias, which {kind} has no place for: {_USE_ONNX}, or train "
                f"with {named('head_bias=False')}"
            )
        # A constant changes no probability, and where V's rows sum to nearly zero, as those of
        # linear probing do, no shift can make one: it is left out.
        centred, target = (part.double() - part.double().mean(0) for part in (weight, bias))
        shift = torch.linalg.pinv(centred) @ target
        unmet = float((centred @ shift - target).abs().max() / target.abs().max().clamp(min=1e-30))
        if unmet > _UNSOLVED:
            raise InputError(
                f"the head's bias cannot be carried by its weights, which are zero or nearly "
                f"alike, and {kind} has no other place for it: {_USE_ONNX}"
            )
        norm = stock.get_submodule(self.norm)
        assert isinstance(norm.bias, Tensor)
        norm.bias.add_(shift.float())


@dataclass(frozen=True)
class AveragingLayer:
    """One layer more of an encoder, which turns each state into the head's map of their mean.

    Queries and keys are zero, so that attention weighs all real tokens alike; the values are the
    pairs of V. They are made so much larger than the state they are added to that the layer's norm
    leaves nothing of the state in float32. The feed-forward part adds zero.

    ``layers``, ``value`` and ``output`` are names of modules: in the encoder, then in a layer.
    """

    layers: str
    value: str
    output: str

    def install(self, encoder: nn.Module, weight: Tensor) -> Tensor:
        """Fill the encoder's last layer; gives V' (C x h): V' of any new state is V of the mean."""
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
        pairs = torch.arange(2 * count)
        output.weight[pairs, pairs] = _AVERAGING_GAIN
        output.bias.copy_(_AVERAGING_GAIN * anchor(width))
        return pair_differences(count, 2 * _AVERAGING_SCALE, width)


def paired_rows(weight: Tensor, scale: float, width: int) -> Tensor:
    """width x h: rows 2k and 2k + 1 are +scale and -scale times row k of V (C x h), the rest 0."""
    rows = weight.new_zeros(width, weight.shape[1])
    count = len(weight)
    rows[0 : 2 * count : 2] = scale * weight
    rows[1 : 2 * count : 2] = -scale * weight
    return rows


def pair_differences(count: int, scale: float, width: int) -> Tensor:
    """C x width: row k is the difference of coordinates 2k and 2k + 1, divided by ``scale``."""
    rows = torch.zeros(count, width)
    classes = torch.arange(count)
    rows[classes, 2 * classes] = 1 / scale
    rows[classes, 2 * classes + 1] = -1 / scale
    return rows


def anchor(width: int) -> Tensor:
    """A vector of that width with mean 0 and variance 1, all of it in the last two coordinates."""
    values = torch.zeros(width)
    values[-2] = math.sqrt(width / 2)
    values[-1] = -values[-2]
    return values


def reset_norm(norm: nn.Module) -> None:
    """A layer norm that changes nothing whose mean is 0 and variance 1: weight sqrt(1 + eps)."""
    assert isinstance(norm, nn.LayerNorm)
    norm.weight.fill_(math.sqrt(1 + norm.eps))
    if norm.bias is not None:
        norm.bias.zero_()


def check_width(module: nn.Module, count: int, width: int, *, anchored: bool) -> None:
    """Refuse more classes than there are pairs of coordinates."""
    limit = (width - 2 * anchored) // 2
    if count > limit:
        raise InputError(
            f"the head has {count} classes, and a {type(module).__name__} that is {width} wide can "
            f"carry {limit}: {_USE_ONNX}"
        )


def _linear(module: nn.Module, name: str) -> nn.Linear:
    layer = module.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer


@dataclass(frozen=True)
class StockFamily:
    """How the classification model of some families is laid out.

    ``encoder`` is the attribute that holds the encoder; ``poolings`` are those that the model does
    by itself, each with the configuration that says so; ``settings`` are further ones.
    """

    model_types: tuple[str, ...]
    encoder: str
    head: PairedHead | ScoreHead
    averaging: AveragingLayer | None = None
    poolings: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"first": {}})
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def known_poolings(self) -> tuple[str, ...]:
        return (*self.poolings, "mean") if self.averaging is not None else tuple(self.poolings)


def _find_family(config: PreTrainedConfig) -> StockFamily:
    rows = {name: family for family in STOCK_FAMILIES for name in family.model_types}
    if config.model_type not in rows:
        raise InputError(
            f"{named('format')} transformers has no stock form for {config.model_type} models, "
            f"only for {', '.join(rows)}: {_USE_ONNX}"
        )
    return rows[config.model_type]


_BERT_LAYER = AveragingLayer("encoder.layer", "attention.self.value", "attention.output.dense")
_ROBERTA_OUT = ("classifier.dense", "classifier.out_proj")
_LAST: Mapping[str, Mapping[str, Any]] = {"last": {}}

STOCK_FAMILIES = (
    StockFamily(
        ("bert",), "bert", PairedHead("bert.pooler.dense", "classifier", SMALL), _BERT_LAYER
    ),
    StockFamily(
        ("roberta", "xlm-roberta", "camembert"),
        "roberta",
        PairedHead(*_ROBERTA_OUT, SMALL),
        _BERT_LAYER,
    ),
    StockFamily(("electra",), "electra", PairedHead(*_ROBERTA_OUT, EXACT), _BERT_LAYER),
    StockFamily(
        ("distilbert",),
        "distilbert",
        PairedHead("pre_classifier", "classifier", EXACT),
        AveragingLayer("transformer.layer", "attention.v_lin", "attention.out_lin"),
    ),
    # Its layers share their weights, so it has no layer of its own to spare for averaging.
    StockFamily(("albert",), "albert", PairedHead("albert.pooler", "classifier", SMALL)),
    StockFamily(
        ("deberta-v2",),
        "deberta",
        PairedHead("pooler.dense", "classifier", EXACT),
        AveragingLayer("encoder.layer", "attention.self.value_proj", "attention.output.dense"),
        settings={"pooler_hidden_act": "gelu"},
    ),
    StockFamily(
        ("modernbert",),
        "model",
        PairedHead("head.dense", "classifier", SMALL, norm="head.norm"),
        poolings={"first": {"classifier_pooling": "cls"}, "mean": {"classifier_pooling": "mean"}},
        settings={"classifier_activation": "linear", "classifier_bias": True},
    ),
    StockFamily(("gpt2",), "transformer", ScoreHead("score", "transformer.ln_f"), poolings=_LAST),
    StockFamily(
        ("gpt_neox",),
        "gpt_neox",
        ScoreHead("score", "gpt_neox.final_layer_norm"),
        poolings=_LAST,
    ),
    # Their norms have no bias, so a head with one has to use another format.
    StockFamily(
        ("llama", "mistral", "qwen2", "qwen3"), "model", ScoreHead("score", None), poolings=_LAST
    ),
)
"""Every family whose stock model can be given our head, and how; the tests export them all."""
