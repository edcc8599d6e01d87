"""Claims 7 and 8: the paper's propositions, measured on models that are drawn at random.

These are numerical checks and not estimates: nothing is inferred from the seeds, so there is
neither an interval nor a smallest number of seeds. A claim holds where no check of any seed fails,
and does not where one does. The error of Proposition 4.1 must fall ``LEAST_FALL`` times where the
rate falls tenfold; under Corollary 4.3 no feature may change by more than ``ROUNDING``,
relatively; Proposition 4.4's bound fails where it is kept so much less often than promised that
chance does so with a probability below ``SIGNIFICANCE`` (all in :mod:`lpft.experiments.theory`).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import lpft
from lpft.experiments.claims.cases import WITHOUT_RATES, Outcome, Part
from lpft.experiments.kept_results import STEPS, Identity, keep_result, read_result
from lpft.experiments.recipe import Found
from lpft.experiments.theory import (
    LAYERS,
    LEAST_FALL,
    LINEAR_WIDTHS,
    ROUNDING,
    SIGNIFICANCE,
    WIDTH,
    TheoryCheck,
    run_theory,
)
from lpft.report.numbers import counted, scientific, significant
from lpft.results.exhibits import Estimate
from lpft.results.judging import Judgement

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

FIRST_ORDER_REMARK = (
    f"a numerical check on random BERTs of {LAYERS} layers and width {WIDTH}, not an estimate: no "
    "interval, and no rule on few seeds"
)
LINEAR_REMARK = (
    f"a numerical check on random linear models of up to {max(LINEAR_WIDTHS)[0]} inputs, not an "
    "estimate: no interval, and no rule on few seeds"
)

Checks = Mapping[int, Sequence[TheoryCheck]]
"""By seed."""

_PACKAGES = ("numpy", "scipy", "torch", "transformers", "peft")
_CODE = ("analysis", "data", "model", "ntk", "theory", "training", "experiments/theory.py")
"""What the checks run, below ``lpft``: the propositions and all that they import."""

_FIRST_ORDER, _ORTHOGONAL = "Proposition 4.1", "Corollary 4.3"
_LOW_RANK, _AS_PRINTED = "Proposition 4.4", "Proposition 4.4 as printed"


def keep_theory(found: Found) -> None:
    """Run the checks of ``lpft theory`` for every seed, unless they are kept already."""
    for seed in found.scope.seeds:
        checks = partial(_checks, seed)
        keep_result(_file(found, seed), _identity(seed), list[TheoryCheck], checks)


def read_theory(found: Found) -> Checks:
    """The kept checks by seed; a seed without any is absent."""
    kept = {
        seed: read_result(_file(found, seed), _identity(seed), list[TheoryCheck])
        for seed in found.scope.seeds
    }
    return {seed: checks for seed, checks in kept.items() if checks is not None}


def first_order_outcomes(found: Found) -> list[Outcome]:
    """How much the error of Proposition 4.1's prediction falls with the rate, at the least."""
    kept = read_theory(found)
    by_output: dict[str, list[TheoryCheck]] = {}
    for check in _of_claim(kept, _FIRST_ORDER):
        by_output.setdefault(check.setting.partition(", rate")[0], []).append(check)
    return [
        _outcome(
            PREDICTED,
            f"{_FIRST_ORDER}, {output}",
            of_output,
            value=lambda check: check.measured - LEAST_FALL,
            unit=f"times per tenfold smaller rate, beyond {LEAST_FALL:g}",
            told=lambda worst: (
                f"the error falls {significant(worst.measured)} times or more; a fall of less than "
                f"{LEAST_FALL:g} fails"
            ),
            remark=FIRST_ORDER_REMARK,
            seeds=len(kept),
        )
        for output, of_output in by_output.items()
    ]


def linear_outcomes(found: Found) -> list[Outcome]:
    """What linear models leave of each promise; 4.4 as printed is shown, and not counted."""
    kept = read_theory(found)
    orthogonal = _of_claim(kept, _ORTHOGONAL)
    outcomes = []
    if orthogonal:
        outcomes.append(
            _outcome(
                UNMOVED,
                f"{_ORTHOGONAL}, features of inputs orthogonal to training's",
                orthogonal,
                value=lambda check: ROUNDING - check.measured,
                unit=f"relative change, short of {ROUNDING:g}",
                told=lambda worst: (
                    f"relative change of {scientific(worst.measured)} at most; one beyond "
                    f"{scientific(ROUNDING, 0)}, which is rounding, fails"
                ),
                remark=LINEAR_REMARK,
                seeds=len(kept),
            )
        )
    forms = {
        _LOW_RANK: (BOUNDED, "with the factor sigma^2 r"),
        _AS_PRINTED: (None, "as printed, which the claim does not rest on"),
    }
    for claim, (part, form) in forms.items():
        informative = [check for check in _of_claim(kept, claim) if check.holds is not None]
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
                        f"{significant(worst.promised)} ({worst.setting}); less often than "
                        "promised fails where chance does so with a probability below "
                        f"{scientific(SIGNIFICANCE, 0)}"
                    ),
                    remark=LINEAR_REMARK,
                    seeds=len(kept),
                )
            )
    return outcomes


def _of_claim(kept: Checks, claim: str) -> list[TheoryCheck]:
    return [check for checks in kept.values() for check in checks if check.claim == claim]


def _checks(seed: int) -> list[TheoryCheck]:
    logger.info("checking the propositions, seed %d", seed)
    return run_theory(seed=seed)


def _file(found: Found, seed: int) -> Path:
    return found.scope.folder / STEPS / f"theory-seed{seed}.json"


def _identity(seed: int) -> Identity:
    """The checks read no data and no model: their code and the seed decide them."""
    versions = {name: version(name) for name in _PACKAGES}
    return {"seed": seed, "versions": versions, "code": _code_hash(Path(lpft.__file__).parent)}


@cache
def _code_hash(package: Path) -> str:
    """Of the sources that the checks run, with their places in the package, as first asked for."""
    digest = sha256()
    for name in _CODE:
        place = package / name
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(path.relative_to(package).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _outcome(
    part: Part | None,
    comparison: str,
    checks: Sequence[TheoryCheck],
    *,
    value: Callable[[TheoryCheck], float],
    unit: str,
    told: Callable[[TheoryCheck], str],
    remark: str,
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
        unit=unit,
        remark=remark,
        judgement=Judgement(
            effect=Estimate(value(worst), count=seeds),
            verdict="does not hold" if failed else "holds",
            why=f"{told(worst)}; {counted(len(checks), 'check')} over {counted(seeds, 'seed')}, "
            f"{result}",
        ),
    )
