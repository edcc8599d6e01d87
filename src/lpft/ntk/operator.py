"""The empirical NTK as a linear operator: its products with vectors, without forming it."""

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lpft.data.lengths import length_batches
from lpft.data.tokens import Tokens
from lpft.errors import InputError
from lpft.model.inference import resolve_dtype
from lpft.ntk.api import grouped
from lpft.ntk.capture import NotBatched, RuleFailed
from lpft.ntk.certificate import refuse_changed_features
from lpft.ntk.jacobian import AutogradJacobian, StoredJacobian
from lpft.ntk.job import Options, examined, joined
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
from lpft.ntk.plan import Head
from lpft.ntk.storage import Place
from lpft.ntk.structure import FAILURES, cannot_pass
from lpft.ntk.studied import Parameters, Select, request_of, studied
from lpft.progress import progress

Array = NDArray[np.float64]
Part = Literal["total", "ft", "pretrain"]
"""P + F, F alone, or P alone."""
Activations = Literal["auto", "recomputed", "memory", "files"]
"""Whether what gradients are made of is stored, and where."""
_TOLERANCE = 1e4
"""Of relative differences that are rounding, in the dtype's eps."""
_MOST_COLUMNS = 8
"""Vectors at once at most: with more, next to nothing is left to be shared."""
_ACTIVATION_COPIES = 3
"""What a pass takes at most, in units of what its graph keeps."""
_MOST_ACTIVATIONS = {"cpu": 1 << 30, "cuda": 16 << 30}
"""Bytes of a pass at most: on a CPU larger batches are no faster."""


class NTKOperator(LinearOperator):
    """The empirical NTK ``Theta = J J'^T`` as a SciPy ``LinearOperator``, N C x M C, never formed.

    ``Theta v = J (J'^T v)``: one backward pass per batch of the columns' inputs gives the gradient
    ``w = J'^T v``, and one forward-mode pass per batch of the rows' inputs its product ``J w``. So
    time grows with N + M and not with N M, and memory holds a few copies of the parameters, one
    batch, and vectors. Where an operation of the module has no forward-mode derivative, ``J w`` is
    the derivative of ``<J^T u, w>`` in u, which takes about twice the time of that pass. P needs
    no gradients: ``P v = Phi (Phi'^T v) + 1 1^T v``.

    Index n C + c is output c of sample n: ``EmpiricalNTK.total().reshape(N C, M C)`` is the same
    matrix. Vectors are float64, the passes ``dtype``, sums over batches float64. Arguments that are
    not listed are those of :func:`~lpft.ntk.empirical_ntk`.

    Args:
        part: ``total`` is P + F (F where the module has no head), or ``ft`` for F, ``pretrain`` for
            P alone, each times the identity of the outputs where it is needed.
        update: ``sgd``; kernels of signs are no product of Jacobians.
        memory: bytes that the process (on CUDA: this device) may take in all, such as ``"4GB"``.
        activations: ``recomputed`` for every product, or stored once in ``memory`` or in temporary
            ``files``, from which products are about three times as fast: the inputs and gradients
            of all modules, for MiniLM 150 kB a token where the head has rank 1. ``auto`` stores
            them in memory where they take at most half of what is free of it.

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
        dtype: torch.dtype | str = torch.float32,
        tokenizer: PreTrainedTokenizerBase | None = None,
        max_length: int | None = None,
        memory: str | int | None = None,
        device: str | torch.device = "auto",
        activations: Activations = "auto",
    ) -> None:
        if update != "sgd":
            raise InputError(
                f"update={update!r}: products of signs of gradients are no linear operator of "
                "gradients; expected sgd, or the whole kernel by empirical_ntk"
            )
        if select == "trace":
            raise InputError(
                "select='trace': it is a sum of one kernel per output, each with products of its "
                "own; expected all, sum or the number of an output"
            )
        if part not in get_args(Part):
            raise InputError(
                f"part={part!r} is unknown: expected one of {', '.join(get_args(Part))}"
            )
        if activations not in get_args(Activations):
            expected = ", ".join(get_args(Activations))
            raise InputError(f"activations={activations!r} is unknown: expected one of {expected}")
        dtype = resolve_dtype(dtype)
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
        self._differential = AutogradJacobian(network, self.request.parameters)
        sides = [self.subject.read(group) for group in groups]
        self.record: dict[str, Any] = {"products": 0, "seconds": 0.0}
        with computed_in(dtype):
            self._sides = self._prepare(sides)
            if self.needs_gradients and activations != "recomputed":
                self._store(activations)
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
        if side.stored is not None:
            mixed = torch.einsum("ncs,cr->nrs", vectors, self._mixing)
            for number, rows in enumerate(progress(side.batches, "gradients", unit="batches")):
                for column, totals in enumerate(sums):
                    side.stored.pull_back(number, mixed[rows][..., column], totals)
            return sums
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
        if side.stored is not None:
            for number, rows in enumerate(progress(side.batches, "products", unit="batches")):
                for column, direction in enumerate(directions):
                    change = side.stored.push_forward(number, direction)
                    result[rows, :, column] = change @ self._mixing.T
            return result
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
            inner = sum(float((left[name] * right[name]).sum(dtype=torch.float64)) for name in left)
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
            squares = sum(float(g.square().sum(dtype=torch.float64)) for g in gradient.values())
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
                f"expected a kernel of inputs with themselves, for {wanted}, found one between two "
                "sets: leave other_inputs out"
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
            "activations": "recomputed",
            "batch_tokens": most,
            "columns_at_once": self._columns,
        }
        return sides

    def _store(self, activations: Activations) -> None:
        """Store what gradients are made of, where that is asked for or fits the memory.

        Raises:
            InputError: it was to be in memory, and does not fit.
        """
        dtype = self.options.dtype
        head = Head.of(self._weight, "sgd", dtype)
        self._mixing = head.mixing.to(self._device)
        samples = joined([side.inputs for side in self._sides])
        network, structure = examined(
            lambda: self.subject.network.copy(self._device, dtype),
            samples,
            list(self._differential.parameters),
        )
        if not structure.batched:
            for side in self._sides:
                side.batches = [np.array([row]) for rows in side.batches for row in rows]
        tokens = sum(
            len(rows) * int(length_of(side.inputs, structure.length)[rows].max())
            for side in self._sides
            for rows in side.batches
        )
        count = sum(len(side.inputs) for side in self._sides)
        size = StoredJacobian.bytes_of(structure, head.rank, tokens, count, dtype)
        fits = size <= self._free // 2
        if activations == "memory" and not fits:
            raise InputError(
                f"activations='memory': they take about {readable_size(size)}, and half of the "
                f"memory that is free of it is {readable_size(max(self._free // 2, 0))}; give "
                "more memory, or files, or recomputed"
            )
        if activations == "auto" and not fits:
            return
        cotangents = head.cotangents.to(self._device, dtype)
        place: Place = "files" if activations == "files" else "memory"
        try:
            for side in self._sides:
                side.stored = StoredJacobian(
                    network, structure, cotangents, side.inputs, side.batches, place
                )
                refuse_changed_features(network, side.inputs, side.features.cpu())
        except (NotBatched, RuleFailed) as failed:
            # A part of a batch passes some module: an expert that was chosen for some inputs.
            self.close()
            if activations == "auto":
                return
            raise InputError(
                f"activations={activations!r}: the model treats the inputs of a batch in ways of "
                "their own, as a mixture of experts does; expected recomputed"
            ) from failed
        self.record |= {
            "activations": place,
            "differentiation": "stored gradients",
            "stored_bytes": size,
            "head_rank": head.rank,
            "batches": [len(side.batches) for side in self._sides],
        }

    def close(self) -> None:
        """Forget stored activations, and remove their files; products are recomputed after it."""
        for side in self._sides:
            if side.stored is not None:
                side.stored.close()
                side.stored = None

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
        self._free = free - passes
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
        self.stored: StoredJacobian | None = None
