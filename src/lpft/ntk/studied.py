"""What a kernel is of: classifiers with a linear head, or any module; and the kernels requested.

:func:`studied` reads the user's model once into a :class:`Studied`, which all that computes takes;
:func:`request_of` reads ``parameters=`` and ``select=`` into a :class:`KernelRequest`.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from numbers import Integral
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lpft.analysis.inputs import short_repr
from lpft.data.examples import Text
from lpft.data.texts import text_list
from lpft.data.tokens import Tokens, tokenize
from lpft.errors import InputError
from lpft.model.adapters import adapter_settings, plain_classifier, trained_head
from lpft.model.classifier import LinearHeadClassifier
from lpft.model.encoder import check_finite, position_limit
from lpft.ntk.network import (
    Network,
    TensorInputs,
    check_own_weight,
    classifier_network,
    copy_module,
    is_numeric,
    module_network,
)
from lpft.ntk.outputs import Outputs
from lpft.settings.kernels import KernelKind

Parameters = Literal["all", "trainable"] | Sequence[str]
"""Which parameters: all, those that require gradients, or names and patterns of names."""
Select = Literal["all", "sum", "trace"] | int
"""Which outputs: all, their sum, one by its number, or the trace of the kernel over them."""

_EXPECTED = (
    "expected a TextClassifier, or a LinearHeadClassifier (plain or with PEFT adapters) with "
    "tokenizer=..., or any other nn.Module"
)


class Studied(Protocol):
    """A network, its linear head if it has one, and how its inputs are read.

    ``prefix`` and ``head_name`` make the names of parameters as the user knows them: ``prefix``
    stands before those of the network, and the head's are ``head_name.weight`` and ``.bias``.
    """

    @property
    def network(self) -> Network: ...
    @property
    def head(self) -> nn.Linear | None: ...
    @property
    def prefix(self) -> str: ...
    @property
    def head_name(self) -> str: ...
    def read(self, inputs: Any) -> Tokens | TensorInputs: ...


@dataclass(frozen=True)
class StudiedModel:
    """A classifier with the head that trains, its tokenizer and its maximum length.

    The last two are None where the inputs are tensors.
    """

    classifier: LinearHeadClassifier
    head: nn.Linear
    tokenizer: PreTrainedTokenizerBase | None
    max_length: int | None
    prefix: str = "encoder."
    head_name: str = "head"

    @property
    def network(self) -> Network:
        return classifier_network(self.classifier, self.head.in_features)

    def read(self, inputs: Any) -> Tokens | TensorInputs:
        """Token ids of texts, or named tensors."""
        if isinstance(inputs, Tokens | TensorInputs):
            return inputs
        return TensorInputs.read(inputs) if is_tensors(inputs) else self.tokens(inputs)

    def tokens(self, texts: Sequence[Text]) -> Tokens:
        """Token ids of texts, or of pairs.

        Raises:
            InputError: there is no text, one is empty, texts and pairs are mixed, or the tokenizer
                has tokens that the model does not know.
        """
        assert self.tokenizer is not None
        assert self.max_length is not None
        return read_texts(texts, self.tokenizer, self.max_length, self.classifier.encoder)


@dataclass(frozen=True)
class StudiedModule:
    """Any module; ``head`` is its last linear layer where it was named."""

    network: Network
    head: nn.Linear | None
    head_name: str
    tokenizer: PreTrainedTokenizerBase | None
    max_length: int | None
    prefix: str = ""

    def read(self, inputs: Any) -> Tokens | TensorInputs:
        """Token ids of texts, or named tensors."""
        return read_inputs(inputs, self.tokenizer, self.max_length, self.network.root)


def is_tensors(inputs: Any) -> bool:
    """Whether inputs are tensors or batches of them, rather than texts."""
    if isinstance(inputs, list | tuple):
        # A loader of a TensorDataset gives each batch as a list of tensors.
        batches = [b[0] if isinstance(b, list | tuple) and b else b for b in inputs]
        return any(isinstance(batch, Tensor | Mapping) or is_numeric(batch) for batch in batches)
    return isinstance(inputs, Tensor | Mapping) or is_numeric(inputs)


def read_inputs(
    inputs: Any,
    tokenizer: PreTrainedTokenizerBase | None,
    max_length: int | None,
    module: nn.Module,
) -> Tokens | TensorInputs:
    """Texts as tokens, and tensors as they are.

    Raises:
        InputError: as :func:`read_texts` or :meth:`TensorInputs.read`.
    """
    if isinstance(inputs, Tokens | TensorInputs):
        return inputs
    if is_tensors(inputs):
        return TensorInputs.read(inputs)
    if tokenizer is None or max_length is None:  # the model was read with inputs that are tensors
        raise InputError("some inputs are tensors and others are not: give one kind")
    return read_texts(text_list(inputs), tokenizer, max_length, module)


def read_texts(
    texts: Sequence[Text], tokenizer: PreTrainedTokenizerBase, max_length: int, module: nn.Module
) -> Tokens:
    """Texts as tokens.

    Raises:
        InputError: as :func:`~lpft.data.tokens.tokenize`, or the tokenizer has tokens that the
            model does not know.
    """
    tokens = tokenize(tokenizer, texts, max_length)
    table = None
    if isinstance(module, PreTrainedModel):
        with suppress(RuntimeError):  # CANINE does not implement it
            table = module.get_input_embeddings()
    largest = int(tokens.columns["input_ids"].max())
    if isinstance(table, nn.Embedding) and largest >= table.num_embeddings:
        raise InputError(
            f"the tokenizer gives the token {largest}, the model has {table.num_embeddings} "
            "tokens: expected the tokenizer that belongs to the model"
        )
    return tokens


def module_of(model: Any) -> nn.Module:
    """A module itself, or the one inside a fitted TextClassifier.

    Raises:
        InputError: it is neither, or its weights have no numbers or cannot be differentiated.
    """
    if hasattr(model, "get_params") and not hasattr(model, "model_"):
        raise InputError(
            "the classifier has no model yet: fit it, or take TextClassifier.untrained(...)"
        )
    module = getattr(model, "model_", model)
    if not isinstance(module, nn.Module):
        raise InputError(f"the model is a {type(model).__name__}: {_EXPECTED}")
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            which = f"'{name}'" if name else "the model"
            raise InputError(f"{which} is a script of TorchScript: expected what it was made of")
    for name, parameter in module.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise InputError(f"'{name}' has no shape yet: call the module once on a batch")
        if parameter.is_meta:
            raise InputError(f"'{name}' is on the meta device and has no numbers: load its weights")
    if any(parameter.is_inference() for parameter in module.parameters()):
        raise InputError(
            "the model was made under torch.inference_mode(), where nothing is differentiated: "
            "expected one that was made outside of it"
        )
    return module


def studied(
    model: Any,
    inputs: Any,
    *,
    outputs: Outputs | None,
    head: str | None,
    tokenizer: PreTrainedTokenizerBase | None,
    max_length: int | None,
) -> Studied:
    """Read a model: a classifier by its features and head, any other module by its outputs.

    Raises:
        InputError: as :func:`studied_model` and :func:`~lpft.ntk.network.module_network`.
    """
    # A classifier that is read at its logits has its head apart: P and F, without the temperature.
    # With other outputs it is a module like any other.
    module = original = module_of(model)
    reads_texts = not is_tensors(inputs)
    classifier = plain_classifier(module)
    if isinstance(classifier, LinearHeadClassifier) and outputs is None and head in (None, "head"):
        return studied_model(model, tokenizer, max_length, texts=reads_texts)
    if isinstance(classifier, LinearHeadClassifier):
        module = _without_temperature(module)
    _check_weights(module)
    tokenizer = getattr(model, "tokenizer_", None) if tokenizer is None else tokenizer
    if reads_texts and not inputs:
        raise InputError("there is no input: expected at least one")
    if reads_texts and tokenizer is None and not isinstance(inputs[0], str | tuple):
        raise InputError(
            f"the inputs are a list of {type(inputs[0]).__name__}: expected texts, or tensors "
            "(torch.tensor(...) makes one of numbers)"
        )
    if reads_texts:
        limit = position_limit(module) if isinstance(module, PreTrainedModel) else None
        max_length = check_reader(tokenizer, max_length, limit)
    samples = read_inputs(inputs, tokenizer, max_length, module)
    # Two samples show whether they influence one another; texts are left alone, as they are padded.
    has_two = isinstance(samples, TensorInputs) and len(samples) > 1
    sample = samples.batch([0, len(samples) - 1] if has_two else [0])
    network, layer = module_network(module, outputs, head, sample, original)
    return StudiedModule(network, layer, head or "", tokenizer, max_length)


def _without_temperature(module: nn.Module) -> nn.Module:
    """A copy of a classifier whose logits are not divided by its temperature."""
    module = copy_module(module)
    classifier = plain_classifier(module)
    assert isinstance(classifier, LinearHeadClassifier)
    classifier.config.temperature = 1.0
    return module


def studied_model(
    model: Any,
    tokenizer: PreTrainedTokenizerBase | None,
    max_length: int | None,
    *,
    texts: bool = True,
) -> StudiedModel:
    """Read a TextClassifier, a classifier with its tokenizer, or one with adapters.

    Without ``texts`` it needs no tokenizer.

    Raises:
        InputError: it is none of these, is not fitted, has no tokenizer or no linear head, is not
            finite, or is made for several labels per text or for regression.
    """
    network = module_of(model)
    tokenizer = getattr(model, "tokenizer_", None) if tokenizer is None else tokenizer
    classifier = plain_classifier(network)
    if not isinstance(classifier, LinearHeadClassifier):
        raise InputError(f"the model is a {type(network).__name__}: {_EXPECTED}")
    kind = classifier.config.problem_type
    if kind not in (None, "single_label_classification"):
        raise InputError(
            f"the model is made for {kind.replace('_', ' ')}: its kernel is not supported, only "
            "that of one class per text"
        )
    _check_weights(classifier)
    if texts:
        max_length = check_reader(tokenizer, max_length, position_limit(classifier.encoder))
    head = trained_head(network)
    check_own_weight(head, "head")
    prefix = "encoder." if classifier.virtual_tokens is None else ""
    return StudiedModel(classifier, head, tokenizer, max_length, prefix)


def _check_weights(module: nn.Module) -> None:
    """Refuse weights that are not finite, have hooks, or have adapters merged into them.

    Raises:
        InputError: a parameter is not finite, a hook would change its gradient, or an adapter's
            parameters would count for nothing.
    """
    check_finite(module, "the given model")
    for name, parameter in module.named_parameters():
        if parameter._backward_hooks:
            raise InputError(
                f"'{name}' has a hook on its gradient (register_hook), which copies of a model do "
                "not have: remove it; the kernel would be that without it"
            )
    for name, (_, _, merged) in adapter_settings(module).items():
        if merged:
            raise InputError(
                f"the adapter of '{name}' is merged into its weight, so its own parameters count "
                "for nothing: call unmerge_adapter(), or merge_and_unload() for the plain model"
            )


def check_reader(tokenizer: Any, max_length: int | None, limit: int | None) -> int:
    """The length in tokens to which texts are cut, for a model of at most ``limit`` positions.

    Raises:
        InputError: there is no tokenizer, or the length does not fit it or the model.
    """
    if tokenizer is None:
        raise InputError(
            "the model has no tokenizer for its texts: give it by tokenizer=..., or give tensors"
        )
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise InputError(
            f"tokenizer={tokenizer!r}: expected a tokenizer object of transformers, not its name"
        )
    if max_length is not None and not isinstance(max_length, int):
        raise InputError(
            f"max_length={max_length!r} is not a whole number: expected tokens per text"
        )
    least = tokenizer.num_special_tokens_to_add() + 1  # special tokens and one of the text
    if max_length is None:
        # Tokenizers without a limit have a huge number as theirs.
        max_length = min(n for n in (limit, tokenizer.model_max_length) if n is not None)
    if max_length < least or (limit is not None and max_length > limit):
        reach = f"at least {least}" if limit is None else f"{least} to {limit}"
        raise InputError(
            f"max_length {max_length} does not fit the model, which reads {reach} tokens"
        )
    return max_length


@dataclass(frozen=True)
class KernelRequest:
    """One of several kernels of the same network.

    Attributes:
        weight: V, C x h: the head whose outputs are meant; I_K where there is no head.
        parameters: names of the network's parameters, as its ``named_parameters()`` gives them.
        head_trains: whether P counts V; ``bias_trains`` whether it counts b (the +1).
        pretrain_scale: what P is multiplied by: C for the sum of C logits, each of which has it.
    """

    weight: Tensor
    parameters: frozenset[str]
    head_trains: bool = True
    bias_trains: bool = True
    pretrain_scale: float = 1.0

    __repr__ = short_repr


def request_of(
    model: Studied,
    parameters: Parameters = "all",
    select: Select = "all",
    weight: Tensor | None = None,
) -> KernelRequest:
    """The request for the kernel of the model's own head, or of ``weight`` in its place.

    Raises:
        InputError: no parameter has such a name, or there is no such output.
    """
    head = model.head
    if weight is None:  # where there is no head, the outputs are the features and V = I_K
        weight = torch.eye(model.network.width) if head is None else head.weight.detach()
    # A module's head is one of its submodules, so its parameters are the network's too: those of
    # the head count for P alone, all others for F.
    head_parameters = {} if head is None else dict(head.named_parameters())
    head_names = {f"{model.head_name}.{name}" for name in head_parameters}
    selected_names = _selected_names(model, head_names, parameters)
    of_network, of_head = selected_names - head_names, selected_names & head_names
    head_rows, scale = _selected(weight, select)
    names = model.network.named_parameters()
    return KernelRequest(
        weight=head_rows,
        parameters=frozenset(name for name in names if model.prefix + name in of_network),
        head_trains=f"{model.head_name}.weight" in of_head,
        bias_trains=f"{model.head_name}.bias" in of_head,
        pretrain_scale=scale,
    )


def _selected_names(model: Studied, head_names: set[str], parameters: Parameters) -> set[str]:
    """The names, in the model that was given, of the parameters whose gradients make its kernel.

    Raises:
        InputError: none is selected, one is complex, or no parameter has such a name.
    """
    network_names = {model.prefix + name for name in model.network.named_parameters()}
    named = {model.prefix + name: p for name, p in model.network.module.named_parameters()}
    # Complex parameters are refused if they are meant, and no part of the network's.
    complex_names = {name for name, parameter in named.items() if parameter.is_complex()}
    all_names = network_names | head_names | complex_names
    if parameters == "all":
        selected_names = all_names
    elif parameters == "trainable":
        every = (
            named
            if model.head is None
            else named
            | {f"{model.head_name}.{name}": p for name, p in model.head.named_parameters()}
        )
        selected_names = {name for name in all_names if every[name].requires_grad}
    else:
        # A parameter that modules share has a name for each of them.
        first_names = {id(parameter): name for name, parameter in named.items()}
        other_names = {
            model.prefix + name: first_names[id(parameter)]
            for name, parameter in model.network.module.named_parameters(remove_duplicate=False)
        }
        other_names = {name: first for name, first in other_names.items() if first in all_names}
        matching = _matching_names(parameters, all_names | other_names.keys())
        selected_names = {other_names.get(name, name) for name in matching}
    if selected_names & complex_names:
        raise InputError(
            f"'{min(selected_names & complex_names)}' is complex: expected real parameters; keep "
            "its real and imaginary parts as one (torch.view_as_real), and join them in the "
            "forward pass (torch.view_as_complex), or leave it out by parameters="
        )
    if not selected_names:
        raise InputError(
            "parameters='trainable': no parameter requires gradients, so the kernel would be zero; "
            "expected some that do, or names and patterns"
        )
    return selected_names


def check_requests(
    model: Studied,
    requests: Mapping[str, KernelRequest],
    groups: int,
    blocks: Sequence[tuple[int, int]],
) -> None:
    """Refuse requests that the encoder cannot meet, and blocks of groups that do not exist."""
    if not requests or not blocks:
        raise InputError("no kernel is requested: expected at least one request and one block")
    for block in blocks:
        if not all(0 <= group < groups for group in block):
            raise InputError(f"block {block}: expected two of {groups} groups of texts, from 0 on")
    names, width = set(model.network.named_parameters()), model.network.width
    for name, request in requests.items():
        if not isinstance(name, str):
            raise InputError(
                f"the name {name!r} of a kernel is not a string: expected names such as 'ft'"
            )
        unknown = sorted(request.parameters - names)
        if unknown:
            raise InputError(
                f"request '{name}': the model has no parameter {unknown[0]}; expected names as "
                "its named_parameters() gives them"
            )
        shape = tuple(request.weight.shape)
        if len(shape) != 2 or shape[0] < 1 or shape[1] != width:
            raise InputError(f"request '{name}': expected a head C x {width}, found {shape}")
        if request.weight.is_meta or request.weight.layout is not torch.strided:
            raise InputError(f"request '{name}': its head is no dense tensor with numbers in it")
        if request.weight.is_complex():
            raise InputError(f"request '{name}': its head is complex; expected real numbers")
        if not torch.isfinite(request.weight).all():
            raise InputError(
                f"request '{name}': its head is not finite (NaN or infinity); give an intact one"
            )


def trace_requests(request: KernelRequest, update: KernelKind) -> dict[str, KernelRequest]:
    """Kernels of one output each whose sum is the trace of the request's kernel over its outputs.

    With the singular value decomposition ``V = L S Q`` the trace of ``V K V^T`` is the sum of
    ``s_p^2 q_p K q_p^T``: as many kernels as V has rank, and not the square of that. Signs do not
    commute with a change of basis: there one for each row of V.
    """
    rows = request.weight.double()  # C x h
    if update == "sgd":
        # trace(V K V^T) = trace(S Q K Q^T S), as the columns of L are orthonormal.
        _, singular_values, right_vectors = torch.linalg.svd(rows, full_matrices=False)
        nonzero = singular_values > torch.finfo(request.weight.dtype).eps * singular_values.max()
        nonzero[0] = True  # a head of zeros has the kernel zero
        rows = singular_values[nonzero, None] * right_vectors[nonzero]
    return {
        f"output {number}": replace(request, weight=row.unsqueeze(0))
        for number, row in enumerate(rows)
    }


def _matching_names(patterns: Sequence[str], names: set[str]) -> set[str]:
    """The names that are among the patterns or match one."""
    is_list = isinstance(patterns, list | tuple | set | frozenset) and bool(patterns)
    if not is_list or not all(isinstance(pattern, str) for pattern in patterns):
        is_text = isinstance(patterns, str | None) or not patterns
        described = repr(patterns) if is_text else f"a {type(patterns).__name__}"
        raise InputError(
            f"parameters={described}: expected all, trainable, or a list of names and patterns"
        )
    # A pattern without a match is an error of typing, not an empty choice.
    chosen: set[str] = set()
    for pattern in patterns:
        matching = {name for name in names if fnmatchcase(name, pattern)}
        if not matching:
            raise InputError(
                f"no parameter matches '{pattern}': expected names such as {min(names)}, or "
                "patterns such as *.weight"
            )
        chosen |= matching
    return chosen


def _selected(weight: Tensor, select: Select) -> tuple[Tensor, float]:
    """V of the selected outputs, and what P is multiplied by."""
    classes = len(weight)
    if select in ("all", "trace"):
        return weight, 1.0 if select == "all" else float(classes)
    if select == "sum":
        return weight.double().sum(0, keepdim=True), float(classes)
    if not isinstance(select, Integral) or isinstance(select, bool) or not 0 <= select < classes:
        raise InputError(
            f"select={select!r}: expected {', '.join(get_args(get_args(Select)[0]))} or the number "
            f"of an output, from 0 to {classes - 1}"
        )
    return weight[select : select + 1], 1.0
