"""The empirical NTK as a linear operator: its products with vectors, without forming it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from transformers import PreTrainedTokenizerBase

from lpft.data.tokens import Tokens, length_batches
from lpft.errors import InputError
from lpft.ntk.api import grouped
from lpft.ntk.certificate import refuse_changed_features
from lpft.ntk.job import Options
from lpft.ntk.memory import (
    PORTIONS,
    default_budget,
    kernel_device,
    memory_in_use,
    parse_size,
    readable_size,
)
from lpft.ntk.network import TensorInputs, length_of, moved
from lpft.ntk.outputs import Batch, Outputs
from lpft.ntk.passes import computed_in, only_these_require_gradients
from lpft.ntk.structure import FAILURES, cannot_pass
from lpft.ntk.studied import Parameters, Select, request_of, studied
from lpft.progress import progress
from lpft.settings import Device

Array = NDArray[np.float64]
Part = Literal["total", "ft", "pretrain"]
"""P + F, F alone, or P alone."""
Run = Callable[[Mapping[str, Tensor]], Sequence[Tensor]]
"""Outputs as a function of parameters by name."""

_UNSUPPORTED = ("Trying to use forward AD", "implement the jvp function")
"""What torch says of an operation, of its own or a user's, without a forward-mode derivative."""
_TOLERANCE = 1e4
"""Of relative differences that are rounding, in the dtype's eps."""
_MOST_COLUMNS = 8
"""Vectors at once at most: with more, next to nothing is left to be shared."""
_ACTIVATION_COPIES = 3
"""What a pass takes at most, in units of what its graph keeps."""
_MOST_ACTIVATIONS = {"cpu": 1 << 30, "cuda": 16 << 30}
"""Bytes of a pass at most: on a CPU larger batches are no faster."""
_RANDOM_SEED = 20_240_516


class NTKOperator(LinearOperator):
    """The empirical NTK ``Theta = J J'^T`` as a SciPy ``LinearOperator``, N C x M C, never formed.

    ``Theta v = J (J'^T v)``: one backward pass per batch of the columns' inputs gives the gradient
    ``w = J'^T v``, and one forward-mode pass per batch of the rows' inputs its product ``J w``. So
    time grows with N + M and not with N M, and memory holds a few copies of the parameters, one
    batch, and vectors. Where an operation of the module has no forward-mode derivative, ``J w`` is
    the derivative of ``<J^T u, w>`` in u, which takes about twice the time of that pass. P needs
    no gradients: ``P v = Phi (Phi'^T v) + 1 1^T v``.

    Index n C + c is output c of sample n: ``EmpiricalNTK.total().reshape(N C, M C)`` is the same
    matrix. Vectors are float64, the passes ``dtype``, sums over batches float64.

    Args:
        part: ``total`` is P + F (F where the module has no head), or ``ft`` for F, ``pretrain`` for
            P alone, each times the identity of the outputs where it is needed.
        update: ``sgd``; kernels of signs are no product of Jacobians.
        memory: bytes that the process (on CUDA: this device) may take in all, such as ``"4GB"``.

        The others are those of :func:`~lpft.ntk.empirical_ntk`.

    Attributes:
        record: how products are computed, how many were, and in how many seconds.
        outputs: C. samples: (N, M). symmetric: whether rows and columns are the same inputs.

    Raises:
        InputError: as :func:`~lpft.ntk.empirical_ntk`, or a kernel of signs.
    """

    def __init__(
        self,
        model: Any,
        inputs: Any,
        other_inputs: Any = None,
        *,
        outputs: Outputs | None = None,
        head: str | None = None,
        parameters: Parameters = "all",
        select: Select = "all",
        part: Part = "total",
        update: str = "sgd",
        dtype: torch.dtype = torch.float32,
        tokenizer: PreTrainedTokenizerBase | None = None,
        max_length: int | None = None,
        memory: str | int | None = None,
        device: Device = "auto",
    ) -> None:
        if update != "sgd":
            raise InputError(
                f"update={update!r}: products of signs of gradients are no linear operator of "
                "gradients; expected sgd, or the whole kernel by empirical_ntk"
            )
        if part not in get_args(Part):
            raise InputError(
                f"part={part!r} is unknown: expected one of {', '.join(get_args(Part))}"
            )
        self.options = Options(dtype=dtype, memory=memory, device=device)
        groups, block = grouped(inputs, other_inputs)
        self.subject = studied(
            model, groups[0], outputs=outputs, head=head, tokenizer=tokenizer, max_length=max_length
        )
        self.request = request_of(self.subject, parameters, select)
        if part == "pretrain" and self.subject.head is None:
            raise InputError(
                "part='pretrain': the module has no linear head, so its kernel has no P; name its "
                "last linear layer by head=..."
            )
        self.part: Part = part
        self.symmetric = block == (0, 0)
        self._device = kernel_device(device)
        network = self.subject.network.copy(self._device, dtype)
        self._weight = self.request.weight.detach().to(self._device, torch.float64)
        self._differential = _Differential(network, self.request.parameters)
        sides = [self.subject.read(group) for group in groups]
        self.record: dict[str, Any] = {"products": 0, "seconds": 0.0}
        with computed_in(dtype):
            self._sides = self._prepare(sides)
        self.samples = len(self._sides[0].inputs), len(self._sides[-1].inputs)
        self.outputs = len(self._weight)
        shape = (self.samples[0] * self.outputs, self.samples[1] * self.outputs)
        super().__init__(dtype=np.dtype(np.float64), shape=shape)

    @property
    def inputs(self) -> Tokens | TensorInputs:
        """The inputs of the rows."""
        return self._sides[0].inputs

    @property
    def needs_gradients(self) -> bool:
        """Whether F is a part of this operator and any of its parameters trains."""
        return self.part != "pretrain" and bool(self._differential.parameters)

    @property
    def has_pretrain(self) -> bool:
        """Whether P is a part of this operator, and not zero."""
        return self.part != "ft" and (self.request.head_trains or self.request.bias_trains)

    # --- products, as SciPy calls them

    def _matvec(self, vector: Array) -> Array:
        return self._product(vector.reshape(-1, 1), reverse=False)[:, 0]

    def _matmat(self, vectors: Array) -> Array:
        return self._product(vectors, reverse=False)

    def _rmatvec(self, vector: Array) -> Array:
        return self._product(vector.reshape(-1, 1), reverse=True)[:, 0]

    def _rmatmat(self, vectors: Array) -> Array:
        return self._product(vectors, reverse=True)

    def _product(self, vectors: Array, *, reverse: bool) -> Array:
        """Theta V for V (M C x S), or ``Theta^T V`` for V (N C x S)."""
        if np.iscomplexobj(vectors):
            raise InputError("the kernel is real: expected vectors of real numbers")
        if not np.isfinite(vectors).all():
            raise InputError("the vectors hold NaN or infinity: expected finite numbers")
        started = perf_counter()
        target, source = (self._sides[-1], self._sides[0])[:: 1 if reverse else -1]
        given = torch.tensor(np.asarray(vectors, dtype=np.float64)).to(self._device)
        given = given.view(len(source.inputs), self.outputs, -1)
        result = given.new_zeros(len(target.inputs), self.outputs, given.shape[2])
        with computed_in(self.options.dtype):
            if self.needs_gradients:
                for start in range(0, given.shape[2], self._columns):
                    columns = slice(start, start + self._columns)
                    gradients = self._pull_back(source, given[..., columns])
                    result[..., columns] = self._push_forward(target, gradients)
        if self.has_pretrain:
            result += self._pretrain(target, source, given)
        self.record["products"] += given.shape[2]
        self.record["seconds"] += perf_counter() - started
        return result.view(-1, given.shape[2]).cpu().numpy()

    def gradient(self, vectors: Array) -> list[dict[str, Tensor]]:
        """``J^T V`` for V (N C x S) over the parameters of F, by name, float64, for each column."""
        with computed_in(self.options.dtype):
            given = torch.tensor(np.asarray(vectors, dtype=np.float64)).to(self._device)
            given = given.view(self.samples[0], self.outputs, -1)
            return self._pull_back(self._sides[0], given)

    def _pull_back(self, side: "_Side", vectors: Tensor) -> list[dict[str, Tensor]]:
        """``J^T V`` for V (N x C x S): per column the sum over batches of one backward pass."""
        parameters = self._differential.parameters
        sums = [
            {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
            for _ in range(vectors.shape[2])
        ]
        for rows, batch in self._batches(side, "backward passes"):
            # The cotangents at the features: V^T u for every sample's u.
            cotangents = torch.einsum("ncs,ch->snh", vectors[rows], self._weight)
            for of_column, gradients in zip(
                sums, self._differential.pull_back(batch, cotangents), strict=True
            ):
                for name, gradient in gradients.items():
                    of_column[name] += gradient
        return sums

    def _push_forward(self, side: "_Side", gradients: list[dict[str, Tensor]]) -> Tensor:
        """``J W``, N x C x S, for S directions, by name of the parameter."""
        dtype = self.options.dtype
        directions = []
        while gradients:  # each float64 sum is freed before the next one is rounded
            of_column = gradients.pop(0)
            directions.append({name: of_column.pop(name).to(dtype) for name in list(of_column)})
        result = self._weight.new_empty(len(side.inputs), self.outputs, len(directions))
        for rows, batch in self._batches(side, "forward passes"):
            for number, direction in enumerate(directions):
                change = self._differential.push_forward(batch, direction)
                result[rows, :, number] = change.double() @ self._weight.T
        return result

    def _pretrain(self, target: "_Side", source: "_Side", vectors: Tensor) -> Tensor:
        """``(P ⊗ I_C) V`` for V (M x C x S), from the features alone."""
        result = vectors.new_zeros(len(target.inputs), *vectors.shape[1:])
        if self.request.head_trains:
            summed = torch.einsum("mh,mcs->hcs", source.features, vectors)
            result += torch.einsum("nh,hcs->ncs", target.features, summed)
        if self.request.bias_trains:
            result += vectors.sum(0)
        return self.request.pretrain_scale * result

    # --- single entries, exactly

    def entries(self, rows: Sequence[int], columns: Sequence[int]) -> Array:
        """The entries (rows[i], columns[i]) of Theta, by plain autograd of two single samples."""
        found = np.zeros(len(rows))
        pairs = list(zip(rows, columns, strict=True))
        for place, (i, j) in enumerate(progress(pairs, "exact entries", unit="entries")):
            left, right = self.sample_gradient(0, i), self.sample_gradient(-1, j)
            inner = sum(float((left[name].double() * right[name]).sum()) for name in left)
            found[place] = inner + self._pretrain_entry(int(i), int(j))
        return found

    def sample_gradient(self, side: int, index: int) -> dict[str, Tensor]:
        """The gradient of one output of one sample, read alone, over the parameters of F."""
        if not self.needs_gradients:
            return {}
        sample, output = divmod(int(index), self.outputs)
        with computed_in(self.options.dtype):
            batch = self._batch(self._sides[side], np.array([sample]))
            cotangent = self._weight[output].expand(1, 1, -1)
            return next(iter(self._differential.pull_back(batch, cotangent)))

    def head_gradient(self, side: int, index: int) -> dict[str, Tensor]:
        """The gradient of one output over the head, V (C x h) and b (C), as far as P counts it."""
        if not self.has_pretrain:
            return {}
        sample, output = divmod(int(index), self.outputs)
        phi = self._sides[side].features[sample]
        root = self.request.pretrain_scale**0.5
        found = {}
        if self.request.head_trains:
            found[f"{self.subject.head_name}.weight"] = phi.new_zeros(self.outputs, len(phi))
            found[f"{self.subject.head_name}.weight"][output] = root * phi
        if self.request.bias_trains:
            found[f"{self.subject.head_name}.bias"] = phi.new_zeros(self.outputs)
            found[f"{self.subject.head_name}.bias"][output] = root
        return found

    def _pretrain_entry(self, i: int, j: int) -> float:
        (n, c), (m, d) = divmod(i, self.outputs), divmod(j, self.outputs)
        if not self.has_pretrain or c != d:
            return 0.0
        inner = float(self._sides[0].features[n] @ self._sides[-1].features[m])
        both = inner * self.request.head_trains + self.request.bias_trains
        return self.request.pretrain_scale * both

    def diagonal(self) -> Array:
        """The diagonal, N C, exactly: the squared norms of the gradients of single outputs.

        Raises:
            InputError: rows and columns are not the same inputs.
        """
        self.require_symmetric("a diagonal")
        found = np.zeros(self.shape[0])
        for index in progress(range(self.shape[0]), "diagonal", unit="gradients"):
            gradient = self.sample_gradient(0, index)
            squares = sum(float(g.double().square().sum()) for g in gradient.values())
            found[index] = squares + self._pretrain_entry(index, index)
        return found

    def trace(self) -> float:
        """The trace, exactly: the sum of :meth:`diagonal`."""
        return float(self.diagonal().sum())

    def pretrain_trace(self) -> float:
        """The trace of P times the number of outputs, from the features."""
        return sum(self._pretrain_entry(index, index) for index in range(self.shape[0]))

    def require_symmetric(self, wanted: str) -> None:
        """Refuse what only a kernel of inputs with themselves has.

        Raises:
            InputError: this is the kernel between two sets of inputs.
        """
        if not self.symmetric:
            raise InputError(
                f"a kernel between two sets of inputs has not {wanted}: leave other_inputs out"
            )

    # --- preparation

    def _prepare(self, inputs: Sequence[Tokens | TensorInputs]) -> "list[_Side]":
        """Batches that fit the memory, features, and how ``J w`` is computed."""
        differential = self._differential
        longest = max(inputs, key=lambda of: int(length_of(of, 1).max()))
        row = int(np.argmax(length_of(longest, 1)))
        sample = moved(longest.batch([row]), self._device, self.options.dtype)
        try:
            kept = differential.bytes_kept(sample) if differential.parameters else 0
            differential.choose(sample)
        except InputError:
            raise
        except FAILURES as error:
            raise InputError(cannot_pass(error)) from error
        most = self._fit(kept, int(length_of(longest, 1)[row]))
        sides = []
        for of in inputs:
            lengths = length_of(of, 1)
            batches = list(length_batches(lengths, max_rows=len(of), max_tokens=most))
            sides.append(self._examined(_Side(of, batches, torch.empty(0))))
        self.record |= {
            "differentiation": differential.mode,
            "parameters": sum(p.numel() for p in differential.parameters.values()),
            "batches": [len(side.batches) for side in sides],
            "batch_tokens": most,
            "columns_at_once": self._columns,
        }
        return sides

    def _fit(self, kept: int, length: int) -> int:
        """Padded tokens of a batch, or samples of tensors, that fit the memory.

        ``kept`` are the bytes that the graph of one sample of ``length`` keeps.

        Raises:
            InputError: not even one sample fits.
        """
        memory, device = self.options.memory, self._device
        used = memory_in_use(device)
        budget = default_budget(device) if memory is None else parse_size(memory)
        numbers = sum(p.numel() for p in self._differential.parameters.values())
        size = torch.finfo(self.options.dtype).bits // 8
        one_pass = _ACTIVATION_COPIES * max(kept, 1)
        # For each vector its sum in float64 and its rounded copy, and one gradient of a batch.
        column, gradient = numbers * (8 + size), numbers * size
        free = budget - used - gradient - column
        if free < one_pass and self.part != "pretrain":
            needed = used + gradient + column + one_pass
            raise InputError(
                f"the memory of {readable_size(budget)} is too small: a product takes at least "
                f"{readable_size(needed)}, what is in use included; give more, or shorter inputs"
            )
        passes = min(max(free // 2, one_pass), _MOST_ACTIVATIONS[device.type])
        self._columns = int(np.clip((free - passes) // max(column, 1) + 1, 1, _MOST_COLUMNS))
        fitting = max(1, passes // one_pass) * length
        return max(length, min(fitting, PORTIONS[device.type].batch_tokens))

    def _examined(self, side: "_Side") -> "_Side":
        """The side with its features, in batches only if they do not change the features.

        Raises:
            InputError: features are not finite, or follow from what was read before.
        """
        features = self._features(side)
        # The sample that its batch pads most, read alone.
        lengths = length_of(side.inputs, 1)
        padding = {
            int(rows[-1]): int(lengths[rows[0]] - lengths[rows[-1]])
            for rows in side.batches
            if len(rows) > 1
        }
        if padding:
            row = max(padding, key=lambda of: padding[of])
            alone = _Side(side.inputs.select([row]), [np.array([0])], features)
            difference = float((self._features(alone)[0] - features[row]).norm())
            eps = torch.finfo(self.options.dtype).eps
            if difference > _TOLERANCE * eps * float(features[row].norm()):
                batches = [np.array([row]) for rows in side.batches for row in rows]
                side = _Side(side.inputs, batches, features)
                features = self._features(side)
        refuse_changed_features(self._differential.network, side.inputs, features.cpu())
        return _Side(side.inputs, side.batches, features)

    @torch.no_grad()
    def _features(self, side: "_Side") -> Tensor:
        """phi of all samples of a side, N x h, float64."""
        found: Tensor | None = None
        network = self._differential.network
        with only_these_require_gradients(network.root, []):
            for rows, batch in self._batches(side, "features"):
                features = network.features(batch).double()
                if found is None:
                    found = features.new_empty(len(side.inputs), features.shape[1])
                found[rows] = features
        assert found is not None
        if not torch.isfinite(found).all():
            raise InputError(
                f"the model's features are not finite in {self.options.dtype}: expected an intact "
                "model, or torch.float64"
            )
        return found

    def _batches(
        self, side: "_Side", description: str
    ) -> Iterator[tuple[NDArray[np.int64], Batch]]:
        for rows in progress(side.batches, description, unit="batches"):
            yield rows, self._batch(side, rows)

    def _batch(self, side: "_Side", rows: NDArray[np.int64]) -> Batch:
        return moved(side.inputs.batch(rows), self._device, self.options.dtype)


class _Side:
    """The inputs of the rows or of the columns, in batches, with their features (N x h)."""

    def __init__(
        self, inputs: Tokens | TensorInputs, batches: list[NDArray[np.int64]], features: Tensor
    ) -> None:
        self.inputs = inputs
        self.batches = batches
        self.features = features


class _Differential:
    """The Jacobian of a network's features in some of its parameters, backwards and forwards."""

    def __init__(self, network: Any, names: frozenset[str]) -> None:
        self.network = network
        own = network.named_parameters()
        self.parameters = {name: own[name] for name in own if name in names}
        self._caller = _Caller(network)
        callers = {id(p): name for name, p in self._caller.named_parameters()}
        self._names = {name: callers[id(p)] for name, p in self.parameters.items()}
        self.mode: Literal["forward mode", "double backward"] = "forward mode"

    def pull_back(self, batch: Batch, cotangents: Tensor) -> Iterator[dict[str, Tensor]]:
        """``J^T u`` for each of S cotangents (S x n x h), without what is zero throughout."""
        parameters = list(self.parameters.values())
        with only_these_require_gradients(self.network.root, parameters), torch.enable_grad():
            features = self.network.features(batch)
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
            named = {self._names[name]: of for name, of in parameters.items()}
            return [functional_call(self._caller, named, (batch,))]

        derivative = forward_mode if self.mode == "forward mode" else double_backward
        with only_these_require_gradients(self.network.root, []):
            return derivative(run, self.parameters, direction)[0]

    def choose(self, sample: Batch) -> None:
        """Take forward mode where the module has it and it is the transpose of the backward pass.

        ``<u, J w>`` and ``<J^T u, w>`` must agree on one sample.
        """
        if not self.parameters:
            return
        generator = torch.Generator().manual_seed(_RANDOM_SEED)
        direction = {
            name: torch.randn(p.shape, generator=generator).to(p)
            for name, p in self.parameters.items()
        }
        try:
            pushed = self.push_forward(sample, direction)
        except RuntimeError as error:
            if not any(text in str(error) for text in _UNSUPPORTED):
                raise
            self.mode = "double backward"
            return
        cotangent = torch.randn(pushed.shape, generator=generator).to(pushed)
        gradients = next(iter(self.pull_back(sample, cotangent.unsqueeze(0))))
        products = [(gradients[name] * direction[name]).double() for name in gradients]
        backward = sum(float(product.sum()) for product in products)
        scale = float(torch.stack([product.norm() for product in products]).norm())
        difference = abs(float((cotangent * pushed).sum()) - backward)
        if not difference <= _TOLERANCE * torch.finfo(pushed.dtype).eps * max(scale, abs(backward)):
            self.mode = "double backward"

    def bytes_kept(self, sample: Batch) -> int:
        """Bytes of what the graph of a forward pass keeps, parameters left out."""
        own = {p.untyped_storage().data_ptr() for p in self.network.root.parameters()}
        sizes: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        parameters = list(self.parameters.values())
        with (
            only_these_require_gradients(self.network.root, parameters),
            torch.enable_grad(),
            saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            self.network.features(sample)
        return sum(sizes.values())


class _Caller(nn.Module):
    """A network as a module that is called, so that its parameters can be replaced."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.root = network.root
        self._network = network

    def forward(self, batch: Batch) -> Tensor:
        return self._network.features(batch)


@torch.no_grad()
def forward_mode(
    run: Run, parameters: Mapping[str, Tensor], direction: Mapping[str, Tensor]
) -> list[Tensor]:
    """The derivatives of ``run`` along ``direction``, in one forward pass with tangents."""
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
    """The same as the derivative in u of ``<J^T u, direction>``, which is linear in u."""
    with torch.enable_grad():
        leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        results = list(run(leaves))
        if not any(result.requires_grad for result in results):
            return [torch.zeros_like(result) for result in results]
        cotangents = [torch.zeros_like(result, requires_grad=True) for result in results]
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
