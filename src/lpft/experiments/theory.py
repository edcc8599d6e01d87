"""``lpft theory``: numerical checks of the propositions, and claims 7 and 8, which rest on them.

The checks are on random models; claim 7 is also checked on the experiment's own model. They are no
estimates: nothing is inferred from the seeds, so a claim has no interval and needs no minimum
number of seeds. It holds if no check of any seed fails, and does not hold if one does.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import lpft
from lpft.data.examples import Text
from lpft.data.splits import draw_rows
from lpft.errors import InputError
from lpft.experiments.plan import ExperimentRuns, Job, RunKey, Step, job_of_run
from lpft.experiments.prepare import reopen
from lpft.experiments.verdicts import WITHOUT_RATES, Case, Claim, Outcome, Part
from lpft.model import Classifier
from lpft.model.adapters import trained_head
from lpft.model.encoder import seeded
from lpft.ntk import KernelRequest, empirical_ntks, studied_model
from lpft.ntk.dynamics import FirstOrderError, FirstStep
from lpft.results.exhibits import Cell, Column, Estimate, Table
from lpft.results.formats import counted, joined, scientific, significant
from lpft.results.groups import method_name, model_name
from lpft.results.judging import Judgement, Measured
from lpft.results.pairing import PUBLISHED
from lpft.results.run import Run
from lpft.settings import TrainingSettings
from lpft.settings.methods import get_method
from lpft.theory.checks import (
    DECADES,
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
from lpft.training.cache import prepare_split
from lpft.training.fit import begin_fine_tuning

logger = logging.getLogger(__name__)


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
    return ("claim", "setting", "measured", "promised", "holds", "note"), [
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
    claims = Counter(check.claim for check in checks)
    failed = Counter(check.claim for check in checks if check.holds is False)
    holding = [claim for claim in claims if not failed[claim]]
    parts = []
    if holding:
        could_fail = sum(check.holds is True for check in checks if check.claim in holding)
        parts.append(f"of {joined(holding)} every check that could fail holds ({could_fail})")
    parts += [f"{c} fails in {failed[c]} of {count}" for c, count in claims.items() if failed[c]]
    text = "; ".join(parts) + "."
    return text[:1].upper() + text[1:]


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

    def compute() -> list[TheoryCheck]:
        logger.info("checking the propositions, seed %d", seed)
        return run_theory(seed=seed)

    return Job(f"theory-seed{seed}.json", {"seed": seed, **_code()}, compute)


def _code() -> dict[str, Any]:
    """What the checks run."""
    versions = {name: version(name) for name in _PACKAGES}
    return {"versions": versions, "code": _code_hash(Path(lpft.__file__).parent)}


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


# The same on the experiment's own model, as another step.

_TEXTS = 8
"""Texts whose loss is lowered, and as many others whose outputs change."""

_LARGEST_CHANGE = 10.0
"""What the largest rate would change some logit by, were the model linear in its parameters."""

_DECADES = 7
"""Of rates below it."""

_NEAR = 0.01
"""Relative error of all outputs from which on it must fall with the rate."""

_ROUNDING_OF_OUTPUTS = 1e-14
"""Of float64, relative to the outputs: a change is the difference of two of them. An error of less
than ten times that says nothing of the prediction."""


@dataclass(frozen=True)
class LoraKernel:
    """F at the start of LoRA, beside F of other parameters of the same model and head.

    ``expected`` is c = (alpha / r)^2 sigma^2 r with the entries' variance sigma^2 of the factors A.
    By parameters, ``norms`` are ``||F_LoRA|| / (c ||F||)``, ``differences`` ``||F_LoRA - c F|| /
    (c ||F||)``, and ``cosines`` those between the two.
    """

    rank: int
    expected: float
    norms: Mapping[str, float]
    differences: Mapping[str, float]
    cosines: Mapping[str, float]


@dataclass(frozen=True)
class OwnModelChecks:
    """What was checked at the start of one run; ``lora`` only of a method with LoRA."""

    first_order: list[TheoryCheck]
    lora: LoraKernel | None = None


_EVERYTHING, _ADAPTED = "all that FT trains", "the matrices that LoRA adapts"


def own_model_runs(runs: ExperimentRuns) -> dict[str, Run]:
    """By method, the first task's run of the first seed at the method's own rates."""
    task, seed = runs.scope.tasks[0], runs.scope.seeds[0]
    keys = {method: RunKey(PUBLISHED, task, method, seed) for method in runs.scope.methods}
    return {method: runs.runs[key] for method, key in keys.items() if key in runs.runs}


def _check_own_model(run: Run) -> OwnModelChecks:
    """The first step from where a run's fine-tuning began, in float64."""
    logger.info("checking the first step of %s", run.name)
    config, data, classifier, encoder = reopen(run)
    settings, method = config.training, get_method(run.method)
    train = prepare_split(classifier, data.train, settings, encoder=encoder, name="train")
    with seeded(settings.seed):
        model, _ = begin_fine_tuning(classifier.model, train, settings, method, logging.DEBUG)
    rows = draw_rows(train.labels, 2 * _TEXTS)
    trained, others = train.select(rows[::2]), train.select(rows[1::2])
    step = FirstStep(model, trained.tokens, trained.labels)
    predicted = step.predicted(others.tokens)
    largest = _LARGEST_CHANGE / float(np.abs(predicted.logits).max())
    errors = step.errors(others.tokens, [largest * 10.0**-decade for decade in range(_DECADES + 1)])
    features = torch.from_numpy(others.probed)
    with torch.no_grad():
        outputs = {"logits": trained_head(model)(features), "features": features}
    rounding = {
        name: _ROUNDING_OF_OUTPUTS * float(value.norm() / np.linalg.norm(getattr(predicted, name)))
        for name, value in outputs.items()
        if getattr(predicted, name).any()
    }
    lora = None
    if method.adapter == "lora" and method.head_start == "random":
        lora = _lora_kernel(model, classifier, data.train.select(rows[::2]).texts, settings)
    return OwnModelChecks(list(_falls(errors, rounding, method.name)), lora)


def _falls(
    errors: Sequence[FirstOrderError], rounding: Mapping[str, float], method: str
) -> Iterator[TheoryCheck]:
    """How each output's error falls, decade by decade, from where all are small to rounding.

    ``rounding`` over the rate is the relative error that rounding makes of each output that moves.
    Where it leaves no two errors to compare, nothing is checked.
    """

    def error_of(output: str, error: FirstOrderError) -> float:
        return float(getattr(error, output))

    def is_measured(output: str, error: FirstOrderError) -> bool:
        return error_of(output, error) > 10 * rounding[output] / error.rate

    small_errors = [
        error
        for error in errors
        if all(error_of(name, error) < _NEAR or not is_measured(name, error) for name in rounding)
    ]
    claim = "Proposition 4.1, own model"
    for output in rounding:
        setting = f"{method_name(method)}: {output}"
        compared = [error for error in small_errors if is_measured(output, error)][: DECADES + 1]
        if len(compared) < 2:
            least = min(error_of(output, error) for error in errors)
            note = f"the relative error is {least:.1e} at least"
            holds = None if least < _NEAR else False
            yield TheoryCheck(claim, setting, 0.0, 10.0, holds, note)
        for larger, smaller in pairwise(compared):
            fall = error_of(output, larger) / error_of(output, smaller)
            note = (
                f"fall of the relative error, to {error_of(output, smaller):.1e}; "
                f"{LEAST_FALL:g} or more holds"
            )
            where = f"{setting}, rate {larger.rate:.0e} to {smaller.rate:.0e}"
            yield TheoryCheck(claim, where, fall, 10.0, fall >= LEAST_FALL, note)


def _lora_kernel(
    model: nn.Module, classifier: Classifier, texts: Sequence[Text], settings: TrainingSettings
) -> LoraKernel:
    """F over LoRA's factors beside F over what they stand for, from one pass."""
    assert settings.lora_rank is not None, "settings must be resolved"
    assert settings.lora_alpha is not None, "settings must be resolved"
    subject = studied_model(model, classifier.tokenizer, classifier.max_length)
    parameters = subject.network.named_parameters()
    factors = {name for name, parameter in parameters.items() if parameter.requires_grad}
    others = set(parameters) - factors
    sets = {
        "lora": factors,
        _EVERYTHING: others,
        _ADAPTED: {name for name in others if name.endswith(".base_layer.weight")},
    }
    weight = subject.head.weight.detach()
    kernels = empirical_ntks(
        model,
        {name: KernelRequest(weight, frozenset(names)) for name, names in sets.items()},
        texts,
        tokenizer=classifier.tokenizer,
        max_length=classifier.max_length,
        dtype="float64",
    )
    # In the model's order: that of a set is another in every process, and rounds differently.
    drawn = [p.detach().double().flatten() for name, p in parameters.items() if "lora_A" in name]
    variance = float(torch.cat(drawn).square().mean())
    expected = (settings.lora_alpha / settings.lora_rank) ** 2 * variance * settings.lora_rank
    lora = kernels.pop("lora").ft_effective
    size = float(np.linalg.norm(lora))
    scaled = {name: expected * kernel.ft_effective for name, kernel in kernels.items()}
    sizes = {name: float(np.linalg.norm(kernel)) for name, kernel in scaled.items()}
    return LoraKernel(
        rank=settings.lora_rank,
        expected=expected,
        norms={name: size / sizes[name] for name in scaled},
        differences={
            name: float(np.linalg.norm(lora - kernel)) / sizes[name]
            for name, kernel in scaled.items()
        },
        cosines={
            name: float((lora * kernel).sum()) / (size * sizes[name])
            for name, kernel in scaled.items()
        },
    )


def _job_of_own_model(method: str, run: Run) -> Job[OwnModelChecks]:
    job = job_of_run(f"first-step-{method}.json", run, _check_own_model)
    return replace(job, identity={**job.identity, **_code()})


OWN_MODEL: Step[str, OwnModelChecks] = Step(
    OwnModelChecks,
    lambda runs: {
        method: _job_of_own_model(method, run) for method, run in own_model_runs(runs).items()
    },
)
"""By method, the checks at the start of one run."""


def lora_kernel_table(runs: ExperimentRuns) -> Table | None:
    """LoRA's F compared with F of what it adapts, and of all that FT trains."""
    known = OWN_MODEL.read(runs).get("lora")
    if known is None or known.lora is None:
        return None
    kernel, run = known.lora, own_model_runs(runs)["lora"]
    rows: list[tuple[Cell, ...]] = []
    for parameters in kernel.norms:
        numbers = (kernel.norms, kernel.differences, kernel.cosines)
        cells = (Estimate(values[parameters], runs=(run.name,)) for values in numbers)
        rows.append((parameters, *cells))
    names = ("norm of LoRA's F over that of c F", "relative difference from c F", "cosine with F")
    return Table(
        name="lora-kernel",
        title="LoRA's F beside what Proposition 4.4 compares it with, on this model",
        columns=(
            Column("F over", source="names"),
            *(Column(name) for name in names),
        ),
        rows=tuple(rows),
        note=(
            f"Of {_TEXTS} training texts of {runs.scope.tasks[0]} and one draw of LoRA's factors, "
            f"with c = (alpha / r)^2 sigma^2 r = {significant(kernel.expected)} at r = "
            f"{kernel.rank}. These are numbers of this model and not the proposition, which is on "
            "linear encoders and bounds the difference only from larger ranks up. Of the matrices "
            "that LoRA adapts, c F is the mean of LoRA's F over draws in any model; what FT trains "
            "beside them has no counterpart in LoRA."
        ),
        folded=True,
    )


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

    ``comparison`` names the comparison that a check belongs to, or None. ``margin`` is how far a
    check is from failing, in ``unit``; ``evidence`` describes the check with the smallest margin.
    """

    claim: str
    part: Part | None
    comparison: Callable[[TheoryCheck], str | None]
    margin: Callable[[TheoryCheck], float]
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


def _first_order(claim: str, model: str, remark: str) -> _Promise:
    """Proposition 4.1 on a model; checks without two errors to compare are left out."""

    def comparison(check: TheoryCheck) -> str | None:
        if check.holds is None:
            return None
        return f"{model}, {check.setting.partition(', rate')[0]}"

    return _Promise(
        claim,
        _PREDICTED,
        comparison,
        lambda check: check.measured - LEAST_FALL,
        f"times per tenfold smaller rate, beyond {LEAST_FALL:g}",
        lambda worst: (
            f"the error falls {significant(worst.measured)} times or more; a fall of less than "
            f"{LEAST_FALL:g} fails"
        ),
        remark,
    )


_ON_RANDOM_MODELS = _first_order("Proposition 4.1", "Proposition 4.1", _FIRST_ORDER_REMARK)
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


def _outcomes(
    by_seed: Collection[Sequence[TheoryCheck]], promises: Sequence[_Promise]
) -> list[Outcome]:
    """Every check must hold; the effect is the margin of the check that is closest to failing."""
    outcomes = []
    for promise in promises:
        compared: dict[str, list[TheoryCheck]] = {}
        for check in (check for checks in by_seed for check in checks):
            comparison = promise.comparison(check) if check.claim == promise.claim else None
            if comparison is not None:
                compared.setdefault(comparison, []).append(check)
        for comparison, checks in compared.items():
            worst = min(checks, key=promise.margin)
            failed = sum(not check.holds for check in checks)
            judgement = Judgement(
                effect=Estimate(promise.margin(worst), count=len(by_seed)),
                verdict="does not hold" if failed else "holds",
                why=f"{promise.evidence(worst)}; {counted(len(checks), 'check')} over "
                f"{counted(len(by_seed), 'seed')}, "
                + (f"{failed} of them fail" if failed else "all hold"),
            )
            measured = Measured("", comparison, WITHOUT_RATES, effects=(), runs=())
            case = Case(promise.part, measured, promise.unit, remark=promise.remark)
            outcomes.append(Outcome(case, judgement))
    return outcomes


def _first_order_outcomes(runs: ExperimentRuns) -> list[Outcome]:
    """On random models for every seed, then on the experiment's own at the start of one run."""
    scope = runs.scope
    own = _first_order(
        "Proposition 4.1, own model",
        model_name(scope.model),
        f"a numerical check on the model of this experiment, at the start of training on "
        f"{_TEXTS} texts of {scope.tasks[0]}, {_NO_ESTIMATE}",
    )
    checks = [check for each in OWN_MODEL.read(runs).values() for check in each.first_order]
    return [
        *_outcomes(THEORY.read(runs).values(), [_ON_RANDOM_MODELS]),
        *_outcomes([checks], [own]),
    ]


CLAIMS = (
    Claim(
        7,
        "The first-order prediction of feature and logit change meets the real one as the learning "
        "rate goes to 0.",
        (_PREDICTED,),
        lambda runs, _: _first_order_outcomes(runs),
        remark=f"a numerical check, {_NO_ESTIMATE}",
    ),
    Claim(
        8,
        "In linear models Corollary 4.3 holds exactly and Proposition 4.4's bound holds at the "
        "stated rate.",
        (_UNMOVED, _BOUNDED),
        # Proposition 4.4 as printed is shown but does not count.
        lambda runs, _: _outcomes(THEORY.read(runs).values(), _LINEAR),
        remark=_LINEAR_REMARK,
    ),
)
