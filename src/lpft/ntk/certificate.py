"""The check of a kernel: entries and products of it, computed again by plain autograd.

Everything here runs on a copy of the model that the engine has never touched, and uses none of the
engine's rules, batches of different lengths, tiles or sums.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lpft.errors import InputError
from lpft.ntk.contract import signed
from lpft.ntk.network import Inputs, Network, batch_to, device_and_dtype, run
from lpft.ntk.outputs import Batch
from lpft.ntk.passes import only_these_require_gradients, parameter_chunks, plain_gradients
from lpft.settings.kernels import KernelKind

CHECKED_AT_ONCE = 1 << 26
"""Numbers in the gradients that a check holds at once, unless one parameter has more."""
_TOKENS = 2048
"""Of samples of one length that pass together, at most."""
_RANDOM_SEED = 0
_READ_ALONE = 16
"""Samples whose features are computed once more from each sample alone, the longest included."""
LARGEST_ERROR = {torch.float32: 1e-3, torch.float64: 1e-8}
"""Relative to what an entry or a product can be at most: rounding stays far below."""


class Contradicted(InputError):
    """Plain autograd, or the module on single samples, contradicts a kernel."""


@dataclass(frozen=True)
class CheckedEntry:
    """An entry of F computed again by plain autograd: ``F[(n, c), (m, d)]`` both ways."""

    row: int
    row_class: int
    column: int
    column_class: int
    engine: float
    autograd: float
    scale: float
    """``||grad f_c(x_n)|| ||grad f_d(x_m)||``, what an entry can be at most."""

    @property
    def relative_error(self) -> float:
        """The difference, relative to the largest value that the entry could have."""
        return relative_error(self.engine, self.autograd, self.scale)


@dataclass(frozen=True)
class CheckedProduct:
    """``u^T F v`` for standard normal u (N C) and v (M C), in which every entry of F counts.

    By plain autograd it is ``<J^T u, J'^T v>``, two gradients of sums over all samples; where rows
    and columns are the same samples, v is u and it is ``||J^T u||^2``.
    """

    engine: float
    autograd: float
    scale: float
    """``||J^T u|| ||J'^T v||``, what the product can be at most."""

    @property
    def relative_error(self) -> float:
        """The difference, relative to the largest value that the product could have."""
        return relative_error(self.engine, self.autograd, self.scale)


def relative_error(engine: float, autograd: float, scale: float) -> float:
    """Relative to ``scale``; where that is zero, only zero has no error."""
    if scale > 0:
        return abs(engine - autograd) / scale
    return 0.0 if engine == autograd else np.inf


def largest_error(*checks: CheckedEntry | CheckedProduct) -> float | None:
    """The largest relative error of these checks, None of none."""
    return max((check.relative_error for check in checks), default=None)


@dataclass(frozen=True)
class Certificate:
    """The checks of a kernel, with the eigenvalues of F where it is square and symmetric.

    ``asymmetry`` is that of :func:`lpft.ntk.statistics.asymmetry`, None of a kernel that is not
    symmetric, as the eigenvalues are.
    """

    asymmetry: float | None
    smallest_eigenvalue: float | None
    largest_eigenvalue: float | None
    entries: tuple[CheckedEntry, ...]
    products: tuple[CheckedProduct, ...] = ()

    @property
    def largest_relative_error(self) -> float | None:
        """Of all entries and products."""
        return largest_error(*self.entries, *self.products)

    def __repr__(self) -> str:
        parts = [f"entries checked {len(self.entries)}, products checked {len(self.products)}"]
        numbers = {
            "largest relative error": self.largest_relative_error,
            "asymmetry": self.asymmetry,
            "smallest eigenvalue": self.smallest_eigenvalue,
            "largest eigenvalue": self.largest_eigenvalue,
        }
        parts += [f"{name} {n:.2g}" for name, n in numbers.items() if n is not None]
        return f"Certificate({', '.join(parts)})"

    def as_record(self) -> dict[str, Any]:
        """The certificate as JSON."""
        return {
            "asymmetry": self.asymmetry,
            "smallest_eigenvalue": self.smallest_eigenvalue,
            "largest_eigenvalue": self.largest_eigenvalue,
            "entries_checked": len(self.entries),
            "products_checked": len(self.products),
            "largest_relative_error": self.largest_relative_error,
        }


@dataclass(frozen=True)
class KernelToCheck:
    """F (N x C x M x C) of the head V over some parameters, which autograd is to check.

    ``rows`` and ``columns`` are numbers of samples.
    """

    ft_effective: Tensor
    weight: Tensor
    parameters: Sequence[nn.Parameter]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]


def longest_features(network: Network, inputs: Inputs) -> Tensor:
    """The features of the longest sample, read alone."""
    return _features_alone(network, inputs, _longest(inputs))


def _features_alone(network: Network, inputs: Inputs, row: int) -> Tensor:
    with torch.no_grad(), only_these_require_gradients(network.root, []):
        return network.features(_model_batch(network, inputs, [row]))[0].detach()


def _longest(inputs: Inputs) -> int:
    return 0 if inputs.lengths is None else int(np.argmax(inputs.lengths))


def refuse_changed_features(pristine: Network, inputs: Inputs, features: Tensor) -> None:
    """Refuse a model that gave other features (N x h) than it gives for a sample alone.

    ``pristine`` has read nothing yet, and reads the longest sample first: BigBird changes itself
    for good when it reads a short one.

    Raises:
        Contradicted: the features of the longest sample differ, or those of one of a few others.
    """
    # This also finds features that depend on the other texts of a batch, or on random numbers.
    generator = np.random.default_rng(_RANDOM_SEED)
    longest = _longest(inputs)
    others = generator.permutation(len(inputs))[: _READ_ALONE - 1].tolist()
    for row in dict.fromkeys([longest, *others]):
        alone = _features_alone(pristine, inputs, row)
        engine = features[row]
        error = float((alone.double().cpu() - engine).norm())
        if error <= LARGEST_ERROR[alone.dtype] * float(engine.norm()):
            continue
        cause = "when others are read with it, or are drawn at random"
        which, advice = f"input {row}", ""
        if inputs.lengths is not None and row == longest:
            which, cause = "its longest input", "once the model has read shorter ones"
            advice = "; give inputs of similar lengths, or a model whose attention does not change"
        size = max(float(engine.norm()), float(alone.norm()))
        raise Contradicted(
            f"the model's features of {which} are others {cause} (relative difference "
            f"{error / size:.1g}): expected a model that treats each input as if it were alone"
            f"{advice}"
        )


@torch.no_grad()
def refuse_wrong_split(network: Network, inputs: Inputs, features: Tensor, room: "Room") -> None:
    """Refuse a named head that does not make the outputs of every sample from its features.

    ``features`` are N x h. A module may clip or rectify what its last layer returns: then the split
    holds for some samples and not for others.

    Raises:
        InputError: ``head(features)`` are not the outputs of a sample.
    """
    if network.split is None:
        return
    head = network.root.get_submodule(network.split.head)
    assert isinstance(head, nn.Linear)
    with only_these_require_gradients(network.root, []):
        for rows in _equally_long(inputs, np.arange(len(inputs)), room.tokens):
            phi = features[rows].to(head.weight)
            batch = _model_batch(network, inputs, rows)
            outputs = run(network.split.outputs, network.root, batch).detach()
            # Relative to what the outputs can be at most, as they may cancel.
            scale = head.weight.norm() * phi.norm(dim=1)
            if head.bias is not None:
                scale = scale + head.bias.norm()
            wrong = ~((head(phi) - outputs).norm(dim=1) <= LARGEST_ERROR[phi.dtype] * scale)
            if wrong.any():
                raise InputError(
                    f"the outputs of input {rows[wrong.cpu().numpy()][0]} are not those of "
                    f"'{network.split.head}' on its features, so the kernel has no split into P "
                    "and F: leave head out"
                )


@dataclass(frozen=True)
class Room:
    """How much plain autograd may hold: numbers of a gradient, and tokens that pass together.

    Samples of tensors count as one token; ``tokens`` is 0 where samples pass one by one.
    """

    numbers: int = CHECKED_AT_ONCE
    tokens: int = 0

    @classmethod
    def within(cls, spare: int, per_token: int, length: int, *, batched: bool) -> "Room":
        """Half of ``spare`` numbers for three gradients, half for activations.

        ``length`` is that of a sample of tensors, 1 for texts.
        """
        tokens = min(_TOKENS, spare // 2 // max(1, per_token)) if batched else 0
        return cls(max(CHECKED_AT_ONCE, spare // 6), tokens // length)


def check_entries(
    network: Network,
    inputs: Inputs,
    kernel: KernelToCheck,
    *,
    update: KernelKind,
    room: Room,
    count: int,
) -> tuple[CheckedEntry, ...]:
    """``count`` random entries of F, each the product of two gradients of single samples.

    The first is one of the longest sample of the rows with the longest of the columns.
    """
    if not kernel.parameters:
        return ()
    generator = np.random.default_rng(_RANDOM_SEED)
    weight, device = kernel.weight, device_and_dtype(network.root)[0]
    entries = []
    for number in range(count):
        n, m = (int(generator.integers(len(x))) for x in (kernel.rows, kernel.columns))
        c, d = (int(generator.integers(weight.shape[0])) for _ in range(2))
        if number == 0 and inputs.lengths is not None:
            n, m = (int(np.argmax(inputs.lengths[x])) for x in (kernel.rows, kernel.columns))
        left_sample = _model_batch(network, inputs, [kernel.rows[n]])
        right_sample = _model_batch(network, inputs, [kernel.columns[m]])
        # <g, h> is the sum over parameters of their products: a chunk of them at a time.
        inner = left_square = right_square = 0.0
        for chunk in parameter_chunks(kernel.parameters, room.numbers):
            left = plain_gradients(network, left_sample, weight[c].to(device), chunk)
            right = plain_gradients(network, right_sample, weight[d].to(device), chunk)
            for g, h in zip(left, right, strict=True):
                g, h = signed(g, h, update)
                inner += _inner(g, h)
                left_square += _square(g)
                right_square += _square(h)
        scale = (left_square * right_square) ** 0.5
        engine = float(kernel.ft_effective[n, c, m, d])
        entries.append(CheckedEntry(n, c, m, d, engine, inner, scale))
    return tuple(entries)


def check_products(
    network: Network,
    inputs: Inputs,
    features: Tensor,
    kernels: Mapping[str, KernelToCheck],
    *,
    room: Room,
    count: int,
) -> dict[str, tuple[CheckedProduct, ...]]:
    """``count`` products ``u^T F v`` of each kernel.

    All kernels have the same rows and columns and share the forward passes, in which samples of
    equal length pass together: nothing is padded. ``features`` are the engine's (N x h), of which P
    is made; they are compared with those of these passes.

    Raises:
        Contradicted: the features of a sample differ.
    """
    generator = np.random.default_rng(_RANDOM_SEED)
    checked: dict[str, tuple[CheckedProduct, ...]] = dict.fromkeys(kernels, ())
    for _ in range(count):
        vectors: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        for name, kernel in kernels.items():
            n, c, m, _d = kernel.ft_effective.shape
            left = generator.standard_normal((n, c))
            symmetric = np.array_equal(kernel.rows, kernel.columns)
            vectors[name] = left, left if symmetric else generator.standard_normal((m, c))
        inner_products = _inner_products(network, inputs, features, kernels, vectors, room)
        for name, kernel in kernels.items():
            u, v = (torch.from_numpy(vector) for vector in vectors[name])
            engine = float(torch.einsum("nc,ncmd,md->", u, kernel.ft_effective, v))
            product, left_square, right_square = inner_products[name]
            scale = (left_square * right_square) ** 0.5
            checked[name] += (CheckedProduct(engine, product, scale),)
    return checked


def _inner_products(
    network: Network,
    inputs: Inputs,
    features: Tensor,
    kernels: Mapping[str, KernelToCheck],
    vectors: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    room: Room,
) -> dict[str, tuple[float, float, float]]:
    """``<J^T u, J'^T v>``, ``||J^T u||^2`` and ``||J'^T v||^2`` of each kernel."""
    totals = dict.fromkeys(kernels, (0.0, 0.0, 0.0))
    for chunk in _chunks(kernels, room.numbers):
        left = _pull_back(network, inputs, features, kernels, chunk, vectors, 0, room)
        right = dict(left)
        # Where rows and columns are the same samples, u is v and J^T u is J'^T v.
        two_sided = {
            name: parameters
            for name, parameters in chunk.items()
            if vectors[name][0] is not vectors[name][1]
        }
        if two_sided:
            right |= _pull_back(network, inputs, features, kernels, two_sided, vectors, 1, room)
        for name in chunk:
            pairs = list(zip(left[name], right[name], strict=True))
            of_chunk = (
                sum(_inner(g, h) for g, h in pairs),
                sum(_square(g) for g, _ in pairs),
                sum(_square(h) for _, h in pairs),
            )
            totals[name] = tuple(map(sum, zip(totals[name], of_chunk, strict=True)))  # type: ignore[assignment]
    return totals


def _chunks(
    kernels: Mapping[str, KernelToCheck], most: int
) -> Iterator[dict[str, list[nn.Parameter]]]:
    """Parts of the kernels' parameters of ``most`` numbers, or one single parameter."""
    # The kernels' parameters one after the other: a chunk may hold some of several kernels, which
    # then share the forward passes.
    owners = [(name, p) for name, kernel in kernels.items() for p in kernel.parameters]
    chunk: dict[str, list[nn.Parameter]] = {}
    numbers = 0
    for name, parameter in owners:
        if chunk and numbers + parameter.numel() > most:
            yield chunk
            chunk, numbers = {}, 0
        chunk.setdefault(name, []).append(parameter)
        numbers += parameter.numel()
    if chunk:
        yield chunk


def _pull_back(
    network: Network,
    inputs: Inputs,
    expected: Tensor,
    kernels: Mapping[str, KernelToCheck],
    parameters: Mapping[str, Sequence[nn.Parameter]],
    vectors: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    side: int,
    room: Room,
) -> dict[str, list[Tensor]]:
    """``J^T u`` of some kernels, by parameter; ``side`` is 0 for rows and 1 for columns."""
    first = kernels[next(iter(parameters))]
    samples = first.columns if side else first.rows
    # J^T u is the gradient of sum_n <u_n, V phi_n>: a single number is differentiated, so that no
    # Jacobian is formed.
    sums = {name: [torch.zeros_like(p) for p in chunk] for name, chunk in parameters.items()}
    distinct = {id(p): p for chunk in parameters.values() for p in chunk}
    with only_these_require_gradients(network.root, list(distinct.values())), torch.enable_grad():
        for positions in _equally_long(inputs, samples, room.tokens):
            features = network.features(_model_batch(network, inputs, samples[positions]))
            _refuse_wrong_features(features.detach(), expected[samples[positions]])
            if not features.requires_grad:
                continue
            # One forward pass serves all kernels; the last one's backward pass frees the graph.
            for number, (name, chunk) in enumerate(parameters.items(), start=1):
                weights = torch.from_numpy(vectors[name][side][positions]).to(features)
                gradients = torch.autograd.grad(
                    # sum_n <V^T u_n, phi_n>, whose gradient is J^T u.
                    (features * (weights @ kernels[name].weight.to(features))).sum(),
                    list(chunk),
                    retain_graph=number < len(parameters),
                    allow_unused=True,
                )
                for total, gradient in zip(sums[name], gradients, strict=True):
                    if gradient is not None:
                        total += gradient
    return sums


def _refuse_wrong_features(alone: Tensor, engine: Tensor) -> None:
    """Refuse features (n x h) of the engine that are not those of the samples by themselves."""
    # Sample by sample, so that one wrong row does not vanish among many.
    errors = (alone.double().cpu() - engine).norm(dim=1)
    if not bool((errors <= LARGEST_ERROR[alone.dtype] * engine.norm(dim=1)).all()):
        raise Contradicted(
            "the kernel is wrong: the features of an input differ from those that the model gives "
            "for it by itself; expected a model that treats each input as if it were alone; "
            "check_products=0 returns the kernel anyway"
        )


def _equally_long(
    inputs: Inputs, samples: NDArray[np.int64], tokens: int
) -> Iterator[NDArray[np.int64]]:
    """Positions in ``samples``, longest first, in batches of one length and at most ``tokens``."""
    # Longest first: memory that is too small shows at the first batch.
    lengths = np.ones(len(samples), np.int64) if inputs.lengths is None else inputs.lengths[samples]
    order = np.argsort(-lengths, kind="stable")
    for length, group in groupby(order, key=lambda position: int(lengths[position])):
        positions = np.array(list(group))
        step = max(1, tokens // length)
        for start in range(0, len(positions), step):
            yield positions[start : start + step]


def _model_batch(
    network: Network, inputs: Inputs, rows: Sequence[int] | NDArray[np.int64]
) -> Batch:
    return batch_to(inputs.batch(rows), *device_and_dtype(network.root))


def _inner(left: Tensor, right: Tensor) -> float:
    return float((left * right).sum(dtype=torch.float64))


def _square(gradient: Tensor) -> float:
    """Its squared norm, also where the squares of its entries are too small for its dtype."""
    return float(torch.linalg.vector_norm(gradient, dtype=torch.float64)) ** 2


def refuse_wrong(
    entries: Sequence[CheckedEntry], products: Sequence[CheckedProduct], dtype: torch.dtype
) -> None:
    """Refuse a kernel that plain autograd contradicts.

    Raises:
        Contradicted: an entry or a product is further from autograd's than rounding takes it.
        InputError: they are too small for float32.
    """
    advice = (
        "expected a model that treats each input as if it were alone; check_entries=0 and "
        "check_products=0 return the kernel anyway"
    )
    largest = max([*(e.scale for e in entries), *(p.scale for p in products)], default=0.0)
    if dtype == torch.float32 and 0 < largest < torch.finfo(dtype).tiny:
        raise InputError(
            f"the kernel is at most {largest:.1g}, too small for {dtype}: compute in torch.float64"
        )
    for entry in entries:
        if not entry.relative_error <= LARGEST_ERROR[dtype]:
            raise Contradicted(
                f"the kernel is wrong: an entry is {entry.engine:.6g}, and {entry.autograd:.6g} by "
                f"plain autograd (inputs {entry.row} and {entry.column}, classes {entry.row_class} "
                f"and {entry.column_class}); {advice}"
            )
    for product in products:
        if not product.relative_error <= LARGEST_ERROR[dtype]:
            raise Contradicted(
                f"the kernel is wrong: its product with random vectors is {product.engine:.6g}, "
                f"and {product.autograd:.6g} by plain autograd; {advice}"
            )
