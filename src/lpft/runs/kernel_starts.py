"""The classifiers whose kernels ``lpft ntk`` computes at the start of methods."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lpft.data import TextData
from lpft.model import Classifier
from lpft.model.adapters import add_adapter
from lpft.model.fingerprint import encoder_fingerprint
from lpft.ntk import KernelRequest
from lpft.ntk.inputs import Subject, open_subject
from lpft.settings import Method, TrainingSettings, get_method
from lpft.training.cache import default_cache_dir
from lpft.training.inputs import fresh_classifier, prepare_split
from lpft.training.probe_cache import cached_probe
from lpft.training.probing import install_probe
from lpft.training.randomness import seeded


@dataclass(frozen=True)
class Start:
    """One kernel's head: where it comes from, V (C x h) and b (C, or None), and its request.

    ``parameter_set`` names what the kernel is over beside the head: ``all``, an adapter's factors
    by its name, or nothing where it is ``head``.
    """

    name: str
    head_start: str
    weight: Tensor
    bias: Tensor | None
    parameter_set: str
    request: KernelRequest


@dataclass(frozen=True)
class Pass:
    """Kernels that share one encoder, so that one pass computes them all.

    ``encoder`` is the fingerprint of what computes phi: where two are equal, so is P.
    """

    subject: Subject
    encoder: str
    starts: tuple[Start, ...]


def adapters_of(methods: Sequence[str]) -> list[str | None]:
    """The adapters of the passes that the methods' starts take: one for each kind, at least one."""
    kinds = dict.fromkeys(get_method(name).adapter for name in methods)
    return [adapter for adapter in kinds if adapter is not None] or [None]


def method_passes(
    methods: Sequence[str], data: TextData, settings: TrainingSettings, *, of_run: bool = False
) -> Iterator[Pass]:
    """The starts of the methods: one pass for all, or one for each kind of adapter.

    Adapters are drawn and heads fitted as :func:`lpft.training.fit.fit_classifier` does, so that a
    kernel is that of the training with the same seed. ``of_run``: the set of parameters is that of
    :func:`lpft.runs.kernel_trained.trained_pass`, to which they will be compared.
    """
    classifier = fresh_classifier(data, settings)
    encoder = encoder_fingerprint(classifier.model)
    chosen = [get_method(name) for name in methods]
    starts: set[str] = {method.head_start for method in chosen}
    weights = {start: _start_head(start, classifier, encoder, data, settings) for start in starts}
    for number, adapter in enumerate(adapters_of(methods)):
        members = [
            method
            for method in chosen
            if method.adapter == adapter or (method.adapter is None and number == 0)
        ]
        subject, factors = _adapted(classifier, adapter, settings)
        own = {name for name, _ in subject.classifier.encoder.named_parameters()} - factors
        yield Pass(
            subject,
            encoder,
            tuple(_method_start(each, weights, own, factors, of_run=of_run) for each in members),
        )


def make_start(
    name: str,
    head_start: str,
    head: tuple[Tensor, Tensor | None],
    parameter_set: str,
    names: frozenset[str],
) -> Start:
    """A start with the request for its kernel over the encoder's parameters of these names."""
    weight, bias = head
    request = KernelRequest(weight, names, bias_trains=bias is not None)
    return Start(name, head_start, weight, bias, parameter_set, request)


def run_parameter_set(method: Method) -> str:
    """What the kernels of a run are over: what its method trains; of LP, as of FT, everything.

    LP trains the head alone, whose kernel is P; what LP-FT goes on to train is what F tells of.
    """
    return method.trained if method.fine_tunes else "all"


def _method_start(
    method: Method,
    weights: dict[str, tuple[Tensor, Tensor | None]],
    own: set[str],
    factors: set[str],
    *,
    of_run: bool,
) -> Start:
    parameter_set = run_parameter_set(method) if of_run else method.trained
    names = {"all": own, "head": set()}.get(parameter_set, factors)
    head = weights[method.head_start]
    return make_start(method.name, method.head_start, head, parameter_set, frozenset(names))


def _start_head(
    start: str, classifier: Classifier, encoder: str, data: TextData, settings: TrainingSettings
) -> tuple[Tensor, Tensor | None]:
    """V and b, as fine-tuning would find them: random, or the LP solution on all training rows."""
    model = classifier.model
    if start == "lp":
        model = copy.deepcopy(model)
        inputs = prepare_split(
            classifier,
            data.train,
            settings,
            encoder=encoder,
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


def _adapted(
    classifier: Classifier, adapter: str | None, settings: TrainingSettings
) -> tuple[Subject, set[str]]:
    """A copy of the classifier with the adapter, and the names of the adapter's factors."""
    plain = copy.deepcopy(classifier.model)
    model: torch.nn.Module = plain
    factors: set[str] = set()
    if adapter is not None:
        assert settings.lora_rank is not None
        assert settings.lora_alpha is not None
        with seeded(settings.seed):
            model = add_adapter(plain, adapter, rank=settings.lora_rank, alpha=settings.lora_alpha)
        factors = {name for name, p in plain.encoder.named_parameters() if p.requires_grad}
    return open_subject(model, classifier.tokenizer, classifier.max_length), factors
