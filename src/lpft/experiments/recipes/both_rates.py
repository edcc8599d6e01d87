"""Methods at each one's own rates and, where a pair's differ, at shared ones: plan and tables."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from lpft.experiments.planning import planned_runs
from lpft.experiments.recipe import Found, Plan, Scope
from lpft.experiments.recipes.cells import PRETRAINED, Measure, Place, beside_published
from lpft.report.numbers import joined
from lpft.results.exhibits import Table
from lpft.results.groups import method_name
from lpft.results.pairing import OWN, PAIRS, PUBLISHED, SHARED, Rates, pairs_in, published_rates
from lpft.results.run import Run
from lpft.settings import get_method

NOTE_ON_RATES = (
    "At each method's own rates a difference mixes the head's effect with that of learning rate "
    "and batch size; at shared ones the head alone differs. Shared rates are always those of the "
    "method with the LP start, which were chosen for it and not for the other: they favour it."
)


def plan_at_both_rates(scope: Scope) -> Plan:
    """Every method at its own rates, and those of a pair also at the LP start's.

    Where both are the same, so is the folder, and nothing more is trained.
    """
    paired = {method for pair in pairs_in(scope.methods) for method in pair}
    both = [method for method in scope.methods if method in paired]
    return Plan(runs=(*planned_runs(scope), *planned_runs(scope, rates=SHARED, methods=both)))


def at_other_rates(found: Found) -> Found:
    """The runs at shared rates of each task and pair whose own rates differ, and no others."""
    differing = {
        (task, method)
        for task in found.scope.tasks
        for pair in pairs_in(found.scope.methods)
        if any(_differ(found, task, method) for method in pair)
        for method in pair
    }
    return replace(
        found,
        runs={
            key: run
            for key, run in found.runs.items()
            if key[0] == SHARED and key[1:3] in differing
        },
    )


def shared_rates(methods: Collection[str]) -> str:
    """Whose rates some methods share: ``shared rates (LP-FT's and LP-LoRA's)``."""
    owners = [possessive(partner) for _, partner in PAIRS if partner in methods]
    return f"shared rates ({joined(owners)})"


def possessive(method: str) -> str:
    """``LP-FT's``."""
    return f"{method_name(method)}'s"


def at_both_rates(
    found: Found,
    where: Sequence[Place],
    *,
    name: str,
    title: str,
    methods: Sequence[str],
    measures: Sequence[Measure],
    table: int | None,
    note: str,
    of_published: str = "",
) -> list[Table]:
    """The paper's table, and the same at shared rates, without published numbers, if these differ.

    The arguments are those of :func:`~lpft.experiments.recipes.cells.beside_published`;
    ``of_published`` ends the note where published numbers stand.
    """
    others = at_other_rates(found)
    at_own = f"{title}, each method at its {_own(found)} rates" if others.runs else title
    tables = [
        beside_published(
            found,
            name=name,
            title=at_own,
            variant=PUBLISHED,
            where=where,
            methods=methods,
            measures=measures,
            table=table,
            note=f"{note} {of_published}".rstrip(),
        )
    ]
    if others.runs:
        shared = beside_published(
            others,
            name=f"{name}-shared",
            title=f"{title}, at {shared_rates(_methods(others))}",
            variant=SHARED,
            where=where,
            methods=[method for method in methods if method != PRETRAINED],
            measures=measures,
            table=None,
            note=f"{NOTE_ON_RATES} {note}",
        )
        tables.append(shared)
    return tables


def _differ(found: Found, task: str, method: str) -> bool:
    """Whether a method's runs at shared rates are not its usual ones."""
    own = _folders(found.seeds(PUBLISHED, task, method).values())
    return not _folders(found.seeds(SHARED, task, method).values()) <= own


def _folders(runs: Iterable[Run]) -> set[str]:
    return {run.name for run in runs}


def _methods(found: Found) -> set[str]:
    return {method for _, _, method, _ in found.runs}


def _own(found: Found) -> str:
    """What each method's own rates are: the published ones, or others."""
    published = all(
        Rates(run.learning_rate, run.batch_size) == published_rates(task, method)
        for (variant, task, method, _), run in found.runs.items()
        if variant == PUBLISHED and get_method(method).fine_tunes
    )
    return PUBLISHED if published else OWN
