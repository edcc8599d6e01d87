"""A method with and without the LP start, on the same seeds and samples: a table of differences."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lpft.experiments.recipe import Found
from lpft.experiments.recipes.both_rates import NOTE_ON_RATES, possessive
from lpft.experiments.recipes.cells import Place
from lpft.report.numbers import joined
from lpft.results.exhibits import Column, Estimate, Table
from lpft.results.judging import RULE, Judgement, Measured, chance_note, judge
from lpft.results.pairing import SHARED, Pairing, all_runs, pairings, pairs_in
from lpft.results.quantities import DRAW_SEED, Quantity

_READINGS = {"holds": "higher", "does not hold": "lower", "cannot tell": "cannot tell"}

NOTE = (
    "Difference: mean over seeds of the method with the LP start minus the one with a "
    "random head, paired by seed and sample, with a 95 % interval of a bootstrap over both. "
    "Detectable: the smallest true difference that a paired t-test at 5 % finds with 80 % power "
    f"with so many seeds of this spread. {RULE}"
)


def contrast_table(
    found: Found, quantity: Quantity, *, name: str, where: Sequence[Place]
) -> tuple[Table | None, tuple[str, ...]]:
    """A row per data set, pair of methods and choice of rates; one sentence per pair and rates.

    None where no two methods of a pair have a seed in common.

    Raises:
        InputError: two runs were tested on different samples.
    """
    generator = np.random.default_rng(DRAW_SEED)
    measured = [one for place in where for one in _measured(found, quantity, place, generator)]
    judgements = judge(measured, generator=generator)
    if not judgements:
        return None, ()
    notes = [NOTE, *([NOTE_ON_RATES] if _has_both_rates(measured) else [])]
    compared = [one for one in measured if one.effects]
    notes += filter(None, [chance_note(len(compared))])
    rows = [
        (
            one.task,
            one.subject,
            one.rates,
            replace(judgement.effect, sd=None),
            _detectable(judgement),
            _READINGS[judgement.verdict],
        )
        for one, judgement in zip(measured, judgements, strict=True)
    ]
    table = Table(
        name=name,
        title=f"With and without the LP start: {quantity.name}",
        columns=(
            *(Column(heading, source="names") for heading in ("Data", "Pair", "Rates")),
            Column("Difference", digits=quantity.digits),
            Column("Detectable", digits=quantity.digits),
            Column("Reading"),
        ),
        rows=tuple(rows),
        note=" ".join(notes),
        headers=3,
    )
    return table, tuple(_sentences(quantity, measured, judgements))


def _measured(
    found: Found, quantity: Quantity, place: Place, generator: np.random.Generator
) -> list[Measured]:
    """Every pair of methods at every choice of rates, at one place."""
    compared = [
        pairing
        for pair in pairs_in(found.scope.methods)
        for pairing in pairings(found, place.task, pair)
        if pairing.seeds
    ]
    by_run = quantity.on_draws(all_runs(compared), place.split, generator)
    return [
        Measured(
            task=place.label,
            subject=f"{pairing.second.name} against {pairing.first.name}",
            rates=_rates(pairing),
            effects=tuple(
                (after - before) * quantity.factor for before, after in pairing.statistics(by_run)
            ),
            runs=pairing.run_names,
        )
        for pairing in compared
    ]


def _rates(pairing: Pairing) -> str:
    """``published``, ``own``, or whose rates are shared: ``shared (LP-FT's)``."""
    if pairing.rates != SHARED:
        return pairing.rates
    return f"{SHARED} ({possessive(pairing.second.method)})"


def _has_both_rates(measured: Sequence[Measured]) -> bool:
    """Whether some comparison is at shared rates and another one at rates that differ."""
    return len({one.rates.startswith(SHARED) for one in measured}) > 1


def _detectable(judgement: Judgement) -> Estimate | None:
    if judgement.detectable is None:
        return None
    effect = judgement.effect
    return Estimate(judgement.detectable, count=effect.count, runs=effect.runs)


def _sentences(
    quantity: Quantity, measured: Sequence[Measured], judgements: Sequence[Judgement]
) -> list[str]:
    """For each pair and choice of rates on which data sets what can be said."""
    told: dict[tuple[str, str], dict[str, list[str]]] = {}
    for one, judgement in zip(measured, judgements, strict=True):
        readings = told.setdefault((one.subject, one.rates), {})
        readings.setdefault(_READINGS[judgement.verdict], []).append(one.task)
    return [
        f"{quantity.name[0].upper()}{quantity.name[1:]}, {subject} at {rates} rates: "
        + "; ".join(f"{reading} on {joined(tasks)}" for reading, tasks in readings.items())
        + "."
        for (subject, rates), readings in told.items()
    ]
