"""The Jacobian of a network's features, backwards and forwards, a batch at a time.

:class:`AutogradJacobian` differentiates anew for every product. :class:`StoredJacobian` stores once
what the parameters' gradients are made of: a product then takes two matrix products per layer, a
third of the work.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Literal, get_args
from weakref import finalize

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call

from lpft.errors import InputError, out_of_memory
from lpft.ntk.capture import Outer, Rows, Share, share_parts, transposed_weights
from lpft.ntk.network import Inputs, Network, batch_to, device_and_dtype
from lpft.ntk.outputs import Batch
from lpft.ntk.passes import Passes, only_these_require_gradients
from lpft.ntk.storage import ActivationStore, Place
from lpft.ntk.structure import Structure
from lpft.progress import progress

logger = logging.getLogger(__name__)

Mode = Literal["forward mode", "double backward"]
"""Ways to ``J w``, the faster one first."""
Run = Callable[[Mapping[str, Tensor]], Sequence[Tensor]]
"""Outputs as a function of parameters by name."""

_UNSUPPORTED = ("Trying to use forward AD", "implement the jvp function")
"""Torch's messages for an operation, its own or a user's, without a forward-mode derivative."""
_TOLERANCE = 1e4
"""Of relative differences that are rounding, in the dtype's eps."""
_RANDOM_SEED = 20_240_516


class AutogradJacobian:
    """The Jacobian of a network's features in some of its parameters, backwards and forwards."""

    def __init__(self, network: Network, names: frozenset[str]) -> None:
        self.network = network
        by_name = network.named_parameters()
        self.parameters = {name: by_name[name] for name in by_name if name in names}
        self._caller = _Caller(network)
        self._names = _names_in(self._caller, self.parameters)
        self.mode: Mode | None = "forward mode"

    def pull_back(self, batch: Batch, cotangents: Tensor) -> Iterator[dict[str, Tensor]]:
        """``J^T u`` for each of S cotangents (S x n x h), without what is zero throughout."""
        parameters = list(self.parameters.values())
        with only_these_require_gradients(self.network.root, parameters), torch.enable_grad():
            features = self.network.features(batch)
            # One forward pass for all cotangents; the last backward pass frees its graph.
            for number, cotangent in enumerate(cotangents, start=1):
                if not features.requires_grad:
                    yield {name: torch.zeros_like(p) for name, p in self.parameters.items()}
                    continue
                gradients = torch.autograd.grad(
                    features,
                    parameters,
                    cotangent.to(features),
                    retain_graph=number < len(cotangents),
                    allow_unused=True,
                    materialize_grads=True,
                )
                yield dict(zip(self.parameters, gradients, strict=True))

    def push_forward(self, batch: Batch, direction: Mapping[str, Tensor]) -> Tensor:
        """``J w``, n x h."""

        def run(parameters: Mapping[str, Tensor]) -> list[Tensor]:
            named = {
                full_name: parameter
                for name, parameter in parameters.items()
                for full_name in self._names[name]
            }
            return [functional_call(self._caller, named, (batch,), tie_weights=False)]

        self.require_mode()
        derivative = forward_mode if self.mode == "forward mode" else double_backward
        with only_these_require_gradients(self.network.root, []):
            return derivative(run, self.parameters, direction)[0].detach()

    def choose_mode(self, batches: Sequence[Batch]) -> None:
        """Take the first way to ``J w`` that the module has and that fits its backward pass.

        ``<u, J w>`` and ``<J^T u, w>`` must agree on every batch. Where they never do, as where a
        custom operation has neither a forward-mode derivative nor one of its gradient, there is no
        ``J w``: ``mode`` is None, and :meth:`push_forward` refuses.
        """
        if not self.parameters:
            return
        modes: tuple[Mode, ...] = get_args(Mode)
        for mode in modes:
            self.mode = mode
            try:
                if all(map(self._is_transpose, batches)):
                    return
            except RuntimeError as error:
                if out_of_memory(error):
                    raise
                logger.debug("no %s: %s", mode, error)
        self.mode = None

    def _is_transpose(self, batch: Batch) -> bool:
        """Whether ``J w`` is the transpose of the backward pass, for one random pair u, w."""
        generator = torch.Generator().manual_seed(_RANDOM_SEED)
        direction = {
            name: torch.randn(p.shape, generator=generator).to(p)
            for name, p in self.parameters.items()
        }
        pushed = self.push_forward(batch, direction)
        cotangent = torch.randn(pushed.shape, generator=generator).to(pushed)
        gradients = next(iter(self.pull_back(batch, cotangent.unsqueeze(0))))
        # <J^T u, w> is a sum of many terms that may cancel: its rounding is relative to their norm.
        products = [(gradients[name] * direction[name]).double() for name in gradients]
        backward = sum(float(product.sum()) for product in products)
        scale = float(torch.stack([product.norm() for product in products]).norm())
        tolerance = _TOLERANCE * torch.finfo(pushed.dtype).eps * max(scale, abs(backward))
        return abs(float((cotangent * pushed).sum()) - backward) <= tolerance

    def require_mode(self) -> None:
        """Refuse a module without ``J w``.

        Raises:
            InputError: there is no way to it.
        """
        if self.mode is None:
            raise InputError(
                "products need a forward-mode derivative of every operation, or a derivative of "
                "its gradient, and some operation of the model has none that fits its backward "
                "pass: give activations='memory' or 'files', or take the whole kernel"
            )

    def graph_bytes(self, sample: Batch) -> int:
        """Bytes of the tensors that the graph of a forward pass saves, parameters left out."""
        parameter_storages = {
            p.untyped_storage().data_ptr() for p in self.network.root.parameters()
        }
        sizes: dict[int, int] = {}

        def record_size(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameter_storages:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        parameters = list(self.parameters.values())
        with (
            only_these_require_gradients(self.network.root, parameters),
            torch.enable_grad(),
            saved_tensors_hooks(record_size, lambda tensor: tensor),
        ):
            self.network.features(sample)
        return sum(sizes.values())


def _names_in(module: nn.Module, parameters: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """All names of each parameter in ``module``, one for each module that owns it.

    ``functional_call`` finds them too, but leaves its own tensors behind in a module that itself
    has two names.
    """
    names: dict[int, list[str]] = {id(parameter): [] for parameter in parameters.values()}
    for prefix, part in module.named_modules():  # each module once
        for local, parameter in part.named_parameters(recurse=False, remove_duplicate=False):
            if id(parameter) in names:
                names[id(parameter)].append(f"{prefix}.{local}" if prefix else local)
    return {name: names[id(parameter)] for name, parameter in parameters.items()}


class _Caller(nn.Module):
    """A network as a module that is called, so that its parameters can be replaced."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.root = network.root
        self._network = network

    def forward(self, batch: Batch) -> Tensor:
        return self._network.features(batch)


def lacks_forward_mode(error: RuntimeError) -> bool:
    """Whether an operation had no forward-mode derivative."""
    return any(text in str(error) for text in _UNSUPPORTED)


@torch.no_grad()
def forward_mode(
    run: Run, parameters: Mapping[str, Tensor], direction: Mapping[str, Tensor]
) -> list[Tensor]:
    """``J w``: the derivatives of ``run`` along w, in one forward pass with tangents."""
    with forward_ad.dual_level():
        duals = {
            name: forward_ad.make_dual(value.detach(), direction[name])
            for name, value in parameters.items()
        }
        results = [forward_ad.unpack_dual(result) for result in run(duals)]
        return [torch.zeros_like(r.primal) if r.tangent is None else r.tangent for r in results]


def double_backward(
    run: Run, parameters: Mapping[str, Tensor], direction: Mapping[str, Tensor]
) -> list[Tensor]:
    """The same as the gradient in u of ``<J^T u, w>``, which is linear in u: so at u = 0."""
    with torch.enable_grad():
        leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        results = list(run(leaves))
        if not any(result.requires_grad for result in results):
            return [torch.zeros_like(result) for result in results]
        cotangents = [torch.zeros_like(result, requires_grad=True) for result in results]  # u
        # J^T u with a graph of its own, so that it can be differentiated once more.
        gradients = torch.autograd.grad(
            results,
            tuple(leaves.values()),
            cotangents,
            create_graph=True,
            materialize_grads=True,
        )
        products = [
            (gradient * direction[name]).sum()
            for name, gradient in zip(leaves, gradients, strict=True)
        ]
        return list(
            torch.autograd.grad(torch.stack(products).sum(), cotangents, materialize_grads=True)
        )


class StoredJacobian:
    """The Jacobian of r features ``Q phi`` of given batches, from stored inputs and gradients.

    Of every module it stores the inputs x and the gradients g at its results that the engine makes
    kernels of. With them ``J^T u`` of a linear weight is the one product ``(u g)^T x`` over all
    tokens, and ``J w`` is the sum over tokens of ``g`` times ``x w^T``.

    Args:
        cotangents: Q, r x h.
        place: of what is stored; files are removed by :meth:`close`.
    """

    def __init__(
        self,
        network: Network,
        structure: Structure,
        cotangents: Tensor,
        inputs: Inputs,
        batches: Sequence[NDArray[np.int64]],
        place: Place,
    ) -> None:
        self._device = device_and_dtype(network.root)[0]
        self._rank = len(cotangents)
        self._store = ActivationStore(place)
        self._place = place
        finalize(self, self._store.close)  # files go with the object, also if nobody closes it
        self._shares: dict[tuple[int, int], dict[str, _Stored]] = {}
        self._transposed = transposed_weights(structure.modules)
        self._sizes = [len(rows) for rows in batches]
        by_name = network.named_parameters()
        direct = {name: by_name[name] for name in structure.direct}
        with (
            only_these_require_gradients(network.root, list(direct.values())),
            closing(ActivationStore("memory")) as hidden,
        ):
            # The sweep of the engine, of which all shares are stored instead of contracted.
            passes = Passes(network, structure.chain, structure.modules, direct, cotangents, hidden)
            for number, rows in enumerate(progress(batches, "storing inputs and gradients")):
                batch = batch_to(inputs.batch(rows), *device_and_dtype(network.root))
                passes.forward(number, batch)
                for position in reversed(range(passes.positions)):
                    self._put(position, number, passes.backward(position, number, batch))
                    passes.finish(position, number)
        self.positions = passes.positions

    @staticmethod
    def bytes_of(
        structure: Structure, rank: int, tokens: int, samples: int, dtype: torch.dtype
    ) -> int:
        """About how many bytes are stored for this many padded tokens and samples."""
        vectors = sum(p.sizes[1] for p in structure.parameters if p.form == "vector")
        per_token = sum(inputs + rank * gradients for inputs, gradients in structure.widths)
        numbers = tokens * per_token + samples * rank * vectors
        return numbers * torch.finfo(dtype).bits // 8

    def pull_back(self, number: int, weights: Tensor, totals: Mapping[str, Tensor]) -> None:
        """Add ``J^T u`` of a batch to totals by name, for u = ``weights`` (n x r)."""
        for position in range(self.positions):
            for name, share in self._get(position, number):
                for part in share_parts(share):
                    _add(totals[name], part, weights, transposed=name in self._transposed)

    def push_forward(self, number: int, direction: Mapping[str, Tensor]) -> Tensor:
        """``J w`` of a batch, n x r, float64."""
        shape = self._sizes[number], self._rank
        result = torch.zeros(shape, dtype=torch.float64, device=self._device)
        for position in range(self.positions):
            for name, share in self._get(position, number):
                for part in share_parts(share):
                    transposed = name in self._transposed
                    result += _along(direction[name], part, shape, transposed=transposed)
        return result

    def close(self) -> None:
        """Forget what is stored."""
        self._store.close()

    def _put(self, position: int, number: int, shares: Mapping[str, Share]) -> None:
        """Store the shares of a position; an input that several modules read is stored once."""
        tensors: list[Tensor] = []
        index_by_tensor: dict[tuple[int, tuple[int, ...]], int] = {}

        def index_of(tensor: Tensor) -> int:
            key = (tensor.data_ptr(), tuple(tensor.shape))
            if key not in index_by_tensor:
                index_by_tensor[key] = len(tensors)
                tensors.append(tensor.cpu() if self._place == "files" else tensor)
            return index_by_tensor[key]

        self._shares[position, number] = {
            name: [(type(part), [index_of(tensor) for tensor in _tensors(part)]) for part in parts]
            for name, parts in ((name, share_parts(share)) for name, share in shares.items())
        }
        self._store.put(("share", position, number), tensors)

    def _get(self, position: int, number: int) -> Iterator[tuple[str, Share]]:
        tensors = self._store.get(("share", position, number), self._device)
        on_device = [tensor.to(self._device) for tensor in tensors if tensor is not None]
        for name, parts in self._shares[position, number].items():
            for kind, indices in parts:
                first, *others = (on_device[index] for index in indices)
                if kind is Outer:
                    yield name, Outer(first, others)
                elif kind is Rows:
                    yield name, Rows(first, *others)
                else:
                    yield name, first


_Stored = list[tuple[type, list[int]]]
"""The parts of a share: the kind of each, and which of the position's tensors it has."""


def _tensors(part: Outer | Rows | Tensor) -> list[Tensor]:
    if isinstance(part, Outer):
        return [part.inputs, *part.gradients]
    return [part.ids, part.samples, part.vectors] if isinstance(part, Rows) else [part]


def _add(total: Tensor, part: Outer | Rows | Tensor, weights: Tensor, *, transposed: bool) -> None:
    """Add ``sum_n sum_s weights[n, s] J[s, n]`` to ``total``."""
    if isinstance(part, Outer):
        scales = weights.to(part.inputs)[:, :, None, None]
        # With u as the weights: (sum_s u_s g_s)^T x over all samples and tokens, b x a.
        summed = sum(g * scales[:, s] for s, g in enumerate(part.gradients))
        assert isinstance(summed, Tensor)
        product = summed.flatten(0, 1).T @ part.inputs.flatten(0, 1)
        total += (product.T if transposed else product).reshape(total.shape)
    elif isinstance(part, Rows):
        scaled = torch.einsum("suh,us->uh", part.vectors.double(), weights[part.samples])
        total.index_add_(0, part.ids, scaled)
    else:
        total += torch.einsum("snd,ns->d", part.double(), weights).reshape(total.shape)


def _along(
    direction: Tensor, part: Outer | Rows | Tensor, shape: tuple[int, int], *, transposed: bool
) -> Tensor:
    """``<J[s, n], direction>``, n x r, float64."""
    if isinstance(part, Outer):
        a, b = part.inputs.shape[-1], part.gradients[0].shape[-1]
        matrix = direction.reshape(a, b) if transposed else direction.reshape(b, a).T
        # x w^T is what the direction adds to the layer's result, n x T x b; its inner product with
        # g_s is what that adds to feature s.
        pushed = (part.inputs @ matrix).flatten(1)
        derivatives = [torch.einsum("nk,nk->n", g.flatten(1), pushed) for g in part.gradients]
        return torch.stack(derivatives, 1).double()
    if isinstance(part, Rows):
        inner = torch.einsum("suh,uh->us", part.vectors, direction[part.ids]).double()
        return inner.new_zeros(shape).index_add_(0, part.samples, inner)
    return torch.einsum("snd,d->ns", part, direction.reshape(-1)).double()
