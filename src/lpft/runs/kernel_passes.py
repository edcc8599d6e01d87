"""The passes of ``lpft ntk``: which texts, which heads, over which parameters.

Kernels that share one encoder are computed in one pass: those at the start of all methods, or of
all methods with one kind of adapter; a trained run is a pass of its own.
"""

import copy
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lpft.data import Examples, TextData
from lpft.data.examples import Text
from lpft.data.splits import draw_rows
from lpft.errors import InputError, named
from lpft.model import Classifier
from lpft.model.adapters import adapt, is_bias, load_adapter
from lpft.model.encoder import seeded
from lpft.model.inference import encoder_fingerprint
from lpft.model.loading import fresh_classifier
from lpft.model.prompts import start_at_words
from lpft.ntk import KernelRequest, StudiedModel, studied_model
from lpft.results.folder import read_record
from lpft.results.saved import TorchClassifier, model_at_start, open_saved
from lpft.settings import TrainingSettings
from lpft.settings.methods import Method, get_method
from lpft.training.cache import cached_probe, prepare_split
from lpft.training.checkpoints import kept_checkpoints, read_checkpoint
from lpft.training.fit import features_at_start
from lpft.training.probing import install_probe

TRAINED = "trained"
"""Name of the kernel of a trained run, beside the names of methods."""

Block = tuple[int, int]

TRAIN, EVALUATION, REVERSED, VALIDATION = (0, 0), (1, 0), (0, 1), (2, 0)
"""Blocks of a kernel, as (rows, columns) of :attr:`KernelTexts.groups`: among the training texts,
from evaluation to training texts and back, and from validation to training texts."""


@dataclass(frozen=True)
class KernelTexts:
    """The labelled texts of a kernel: N for training, M to predict, and the split of the latter.

    ``validation`` holds the texts that choose the strength of kernel regression; None where nothing
    is chosen on them, or where they are the texts to predict.
    """

    train: Examples
    evaluation: Examples
    evaluation_split: str
    validation: Examples | None

    @property
    def groups(self) -> list[Sequence[Text]]:
        """The lists of texts; a block is a pair of positions in it."""
        examples_of_groups = (self.train, self.evaluation, self.validation)
        return [examples.texts for examples in examples_of_groups if examples is not None]

    def counted(self, groups: NDArray[np.int64]) -> str:
        """How many texts of each list are in a pass, whose ``groups`` are their positions."""
        names = ("training", self.evaluation_split, "validation")
        counts = [
            f"{count} {name}" for name, count in zip(names, np.bincount(groups), strict=False)
        ]
        return " + ".join(counts) + " texts"

    @property
    def validation_rows(self) -> int | None:
        return None if self.validation is None else len(self.validation)


def kernel_texts(data: TextData, most: int, *, validation: bool) -> KernelTexts:
    """At most ``most`` training texts, and as many of the test split or else of validation.

    With ``validation`` the validation split is added, unless it is the one to predict.
    """
    split = "validation" if data.test is None else "test"
    chooses = validation and split != "validation"
    return KernelTexts(
        train=_drawn(data.train, most),
        evaluation=_drawn(data.splits()[split], most),
        evaluation_split=split,
        validation=_drawn(data.validation, most) if chooses else None,
    )


def labels_of(examples: Examples) -> NDArray[np.int64]:
    """The class indices of labelled texts."""
    assert examples.labels is not None
    return examples.labels


def _drawn(examples: Examples, most: int) -> Examples:
    return examples.select(draw_rows(labels_of(examples), most))


@dataclass(frozen=True)
class StartingPoint:
    """The head at which one kernel is taken: its origin, V (C x h) and b (C, or None).

    ``parameters`` are those of F, and ``parameter_set`` names them: ``all``, ``bias``, an adapter's
    by its name, or ``head`` for none.
    """

    name: str
    head_start: str
    weight: Tensor
    bias: Tensor | None
    parameter_set: str
    parameters: frozenset[str]

    @classmethod
    def trained(
        cls, name: str, head: torch.nn.Linear, parameter_set: str, parameters: Collection[str]
    ) -> "StartingPoint":
        """A copy of a trained head: the next pass may load other weights into the same model."""
        bias = None if head.bias is None else head.bias.detach().clone()
        weight = head.weight.detach().clone()
        return cls(name, TRAINED, weight, bias, parameter_set, frozenset(parameters))

    @property
    def request(self) -> KernelRequest:
        return KernelRequest(self.weight, self.parameters, bias_trains=self.bias is not None)


@dataclass(frozen=True)
class Pass:
    """Kernels that share one encoder and are computed together.

    ``encoder`` is the fingerprint of the weights that compute phi: kernels with equal ones have
    equal P.
    """

    subject: StudiedModel
    encoder: str
    starting_points: tuple[StartingPoint, ...]


def adapters_of(methods: Sequence[str]) -> list[str | None]:
    """The adapter of each pass that the methods need, None for one without.

    Methods without an adapter share the first pass, whose adapter must leave the features as they
    are: if every adapter moves them, these methods have a pass of their own.
    """
    moves = {method.adapter: method.moves_features for method in map(get_method, methods)}
    adapters = sorted((kind for kind in moves if kind is not None), key=lambda kind: moves[kind])
    alone = None in moves and (not adapters or moves[adapters[0]])
    return [*[None] * alone, *adapters]


def method_passes(
    methods: Sequence[str], data: TextData, settings: TrainingSettings, *, of_run: bool = False
) -> Iterator[Pass]:
    """The kernels at the start of each method: one pass for all, or one for each kind of adapter.

    Adapters are drawn and heads fitted as :func:`lpft.training.fit.fit_classifier` does, so that a
    kernel belongs to the training with the same seed. With ``of_run`` the parameters are those of
    :func:`trained_pass`, so that the two kernels can be compared.
    """
    classifier = fresh_classifier(data, settings)
    encoder = encoder_fingerprint(classifier.model)
    chosen = [get_method(name) for name in methods]
    heads = {
        start: _initial_head(start, classifier, encoder, data, settings)
        for start in {_start_of(method) for method in chosen}
    }
    for number, adapter in enumerate(adapters_of(methods)):
        members = [
            method
            for method in chosen
            if method.adapter == adapter or (method.adapter is None and number == 0)
        ]
        adapted = next((method for method in members if method.adapter is not None), None)
        subject, factors = _adapted(classifier, adapted, settings)
        own = set(subject.network.named_parameters()) - factors
        # The features of a start that an adapter has moved are no longer the pre-trained ones.
        moved = adapted is not None and adapted.moves_features
        fingerprint = encoder_fingerprint(subject.classifier) if moved else encoder
        points = []
        for method in members:
            parameter_set = _run_parameter_set(method) if of_run else method.trained
            names = {
                "all": own,
                "bias": {name for name in own if is_bias(name)},
                "head": set(),
                "nothing": set(),
            }.get(parameter_set, factors)
            weight, bias = heads[_start_of(method)]
            points.append(
                StartingPoint(
                    method.name, method.head_start, weight, bias, parameter_set, frozenset(names)
                )
            )
        yield Pass(subject, fingerprint, tuple(points))


def _start_of(method: Method) -> tuple[str, str | None]:
    """What a method's head at the start depends on: its origin, and what moves the features."""
    moves = method.moves_features and method.head_start == "lp"
    return method.head_start, method.name if moves else None


def _run_parameter_set(method: Method) -> str:
    """The parameters in the kernel of a run: those that its method trains.

    LP trains the head alone, which gives P. Its F is over all parameters, as FT's is: those are
    what LP-FT goes on to train. Contrastive tuning moves them all.
    """
    return "all" if not method.fine_tunes or method.contrastive else method.trained


def _initial_head(
    start: tuple[str, str | None],
    classifier: Classifier,
    encoder: str,
    data: TextData,
    settings: TrainingSettings,
) -> tuple[Tensor, Tensor | None]:
    """V and b at a start of :func:`_start_of`: random, label words, or LP on all training rows."""
    origin, method = start
    head = copy.deepcopy(classifier.model.head)
    if origin == "words":
        start_at_words(head, classifier.words)
    if origin == "lp":
        inputs = prepare_split(classifier, data.train, settings, encoder=encoder, name="train")
        if method is not None:
            own = settings.model_copy(update={"method": method})
            features = features_at_start(classifier.model, inputs.tokens, own)
            inputs = replace(inputs, at_start=features)
        install_probe(head, cached_probe(inputs, settings, data.classes))
    assert settings.head_scale is not None, "settings must be resolved"
    bias = None if head.bias is None else head.bias.detach().cpu() * settings.head_scale
    return head.weight.detach().cpu() * settings.head_scale, bias


def _adapted(
    classifier: Classifier, method: Method | None, settings: TrainingSettings
) -> tuple[StudiedModel, set[str]]:
    """A copy of the classifier with a method's adapter, and the names of the adapter's parameters.

    Raises:
        InputError: as :func:`lpft.model.adapters.adapt`.
    """
    plain = copy.deepcopy(classifier.model)
    model: torch.nn.Module = plain
    if method is not None:
        with seeded(settings.seed):
            model = adapt(plain, method, settings)
    subject = studied_model(model, classifier.tokenizer, classifier.max_length)
    factors: set[str] = set()
    if method is not None:
        parameters = subject.network.named_parameters()
        factors = {name for name, parameter in parameters.items() if parameter.requires_grad}
    return subject, factors


def trained_pass(folder: Path, data: TextData, settings: TrainingSettings) -> Pass:
    """The kernel of a trained classifier, over the parameters that its training moved.

    For a method with an adapter these are the adapter's factors, which lie beside the weights into
    which they were merged; for a classifier without a record, all parameters.

    Raises:
        InputError: the folder holds no finished run, one of other classes than the data's, an
            adapter that cannot be loaded, or the model that it was trained on has changed.
    """
    saved, adapted, parameter_set = _trained_model(folder, data, settings)
    model, tokens = saved.classifier.model, saved.classifier
    subject = studied_model(
        model if adapted is None else adapted, tokens.tokenizer, tokens.max_length
    )
    parameters = subject.network.named_parameters()
    if adapted is not None:
        names = {name for name, parameter in parameters.items() if parameter.requires_grad}
    else:
        names = set(parameters)
        if model.virtual_tokens is not None and parameter_set != "all":
            names = {name for name in names if name.startswith("virtual_tokens.")}
        if parameter_set == "bias":
            names = {name for name in names if is_bias(name)}
    point = StartingPoint.trained(TRAINED, subject.head, parameter_set, names)
    return Pass(subject, encoder_fingerprint(model), (point,))


def _trained_model(
    folder: Path, data: TextData, settings: TrainingSettings
) -> tuple[TorchClassifier, torch.nn.Module | None, str]:
    """A run's classifier, its adapted model (None without an adapter), and the name of what trains.

    The adapted model is the classifier from which training started, with the trained factors.

    Raises:
        InputError: as :func:`trained_pass`.
    """
    saved = open_saved(folder, settings.device)
    if saved.classifier.model.config.classes != data.classes:
        raise InputError(
            f"'{folder}' was trained on the classes {list(saved.classifier.model.config.classes)}, "
            f"the data has {list(data.classes)}: give the data of its training"
        )
    record = read_record(folder)
    method = None if record is None else get_method(record.config["method"])
    parameter_set = "all" if method is None else _run_parameter_set(method)
    model = saved.classifier.model
    if method is None or method.adapter is None or model.virtual_tokens is not None:
        return saved, None, parameter_set
    assert record is not None
    start = model_at_start(folder, record, data, settings).model
    return saved, load_adapter(start, folder), parameter_set


def path_passes(
    folder: Path, data: TextData, settings: TrainingSettings
) -> Iterator[tuple[float, dict[str, Tensor], Pass]]:
    """The kernel of a run's start and of every epoch, with the epoch and its trained weights.

    All passes share one model and set its weights: finish one before taking the next. What
    trains in it requires gradients; the weights have the names of the plain classifier in it.

    Raises:
        InputError: as :func:`trained_pass`, or the run kept no checkpoints, or some are damaged or
            of another model.
    """
    checkpoints = kept_checkpoints(folder)
    saved, adapted, parameter_set = _trained_model(folder, data, settings)
    tokens = saved.classifier
    model: torch.nn.Module = tokens.model if adapted is None else adapted
    parameters = dict(model.named_parameters())
    for epoch, path in checkpoints.items():
        weights = read_checkpoint(path)
        shapes = {name: p.shape for name, p in parameters.items() if name in weights}
        if shapes != {name: value.shape for name, value in weights.items()}:
            if tokens.model.virtual_tokens is not None:
                raise InputError(
                    f"the virtual tokens of '{folder}' came from parameters that its model no "
                    f"longer has: {named('path')} is for runs of other methods"
                )
            raise InputError(
                f"'{path}' has other parameters than the model in '{folder}': they belong to "
                "another training; restore its own"
            )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.requires_grad_(name in weights)
                if name in weights:
                    parameter.copy_(weights[name])
        subject = studied_model(model, tokens.tokenizer, tokens.max_length)
        own = subject.network.named_parameters()
        names = [name for name, parameter in own.items() if parameter.requires_grad]
        point = StartingPoint.trained(f"epoch {epoch:g}", subject.head, parameter_set, names)
        inner = {id(p): name for name, p in subject.classifier.named_parameters()}
        trained = {inner[id(parameters[name])]: value for name, value in weights.items()}
        yield epoch, trained, Pass(subject, encoder_fingerprint(subject.classifier), (point,))
