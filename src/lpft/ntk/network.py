"""What is differentiated, and what it reads: any PyTorch module, and N samples of its inputs."""

import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from lpft.ntk.outputs import POSITIONAL, Batch, Outputs, logits

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
        """A tensor, a mapping of tensors, or a list of batches of either.

        Raises:
            InputError: it is none of these, is empty, or the tensors differ in their first axis.
        """
        if isinstance(inputs, Tensor | Mapping):
            parts = [_named(inputs)]
        elif isinstance(inputs, Iterable) and not isinstance(inputs, str):
            parts = [_named(batch) for batch in inputs]
        else:
            raise InputError(f"the inputs are a {type(inputs).__name__}: {_EXPECTED_INPUTS}")
        if not parts:
            raise InputError(f"there is no sample: {_EXPECTED_INPUTS}")
        first = parts[0]
        for number, part in enumerate(parts[1:], start=2):
            if part.keys() != first.keys():
                raise InputError(
                    f"batch {number} has {_listed(part)}, batch 1 has {_listed(first)}: expected "
                    "the same tensors in every batch"
                )
            for name, tensor in part.items():
                if tensor.shape[1:] != first[name].shape[1:]:
                    raise InputError(
                        f"batch {number} has samples of shape {tuple(tensor.shape[1:])} in "
                        f"{_shown(name)}, batch 1 of {tuple(first[name].shape[1:])}: pad them to "
                        "one shape"
                    )
        # In memory of their own: what the caller writes into them later changes no kernel.
        return cls(
            {name: torch.cat([part[name].detach().cpu() for part in parts]) for name in first}
        )


_EXPECTED_INPUTS = (
    "expected texts, or a tensor (N x ...), or a dict of tensors, or a list of such batches"
)


def _named(batch: Any) -> dict[str, Tensor]:
    named = {POSITIONAL: batch} if isinstance(batch, Tensor) else batch
    if not isinstance(named, Mapping) or not named:
        raise InputError(f"the inputs hold a {type(batch).__name__}: {_EXPECTED_INPUTS}")
    for name, tensor in named.items():
        if not isinstance(tensor, Tensor) or tensor.ndim == 0:
            kind = "a scalar" if isinstance(tensor, Tensor) else f"a {type(tensor).__name__}"
            raise InputError(f"{_shown(name)} is {kind}: {_EXPECTED_INPUTS}")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"{_shown(name)} has NaN or infinity: expected finite numbers")
    counts = {name: len(tensor) for name, tensor in named.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{_shown(name)} {count}" for name, count in counts.items())
        raise InputError(f"the tensors have different numbers of samples ({listed}): expected one")
    if not min(counts.values()):
        raise InputError(f"there is no sample: {_EXPECTED_INPUTS}")
    return dict(named)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(_shown, sorted(names)))


def _shown(name: str) -> str:
    return "the tensor" if name == POSITIONAL else f"'{name}'"


@dataclass(frozen=True)
class Network:
    """A module and the features of it whose Jacobian is taken.

    Attributes:
        root: the module that computes them.
        outputs: features (n x h) of a batch by ``root``: what the head reads, and the outputs
            themselves where there is no head.
        part: the submodule of ``root`` that owns the parameters, empty for the whole.
        without: the submodule whose parameters are none of them, if any.
        width: h.
        safe_padding: the sides on which texts may be padded
            (:class:`~lpft.model.padding.Reading`), as far as that is known.
    """

    root: nn.Module
    outputs: Outputs
    width: int
    part: str = ""
    without: str | None = None
    safe_padding: str = "both"

    @property
    def module(self) -> nn.Module:
        """The owner of the parameters; names are those of its ``named_parameters()``."""
        return self.root.get_submodule(self.part)

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """All parameters of which the features may be a function, by name."""
        return {
            name: parameter
            for name, parameter in self.module.named_parameters()
            if self.without is None or not name.startswith(f"{self.without}.")
        }

    def features(self, batch: Batch) -> Tensor:
        """The features of a batch, n x h."""
        return self.outputs(self.root, batch)

    def copy(self, device: torch.device, dtype: torch.dtype) -> "Network":
        """A network of its own on ``device`` in ``dtype``, which the original knows nothing of.

        Raises:
            InputError: the module cannot be copied.
        """
        root = copied(self.root).to(device, dtype)
        for part in root.modules():
            if isinstance(part, PreTrainedModel) and getattr(part.config, "use_cache", False):
                part.config.use_cache = (
                    False  # blocks that fill a cache cannot be passed one by one
                )
        return replace(self, root=root)

    def fingerprint(self) -> str:
        """SHA-256 over all that decides the features."""
        of_classifier = self.part or self.without
        if isinstance(self.root, LinearHeadClassifier) and of_classifier:
            adapters = json.dumps(adapter_settings(self.module), sort_keys=True)
            return f"{encoder_fingerprint(self.root)} {adapters}"
        return sha256("\n".join(_described((self.root, self.outputs), {})).encode()).hexdigest()


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
        return Network(classifier, features, width, without="head", safe_padding=padding)
    return Network(classifier, features, width, part="encoder", safe_padding=padding)


def module_network(
    module: nn.Module, outputs: Outputs | None, head: str | None, sample: Batch
) -> tuple[Network, nn.Linear | None]:
    """Any module as a network, tried on ``sample``; with its last linear layer where one is named.

    ``outputs`` are the logits by default. With ``head``, the name of an ``nn.Linear``, the features
    are what the outputs become when that layer hands its input on, and the outputs must be
    ``head(features)``.

    Raises:
        InputError: the module cannot be copied or run, its outputs are not n x K, the head is no
            linear layer of it, or the outputs are not those of the head on the features.
    """
    trial = copied(module).eval()
    outputs = logits if outputs is None else outputs
    device, dtype = place_of(trial)
    sample = moved(sample, device, dtype)
    found = _tried(trial, outputs, sample)
    if head is None:
        return Network(module, outputs, found.shape[1]), None
    layer = _linear(trial, head)
    network = Network(module, _before(head, outputs), layer.in_features)
    features = _tried(trial, network.outputs, sample)
    with torch.no_grad():
        fits = features.shape[1] == layer.in_features and layer.out_features == found.shape[1]
        if fits:
            error = (layer(features) - found).norm()
            fits = bool(error <= _SPLIT_TOLERANCE * torch.finfo(dtype).eps * found.norm())
    if not fits:
        raise InputError(
            f"the outputs are not those of '{head}' on its inputs, so the kernel has no split into "
            "P and F: name the module's last linear layer, or leave head out"
        )
    # P and F are over different parameters only if the head's decide nothing before it.
    trial.requires_grad_(requires_grad=False)
    layer.requires_grad_(requires_grad=True)
    with torch.enable_grad():
        depends = network.outputs(trial, sample).requires_grad
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
        linear = [n for n, m in module.named_modules() if isinstance(m, nn.Linear)]
        last = f", such as '{linear[-1]}'" if linear else ""
        raise InputError(
            f"head={name!r}: the module has no such part; expected the name of a linear layer{last}"
        ) from None
    if not isinstance(layer, nn.Linear):
        # PEFT wraps a layer that trains beside an adapter: its copy is the last one inside.
        inside = [n for n, m in layer.named_modules() if isinstance(m, nn.Linear)]
        last = f", such as '{name}.{inside[-1]}'" if inside else ""
        raise InputError(
            f"head={name!r} is a {type(layer).__name__}: expected the name of an nn.Linear{last}"
        )
    check_own_weight(layer, name)
    shared = [
        other
        for other, parameter in module.named_parameters(remove_duplicate=False)
        if parameter is layer.weight and other != f"{name}.weight"
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


def _before(head: str, outputs: Outputs) -> Outputs:
    """The outputs while the head hands its input on."""

    def features(root: nn.Module, batch: Batch) -> Tensor:
        with handing_on(root.get_submodule(head)):
            return outputs(root, batch)

    # For the fingerprint, which reads a function's code and what it closes over.
    return features


@contextmanager
def handing_on(layer: nn.Module) -> Iterator[None]:
    """Within this context the layer returns its input."""
    own = layer.__dict__.get("forward")
    object.__setattr__(layer, "forward", lambda inputs: inputs)
    try:
        yield
    finally:
        if own is None:
            layer.__dict__.pop("forward")
        else:
            object.__setattr__(layer, "forward", own)


def _tried(module: nn.Module, outputs: Outputs, sample: Batch) -> Tensor:
    """The outputs of one sample, checked to be a matrix."""
    try:
        with torch.no_grad():
            found = outputs(module, sample)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"the outputs of the first sample cannot be computed ({one_line(error)}): expected a "
            "module that reads the inputs as they are, or outputs(module, batch) that does"
        ) from error
    count = sample_count(sample)
    if not isinstance(found, Tensor) or found.ndim != 2 or found.shape[0] != count:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"the outputs of {count} sample are of shape {shape}: expected {count} x K; give "
            "outputs=, a function of the module and a batch"
        )
    if not found.is_floating_point() or not torch.isfinite(found).all():
        raise InputError("the outputs of the first sample are not finite: expected real numbers")
    return found


def copied(module: nn.Module) -> nn.Module:
    """A copy of a module with all that belongs to it.

    Raises:
        InputError: it cannot be copied.
    """
    # What a module computed before, as the weight of the older weight_norm, is no leaf, which
    # deepcopy refuses; it is computed again by every call.
    computed = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    try:
        return copy.deepcopy(module, dict[int, Any](computed))
    except Exception as error:  # whatever the parts of other people's modules raise
        raise InputError(
            f"the {type(module).__name__} cannot be copied ({one_line(error)}): kernels are "
            "computed on a copy; expected a module that copy.deepcopy copies"
        ) from error


def place_of(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """The device and floating dtype of a module's first parameter."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            return parameter.device, parameter.dtype
    raise InputError(f"the {type(module).__name__} has no parameters: its kernel would be zero")


def moved(batch: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> Batch:
    """The batch on ``device``, its real numbers in ``dtype``."""
    return {
        name: tensor.to(device, dtype if tensor.is_floating_point() else None)
        for name, tensor in batch.items()
    }


def sample_count(batch: Mapping[str, Tensor]) -> int:
    """How many samples a batch has."""
    return len(next(iter(batch.values())))


def length_of(inputs: Inputs, samples: int) -> NDArray[np.int64]:
    """Tokens of each sample; ``samples`` where all have one shape."""
    lengths = inputs.lengths
    return np.full(len(inputs), samples, dtype=np.int64) if lengths is None else lengths


def _digests(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[str]:
    for name, tensor in tensors:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        numbers = sha256(flat.view(torch.uint8).numpy().tobytes()).hexdigest()
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)} {numbers}"


def _described(value: Any, seen: dict[int, tuple[int, Any]]) -> Iterator[str]:
    """Lines that differ where the value does: of a function all that decides what it returns.

    Of what other files define the name is enough, as the versions of packages are known elsewhere.
    ``seen`` are the values that are described already, with their numbers.
    """
    if id(value) in seen:
        yield f"again {seen[id(value)][0]}"
        return
    if isinstance(value, Tensor):
        yield from _digests([("", value)])
        return
    if isinstance(value, str | bytes | int | float | complex | None):
        yield f"{type(value).__name__} {value!r}"
        return
    seen[id(value)] = len(seen), value  # which is kept: no other one may have its address
    if isinstance(value, type | ModuleType | BuiltinFunctionType):
        yield f"{value!r}"
        return
    yield f"{type(value).__module__} {type(value).__qualname__}"
    parts: list[Any]
    if isinstance(value, nn.Module):
        config = getattr(value, "config", None)
        if isinstance(config, PreTrainedConfig):
            yield config.to_json_string()
        yield f"{value}"
        yield from _digests([*value.named_parameters(), *value.named_buffers()])
        parts = []
    elif isinstance(value, FunctionType):
        yield f"{value.__module__} {value.__qualname__}"
        names = _names(value.__code__)
        own = {n: v for n, v in value.__globals__.items() if n in names}
        parts = [value.__code__, value.__defaults__, value.__kwdefaults__]
        parts += [cell.cell_contents for cell in value.__closure__ or ()]
        for name, used in own.items():
            elsewhere = isinstance(used, FunctionType) and used.__module__ != value.__module__
            parts += [name, f"{used.__module__} {used.__qualname__}" if elsewhere else used]
    elif isinstance(value, CodeType):
        parts = [value.co_code, value.co_names, value.co_consts]
    elif isinstance(value, MethodType):
        parts = [value.__func__, value.__self__]
    elif isinstance(value, partial):
        parts = [value.func, value.args, value.keywords]
    elif isinstance(value, np.ndarray) and value.dtype != object:
        parts = [str(value.dtype), str(value.shape), value.tobytes()]
    elif isinstance(value, Mapping):
        parts = [part for pair in value.items() for part in pair]
    elif isinstance(value, list | tuple):
        yield f"{len(value)}"
        parts = list(value)
    elif isinstance(value, set | frozenset):
        parts = sorted(map(repr, value))
    else:
        # An object that is called: its class's code, and what it holds.
        called = type(value).__call__ if callable(value) else None
        parts = [called, getattr(value, "__dict__", repr(value))]
    for part in parts:
        yield from _described(part, seen)


def _names(code: CodeType) -> set[str]:
    """The names that a function's code reads, those of functions inside of it included."""
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*map(_names, inner))
