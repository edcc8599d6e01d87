"""Claim 4: one temperature lowers ECE, and lowers it most for LP-FT."""

from collections.abc import Sequence
from copy import deepcopy

import numpy as np

from lpft.experiments.claims.cases import Case, Outcome, Part, judge_cases
from lpft.experiments.claims.published import PublishedCase, published_means, published_sentence
from lpft.experiments.recipe import Found
from lpft.paper import published_datasets
from lpft.report.numbers import counted, with_sd
from lpft.results.groups import method_name
from lpft.results.judging import Measured
from lpft.results.pairing import (
    PAIRS,
    SHARED,
    Pairing,
    Side,
    at_own_rates,
    pairings,
    sides,
    spread_of,
)
from lpft.results.quantities import PER_CENT, ByRun, calibration_error, judged_split

STATEMENT = "Temperature scaling lowers ECE, and lowers it most for LP-FT."
LOWERS, MOST_OF_ALL = Part("lowers ECE"), Part("most for LP-FT")
PARTS = (LOWERS, MOST_OF_ALL)
UNIT = "points of ECE"
LIMIT = (
    "Claim 4 compares LP-FT with LoRA and LP-LoRA at each method's own rates alone: of the rates' "
    "part in these differences nothing is known."
)
REMARK = "LP-FT against LoRA and LP-LoRA at own rates alone"
_OWN_RATES_ALONE = "at each method's own rates alone, which may make the difference"
_BEST, _PARTNER = "lp-ft", "ft"
_METHODS = ("ft", "lp-ft", "lora", "lp-lora")
_TABLE = 3


def calibration_outcomes(found: Found, generator: np.random.Generator) -> list[Outcome]:
    """ECE without the run's temperature less ECE with it, and how much more LP-FT gains.

    The temperature is that of the run: its validation samples are not drawn anew.
    """
    lowers: list[Case] = []
    contrasts: list[Case] = []
    for task in found.scope.tasks:
        of_task = sides(found, task, found.scope.methods)
        by_run = _gains(of_task, generator)
        lowers += [_lowers(side, by_run, _also_at(side, of_task)) for side in of_task]
        contrasts += [_gains_more(pairing, by_run) for pairing in _against_best(found, task)]
    return judge_cases([*lowers, *contrasts], generator=generator)


def published_calibration() -> str:
    """On how many of the paper's sets ECE falls with the temperature, and falls most for LP-FT."""
    cases: list[PublishedCase] = []
    most: list[PublishedCase] = []
    for dataset in published_datasets(_TABLE):
        before = published_means(_TABLE, dataset, _METHODS, "ece")
        after = published_means(_TABLE, dataset, _METHODS, "calibrated_ece")
        if before is None or after is None:
            continue
        gains = {
            method: old - new for method, old, new in zip(_METHODS, before, after, strict=True)
        }
        cases += [
            PublishedCase(f"ECE falls under {method_name(method)}", dataset, gain > 0)
            for method, gain in gains.items()
        ]
        others = [gain for method, gain in gains.items() if method != _BEST]
        question = f"it falls most under {method_name(_BEST)}"
        most.append(PublishedCase(question, dataset, gains[_BEST] > max(others)))
    return published_sentence("Tables 3, 14 and 15", [*cases, *most], every=True)


def _also_at(side: Side, of_task: Sequence[Side]) -> tuple[str, ...]:
    """Shared rates are those of the LP start: its runs at its own rates stand for both."""
    partners = {random for random, probed in PAIRS if probed == side.method}
    shared = any(other.rates == SHARED and other.method in partners for other in of_task)
    return (SHARED,) if shared and side.rates != SHARED else ()


def _gains(of_task: tuple[Side, ...], generator: np.random.Generator) -> ByRun:
    """By how many points the temperature lowers each run's ECE, on the same draws."""
    runs = [run for side in of_task for run in side.runs.values()]
    split, same = judged_split(runs), deepcopy(generator)
    before = calibration_error(calibrated=False).on_draws(runs, split, generator)
    after = calibration_error(calibrated=True).on_draws(runs, split, same)
    return {folder: (before[folder] - after[folder]) * PER_CENT for folder in before}


def _against_best(found: Found, task: str) -> list[Pairing]:
    """Every other method with LP-FT at own rates, and FT at LP-FT's too."""
    methods = dict.fromkeys(side.method for side in sides(found, task, found.scope.methods))
    if _BEST not in methods:
        return []
    others = [method for method in methods if method not in (_PARTNER, _BEST)]
    return [
        *pairings(found, task, (_PARTNER, _BEST)),
        *(at_own_rates(found, task, (other, _BEST)) for other in others),
    ]


def _lowers(side: Side, by_run: ByRun, also_at: tuple[str, ...]) -> Case:
    gains = tuple(by_run[run.folder] for run in side.runs.values())
    unscaled = sum(run.temperature == 1 for run in side.runs.values())
    note = f"; the temperature is 1 in {counted(unscaled, 'run')}" if unscaled else ""
    return Case(
        part=LOWERS,
        measured=Measured(side.task, side.name, side.rates, gains, side.run_names),
        unit=UNIT,
        told=f"lower by {with_sd(spread_of(gains), 1)} points{note}",
        also_at=also_at,
    )


def _gains_more(pairing: Pairing, by_run: ByRun) -> Case:
    gains = pairing.statistics(by_run)
    names = (pairing.first.name, pairing.second.name)
    told = [
        f"by {with_sd(spread_of(pair[place] for pair in gains), 1)} under {name}"
        for place, name in enumerate(names)
    ]
    return Case(
        part=MOST_OF_ALL,
        measured=Measured(
            task=pairing.task,
            subject=f"{names[1]} more than {names[0]}",
            rates=pairing.rates,
            effects=tuple(best - other for other, best in gains),
            runs=pairing.run_names,
        ),
        unit=UNIT,
        told=f"lower {', '.join(told)}",
        remark="" if pairing.first.method == _PARTNER else _OWN_RATES_ALONE,
    )
