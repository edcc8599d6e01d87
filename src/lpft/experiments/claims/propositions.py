"""Claims 7 and 8: the paper's propositions, measured on models that are drawn at random."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from lpft.errors import InputError
from lpft.experiments.claims.verdicts import WITHOUT_RATES, Outcome, Part
from lpft.experiments.recipe import Found
from lpft.experiments.theory import LEAST_FALL, ROUNDING, TheoryCheck, run_theory
from lpft.files import write_json
from lpft.report.exhibits.record import Estimate
from lpft.report.numbers import counted, scientific, significant

logger = logging.getLogger(__name__)

FIRST_ORDER_STATEMENT = (
    "The first-order prediction of feature and logit change meets the real one as the learning "
    "rate goes to 0."
)
LINEAR_STATEMENT = (
    "In linear models Corollary 4.3 holds exactly and Proposition 4.4's bound holds at the stated "
    "rate."
)
PREDICTED = Part("error falls tenfold with the rate")
UNMOVED = Part("Corollary 4.3, orthogonal inputs stay")
BOUNDED = Part("Proposition 4.4, the bound is kept as often as promised")
FIRST_ORDER_PARTS = (PREDICTED,)
LINEAR_PARTS = (UNMOVED, BOUNDED)

RECORD = "theory.json"
"""Checks by seed, kept in the experiment's folder."""

_FIRST_ORDER, _ORTHOGONAL = "Proposition 4.1", "Corollary 4.3"
_LOW_RANK, _AS_PRINTED = "Proposition 4.4", "Proposition 4.4 as printed"

Checks = Mapping[int, Sequence[TheoryCheck]]


def keep_theory(found: Found) -> None:
    """Run the checks of ``lpft theory`` for every seed and keep them, unless they are kept.

    Raises:
        InputError: what is kept is damaged.
    """
    kept = dict(read_theory(found.scope.folder))
    for seed in found.scope.seeds:
        if seed not in kept:
            logger.info("checking the propositions, seed %d", seed)
            kept[seed] = run_theory(seed=seed)
            record = {str(s): [asdict(check) for check in checks] for s, checks in kept.items()}
            write_json(found.scope.folder / RECORD, record)


def read_theory(folder: Path) -> Checks:
    """The kept checks by seed; none where there is no file.

    Raises:
        InputError: it is damaged.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {
            int(seed): [TheoryCheck(**check) for check in checks] for seed, checks in record.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"'{path}' cannot be read ({error}): remove it, and the checks are made again"
        ) from error


def first_order_outcomes(found: Found) -> list[Outcome]:
    """How much the error of Proposition 4.1's prediction falls with the rate, at the least."""
    checks = _of_seeds(found, _FIRST_ORDER)
    by_output: dict[str, list[TheoryCheck]] = {}
    for check in checks:
        by_output.setdefault(check.setting.partition(", rate")[0], []).append(check)
    return [
        _outcome(
            PREDICTED,
            f"{_FIRST_ORDER}, {output}",
            of_output,
            value=lambda check: check.measured - LEAST_FALL,
            unit=f"times per tenfold smaller rate, beyond {LEAST_FALL:g}",
            told=lambda worst: f"the error falls {significant(worst.measured)} times or more",
            seeds=len(found.scope.seeds),
        )
        for output, of_output in by_output.items()
    ]


def linear_outcomes(found: Found) -> list[Outcome]:
    """What linear models leave of each promise; 4.4 as printed is shown, and not counted."""
    seeds = len(found.scope.seeds)
    orthogonal = _of_seeds(found, _ORTHOGONAL)
    outcomes = []
    if orthogonal:
        outcomes.append(
            _outcome(
                UNMOVED,
                f"{_ORTHOGONAL}, features of inputs orthogonal to training's",
                orthogonal,
                value=lambda check: ROUNDING - check.measured,
                unit=f"relative change, short of {ROUNDING:g}",
                told=lambda worst: f"relative change of {scientific(worst.measured)} at most",
                seeds=seeds,
            )
        )
    forms = {
        _LOW_RANK: (BOUNDED, "with the factor sigma^2 r"),
        _AS_PRINTED: (None, "as printed, which the claim does not rest on"),
    }
    for claim, (part, form) in forms.items():
        informative = [check for check in _of_seeds(found, claim) if check.holds is not None]
        of_bound = [check for check in informative if check.setting.startswith("r=")]
        if of_bound:
            outcomes.append(
                _outcome(
                    part,
                    f"{_LOW_RANK}, {form}",
                    of_bound,
                    value=lambda check: check.measured - check.promised,
                    unit="of probability, beyond the promised",
                    told=lambda worst: (
                        f"kept with frequency {significant(worst.measured)}, promised "
                        f"{significant(worst.promised)} ({worst.setting})"
                    ),
                    seeds=seeds,
                )
            )
    return outcomes


def _of_seeds(found: Found, claim: str) -> list[TheoryCheck]:
    kept = read_theory(found.scope.folder)
    return [
        check for seed in found.scope.seeds for check in kept.get(seed, ()) if check.claim == claim
    ]


def _outcome(
    part: Part | None,
    comparison: str,
    checks: Sequence[TheoryCheck],
    *,
    value: Callable[[TheoryCheck], float],
    unit: str,
    told: Callable[[TheoryCheck], str],
    seeds: int,
) -> Outcome:
    """Every check must hold; the effect is that of the check with the least to spare."""
    worst = min(checks, key=value)
    failed = sum(not check.holds for check in checks)
    result = f"{failed} of them broken" if failed else "all hold"
    return Outcome(
        part=part,
        comparison=comparison,
        rates=WITHOUT_RATES,
        effect=Estimate(value(worst), count=seeds),
        unit=unit,
        verdict="does not hold" if failed else "holds",
        reason=f"{told(worst)}; {counted(len(checks), 'check')} over {counted(seeds, 'seed')}, "
        f"{result}",
    )
