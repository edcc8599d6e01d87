"""Low-rank adapters on a classifier's encoder; the only module that imports PEFT."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from safetensors import SafetensorError
from torch import nn
from transformers.pytorch_utils import Conv1D

from lpft.errors import InputError
from lpft.model.classifier import LinearHeadClassifier
from lpft.model.families import query_value_projections


@dataclass(frozen=True)
class Targets:
    """The adapted modules by the last part of their names; GPT-2's keep W transposed."""

    names: tuple[str, ...]
    transposed: bool


def _lora(targets: Targets, rank: int, alpha: float, *, use_dora: bool = False) -> PeftConfig:
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=list(targets.names),
        fan_in_fan_out=targets.transposed,
        modules_to_save=["head"],
        use_dora=use_dora,
    )


def _dora(targets: Targets, rank: int, alpha: float) -> PeftConfig:
    return _lora(targets, rank, alpha, use_dora=True)


ADAPTERS: dict[str, Callable[[Targets, int, float], PeftConfig]] = {"lora": _lora, "dora": _dora}
"""Adapter name to the PEFT configuration for (target modules, rank, alpha)."""


def add_adapter(model: LinearHeadClassifier, name: str, *, rank: int, alpha: float) -> PeftModel:
    """The classifier with ``name``'s factors on its query and value projections.

    Only the factors and the head train. The head keeps the values that it has now.

    Raises:
        InputError: the model has no query and value projections of a known name.
    """
    modules = {
        module_name: module
        for module_name, module in model.encoder.named_modules()
        if hasattr(module, "weight")
    }
    names = query_value_projections(modules)
    transposed = any(
        isinstance(module, Conv1D)
        for module_name, module in modules.items()
        if module_name.rpartition(".")[2] in names
    )
    return get_peft_model(model, ADAPTERS[name](Targets(names, transposed), rank, alpha))


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
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"the adapter in '{folder}' cannot be loaded ({reason}): restore its adapter_* files, "
            "or train it again"
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
