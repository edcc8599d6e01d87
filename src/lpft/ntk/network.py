"""The function that is differentiated, of any PyTorch module, and the samples that it reads."""

import copy
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from lpft.errors import InputError, one_line
from lpft.model.adapters import adapter_settings
from lpft.model.classifier import LinearHeadClassifier
from lpft.model.inference import encoder_fingerprint
from lpft.ntk.outputs import LABELS, POSITIONAL, Batch, Outputs, logits

_SPLIT_TOLERANCE = 1e4
"""Of the relative difference of ``head(features)`` from the outputs, in the dtype's rounding."""


class Inputs(Protocol):
    """N samples. ``lengths`` are their tokens, or None where all samples have one shape."""

    @property
    def lengths(self) -> NDArray[np.int64] | None: ...
    def __len__(self) -> int: ...
    def batch(self, rows: Sequence[int] | NDArray[np.int64]) -> Batch: ...
    def select(self, rows: Sequence[int] | NDArray[np.int64]) -> Self: ...
    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class TensorInputs:
    """Samples as named tensors with the samples along the first axis."""

    tensors: dict[str, Tensor]

    @property
    def lengths(self) -> None:
        return None

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def batch(self, rows: Sequence[int] | NDArray[np.int64]) -> Batch:
        index = torch.as_tensor(np.asarray(rows))
        return {name: tensor[index] for name, tensor in self.tensors.items()}

    def select(self, rows: Sequence[int] | NDArray[np.int64]) -> "TensorInputs":
        return TensorInputs(self.batch(rows))

    def fingerprint(self) -> str:
        """SHA-256 over every number of every tensor."""
        return sha256("".join(_digests(self.tensors.items())).encode()).hexdigest()

    @classmethod
    def read(cls, inputs: Any) -> "TensorInputs":
        """A tensor, a mapping of tensors, or a list of batches; arrays of numbers are tensors too.

        A batch may also be a list of one tensor, or of the inputs and their classes, as a loader of
        a ``TensorDataset`` gives them.

        Raises:
            InputError: it is none of these, is empty, or the tensors differ in their first axis; or
                a tuple of tensors, which may mean one batch or several.
        """
        if isinstance(inputs, tuple) and any(
            isinstance(tensor, Tensor) or is_numeric(tensor) for tensor in inputs
        ):
            raise InputError(
                "the inputs are a tuple of tensors, which may be one batch or several: expected a "
                "dict of named tensors for one batch, such as {'input_ids': ids, 'attention_mask': "
                "mask}, or a list for several batches"
            )
        if isinstance(inputs, Tensor | Mapping) or is_numeric(inputs):
            batches = [_named(inputs)]
        elif isinstance(inputs, Iterable) and not isinstance(inputs, str):
            batches = [_named(batch) for batch in inputs]
        else:
            raise InputError(f"the inputs are a {type(inputs).__name__}: {_EXPECTED_INPUTS}")
        if not batches:
            raise InputError(f"there is no sample: {_EXPECTED_INPUTS}")
        first = batches[0]
        for number, batch in enumerate(batches[1:], start=2):
            if batch.keys() != first.keys():
                raise InputError(
                    f"batch {number} has {_quoted_all(batch)}, batch 1 has {_quoted_all(first)}: "
                    "expected the same tensors in every batch"
                )
            for name, tensor in batch.items():
                if _kind(tensor) != _kind(first[name]):
                    raise InputError(
                        f"batch {number} has {_kind(tensor)} in {_quoted(name)}, batch 1 "
                        f"{_kind(first[name])}: expected one kind in every batch"
                    )
                if tensor.shape[1:] != first[name].shape[1:]:
                    raise InputError(
                        f"batch {number} has samples of shape {tuple(tensor.shape[1:])} in "
                        f"{_quoted(name)}, batch 1 of {tuple(first[name].shape[1:])}: pad them to "
                        "one shape"
                    )
        # In memory of their own: what the caller writes into them later changes no kernel.
        return cls(
            {name: torch.cat([batch[name].detach().cpu() for batch in batches]) for name in first}
        )


_EXPECTED_INPUTS = (
    "expected texts, or a tensor (N x ...), or a dict of tensors, or a list of such batches"
)


def is_numeric(inputs: Any) -> bool:
    """Whether inputs are an array of numbers."""
    return isinstance(inputs, np.ndarray) and inputs.dtype.kind in "biuf"


def _named(batch: Any) -> dict[str, Tensor]:
    named = batch
    if isinstance(batch, Tensor) or is_numeric(batch):
        named = {POSITIONAL: batch}
    elif isinstance(batch, list | tuple):
        named = _loader_batch(batch)
    if not isinstance(named, Mapping) or not named:
        raise InputError(f"the inputs hold a {type(batch).__name__}: {_EXPECTED_INPUTS}")
    named = {
        name: torch.as_tensor(tensor) if is_numeric(tensor) else tensor
        for name, tensor in named.items()
    }
    for name, tensor in named.items():
        _check_tensor(name, tensor)
    counts = {name: len(tensor) for name, tensor in named.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{_quoted(name)} {count}" for name, count in counts.items())
        raise InputError(f"the tensors have different numbers of samples ({listed}): expected one")
    if not min(counts.values()):
        raise InputError(f"there is no sample: {_EXPECTED_INPUTS}")
    return dict(named)


def _check_tensor(name: str, tensor: Any) -> None:
    """Refuse an input that is no dense tensor of finite numbers.

    Raises:
        InputError: see above.
    """
    if not isinstance(tensor, Tensor) or tensor.ndim == 0:
        kind = "a scalar" if isinstance(tensor, Tensor) else f"a {type(tensor).__name__}"
        raise InputError(f"{_quoted(name)} is {kind}: {_EXPECTED_INPUTS}")
    if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_quantized:
        raise InputError(
            f"{_quoted(name)} is sparse, nested or quantized: expected a dense tensor "
            "(to_dense(), to_padded_tensor() or dequantize() makes one)"
        )
    if tensor.is_meta:
        raise InputError(f"{_quoted(name)} is on the meta device and has no numbers: load them")
    if (tensor.is_floating_point() or tensor.is_complex()) and not torch.isfinite(tensor).all():
        raise InputError(f"{_quoted(name)} has NaN or infinity: expected finite numbers")


def _loader_batch(batch: Sequence[Any]) -> dict[str, Any]:
    """The inputs, and their classes if a second tensor has one whole number for each."""
    if len(batch) == 1:
        return {POSITIONAL: batch[0]}
    labels = batch[1] if len(batch) == 2 else None
    if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.is_floating_point():
        raise InputError(
            f"a batch is a {type(batch).__name__} of {len(batch)}: expected the inputs alone, or "
            "the inputs and their classes (whole numbers); give other tensors by name, in a dict"
        )
    return {POSITIONAL: batch[0], LABELS: labels}


def _kind(tensor: Tensor) -> str:
    if tensor.dtype == torch.bool:
        return "booleans"
    if tensor.is_complex():
        return "complex numbers"
    return "real numbers" if tensor.is_floating_point() else "integers"


def _quoted_all(names: Iterable[str]) -> str:
    return ", ".join(map(_quoted, sorted(names)))


def _quoted(name: str) -> str:
    return "the tensor" if name == POSITIONAL else f"'{name}'"


@dataclass(frozen=True)
class Split:
    """A module's outputs and the name of its linear layer that makes them of the features."""

    outputs: Outputs
    head: str


@dataclass(frozen=True)
class Network:
    """A module and the features of it whose Jacobian is taken.

    Attributes:
        root: the module that computes them.
        outputs: features (n x h) of a batch by ``root``: what the head reads, and the outputs
            themselves where there is no head.
        part: the submodule of ``root`` that owns the parameters, empty for the whole.
        excluded: the submodule whose parameters do not count, if any.
        width: h.
        safe_padding: the sides on which texts may be padded
            (:class:`~lpft.model.padding.Reading`), as far as that is known.
        split: the head of a module that was named, and the outputs that it makes of the features.
    """

    root: nn.Module
    outputs: Outputs
    width: int
    part: str = ""
    excluded: str | None = None
    safe_padding: str = "both"
    split: "Split | None" = None

    @property
    def module(self) -> nn.Module:
        """The owner of the parameters; names are those of its ``named_parameters()``."""
        return self.root.get_submodule(self.part)

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """All real parameters of which the features may be a function, by name."""
        return {
            name: parameter
            for name, parameter in self.module.named_parameters()
            if parameter.is_floating_point()
            and (self.excluded is None or not name.startswith(f"{self.excluded}."))
        }

    def features(self, batch: Batch) -> Tensor:
        """The features of a batch, n x h, in the module's dtype.

        Raises:
            InputError: they are not n x h, or are rounded to fewer digits than the module has.
        """
        features = run(self.outputs, self.root, batch)
        shape = (sample_count(batch), self.width)
        if tuple(features.shape) != shape:
            raise InputError(
                f"the outputs of {shape[0]} inputs are of shape {tuple(features.shape)}: expected "
                f"{shape}, as many for every input"
            )
        dtype = device_and_dtype(self.root)[1]
        if torch.finfo(features.dtype).bits < torch.finfo(dtype).bits:
            raise InputError(
                f"the outputs are rounded to {features.dtype}, and everything else is computed in "
                f"{dtype}: expected outputs without half() or to(...)"
            )
        return features.to(dtype)

    def copy(self, device: torch.device, dtype: torch.dtype) -> "Network":
        """An independent copy on ``device`` in ``dtype``.

        Raises:
            InputError: the module cannot be copied.
        """
        return replace(self, root=_converted(_prepared_copy(self.root), device, dtype))

    def fingerprint(self) -> str:
        """SHA-256 over all that decides the features."""
        # Of a whole classifier the head counts too, which the encoder's fingerprint leaves out.
        without_head = self.part or self.excluded
        if isinstance(self.root, LinearHeadClassifier) and without_head:
            adapters = json.dumps(adapter_settings(self.module), sort_keys=True)
            return f"{encoder_fingerprint(self.root)} {adapters}"
        lines = "\n".join(_fingerprint_lines((self.root, self.outputs), {}))
        # Built-in functions are shown with their address, which differs from process to process.
        return sha256(re.sub(" at 0x[0-9a-f]+", "", lines).encode()).hexdigest()


def classifier_network(classifier: LinearHeadClassifier, width: int) -> Network:
    """The features phi of a classifier, over the parameters of its encoder.

    Where it reads virtual tokens, what they are made of counts too.
    """

    def features(root: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(root, LinearHeadClassifier)
        if set(batch) == {POSITIONAL}:
            return root.features(batch[POSITIONAL])
        return root.features(**batch)

    padding = classifier.config.safe_padding
    if classifier.virtual_tokens is not None:
        return Network(classifier, features, width, excluded="head", safe_padding=padding)
    return Network(classifier, features, width, part="encoder", safe_padding=padding)


def module_network(
    module: nn.Module,
    outputs: Outputs | None,
    head: str | None,
    sample: Batch,
    original: nn.Module,
) -> tuple[Network, nn.Linear | None]:
    """Any module as a network, run once on ``sample``; and its last linear layer if one is named.

    ``sample`` has one sample, or two of one shape, which are then also read in one batch.
    ``original`` is the user's own model, of which ``module`` may be a copy.

    ``outputs`` are the logits by default. With ``head``, the name of an ``nn.Linear``, the features
    are what the outputs become when that layer hands its input on, and the outputs must be
    ``head(features)``.

    Raises:
        InputError: the module cannot be copied or run, its outputs are not n x K, depend on no
            parameter, are computed by ``original`` instead of its copy or are random, the head is
            no linear layer of it, or the outputs are not those of the head on the features.
    """
    if outputs is not None and not callable(outputs):
        raise InputError(
            f"outputs={outputs!r}: expected a function of the module and a batch that gives n x K "
            "numbers"
        )
    module_copy = _prepared_copy(module)  # a first call may change a module for good
    for part in module_copy.modules():
        part.training = False
    outputs = logits if outputs is None else outputs
    device, dtype = device_and_dtype(module_copy)
    samples = batch_to(sample, device, dtype)
    sample = {name: tensor[:1] for name, tensor in samples.items()}
    _check_gradient(module_copy, outputs, sample, original)
    with torch.no_grad():
        expected = _checked_outputs(module_copy, outputs, sample).detach()
    if sample_count(samples) > 1:
        _check_independence(module_copy, outputs, samples, expected)
    if head is None:  # the features are the outputs themselves, and V is I_K
        return Network(module, outputs, expected.shape[1]), None
    layer = _linear(module_copy, head)
    split = Split(outputs, head)
    network = Network(module, _head_inputs(head, outputs), layer.in_features, split=split)
    with torch.no_grad():
        try:
            features = _checked_outputs(module_copy, network.outputs, sample)
        except InputError:  # what follows the layer does not fit its inputs
            features = expected.new_empty(1, 0)
        matches = features.shape[1] == layer.in_features and layer.out_features == expected.shape[1]
        if matches:
            error = (layer(features) - expected).norm()
            matches = bool(error <= _SPLIT_TOLERANCE * torch.finfo(dtype).eps * expected.norm())
    if not matches:
        raise InputError(
            f"the outputs are not those of '{head}' on its inputs, so the kernel has no split into "
            "P and F: name the module's last linear layer, or leave head out"
        )
    # P is over the head's parameters and F over all others. The split holds only if the features
    # do not depend on the head: with the head alone requiring gradients, they must have none.
    module_copy.requires_grad_(requires_grad=False)
    layer.requires_grad_(requires_grad=True)
    with torch.enable_grad():
        depends = run(network.outputs, module_copy, sample).requires_grad
    if depends:
        raise InputError(
            f"the features that '{head}' reads depend on its own parameters, so the kernel has no "
            "split into P and F: leave head out"
        )
    return network, _linear(module, head)


def _linear(module: nn.Module, name: str) -> nn.Linear:
    try:
        layer = module.get_submodule(name)
    except AttributeError:
        linear = [n for n, part in module.named_modules() if isinstance(part, nn.Linear)]
        hint = f", such as '{linear[-1]}'" if linear else ""
        raise InputError(
            f"head={name!r}: the module has no such part; expected the name of a linear layer{hint}"
        ) from None
    if not isinstance(layer, nn.Linear):
        # PEFT wraps a layer that trains beside an adapter: its copy is the last one inside.
        inner = [n for n, part in layer.named_modules() if isinstance(part, nn.Linear)]
        hint = f", such as '{name}.{inner[-1]}'" if inner else ""
        raise InputError(
            f"head={name!r} is a {type(layer).__name__}: expected the name of an nn.Linear{hint}"
        )
    own_names = [n for n, part in module.named_modules(remove_duplicate=False) if part is layer]
    if name not in own_names:  # wrappers, as PEFT's and compiled modules, find parts of their inner
        raise InputError(f"head={name!r}: expected its name in named_modules(), '{own_names[0]}'")
    check_own_weight(layer, name)
    shared = [
        parameter_name
        for parameter_name, parameter in module.named_parameters(remove_duplicate=False)
        if parameter is layer.weight and parameter_name != f"{name}.weight"
    ]
    if shared:
        raise InputError(
            f"the weight of '{name}' is also '{shared[0]}', so the kernel has no split into P and "
            "F: leave head out"
        )
    return layer


def check_own_weight(layer: nn.Linear, name: str) -> None:
    """Refuse a head whose weight is computed from other parameters: P is over V itself.

    Raises:
        InputError: it is so, as after weight_norm or spectral_norm.
    """
    if "weight" not in layer._parameters:
        raise InputError(
            f"the weight of the head '{name}' is computed from other parameters (weight_norm, "
            "spectral_norm or another parametrization): remove it with torch.nn.utils.parametrize."
            "remove_parametrizations or remove_weight_norm, or give outputs= without a head"
        )


def _head_inputs(head: str, outputs: Outputs) -> Outputs:
    """What the head reads: the outputs where the head returns its input unchanged."""

    def features(root: nn.Module, batch: Batch) -> Tensor:
        with replaced_forward([root.get_submodule(head)], lambda inputs: inputs):
            return outputs(root, batch)

    return features


@contextmanager
def replaced_forward(modules: Iterable[nn.Module], forward: Callable[..., Any]) -> Iterator[None]:
    """Within this context a call of any of these modules runs ``forward`` instead of its own."""
    unique = list(dict.fromkeys(modules))
    # An instance attribute hides the class's method. A module may have one already, as those that
    # accelerate wraps do: it is put back.
    previous = [module.__dict__.get("forward") for module in unique]
    try:
        for module in unique:
            object.__setattr__(module, "forward", forward)
        yield
    finally:
        for module, own in zip(unique, previous, strict=True):
            if own is None:
                module.__dict__.pop("forward", None)
            else:
                object.__setattr__(module, "forward", own)


def _check_gradient(
    module: nn.Module, outputs: Outputs, sample: Batch, original: nn.Module
) -> None:
    """Refuse outputs without a gradient, whose kernel would be zero.

    ``module`` is a copy of ``original``, which a function may call where it should call the copy.
    """
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    with torch.enable_grad(), evaluating(original):
        features = _checked_outputs(module, outputs, sample)
    leaves = _leaves(features)
    own = {id(parameter) for parameter in module.parameters()}
    if not leaves.isdisjoint({id(parameter) for parameter in original.parameters()} - own):
        raise InputError(
            "the outputs are computed by the model itself: expected outputs(module, batch) that "
            "calls the module it is given, which is a copy, and no forward or hook that holds the "
            "model"
        )
    for name, part in original.named_modules():
        for attribute in _computed_tensors(part):
            if id(vars(module.get_submodule(name)).get(attribute)) in leaves:
                path = f"{name}.{attribute}" if name else attribute
                raise InputError(
                    f"the outputs read '{path}', which was computed from parameters once and is no "
                    "part of a copy's graph: expected a forward pass that computes it anew"
                )
    if leaves.isdisjoint(own):
        raise InputError(
            "the outputs have no gradient in any parameter, so the kernel would be zero: expected "
            "outputs of the module that the function is given, without detach(), no_grad() or "
            "whole numbers on the way"
        )


def _leaves(outputs: Tensor) -> set[int]:
    """The tensors of which autograd would compute gradients, by ``id``."""
    leaves: set[int] = set()
    nodes: list[Any] = [outputs.grad_fn]
    seen = {None, *nodes}
    while nodes:
        node = nodes.pop()
        if hasattr(node, "variable"):  # where a leaf's gradient is added up
            leaves.add(id(node.variable))
        following = {function for function, _ in getattr(node, "next_functions", ())} - seen
        seen |= following
        nodes.extend(following)
    return leaves


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Within this context the module evaluates; each of its parts then is as it was."""
    # Not by eval(): some modules do more in theirs, as those that then merge an adapter into its
    # weight, and exported graphs have none.
    modes = [(part, part.training) for part in module.modules()]
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, training in modes:
            part.training = training


def _check_independence(module: nn.Module, outputs: Outputs, samples: Batch, alone: Tensor) -> None:
    """Warn where a sample's outputs change with the other samples in its batch.

    Such samples are later read one by one, as are those of a module that cannot read two at once.

    Raises:
        InputError: outputs change from one call to the next, or have no row for each sample.
    """
    try:
        with torch.no_grad():
            together = run(outputs, module, samples)
    except Exception:  # whatever other people's modules raise
        return
    with torch.no_grad():
        first = {name: tensor[:1] for name, tensor in samples.items()}
        again = run(outputs, module, first).detach()
    # Of the coarser of two precisions: the module's, and that of outputs which it converts.
    eps = max(torch.finfo(d).eps for d in (alone.dtype, device_and_dtype(module)[1]))
    tolerance = eps**0.5 * max(1.0, float(alone.norm()))
    if not float((again - alone).norm()) <= tolerance:
        raise InputError(
            "the outputs of the first sample differ from one call to the next: expected a module "
            "that draws no random numbers and keeps nothing in evaluation mode"
        )
    shape = tuple(together.shape) if isinstance(together, Tensor) else type(together).__name__
    count = sample_count(samples)
    if shape != (count, alone.shape[1]):
        raise InputError(
            f"the outputs of {count} samples are of shape {shape}: expected ({count}, "
            f"{alone.shape[1]}), a row for each sample"
        )
    if not float((together[:1] - alone).detach().norm()) <= tolerance:
        warnings.warn(
            "the outputs of the first sample change with the sample beside it, as a normalisation "
            "over the batch makes them: this kernel is that of samples read one by one",
            stacklevel=2,
        )


def _checked_outputs(module: nn.Module, outputs: Outputs, sample: Batch) -> Tensor:
    """The outputs of one sample, checked to be a matrix."""
    try:
        output = run(outputs, module, sample)
    except InputError:
        raise
    except Exception as error:
        advice = "a module that reads the inputs as they are, or outputs(module, batch) that does"
        if getattr(outputs, "__module__", None) != logits.__module__:  # not one of lpft's own
            names = [repr(name) for name in sample]
            advice = (
                f"outputs(module, batch) that takes its tensors from the batch, a dict with "
                f"{', '.join(names)}, such as batch[{names[0]}]"
            )
        raise InputError(
            f"the outputs of the first sample cannot be computed ({type(error).__name__}: "
            f"{one_line(error)}): expected {advice}"
        ) from error
    is_row = isinstance(output, Tensor) and output.ndim == 2 and output.shape[0] == 1
    if not is_row or not output.numel():
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(
            f"the outputs of 1 sample are of shape {shape}: expected 1 x K; give outputs=, a "
            "function of the module and a batch"
        )
    if not output.is_floating_point():
        raise InputError(f"the outputs are of {output.dtype}: expected real numbers")
    if not torch.isfinite(output).all():
        raise InputError("the outputs of the first sample are not finite: expected real numbers")
    return output


def _computed_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The tensors among a module's own attributes that are results of others."""
    attributes = vars(module).items()
    return {n: v for n, v in attributes if isinstance(v, Tensor) and not v.is_leaf}


def copy_module(module: nn.Module) -> nn.Module:
    """A copy of a module with all that belongs to it.

    Raises:
        InputError: it cannot be copied.
    """
    # deepcopy refuses tensors that are not leaves of the graph. Modules hold such tensors where
    # they cache a result, as the older weight_norm does with its weight: leaves take their place,
    # for every call computes them anew. One that does not is found by the gradient of the leaf.
    computed = {
        id(value): value.detach().clone().requires_grad_()
        for part in module.modules()
        for value in _computed_tensors(part).values()
    }
    try:
        return copy.deepcopy(module, dict[int, Any](computed))
    except Exception as error:  # whatever the parts of other people's modules raise
        raise InputError(
            f"the {type(module).__name__} cannot be copied ({one_line(error)}): kernels are "
            "computed on a copy; expected a module that copy.deepcopy copies"
        ) from error


def _prepared_copy(module: nn.Module) -> nn.Module:
    """A copy that computes the same in ways that every pass and dtype supports.

    Raises:
        InputError: the module cannot be copied.
    """
    module = copy_module(module)
    for part in module.modules():
        if isinstance(part, nn.Embedding | nn.EmbeddingBag):
            part.sparse = False  # the same gradient as a dense tensor, which every check reads
        if isinstance(part, PreTrainedModel):
            if getattr(part.config, "use_cache", False):
                part.config.use_cache = False  # blocks that fill a cache cannot be passed alone
            if not set(part.get_experts_implementation().values()) <= {None, "eager"}:
                part.set_experts_implementation("eager")  # grouped products have no float64
    return module


def device_and_dtype(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """The device and dtype of a module's first parameter of real numbers."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            return parameter.device, parameter.dtype
    raise InputError(
        f"the {type(module).__name__} has no parameters that are real numbers: its kernel would be "
        "zero"
    )


def run(outputs: Outputs, module: nn.Module, batch: Batch) -> Tensor:
    """The outputs of a batch, which stays as it is whatever the function or the module do to it."""
    return outputs(module, {name: tensor.clone() for name, tensor in batch.items()})


def batch_to(batch: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> Batch:
    """The batch on ``device``, its real numbers in ``dtype`` and complex ones of two of these."""
    return {name: tensor.to(device, _in(dtype, tensor)) for name, tensor in batch.items()}


def _converted(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The module itself, moved. ``Module.to`` would drop the imaginary part of complex numbers."""
    return module._apply(lambda tensor: tensor.to(device, _in(dtype, tensor)))


def _in(dtype: torch.dtype, tensor: Tensor) -> torch.dtype:
    """The dtype of a tensor whose numbers are to be as precise as ``dtype``."""
    if tensor.is_complex():
        return dtype.to_complex()
    return dtype if tensor.is_floating_point() else tensor.dtype


def sample_count(batch: Mapping[str, Tensor]) -> int:
    """How many samples a batch has."""
    return len(next(iter(batch.values())))


def sample_lengths(inputs: Inputs, default: int) -> NDArray[np.int64]:
    """Tokens of each sample; ``default`` where all have one shape."""
    lengths = inputs.lengths
    return np.full(len(inputs), default, dtype=np.int64) if lengths is None else lengths


def _digests(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[str]:
    for name, tensor in tensors:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        numbers = sha256(flat.view(torch.uint8).numpy().tobytes()).hexdigest()
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)} {numbers}"


def _fingerprint_lines(value: Any, seen: dict[int, tuple[int, Any]]) -> Iterator[str]:
    """Lines that differ where the value does: of a function, all that decides what it returns.

    Functions of other files are described by their names alone, as the versions of packages are
    part of the fingerprints anyway. ``seen`` has the values described already, by ``id``.
    """
    if id(value) in seen:  # shared or cyclic: refer to it by number
        yield f"again {seen[id(value)][0]}"
        return
    if isinstance(value, Tensor):
        yield from _digests([("", value)])
        return
    if isinstance(value, str | bytes | int | float | complex | None):
        yield f"{type(value).__name__} {value!r}"
        return
    seen[id(value)] = len(seen), value  # a reference, or its address could be used again
    if isinstance(value, type | ModuleType | BuiltinFunctionType):
        yield f"{value!r}"
        return
    yield f"{type(value).__module__} {type(value).__qualname__}"
    if isinstance(value, nn.Module):
        config = getattr(value, "config", None)
        if isinstance(config, PreTrainedConfig):
            yield config.to_json_string()
        yield f"{value}"
        yield from _digests([*value.named_parameters(), *value.named_buffers()])
    for part in _parts(value):
        yield from _fingerprint_lines(part, seen)


def _parts(value: Any) -> list[Any]:
    """What decides how a value acts, beside its type and a module's tensors."""
    if isinstance(value, nn.Module):
        return [part for module in value.modules() for part in _module_parts(module)]
    if isinstance(value, FunctionType):
        return [value.__module__, value.__qualname__, *_function_parts(value)]
    if isinstance(value, CodeType):
        return [value.co_code, value.co_names, value.co_consts]
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, np.ndarray) and value.dtype != object:
        return [str(value.dtype), str(value.shape), value.tobytes()]
    if isinstance(value, Mapping):
        return [len(value), *(part for pair in value.items() for part in pair)]
    if isinstance(value, list | tuple):
        return [len(value), *value]
    if isinstance(value, set | frozenset):
        return [len(value), *sorted(map(repr, value))]
    # An object that is called: its class's code, and what it holds.
    called = type(value).__call__ if callable(value) else None
    return [called, getattr(value, "__dict__", repr(value))]


def _module_parts(module: nn.Module) -> list[Any]:
    """What a module computes with beside its parameters and buffers: its code and attributes.

    Of attributes those that look the same in every process.
    """
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    forwards = [getattr(type(module).forward, "__code__", None), *hooks]
    attributes = {k: v for k, v in vars(module).items() if k not in _OF_EVERY_MODULE}
    return [*map(_plain, forwards), *((name, _plain(v)) for name, v in attributes.items())]


_OF_EVERY_MODULE = vars(nn.Module()).keys()


def _plain(value: Any) -> Any:
    """Numbers, words, tensors, functions' code and collections of these; else the type's name."""
    if isinstance(value, Mapping):
        return [(str(key), _plain(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, partial):
        return [_plain(value.func), _plain(value.args), _plain(value.keywords)]
    if isinstance(value, FunctionType):
        return [value.__qualname__, value.__code__, _plain(value.__defaults__)]
    plain = str | bytes | int | float | complex | None | CodeType | BuiltinFunctionType
    is_array = isinstance(value, np.ndarray) and value.dtype != object
    if isinstance(value, plain) or is_array or (isinstance(value, Tensor) and not value.is_meta):
        return value
    return f"{value!r}" if isinstance(value, type | torch.dtype) else type(value).__qualname__


def _function_parts(function: FunctionType) -> list[Any]:
    """A function's code, its defaults, the closure's values, and the globals that it reads."""
    parts: list[Any] = [function.__code__, function.__defaults__, function.__kwdefaults__]
    parts += [cell.cell_contents for cell in function.__closure__ or ()]
    names = _names_read(function.__code__)
    for name, value in function.__globals__.items():
        if name not in names:
            continue
        elsewhere = isinstance(value, FunctionType) and value.__module__ != function.__module__
        parts += [name, f"{value.__module__} {value.__qualname__}" if elsewhere else value]
    return parts


def _names_read(code: CodeType) -> set[str]:
    """The names that a function's code reads, those of functions inside of it included."""
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*map(_names_read, inner))
