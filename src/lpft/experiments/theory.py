"""``lpft theory``: the paper's propositions checked numerically, as a table and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lpft.errors import InputError
from lpft.theory.checks import (
    LAYERS,
    LEAST_FALL,
    LINEAR_WIDTHS,
    ROUNDING,
    SIGNIFICANCE,
    WIDTH,
    TheoryCheck,
    first_order_checks,
    low_rank_checks,
    orthogonal_checks,
)

__all__ = [
    "LAYERS",
    "LEAST_FALL",
    "LINEAR_WIDTHS",
    "ROUNDING",
    "SIGNIFICANCE",
    "WIDTH",
    "TheoryCheck",
    "run_theory",
    "theory_json",
    "theory_table",
]

HEADER = ("claim", "setting", "measured", "promised", "holds", "note")


def run_theory(*, seed: int = 0) -> list[TheoryCheck]:
    """Proposition 4.1, Corollary 4.3 and Proposition 4.4, numerically and in float64.

    Takes seconds on a CPU and needs no file or network: the transformer of Proposition 4.1 is a
    BERT of two layers with random weights, the others are linear models; ``seed`` draws them all.

    Source: Tomihari and Sato, NeurIPS 2024; Proposition 4.4 with the factor sigma^2 r that the
    paper's own form lacks, and that form too, which fails.

    Raises:
        InputError: a seed outside 0 to 2^32 - 1.
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"seed: expected a number from 0 to 2**32 - 1, found {seed}")
    return [*first_order_checks(seed), *orthogonal_checks(seed), *low_rank_checks(seed)]


def theory_table(checks: Sequence[TheoryCheck]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of text, one row for each check."""
    verdicts = {True: "yes", False: "NO", None: "vacuous"}
    rows: list[tuple[str, ...]] = [
        (
            check.claim,
            check.setting,
            _digits(check.measured),
            _digits(check.promised),
            verdicts[check.holds],
            check.note,
        )
        for check in checks
    ]
    return HEADER, rows


def theory_json(checks: Sequence[TheoryCheck], *, seed: int) -> dict[str, Any]:
    """``{"seed", "checks": [{"claim", "setting", "measured", "promised", "holds", "note"}]}``."""
    return {"seed": seed, "checks": [asdict(check) for check in checks]}


def _digits(value: float) -> str:
    """Four digits; a probability that they would round up to certainty is not shown as one."""
    return ">0.9999" if 0.99995 <= value < 1 else f"{value:.4g}"
