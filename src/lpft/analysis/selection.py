"""Choosing among trained methods: the preferred one within one standard error of the best.

Preferred is the simplest, and with few rows contrastive tuning.

All candidates are compared on the same validation rows, so that the standard error is that of a
paired difference, row by row. It is far smaller than that of an accuracy: most rows are easy, or
hard, for every method alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpft.errors import InputError
from lpft.settings.methods import METHODS, Method, contrastive_installed

CONTRASTIVE_ROWS = 32
"""Training rows per class, in the mean, below which contrastive tuning is tried, and preferred.

It was measured with 8 and 16 (docs/results.md), and not with more."""

RULE = (
    "the simplest method within one standard error of the best: accuracy on the validation rows "
    "that all candidates share, standard error of the paired difference; from simple to complex "
    "the methods train the head, an adapter, everything, each first from the head of linear "
    "probing and then from a random one; contrastive tuning comes before fine-tuning of "
    f"everything, and with fewer than {CONTRASTIVE_ROWS} training rows per class before all others"
)
"""The rule in words, for records and readers."""

RANDOM_HEAD_ROWS = 32
"""Training rows per class, in the mean, from which methods that start from a random head are tried.

A choice of cost, not of accuracy: with fewer rows each takes six trainings, for a head that starts
from nothing where linear probing has one. ``benchmarks/auto.py`` measures what that loses."""

_TRAINED = {"head": 0, "encoder": 2, "all": 2}  # adapters are between them


@dataclass(frozen=True)
class Candidate:
    """A trained method: which validation rows it gets right [N], and the mean ``-log p_y``."""

    method: str
    seed: int
    correct: NDArray[np.bool_]
    nll: float

    @property
    def score(self) -> float:
        """The share of validation rows that it gets right."""
        return float(self.correct.mean())

    @property
    def standard_error(self) -> float:
        """``sd / sqrt(N)`` of the score, 0 for a single row."""
        return _standard_error(self.correct.astype(float))


@dataclass(frozen=True)
class Standing:
    """A method beside the best one: its score minus the best one's, averaged over seeds.

    ``difference`` is 0 for the best itself and negative for the others; ``standard_error`` is that
    of the difference over rows; ``eligible`` is whether the two differ by one at most.
    """

    method: str
    score: float
    difference: float
    standard_error: float
    eligible: bool


@dataclass(frozen=True)
class Choice:
    """The chosen candidate by its place in the list, the best method, and every method's standing.

    ``standings`` are in order of preference.
    """

    chosen: int
    best: str
    standings: tuple[Standing, ...]

    @property
    def reason(self) -> str:
        """One clause for records and readers."""
        chosen = next(s for s in self.standings if s.eligible)
        if len(self.standings) == 1:
            return "the only method that was trained"
        if chosen is self.standings[0] and chosen.method == self.best:
            few_rows = ", and it is preferred with few rows" * self.preferred_for_few_rows
            return f"no other method is better{few_rows}"
        if chosen.method == self.best:
            return "better than every simpler method by more than one standard error"
        return (
            f"{-chosen.difference:.3f} below {self.best}, within one standard error "
            f"({chosen.standard_error:.3f}), and "
            + ("preferred with few rows" if self.preferred_for_few_rows else "simpler")
        )

    @property
    def preferred_for_few_rows(self) -> bool:
        """Whether the chosen method is contrastive tuning before simpler ones."""
        methods = [standing.method for standing in self.standings]
        return self.standings[0].eligible and methods[0] != min(methods, key=complexity)


def choose(candidates: Sequence[Candidate], rows_per_class: float = math.inf) -> Choice:
    """The preferred method within one standard error of the best, and its best seed.

    Preferred is the simplest, but with fewer than :data:`CONTRASTIVE_ROWS` training rows per class
    contrastive tuning: so few validation rows seldom tell methods apart, and it was the best in the
    mean where they were compared on many test rows (docs/results.md).

    With ``d_i`` the share of seeds with which method m gets row i right, less that of the best
    method, m is eligible where ``-mean(d) <= sd(d) / sqrt(N)``. For one seed each this is
    ``(b - c)^2 <= b + c``, where b rows are right with the best method alone and c with m alone:
    McNemar's statistic is at most 1.

    The best method has the highest mean score; of equal ones it is the preferred. Of the chosen
    method's seeds the one with the highest score is taken, of equal ones that with the lowest
    ``nll``, of equal ones again the first.

    Raises:
        InputError: no candidate, no rows, or candidates on different numbers of rows.
    Source: Breiman et al., Classification and Regression Trees, 1984, section 3.4.3 (one standard
    error); McNemar, Psychometrika, 1947.
    """
    if not candidates or len(candidates[0].correct) == 0:
        raise InputError("expected at least one candidate with validation rows, found none")
    if len({len(candidate.correct) for candidate in candidates}) > 1:
        raise InputError("the candidates have different numbers of validation rows")
    methods = sorted(
        {candidate.method for candidate in candidates},
        key=lambda method: _preference(method, rows_per_class),
    )
    right = {
        method: np.mean([c.correct for c in candidates if c.method == method], axis=0)
        for method in methods
    }
    # Sums, not means: with one seed they are whole numbers, so that equal ones compare equal.
    best = max(methods, key=lambda method: float(right[method].sum()))
    standings = tuple(_standing(method, right[method], right[best]) for method in methods)
    chosen = next(standing.method for standing in standings if standing.eligible)
    competing = [index for index, c in enumerate(candidates) if c.method == chosen]
    index = min(competing, key=lambda i: (-int(candidates[i].correct.sum()), candidates[i].nll))
    return Choice(index, best, standings)


def _preference(method: str, rows_per_class: float) -> tuple[bool, tuple[int, bool, int]]:
    """What methods are ordered by, the preferred first."""
    few_rows = rows_per_class < CONTRASTIVE_ROWS
    return not (few_rows and METHODS[method].contrastive), complexity(method)


def complexity(method: str) -> tuple[int, bool, int]:
    """What methods are ordered by, from simple to complex, as :data:`RULE` says."""
    tuning: Method = METHODS[method]
    return (
        _TRAINED.get(tuning.trained, 1),
        tuning.head_start != "lp",
        tuple(METHODS).index(method),
    )


def best_of_each(candidates: Sequence[Candidate]) -> list[int]:
    """The indices of each method's best candidate, where several differ in more than their seed."""
    best: dict[str, int] = {}
    for index, candidate in enumerate(candidates):
        best_so_far = candidates[best.setdefault(candidate.method, index)]
        if (candidate.score, -candidate.nll) > (best_so_far.score, -best_so_far.nll):
            best[candidate.method] = index
    return sorted(best.values())


def reason_to_skip(
    method: str, candidates: Sequence[Candidate], rows_per_class: float
) -> str | None:
    """Why a method cannot, or will not, be chosen after these; None where it is worth training.

    It cannot be chosen if the choice so far is preferred to it, and even a method without any
    error would not beat that by more than one standard error: with one seed that is where at most
    one validation row is wrong, as ``(b - c)^2 <= b + c`` for ``b <= 1``. It will not if its head
    starts at random and there are fewer than :data:`RANDOM_HEAD_ROWS` training rows per class, if
    it tunes contrastively and there are :data:`CONTRASTIVE_ROWS`, or if its library is missing.
    """
    if METHODS[method].contrastive and rows_per_class >= CONTRASTIVE_ROWS:
        return (
            f"contrastive tuning is for fewer than {CONTRASTIVE_ROWS} training rows per class, and "
            f"there are {rows_per_class:.0f}"
        )
    if METHODS[method].contrastive and not contrastive_installed():
        return "sentence-transformers is not installed: pip install 'lpft[contrastive]'"
    chosen = candidates[choose(candidates, rows_per_class).chosen].method
    if _preference(method, rows_per_class) > _preference(chosen, rows_per_class):
        right = np.mean(
            [candidate.correct for candidate in candidates if candidate.method == chosen], axis=0
        )
        if _standing(chosen, right, np.ones(len(right))).eligible:
            return (
                f"{chosen} gets {right.sum():.4g} of the {len(right)} validation rows right that "
                "all methods share: too few errors for another one to be clearly better"
            )
    if METHODS[method].head_start == "random" and rows_per_class < RANDOM_HEAD_ROWS:
        return (
            f"{rows_per_class:.0f} training rows per class are too few for a random head "
            f"({RANDOM_HEAD_ROWS} or more)"
        )
    return None


POINT_RULE = (
    "of the points within one standard error of the best accuracy on the validation rows (that of "
    "the paired difference), the one with the lowest NLL there, each at its own temperature"
)
"""How a point between two sets of weights is chosen, in words."""


@dataclass(frozen=True)
class PointChoice:
    """The chosen of P points, the best one, and every point beside that.

    ``optimism`` is how much too high the chosen point's accuracy on the validation rows is to be
    expected, because these rows chose it.
    """

    chosen: int
    best: int
    standings: tuple[Standing, ...]
    optimism: float

    @property
    def reason(self) -> str:
        """One clause for records and readers."""
        eligible = [standing.method for standing in self.standings if standing.eligible]
        if len(eligible) == 1:
            return "the most accurate on validation by more than one standard error"
        indices = [index for index, point in enumerate(self.standings) if point.eligible]
        contiguous = indices[-1] - indices[0] == len(indices) - 1
        listed = f"{eligible[0]} to {eligible[-1]}" if contiguous else ", ".join(eligible)
        return (
            f"lowest NLL on validation of the {len(eligible)} points within one standard error of "
            f"the best accuracy ({listed})"
        )


def choose_point(
    names: Sequence[str],
    correct: NDArray[np.bool_],
    losses: NDArray[np.float64],
    generator: np.random.Generator,
    draws: int = 200,
) -> PointChoice:
    """Choose among P points of one path by the same N rows, as :data:`POINT_RULE` says.

    Accuracies of neighbouring points differ by a few rows, which is mostly chance; the NLL of
    those that accuracy cannot tell apart is smooth along the path. Of equally accurate points the
    one with the lower NLL counts as the best; of equal NLL the first is chosen.

    The optimism is the bootstrap's: the mean, over draws of N rows with replacement, of the
    accuracy on the draw of the point that the draw chooses, less its accuracy on all rows.

    Args:
        names: P names, for the standings.
        correct: which rows each point gets right, P x N.
        losses: ``-log p_y`` of each row at the point's own temperature, P x N.

    Raises:
        InputError: there are no points or no rows.
    Source: Wortsman et al., CVPR 2022 (a point chosen on ID validation data); Breiman et al., 1984
    (one standard error); Efron, JASA 1983 (optimism).
    """
    if 0 in correct.shape:
        raise InputError("expected at least one point and validation rows, found none")
    right = correct.astype(np.float64)
    chosen, best = _chosen_point(right, losses)
    standings = tuple(
        _standing(name, row, right[best]) for name, row in zip(names, right, strict=True)
    )
    optimism = 0.0
    for _ in range(draws):
        drawn = generator.integers(right.shape[1], size=right.shape[1])
        point, _ = _chosen_point(right[:, drawn], losses[:, drawn])
        optimism += float(right[point, drawn].mean() - right[point].mean()) / draws
    return PointChoice(chosen, best, standings, optimism)


def _chosen_point(right: NDArray[np.float64], losses: NDArray[np.float64]) -> tuple[int, int]:
    """The places of the chosen and of the best point."""
    nll = losses.mean(axis=1)
    best = int(np.lexsort((nll, -right.sum(axis=1)))[0])
    differences = right - right[best]
    totals = differences.sum(axis=1)
    eligible = (totals >= 0) | (totals**2 <= (differences**2).sum(axis=1))  # as in _standing
    return int(np.where(eligible, nll, np.inf).argmin()), best


def _standing(method: str, right: NDArray[np.float64], best: NDArray[np.float64]) -> Standing:
    differences = right - best
    rows, total = len(differences), float(differences.sum())
    # -mean <= sd / sqrt(N) without its divisions and roots, which would round: with
    # sd^2 = (sum d^2 - (sum d)^2 / N) / (N - 1) it is (sum d)^2 <= sum d^2.
    eligible = total >= 0 or total**2 <= float((differences**2).sum())
    error = _standard_error(differences)
    return Standing(method, float(right.mean()), total / rows, error, eligible)


def _standard_error(values: NDArray[np.float64]) -> float:
    if len(values) < 2:
        return 0.0
    return float(values.std(ddof=1)) / math.sqrt(len(values))
