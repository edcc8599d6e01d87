"""Approximations of a kernel that is too large to form, from its operator: each with its error.

Leading eigenpairs, ridge regression and the trace use products alone; Nystroem and random features
give a low-rank factor. Where a result stands for the whole kernel, entries drawn at random and
computed exactly by plain autograd say how far it is from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, cg, eigsh
from scipy.stats import bootstrap
from torch import Tensor

from lpft.analysis.inputs import as_array, short_repr
from lpft.errors import InputError
from lpft.ntk.job import KernelJob
from lpft.ntk.operator import NTKOperator, Part
from lpft.ntk.statistics import same_features
from lpft.progress import progress

Array = NDArray[np.float64]

CHECKED = 32
"""Entries by which an approximation is checked by default: two gradients each."""
_CONFIDENCE = 0.95
_CHUNK = 1 << 22
"""Numbers of a parameter that are hashed at once."""


@dataclass(frozen=True)
class EntryError:
    """The error of an approximation of a kernel on entries drawn at random.

    Attributes:
        rows, columns: the entries' indices.
        exact: the entries by plain autograd. approximate: those of the approximation.
        interval: of ``relative_error``, by bootstrap over the entries, at level ``confidence``;
            both ends are the value itself where there is one entry.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    exact: Array
    approximate: Array
    interval: tuple[float, float]
    confidence: float = _CONFIDENCE

    __repr__ = short_repr

    @property
    def relative_error(self) -> float:
        """``||approximate - exact|| / ||exact||`` over the entries."""
        return _relative(self.approximate, self.exact)


def _relative(approximate: Array, exact: Array, axis: int = -1) -> Any:
    sizes = np.linalg.norm(exact, axis=axis)
    errors = np.linalg.norm(approximate - exact, axis=axis)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(errors == 0, 0.0, errors / sizes)[()]


def _entry_error(
    operator: NTKOperator, approximate: Any, count: int, seed: int, *, columns: Any = None
) -> EntryError:
    """``approximate(rows, columns)`` beside exact entries, of given ``columns`` or of all."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise InputError(f"check_entries={count!r}: expected a count, 1 or more")
    generator = np.random.default_rng(seed)
    i = generator.integers(operator.shape[0], size=count)
    j = (
        generator.integers(operator.shape[1], size=count)
        if columns is None
        else columns(generator, count)
    )
    exact = operator.entries(i.tolist(), j.tolist())
    values = np.asarray(approximate(i, j), dtype=np.float64)
    value = float(_relative(values, exact))
    interval = (value, value)
    if count > 1:
        interval = tuple(  # type: ignore[assignment]
            map(
                float,
                bootstrap(
                    (values, exact),
                    _relative,
                    paired=True,
                    vectorized=True,
                    n_resamples=2000,
                    method="percentile",
                    confidence_level=_CONFIDENCE,
                    rng=np.random.default_rng(seed),
                ).confidence_interval,
            )
        )
    return EntryError(i, j, exact, values, interval)


def operator_error(operator: NTKOperator, *, check_entries: int = 8, seed: int = 0) -> EntryError:
    """The error of the operator itself: entries of one of its columns, drawn at random.

    It takes one product and ``2 check_entries`` gradients of single samples.
    """
    column = int(np.random.default_rng(seed).integers(operator.shape[1]))
    unit = np.zeros(operator.shape[1])
    unit[column] = 1.0
    values = operator.matvec(unit)
    return _entry_error(
        operator,
        lambda rows, _columns: values[rows],
        check_entries,
        seed,
        columns=lambda _drawn, count: np.full(count, column),
    )


# --- leading eigenpairs


@dataclass(frozen=True)
class Eigenpairs:
    """The k largest eigenvalues, descending, with eigenvectors (N C x k).

    Attributes:
        residuals: ``||Theta v - lambda v||`` of each pair; some eigenvalue is no further than this
            from each ``lambda``.
        products: of the kernel with a vector, that were taken.
        error: of the operator on exact entries; None where none was requested.
    """

    values: Array
    vectors: Array
    residuals: Array
    products: int
    error: EntryError | None

    __repr__ = short_repr


def _require_symmetric(operator: NTKOperator, purpose: str) -> None:
    """Refuse what is no operator, or not of inputs with themselves."""
    if not isinstance(operator, NTKOperator):
        raise InputError(
            f"expected an NTKOperator for {purpose}, found a {type(operator).__name__}: whole "
            "kernels have eigenvectors(), trace() and SquaredLoss"
        )
    operator.require_symmetric(purpose)


def leading_eigenpairs(
    operator: NTKOperator,
    count: int = 20,
    *,
    tolerance: float | None = None,
    seed: int = 0,
    check_entries: int = 8,
) -> Eigenpairs:
    """The ``count`` largest eigenvalues and their eigenvectors, by ``scipy.sparse.linalg.eigsh``.

    It takes three to four times ``count`` products. The residuals need none of their own: the
    eigenvectors lie in the span of the vectors that were multiplied.

    Args:
        tolerance: largest residual relative to its eigenvalue (default: 1e-6 in float32, 1e-9 in
            float64).
        seed: of the vector that it begins with.
        check_entries: exact entries by which the operator is checked; 0 for none.

    Raises:
        InputError: the kernel is not of inputs with themselves, ``count`` is not below N C, or it
            does not converge.
    """
    _require_symmetric(operator, "eigenpairs")
    size = operator.shape[0]
    if not isinstance(count, int) or isinstance(count, bool) or not 0 < count < size:
        raise InputError(f"count={count!r}: expected a number of eigenpairs from 1 to {size - 1}")
    if tolerance is None:
        tolerance = 1e-6 if operator.options.dtype == torch.float32 else 1e-9
    # All products are recorded, for the residuals below.
    multiplied: list[Array] = []
    results: list[Array] = []
    with progress(description="eigenpairs", unit="products") as bar:

        def multiply(vector: Array) -> Array:
            multiplied.append(vector.ravel().copy())
            results.append(operator.matvec(multiplied[-1]))
            bar.update()
            return results[-1]

        recorded = LinearOperator(operator.shape, matvec=multiply, dtype=np.float64)
        start = np.random.default_rng(seed).standard_normal(size)
        try:
            values, vectors = eigsh(recorded, k=count, which="LA", tol=tolerance, v0=start)
        except ArpackNoConvergence as failure:
            raise InputError(
                f"the eigenpairs did not converge to {tolerance:g} after {len(results)} products: "
                f"expected {count} separate eigenvalues; ask for fewer, or a larger tolerance"
            ) from failure
    values, vectors = values[::-1], vectors[:, ::-1]  # eigsh gives them in ascending order
    # v = X a for the multiplied vectors X, so Theta v = (Theta X) a without another product. What
    # of v lies outside their span is multiplied by lambda_max at most.
    basis, products = np.stack(multiplied, 1), np.stack(results, 1)
    weights = np.linalg.lstsq(basis, vectors, rcond=None)[0]
    outside = np.linalg.norm(basis @ weights - vectors, axis=0) * values[0]
    residuals = np.linalg.norm(products @ weights - vectors * values, axis=0) + outside
    error = None
    if check_entries:
        error = operator_error(operator, check_entries=check_entries, seed=seed)
    return Eigenpairs(values, vectors, residuals, len(results), error)


# --- ridge regression


@dataclass(frozen=True)
class KernelRidge:
    """``(Theta + ridge I) a = y`` solved for a, N x C, by conjugate gradients.

    Attributes:
        residuals: ``||y - (Theta + ridge I) a|| / ||y||`` after every step, by CG's recurrence; the
            last one is computed anew.
        converged: whether the last one is at most the tolerance.
        error_bound: of ``||a - a*||`` for the exact solution a*: the residual's norm over ridge.
        error: of the operator on exact entries; None where none was requested.
        features: phi of the inputs of training, N x h, and ``part`` of the kernel, as the operator
            had them.
    """

    coefficients: Array
    residuals: Array
    converged: bool
    error_bound: float
    error: EntryError | None
    features: Array
    part: Part

    __repr__ = short_repr

    def predict(self, operator: NTKOperator) -> Array:
        """``Theta(x, X) a``, M x C, for the operator of M other inputs with those of training.

        Raises:
            InputError: its columns are not the inputs of training.
        """
        expected = "expected NTKOperator(model, others, inputs) with the inputs of training"
        if not isinstance(operator, NTKOperator):
            raise InputError(f"the operator is a {type(operator).__name__}: {expected}")
        if operator.shape[1] != self.coefficients.size:
            raise InputError(
                f"the operator has {operator.shape[1]} columns, and training had "
                f"{self.coefficients.size} outputs: {expected}"
            )
        if operator.part != self.part:
            raise InputError(
                f"the operator is of part={operator.part!r}, that of training of "
                f"part={self.part!r}: expected one part"
            )
        if not same_features(operator.features(-1), self.features):
            raise InputError(
                f"the features of the operator's columns are not those of training: {expected}, "
                "in the same order, and the same model"
            )
        predicted = operator.matvec(self.coefficients.ravel())
        return predicted.reshape(operator.samples[0], operator.outputs)


def kernel_ridge(
    operator: NTKOperator,
    targets: ArrayLike,
    ridge: float,
    *,
    tolerance: float = 1e-5,
    max_products: int = 1000,
    check_entries: int = 8,
    seed: int = 0,
) -> KernelRidge:
    """Kernel ridge regression, ``a = (Theta + ridge I)^-1 y``, by ``scipy.sparse.linalg.cg``.

    Args:
        targets: y, N x C, such as one-hot labels less the logits of the start.
        ridge: added to the diagonal, above 0.
        tolerance: of the residual relative to y.
        max_products: after which it stops, converged or not.

    Raises:
        InputError: the kernel is not of inputs with themselves, or a value does not fit.
    """
    _require_symmetric(operator, "a regression")
    values = as_array(targets, "targets", np.float64)
    expected = (operator.samples[0], operator.outputs)
    if values.shape != expected or not np.isfinite(values).all():
        raise InputError(
            f"targets: expected finite numbers of shape {expected}, a row for each input, found "
            f"shape {values.shape}"
        )
    for name, number in (("ridge", ridge), ("tolerance", tolerance)):
        if not (isinstance(number, Real) and np.isfinite(number) and number > 0):
            raise InputError(f"{name}={number!r}: expected a finite number above 0")
    if not values.any():
        raise InputError("targets: all are zero, and so is the solution: expected some that differ")
    # SciPy's cg reports the iterates alone. The residuals are followed beside it: each step moves x
    # along the vector that was multiplied last, so no product is needed for them.
    y = values.ravel()
    last: list[Array] = [y, y]
    residual, solution = y.copy(), np.zeros_like(y)
    history: list[float] = []
    with progress(description="ridge regression", unit="products") as bar:

        def multiply(vector: Array) -> Array:
            direction = vector.ravel().copy()
            last[:] = [direction, operator.matvec(direction) + ridge * direction]
            bar.update()
            return last[1]

        def step(current: Array) -> None:
            # x moved along the last direction p by alpha p, so the residual by -alpha A p.
            nonlocal residual, solution
            direction, product = last
            alpha = float((current - solution) @ direction) / float(direction @ direction)
            residual, solution = residual - alpha * product, current.copy()
            history.append(float(np.linalg.norm(residual) / np.linalg.norm(y)))

        shifted = LinearOperator(operator.shape, matvec=multiply, dtype=np.float64)
        solution_found, _ = cg(
            shifted, y, rtol=tolerance, atol=0.0, maxiter=max_products, callback=step
        )
        true_residual = y - multiply(solution_found)
    relative = float(np.linalg.norm(true_residual) / np.linalg.norm(y))
    # float32 products leave the recurrence a little below the residual itself.
    slack = 10 * np.finfo(np.float32).eps if operator.options.dtype == torch.float32 else 0.0
    error = None
    if check_entries:
        error = operator_error(operator, check_entries=check_entries, seed=seed)
    return KernelRidge(
        coefficients=solution_found.reshape(expected),
        residuals=np.array([*history, relative]),
        converged=bool(relative <= 1.01 * tolerance + slack),
        error_bound=float(np.linalg.norm(true_residual)) / ridge,
        error=error,
        features=operator.features(0),
        part=operator.part,
    )


# --- low-rank factors


@dataclass(frozen=True)
class LowRank:
    """``Theta ≈ rows columns^T``, with ``rows`` (N C x r) and ``columns`` (M C x r).

    They are one array where the kernel is of inputs with themselves. ``error`` is that of the
    product on exact entries, None where none was requested.
    """

    rows: Array
    columns: Array
    error: EntryError | None

    __repr__ = short_repr

    def operator(self) -> LinearOperator:
        """The approximation as an operator of SciPy's."""
        return LinearOperator(
            (len(self.rows), len(self.columns)),
            matvec=lambda v: self.rows @ (self.columns.T @ v),
            rmatvec=lambda u: self.columns @ (self.rows.T @ u),
            matmat=lambda v: self.rows @ (self.columns.T @ v),
            rmatmat=lambda u: self.columns @ (self.rows.T @ u),
            dtype=np.float64,
        )


def _low_rank(
    operator: NTKOperator, rows: Array, columns: Array, check_entries: int, seed: int
) -> LowRank:
    error = None
    if check_entries:
        error = _entry_error(
            operator, lambda i, j: (rows[i] * columns[j]).sum(1), check_entries, seed
        )
    return LowRank(rows, columns, error)


def nystroem(
    operator: NTKOperator,
    landmarks: int | Sequence[int],
    *,
    seed: int = 0,
    check_entries: int = CHECKED,
) -> LowRank:
    """``Theta ≈ K_m K_mm^+ K_m^T`` from the exact columns K_m (N C x m C) of m landmarks.

    The columns are those of :func:`~lpft.ntk.empirical_ntk`, with its certificate. Directions of
    K_mm below the rounding of its dtype are left out, so the rank may be less than m C.

    Args:
        landmarks: the samples' numbers, or how many to draw.

    Raises:
        InputError: the kernel is not of inputs with themselves, or there are no such samples.
    Source: Williams and Seeger, NeurIPS 2000 (2001).
    """
    _require_symmetric(operator, "landmarks")
    count = operator.samples[0]
    if isinstance(landmarks, int | np.integer):
        if isinstance(landmarks, bool) or not 0 < landmarks <= count:
            raise InputError(f"landmarks={landmarks!r}: expected 1 to {count} of the inputs")
        chosen = np.sort(np.random.default_rng(seed).choice(count, landmarks, replace=False))
    else:
        chosen = as_array(landmarks, "landmarks")
        if (
            chosen.dtype.kind not in "iu"
            or chosen.ndim != 1
            or not len(chosen)
            or len(set(chosen.tolist())) < len(chosen)
        ):
            raise InputError("landmarks: expected the numbers of different inputs, each once")
        if chosen.min() < 0 or chosen.max() >= count:
            raise InputError(f"landmarks: expected numbers from 0 to {count - 1}")
    groups = [operator.inputs, operator.inputs.select(chosen)]
    job = KernelJob(
        operator.subject, {"ntk": operator.request}, groups, ((0, 1),), operator.options
    )
    kernel = job.run()["ntk"][0, 1]
    if operator.part == "ft" or kernel.pretrain_effective is None:
        kernel_part = kernel.ft_effective
    else:
        kernel_part = kernel.total()
        if operator.part == "pretrain":
            kernel_part = kernel_part - kernel.ft_effective
    table = kernel_part.numpy()
    columns = table.reshape(operator.shape[0], -1)  # K_m, N C x m C
    landmark_block = table[chosen].reshape(columns.shape[1], -1)
    values, vectors = np.linalg.eigh((landmark_block + landmark_block.T) / 2)
    eps = torch.finfo(operator.options.dtype).eps
    above_rounding = values > len(values) * eps * max(values[-1], 0.0)
    # With K_mm = U S U^T the factor is K_m U S^-1/2, and factor factor^T = K_m K_mm^+ K_m^T.
    factor = columns @ (vectors[:, above_rounding] / np.sqrt(values[above_rounding]))
    return _low_rank(operator, factor, factor, check_entries, seed)


def random_features(
    operator: NTKOperator,
    dimensions: int = 1024,
    *,
    seed: int = 0,
    check_entries: int = CHECKED,
) -> LowRank:
    """``Theta ≈ (J S) (J' S)^T`` with a random sparse matrix S, p x d: J S are N C x d features.

    Every parameter's number goes to one of d features at random with a random sign, so the
    expectation over S is Theta, and an entry's variance at most
    ``(||j||^2 ||j'||^2 + <j, j'>^2) / d``. The draws follow from the seed and the parameter's name
    alone; neither J nor S is ever formed. The gradients are of single outputs of single samples,
    N C in all. P's share comes from the head's own gradient, which is the feature.

    Args:
        dimensions: d.

    Raises:
        InputError: ``dimensions`` is no count.
    Source: Charikar, Chen and Farach-Colton, Finding frequent items in data streams, ICALP 2002;
    Weinberger et al., Feature hashing for large scale multitask learning, ICML 2009.
    """
    if not isinstance(dimensions, int) or isinstance(dimensions, bool) or dimensions < 1:
        raise InputError(f"dimensions={dimensions!r}: expected a count, 1 or more")
    sketch = _Sketch(dimensions, seed)
    rows = _sketched(operator, 0, sketch)
    columns = rows if operator.symmetric else _sketched(operator, -1, sketch)
    return _low_rank(operator, rows, columns, check_entries, seed)


class _Sketch:
    """S by parameter: of each of its numbers the feature that it goes to, and the sign."""

    def __init__(self, dimensions: int, seed: int) -> None:
        self._dimensions = dimensions
        self._seed = seed
        self._drawn: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, total: Tensor, name: str, gradient: Tensor) -> None:
        """Add a gradient's features to ``total`` (d)."""
        flat = gradient.reshape(-1)
        # feature_b = sum over the parameter's numbers i in bucket b of sign_i g_i.
        buckets, signs = self._of(name, len(flat))
        for start in range(0, len(flat), _CHUNK):
            part = slice(start, start + _CHUNK)
            signed = (flat[part] * signs[part].to(flat)).double()
            total.index_add_(0, buckets[part].to(flat.device), signed)

    def _of(self, name: str, size: int) -> tuple[Tensor, Tensor]:
        if name not in self._drawn:
            # Of the name and the seed alone, so that rows and columns have the same S, whatever the
            # order in which their gradients come.
            digest = sha256(f"{self._seed} {name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
            buckets = torch.randint(self._dimensions, (size,), generator=generator)
            signs = torch.randint(2, (size,), generator=generator, dtype=torch.int8) * 2 - 1
            self._drawn[name] = buckets.to(torch.int32), signs
        return self._drawn[name]


def _sketched(operator: NTKOperator, axis: int, sketch: _Sketch) -> Array:
    """J S of one side, N C x d."""
    size = operator.shape[0 if axis == 0 else 1]
    features = np.zeros((size, sketch._dimensions))
    for index in progress(range(size), "random features", unit="gradients"):
        total = torch.zeros(sketch._dimensions, dtype=torch.float64)
        gradients = operator.sample_gradient(axis, index) | operator.head_gradient(axis, index)
        for name, gradient in gradients.items():
            sketch.add(total, name, gradient.cpu())
        features[index] = total.numpy()
    return features


# --- trace


@dataclass(frozen=True)
class TraceEstimate:
    """The trace by random vectors, with the standard error of the mean over ``probes`` of them."""

    value: float
    standard_error: float
    probes: int


def trace_estimate(operator: NTKOperator, probes: int = 16, *, seed: int = 0) -> TraceEstimate:
    """The trace as the mean of ``||J^T z||^2`` for random signs z, of P exactly from the features.

    Each probe takes one backward pass over all inputs and no forward-mode pass. The exact one is
    :meth:`NTKOperator.trace`, which takes a gradient of every single output.

    Raises:
        InputError: the kernel is not of inputs with themselves, or fewer than two probes.
    Source: Hutchinson, A stochastic estimator of the trace of the influence matrix, 1990.
    """
    _require_symmetric(operator, "a trace")
    if not isinstance(probes, int) or isinstance(probes, bool) or probes < 2:
        raise InputError(f"probes={probes!r}: expected 2 or more, for the standard error")
    pretrain = operator.pretrain_trace()
    if not operator.needs_gradients:
        return TraceEstimate(pretrain, 0.0, probes)
    generator = np.random.default_rng(seed)
    squares = []
    # E[z z^T] = I for random signs z, so E||J^T z||^2 = trace(J J^T) = trace F.
    for _ in progress(range(probes), "trace", unit="probes"):
        signs = generator.choice([-1.0, 1.0], size=(operator.shape[0], 1))
        (gradient,) = operator.gradient(signs)
        squares.append(sum(float(g.square().sum()) for g in gradient.values()))
    spread = float(np.std(squares, ddof=1) / np.sqrt(probes))
    return TraceEstimate(pretrain + float(np.mean(squares)), spread, probes)
