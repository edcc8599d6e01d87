"""The classifiers whose kernels ``lpft ntk`` computes: at the start of methods, or trained."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lpft.data import Examples, TextData
from lpft.data.splits import draw_rows
from lpft.errors import InputError
from lpft.model import Classifier
from lpft.model.adapters import add_adapter
from lpft.model.fingerprint import encoder_fingerprint
from lpft.ntk import KernelRequest
from lpft.ntk.inputs import Subject, open_subject
from lpft.runs.saved import open_saved
from lpft.training.cache import default_cache_dir
from lpft.training.inputs import fresh_classifier, prepare_split
from lpft.training.methods import Method, get_method
from lpft.training.probe_cache import cached_probe
from lpft.training.probing import install_probe
from lpft.training.randomness import seeded
from lpft.training.settings import TrainingSettings

TRAINED = "trained"


@dataclass(frozen=True)
class Start:
    """One kernel's head: where it comes from, V (C x h) and b (C, or None), and its request."""

    name: str
    head_start: str
    weight: Tensor
    bias: Tensor | None
    request: KernelRequest


@dataclass(frozen=True)
class Pass:
    """Kernels that share one encoder, so that one pass computes them all."""

    subject: Subject
    starts: tuple[Start, ...]


@dataclass(frozen=True)
class KernelTexts:
    """The labelled texts of a kernel: N for training, M to predict, and the split of the latter."""

    train: Examples
    evaluation: Examples
    evaluation_split: str


def kernel_texts(data: TextData, most: int) -> KernelTexts:
    """At most ``most`` texts of the training split, and of the test split or else validation."""
    split = "validation" if data.test is None else "test"
    evaluation = data.splits()[split]
    chosen = []
    for examples in (data.train, evaluation):
        assert examples.labels is not None
        chosen.append(examples.select(draw_rows(examples.labels, most)))
    return KernelTexts(chosen[0], chosen[1], split)


def method_passes(methods: Sequence[str], data: TextData, settings: TrainingSettings) -> list[Pass]:
    """The starts of the methods: one pass for all, or one for each kind of adapter.

    Adapters are drawn and heads fitted as :func:`lpft.training.fit.fit_classifier` does, so that a
    kernel is that of the training with the same seed.
    """
    classifier = fresh_classifier(data, settings)
    chosen = [get_method(name) for name in methods]
    starts: set[str] = {method.head_start for method in chosen}
    weights = {start: _start_head(start, classifier, data, settings) for start in starts}
    named = dict.fromkeys(method.adapter for method in chosen if method.adapter is not None)
    adapters: list[str | None] = [*named] or [None]
    passes = []
    for number, adapter in enumerate(adapters):
        members = [
            method
            for method in chosen
            if method.adapter == adapter or (method.adapter is None and number == 0)
        ]
        passes.append(_adapted_pass(classifier, members, adapter, weights, settings))
    return passes


def trained_pass(folder: Path, data: TextData, settings: TrainingSettings) -> Pass:
    """The kernel of a trained classifier over all its parameters.

    Raises:
        InputError: the folder holds no finished run, or one of other classes than the data's.
    """
    saved = open_saved(folder, settings.device)
    classifier = saved.classifier
    if classifier.model.config.classes != data.classes:
        raise InputError(
            f"'{folder}' was trained on the classes {list(classifier.model.config.classes)}, the "
            f"data has {list(data.classes)}: give the data of its training"
        )
    names = frozenset(name for name, _ in classifier.model.encoder.named_parameters())
    head = classifier.model.head
    bias = None if head.bias is None else head.bias.detach().clone()
    weight = head.weight.detach().clone()
    return Pass(
        open_subject(classifier.model, classifier.tokenizer, classifier.max_length),
        (_start(TRAINED, TRAINED, weight, bias, names),),
    )


def _start(
    name: str, head_start: str, weight: Tensor, bias: Tensor | None, names: frozenset[str]
) -> Start:
    request = KernelRequest(weight, names, bias_trains=bias is not None)
    return Start(name, head_start, weight, bias, request)


def _start_head(
    start: str, classifier: Classifier, data: TextData, settings: TrainingSettings
) -> tuple[Tensor, Tensor | None]:
    """V and b, as fine-tuning would find them: random, or the LP solution on all training rows."""
    model = classifier.model
    if start == "lp":
        model = copy.deepcopy(model)
        inputs = prepare_split(
            classifier,
            data.train,
            settings,
            encoder=encoder_fingerprint(classifier.model),
            cache_dir=default_cache_dir(),
            name="train",
        )
        probe = cached_probe(
            inputs.pretrained,
            inputs.labels,
            len(data.classes),
            fit_bias=settings.head_bias,
            class_weight=settings.class_weight,
            cache_dir=default_cache_dir(),
        )
        install_probe(model, probe)
    assert settings.head_scale is not None, "settings must be resolved"
    bias = None if model.head.bias is None else model.head.bias.detach().cpu().clone()
    return model.head.weight.detach().cpu() * settings.head_scale, bias


def _adapted_pass(
    classifier: Classifier,
    methods: Sequence[Method],
    adapter: str | None,
    weights: dict[str, tuple[Tensor, Tensor | None]],
    settings: TrainingSettings,
) -> Pass:
    plain = copy.deepcopy(classifier.model)
    model: torch.nn.Module = plain
    factors: set[str] = set()
    if adapter is not None:
        assert settings.lora_rank is not None
        assert settings.lora_alpha is not None
        with seeded(settings.seed):
            model = add_adapter(plain, adapter, rank=settings.lora_rank, alpha=settings.lora_alpha)
        factors = {name for name, p in plain.encoder.named_parameters() if p.requires_grad}
    subject = open_subject(model, classifier.tokenizer, classifier.max_length)
    own = {name for name, _ in subject.classifier.encoder.named_parameters()} - factors
    starts = []
    for method in methods:
        names = factors if method.adapter is not None else own if method.fine_tunes else set()
        weight, bias = weights[method.head_start]
        starts.append(_start(method.name, method.head_start, weight, bias, frozenset(names)))
    return Pass(subject, tuple(starts))
