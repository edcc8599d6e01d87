"""The empirical NTK as a linear operator: its products with vectors, without forming it.

``Theta v = J (J'^T v)``: down the network with the columns' inputs, up again with the rows'. Both
halves are products of an :class:`~lpft.ntk.jacobian.AutogradJacobian`, or of a ``StoredJacobian``
where the inputs and gradients of all modules fit the memory. An ``_Axis`` has the inputs of the
rows or of the columns.
"""

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
from lpft.ntk.api import input_groups
from lpft.ntk.capture import NotBatched, RuleFailed
from lpft.ntk.certificate import (
    LARGEST_ERROR,
    Room,
    refuse_changed_features,
    refuse_wrong_split,
)
from lpft.ntk.jacobian import AutogradJacobian, StoredJacobian
from lpft.ntk.job import examine_network, join_inputs
from lpft.ntk.memory import (
    PORTIONS,
    default_budget,
    kernel_device,
    memory_in_use,
    parse_size,
    readable_size,
)
from lpft.ntk.network import TensorInputs, batch_to, sample_lengths
from lpft.ntk.options import Options
from lpft.ntk.outputs import Batch, Outputs
from lpft.ntk.passes import OtherPath, computed_in, only_these_require_gradients, undisturbed
from lpft.ntk.plan import Head
from lpft.ntk.storage import Place
from lpft.ntk.structure import FAILURES, cannot_pass, reading
from lpft.ntk.studied import Parameters, Select, request_of, studied
from lpft.progress import progress

Array = NDArray[np.float64]
Part = Literal["total", "ft", "pretrain"]
"""P + F, F alone, or P alone."""
Activations = Literal["auto", "recomputed", "memory", "files"]
"""Whether what gradients are made of is stored, and where."""
_TOLERANCE = 1e4
"""Of relative differences that are rounding, in the dtype's eps."""
_COMPARED = 16
"""Inputs on which ways to differentiate are compared."""
_MOST_COLUMNS = 8
"""Vectors at once at most: with more, next to nothing is left to be shared."""
_ACTIVATION_COPIES = 3
"""The memory of a pass, as a multiple of what its graph saves."""
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

    @undisturbed()
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
        groups, block = input_groups(inputs, other_inputs)
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
        self._jacobian = AutogradJacobian(network, self.request.parameters)
        axes = [self.subject.read(group) for group in groups]
        join_inputs(axes)  # refuses inputs of two kinds or shapes
        self.record: dict[str, Any] = {"products": 0, "seconds": 0.0}
        with computed_in(dtype):
            self._axes = self._prepare(axes)
            if self.needs_gradients and activations != "recomputed":
                self._store(activations)
        if any(axis.stored is None for axis in self._axes):
            self._jacobian.require_mode()
        self.samples = len(self._axes[0].inputs), len(self._axes[-1].inputs)
        self.outputs = len(self._weight)
        shape = (self.samples[0] * self.outputs, self.samples[1] * self.outputs)
        super().__init__(dtype=np.dtype(np.float64), shape=shape)

    @property
    def inputs(self) -> Tokens | TensorInputs:
        """The inputs of the rows."""
        return self._axes[0].inputs

    def features(self, axis: int) -> Array:
        """phi of the inputs of the rows (axis 0) or the columns (axis -1), N x h."""
        return self._axes[axis].features.cpu().numpy()

    @property
    def needs_gradients(self) -> bool:
        """Whether F is a part of this operator and any of its parameters trains."""
        return self.part != "pretrain" and bool(self._jacobian.parameters)

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
        target, source = (self._axes[-1], self._axes[0])[:: 1 if reverse else -1]
        with computed_in(self.options.dtype):
            columns = torch.tensor(np.asarray(vectors, dtype=np.float64)).to(self._device)
            columns = columns.view(len(source.inputs), self.outputs, vectors.shape[1])
            result = columns.new_zeros(len(target.inputs), self.outputs, columns.shape[2])
            if self.needs_gradients:
                for start in range(0, columns.shape[2], self._columns_at_once):
                    chunk = slice(start, start + self._columns_at_once)
                    gradients = self._pull_back(source, columns[..., chunk])
                    result[..., chunk] = self._push_forward(target, gradients)
            if self.has_pretrain:
                result += self._pretrain(target, source, columns)
        self.record["products"] += columns.shape[2]
        self.record["seconds"] += perf_counter() - started
        return result.flatten(0, 1).cpu().numpy()

    def gradient(self, vectors: Array) -> list[dict[str, Tensor]]:
        """``J^T V`` for V (N C x S) over the parameters of F, by name, float64, for each column."""
        with computed_in(self.options.dtype):
            columns = torch.tensor(np.asarray(vectors, dtype=np.float64)).to(self._device)
            columns = columns.view(self.samples[0], self.outputs, -1)
            return self._pull_back(self._axes[0], columns)

    def _pull_back(self, axis: "_Axis", vectors: Tensor) -> list[dict[str, Tensor]]:
        """``J^T V`` for V (N x C x S): per column the sum over batches of one backward pass."""
        parameters = self._jacobian.parameters
        sums = [
            {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
            for _ in range(vectors.shape[2])
        ]
        if axis.stored is not None:
            # V = R Q, and the stored gradients are those of Q phi: J^T u = J_Q^T (R^T u).
            mixed = torch.einsum("ncs,cr->nrs", vectors, self._mixing)
            for number, rows in enumerate(progress(axis.batches, "gradients", unit="batches")):
                for column, totals in enumerate(sums):
                    axis.stored.pull_back(number, mixed[rows][..., column], totals)
            return sums
        for rows, batch in self._batches(axis, "backward passes"):
            # The cotangents at the features: V^T u for every sample's u.
            cotangents = torch.einsum("ncs,ch->snh", vectors[rows], self._weight)
            for of_column, gradients in zip(
                sums, self._jacobian.pull_back(batch, cotangents), strict=True
            ):
                # A gradient of a batch is in ``dtype``; the sum over batches is float64.
                for name, gradient in gradients.items():
                    of_column[name] += gradient
        return sums

    def _push_forward(self, axis: "_Axis", gradients: list[dict[str, Tensor]]) -> Tensor:
        """``J W``, N x C x S, for S directions, by name of the parameter."""
        dtype = self.options.dtype
        directions = []
        while gradients:  # each float64 sum is freed before the next one is rounded
            of_column = gradients.pop(0)
            directions.append({name: of_column.pop(name).to(dtype) for name in list(of_column)})
        result = self._weight.new_empty(len(axis.inputs), self.outputs, len(directions))
        if axis.stored is not None:
            for number, rows in enumerate(progress(axis.batches, "products", unit="batches")):
                for column, direction in enumerate(directions):  # J w = R (J_Q w)
                    change = axis.stored.push_forward(number, direction)
                    result[rows, :, column] = change @ self._mixing.T
            return result
        for rows, batch in self._batches(axis, "forward passes"):
            for number, direction in enumerate(directions):
                change = self._jacobian.push_forward(batch, direction)
                result[rows, :, number] = change.double() @ self._weight.T
        return result

    def _pretrain(self, target: "_Axis", source: "_Axis", vectors: Tensor) -> Tensor:
        """``(P ⊗ I_C) V`` for V (M x C x S), from the features alone."""
        # (Phi Phi'^T + 1 1^T) v, output by output, without the N x M matrix.
        result = vectors.new_zeros(len(target.inputs), *vectors.shape[1:])
        if self.request.head_trains:
            summed = torch.einsum("mh,mcs->hcs", source.features, vectors)
            result += torch.einsum("nh,hcs->ncs", target.features, summed)
        if self.request.bias_trains:
            result += vectors.sum(0)
        return self.request.pretrain_scale * result

    # --- single entries, exactly

    def entries(self, rows: Sequence[int], columns: Sequence[int]) -> Array:
        """The entries (rows[i], columns[i]) of Theta, by plain autograd of two single samples.

        Raises:
            InputError: there is no such row or column.
        """
        for name, numbers, size in zip(("row", "column"), (rows, columns), self.shape, strict=True):
            outside = [number for number in numbers if not 0 <= number < size]
            if outside:
                raise InputError(f"there is no {name} {outside[0]}: expected 0 to {size - 1}")
        values = np.zeros(len(rows))
        pairs = list(zip(rows, columns, strict=True))
        for position, (i, j) in enumerate(progress(pairs, "exact entries", unit="entries")):
            left, right = self.sample_gradient(0, i), self.sample_gradient(-1, j)
            inner = sum(float((left[name] * right[name]).sum(dtype=torch.float64)) for name in left)
            values[position] = inner + self._pretrain_entry(int(i), int(j))
        return values

    def sample_gradient(self, axis: int, index: int) -> dict[str, Tensor]:
        """The gradient of one output of one sample, read alone, over the parameters of F."""
        if not self.needs_gradients:
            return {}
        # Row n C + c is output c of sample n: its cotangent at the features is the head's row c.
        sample, output = divmod(int(index), self.outputs)
        with computed_in(self.options.dtype):
            batch = self._batch(self._axes[axis], np.array([sample]))
            cotangent = self._weight[output].expand(1, 1, -1)
            return next(iter(self._jacobian.pull_back(batch, cotangent)))

    def head_gradient(self, axis: int, index: int) -> dict[str, Tensor]:
        """The gradient of one output by the head's V (C x h) and b (C), where these train."""
        if not self.has_pretrain:
            return {}
        sample, output = divmod(int(index), self.outputs)
        # P is scaled as a product of two gradients: each has the root of the factor.
        phi = self._axes[axis].features[sample]
        root = self.request.pretrain_scale**0.5
        gradient = {}
        if self.request.head_trains:
            gradient[f"{self.subject.head_name}.weight"] = phi.new_zeros(self.outputs, len(phi))
            gradient[f"{self.subject.head_name}.weight"][output] = root * phi
        if self.request.bias_trains:
            gradient[f"{self.subject.head_name}.bias"] = phi.new_zeros(self.outputs)
            gradient[f"{self.subject.head_name}.bias"][output] = root
        return gradient

    def _pretrain_entry(self, i: int, j: int) -> float:
        (n, c), (m, d) = divmod(i, self.outputs), divmod(j, self.outputs)
        if not self.has_pretrain or c != d:
            return 0.0
        inner = float(self._axes[0].features[n] @ self._axes[-1].features[m])
        entry = inner * self.request.head_trains + self.request.bias_trains
        return self.request.pretrain_scale * entry

    def diagonal(self) -> Array:
        """The diagonal, N C, exactly: the squared norms of the gradients of single outputs.

        Raises:
            InputError: rows and columns are not the same inputs.
        """
        self.require_symmetric("a diagonal")
        values = np.zeros(self.shape[0])
        for index in progress(range(self.shape[0]), "diagonal", unit="gradients"):
            gradient = self.sample_gradient(0, index)
            squares = sum(float(g.square().sum(dtype=torch.float64)) for g in gradient.values())
            values[index] = squares + self._pretrain_entry(index, index)
        return values

    def trace(self) -> float:
        """The trace, exactly: the sum of :meth:`diagonal`."""
        return float(self.diagonal().sum())

    def pretrain_trace(self) -> float:
        """The trace of P times the number of outputs, from the features."""
        return sum(self._pretrain_entry(index, index) for index in range(self.shape[0]))

    def require_symmetric(self, purpose: str) -> None:
        """Refuse what only a kernel of inputs with themselves has.

        Raises:
            InputError: this is the kernel between two sets of inputs.
        """
        if not self.symmetric:
            raise InputError(
                f"expected a kernel of inputs with themselves, for {purpose}, found one between "
                "two sets: leave other_inputs out"
            )

    # --- preparation

    def _prepare(self, inputs: Sequence[Tokens | TensorInputs]) -> "list[_Axis]":
        """Batches that fit the memory, features, and how ``J w`` is computed."""
        # The longest sample decides how much a batch may hold.
        jacobian = self._jacobian
        longest = max(inputs, key=lambda samples: int(sample_lengths(samples, 1).max()))
        row = int(np.argmax(sample_lengths(longest, 1)))
        sample = batch_to(longest.batch([row]), self._device, self.options.dtype)
        try:
            graph_bytes = jacobian.graph_bytes(sample) if jacobian.parameters else 0
        except InputError:
            raise
        except FAILURES as error:
            raise InputError(cannot_pass(error)) from error
        batch_tokens = self._batch_tokens_that_fit(
            graph_bytes, int(sample_lengths(longest, 1)[row])
        )
        axes = []
        for samples in inputs:
            lengths = sample_lengths(samples, 1)
            batches = list(length_batches(lengths, max_rows=len(samples), max_tokens=batch_tokens))
            axes.append(self._with_features(_Axis(samples, batches, torch.empty(0))))
        if self.needs_gradients:
            jacobian.choose_mode([batch for axis in axes for batch in self._compared(axis)])
        self.record |= {
            "differentiation": jacobian.mode,
            "parameters": sum(p.numel() for p in jacobian.parameters.values()),
            "batches": [len(axis.batches) for axis in axes],
            "activations": "recomputed",
            "batch_tokens": batch_tokens,
            "columns_at_once": self._columns_at_once,
        }
        return axes

    def _store(self, activations: Activations) -> None:
        """Store modules' inputs and gradients, if requested or if they fit the memory.

        Raises:
            InputError: it was to be in memory, and does not fit.
        """
        dtype = self.options.dtype
        head = Head.of(self._weight, "sgd", dtype)
        self._mixing = head.mixing.to(self._device)
        samples = join_inputs([axis.inputs for axis in self._axes])
        network, structure = examine_network(
            lambda: self.subject.network.copy(self._device, dtype),
            samples,
            list(self._jacobian.parameters),
        )
        # Stored products have the batches of the passes: samples that pass alone are one each.
        if not structure.batched:
            for axis in self._axes:
                axis.batches = [np.array([row]) for rows in axis.batches for row in rows]
        tokens = sum(
            len(rows) * int(sample_lengths(axis.inputs, structure.length)[rows].max())
            for axis in self._axes
            for rows in axis.batches
        )
        count = sum(len(axis.inputs) for axis in self._axes)
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
            for axis in self._axes:
                axis.stored = StoredJacobian(
                    network, structure, cotangents, axis.inputs, axis.batches, place
                )
                refuse_changed_features(network, axis.inputs, axis.features.cpu())
                self._check_stored(axis)
        except (NotBatched, RuleFailed, OtherPath) as failed:
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
            "batches": [len(axis.batches) for axis in self._axes],
        }

    def _check_stored(self, axis: "_Axis") -> None:
        """Compare ``J^T u`` for random u, in which every input counts, with plain autograd's.

        Raises:
            RuleFailed: they differ, as where a rule holds for some inputs and not for others.
        """
        generator = np.random.default_rng(0)
        vector = generator.standard_normal((len(axis.inputs), len(self._weight), 1))
        u = torch.from_numpy(vector).to(self._device)
        (stored,) = self._pull_back(axis, u)
        kept, axis.stored = axis.stored, None
        (expected,) = self._pull_back(axis, u)
        axis.stored = kept
        scale = sum(float(gradient.square().sum()) for gradient in expected.values()) ** 0.5
        wrong = [
            name
            for name, gradient in expected.items()
            if not (stored[name] - gradient).norm() <= LARGEST_ERROR[self.options.dtype] * scale
        ]
        if wrong:
            raise RuleFailed(*wrong)

    def close(self) -> None:
        """Forget stored activations, and remove their files; products are recomputed after it."""
        for axis in self._axes:
            if axis.stored is not None:
                axis.stored.close()
                axis.stored = None

    def _batch_tokens_that_fit(self, graph_bytes: int, length: int) -> int:
        """Padded tokens of a batch, or samples of tensors, that fit the memory.

        ``graph_bytes`` are those that the graph of one sample of ``length`` saves.

        Raises:
            InputError: not even one sample fits.
        """
        memory, device = self.options.memory, self._device
        used = memory_in_use(device)
        budget = default_budget(device) if memory is None else parse_size(memory)
        numbers = sum(p.numel() for p in self._jacobian.parameters.values())
        size = torch.finfo(self.options.dtype).bits // 8
        one_pass = _ACTIVATION_COPIES * max(graph_bytes, 1)
        # For each vector its sum in float64 and its rounded copy, and one gradient of a batch.
        column, gradient = numbers * (8 + size), numbers * size
        free = budget - used - gradient - column
        if free < one_pass and self.part != "pretrain":
            needed = used + gradient + column + one_pass
            raise InputError(
                f"the memory of {readable_size(budget)} is too small: a product takes at least "
                f"{readable_size(needed)}, what is in use included; give more, or shorter inputs"
            )
        # Half of what is free is for the activations of a batch, the rest for further columns, each
        # of which shares the forward pass of the others.
        passes = min(max(free // 2, one_pass), _MOST_ACTIVATIONS[device.type])
        self._free = free - passes
        self._columns_at_once = int(
            np.clip((free - passes) // max(column, 1) + 1, 1, _MOST_COLUMNS)
        )
        fitting = max(1, passes // one_pass) * length
        return max(length, min(fitting, PORTIONS[device.type].batch_tokens))

    def _with_features(self, axis: "_Axis") -> "_Axis":
        """The axis with its features, in batches only if samples do not change one another.

        Raises:
            InputError: features are not finite, or follow from what was read before.
        """
        features = self._features(axis)
        if self._padding_counts(axis, features) or self._gradients_depend(axis):
            batches = [np.array([row]) for rows in axis.batches for row in rows]
            axis = _Axis(axis.inputs, batches, features)
            features = self._features(axis)
        network, lengths = self._jacobian.network, sample_lengths(axis.inputs, 1)
        refuse_changed_features(network, axis.inputs, features.cpu())
        tokens = max(len(rows) * int(lengths[rows].max()) for rows in axis.batches)
        refuse_wrong_split(network, axis.inputs, features.cpu(), Room(tokens=tokens))
        return _Axis(axis.inputs, axis.batches, features)

    def _compared(self, axis: "_Axis") -> Iterator[Batch]:
        """Batches on which ways to differentiate are compared: the first inputs of each axis."""
        count = 0
        for rows in axis.batches:
            if count < _COMPARED:
                yield self._batch(axis, rows[: _COMPARED - count])
            count += len(rows)

    def _padding_counts(self, axis: "_Axis", features: Tensor) -> bool:
        """Whether the sample that its batch pads most has other features alone."""
        # If padding changes a model's features, it does so most for that sample.
        lengths = sample_lengths(axis.inputs, 1)
        padding = {
            int(rows[-1]): int(lengths[rows[0]] - lengths[rows[-1]])
            for rows in axis.batches
            if len(rows) > 1
        }
        if not padding:
            return False
        row = max(padding, key=lambda last: padding[last])
        alone = _Axis(axis.inputs.select([row]), [np.array([0])], features)
        difference = float((self._features(alone)[0] - features[row]).norm())
        eps = torch.finfo(self.options.dtype).eps
        return difference > _TOLERANCE * eps * float(features[row].norm())

    def _gradients_depend(self, axis: "_Axis") -> bool:
        """Whether the gradient of some samples together is not the sum of theirs alone.

        So it is where a gradient is divided by a count over the batch, as embeddings with
        ``scale_grad_by_freq`` do; features do not show it.
        """
        rows = max(axis.batches, key=len)[:_COMPARED]
        if len(rows) == 1 or not self.needs_gradients:
            return False
        generator = torch.Generator().manual_seed(0)
        u = torch.randn(1, len(rows), self._weight.shape[1], generator=generator)
        u = u.to(self._device, self.options.dtype)
        (together,) = self._jacobian.pull_back(self._batch(axis, rows), u)
        differences = {name: gradient.double() for name, gradient in together.items()}
        for number, row in enumerate(rows):
            batch = self._batch(axis, np.array([row]))
            (alone,) = self._jacobian.pull_back(batch, u[:, number : number + 1])
            for name, gradient in alone.items():
                differences[name] = differences[name] - gradient
        norms = {name: float(gradient.norm()) for name, gradient in together.items()}
        # Gradients that are zero up to rounding are compared with the largest of all.
        least = 1e-3 * max(norms.values())
        tolerance = _TOLERANCE * torch.finfo(self.options.dtype).eps
        return any(
            float(difference.norm()) > tolerance * max(norms[name], least)
            for name, difference in differences.items()
        )

    @torch.no_grad()
    def _features(self, axis: "_Axis") -> Tensor:
        """phi of all samples of an axis, N x h, float64."""
        table: Tensor | None = None
        network = self._jacobian.network
        with only_these_require_gradients(network.root, []):
            for rows, batch in self._batches(axis, "features"):
                with reading(network, axis.inputs, rows):
                    features = network.features(batch).detach().double()
                if table is None:
                    table = features.new_empty(len(axis.inputs), features.shape[1])
                table[rows] = features
        assert table is not None
        if not torch.isfinite(table).all():
            raise InputError(
                f"the model's features are not finite in {self.options.dtype}: expected an intact "
                "model, or torch.float64"
            )
        return table

    def _batches(
        self, axis: "_Axis", description: str
    ) -> Iterator[tuple[NDArray[np.int64], Batch]]:
        for rows in progress(axis.batches, description, unit="batches"):
            yield rows, self._batch(axis, rows)

    def _batch(self, axis: "_Axis", rows: NDArray[np.int64]) -> Batch:
        return batch_to(axis.inputs.batch(rows), self._device, self.options.dtype)


class _Axis:
    """The inputs of the rows or of the columns, in batches, with their features (N x h)."""

    def __init__(
        self, inputs: Tokens | TensorInputs, batches: list[NDArray[np.int64]], features: Tensor
    ) -> None:
        self.inputs = inputs
        self.batches = batches
        self.features = features
        self.stored: StoredJacobian | None = None
