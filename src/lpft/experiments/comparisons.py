"""The paper's claims: how each is measured from runs and kernels and judged, and what it rests on.

Claims 7 and 8 are measured in :mod:`lpft.experiments.theory`. The recipe that plans what the claims
need is in :mod:`lpft.experiments.claims`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from operator import ge, gt

import numpy as np

from lpft.analysis.comparison import Resampled, Statistic, resample, without_samples
from lpft.analysis.metrics import metric_name
from lpft.data import TASKS
from lpft.experiments import theory
from lpft.experiments.catalogue import EXPERIMENTS
from lpft.experiments.figures import CORRELATIONS, rank_correlations, scaled_runs
from lpft.experiments.measures import random_head_norm
from lpft.experiments.plan import ExperimentRuns, Scope
from lpft.experiments.verdicts import (
    WITHOUT_RATES,
    Case,
    Claim,
    Outcome,
    Part,
    PublishedQuestion,
    judge_cases,
    published_mean,
)
from lpft.paper import published_datasets
from lpft.results import quantities
from lpft.results.formats import (
    MINUS,
    change_digits,
    counted,
    decimals_for,
    ratio_text,
    with_sd,
)
from lpft.results.groups import Spread, method_name
from lpft.results.judging import Measured
from lpft.results.kernels import KernelRecord, read_ft_ratio
from lpft.results.pairing import (
    PAIRS,
    PUBLISHED,
    MethodRuns,
    Pairing,
    all_runs,
    at_own_rates,
    methods_at_rates,
    pairings,
    pairs_in,
    rates_name,
)
from lpft.results.run import Run
from lpft.results.schema import number


def _pair_case(
    part: Part,
    pairing: Pairing,
    statistics: Sequence[tuple[Resampled, Resampled]],
    *,
    subject: str,
    unit: str,
    digits: int,
    smaller: bool = False,
    task: str | None = None,
    lead: str = "",
    by: str = "",
    remark: str = "",
) -> Case:
    """The case that the second of two methods has the larger (or smaller) number, over seeds.

    The evidence is ``<lead><by>12.0 ± 1.0 under FT, <by>4.0 ± 0.5 under LP-FT``.
    """
    evidence = ", ".join(
        f"{by}{with_sd(_spread_of(pair[number] for pair in statistics), digits)} under {group.name}"
        for number, group in enumerate((pairing.first, pairing.second))
    )
    measured = Measured(
        task=pairing.task if task is None else task,
        subject=subject,
        rates=pairing.rates,
        effects=tuple(
            first - second if smaller else second - first for first, second in statistics
        ),
        runs=pairing.run_names,
    )
    evidence = f"{lead}{evidence}"
    return Case(part, measured, unit, evidence, remark, also_at=pairing.also_at)


# Claim 1: features change less from the LP solution than from a random head.

_SMALLER_CHANGE = Part("smaller feature change")


def _feature_change_outcomes(runs: ExperimentRuns, generator: np.random.Generator) -> list[Outcome]:
    """``Diff(F)`` from a random head minus that from the LP solution."""
    cases: list[Case] = []
    for task in runs.scope.tasks:
        pairs = pairs_in(runs.scope.methods)
        compared = [pairing for pair in pairs for pairing in pairings(runs, task, pair)]
        paired_runs = all_runs(compared)
        by_run = quantities.feature_change().on_draws(
            paired_runs, quantities.feature_split(paired_runs), generator
        )
        for pairing in compared:
            changes = pairing.statistics(by_run)
            digits = change_digits([change.value for pair in changes for change in pair])
            cases.append(
                _pair_case(
                    _SMALLER_CHANGE,
                    pairing,
                    changes,
                    subject=f"{pairing.second.name} below {pairing.first.name}",
                    unit="L2 distance",
                    digits=digits,
                    smaller=True,
                )
            )
    return judge_cases(cases, generator=generator)


CLAIM_1 = Claim(
    1,
    "Features change less under LP-FT than under FT, and less under LP-LoRA than under LoRA.",
    (_SMALLER_CHANGE,),
    _feature_change_outcomes,
    "Table 12",
    tuple(
        PublishedQuestion(
            f"{method_name(pair[1])} below {method_name(pair[0])}",
            (12,),
            pair,
            ("feature_difference",),
            lambda random, probed: probed < random,
        )
        for pair in PAIRS
    ),
)


# Claim 2: linear probing leaves a large head, and LP-FT keeps it.
#
# If linear probing gives a head no larger than a random one, that alone decides the claim. Later
# changes do not count: relative to a norm near 0 any change is large, and there is no large head to
# keep.

WELL_ABOVE = 2.0
"""Norm after linear probing over that of the random start: more than this is "well above"."""

STAYS = 20.0
"""Change of the norm along fine-tuning, in per cent: less than this is "stays".

In the paper SST-2's head goes from 132 to 109, 17 per cent, and the others change by 2 per cent at
most, but for WSC's: 2.26e-4 after linear probing, where a random head has 0.795, and 0.108 after
LP-FT (table 13)."""

_WELL_ABOVE_START, _STAYS_THROUGH = (
    Part("well above the random start"),
    Part("stays through LP-FT"),
)
_ABOVE_QUESTION = f"LP head more than {WELL_ABOVE:g} times its random start"
_STAYS_QUESTION = f"norm within {STAYS:g} % through LP-FT"


def _head_norm_outcomes(runs: ExperimentRuns, generator: np.random.Generator) -> list[Outcome]:
    """The norm before probing, after it and along fine-tuning, in the runs of each seed.

    Norms do not depend on samples, so the intervals are over seeds only.
    """
    if "lp-ft" not in runs.scope.methods:
        return []
    cases = []
    for task in runs.scope.tasks:
        by_seed = runs.by_seed(PUBLISHED, task, "lp-ft")
        random_norms = {seed: _random_start(runs, task, seed) for seed in by_seed}
        cases += [
            _norm_above(task, by_seed, random_norms),
            _norm_stays(task, by_seed, random_norms),
        ]
    return judge_cases(cases, generator=generator)


def _random_start(runs: ExperimentRuns, task: str, seed: int) -> float | None:
    """The norm of a seed's random head, from a run that began with it."""
    norms = (
        random_head_norm(run)
        for key, run in runs.runs.items()
        if (key.task, key.seed) == (task, seed)
    )
    return next((norm for norm in norms if norm is not None), None)


def _largest_change(run: Run) -> float | None:
    """The largest ``|  ||V|| / ||V_start|| - 1 |`` along a training and at its end, in per cent."""
    start, end = run.head_norm("norm_at_start"), run.head_norm("norm")
    if start is None or end is None or start == 0:
        return None
    along = (
        number(row.get("head_norm")) for row in run.history if row.get("event") == "evaluation"
    )
    return max(100 * abs(norm / start - 1) for norm in (end, *along) if norm is not None)


def _norm_above(
    task: str, runs: Mapping[int, Run], random_norms: Mapping[int, float | None]
) -> Case:
    known = {
        seed: (start, norm)
        for seed, start in random_norms.items()
        if start and (norm := runs[seed].head_norm("norm_at_start")) is not None
    }
    ratios = [norm / start for start, norm in known.values()]
    norms = ([pair[number] for pair in known.values()] for number in (0, 1))
    start, after = (with_sd(Spread.of(each), decimals_for(each)) for each in norms)
    return Case(
        part=_WELL_ABOVE_START,
        measured=Measured(
            task=task,
            subject=_ABOVE_QUESTION,
            rates=WITHOUT_RATES,
            effects=tuple(without_samples(ratio - WELL_ABOVE) for ratio in ratios),
            runs=tuple(runs[seed].name for seed in known),
            bounds=(-WELL_ABOVE, math.inf),
        ),
        unit=f"times the random start's norm, beyond {WELL_ABOVE:g}",
        evidence=f"norm {start} at random, {after} after LP: {with_sd(Spread.of(ratios), 2)} times",
    )


def _norm_stays(
    task: str, runs: Mapping[int, Run], random_norms: Mapping[int, float | None]
) -> Case:
    def is_small(seed: int, run: Run) -> bool:
        """Whether linear probing is known to give a head no larger than the random one."""
        start, probed = random_norms[seed], run.head_norm("norm_at_start")
        return start is not None and probed is not None and probed <= start

    large = {seed: run for seed, run in runs.items() if not is_small(seed, run)}
    known = {
        seed: change for seed, run in large.items() if (change := _largest_change(run)) is not None
    }
    small = len(runs) - len(large)
    left_out = (
        f"linear probing gives {counted(small, 'head')} no larger than the random start, where "
        "any change is large"
    )
    evidence = f"the norm changes by {with_sd(Spread.of(known.values()), 1)} % at most"
    return Case(
        part=_STAYS_THROUGH,
        measured=Measured(
            task=task,
            subject=_STAYS_QUESTION,
            rates=WITHOUT_RATES,
            effects=tuple(without_samples(STAYS - change) for change in known.values()),
            runs=tuple(runs[seed].name for seed in known),
            bounds=(-math.inf, STAYS),
        ),
        unit=f"per cent of change, short of {STAYS:g}",
        evidence=f"{evidence}, but {left_out}" if small else evidence,
        remark="does not apply: the LP head is not above its random start"
        if small and not known
        else "",
        missing=left_out if small else "",
    )


CLAIM_2 = Claim(
    2,
    "The norm of the head after linear probing is well above that of its random start, and "
    "stays there through LP-FT.",
    (_WELL_ABOVE_START, _STAYS_THROUGH),
    _head_norm_outcomes,
    "Table 13",
    tuple(
        PublishedQuestion(text, (13,), ("pretrained", "lp", "lp-ft"), ("head_norm",), agrees)
        for text, agrees in (
            (_ABOVE_QUESTION, lambda start, probed, _: probed > WELL_ABOVE * start),
            (
                _STAYS_QUESTION,
                lambda start, probed, end: probed > start and 100 * abs(end / probed - 1) < STAYS,
            ),
        )
    ),
)


# Claim 3: the larger the scale of the head before fine-tuning, the less features change.

SCALES = (0.1, 1.0, 10.0, 100.0)
"""Fewer than the paper's, and on the first task alone: each is a run of every method and seed."""

_FALLS_WITH_SCALE = Part("feature change falls with the scale")


def scaled_scope(scope: Scope) -> Scope:
    methods = tuple(method for method in ("ft", "lp-ft") if method in scope.methods)
    return replace(scope, tasks=scope.tasks[:1], methods=methods)


def _head_scale_outcomes(runs: ExperimentRuns, generator: np.random.Generator) -> list[Outcome]:
    """Minus Spearman's rank correlation of scale and ``Diff(F)``, over seeds and samples."""
    scope = scaled_scope(runs.scope)
    cases = []
    for task in scope.tasks:
        for method in scope.methods:
            scaled = scaled_runs(runs, task, method)
            all_scaled = [run for by_scale in scaled.values() for run in by_scale.values()]
            at_some_scale = {seed: next(iter(scales.values())) for seed, scales in scaled.items()}
            correlations = rank_correlations(
                scaled, quantities.feature_split(all_scaled), generator=generator
            )
            spread = _spread_of(correlations.values())
            measured = Measured(
                task=task,
                subject=f"{method_name(method)} at scales "
                + ", ".join(f"{scale:g}" for scale in SCALES),
                rates=rates_name(task, {method: at_some_scale}),
                effects=tuple(-correlation for correlation in correlations.values()),
                runs=tuple(run.name for seed in correlations for run in scaled[seed].values()),
                bounds=CORRELATIONS,
            )
            evidence = f"rank correlation {with_sd(spread, 2)}"
            cases.append(Case(_FALLS_WITH_SCALE, measured, "rank correlation, negative", evidence))
    return judge_cases(cases, generator=generator)


CLAIM_3 = Claim(
    3,
    "The larger the head's scale before fine-tuning, the smaller the feature change.",
    (_FALLS_WITH_SCALE,),
    _head_scale_outcomes,
    "The paper shows it in figures 3, 10 and 11, and prints no numbers",
    remark="on the first task only",
)


# Claim 4: one temperature lowers ECE, and lowers it most for LP-FT.

_LOWERS, _LOWERS_MOST = Part("lowers ECE"), Part("most for LP-FT")
_ECE_UNIT = "points of ECE"
_ECE = ("ece", "calibrated_ece")


def _calibration_outcomes(runs: ExperimentRuns, generator: np.random.Generator) -> list[Outcome]:
    """ECE without the run's temperature minus ECE with it, and how much more LP-FT gains.

    The temperature stays the run's own: its validation samples are not resampled.
    """
    lowers: list[Case] = []
    most: list[Case] = []
    for task in runs.scope.tasks:
        of_task = methods_at_rates(runs, task, runs.scope.methods)
        by_run = _ece_gains(of_task, generator)
        lowers += [_lowers_ece(group, by_run) for group in of_task]
        methods = dict.fromkeys(group.method for group in of_task)
        if "lp-ft" in methods:
            compared = [
                *pairings(runs, task, ("ft", "lp-ft")),
                *(
                    at_own_rates(runs, task, (method, "lp-ft"))
                    for method in methods
                    if method not in ("ft", "lp-ft")
                ),
            ]
            most += [_lowers_most(pairing, by_run) for pairing in compared]
    return judge_cases([*lowers, *most], generator=generator)


def _ece_gains(of_task: Sequence[MethodRuns], generator: np.random.Generator) -> quantities.ByRun:
    """By how many points the temperature lowers each run's ECE, on the same draws."""
    all_of_task = [run for group in of_task for run in group.runs.values()]
    split, same = quantities.judged_split(all_of_task), deepcopy(generator)
    before = quantities.calibration_error(calibrated=False).on_draws(all_of_task, split, generator)
    after = quantities.calibration_error(calibrated=True).on_draws(all_of_task, split, same)
    return {folder: (before[folder] - after[folder]) * quantities.PER_CENT for folder in before}


def _lowers_ece(group: MethodRuns, by_run: quantities.ByRun) -> Case:
    gains = tuple(by_run[run.folder] for run in group.runs.values())
    unscaled = sum(run.temperature == 1 for run in group.runs.values())
    note = f"; the temperature is 1 in {counted(unscaled, 'run')}" if unscaled else ""
    spread = _spread_of(gains)
    return Case(
        part=_LOWERS,
        measured=Measured(group.task, group.name, group.rates, gains, group.run_names),
        unit=_ECE_UNIT,
        evidence=f"lower by {with_sd(spread, 1)} points{note}",
        also_at=group.also_at,
    )


def _lowers_most(pairing: Pairing, by_run: quantities.ByRun) -> Case:
    own_rates_alone = "only at each method's own rates, which may explain the difference"
    return _pair_case(
        _LOWERS_MOST,
        pairing,
        pairing.statistics(by_run),
        subject=f"{pairing.second.name} more than {pairing.first.name}",
        unit=_ECE_UNIT,
        digits=1,
        lead="lower ",
        by="by ",
        remark="" if pairing.first.method == "ft" else own_rates_alone,
    )


CLAIM_4 = Claim(
    4,
    "Temperature scaling lowers ECE, and lowers it most for LP-FT.",
    (_LOWERS, _LOWERS_MOST),
    _calibration_outcomes,
    "Tables 3, 14 and 15",
    (
        *(
            PublishedQuestion(
                f"ECE falls under {method_name(method)}",
                (3,),
                (method,),
                _ECE,
                lambda before, after: before > after,
            )
            for method in EXPERIMENTS["claims"].methods
        ),
        PublishedQuestion(
            "it falls most under LP-FT",
            (3,),
            ("lp-ft", "ft", "lora", "lp-lora"),
            _ECE,
            lambda before, after, *others: (
                before - after > max(b - a for b, a in zip(others[::2], others[1::2], strict=True))
            ),
        ),
    ),
    remark="LP-FT against LoRA and LP-LoRA at own rates only",
)


# Claim 5: the FT ratio is near 1 for LP-FT, near 0.2 for FT and near 0 for LoRA.

FT_RATIOS = {"lp-ft": 1.0, "ft": 0.2, "lora": 0.0}
"""The claimed ratios, largest first."""

RATIO_WIDTHS = {"lp-ft": 0.25, "ft": 0.1, "lora": 0.05}
"""How far from it still counts as near; the bands do not meet, so their order follows."""

_NEAR, _ORDER = Part("near its number"), Part("in this order")

_Ratios = Mapping[int, tuple[str, Resampled]]
"""By seed: the name of the kernels, and the ratio."""


def _near_question(method: str) -> str:
    return f"{method_name(method)} within {RATIO_WIDTHS[method]:g} of {FT_RATIOS[method]:g}"


def _order_question(larger: str, smaller: str) -> str:
    return f"{method_name(larger)} above {method_name(smaller)}"


def _ft_ratio_outcomes(runs: ExperimentRuns, generator: np.random.Generator) -> list[Outcome]:
    """Distance of each method's ratio from its number, and whether the ratios are in order.

    The texts that the ratio averages over are resampled; those in its inner sums are not.
    """
    methods = [method for method in FT_RATIOS if method in runs.scope.methods]
    near: list[Case] = []
    order: list[Case] = []
    for task in runs.scope.tasks:
        ratios = _ft_ratios(runs, task, methods, generator)
        near += [_near(task, method, ratios[method]) for method in methods]
        order += [
            _larger(task, larger, smaller, ratios[larger], ratios[smaller])
            for larger, smaller in pairwise(methods)
        ]
    return judge_cases([*near, *order], generator=generator)


def _ft_ratios(
    runs: ExperimentRuns, task: str, methods: Sequence[str], generator: np.random.Generator
) -> Mapping[str, _Ratios]:
    """The ratios of every method and seed, on the same draws of the texts."""
    known: dict[tuple[str, int], KernelRecord] = {
        (method, seed): kernels
        for method in methods
        for seed, kernels in runs.kernels_by_seed(task).items()
        if any(one.method == method and one.ft_ratio is not None for one in kernels.methods)
    }
    ratios: dict[str, dict[int, tuple[str, Resampled]]] = {method: {} for method in methods}
    if not known:
        return ratios

    def mean_ratio(method: str, kernels: KernelRecord) -> Statistic:
        parts = read_ft_ratio(kernels.folder, method)
        quotients = parts.numerator / parts.denominator
        return lambda rows: float(quotients[rows].mean())

    labels = {kernels.name: kernels.labels["train"] for kernels in known.values()}
    resampled = resample(
        {key: mean_ratio(key[0], kernels) for key, kernels in known.items()},
        quantities.same_samples(labels),
        generator=generator,
    )
    for (method, seed), ratio in resampled.items():
        ratios[method][seed] = (known[method, seed].name, ratio)
    return ratios


def _near(task: str, method: str, ratios: _Ratios) -> Case:
    expected, width = FT_RATIOS[method], RATIO_WIDTHS[method]
    published = published_mean(2, task, method, "ft_ratio")
    published_ratio = "" if published is None else f" (published {ratio_text(published)})"
    return Case(
        part=_NEAR,
        measured=Measured(
            task=task,
            subject=_near_question(method),
            rates=WITHOUT_RATES,
            effects=tuple(-abs(value + -expected) + width for _, value in ratios.values()),
            runs=tuple(name for name, _ in ratios.values()),
            bounds=(-math.inf, width),
        ),
        unit=f"of FT ratio, nearer than the {width:g} allowed",
        evidence=f"FT ratio {_ratio_spread(ratios)}{published_ratio}",
    )


def _larger(task: str, larger: str, smaller: str, high: _Ratios, low: _Ratios) -> Case:
    seeds = [seed for seed in high if seed in low]
    return Case(
        part=_ORDER,
        measured=Measured(
            task=task,
            subject=_order_question(larger, smaller),
            rates=WITHOUT_RATES,
            effects=tuple(high[seed][1] - low[seed][1] for seed in seeds),
            runs=tuple(high[seed][0] for seed in seeds),
        ),
        unit="of FT ratio",
        evidence=f"{_ratio_spread(high)} for {method_name(larger)}, {_ratio_spread(low)} for "
        f"{method_name(smaller)}",
    )


def _ratio_spread(ratios: _Ratios) -> str:
    spread = _spread_of(ratio for _, ratio in ratios.values())
    if spread is None or spread.sd is None:
        return ratio_text(None if spread is None else spread.mean)
    return f"{ratio_text(spread.mean)} ± {ratio_text(spread.sd)}"


CLAIM_5 = Claim(
    5,
    "The FT ratio is near 1 for LP-FT, near 0.2 for FT and near 0 for LoRA.",
    (_NEAR, _ORDER),
    _ft_ratio_outcomes,
    "Tables 2 and 9",
    (
        *(
            PublishedQuestion(
                _near_question(method),
                (2,),
                (method,),
                ("ft_ratio",),
                lambda ratio, near=middle, width=RATIO_WIDTHS[method]: abs(ratio - near) < width,
            )
            for method, middle in FT_RATIOS.items()
        ),
        *(
            PublishedQuestion(_order_question(*pair), (2,), pair, ("ft_ratio",), gt)
            for pair in pairwise(FT_RATIOS)
        ),
    ),
)


# Claim 6: LP-FT is at least as good as FT in distribution, and better out of it in most cases.
#
# "In most cases" is read as applying to both halves of the sentence: the paper's own means would
# contradict the first half in every case.

MARGIN = 1.0
"""In points. An interval that contains 0 means "at least as good" if it lies above minus this; one
below 0 means worse, however small the effect."""

_AT_LEAST = Part("at least FT in distribution", "most")
_BETTER = Part("above FT out of distribution", "most")


def _score_outcomes(runs: ExperimentRuns, generator: np.random.Generator) -> list[Outcome]:
    """The task's metric of LP-FT minus that of FT, in points."""
    if not {"ft", "lp-ft"} <= set(runs.scope.methods):
        return []
    cases: list[Case] = []
    for task in runs.scope.tasks:
        compared = pairings(runs, task, ("ft", "lp-ft"))
        paired_runs = all_runs(compared)
        tested = quantities.judged_split(paired_runs)
        for split in dict.fromkeys(
            (tested, *(name for run in paired_runs for name in run.ood_splits))
        ):
            by_run = quantities.task_score().on_draws(paired_runs, split, generator)
            data = task if split == tested else f"{task}, {split.removeprefix('ood/')}"
            cases += [_score_case(pairing, by_run, data) for pairing in compared]
    # With the same draws, a difference larger by the margin shows if the interval is above -margin.
    same = deepcopy(generator)
    outcomes = judge_cases(cases, generator=generator)
    ahead = [
        replace(
            case,
            measured=replace(
                case.measured, effects=tuple(effect + MARGIN for effect in case.measured.effects)
            ),
        )
        for case in cases
    ]
    with_margin = judge_cases(ahead, generator=same)
    return [
        _at_least(outcome, shifted) if outcome.case.part == _AT_LEAST else outcome
        for outcome, shifted in zip(outcomes, with_margin, strict=True)
    ]


def _score_case(pairing: Pairing, by_run: quantities.ByRun, data: str) -> Case:
    in_distribution = data == pairing.task
    first, second = pairing.first.name, pairing.second.name
    metrics = dict.fromkeys(metric_name(run.metric) for run in pairing.second.runs.values())
    return _pair_case(
        _AT_LEAST if in_distribution else _BETTER,
        pairing,
        [
            (one * quantities.PER_CENT, other * quantities.PER_CENT)
            for one, other in pairing.statistics(by_run)
        ],
        subject=f"{second} at least {first}, within {MARGIN:g} point"
        if in_distribution
        else f"{second} above {first}",
        unit="points",
        digits=1,
        task=data,
        lead=f"{next(iter(metrics), 'score')} ",
    )


def _at_least(outcome: Outcome, shifted: Outcome) -> Outcome:
    """The verdict on the difference, or with the margin if its interval contains 0.

    ``shifted`` is the outcome, on the same draws, of a difference larger by the margin.
    """
    judgement, effect = outcome.judgement, outcome.judgement.effect
    if effect.low is None or effect.high is None:
        return outcome
    if effect.high < 0 and judgement.verdict != "cannot tell":
        worse = f"worse, by less than {MARGIN:g} point" if effect.low > -MARGIN else "worse"
        judgement = replace(judgement, why=f"{judgement.why}: {worse}")
    elif (
        effect.high >= 0
        and judgement.verdict == "cannot tell"
        and shifted.judgement.verdict == "holds"
    ):
        why = (
            f"{judgement.why} and lies above {MINUS}{MARGIN:g}: at least as good within "
            f"{MARGIN:g} point"
        )
        judgement = replace(judgement, verdict="holds", why=why)
    return Outcome(outcome.case, judgement)


SCORE_TABLES = (8, 10, 16)


def _is_ood(dataset: str) -> bool:
    """Whether a set of the tables of scores is an OOD set of another one."""
    tasks = {task for table in SCORE_TABLES for task in published_datasets(table)} & TASKS.keys()
    return any(dataset in TASKS[task].ood for task in tasks)


CLAIM_6 = Claim(
    6,
    "LP-FT is at least as good as FT in distribution, and better out of distribution in most "
    "cases.",
    (_AT_LEAST, _BETTER),
    _score_outcomes,
    "Tables 8, 10 and 16",
    tuple(
        PublishedQuestion(text, SCORE_TABLES, ("lp-ft", "ft"), ("score",), agrees, on=on)
        for text, agrees, on in (
            ("LP-FT at least FT", ge, lambda dataset: not _is_ood(dataset)),
            ("LP-FT above FT out of distribution", gt, _is_ood),
        )
    ),
)

CLAIMS = (CLAIM_1, CLAIM_2, CLAIM_3, CLAIM_4, CLAIM_5, CLAIM_6, *theory.CLAIMS)
"""The claims by their number."""


def _spread_of(statistics: Iterable[Resampled]) -> Spread | None:
    """Mean and standard deviation over seeds."""
    return Spread.of(statistic.value for statistic in statistics)
