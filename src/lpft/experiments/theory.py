"""``lpft theory``: numerical checks of the propositions, and claims 7 and 8, which rest on them.

These are numerical checks on random models, not estimates. Nothing is inferred from the seeds, so a
claim has no interval and needs no minimum number of seeds. It holds if no check of any seed fails,
and does not hold if one does.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lpft
from lpft.errors import InputError
from lpft.experiments.plan import ExperimentRuns, Job, Step
from lpft.experiments.verdicts import WITHOUT_RATES, Case, Claim, Outcome, Part
from lpft.results.exhibits import Estimate
from lpft.results.formats import counted, scientific, significant
from lpft.results.judging import Judgement, Measured
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

logger = logging.getLogger(__name__)

_HEADER = ("claim", "setting", "measured", "promised", "holds", "note")


def run_theory(*, seed: int = 0) -> list[TheoryCheck]:
    """Proposition 4.1, Corollary 4.3 and Proposition 4.4, numerically and in float64.

    Takes seconds on a CPU and needs no files or network: the transformer of Proposition 4.1 is a
    two-layer BERT with random weights, the others are linear models; ``seed`` draws them all.

    Source: Tomihari and Sato, NeurIPS 2024. Proposition 4.4 is checked with the factor sigma^2 r,
    which the printed form lacks, and as printed, which fails.

    Raises:
        InputError: a seed outside 0 to 2^32 - 1.
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"seed: expected a number from 0 to 2**32 - 1, found {seed}")
    return [*first_order_checks(seed), *orthogonal_checks(seed), *low_rank_checks(seed)]


def theory_table(checks: Sequence[TheoryCheck]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of text, one row for each check."""
    verdicts = {True: "yes", False: "NO", None: "vacuous"}
    return _HEADER, [
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


def theory_sentence(checks: Sequence[TheoryCheck]) -> str:
    """Which claims hold in every check, and which do not, in one sentence."""
    claims = {check.claim: [c for c in checks if c.claim == check.claim] for check in checks}
    failed = {
        claim: sum(check.holds is False for check in own)
        for claim, own in claims.items()
        if any(check.holds is False for check in own)
    }
    holding = [claim for claim in claims if claim not in failed]
    parts = []
    if holding:
        could_fail = sum(check.holds is True for claim in holding for check in claims[claim])
        parts.append(f"of {_listed(holding)} every check that could fail holds ({could_fail})")
    for claim, count in failed.items():
        parts.append(f"{claim} fails in {count} of {len(claims[claim])}")
    text = "; ".join(parts) + "."
    return text[:1].upper() + text[1:]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def theory_json(checks: Sequence[TheoryCheck], *, seed: int) -> dict[str, Any]:
    """``{"seed", "checks": [{"claim", "setting", "measured", "promised", "holds", "note"}]}``."""
    return {"seed": seed, "checks": [asdict(check) for check in checks]}


def _digits(value: float) -> str:
    """Four digits; a probability that would round up to 1 is shown as ``>0.9999``."""
    return ">0.9999" if 0.99995 <= value < 1 else f"{value:.4g}"


# The checks as a step of the experiment ``claims``.

_PACKAGES = ("numpy", "scipy", "torch", "transformers", "peft")
_CODE = (
    "analysis",
    "data",
    "model",
    "ntk",
    "settings",
    "theory",
    "training",
    "experiments/theory.py",
)
"""What the checks run, below ``lpft``: the propositions and all that they import."""


def _job(seed: int) -> Job[list[TheoryCheck]]:
    """The checks read no data and no model: they depend only on their code and the seed."""
    versions = {name: version(name) for name in _PACKAGES}
    code = _code_hash(Path(lpft.__file__).parent)
    identity = {"seed": seed, "versions": versions, "code": code}
    return Job(f"theory-seed{seed}.json", identity, partial(_checks, seed))


def _checks(seed: int) -> list[TheoryCheck]:
    logger.info("checking the propositions, seed %d", seed)
    return run_theory(seed=seed)


@cache
def _code_hash(package: Path) -> str:
    """A hash of the source files that the checks run, with their paths in the package."""
    digest = sha256()
    for name in _CODE:
        part = package / name
        for path in sorted(part.rglob("*.py")) if part.is_dir() else [part]:
            digest.update(path.relative_to(package).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


THEORY: Step[int, list[TheoryCheck]] = Step(
    list[TheoryCheck], lambda runs: {seed: _job(seed) for seed in runs.scope.seeds}
)
"""By seed, the checks of ``lpft theory``."""


# Claims 7 and 8.

_PREDICTED = Part("error falls tenfold with the rate")
_UNMOVED = Part("Corollary 4.3, orthogonal inputs stay")
_BOUNDED = Part("Proposition 4.4, the bound holds as often as stated")

_NO_ESTIMATE = "not an estimate, so it has no interval and no minimum number of seeds"
_FIRST_ORDER_REMARK = (
    f"a numerical check on random BERTs of {LAYERS} layers and width {WIDTH}, {_NO_ESTIMATE}"
)
_LINEAR_REMARK = (
    f"a numerical check on random linear models of up to {max(LINEAR_WIDTHS)[0]} inputs, "
    f"{_NO_ESTIMATE}"
)


@dataclass(frozen=True)
class _Promise:
    """What a proposition states, and how close its checks come to violating it.

    ``comparison`` names the comparison that a check belongs to, or None. ``to_spare`` is how far a
    check is from failing, in ``unit``; ``evidence`` describes the check with the least to spare.
    """

    claim: str
    part: Part | None
    comparison: Callable[[TheoryCheck], str | None]
    to_spare: Callable[[TheoryCheck], float]
    unit: str
    evidence: Callable[[TheoryCheck], str]
    remark: str


def _bound(claim: str, part: Part | None, form: str) -> _Promise:
    """Proposition 4.4 in one of two forms."""

    def comparison(check: TheoryCheck) -> str | None:
        informative = check.holds is not None and check.setting.startswith("r=")
        return f"Proposition 4.4, {form}" if informative else None

    return _Promise(
        claim,
        part,
        comparison,
        lambda check: check.measured - check.promised,
        "of probability, beyond the stated one",
        lambda worst: (
            f"holds with frequency {significant(worst.measured)}, stated "
            f"{significant(worst.promised)} ({worst.setting}); a lower frequency fails if its "
            f"probability by chance is below {scientific(SIGNIFICANCE, 0)}"
        ),
        _LINEAR_REMARK,
    )


_FIRST_ORDER = (
    _Promise(
        "Proposition 4.1",
        _PREDICTED,
        lambda check: f"Proposition 4.1, {check.setting.partition(', rate')[0]}",
        lambda check: check.measured - LEAST_FALL,
        f"times per tenfold smaller rate, beyond {LEAST_FALL:g}",
        lambda worst: (
            f"the error falls {significant(worst.measured)} times or more; a fall of less than "
            f"{LEAST_FALL:g} fails"
        ),
        _FIRST_ORDER_REMARK,
    ),
)
_LINEAR = (
    _Promise(
        "Corollary 4.3",
        _UNMOVED,
        lambda _: "Corollary 4.3, features of inputs orthogonal to training's",
        lambda check: ROUNDING - check.measured,
        f"relative change, short of {ROUNDING:g}",
        lambda worst: (
            f"relative change of {scientific(worst.measured)} at most; one beyond "
            f"{scientific(ROUNDING, 0)}, which is rounding, fails"
        ),
        _LINEAR_REMARK,
    ),
    _bound("Proposition 4.4", _BOUNDED, "with the factor sigma^2 r"),
    _bound("Proposition 4.4 as printed", None, "as printed, which the claim does not rest on"),
)


def _outcomes(runs: ExperimentRuns, promises: Sequence[_Promise]) -> list[Outcome]:
    """Every check must hold; the effect is the margin of the check that is closest to failing."""
    by_seed = THEORY.read(runs)
    outcomes = []
    for promise in promises:
        compared: dict[str, list[TheoryCheck]] = {}
        for check in (check for checks in by_seed.values() for check in checks):
            comparison = promise.comparison(check) if check.claim == promise.claim else None
            if comparison is not None:
                compared.setdefault(comparison, []).append(check)
        for comparison, checks in compared.items():
            worst = min(checks, key=promise.to_spare)
            failed = sum(not check.holds for check in checks)
            judgement = Judgement(
                effect=Estimate(promise.to_spare(worst), count=len(by_seed)),
                verdict="does not hold" if failed else "holds",
                why=f"{promise.evidence(worst)}; {counted(len(checks), 'check')} over "
                f"{counted(len(by_seed), 'seed')}, "
                + (f"{failed} of them fail" if failed else "all hold"),
            )
            measured = Measured("", comparison, WITHOUT_RATES, effects=(), runs=())
            case = Case(promise.part, measured, promise.unit, remark=promise.remark)
            outcomes.append(Outcome(case, judgement))
    return outcomes


CLAIMS = (
    Claim(
        7,
        "The first-order prediction of feature and logit change meets the real one as the learning "
        "rate goes to 0.",
        (_PREDICTED,),
        lambda runs, _: _outcomes(runs, _FIRST_ORDER),
        remark=_FIRST_ORDER_REMARK,
    ),
    Claim(
        8,
        "In linear models Corollary 4.3 holds exactly and Proposition 4.4's bound holds at the "
        "stated rate.",
        (_UNMOVED, _BOUNDED),
        lambda runs, _: _outcomes(runs, _LINEAR),  # 4.4 as printed is shown but does not count
        remark=_LINEAR_REMARK,
    ),
)
