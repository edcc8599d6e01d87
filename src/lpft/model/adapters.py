"""Low-rank adapters on a classifier's encoder; the only module that imports PEFT."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers.pytorch_utils import Conv1D

from lpft.errors import InputError, named, one_line
from lpft.model.classifier import LinearHeadClassifier
from lpft.model.encoder import LOAD_ERRORS

ADAPTERS: dict[str, dict[str, Any]] = {"lora": {}, "dora": {"use_dora": True}}
"""Adapter name to what its PEFT configuration has beside LoRA's."""

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
_CHECKED_TOKENS = 4


def add_adapter(model: LinearHeadClassifier, name: str, *, rank: int, alpha: float) -> PeftModel:
    """The classifier with ``name``'s factors on its query and value projections.

    Only the factors and the head train. The head keeps the values that it has now.

    Raises:
        InputError: the model has no query and value projections of a known name, or PEFT cannot
            adapt them, or not merge the factors into them after training.
    """
    names, transposed = _query_value_projections(model.encoder)
    try:
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=0.0,
            target_modules=list(names),
            exclude_modules=_unused_projections(model, names) or None,
            fan_in_fan_out=transposed,
            modules_to_save=["head"],
            **ADAPTERS[name],
        )
        adapted = get_peft_model(model, config)
        layers = [each for each in adapted.modules() if isinstance(each, BaseTunerLayer)]
        # What training ends with, tried on a copy of a layer of each kind.
        for layer in {type(each.get_base_layer()): each for each in layers}.values():
            deepcopy(layer).merge()
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # each kind of layer raises its own
        raise InputError(
            f"LoRA cannot be used with {model.encoder.config.model_type} models "
            f"({one_line(error)}): use {named('method')} lp, ft or lp-ft"
        ) from error
    return adapted


@torch.no_grad()
def _unused_projections(model: LinearHeadClassifier, names: Sequence[str]) -> list[str]:
    """The projections in parts of the model that read no text, as towers for images.

    Raises:
        ValueError: the weight of another one is used without calling it, so that factors beside
            it would have no effect.
    """
    called: set[str] = set()
    modules = {f"encoder.{name}": module for name, module in model.encoder.named_modules()}
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: called.add(name))
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
    unused = [
        name
        for name, module in modules.items()
        if name.rpartition(".")[2] in names and hasattr(module, "weight") and name not in called
    ]
    for name in unused:
        if name.rpartition(".")[0] in called:
            raise ValueError(f"the weight of its {name} is used without calling the layer")
    return unused


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
    """The plain classifier with the factors added to the weights: W + (alpha / r) B A."""
    assert isinstance(model, PeftModel)
    return model.merge_and_unload()


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
            return names, any(isinstance(each, Conv1D) for name in names for each in modules[name])
    known = ", ".join("/".join(names) for names in _PROJECTION_NAMES)
    raise InputError(
        f"this model has no query and value projections of a known name (known: {known}), "
        f"so LoRA cannot be placed: use {named('method')} lp, ft or lp-ft"
    )
