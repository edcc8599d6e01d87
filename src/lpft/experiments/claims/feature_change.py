"""Claim 1: features change less from the LP solution than from a random head."""

import numpy as np

from lpft.experiments.claims.cases import Case, Outcome, Part, judge_cases
from lpft.experiments.claims.published import PublishedCase, published_means, published_sentence
from lpft.experiments.recipe import Found
from lpft.paper import published_datasets
from lpft.report.honesty import summarise_feature_change
from lpft.report.numbers import with_sd
from lpft.report.reading import change_digits
from lpft.results.groups import method_name
from lpft.results.judging import Measured
from lpft.results.pairing import (
    PAIRS,
    Comparison,
    Match,
    Pairing,
    Rates,
    all_runs,
    pairings,
    pairs_in,
    spread_of,
)
from lpft.results.quantities import ByRun, feature_change, feature_split
from lpft.results.run import Run

STATEMENT = (
    "Features change less under LP-FT than under FT, and less under LP-LoRA than under LoRA."
)
PARTS = (Part("smaller feature change"),)
_TABLE = 12


def feature_change_outcomes(found: Found, generator: np.random.Generator) -> list[Outcome]:
    """``Diff(F)`` from a random head less that from the LP solution."""
    cases: list[Case] = []
    for task in found.scope.tasks:
        compared = _compared(found, task)
        runs = all_runs(compared)
        by_run = feature_change().on_draws(runs, feature_split(runs), generator)
        cases += [_case(pairing, by_run) for pairing in compared]
    return judge_cases(cases, generator=generator)


def published_feature_change() -> str:
    """On how many of the paper's sets the LP start moves features less."""
    cases = [
        PublishedCase(_question(*map(method_name, pair)), dataset, means[1] < means[0])
        for pair in PAIRS
        for dataset in published_datasets(_TABLE)
        if (means := published_means(_TABLE, dataset, pair, "feature_difference")) is not None
    ]
    return published_sentence(f"Table {_TABLE}", cases, every=True)


def feature_change_findings(found: Found) -> list[str]:
    """How far the LP start moves features beside a random head, and what part the rates have."""
    sentences = []
    for task in found.scope.tasks:
        for pair in pairs_in(found.scope.methods):
            matches = [_match(pairing) for pairing in pairings(found, task, pair) if pairing.seeds]
            own = next((match for match in matches if not match.shared), None)
            shared = tuple(match for match in matches if match.shared)
            if matches:
                comparison = Comparison(pair, own, "", shared)
                sentences.append(f"{task}: {' '.join(summarise_feature_change(comparison))}")
    return sentences


def _compared(found: Found, task: str) -> list[Pairing]:
    pairs = pairs_in(found.scope.methods)
    return [pairing for pair in pairs for pairing in pairings(found, task, pair)]


def _question(random: str, probed: str) -> str:
    return f"{probed} below {random}"


def _case(pairing: Pairing, by_run: ByRun) -> Case:
    changes = pairing.statistics(by_run)
    names = (pairing.first.name, pairing.second.name)
    digits = change_digits([change.value for pair in changes for change in pair])
    told = [
        f"{with_sd(spread_of(pair[place] for pair in changes), digits)} under {name}"
        for place, name in enumerate(names)
    ]
    return Case(
        part=PARTS[0],
        measured=Measured(
            task=pairing.task,
            subject=_question(*names),
            rates=pairing.rates,
            effects=tuple(random - probed for random, probed in changes),
            runs=pairing.run_names,
        ),
        unit="L2 distance",
        told=", ".join(told),
    )


def _match(pairing: Pairing) -> Match:
    first, second = (
        [side.runs[seed] for seed in pairing.seeds] for side in (pairing.first, pairing.second)
    )
    return Match(
        methods=(pairing.first.method, pairing.second.method),
        rates=(_rates(first[0]), _rates(second[0])),
        split=feature_split([*first, *second]),
        runs=tuple(zip(first, second, strict=True)),
    )


def _rates(run: Run) -> Rates:
    return Rates(run.learning_rate, run.batch_size)
