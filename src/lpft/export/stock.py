"""From a classifier to the stock classification model of its family that gives its logits."""

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lpft.errors import InputError
from lpft.export.heads import (
    EXACT,
    SMALL,
    AveragingLayer,
    PairedHead,
    ScoreHead,
    StockFamily,
)
from lpft.model.classifier import LinearHeadClassifier

_LAYER = AveragingLayer("encoder.layer", "attention.self.value", "attention.output.dense")

STOCK_FAMILIES = (
    StockFamily(
        ("bert",),
        "bert",
        PairedHead("bert.pooler.dense", "classifier", SMALL),
        {"first": {}},
        averaging=_LAYER,
    ),
    StockFamily(
        ("roberta", "xlm-roberta", "camembert"),
        "roberta",
        PairedHead("classifier.dense", "classifier.out_proj", SMALL),
        {"first": {}},
        averaging=_LAYER,
    ),
    StockFamily(
        ("electra",),
        "electra",
        PairedHead("classifier.dense", "classifier.out_proj", EXACT),
        {"first": {}},
        averaging=_LAYER,
    ),
    StockFamily(
        ("distilbert",),
        "distilbert",
        PairedHead("pre_classifier", "classifier", EXACT),
        {"first": {}},
        averaging=AveragingLayer("transformer.layer", "attention.v_lin", "attention.out_lin"),
    ),
    # Its layers share their weights, so it has no layer of its own to spare for averaging.
    StockFamily(
        ("albert",),
        "albert",
        PairedHead("albert.pooler", "classifier", SMALL),
        {"first": {}},
    ),
    StockFamily(
        ("deberta-v2",),
        "deberta",
        PairedHead("pooler.dense", "classifier", EXACT),
        {"first": {}},
        settings={"pooler_hidden_act": "gelu"},
        averaging=AveragingLayer(
            "encoder.layer", "attention.self.value_proj", "attention.output.dense"
        ),
    ),
    StockFamily(
        ("modernbert",),
        "model",
        PairedHead("head.dense", "classifier", SMALL, norm="head.norm"),
        {"first": {"classifier_pooling": "cls"}, "mean": {"classifier_pooling": "mean"}},
        settings={"classifier_activation": "linear", "classifier_bias": True},
    ),
    StockFamily(
        ("gpt2",), "transformer", ScoreHead("score", norm="transformer.ln_f"), {"last": {}}
    ),
    StockFamily(
        ("gpt_neox",),
        "gpt_neox",
        ScoreHead("score", norm="gpt_neox.final_layer_norm"),
        {"last": {}},
    ),
    # Their norms have no bias, so a head with one has to go elsewhere.
    StockFamily(
        ("llama", "mistral", "qwen2", "qwen3"),
        "model",
        ScoreHead("score", norm=None),
        {"last": {}},
    ),
)
"""Every family whose stock model can be given our head, and how; the tests export them all."""

_AVERAGES = (
    "A layer was added that averages the tokens: load it in float32 or bfloat16, as its weights "
    "are too large for float16."
)


@dataclass(frozen=True)
class StockClassifier:
    """The stock model, and sentences on its use."""

    model: PreTrainedModel
    notes: tuple[str, ...]


@torch.no_grad()
def stock_classifier(
    model: LinearHeadClassifier, tokenizer: PreTrainedTokenizerBase
) -> StockClassifier:
    """The family's own classification model with the logits ``(V phi(x) + b) / T`` of ``model``.

    Raises:
        InputError: the family, the pooling or the head has no form in it; the message says which.
    """
    settings = model.config
    family = _find_family(model.encoder.config)
    kind = stock_name(model.encoder.config)
    if settings.pooling not in family.known_poolings:
        raise InputError(
            f"{kind} reads the {' or '.join(family.known_poolings)} of its tokens' states, and "
            f"this classifier has --pooling {settings.pooling}: use --format onnx, or train with "
            f"--pooling {family.known_poolings[0]}"
        )
    averages = settings.pooling not in family.poolings
    config = labelled_config(model)
    own_settings = {**family.settings, **family.poolings.get(settings.pooling, {})}
    for name, value in own_settings.items():
        setattr(config, name, value)
    if averages:
        config.num_hidden_layers += 1
    notes = []
    if isinstance(family.head, ScoreHead):
        config.pad_token_id = tokenizer.pad_token_id
        notes.append(_padding_note(tokenizer, kind))
    with torch.random.fork_rng(devices=[]):  # its random start is replaced
        stock = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    encoder = stock.get_submodule(family.encoder)
    unknown = encoder.load_state_dict(model.encoder.state_dict(), strict=False).unexpected_keys
    assert not unknown, f"{kind} has no place for {unknown}"
    weight, bias = calibrated_head(model)
    if averages:
        assert family.averaging is not None
        notes.append(_AVERAGES)
        weight = family.averaging.install(encoder, weight)
    family.head.install(stock, weight, bias)
    return StockClassifier(stock.eval(), tuple(notes))


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


def stock_name(config: PreTrainedConfig) -> str:
    """The name of the family's classification model."""
    found = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    return f"a {config.model_type} classifier" if found is None else found.__name__


def _padding_note(tokenizer: PreTrainedTokenizerBase, kind: str) -> str:
    """What happens to a text whose last token is the one that pads.

    Raises:
        InputError: the tokenizer ends every text with it.
    """
    token = tokenizer.pad_token
    if tokenizer("good")["input_ids"][-1] == tokenizer.pad_token_id:
        raise InputError(
            f"the tokenizer ends each text with {token}, with which it also pads, and {kind} would "
            "read the token before it: use --format onnx"
        )
    return f"The token {token} pads: where a text itself ends with it, the one before it is read."


def _find_family(config: PreTrainedConfig) -> StockFamily:
    rows = {name: family for family in STOCK_FAMILIES for name in family.model_types}
    if config.model_type not in rows:
        raise InputError(
            f"--format transformers has no stock form for {config.model_type} models, only for "
            f"{', '.join(rows)}: use --format onnx"
        )
    return rows[config.model_type]
