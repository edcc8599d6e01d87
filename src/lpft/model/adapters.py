"""What a method trains beside the head, on a classifier; the only module that imports PEFT.

Adapters of weights (LoRA, DoRA, IA3, or what a PEFT configuration describes) are merged into these
after training. Virtual tokens cannot be: the classifier keeps them
(:mod:`lpft.model.virtual_tokens`). Of BitFit nothing is left but other biases.
"""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from peft import IA3Config, LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lpft.errors import InputError, named, one_line
from lpft.model.classifier import LinearHeadClassifier
from lpft.model.encoder import LOAD_ERRORS, hidden_states
from lpft.model.virtual_tokens import VirtualTokens, check_room
from lpft.settings import TrainingSettings
from lpft.settings.methods import Method

ADAPTERS: dict[str, dict[str, Any]] = {"lora": {}, "dora": {"use_dora": True}}
"""Low-rank adapter to what its PEFT configuration has beside LoRA's."""

_PROJECTION_NAMES = (
    ("query", "value"),
    ("query_proj", "value_proj"),
    ("q_proj", "v_proj"),
    ("q_lin", "v_lin"),
    ("q", "v"),
    ("c_attn",),
    ("Wqkv",),
    ("qkv_proj",),
    ("query_key_value",),
    ("in_proj",),
)
_KEY_VALUE_NAMES = (
    *(("key", "value"), ("key_proj", "value_proj"), ("k_proj", "v_proj"), ("k_lin", "v_lin")),
    *(("k", "v"), ("c_attn",), ("Wqkv",), ("qkv_proj",), ("query_key_value",), ("in_proj",)),
)
_FEED_FORWARD_NAMES = (
    *("output.dense", "ffn_output", "lin2", "mlp.c_proj", "down_proj", "mlp.Wo"),
    *("DenseReluDense.wo", "dense_4h_to_h", "fc2", "fc_out"),
)
"""The second layers of feed-forward parts, by the end of their names outside attention."""

_PROMPTS = ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING")
_REFUSED = {
    "ADALORA": "its ranks are given out by calls in a training loop of its own",
    "CARTRIDGE": "it starts from the keys and values of a document",
    "CPT": "it is for causal language models",
    "MULTITASK_PROMPT_TUNING": "it needs the task of every text",
    "POLY": "it needs the task of every text",
    **dict.fromkeys(
        ("ADAPTION_PROMPT", "TRAINABLE_TOKENS", "XLORA"), "PEFT trains no head beside it"
    ),
}
_HEAD_NAMES = ("head", "classifier", "score")
"""What ``modules_to_save`` calls the head, which is trained in any case."""

_OTHERS = f"{named('method')} lp, ft or lp-ft"
_CHECKED_TOKENS = 4
_PREFIX_STD = 0.02
_NOISE = 0.02
_TOLERANCE = 1e-3


def adapt(model: LinearHeadClassifier, method: Method, settings: TrainingSettings) -> nn.Module:
    """The classifier, changed in place, of which only what ``method`` trains requires gradients.

    What is drawn at random comes from torch's generator. The head keeps the values that it has now.

    Args:
        settings: resolved.

    Raises:
        InputError: the model has nothing to train in this way, or it cannot be adapted so.
    """
    if method.trained == "bias":
        train_biases(model)
    elif method.trained == "prefix":
        assert settings.prefix_length is not None, "settings must be resolved"
        add_prefix(model, settings.prefix_length)
    elif method.trained == "ia3":
        return add_ia3(model)
    elif method.trained == "peft":
        assert settings.peft_config is not None, "settings must be resolved"
        return add_configured(model, settings.peft_config)
    elif method.adapter is not None:
        assert settings.lora_rank is not None, "settings must be resolved"
        assert settings.lora_alpha is not None, "settings must be resolved"
        return add_adapter(
            model, method.adapter, rank=settings.lora_rank, alpha=settings.lora_alpha
        )
    return model


def check_adaptable(
    model: LinearHeadClassifier, method: Method, settings: TrainingSettings, max_length: int
) -> None:
    """Refuse early and cheaply what :func:`adapt` would refuse once texts have been read.

    Raises:
        InputError: the family has no biases or no prefix, the PEFT configuration is none that can
            be used, or its virtual tokens leave no room for texts of ``max_length`` tokens.
    """
    if method.trained == "bias":
        _check_biases(model)
    elif method.trained == "prefix":
        _check_prefix(model.encoder)
    elif method.trained == "peft":
        assert settings.peft_config is not None, "settings must be resolved"
        config = configuration(settings.peft_config)
        if config.peft_type == "PREFIX_TUNING":
            _check_prefix(model.encoder)
        elif config.peft_type in _PROMPTS:
            check_room(model.encoder, config.num_virtual_tokens, max_length)


def is_bias(name: str) -> bool:
    """Whether a parameter is a bias term, by its name."""
    return name.rpartition(".")[2] == "bias" or name.endswith("_bias")


def train_biases(model: LinearHeadClassifier) -> None:
    """Let only the encoder's bias terms and the head train (BitFit, Ben Zaken et al., 2022).

    Raises:
        InputError: the family has no bias terms.
    """
    _check_biases(model)
    for name, parameter in model.encoder.named_parameters():
        parameter.requires_grad_(is_bias(name))


def add_adapter(model: LinearHeadClassifier, name: str, *, rank: int, alpha: float) -> PeftModel:
    """The classifier with ``name``'s factors on its query and value projections.

    Only the factors and the head train. The head keeps the values that it has now.

    Raises:
        InputError: the model has no query and value projections of a known name, or PEFT cannot
            adapt them, or not merge the factors into them after training.
    """
    names, transposed = _query_value_projections(model.encoder)

    def config() -> PeftConfig:
        return LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=0.0,
            target_modules=list(names),
            exclude_modules=_unused_projections(model, names) or None,
            fan_in_fan_out=transposed,
            modules_to_save=["head"],
            **ADAPTERS[name],
        )

    return _wrapped(model, config, "LoRA")


def add_ia3(model: LinearHeadClassifier) -> PeftModel:
    """The classifier with factors on keys, values and inner feed-forward states (Liu et al., 2022).

    They start at 1, so that nothing changes before the first step. Where a family fuses query, key
    and value into one projection, the queries have factors too.

    Raises:
        InputError: the model has no such projections of a known name, or PEFT cannot adapt them.
    """

    def config() -> PeftConfig:
        projections, feed_forward = _scaled_modules(model)
        return IA3Config(
            target_modules=[*projections, *feed_forward],
            feedforward_modules=feed_forward,
            fan_in_fan_out=isinstance(model.get_submodule(projections[0]), Conv1D),
            modules_to_save=["head"],
        )

    return _wrapped(model, config, "IA3")


def add_prefix(model: LinearHeadClassifier, number: int) -> None:
    """Give each layer a trainable prefix of ``number`` keys and values.

    They start near zero (normal, standard deviation 0.02): keys that no query prefers, and values
    that add nothing, leave features nearer to the pre-trained ones than unit normal ones or those
    of real words.

    Raises:
        InputError: the family takes no keys and values beside its own.
    """
    description = _prefix_description(model.encoder, number)
    tokens = VirtualTokens(description).to(model.device)
    with torch.no_grad():
        tokens.table.normal_(0.0, _PREFIX_STD)
    _install(model, tokens, description)


def add_configured(model: LinearHeadClassifier, content: Mapping[str, Any]) -> nn.Module:
    """The classifier with what a PEFT configuration describes, which trains together with the head.

    ``content`` is that of :func:`lpft.settings.values.read_peft_config`.

    Raises:
        InputError: PEFT does not know the configuration, or it cannot be used with this model.
    """
    config = configuration(content)
    kind = str(content["peft_type"])
    if kind in _PROMPTS:
        _add_configured_tokens(model, config, kind)
        return model
    saved = [name for name in config.modules_to_save or () if name not in _HEAD_NAMES]
    _check_names(model, saved, "modules_to_save")
    targets = getattr(config, "target_modules", None)
    if targets is not None and not isinstance(targets, str):  # which is an expression
        _check_names(model, sorted(targets), "target_modules")
    config.modules_to_save = [*saved, "head"]
    adapted = _wrapped(model, lambda: config, f"the PEFT configuration ({kind})")
    _check_merging(adapted, kind)
    return adapted


def _check_names(model: LinearHeadClassifier, names: Sequence[str], entry: str) -> None:
    """Refuse names of modules that the model does not have, of which PEFT would say nothing."""
    modules = {f".{name}": module for name, module in model.named_modules()}
    for name in names:
        if not any(module.endswith(f".{name}") for module in modules):
            available = {
                name.rpartition(".")[2] for name, inner in modules.items() if _weighs(inner)
            }
            raise InputError(
                f"the PEFT configuration has {name} in {entry}, and the "
                f"{model.encoder.config.model_type} model has no such module: expected some of "
                f"{', '.join(sorted(available - {'head'}))}"
            )


def _weighs(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def configuration(content: Mapping[str, Any]) -> PeftConfig:
    """PEFT's own object of a configuration's content.

    Raises:
        InputError: the type is unknown or not supported, an entry is unknown or wrong, or there are
            no ``target_modules`` where the type needs them.
    """
    kind, entries = content["peft_type"], dict(content)
    classes = PEFT_TYPE_TO_CONFIG_MAPPING
    usable = sorted(
        str(peft_type.value) for peft_type in classes if peft_type.value not in _REFUSED
    )
    if kind in _REFUSED:
        raise InputError(f"peft_type {kind} is not supported ({_REFUSED[kind]}): use another one")
    if kind not in usable:
        raise InputError(f"peft_type {kind} is unknown: expected one of {', '.join(usable)}")
    config_class = classes[kind]
    fields = config_class.__dataclass_fields__
    unknown = sorted(entries.keys() - fields.keys())
    if unknown:
        raise InputError(
            f"the PEFT configuration of type {kind} has an entry {unknown[0]} that PEFT does not "
            f"know: expected some of {', '.join(sorted(fields))}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = config_class(**entries)
    except Exception as error:  # each configuration raises its own kind
        raise InputError(
            f"the PEFT configuration of type {kind} is not valid ({one_line(error)}): correct it"
        ) from error
    if kind in _PROMPTS:
        number = config.num_virtual_tokens
        if not isinstance(number, int) or number < 1:
            raise InputError(
                f"the PEFT configuration of type {kind} has num_virtual_tokens {number}: expected "
                "a whole number of at least 1"
            )
    elif not (
        getattr(config, "target_modules", None) or getattr(config, "target_parameters", None)
    ):
        raise InputError(
            f"the PEFT configuration of type {kind} names no target_modules: expected a list such "
            'as ["query", "value"], of the names of layers in the model'
        )
    return config


def _wrapped(
    model: LinearHeadClassifier, config: Callable[[], PeftConfig], label: str
) -> PeftModel:
    """The classifier with adapted layers, each kind of which can be merged.

    Raises:
        InputError: PEFT cannot adapt the model so, or not merge what it adds; ``label`` names it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = get_peft_model(model, config())
        layers = [layer for layer in adapted.modules() if isinstance(layer, BaseTunerLayer)]
        # What training ends with, tried on a copy of a layer of each kind.
        for layer in {type(layer.get_base_layer()): layer for layer in layers}.values():
            deepcopy(layer).merge()
    except (torch.OutOfMemoryError, MemoryError, InputError):
        raise
    except Exception as error:  # each kind of layer raises its own
        raise InputError(
            f"{label} cannot be used with {model.encoder.config.model_type} models "
            f"({one_line(error) or type(error).__name__}): use {_OTHERS}"
        ) from error
    return adapted


@torch.no_grad()
def _check_merging(adapted: PeftModel, kind: str) -> None:
    """Try on a copy, moved off its start, that the adapter has an effect and merging keeps it.

    Raises:
        InputError: it does not.
    """
    tried = deepcopy(adapted).eval()
    ids = torch.ones(1, _CHECKED_TOKENS, dtype=torch.long, device=adapted.device)
    network = plain_classifier(tried)
    assert isinstance(network, LinearHeadClassifier)
    before = network.features(ids)
    generator = torch.Generator().manual_seed(0)
    head = set(trained_head(tried).parameters())
    for parameter in tried.parameters():
        if parameter.requires_grad and parameter not in head:
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.add_(_NOISE * noise)
    moved = network.features(ids)
    try:
        merged = tried.merge_and_unload().features(ids)
    except Exception as error:  # each kind of adapter raises its own
        raise InputError(
            f"the PEFT configuration ({kind}) cannot be merged into the weights "
            f"({one_line(error) or type(error).__name__}): use another type"
        ) from error
    scale = float(moved.abs().mean())
    if torch.equal(before, moved):
        raise InputError(f"the PEFT configuration ({kind}) changes nothing that the model computes")
    if not torch.allclose(merged, moved, rtol=_TOLERANCE, atol=_TOLERANCE * scale):
        raise InputError(
            f"the PEFT configuration ({kind}) cannot be merged into the weights: merging changes "
            "the features; use another type"
        )


class _ConfiguredTable(nn.Module):
    """The table of virtual tokens as one of PEFT's modules computes it."""

    def __init__(self, computed: nn.Module, number: int) -> None:
        super().__init__()
        self.computed = computed
        self.register_buffer("indices", torch.arange(number)[None], persistent=False)

    def forward(self) -> Tensor:
        return self.computed(self.indices)[0]


def _add_configured_tokens(model: LinearHeadClassifier, config: PeftConfig, kind: str) -> None:
    """Give the classifier the virtual tokens of a PEFT configuration, which train.

    Raises:
        InputError: PEFT cannot make them, or the family does not read them.
    """
    encoder, number = model.encoder, config.num_virtual_tokens
    config.num_transformer_submodules = 1
    words = encoder.get_input_embeddings()
    if kind == "PREFIX_TUNING":
        description = _prefix_description(encoder, number)
        config.num_layers, config.num_attention_heads = description["layers"], description["heads"]
        config.token_dim = description["width"] // (2 * description["layers"])
    else:
        config.token_dim = words.weight.shape[1]
        description = {"kind": "prompt", "number": number, "width": config.token_dim}
    config.encoder_hidden_size = getattr(config, "encoder_hidden_size", None) or config.token_dim
    arguments = (config, words) if kind == "PROMPT_TUNING" else (config,)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            computed = PEFT_TYPE_TO_TUNER_MAPPING[kind](*arguments)
    except Exception as error:  # each kind of prompt raises its own
        raise InputError(
            f"the PEFT configuration ({kind}) cannot be used ({one_line(error)}): correct it"
        ) from error
    tokens = VirtualTokens(description, _ConfiguredTable(computed, number)).to(model.device)
    _install(model, tokens, description)


@torch.no_grad()
def _install(
    model: LinearHeadClassifier, tokens: VirtualTokens, description: dict[str, Any]
) -> None:
    """Put virtual tokens before every text, and let only them and the head train.

    Raises:
        InputError: the encoder cannot read a text after them, or they change nothing for it.
    """
    encoder = model.encoder
    ids = torch.ones(1, _CHECKED_TOKENS, dtype=torch.long, device=model.device)
    mask = torch.ones_like(ids)
    was_training = model.training
    model.eval()
    plain = hidden_states(encoder, ids, mask)
    try:
        states = tokens.eval().states(encoder, ids, mask)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # each family raises its own
        raise _unread(encoder, f"({one_line(error) or type(error).__name__})") from error
    if (
        states.shape != plain.shape
        or torch.equal(states, plain)
        or not torch.isfinite(states).all()
    ):
        raise _unread(encoder, "(they have no effect)")
    model.requires_grad_(False)
    model.virtual_tokens = tokens
    model.config.virtual_tokens = description
    model.head.requires_grad_(True)
    model.train(was_training)


def _unread(encoder: PreTrainedModel, why: str) -> InputError:
    return InputError(
        f"{encoder.config.model_type} models do not read virtual tokens in Transformers {why}: use "
        f"{_OTHERS}, or another adapter"
    )


def _prefix_description(encoder: PreTrainedModel, number: int) -> dict[str, Any]:
    """The shape of a prefix, for the keys and values of every layer."""
    _check_prefix(encoder)
    config = encoder.config.get_text_config()
    queries = config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or queries
    size = getattr(config, "head_dim", None) or config.hidden_size // queries
    layers = config.num_hidden_layers
    width = 2 * layers * heads * size
    return {
        "kind": "prefix",
        "number": number,
        "width": width,
        "layers": layers,
        "heads": heads,
    }


def _check_prefix(encoder: PreTrainedModel) -> None:
    if "past_key_values" not in inspect.signature(encoder.forward).parameters:
        raise InputError(
            f"{encoder.config.model_type} models take no keys and values beside those of the text "
            f"in Transformers, so they cannot have a prefix: use {_OTHERS}, or another adapter"
        )


def _check_biases(model: LinearHeadClassifier) -> None:
    if not any(is_bias(name) for name, _ in model.encoder.named_parameters()):
        raise InputError(
            f"{model.encoder.config.model_type} models have no bias terms, which are what BitFit "
            f"trains: use {_OTHERS}, or another adapter"
        )


def _scaled_modules(model: LinearHeadClassifier) -> tuple[list[str], list[str]]:
    """The key and value projections and the second feed-forward layers that read a text, by name.

    Raises:
        ValueError: there are none of a known name.
    """
    called = _called_modules(model)
    weighted = [name for name, module in called.items() if hasattr(module, "weight")]
    ends = {name.rpartition(".")[2] for name in weighted}
    endings = next((names for names in _KEY_VALUE_NAMES if ends >= set(names)), ())
    projections = [name for name in weighted if name.rpartition(".")[2] in endings]
    feed_forward = [
        name
        for name in weighted
        if name.endswith(tuple(f".{end}" for end in _FEED_FORWARD_NAMES))
        and "attention" not in name
    ]
    if not projections or not feed_forward:
        raise ValueError("no key and value projections and feed-forward layers of a known name")
    return projections, feed_forward


@torch.no_grad()
def _called_modules(model: LinearHeadClassifier) -> dict[str, nn.Module]:
    """The encoder's modules that are called as it reads a text, by names in the classifier."""
    called: dict[str, nn.Module] = {}
    modules = {f"encoder.{name}": module for name, module in model.encoder.named_modules()}
    hooks = [
        module.register_forward_pre_hook(
            lambda called_module, _, name=name: called.update({name: called_module})
        )
        for name, module in modules.items()
    ]
    was_training = model.training
    model.eval()
    try:
        model.features(torch.ones(1, _CHECKED_TOKENS, dtype=torch.long, device=model.device))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return called


def _unused_projections(model: LinearHeadClassifier, names: Sequence[str]) -> list[str]:
    """The projections in parts of the model that read no text, as towers for images.

    Raises:
        ValueError: the weight of another one is used without calling it, so that factors beside
            it would have no effect.
    """
    called = _called_modules(model)
    modules = {f"encoder.{name}": module for name, module in model.encoder.named_modules()}
    unused = [
        name
        for name, module in modules.items()
        if name.rpartition(".")[2] in names and hasattr(module, "weight") and name not in called
    ]
    for name in unused:
        if name.rpartition(".")[0] in called:
            raise ValueError(f"the weight of its {name} is used without calling the layer")
    return unused


def is_adapted(model: nn.Module) -> bool:
    """Whether PEFT has put adapters into the model's layers."""
    return isinstance(model, PeftModel)


def save_adapter(model: nn.Module, folder: Path) -> None:
    """Write the factors and the head to ``folder`` in PEFT's own form (``adapter_*`` files)."""
    assert isinstance(model, PeftModel)
    model.save_pretrained(str(folder))


def load_adapter(model: LinearHeadClassifier, folder: Path) -> PeftModel:
    """The classifier with the factors and the head that :func:`save_adapter` wrote, which train.

    ``model`` is the one that the adapter was added to, before any of it was merged.

    Raises:
        InputError: the folder holds no adapter of this model, or a damaged one.
    """
    try:
        return PeftModel.from_pretrained(model, str(folder), is_trainable=True)
    except LOAD_ERRORS as error:
        raise InputError(
            f"the adapter in '{folder}' cannot be loaded ({one_line(error)}): restore its "
            "adapter_* files, or train it again"
        ) from error


def merge_adapter(model: nn.Module) -> LinearHeadClassifier:
    """The plain classifier after training, of which everything may train again.

    Adapters of weights are added to these, as W + (alpha / r) B A; virtual tokens get a table of
    their own, whatever computed it.
    """
    merged = model.merge_and_unload() if isinstance(model, PeftModel) else model
    assert isinstance(merged, LinearHeadClassifier)
    if merged.virtual_tokens is not None:
        merged.virtual_tokens = merged.virtual_tokens.fixed(merged.config.virtual_tokens)
    return merged.requires_grad_(True)


def plain_classifier(model: nn.Module) -> nn.Module:
    """The model inside PEFT's wrapper, its layers replaced by adapted ones; others as they are."""
    return model.base_model.model if isinstance(model, PeftModel) else model


def trained_head(model: nn.Module) -> nn.Linear:
    """The head that trains: PEFT keeps the trained copy beside the original one.

    Raises:
        InputError: the head is not a single linear layer, or an adapter changes it.
    """
    head = plain_classifier(model).get_submodule("head")
    if isinstance(head, ModulesToSaveWrapper):
        used = [] if head.disable_adapters else head.active_adapters
        head = head.modules_to_save[used[0]] if used else head.original_module
    if not isinstance(head, nn.Linear):
        kind = type(head)
        raise InputError(
            f"the model's head is a {kind.__module__}.{kind.__name__}: expected one torch.nn.Linear"
        )
    return head


def adapter_settings(model: nn.Module) -> dict[str, list[object]]:
    """What decides the effect of the model's adapted layers beside their factors, by layer.

    Their scales (alpha / r of LoRA), the adapters that are in use, and those merged into weights.
    """
    return {
        name: [
            getattr(module, "scaling", None),
            [] if module.disable_adapters else list(module.active_adapters),
            list(module.merged_adapters),
        ]
        for name, module in model.named_modules()
        if isinstance(module, BaseTunerLayer)
    }


def _query_value_projections(encoder: nn.Module) -> tuple[tuple[str, ...], bool]:
    """The last part of the projections' names, and whether they store W transposed, as in GPT-2.

    Where a family fuses query, key and value into one projection, LoRA adapts the keys too.
    """
    modules: dict[str, list[nn.Module]] = {}
    for name, module in encoder.named_modules():
        if hasattr(module, "weight"):
            modules.setdefault(name.rpartition(".")[2], []).append(module)
    for names in _PROJECTION_NAMES:
        if modules.keys() >= set(names):
            return names, any(
                isinstance(projection, Conv1D) for name in names for projection in modules[name]
            )
    options = ", ".join("/".join(names) for names in _PROJECTION_NAMES)
    raise InputError(
        f"this model has no query and value projections of a known name (known: {options}), "
        f"so LoRA cannot be placed: use {named('method')} lp, ft or lp-ft"
    )
